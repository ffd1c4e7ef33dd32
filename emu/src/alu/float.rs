//! Float arithmetic: f16, bf16, their pairs, f32 and f64, in every rounding mode. Approximate
//! functions are in [`super::approximate`].

use super::soft::{self, BF16, F16, Format, odd_add, odd_div, odd_fma, odd_sqrt, round_to, to_f32};
use super::{Bits, Lanes, MapFn, WARP, map};
use crate::types::{Mode, Round, Ty};

/// The nan of an operation in f32.
const NAN32: u32 = 0x7fff_ffff;

/// A format narrower than f64, with its operations going through f64.
pub(crate) trait Narrow {
    fn load(bits: u64, mode: Mode) -> f64;
    fn store(x: f64, mode: Mode) -> u64;
}

pub(crate) struct Half;
pub(crate) struct Brain;
pub(crate) struct Single;

fn store_small(x: f64, f: Format, mode: Mode) -> u64 {
    if x.is_nan() {
        return if mode.sat { 0 } else { f.nan() };
    }
    let mut x = x;
    if mode.sat {
        x = if x > 0.0 { x.min(1.0) } else { 0.0 };
    }
    if mode.relu && x <= 0.0 {
        x = 0.0;
    }
    let bits = round_to(x, f, mode.round);
    let magnitude = bits & f.nan();
    if mode.ftz && magnitude < 1 << f.mantissa { bits & !f.nan() } else { bits }
}

fn load_small(bits: u64, f: Format, mode: Mode) -> f64 {
    let magnitude = bits & f.nan();
    if mode.ftz && magnitude < 1 << f.mantissa { f.value(bits & !f.nan()) } else { f.value(bits) }
}

impl Narrow for Half {
    fn load(bits: u64, mode: Mode) -> f64 {
        load_small(bits & 0xffff, F16, mode)
    }
    fn store(x: f64, mode: Mode) -> u64 {
        store_small(x, F16, mode)
    }
}

impl Narrow for Brain {
    fn load(bits: u64, _: Mode) -> f64 {
        f64::from(f32::from_bits((bits as u32) << 16))
    }
    fn store(x: f64, mode: Mode) -> u64 {
        store_small(x, BF16, mode)
    }
}

impl Narrow for Single {
    fn load(bits: u64, mode: Mode) -> f64 {
        let x = f32::of(bits);
        f64::from(if mode.ftz { soft::flush32(x) } else { x })
    }
    fn store(x: f64, mode: Mode) -> u64 {
        u64::from(to_f32(x, mode))
    }
}

/// `f` of the operands, in one format.
fn narrow<T: Narrow>(x: [u64; 3], k: u32, f: impl Fn([f64; 3]) -> f64) -> u64 {
    let mode = Mode::unpack(k);
    T::store(f(x.map(|v| T::load(v, mode))), mode)
}

/// `f` of both halves of the operands.
fn halves(x: [u64; 3], f: impl Fn([u64; 3]) -> u64) -> u64 {
    f(x.map(|v| v & 0xffff)) | f(x.map(|v| v >> 16 & 0xffff)) << 16
}

/// The lane function of an expression over f64 values, for each format narrower than f64.
macro_rules! narrow_map {
    ($ty:expr, |$x:ident| $e:expr) => {{
        macro_rules! one {
            ($t:ty) => {{
                fn f(x: [&Lanes; 3], d: &mut Lanes, k: u32) {
                    for i in 0..WARP {
                        d[i] = narrow::<$t>([x[0][i], x[1][i], x[2][i]], k, |$x| $e);
                    }
                }
                Some(f as MapFn)
            }};
        }
        macro_rules! two {
            ($t:ty) => {{
                fn f(x: [&Lanes; 3], d: &mut Lanes, k: u32) {
                    for i in 0..WARP {
                        d[i] = halves([x[0][i], x[1][i], x[2][i]], |v| narrow::<$t>(v, k, |$x| $e));
                    }
                }
                Some(f as MapFn)
            }};
        }
        macro_rules! wide {
            () => {{
                fn f(x: [&Lanes; 3], d: &mut Lanes, k: u32) {
                    for i in 0..WARP {
                        let part = |s: u32| narrow::<Single>(x.map(|v| v[i] >> s & 0xffff_ffff), k, |$x| $e) << s;
                        d[i] = part(0) | part(32);
                    }
                }
                Some(f as MapFn)
            }};
        }
        match $ty {
            Ty::F32x2 => wide!(),
            Ty::F16 => one!(Half),
            Ty::F16x2 => two!(Half),
            Ty::Bf16 => one!(Brain),
            Ty::Bf16x2 => two!(Brain),
            Ty::F32 => one!(Single),
            _ => None,
        }
    }};
}

/// The bits of a result in f32. The compiler does not keep the bits of a nan, so that none is made as a float.
#[inline]
pub(crate) fn canonical(x: f32) -> u32 {
    if x.is_nan() { NAN32 } else { x.to_bits() }
}

