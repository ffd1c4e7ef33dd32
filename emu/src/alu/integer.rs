//! Integer arithmetic, bits and bytes.

use super::{MapFn, map};
use crate::types::Ty;

/// `a / b` and `a % b`; division by zero gives ones, as the hardware does.
macro_rules! divide {
    ($t:ty) => {
        map!($t, |a, b| if b == 0 { !0 } else { a.wrapping_div(b) })
    };
}
macro_rules! remainder {
    ($t:ty) => {
        map!($t, |a, b| if b == 0 { a } else { a.wrapping_rem(b) })
    };
}

/// What holds for integers of each type.
macro_rules! integers {
    ($op:expr, $t:ty, $u:ty, $wide:ty, $bits:expr) => {
        Some(match $op {
            "add" => map!($t, |a, b| a.wrapping_add(b)),
            "sub" => map!($t, |a, b| a.wrapping_sub(b)),
            "mul.lo" => map!($t, |a, b| a.wrapping_mul(b)),
            "mul.hi" => map!($t, |a, b| ((a as $wide * b as $wide) >> $bits) as $t),
            "mad.lo" => map!($t, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
            "mad.hi" => map!($t, |a, b, c| (((a as $wide * b as $wide) >> $bits) as $t).wrapping_add(c)),
            "sad" => map!($t, |a, b, c| (a.abs_diff(b) as $t).wrapping_add(c)),
            "div" => divide!($t),
            "rem" => remainder!($t),
            "min" => map!($t, |a, b| a.min(b)),
            "max" => map!($t, |a, b| a.max(b)),
            // The third operand has 32 bits in any case.
            "shr" => map!(u64, |a, b| {
                let s = b as u32;
                if s < $bits { (a as $t) >> s } else { ((a as $t) >> ($bits - 1)) >> 1 }
            }),
            "bfind" => map!($t, |a| top_bit(u64::from((if a < (0 as $t) { !a } else { a }) as $u))),
            "bfind.shiftamt" => map!($t, |a| {
                let top = top_bit(u64::from((if a < (0 as $t) { !a } else { a }) as $u));
                if top == u32::MAX { top } else { $bits - 1 - top }
            }),
            "bfe" => map!(u64, |a, b, c| extract(a as $t as i128, b as u32, c as u32, $bits, <$t>::MIN != 0) as $u),
            _ => return None,
        })
    };
}

/// Position of the highest set bit, or all ones.
fn top_bit(x: u64) -> u32 {
    if x == 0 { u32::MAX } else { 63 - x.leading_zeros() }
}

/// `len` bits from `pos`; beyond the top a signed field repeats the sign.
fn extract(x: i128, pos: u32, len: u32, bits: u32, signed: bool) -> i128 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if len == 0 {
        return 0;
    }
    let value = if pos < 127 { x >> pos } else { x >> 127 };
    if len >= bits {
        return value;
    }
    let field = value & ((1 << len) - 1);
    // The sign is the field's highest bit, at most the operand's own.
    let top = (pos + len - 1).min(bits - 1);
    if signed && x >> top & 1 != 0 { field | -(1i128 << len) } else { field }
}

/// The lane function of an integer instruction by its name, with `.lo` and the like.
pub(crate) fn integer(op: &str, ty: Ty) -> Option<MapFn> {
    if let Some(f) = bitwise(op, ty.bits()).or_else(|| widening(op, ty)).or_else(|| signed(op, ty)) {
        return Some(f);
    }
    match ty {
        Ty::U(16) => integers!(op, u16, u16, u32, 16),
        Ty::U(32) => integers!(op, u32, u32, u64, 32),
        Ty::U(64) => integers!(op, u64, u64, u128, 64),
        Ty::S(16) => integers!(op, i16, u16, i32, 16),
        Ty::S(32) => integers!(op, i32, u32, i64, 32),
        Ty::S(64) => integers!(op, i64, u64, i128, 64),
        Ty::U16x2 | Ty::S16x2 => pairs(op, ty),
        _ => None,
    }
}

