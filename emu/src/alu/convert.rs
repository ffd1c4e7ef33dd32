//! `cvt`: every conversion is exact into an intermediate (an integer, or an f64 rounded to odd), then rounded once.

use super::float::canonical;
use super::soft::{self, BF16, E2M1, E2M3, E3M2, E4M3, E5M2, F16, F32, F64, Format, TF32, odd_from_int, round_to};
use super::{Bits, MapFn, map};
use crate::types::{Mode, Round, Ty};

/// Saturates to a finite number: bit of the constant beside the mode.
pub(crate) const FINITE: u32 = 1 << 6;

/// A source value.
#[derive(Debug, Clone, Copy)]
enum Value {
    Int(i128),
    Float(f64),
}

fn load(ty: Ty, bits: u64, ftz: bool) -> Value {
    Value::Float(match ty {
        Ty::U(n) | Ty::B(n) => return Value::Int(i128::from(bits & crate::types::mask_of(u32::from(n)))),
        Ty::S(n) => {
            let shift = 64 - u32::from(n);
            return Value::Int(i128::from((bits << shift) as i64 >> shift));
        }
        Ty::F16 => F16.value(bits & 0xffff),
        Ty::Bf16 => BF16.value(bits & 0xffff),
        Ty::F64 => f64::of(bits),
        _ => {
            let x = f32::of(bits);
            f64::from(if ftz { soft::flush32(x) } else { x })
        }
    })
}

