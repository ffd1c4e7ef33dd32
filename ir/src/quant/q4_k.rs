//! Q4_K: 256 codes of 4 bits in 8 groups with 6-bit scales and mins; groups 2i and 2i + 1 are the low and the high
//! nibbles of the 32 bytes from 32 i.
use super::{DotForm, Field, QuantFormat, Scale, Unpack, Unpacked};

/// Q4_K.
pub static FORMAT: QuantFormat = QuantFormat {
    id: 12,
    name: "q4_k",
    block: 256,
    bytes: 144,
    multiple: 256,
    fields: &[
        Field { name: "d", offset: 0, bytes: 2, unit: 2 },
        Field { name: "dmin", offset: 2, bytes: 2, unit: 2 },
        Field { name: "scales", offset: 4, bytes: 12, unit: 1 },
        Field { name: "qs", offset: 16, bytes: 128, unit: 4 },
    ],
    stripes: &[],
    dot: DotForm::Int { bits: 4, offset: 0, group: 32, scale: Scale::Super6Min },
    decode: |b, out| {
        let (d, dmin) = (super::half(b, 0), super::half(b, 2));
        for (e, o) in out.iter_mut().enumerate() {
            let (scale, min) = super::super6min(&b[4..16], e / 32);
            let code = b[16 + e / 64 * 32 + e % 32] >> (e / 32 % 2 * 4) & 15;
            *o = d * f32::from(scale) * f32::from(code) - dmin * f32::from(min);
        }
    },
    unpack: Some(unpack),
    set_scale: Some(|b, scale| {
        super::put_half(b, 0, scale);
        super::put_half(b, 2, scale * 7.5);
    }),
};

fn unpack(u: &mut dyn Unpack, e: u32) -> Unpacked {
    let qs = u.words(3, e / 64 * 32 + e % 32);
    let (codes, shift) = u.part(qs, e / 32 % 2 * 4, 4);
    let (scale, plus) = super::unpack_super6min(u, e / 32);
    Unpacked { codes, shift, scale, plus: Some(plus) }
}
