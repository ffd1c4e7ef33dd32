//! IQ2_XXS: 256 elements in groups of 32 with 8 bytes each: four indices into 256 points of eight elements, then a word of
//! four times seven sign bits (the eighth makes their number even) and a 4-bit scale on top.
use super::{
    DotForm, Field, QuantFormat, Scale, Unpack, Unpacked,
    grid::{element, even, odd_scale, points, signed, two_points, unpack_even},
};

/// IQ2_XXS.
pub static FORMAT: QuantFormat = QuantFormat {
    id: 16,
    name: "iq2_xxs",
    block: 256,
    bytes: 66,
    multiple: 256,
    fields: &[Field { name: "d", offset: 0, bytes: 2, unit: 2 }, Field { name: "qs", offset: 2, bytes: 64, unit: 4 }],
    stripes: &[],
    dot: DotForm::Grid { bits: 8, vector: 8, group: 32, scale: Scale::Top4 },
    decode: |b, out| {
        let d = super::half(b, 0);
        for (e, o) in out.iter_mut().enumerate() {
            let group = &b[2 + e / 32 * 8..][..8];
            let word = u32::from_le_bytes([group[4], group[5], group[6], group[7]]);
            let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
            let point = usize::from(group[e % 32 / 8]);
            let signs = even(word >> (e % 32 / 8 * 7) & 127);
            *o = signed(scale * element(&POINTS, point * 8 + e % 8), signs, e % 8);
        }
    },
    unpack: Some(unpack),
    set_scale: Some(|b, scale| super::put_half(b, 0, scale)),
};

fn unpack(u: &mut dyn Unpack, e: u32) -> Unpacked {
    let (group, l) = (e / 32 * 8, e % 32 / 8);
    let points = [l, l + 1].map(|l| u.byte(1, group + l));
    let codes = two_points(u, &POINTS, points);
    let word = u.word(1, group + 4);
    let signs = [l, l + 1].map(|l| {
        let seven = u.bits(word, l * 7, 7);
        unpack_even(u, seven)
    });
    let signs = u.masks(signs);
    let (d, s) = (u.half(0, 0), u.ishr(word, 28));
    Unpacked { codes: u.negate(codes, signs), shift: 0, scale: odd_scale(u, d, s, 0.125), plus: None }
}

/// `iq2xxs_grid` in ggml-common.h (MIT licence).
pub(super) static POINTS: [u32; 512] = points(HEX, &[0x08, 0x19, 0x2b]);

const HEX: &str = "\
    00000200050008000a00110014002000220028002a00410044005000580061006400800082008a00a2000101040110011501\
    4001840198010002020222028202010404041004210424044004420448046004810484049004a40400050205080520054605\
    6905800591050906100640068406a406000805080808140828084108440850085208880804094009020a140a011004101010\
    21104010601084109010951000110811201150115a1180112412451200140814201425144914801418156215001616160118\
    041810184018811800190519a019511a002002200a2044206120802082202921482100220222012404241024402456240025\
    412564259026082820289428442a014004401040184021402440404048405640604081408440904000412041614180418541\
    0142104248425642684200440844204480449944124524450046014804481048404845480049584961498249454a904a0050\
    08501150195020508050885004514251a4519152905492540a550156545600581158195864584059085a0460106040606860\
    0061556118626062006405641065126584654268008002800a80418082800481188140811182018404841084158440846084\
    00854685948509864086608602880489118a0490109024904090a19016918091459200942294449451958198209902a050a0\
    85a009a100a218a450a804a9";