/// A float rounded to an integer, saturated; what a nan gives depends on the width of source and destination.
fn to_int(x: f64, source: Ty, target: Ty, round: Round) -> u64 {
    let bits = target.bits();
    let mask = crate::types::mask_of(bits);
    if x.is_nan() {
        return if source == Ty::F64 || bits == 64 { 1 << (bits - 1) } else { 0 };
    }
    let rounded = match round {
        Round::Near => x.round_ties_even(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
        Round::Away => x.round(),
    };
    clamp(rounded as i128, target) as u64 & mask
}

/// The nearest value of an integer type.
fn clamp(x: i128, ty: Ty) -> i128 {
    let bits = ty.bits();
    match ty.is_signed() {
        true => x.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
        false => x.clamp(0, (1 << bits) - 1),
    }
}

fn format(ty: Ty) -> Format {
    match ty {
        Ty::F16 => F16,
        Ty::Bf16 => BF16,
        Ty::Tf32 => TF32,
        Ty::F64 => F64,
        Ty::E4m3x2 => E4M3,
        Ty::E5m2x2 => E5M2,
        Ty::E2m3x2 => E2M3,
        Ty::E3m2x2 => E3M2,
        Ty::E2m1x2 => E2M1,
        _ => F32,
    }
}

/// A float as the bits of another format.
fn to_float(x: f64, target: Ty, mode: Mode, finite: bool) -> u64 {
    let f = format(target);
    if x.is_nan() {
        return match target {
            _ if mode.sat => 0,
            Ty::F64 => f64::NAN.bits(),
            Ty::Tf32 => 0x7fff_ffff,
            _ => f.nan(),
        };
    }
    let mut x = x;
    if mode.sat {
        x = if x > 0.0 { x.min(1.0) } else { 0.0 };
    }
    if mode.relu && x <= 0.0 {
        x = 0.0;
    }
    if target == Ty::F64 {
        return x.bits();
    }
    let mut bits = round_to(x, f, mode.round);
    let magnitude = bits & f.nan();
    if mode.ftz && target == Ty::F32 && magnitude < 1 << f.mantissa {
        bits &= !f.nan();
    }
    if finite && magnitude > f.largest() {
        bits = bits & !f.nan() | f.largest();
    }
    // tf32 is kept in the upper bits of an f32.
    if target == Ty::Tf32 { bits << 13 } else { bits }
}

/// `cvt.target.source`, one value.
fn convert(target: Ty, source: Ty, bits: u64, k: u32) -> u64 {
    let mode = Mode::unpack(k);
    match (load(source, bits, mode.ftz), target) {
        (Value::Int(x), Ty::U(_) | Ty::S(_) | Ty::B(_)) => {
            let x = if mode.sat { clamp(x, target) } else { x };
            x as u64 & crate::types::mask_of(target.bits())
        }
        (Value::Int(x), Ty::F64) => f64::from_bits(soft::pack(x < 0, x.unsigned_abs(), 0, F64, mode.round)).bits(),
        (Value::Int(x), _) => to_float(odd_from_int(x), target, mode, false),
        (Value::Float(x), Ty::U(_) | Ty::S(_) | Ty::B(_)) => to_int(x, source, target, mode.round),
        (Value::Float(x), _) => {
            // A rounding named `rni` and so on, between floats of one format, gives an integral float.
            let x = if k & INTEGRAL == 0 || x.is_nan() {
                x
            } else {
                let y = match mode.round {
                    Round::Near => x.round_ties_even(),
                    Round::Zero => x.trunc(),
                    Round::Down => x.floor(),
                    Round::Up => x.ceil(),
                    Round::Away => x.round(),
                };
                y.copysign(x)
            };
            to_float(x, target, mode, k & FINITE != 0)
        }
    }
}

/// Rounds to an integral float: bit of the constant beside the mode.
pub(crate) const INTEGRAL: u32 = 1 << 7;

/// The lane function of `cvt` between scalar types.
pub(crate) fn scalar(target: Ty, source: Ty, k: u32) -> Option<MapFn> {
    if k == 0
        && let Some(f) = plain(target, source)
    {
        return Some(f);
    }
    macro_rules! to {
        ($target:expr) => {
            match source {
                Ty::U(8) | Ty::B(8) => map!(u64, |a, _b, _c, k| convert($target, Ty::U(8), a, k)),
                Ty::U(16) | Ty::B(16) => map!(u64, |a, _b, _c, k| convert($target, Ty::U(16), a, k)),
                Ty::U(32) | Ty::B(32) => map!(u64, |a, _b, _c, k| convert($target, Ty::U(32), a, k)),
                Ty::U(64) | Ty::B(64) => map!(u64, |a, _b, _c, k| convert($target, Ty::U(64), a, k)),
                Ty::S(8) => map!(u64, |a, _b, _c, k| convert($target, Ty::S(8), a, k)),
                Ty::S(16) => map!(u64, |a, _b, _c, k| convert($target, Ty::S(16), a, k)),
                Ty::S(32) => map!(u64, |a, _b, _c, k| convert($target, Ty::S(32), a, k)),
                Ty::S(64) => map!(u64, |a, _b, _c, k| convert($target, Ty::S(64), a, k)),
                Ty::F16 => map!(u64, |a, _b, _c, k| convert($target, Ty::F16, a, k)),
                Ty::Bf16 => map!(u64, |a, _b, _c, k| convert($target, Ty::Bf16, a, k)),
                Ty::F32 => map!(u64, |a, _b, _c, k| convert($target, Ty::F32, a, k)),
                Ty::F64 => map!(u64, |a, _b, _c, k| convert($target, Ty::F64, a, k)),
                _ => return None,
            }
        };
    }
    Some(match target {
        Ty::U(8) => to!(Ty::U(8)),
        Ty::U(16) => to!(Ty::U(16)),
        Ty::U(32) => to!(Ty::U(32)),
        Ty::U(64) => to!(Ty::U(64)),
        Ty::S(8) => to!(Ty::S(8)),
        Ty::S(16) => to!(Ty::S(16)),
        Ty::S(32) => to!(Ty::S(32)),
        Ty::S(64) => to!(Ty::S(64)),
        Ty::F16 => to!(Ty::F16),
        Ty::Bf16 => to!(Ty::Bf16),
        Ty::Tf32 => to!(Ty::Tf32),
        Ty::F32 => to!(Ty::F32),
        Ty::F64 => to!(Ty::F64),
        _ => return None,
    })
}

/// Conversions that kernels make in their inner loops, to nearest.
fn plain(target: Ty, source: Ty) -> Option<MapFn> {
    Some(match (target, source) {
        (Ty::F32, Ty::S(32)) => map!(i32, |a| a as f32),
        (Ty::F32, Ty::U(32)) => map!(u32, |a| a as f32),
        (Ty::U(64), Ty::U(32)) | (Ty::U(32), Ty::U(64)) => map!(u32, |a| a),
        (Ty::S(64), Ty::S(32)) => map!(i32, |a| i64::from(a)),
        (Ty::F32, Ty::F16) => map!(u16, |a| half(a)),
        (Ty::F32, Ty::Bf16) => map!(u32, |a| canonical(f32::from_bits(a << 16))),
        _ => return None,
    })
}

/// f16 to the bits of f32, by moving them and scaling the exponent.
fn half(bits: u16) -> u32 {
    let magnitude = u32::from(bits & 0x7fff);
    let scaled = f32::from_bits(magnitude << 13) * f32::from_bits(0x7780_0000);
    let sign = u32::from(bits & 0x8000) << 16;
    match magnitude {
        0x7c01.. => F32.nan() as u32,
        0x7c00 => sign | F32.infinity() as u32,
        _ => sign | scaled.to_bits(),
    }
}

/// Pairs: the type, that of an element (which small floats have no name for), and bits from one to the next.
static PAIRS: &[(Ty, Ty, u32)] = &[
    (Ty::F16x2, Ty::F16, 16),
    (Ty::Bf16x2, Ty::Bf16, 16),
    (Ty::E4m3x2, Ty::E4m3x2, 8),
    (Ty::E5m2x2, Ty::E5m2x2, 8),
    (Ty::E2m3x2, Ty::E2m3x2, 8),
    (Ty::E3m2x2, Ty::E3m2x2, 8),
    (Ty::E2m1x2, Ty::E2m1x2, 4),
    (Ty::Ue8m0x2, Ty::Ue8m0x2, 8),
];

/// Where in the constant of a conversion of pairs the rows of target and source stand, from 1.
const TARGET: u32 = 8;
const SOURCE: u32 = 12;

/// The row of a constant.
fn pair_at(k: u32, from: u32) -> (Ty, Ty, u32) {
    PAIRS[(k >> from & 15) as usize - 1]
}

fn value32(bits: u64, k: u32) -> f64 {
    match load(Ty::F32, bits, Mode::unpack(k).ftz) {
        Value::Float(x) => x,
        Value::Int(x) => x as f64,
    }
}

/// The element of a pair from a float.
fn encode(ty: Ty, x: f64, k: u32) -> u64 {
    if ty == Ty::Ue8m0x2 {
        power(x, Mode::unpack(k).round, k & FINITE != 0)
    } else {
        to_float(x, ty, Mode::unpack(k), k & FINITE != 0)
    }
}

/// The exponent of a power of two near a number, biased by 127.
fn power(x: f64, round: Round, finite: bool) -> u64 {
    let largest = if finite { 0xfe } else { 0xff };
    let bits = x.abs().to_bits();
    let up = round == Round::Up && bits & ((1 << 52) - 1) != 0;
    match (bits >> 52) as i32 - 1023 + i32::from(up) {
        _ if x.is_nan() => 0xff,
        e @ ..=127 => (e.max(-127) + 127) as u64,
        _ => largest,
    }
}

/// The lane function of a conversion to pairs, from pairs or (`d, a, b`, where `a` becomes the upper half) from two f32;
/// and its constant.
pub(crate) fn pair(target: Ty, source: Ty, k: u32) -> Option<(MapFn, u32)> {
    let row = |ty| Some(PAIRS.iter().position(|p| p.0 == ty)? as u32 + 1);
    let exists = match (target, source) {
        (Ty::F16x2 | Ty::Bf16x2, Ty::F16x2 | Ty::Bf16x2) => false,
        (Ty::F16x2, Ty::Ue8m0x2) => false,
        (_, Ty::F32) | (Ty::F16x2 | Ty::Bf16x2, _) | (_, Ty::F16x2 | Ty::Bf16x2) => true,
        _ => false,
    };
    let k = k | row(target)? << TARGET | if source == Ty::F32 { 0 } else { row(source)? << SOURCE };
    let f = match source {
        Ty::F32 => map!(u64, |a, b, _c, k| {
            let (_, ty, width) = pair_at(k, TARGET);
            let one = |bits| encode(ty, value32(bits, k), k);
            one(a) << width | one(b)
        }),
        _ => map!(u64, |a, _b, _c, k| {
            let ((_, ty, width), (_, from, step)) = (pair_at(k, TARGET), pair_at(k, SOURCE));
            let one = |bits: u64| {
                let bits = bits & crate::types::mask_of(step);
                let x = match from {
                    Ty::Ue8m0x2 if bits == 0xff => f64::NAN,
                    Ty::Ue8m0x2 => 2f64.powi(bits as i32 - 127),
                    // The two upper bits of a byte of 6 mean nothing.
                    Ty::E2m3x2 | Ty::E3m2x2 => format(from).value(bits & 0x3f),
                    _ => format(from).value(bits),
                };
                encode(ty, x, k)
            };
            one(a >> step) << width | one(a)
        }),
    };
    exists.then_some((f, k))
}

/// Sign-extends from the bits in the constant's low byte to those in its second.
pub(crate) fn sign_extend() -> MapFn {
    map!(u64, |a, _b, _c, k| {
        let shift = 64 - (k & 0xff);
        ((a << shift) as i64 >> shift) as u64 & crate::types::mask_of(k >> 8)
    })
}
