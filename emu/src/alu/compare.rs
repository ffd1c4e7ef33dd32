//! Comparisons (`setp`, `set`) and classification of floats (`testp`): masks of lanes.

use super::{Bits, Lanes, TestFn, WARP};
use crate::alu::soft::{self, BF16, F16};
use crate::types::Ty;

/// Flushes subnormal numbers: bit of the constant.
pub(crate) const FLUSH: u32 = 1;
/// Compares the upper halves of pairs: bit of the constant.
pub(crate) const HIGH: u32 = 2;

fn load32(bits: u64, k: u32) -> f64 {
    let x = f32::of(bits);
    f64::from(if k & FLUSH != 0 { soft::flush32(x) } else { x })
}

fn load64(bits: u64, _: u32) -> f64 {
    f64::of(bits)
}

fn half(bits: u64, k: u32) -> f64 {
    let bits = bits >> if k & HIGH != 0 { 16 } else { 0 } & 0xffff;
    F16.value(if k & FLUSH != 0 && bits & 0x7c00 == 0 { bits & 0x8000 } else { bits })
}

fn brain(bits: u64, k: u32) -> f64 {
    BF16.value(bits >> if k & HIGH != 0 { 16 } else { 0 } & 0xffff)
}

fn unordered(a: f64, b: f64) -> bool {
    a.is_nan() || b.is_nan()
}

macro_rules! test {
    ($load:expr, |$a:ident, $b:ident| $e:expr) => {{
        fn f(x: [&Lanes; 2], k: u32) -> u32 {
            let load = $load;
            let mut mask = 0;
            for i in 0..WARP {
                let ($a, $b) = (load(x[0][i], k), load(x[1][i], k));
                mask |= u32::from($e) << i;
            }
            mask
        }
        Some(f as TestFn)
    }};
}

macro_rules! integers {
    ($op:expr, $t:ty) => {
        match $op {
            "eq" => test!(|v, _k| <$t>::of(v), |a, b| a == b),
            "ne" => test!(|v, _k| <$t>::of(v), |a, b| a != b),
            "lt" | "lo" => test!(|v, _k| <$t>::of(v), |a, b| a < b),
            "le" | "ls" => test!(|v, _k| <$t>::of(v), |a, b| a <= b),
            "gt" | "hi" => test!(|v, _k| <$t>::of(v), |a, b| a > b),
            "ge" | "hs" => test!(|v, _k| <$t>::of(v), |a, b| a >= b),
            _ => None,
        }
    };
}

macro_rules! floats {
    ($op:expr, $load:expr) => {
        match $op {
            "eq" => test!($load, |a, b| a == b),
            "ne" => test!($load, |a, b| a != b && !unordered(a, b)),
            "lt" => test!($load, |a, b| a < b),
            "le" => test!($load, |a, b| a <= b),
            "gt" => test!($load, |a, b| a > b),
            "ge" => test!($load, |a, b| a >= b),
            "equ" => test!($load, |a, b| a == b || unordered(a, b)),
            "neu" => test!($load, |a, b| a != b),
            "ltu" => test!($load, |a, b| a < b || unordered(a, b)),
            "leu" => test!($load, |a, b| a <= b || unordered(a, b)),
            "gtu" => test!($load, |a, b| a > b || unordered(a, b)),
            "geu" => test!($load, |a, b| a >= b || unordered(a, b)),
            "num" => test!($load, |a, b| !unordered(a, b)),
            "nan" => test!($load, |a, b| unordered(a, b)),
            _ => None,
        }
    };
}

/// The comparison of that name. `lo`, `ls`, `hi` and `hs` are for unsigned numbers only.
pub(crate) fn compare(op: &str, ty: Ty) -> Option<TestFn> {
    let bits_only = matches!(ty, Ty::B(_)) && !matches!(op, "eq" | "ne");
    let unsigned_only = matches!(op, "lo" | "ls" | "hi" | "hs") && !matches!(ty, Ty::U(_));
    if bits_only || unsigned_only {
        return None;
    }
    match ty {
        Ty::U(16) | Ty::B(16) => integers!(op, u16),
        Ty::U(32) | Ty::B(32) => integers!(op, u32),
        Ty::U(64) | Ty::B(64) => integers!(op, u64),
        Ty::S(16) => integers!(op, i16),
        Ty::S(32) => integers!(op, i32),
        Ty::S(64) => integers!(op, i64),
        Ty::F32 => floats!(op, load32),
        Ty::F64 => floats!(op, load64),
        Ty::F16 | Ty::F16x2 => floats!(op, half),
        Ty::Bf16 | Ty::Bf16x2 => floats!(op, brain),
        _ => None,
    }
}

/// The test of `testp` of that name.
pub(crate) fn classify(op: &str, ty: Ty) -> Option<TestFn> {
    macro_rules! classes {
        ($t:ty) => {
            match op {
                "finite" => test!(|v, _k| <$t>::of(v), |a, _b| a.is_finite()),
                "infinite" => test!(|v, _k| <$t>::of(v), |a, _b| a.is_infinite()),
                "number" => test!(|v, _k| <$t>::of(v), |a, _b| !a.is_nan()),
                "notanumber" => test!(|v, _k| <$t>::of(v), |a, _b| a.is_nan()),
                // Zero counts as normal.
                "normal" => test!(|v, _k| <$t>::of(v), |a, _b| a.is_normal() || a == 0.0),
                "subnormal" => test!(|v, _k| <$t>::of(v), |a, _b| a.is_subnormal()),
                _ => None,
            }
        };
    }
    match ty {
        Ty::F32 => classes!(f32),
        Ty::F64 => classes!(f64),
        _ => None,
    }
}