/// The usual case, f32 to nearest, without flushing or clamping.
fn plain32(op: &str) -> Option<MapFn> {
    Some(match op {
        "add" => map!(f32, |a, b| canonical(a + b)),
        "sub" => map!(f32, |a, b| canonical(a - b)),
        "mul" => map!(f32, |a, b| canonical(a * b)),
        "fma" | "mad" => {
            map!(f32, |a, b, c| canonical(odd_fma(f64::from(a), f64::from(b), f64::from(c)) as f32))
        }
        "div" => map!(f32, |a, b| canonical(a / b)),
        "sqrt" => map!(f32, |a| canonical(a.sqrt())),
        _ => return None,
    })
}

fn clamp64(x: f64, mode: Mode) -> f64 {
    if !mode.sat {
        x
    } else if x > 0.0 {
        x.min(1.0)
    } else {
        0.0
    }
}

/// f64 in any rounding mode.
macro_rules! wide_map {
    (|$a:ident, $b:ident, $c:ident, $r:ident| $e:expr) => {
        map!(f64, |$a, $b, $c, k| {
            let mode = Mode::unpack(k);
            let $r = mode.round;
            clamp64($e, mode)
        })
    };
}

fn add64(a: f64, b: f64, r: Round) -> f64 {
    if r == Round::Near { a + b } else { soft::fma64(a, 1.0, b, r) }
}

fn mul64(a: f64, b: f64, r: Round) -> f64 {
    // A zero of the sign of the product keeps that sign.
    if r == Round::Near { a * b } else { soft::fma64(a, b, 0.0f64.copysign(a * b), r) }
}

/// The lane function of add, sub, mul, fma, div, rcp or sqrt.
pub(crate) fn arithmetic(op: &str, ty: Ty, mode: Mode) -> Option<MapFn> {
    if ty == Ty::F32
        && mode == Mode::NEAR
        && let Some(f) = plain32(op)
    {
        return Some(f);
    }
    if ty == Ty::F64 {
        return Some(match op {
            "add" => wide_map!(|a, b, _c, r| add64(a, b, r)),
            "sub" => wide_map!(|a, b, _c, r| add64(a, -b, r)),
            "mul" => wide_map!(|a, b, _c, r| mul64(a, b, r)),
            "fma" | "mad" => wide_map!(|a, b, c, r| soft::fma64(a, b, c, r)),
            "div" => wide_map!(|a, b, _c, r| soft::div64(a, b, r)),
            "rcp" => wide_map!(|a, _b, _c, r| soft::div64(1.0, a, r)),
            "sqrt" => wide_map!(|a, _b, _c, r| soft::sqrt64(a, r)),
            _ => return None,
        });
    }
    match op {
        "add" => narrow_map!(ty, |x| odd_add(x[0], x[1])),
        "sub" => narrow_map!(ty, |x| odd_add(x[0], -x[1])),
        "mul" => narrow_map!(ty, |x| x[0] * x[1]),
        "fma" | "mad" => narrow_map!(ty, |x| odd_fma(x[0], x[1], x[2])),
        "div" => narrow_map!(ty, |x| odd_div(x[0], x[1])),
        "rcp" => narrow_map!(ty, |x| odd_div(1.0, x[0])),
        "sqrt" => narrow_map!(ty, |x| odd_sqrt(x[0])),
        _ => None,
    }
}

/// The lane function of an approximate function of f64; the others are in [`super::approximate`].
pub(crate) fn approximate(op: &str, ty: Ty) -> Option<MapFn> {
    if ty == Ty::F64 {
        // The hardware gives the upper 32 bits only.
        return Some(match op {
            "rcp" => map!(f64, |a| (1.0 / a).bits() & !0xffff_ffff),
            "rsqrt" => map!(f64, |a| (1.0 / a.sqrt()).bits() & !0xffff_ffff),
            _ => return None,
        });
    }
    None
}

/// `fma` of two operands in `T` and one in f32.
fn mixed_fma<T: Narrow>(a: u64, b: u64, c: u64, k: u32) -> u64 {
    let m = Mode::unpack(k);
    Single::store(odd_fma(T::load(a, m), T::load(b, m), Single::load(c, m)), m)
}

/// Sum of an operand in `T` and `sign` times one in f32.
fn mixed_add<T: Narrow>(a: u64, b: u64, k: u32, sign: f64) -> u64 {
    let m = Mode::unpack(k);
    Single::store(odd_add(T::load(a, m), sign * Single::load(b, m)), m)
}

/// A product or sum of 16-bit operands in f32: `fma.f32.f16`, `add.f32.bf16`.
pub(crate) fn mixed(op: &str, source: Ty) -> Option<MapFn> {
    Some(match (op, source) {
        ("fma", Ty::F16) => map!(u64, |a, b, c, k| mixed_fma::<Half>(a, b, c, k)),
        ("fma", Ty::Bf16) => map!(u64, |a, b, c, k| mixed_fma::<Brain>(a, b, c, k)),
        ("add", Ty::F16) => map!(u64, |a, b, _c, k| mixed_add::<Half>(a, b, k, 1.0)),
        ("add", Ty::Bf16) => map!(u64, |a, b, _c, k| mixed_add::<Brain>(a, b, k, 1.0)),
        ("sub", Ty::F16) => map!(u64, |a, b, _c, k| mixed_add::<Half>(a, b, k, -1.0)),
        ("sub", Ty::Bf16) => map!(u64, |a, b, _c, k| mixed_add::<Brain>(a, b, k, -1.0)),
        _ => return None,
    })
}