fn signed(op: &str, ty: Ty) -> Option<MapFn> {
    let Ty::S(bits) = ty else { return None };
    Some(match (op, bits) {
        ("neg", 16) => map!(i16, |a| a.wrapping_neg()),
        ("neg", 32) => map!(i32, |a| a.wrapping_neg()),
        ("neg", 64) => map!(i64, |a| a.wrapping_neg()),
        ("abs", 16) => map!(i16, |a| a.wrapping_abs()),
        ("abs", 32) => map!(i32, |a| a.wrapping_abs()),
        ("abs", 64) => map!(i64, |a| a.wrapping_abs()),
        ("add.sat", 32) => map!(i32, |a, b| a.saturating_add(b)),
        ("sub.sat", 32) => map!(i32, |a, b| a.saturating_sub(b)),
        ("min.relu", 32) => map!(i32, |a, b| a.min(b).max(0)),
        ("max.relu", 32) => map!(i32, |a, b| a.max(b).max(0)),
        ("mad.hi.sat", 32) => map!(i32, |a, b, c| (((i64::from(a) * i64::from(b)) >> 32) as i32).saturating_add(c)),
        _ => return None,
    })
}

/// What does not look at the sign.
fn bitwise(op: &str, bits: u32) -> Option<MapFn> {
    Some(match (op, bits) {
        ("and", _) => map!(u64, |a, b| a & b),
        ("or", _) => map!(u64, |a, b| a | b),
        ("xor", _) => map!(u64, |a, b| a ^ b),
        ("not", 16) => map!(u16, |a| !a),
        ("not", 32) => map!(u32, |a| !a),
        ("not", 64) => map!(u64, |a| !a),
        ("cnot", 16) => map!(u16, |a| u16::from(a == 0)),
        ("cnot", 32) => map!(u32, |a| u32::from(a == 0)),
        ("cnot", 64) => map!(u64, |a| u64::from(a == 0)),
        ("shl", 16) => map!(u64, |a, b| if b as u32 > 15 { 0u16 } else { (a as u16) << b }),
        ("shl", 32) => map!(u64, |a, b| if b as u32 > 31 { 0u32 } else { (a as u32) << b }),
        ("shl", 64) => map!(u64, |a, b| if b as u32 > 63 { 0 } else { a << b }),
        ("popc", 32) => map!(u32, |a| a.count_ones()),
        ("popc", 64) => map!(u64, |a| a.count_ones()),
        ("clz", 32) => map!(u32, |a| a.leading_zeros()),
        ("clz", 64) => map!(u64, |a| a.leading_zeros()),
        ("brev", 32) => map!(u32, |a| a.reverse_bits()),
        ("brev", 64) => map!(u64, |a| a.reverse_bits()),
        ("bmsk.clamp", 32) => map!(u32, |a, b| mask(a, b)),
        ("bmsk.wrap", 32) => map!(u32, |a, b| mask(a & 31, b & 31)),
        ("szext.u.clamp", 32) => map!(u32, |a, b| if b >= 32 { a } else { a & mask(0, b) }),
        ("szext.s.clamp", 32) => map!(u32, |a, b| extract(i128::from(a as i32), 0, b.min(32), 32, true) as u32),
        ("szext.u.wrap", 32) => map!(u32, |a, b| a & mask(0, b & 31)),
        ("szext.s.wrap", 32) => map!(u32, |a, b| extract(i128::from(a as i32), 0, b & 31, 32, true) as u32),
        ("fns", 32) => map!(u32, |a, b, c| nth_set(a, b, c as i32)),
        _ => return None,
    })
}

/// `b` ones from bit `a` on.
fn mask(a: u32, b: u32) -> u32 {
    (((1u64 << b.min(32)) - 1) << a.min(32)) as u32
}

