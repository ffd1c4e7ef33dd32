//! IQ1_S: 256 elements in groups of 32. Each eight elements have an 11-bit index into the ternary points; each group has
//! 16 bits of `qh`: the three high bits of four indices, a 3-bit scale, and whether its elements are less or more by an
//! eighth.
use super::{
    DotForm, Field, QuantFormat, Scale, Scaling, Unpack, Unpacked,
    grid::{TERNARY, index, odd_scale, ternary, two_points},
};

/// IQ1_S.
pub static FORMAT: QuantFormat = QuantFormat {
    id: 19,
    name: "iq1_s",
    block: 256,
    bytes: 50,
    multiple: 256,
    fields: &[
        Field { name: "d", offset: 0, bytes: 2, unit: 2 },
        Field { name: "qs", offset: 2, bytes: 32, unit: 4 },
        Field { name: "qh", offset: 34, bytes: 16, unit: 2 },
    ],
    stripes: &[],
    dot: DotForm::Grid { bits: 11, vector: 8, group: 32, scale: Scale::Short3 },
    decode: |b, out| {
        let d = super::half(b, 0);
        for (e, o) in out.iter_mut().enumerate() {
            let qh = u16::from_le_bytes([b[34 + e / 32 * 2], b[35 + e / 32 * 2]]);
            let scale = d * f32::from(2 * (qh >> 12 & 7) + 1);
            let high = usize::from(qh >> (e / 8 % 4 * 3) & 7);
            *o = scale * ternary(usize::from(b[2 + e / 8]) | high << 8, e % 8, qh >> 15 == 1);
        }
    },
    unpack: Some(unpack),
    set_scale: Some(|b, scale| super::put_half(b, 0, scale)),
};

fn unpack(u: &mut dyn Unpack, e: u32) -> Unpacked {
    let qh = u.short(2, e / 32 * 2);
    let points = [e / 8, e / 8 + 1].map(|i| {
        let low = u.byte(1, i);
        index(u, low, (qh, i % 4 * 3, 3))
    });
    let codes = two_points(u, &TERNARY, points);
    // Codes and what is added to them are eighths.
    let (d, s) = (u.half(0, 0), u.bits(qh, 12, 3));
    let scale = odd_scale(u, d, s, 0.125);
    let less = u.ishr(qh, 15);
    let plus = scale.times.map(|times| {
        // Its negative where the bit is set: all bits flipped, and one more.
        let flips = u.imul(less, u32::MAX);
        let flipped = u.ixor(times, flips);
        u.isum(flipped, less)
    });
    Unpacked { codes, shift: 0, scale, plus: Some(Scaling { factor: scale.factor, times: plus }) }
}
