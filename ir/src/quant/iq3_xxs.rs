//! IQ3_XXS: 256 elements in groups of 32. Each four elements have an index into 256 points; each group has a word of four
//! times seven sign bits (the eighth makes their number even) and a 4-bit scale on top.
use super::{
    DotForm, Field, QuantFormat, Scale, Unpack, Unpacked,
    grid::{element, even, odd_scale, points, signed, unpack_even},
};

/// IQ3_XXS.
pub static FORMAT: QuantFormat = QuantFormat {
    id: 18,
    name: "iq3_xxs",
    block: 256,
    bytes: 98,
    multiple: 256,
    fields: &[
        Field { name: "d", offset: 0, bytes: 2, unit: 2 },
        Field { name: "qs", offset: 2, bytes: 64, unit: 4 },
        Field { name: "signs", offset: 66, bytes: 32, unit: 4 },
    ],
    stripes: &[],
    dot: DotForm::Grid { bits: 8, vector: 4, group: 32, scale: Scale::Top4 },
    decode: |b, out| {
        let d = super::half(b, 0);
        for (e, o) in out.iter_mut().enumerate() {
            let word = &b[66 + e / 32 * 4..][..4];
            let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            let scale = d * (0.5 + (word >> 28) as f32) * 0.5;
            let signs = even(word >> (e % 32 / 8 * 7) & 127);
            *o = signed(scale * element(&POINTS, usize::from(b[2 + e / 4]) * 4 + e % 4), signs, e % 8);
        }
    },
    unpack: Some(unpack),
    set_scale: Some(|b, scale| super::put_half(b, 0, scale)),
};

fn unpack(u: &mut dyn Unpack, e: u32) -> Unpacked {
    let points = [0, 1, 2, 3].map(|i| u.byte(1, e / 4 + i));
    let codes = u.points(&POINTS, points);
    let word = u.word(2, e / 32 * 4);
    let signs = [0, 1].map(|i| {
        let seven = u.bits(word, (e % 32 / 8 + i) * 7, 7);
        unpack_even(u, seven)
    });
    let signs = u.masks(signs);
    let (d, s) = (u.half(0, 0), u.ishr(word, 28));
    Unpacked { codes: u.negate(codes, signs), shift: 0, scale: odd_scale(u, d, s, 0.25), plus: None }
}

/// `iq3xxs_grid` in ggml-common.h (MIT licence).
pub(super) static POINTS: [u32; 256] = points(HEX, &[0x04, 0x0c, 0x14, 0x1c, 0x24, 0x2c, 0x34, 0x3e]);

const HEX: &str = "\
    0000020004001100130017002000220031004200730075000101030110011201210125013001320141015401700100020202\
    0402110220022202310233023702510257027502010307031003120325037003130437044404570473047504010507053205\
    5205350664061007140716074307610701100310101012102110231030103210341047105010001102111111201122110112\
    0312101212122112301272120013021320133113461366130114051450142015241546157115051622174017002002201120\
    1320202022202620312042200121032105211021122121213021632167217021002202221122172220222222372240225522\
    0123102314237023742335245324032527254125742501270327162745270130103012302130233050306530723000310231\
    2031313144314631013203321032253252327232113333333034473472340035063522355535143636366336333760370440\
    1740354037405340574074412042374240426042664207434543044451446444254543457045054710471247304712504150\
    7050005106512651555114523252725202535353105423542754725402553155505624574257246044604660646021616161\
    1762646230633663446405655265336603672167037005700770107032705270267140711272457252720073157333736073\
    217441740075027524753076";