/// The `offset`-th set bit from `base` on, upwards or downwards; all ones if there is none.
fn nth_set(bits: u32, base: u32, offset: i32) -> u32 {
    let set = |&at: &u32| bits >> at & 1 != 0;
    let found = match offset {
        _ if base > 31 => None,
        0 => Some(base).filter(set),
        1.. => (base..32).filter(set).nth(offset as usize - 1),
        _ => (0..=base).rev().filter(set).nth(offset.unsigned_abs() as usize - 1),
    };
    found.unwrap_or(u32::MAX)
}

fn widening(op: &str, ty: Ty) -> Option<MapFn> {
    Some(match (op, ty) {
        ("mul.wide", Ty::U(16)) => map!(u16, |a, b| u32::from(a) * u32::from(b)),
        ("mul.wide", Ty::S(16)) => map!(i16, |a, b| i32::from(a) * i32::from(b)),
        ("mul.wide", Ty::U(32)) => map!(u32, |a, b| u64::from(a) * u64::from(b)),
        ("mul.wide", Ty::S(32)) => map!(i32, |a, b| i64::from(a) * i64::from(b)),
        // The third operand is as wide as the result.
        ("mad.wide", Ty::U(16)) => map!(u64, |a, b, c| (a as u16 as u32 * b as u16 as u32).wrapping_add(c as u32)),
        ("mad.wide", Ty::S(16)) => map!(u64, |a, b, c| (a as i16 as i32 * b as i16 as i32).wrapping_add(c as i32)),
        ("mad.wide", Ty::U(32)) => map!(u64, |a, b, c| (a as u32 as u64 * b as u32 as u64).wrapping_add(c)),
        ("mad.wide", Ty::S(32)) => map!(u64, |a, b, c| (a as i32 as i64 * b as i32 as i64).wrapping_add(c as i64)),
        ("mul24.lo", Ty::U(32)) => map!(u64, |a, b| ((a & 0xff_ffff) * (b & 0xff_ffff)) as u32),
        ("mul24.lo", Ty::S(32)) => map!(u64, |a, b| (signed24(a) * signed24(b)) as u32),
        ("mul24.hi", Ty::U(32)) => map!(u64, |a, b| high24(a, b) as u32),
        ("mul24.hi", Ty::S(32)) => map!(u64, |a, b| signed_high24(a, b)),
        ("mad24.lo", Ty::U(32)) => map!(u64, |a, b, c| ((a & 0xff_ffff) * (b & 0xff_ffff)).wrapping_add(c) as u32),
        ("mad24.lo", Ty::S(32)) => map!(u64, |a, b, c| (signed24(a) * signed24(b)).wrapping_add(c as i64) as u32),
        ("mad24.hi", Ty::U(32)) => map!(u64, |a, b, c| (high24(a, b) as u32).wrapping_add(c as u32)),
        ("mad24.hi", Ty::S(32)) => map!(u64, |a, b, c| (signed_high24(a, b)).wrapping_add(c as i32)),
        ("mad24.hi.sat", Ty::S(32)) => map!(u64, |a, b, c| (signed_high24(a, b)).saturating_add(c as i32)),
        _ => return None,
    })
}

/// The upper 32 of the 48 bits of a product of 24-bit numbers.
fn high24(a: u64, b: u64) -> u64 {
    ((a & 0xff_ffff) * (b & 0xff_ffff)) >> 16
}

fn signed_high24(a: u64, b: u64) -> i32 {
    ((signed24(a) * signed24(b)) >> 16) as i32
}

fn signed24(x: u64) -> i64 {
    i64::from((x as i32) << 8 >> 8)
}

