//! Q2_K: 256 codes of 2 bits in 16 groups with 4-bit scales and mins. In each half of 128, element e has its code in byte
//! e % 32 at bit 2 (e / 32).
use super::{DotForm, Field, QuantFormat, Scale, Scaling, Unpack, Unpacked};

/// Q2_K.
pub static FORMAT: QuantFormat = QuantFormat {
    id: 10,
    name: "q2_k",
    block: 256,
    bytes: 84,
    multiple: 256,
    fields: &[
        Field { name: "scales", offset: 0, bytes: 16, unit: 1 },
        Field { name: "qs", offset: 16, bytes: 64, unit: 4 },
        Field { name: "d", offset: 80, bytes: 2, unit: 2 },
        Field { name: "dmin", offset: 82, bytes: 2, unit: 2 },
    ],
    stripes: &[],
    dot: DotForm::Int { bits: 2, offset: 0, group: 16, scale: Scale::Super4Min },
    decode: |b, out| {
        let (d, dmin) = (super::half(b, 80), super::half(b, 82));
        for (e, o) in out.iter_mut().enumerate() {
            let scales = b[e / 16];
            let code = b[16 + e / 128 * 32 + e % 32] >> (e % 128 / 32 * 2) & 3;
            *o = d * f32::from(scales & 15) * f32::from(code) - dmin * f32::from(scales >> 4);
        }
    },
    unpack: Some(unpack),
    set_scale: Some(|b, scale| {
        super::put_half(b, 80, scale);
        super::put_half(b, 82, scale * 1.5);
    }),
};

fn unpack(u: &mut dyn Unpack, e: u32) -> Unpacked {
    let qs = u.words(1, e / 128 * 32 + e % 32);
    let (codes, shift) = u.part(qs, e % 128 / 32 * 2, 2);
    let scales = u.quad(0, e / 64 * 4);
    let [scale, min] = [0, 4].map(|from| {
        let four = u.move_bits(scales, from, 4, 0);
        Some(u.pick(four, e / 16 % 4, false))
    });
    let (d, dmin) = (u.half(2, 0), u.half(3, 0));
    let plus = Scaling { factor: u.fscale(dmin, -1.0), times: min };
    Unpacked { codes, shift, scale: Scaling { factor: d, times: scale }, plus: Some(plus) }
}
