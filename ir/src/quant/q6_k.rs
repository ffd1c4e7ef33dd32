//! Q6_K: 256 codes of 6 bits in 16 groups with signed 8-bit scales. In each half of 128, element e has its low nibble in
//! byte e % 64 (high half of the byte from e = 64) and its two high bits in byte e % 32 of `qh` at bit 2 (e / 32).
use super::{DotForm, Field, QuantFormat, Scale, Scaling, Stripe, Unpack, Unpacked};

/// Q6_K.
pub static FORMAT: QuantFormat = QuantFormat {
    id: 14,
    name: "q6_k",
    block: 256,
    bytes: 210,
    multiple: 256,
    fields: &[
        Field { name: "ql", offset: 0, bytes: 128, unit: 4 },
        Field { name: "qh", offset: 128, bytes: 64, unit: 4 },
        Field { name: "scales", offset: 192, bytes: 16, unit: 1 },
        Field { name: "d", offset: 208, bytes: 2, unit: 2 },
    ],
    stripes: &[
        Stripe { bytes: 2, from: &[208] },
        Stripe { bytes: 16, from: &[192] },
        Stripe { bytes: 32, from: &[0, 32, 128] },
        Stripe { bytes: 32, from: &[64, 96, 160] },
    ],
    dot: DotForm::Int { bits: 6, offset: 32, group: 16, scale: Scale::Super8 },
    decode: |b, out| {
        let d = super::half(b, 208);
        for (i, o) in out.iter_mut().enumerate() {
            let (half, e) = (i / 128, i % 128);
            let low = b[half * 64 + e % 64] >> (e / 64 * 4) & 15;
            let high = b[128 + half * 32 + e % 32] >> (e / 32 * 2) & 3;
            let scale = b[192 + i / 16] as i8;
            *o = d * f32::from(scale) * (f32::from(low | high << 4) - 32.0);
        }
    },
    unpack: Some(unpack),
    set_scale: Some(|b, scale| super::put_half(b, 208, scale)),
};

fn unpack(u: &mut dyn Unpack, e: u32) -> Unpacked {
    let (half, quarter) = (e / 128, e % 128 / 32);
    let ql = u.words(0, half * 64 + e % 64);
    let low = u.shr(ql, quarter / 2 * 4);
    // The bits of every other quarter, of which a blend takes one.
    let qh = u.words(1, half * 32 + e % 32);
    let high = u.and(qh, 0x3333_3333 << (quarter % 2 * 2));
    let high = if quarter < 2 { u.shl(high, 4 - quarter * 2) } else { u.shr(high, quarter * 2 - 4) };
    let codes = u.blend(high, low, 0xf0f0_f0f0);
    let scales = u.quad(2, e / 64 * 4);
    let times = Some(u.pick(scales, e / 16 % 4, true));
    Unpacked { codes, shift: 0, scale: Scaling { factor: u.half(3, 0), times }, plus: None }
}
