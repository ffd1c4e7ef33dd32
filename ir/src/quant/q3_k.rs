//! Q3_K: 256 codes of 3 bits in 16 groups with 6-bit scales (offset 32). In each half of 128, element e has its two low
//! bits in byte e % 32 of `qs` at bit 2 (e / 32); the third bit is bit e / 32 (counted over the whole block) of byte e % 32
//! of `hmask`.
use super::{DotForm, Field, QuantFormat, Scale, Scaling, Stripe, Unpack, Unpacked};

/// Q3_K.
pub static FORMAT: QuantFormat = QuantFormat {
    id: 11,
    name: "q3_k",
    block: 256,
    bytes: 110,
    multiple: 256,
    fields: &[
        Field { name: "hmask", offset: 0, bytes: 32, unit: 4 },
        Field { name: "qs", offset: 32, bytes: 64, unit: 4 },
        Field { name: "scales", offset: 96, bytes: 12, unit: 1 },
        Field { name: "d", offset: 108, bytes: 2, unit: 2 },
    ],
    stripes: &[
        Stripe { bytes: 2, from: &[108] },
        Stripe { bytes: 12, from: &[96] },
        Stripe { bytes: 32, from: &[0, 32, 64] },
    ],
    dot: DotForm::Int { bits: 3, offset: 4, group: 16, scale: Scale::Super6 },
    decode: |b, out| {
        let d = super::half(b, 108);
        let s = &b[96..108];
        for (e, o) in out.iter_mut().enumerate() {
            let g = e / 16;
            let low = s[g % 8] >> (g / 8 * 4) & 15;
            let high = s[8 + g % 4] >> (g / 4 * 2) & 3;
            let scale = f32::from(low | high << 4) - 32.0;
            let code = b[32 + e / 128 * 32 + e % 32] >> (e % 128 / 32 * 2) & 3;
            let bit = b[e % 32] >> (e / 32) & 1;
            *o = d * scale * (f32::from(code | bit << 2) - 4.0);
        }
    },
    unpack: Some(unpack),
    set_scale: Some(|b, scale| super::put_half(b, 108, scale)),
};

fn unpack(u: &mut dyn Unpack, e: u32) -> Unpacked {
    let qs = u.words(1, e / 128 * 32 + e % 32);
    // The last two bits of a byte leave no place for a third above them.
    let from = e % 128 / 32 * 2;
    let (low, shift) = if from < 6 {
        u.part(qs, from, 2)
    } else {
        let qs = u.shr(qs, 2);
        u.part(qs, from - 2, 2)
    };
    let hmask = u.words(0, e % 32);
    let to = 2 + u32::from(shift);
    let high = u.take(hmask, e / 32, to, 0x0101_0101 << to);
    let codes = u.or(low, high);

    // A scale less 32, times 4, is a signed byte: the top bit of its six is flipped.
    let g = e / 16;
    let low = u.quad(2, g / 4 % 2 * 4);
    let low = u.move_bits(low, g / 8 * 4, 4, 2);
    let high = u.quad(2, 8);
    let high = u.move_bits(high, g / 4 * 2, 2, 6);
    let scales = u.merge(low, high);
    let scales = u.flip(scales, 0x80);
    let times = Some(u.pick(scales, g % 4, true));
    let d = u.half(3, 0);
    Unpacked { codes, shift, scale: Scaling { factor: u.fscale(d, 0.25), times }, plus: None }
}
