//! MXFP4: 32 floats of 4 bits (E2M1) with one power of two, 2^(x - 127), x a byte (E8M0); element j is the low nibble of
//! byte j, element j + 16 the high one. Source: OCP Microscaling Formats 1.0.
use super::{DotForm, Field, QuantFormat, Unpack, Unpacked};

/// MXFP4.
pub static FORMAT: QuantFormat = QuantFormat {
    id: 39,
    name: "mxfp4",
    block: 32,
    bytes: 17,
    multiple: 32,
    fields: &[Field { name: "e", offset: 0, bytes: 1, unit: 1 }, Field { name: "qs", offset: 1, bytes: 16, unit: 4 }],
    stripes: &[],
    dot: DotForm::BlockScaled { bits: 4, group: 32 },
    decode: |b, out| {
        // 2^(x - 128), for values in halves; below 2^-126 it is a subnormal number.
        let x = u32::from(b[0]);
        let d = f32::from_bits(if x < 2 { 0x0020_0000 << x } else { (x - 1) << 23 });
        for (e, o) in out.iter_mut().enumerate() {
            *o = d * f32::from(HALVES[usize::from(b[1 + e % 16] >> (e / 16 * 4) & 15)]);
        }
    },
    unpack: Some(unpack),
    set_scale: Some(|b, scale| b[0] = (scale.abs().log2().round() + 128.0).clamp(0.0, 254.0) as u8),
};

fn unpack(u: &mut dyn Unpack, e: u32) -> Unpacked {
    let qs = u.words(1, 0);
    let codes = u.look_up(qs, e / 16, &HALVES);
    // 2^(x - 128) as 2^(x / 2 - 64) 2^((x + 1) / 2 - 64): neither factor leaves the normal numbers.
    let x = u.byte(0, 0);
    let [a, b] = [0, 1].map(|up| {
        let half = u.iadd(x, up);
        let half = u.ishr(half, 1);
        let exponent = u.iadd(half, 63);
        let bf16 = u.ishl(exponent, 7);
        u.bf16_to_f32(bf16)
    });
    Unpacked { codes, shift: 0, scale: u.fmul(a, b).into(), plus: None }
}

/// The values of E2M1, in halves.
pub const HALVES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
