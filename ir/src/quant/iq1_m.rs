//! IQ1_M: 256 elements in 16 groups. Each eight elements have an 11-bit index into the ternary points, its three high bits
//! in a nibble of `qh` under the bit that says whether they are less or more by an eighth. Four 16-bit words each hold
//! 3-bit scales of four groups and, on top, a quarter of the f16 scale.
use super::{
    DotForm, Field, QuantFormat, Scale, Unpack, Unpacked,
    grid::{index, odd_scale, ternary, unpack_ternary},
};

/// IQ1_M.
pub static FORMAT: QuantFormat = QuantFormat {
    id: 29,
    name: "iq1_m",
    block: 256,
    bytes: 56,
    multiple: 256,
    fields: &[
        Field { name: "qs", offset: 0, bytes: 32, unit: 4 },
        Field { name: "qh", offset: 32, bytes: 16, unit: 1 },
        Field { name: "scales", offset: 48, bytes: 8, unit: 2 },
    ],
    stripes: &[],
    dot: DotForm::Grid { bits: 11, vector: 8, group: 16, scale: Scale::Scattered3 },
    decode: |b, out| {
        let words: [u16; 4] = std::array::from_fn(|i| u16::from_le_bytes([b[48 + 2 * i], b[49 + 2 * i]]));
        let bits = words.iter().rev().fold(0, |bits, w| bits << 4 | w >> 12);
        let d = half::f16::from_bits(bits).to_f32();
        for (e, o) in out.iter_mut().enumerate() {
            let scale = d * f32::from(2 * (words[e / 64] >> (e / 16 % 4 * 3) & 7) + 1);
            let high = b[32 + e / 16] >> (e / 8 % 2 * 4);
            let point = usize::from(b[e / 8]) | usize::from(high & 7) << 8;
            *o = scale * ternary(point, e % 8, high & 8 != 0);
        }
    },
    unpack: Some(unpack),
    set_scale: Some(|b, scale| {
        let bits = half::f16::from_f32(scale).to_bits();
        for i in 0..4 {
            let top = &mut b[49 + 2 * i];
            *top = *top & 15 | ((bits >> (4 * i) & 15) as u8) << 4;
        }
    }),
};

fn unpack(u: &mut dyn Unpack, e: u32) -> Unpacked {
    let qh = u.byte(1, e / 16);
    let points = [0, 1].map(|i| {
        let low = u.byte(0, e / 8 + i);
        index(u, low, (qh, i * 4, 3))
    });
    let less = [3, 7].map(|from| u.bits(qh, from, 1));
    let codes = unpack_ternary(u, points, less);

    let mut bits = u.int(0);
    for i in 0..4 {
        let word = u.short(2, i * 2);
        let top = u.ishr(word, 12);
        let top = u.ishl(top, i * 4);
        bits = u.ior(bits, top);
    }
    let d = u.half_to_f32(bits);
    let s = u.short(2, e / 64 * 2);
    let s = u.bits(s, e / 16 % 4 * 3, 3);
    Unpacked { codes, shift: 0, scale: odd_scale(u, d, s, 0.125), plus: None }
}
