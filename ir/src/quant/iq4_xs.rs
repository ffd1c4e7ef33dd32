//! IQ4_XS: 256 indices of 4 bits into [`super::LUT4`] in 8 groups with 6-bit scales (offset 32); in a group element j is
//! the low nibble of byte j, element j + 16 the high one.
use super::{DotForm, Field, LUT4, QuantFormat, Scale, Scaling, Unpack, Unpacked};

/// IQ4_XS.
pub static FORMAT: QuantFormat = QuantFormat {
    id: 23,
    name: "iq4_xs",
    block: 256,
    bytes: 136,
    multiple: 256,
    fields: &[
        Field { name: "d", offset: 0, bytes: 2, unit: 2 },
        Field { name: "scales_h", offset: 2, bytes: 2, unit: 2 },
        Field { name: "scales_l", offset: 4, bytes: 4, unit: 1 },
        Field { name: "qs", offset: 8, bytes: 128, unit: 4 },
    ],
    stripes: &[],
    dot: DotForm::Codebook { bits: 4, group: 32, scale: Scale::Split6 },
    decode: |b, out| {
        let d = super::half(b, 0);
        let high = u16::from_le_bytes([b[2], b[3]]);
        for (e, o) in out.iter_mut().enumerate() {
            let g = e / 32;
            let low = b[4 + g / 2] >> (g % 2 * 4) & 15;
            let scale = f32::from(low | ((high >> (2 * g) & 3) as u8) << 4) - 32.0;
            let code = b[8 + g * 16 + e % 16] >> (e % 32 / 16 * 4) & 15;
            *o = d * scale * f32::from(LUT4[usize::from(code)]);
        }
    },
    unpack: Some(unpack),
    set_scale: Some(|b, scale| super::put_half(b, 0, scale)),
};

fn unpack(u: &mut dyn Unpack, e: u32) -> Unpacked {
    let g = e / 32;
    let qs = u.words(3, g * 16);
    let codes = u.look_up(qs, e % 32 / 16, &LUT4);

    // A scale less 32, times 4, is a signed byte: the top bit of its six is flipped. Even groups, then odd ones.
    let low = u.quad(2, 0);
    let low = u.move_bits(low, g % 2 * 4, 4, 2);
    let high = u.short(1, 0);
    let high = u.nibbles(high);
    let high = u.move_bits(high, g % 2 * 2, 2, 6);
    let scales = u.merge(low, high);
    let scales = u.flip(scales, 0x80);
    let times = Some(u.pick(scales, g / 2, true));
    let d = u.half(0, 0);
    let scale = Scaling { factor: u.fscale(d, 0.25), times };
    Unpacked { codes, shift: 0, scale, plus: None }
}