/// Two 16-bit integers in a register.
fn pairs(op: &str, ty: Ty) -> Option<MapFn> {
    macro_rules! pair {
        ($t:ty, |$a:ident, $b:ident| $e:expr) => {
            map!(u32, |x, y| {
                let lane = |s: u32| {
                    let ($a, $b) = ((x >> s) as $t, (y >> s) as $t);
                    u32::from(($e) as u16) << s
                };
                lane(0) | lane(16)
            })
        };
    }
    Some(match (op, ty) {
        ("add", _) => pair!(u16, |a, b| a.wrapping_add(b)),
        ("min", Ty::U16x2) => pair!(u16, |a, b| a.min(b)),
        ("max", Ty::U16x2) => pair!(u16, |a, b| a.max(b)),
        ("min", _) => pair!(i16, |a, b| a.min(b)),
        ("max", _) => pair!(i16, |a, b| a.max(b)),
        ("min.relu", Ty::S16x2) => pair!(i16, |a, b| a.min(b).max(0)),
        ("max.relu", Ty::S16x2) => pair!(i16, |a, b| a.max(b).max(0)),
        _ => return None,
    })
}

/// `lop3`: the constant is the table of the function of three bits.
pub(crate) fn lop3() -> MapFn {
    /// The function as a sum (xor) of products: which of 1, a, b, ab, c, ... are in it.
    fn f(x: [&super::Lanes; 3], d: &mut super::Lanes, table: u32) {
        let mut terms = [0u64; 8];
        for (i, term) in terms.iter_mut().enumerate() {
            // Index bit 2 stands for a, 1 for b, 0 for c.
            let parity = (0..8).filter(|j| j & i == *j).fold(0, |p, j| p ^ (table >> j & 1));
            *term = if parity != 0 { 0xffff_ffff } else { 0 };
        }
        for i in 0..super::WARP {
            let (a, b, c) = (x[0][i], x[1][i], x[2][i]);
            let (ab, ac, bc) = (a & b, a & c, b & c);
            d[i] = terms[0]
                ^ (terms[1] & c)
                ^ (terms[2] & b)
                ^ (terms[3] & bc)
                ^ (terms[4] & a)
                ^ (terms[5] & ac)
                ^ (terms[6] & ab)
                ^ (terms[7] & ab & c);
        }
    }
    f
}

/// `prmt` by the name of its mode.
pub(crate) fn prmt(mode: Option<&str>) -> Option<MapFn> {
    /// Selects four bytes of `b:a`; bit 3 of a selector repeats the sign of its byte.
    fn select(a: u32, b: u32, selectors: u32) -> u32 {
        let bytes = u64::from(a) | u64::from(b) << 32;
        (0..4).fold(0, |d, i| {
            let s = selectors >> (4 * i);
            let byte = (bytes >> (8 * (s & 7))) as u8;
            let byte = if s & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 };
            d | u32::from(byte) << (8 * i)
        })
    }
    /// The selectors of a mode, one row for each value of the third operand.
    fn by(table: [u32; 4], a: u32, b: u32, c: u32) -> u32 {
        select(a, b, table[c as usize & 3])
    }
    Some(match mode {
        None => map!(u32, |a, b, c| select(a, b, c)),
        Some("f4e") => map!(u32, |a, b, c| by([0x3210, 0x4321, 0x5432, 0x6543], a, b, c)),
        Some("b4e") => map!(u32, |a, b, c| by([0x5670, 0x6701, 0x7012, 0x0123], a, b, c)),
        Some("rc8") => map!(u32, |a, b, c| by([0x0000, 0x1111, 0x2222, 0x3333], a, b, c)),
        Some("ecl") => map!(u32, |a, b, c| by([0x3210, 0x3211, 0x3222, 0x3333], a, b, c)),
        Some("ecr") => map!(u32, |a, b, c| by([0x0000, 0x1110, 0x2210, 0x3210], a, b, c)),
        Some("rc16") => map!(u32, |a, b, c| by([0x1010, 0x3232, 0x1010, 0x3232], a, b, c)),
        Some(_) => return None,
    })
}

