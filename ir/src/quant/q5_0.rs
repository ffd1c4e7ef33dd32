//! Q5_0: as Q4_0 with a fifth bit for each code: bit j of `qh` belongs to element j.
use super::{DotForm, Field, QuantFormat, Scale, Unpack, Unpacked};

/// Q5_0.
pub static FORMAT: QuantFormat = QuantFormat {
    id: 6,
    name: "q5_0",
    block: 32,
    bytes: 22,
    multiple: 32,
    fields: &[
        Field { name: "d", offset: 0, bytes: 2, unit: 2 },
        Field { name: "qh", offset: 2, bytes: 4, unit: 4 },
        Field { name: "qs", offset: 6, bytes: 16, unit: 4 },
    ],
    stripes: &[],
    dot: DotForm::Int { bits: 5, offset: 16, group: 32, scale: Scale::Half },
    decode: |b, out| {
        let d = super::half(b, 0);
        let high = u32::from_le_bytes([b[2], b[3], b[4], b[5]]);
        for (e, o) in out.iter_mut().enumerate() {
            let low = b[6 + e % 16] >> (e / 16 * 4) & 15;
            *o = d * (f32::from(low | ((high >> e & 1) as u8) << 4) - 16.0);
        }
    },
    unpack: Some(unpack),
    set_scale: Some(|b, scale| super::put_half(b, 0, scale)),
};

fn unpack(u: &mut dyn Unpack, e: u32) -> Unpacked {
    let qs = u.words(2, 0);
    let low = u.shr(qs, e / 16 * 4);
    let low = u.and(low, 0x0f0f_0f0f);
    let qh = u.word(1, 0);
    let high = u.ishr(qh, e);
    let high = u.spread(high, 4);
    Unpacked { codes: u.or(low, high), shift: 0, scale: u.half(0, 0).into(), plus: None }
}
