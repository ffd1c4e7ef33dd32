//! Q5_K: as Q4_K with a fifth bit for each code: bit g of byte j of `qh` belongs to element j of group g.
use super::{DotForm, Field, QuantFormat, Scale, Stripe, Unpack, Unpacked};

/// Q5_K.
pub static FORMAT: QuantFormat = QuantFormat {
    id: 13,
    name: "q5_k",
    block: 256,
    bytes: 176,
    multiple: 256,
    fields: &[
        Field { name: "d", offset: 0, bytes: 2, unit: 2 },
        Field { name: "dmin", offset: 2, bytes: 2, unit: 2 },
        Field { name: "scales", offset: 4, bytes: 12, unit: 1 },
        Field { name: "qh", offset: 16, bytes: 32, unit: 4 },
        Field { name: "qs", offset: 48, bytes: 128, unit: 4 },
    ],
    stripes: &[
        Stripe { bytes: 16, from: &[0] },
        Stripe { bytes: 32, from: &[16, 48] },
        Stripe { bytes: 96, from: &[80] },
    ],
    dot: DotForm::Int { bits: 5, offset: 0, group: 32, scale: Scale::Super6Min },
    decode: |b, out| {
        let (d, dmin) = (super::half(b, 0), super::half(b, 2));
        for (e, o) in out.iter_mut().enumerate() {
            let (scale, min) = super::super6min(&b[4..16], e / 32);
            let low = b[48 + e / 64 * 32 + e % 32] >> (e / 32 % 2 * 4) & 15;
            let high = b[16 + e % 32] >> (e / 32) & 1;
            *o = d * f32::from(scale) * f32::from(low | high << 4) - dmin * f32::from(min);
        }
    },
    unpack: Some(unpack),
    set_scale: Some(|b, scale| {
        super::put_half(b, 0, scale);
        super::put_half(b, 2, scale * 15.5);
    }),
};

fn unpack(u: &mut dyn Unpack, e: u32) -> Unpacked {
    let group = e / 32;
    let qs = u.words(4, e / 64 * 32 + e % 32);
    let low = u.shr(qs, group % 2 * 4);
    // Two bits of each byte at first, for two groups.
    let qh = u.words(3, e % 32);
    let high = u.and(qh, 0x1111_1111 << (group % 4));
    let high = if group < 4 { u.shl(high, 4 - group) } else { u.shr(high, group - 4) };
    let (scale, plus) = super::unpack_super6min(u, group);
    Unpacked { codes: u.blend(low, high, 0x0f0f_0f0f), shift: 0, scale, plus: Some(plus) }
}