/// `shf` by direction and overflow behaviour.
pub(crate) fn funnel(left: bool, wrap: bool) -> MapFn {
    /// `b:a` as one number.
    fn both(a: u32, b: u32) -> u64 {
        u64::from(a) | u64::from(b) << 32
    }
    match (left, wrap) {
        (true, true) => map!(u32, |a, b, c| ((both(a, b) << (c & 31)) >> 32) as u32),
        (true, false) => map!(u32, |a, b, c| ((u128::from(both(a, b)) << c.min(32)) >> 32) as u32),
        (false, true) => map!(u32, |a, b, c| (both(a, b) >> (c & 31)) as u32),
        (false, false) => map!(u32, |a, b, c| (both(a, b) >> c.min(32)) as u32),
    }
}

/// `bfi`: the low `len` bits of `a` in place of those of `b` from `pos` on.
pub(crate) fn insert(bits: u32, a: u64, b: u64, pos: u32, len: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if pos >= bits || len == 0 {
        return b;
    }
    let field = if len >= 64 { u64::MAX } else { (1 << len) - 1 } << pos;
    let field = if bits == 32 { field & 0xffff_ffff } else { field };
    b & !field | (a << pos) & field
}

/// A byte or half of a register, sign-extended if asked for.
fn part(x: u32, at: u32, bits: u32, signed: bool) -> i32 {
    let up = x << (32 - at - bits);
    if signed { up as i32 >> (32 - bits) } else { (up >> (32 - bits)) as i32 }
}

/// `dp4a` by the signs of its operands.
pub(crate) fn dp4a(a: bool, b: bool) -> MapFn {
    macro_rules! dot {
        ($a:expr, $b:expr) => {
            map!(u32, |a, b, c| {
                let mut sum = c as i32;
                for at in [0, 8, 16, 24] {
                    sum = sum.wrapping_add(part(a, at, 8, $a).wrapping_mul(part(b, at, 8, $b)));
                }
                sum
            })
        };
    }
    match (a, b) {
        (true, true) => dot!(true, true),
        (true, false) => dot!(true, false),
        (false, true) => dot!(false, true),
        (false, false) => dot!(false, false),
    }
}

/// `dp2a` by its half and the signs of its operands (constant: bit 0 high half, 1 first signed, 2 second signed).
pub(crate) fn dp2a() -> MapFn {
    map!(u32, |a, b, c, k| {
        let mut sum = c as i32;
        for i in 0..2 {
            let byte = part(b, 8 * i + 16 * (k & 1), 8, k & 4 != 0);
            sum = sum.wrapping_add(part(a, 16 * i, 16, k & 2 != 0).wrapping_mul(byte));
        }
        sum
    })
}

/// An instruction of a carry chain, in `bits` bits: the result and the carry out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chain {
    Add,
    Sub,
    MadLo,
    MadHi { signed: bool },
}

/// Executes one instruction of a chain.
pub(crate) fn chain(op: Chain, bits: u32, x: [u64; 3], carry: bool) -> (u64, bool) {
    let mask = crate::types::mask_of(bits);
    let add = |a: u64, b: u64| {
        let sum = u128::from(a & mask) + u128::from(b & mask) + u128::from(carry);
        (sum as u64 & mask, sum >> bits != 0)
    };
    match op {
        Chain::Add => add(x[0], x[1]),
        Chain::Sub => {
            let (a, b) = (u128::from(x[0] & mask), u128::from(x[1] & mask) + u128::from(carry));
            (a.wrapping_sub(b) as u64 & mask, a < b)
        }
        Chain::MadLo => add(x[0].wrapping_mul(x[1]), x[2]),
        Chain::MadHi { signed } => {
            let wide = |v: u64| match (signed, bits) {
                (true, 32) => i128::from(v as i32),
                (true, _) => i128::from(v as i64),
                (false, _) => i128::from(v & mask),
            };
            // The product of two unsigned 64-bit numbers fills all 128 bits.
            let product = (wide(x[0]) as u128).wrapping_mul(wide(x[1]) as u128);
            let high = if signed { (product as i128 >> bits) as u64 } else { (product >> bits) as u64 };
            add(high, x[2])
        }
    }
}
