//! Q5_1: as Q4_1 with a fifth bit for each code: bit j of `qh` belongs to element j.
use super::{DotForm, Field, QuantFormat, Scale, Unpack, Unpacked};

/// Q5_1.
pub static FORMAT: QuantFormat = QuantFormat {
    id: 7,
    name: "q5_1",
    block: 32,
    bytes: 24,
    multiple: 32,
    fields: &[
        Field { name: "d", offset: 0, bytes: 2, unit: 2 },
        Field { name: "m", offset: 2, bytes: 2, unit: 2 },
        Field { name: "qh", offset: 4, bytes: 4, unit: 4 },
        Field { name: "qs", offset: 8, bytes: 16, unit: 4 },
    ],
    stripes: &[],
    dot: DotForm::Int { bits: 5, offset: 0, group: 32, scale: Scale::HalfMin },
    decode: |b, out| {
        let (d, m) = (super::half(b, 0), super::half(b, 2));
        let high = u32::from_le_bytes([b[4], b[5], b[6], b[7]]);
        for (e, o) in out.iter_mut().enumerate() {
            let low = b[8 + e % 16] >> (e / 16 * 4) & 15;
            *o = d * f32::from(low | ((high >> e & 1) as u8) << 4) + m;
        }
    },
    unpack: Some(unpack),
    set_scale: Some(|b, scale| {
        super::put_half(b, 0, scale);
        super::put_half(b, 2, scale * -15.5);
    }),
};

fn unpack(u: &mut dyn Unpack, e: u32) -> Unpacked {
    let qs = u.words(3, 0);
    let low = u.shr(qs, e / 16 * 4);
    let low = u.and(low, 0x0f0f_0f0f);
    let qh = u.word(2, 0);
    let high = u.ishr(qh, e);
    let high = u.spread(high, 4);
    Unpacked { codes: u.or(low, high), shift: 0, scale: u.half(0, 0).into(), plus: Some(u.half(1, 0).into()) }
}