/// Modifiers of `min` and `max` beside the mode.
pub(crate) const KEEP_NAN: u32 = 1 << 6;
pub(crate) const XOR_SIGN: u32 = 1 << 7;

/// The smaller or larger of two numbers: -0 is below +0, a nan gives way unless it is asked for.
fn choose(a: f64, b: f64, k: u32, larger: bool) -> f64 {
    let (mut a, mut b) = (a, b);
    let mut sign = 0.0f64;
    if k & XOR_SIGN != 0 {
        sign = if a.is_sign_negative() != b.is_sign_negative() { -1.0 } else { 1.0 };
        (a, b) = (a.abs(), b.abs());
    }
    let chosen = if a.is_nan() || b.is_nan() {
        if k & KEEP_NAN != 0 || (a.is_nan() && b.is_nan()) {
            return f64::NAN;
        }
        if a.is_nan() { b } else { a }
    } else if a == b {
        if a.is_sign_negative() == larger { b } else { a }
    } else if (a > b) == larger {
        a
    } else {
        b
    };
    if k & XOR_SIGN != 0 { chosen.copysign(sign) } else { chosen }
}

/// The lane function of `min` or `max`, of two operands or (with the third) three.
pub(crate) fn extreme(op: &str, ty: Ty, three: bool) -> Option<MapFn> {
    macro_rules! one {
        ($t:ty, $larger:expr, $three:expr) => {
            map!(u64, |a, b, c, k| extreme_of::<$t>([a, b, c], k, $larger, $three))
        };
    }
    macro_rules! two {
        ($t:ty, $larger:expr) => {
            map!(u64, |a, b, c, k| halves([a, b, c], |v| extreme_of::<$t>(v, k, $larger, false)))
        };
    }
    let larger = match op {
        "max" => true,
        "min" => false,
        _ => return None,
    };
    Some(match (ty, larger, three) {
        (Ty::F64, true, false) => map!(f64, |a, b, _c, k| choose(a, b, k, true)),
        (Ty::F64, false, false) => map!(f64, |a, b, _c, k| choose(a, b, k, false)),
        (Ty::F32, true, false) => one!(Single, true, false),
        (Ty::F32, false, false) => one!(Single, false, false),
        (Ty::F32, true, true) => one!(Single, true, true),
        (Ty::F32, false, true) => one!(Single, false, true),
        (Ty::F16, true, false) => one!(Half, true, false),
        (Ty::F16, false, false) => one!(Half, false, false),
        (Ty::Bf16, true, false) => one!(Brain, true, false),
        (Ty::Bf16, false, false) => one!(Brain, false, false),
        (Ty::F16x2, true, false) => two!(Half, true),
        (Ty::F16x2, false, false) => two!(Half, false),
        (Ty::Bf16x2, true, false) => two!(Brain, true),
        (Ty::Bf16x2, false, false) => two!(Brain, false),
        _ => return None,
    })
}

fn extreme_of<T: Narrow>(x: [u64; 3], k: u32, larger: bool, three: bool) -> u64 {
    narrow::<T>(x, k & 0x3f, |v| {
        let first = choose(v[0], v[1], k, larger);
        if three { choose(first, v[2], k, larger) } else { first }
    })
}

/// Flushes subnormal numbers: constant of [`sign`].
pub(crate) const FLUSH: u32 = 1;

/// The lane function of `abs`, `neg` or `copysign`.
pub(crate) fn sign(op: &str, ty: Ty) -> Option<MapFn> {
    /// The operand, flushed if asked for.
    fn read(x: f32, k: u32) -> f32 {
        if k & FLUSH != 0 { soft::flush32(x) } else { x }
    }
    Some(match (op, ty) {
        ("abs", Ty::F32) => map!(f32, |a, _b, _c, k| read(a, k).abs()),
        ("neg", Ty::F32) => map!(f32, |a, _b, _c, k| -read(a, k)),
        ("abs", Ty::F64) => map!(f64, |a| a.abs()),
        ("neg", Ty::F64) => map!(f64, |a| -a),
        ("abs", Ty::F16 | Ty::Bf16) => map!(u16, |a| a & 0x7fff),
        ("neg", Ty::F16 | Ty::Bf16) => map!(u16, |a| a ^ 0x8000),
        ("abs", Ty::F16x2 | Ty::Bf16x2) => map!(u32, |a| a & 0x7fff_7fff),
        ("neg", Ty::F16x2 | Ty::Bf16x2) => map!(u32, |a| a ^ 0x8000_8000),
        ("copysign", Ty::F32) => map!(f32, |a, b| b.copysign(a)),
        ("copysign", Ty::F64) => map!(f64, |a, b| b.copysign(a)),
        _ => return None,
    })
}
