//! Arithmetic against independent computation: the half crate, i128, Rust's own casts, bit-by-bit definitions, and for
//! directed rounding the definition itself.

use super::compare::{classify, compare};
use super::convert::{FINITE, INTEGRAL, pair, scalar, sign_extend};
use super::float::{KEEP_NAN, XOR_SIGN, arithmetic, extreme, mixed, sign};
use super::integer::{Chain, chain, dp2a, dp4a, funnel, insert, integer, lop3, prmt};
use super::soft::{self, BF16, E4M3, F16, F32, Format, fma64, round_to};
use super::{Lanes, MapFn};
use crate::types::{Mode, Round, Ty, mask_of};
use half::{bf16, f16};

const ROUNDS: [Round; 4] = [Round::Near, Round::Zero, Round::Down, Round::Up];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Numbers of all sizes, and the corners.
    fn bits(&mut self) -> u64 {
        const CORNERS: [u64; 12] =
            [0, 1, 2, 31, 32, 0x7f, 0x80, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 63, u64::MAX];
        match self.next() % 4 {
            0 => CORNERS[(self.next() % 12) as usize],
            1 => self.next() >> (self.next() % 64),
            _ => self.next(),
        }
    }

    fn f32(&mut self) -> f32 {
        const CORNERS: [u32; 10] = [
            0,
            0x8000_0000,
            1,
            0x807f_ffff,
            0x7f80_0000,
            0xff80_0000,
            0x7fc0_0000,
            0x7f7f_ffff,
            0x3f80_0000,
            0x0080_0000,
        ];
        match self.next() % 8 {
            0 => f32::from_bits(CORNERS[(self.next() % 10) as usize]),
            1 | 2 => f32::from_bits(self.next() as u32),
            _ => {
                f32::from_bits(0x3000_0000 + (self.next() as u32 & 0x1fff_ffff))
                    * if self.next() & 1 == 0 { 1.0 } else { -1.0 }
            }
        }
    }
}

/// A lane function on one value in every lane.
fn apply(f: MapFn, x: [u64; 3], k: u32) -> u64 {
    let mut d: Lanes = [0; 32];
    f([&[x[0]; 32], &[x[1]; 32], &[x[2]; 32]], &mut d, k);
    assert!(d.iter().all(|&v| v == d[0]));
    d[0]
}

fn same32(got: u64, want: f32) -> bool {
    if want.is_nan() { got == 0x7fff_ffff } else { got == u64::from(want.to_bits()) }
}

/// Checks a rounding by its definition. `cmp` compares a value with the exact result.
fn is_rounded(bits: u64, f: Format, round: Round, cmp: impl Fn(f64) -> std::cmp::Ordering) -> bool {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let x = f.value(bits);
    let c = cmp(x);
    let (up, down) = (neighbour(bits, f, true), neighbour(bits, f, false));
    match round {
        Round::Down => c != Greater && cmp(up) == Greater,
        Round::Up => c != Less && cmp(down) == Less,
        Round::Zero if x == 0.0 => cmp(neighbour(0, f, true)) == Greater && cmp(-neighbour(0, f, true)) == Less,
        Round::Zero if x > 0.0 => c != Greater && cmp(up) == Greater,
        Round::Zero => c != Less && cmp(down) == Less,
        _ => c == Equal || cmp(up) == Greater && cmp(down) == Less,
    }
}

fn neighbour(bits: u64, f: Format, up: bool) -> f64 {
    let sign = 1u64 << (f.mantissa + f.exponent);
    let (negative, magnitude) = (bits & sign != 0, bits & (sign - 1));
    if magnitude == 0 {
        return if up { f.value(1) } else { -f.value(1) };
    }
    let next = if negative == up { magnitude - 1 } else { magnitude + 1 };
    if negative { -f.value(next) } else { f.value(next) }
}

#[test]
fn rounding_to_narrow_formats_agrees_with_half_and_with_the_definition() {
    let mut r = Random(1);
    for i in 0..200_000 {
        let x = if i % 3 == 0 { f64::from(r.f32()) } else { f64::from_bits(r.next()) };
        // Of a size that matters half the time.
        let x = if i % 2 == 0 { x } else { (r.next() as i64) as f64 * 2f64.powi(-(r.next() as i32 & 127)) };
        if x.is_nan() {
            continue;
        }
        // half drops the lower bits of an f64, those of an f32 it has all.
        let y = x as f32;
        assert_eq!(round_to(f64::from(y), F16, Round::Near), u64::from(f16::from_f32(y).to_bits()), "{y:e}");
        assert_eq!(round_to(f64::from(y), BF16, Round::Near), u64::from(bf16::from_f32(y).to_bits()), "{y:e}");
        assert_eq!(round_to(x, F32, Round::Near), u64::from((x as f32).to_bits()), "{x:e}");
        for f in [F16, BF16, F32] {
            for round in ROUNDS {
                let bits = round_to(x, f, round);
                if f.value(bits).is_finite() && f.value(bits).abs() < f.value(f.largest()) {
                    assert!(is_rounded(bits, f, round, |y| y.partial_cmp(&x).unwrap()), "{x:e} {f:?} {round:?}");
                }
            }
        }
    }
    // Overflow: to infinity or to the largest number, as the direction says.
    for (round, positive, negative) in [
        (Round::Near, 0x7c00, 0xfc00),
        (Round::Zero, 0x7bff, 0xfbff),
        (Round::Down, 0x7bff, 0xfc00),
        (Round::Up, 0x7c00, 0xfbff),
    ] {
        assert_eq!((round_to(1e9, F16, round), round_to(-1e9, F16, round)), (positive, negative));
    }
    assert_eq!(round_to(1e9, E4M3, Round::Near), 0x7e);
}

#[test]
fn every_f16_and_bf16_has_its_value() {
    for bits in 0..=u16::MAX {
        let (h, b) = (f16::from_bits(bits).to_f64(), bf16::from_bits(bits).to_f64());
        let (gh, gb) = (F16.value(u64::from(bits)), BF16.value(u64::from(bits)));
        assert!(gh.to_bits() == h.to_bits() || gh.is_nan() && h.is_nan(), "{bits:#x}");
        assert!(gb.to_bits() == b.to_bits() || gb.is_nan() && b.is_nan(), "{bits:#x}");
        let f = scalar(Ty::F32, Ty::F16, 0).unwrap();
        assert!(same32(apply(f, [u64::from(bits), 0, 0], 0), h as f32), "{bits:#x}");
    }
}

#[test]
fn f32_arithmetic_to_nearest_is_that_of_the_cpu() {
    let mut r = Random(2);
    type Reference = fn(f32, f32, f32) -> f32;
    let table: [(&str, Reference); 7] = [
        ("add", |a, b, _| a + b),
        ("sub", |a, b, _| a - b),
        ("mul", |a, b, _| a * b),
        ("div", |a, b, _| a / b),
        ("fma", f32::mul_add),
        ("sqrt", |a, _, _| a.sqrt()),
        ("rcp", |a, _, _| 1.0 / a),
    ];
    for (op, reference) in table {
        let f = arithmetic(op, Ty::F32, Mode::NEAR).unwrap();
        for _ in 0..50_000 {
            let (a, b, c) = (r.f32(), r.f32(), r.f32());
            let got = apply(f, [a, b, c].map(|x| u64::from(x.to_bits())), 0);
            assert!(same32(got, reference(a, b, c)), "{op} {a:e} {b:e} {c:e}: {got:#x}");
        }
    }
}

#[test]
fn f32_and_f16_arithmetic_rounds_in_every_direction() {
    let mut r = Random(3);
    type Exact = fn(f64, f64) -> f64;
    let f16_ops: [(&str, Exact); 3] = [("add", |a, b| a + b), ("mul", |a, b| a * b), ("sub", |a, b| a - b)];
    for round in ROUNDS {
        let mode = Mode { round, ..Mode::NEAR };
        for (op, exact) in f16_ops {
            // Sums and products of f16 are exact in f64.
            let f = arithmetic(op, Ty::F16, mode).unwrap();
            for _ in 0..20_000 {
                let (a, b) = (r.next() & 0xffff, r.next() & 0xffff);
                let want = exact(F16.value(a), F16.value(b));
                let want = if want.is_nan() { 0x7fff } else { round_to(want, F16, round) };
                assert_eq!(apply(f, [a, b, 0], mode.pack()), want, "{op} {a:#x} {b:#x} {round:?}");
            }
        }
        let f = arithmetic("div", Ty::F32, mode).unwrap();
        for _ in 0..20_000 {
            let (a, b) = (f64::from(r.f32()), f64::from(r.f32()));
            let bits = apply(f, [a as f32, b as f32, 0.0].map(|x: f32| u64::from(x.to_bits())), mode.pack());
            let y = F32.value(bits);
            if y.is_finite() && b.is_finite() && b != 0.0 && y.abs() < 1e30 {
                // y against a / b is y * b against a, and that product is exact.
                let cmp = |y: f64| (y * b.abs()).partial_cmp(&(a * b.signum())).unwrap();
                assert!(is_rounded(bits, F32, round, cmp), "{a:e} / {b:e} {round:?} {y:e}");
            }
        }
    }
}

#[test]
fn f64_arithmetic_rounds_in_every_direction() {
    let mut r = Random(4);
    let f64_format = soft::F64;
    for _ in 0..50_000 {
        // Integers, so that i128 has the exact result.
        let mut int = |bits: u32| (r.next() as i64 >> (64 - bits)) as f64;
        let (a, b, c) = (int(53), int(53), int(50) * 2f64.powi(int(6) as i32 + 32).floor());
        let exact = a as i128 * b as i128 + c as i128;
        for round in ROUNDS {
            let got = fma64(a, b, c, round);
            let cmp = |y: f64| (y as i128).cmp(&exact);
            if got.abs() > 1e6 {
                assert!(is_rounded(got.to_bits(), f64_format, round, cmp), "{a} * {b} + {c} {round:?}: {got}");
            }
            assert!(round != Round::Near || got == a.mul_add(b, c));
            let q = soft::div64(a, b, round);
            if b != 0.0 && a != 0.0 {
                let near = a / b;
                // The remainder of a quotient is exact.
                let rest = |q: f64| (-q).mul_add(b.abs(), a * b.signum());
                match round {
                    Round::Down => assert!(rest(q) >= 0.0 && rest(q.next_up()) < 0.0),
                    Round::Up => assert!(rest(q) <= 0.0 && rest(q.next_down()) > 0.0),
                    Round::Zero => assert!(q.abs() <= near.abs() && (q == near || q.abs().next_up() == near.abs())),
                    _ => assert_eq!(q, near),
                }
            }
            let x = a.abs();
            let s = soft::sqrt64(x, round);
            let rest = |s: f64| (-s).mul_add(s, x);
            match round {
                Round::Down | Round::Zero => assert!(rest(s) >= 0.0 && rest(s.next_up()) < 0.0, "sqrt {x} {s}"),
                Round::Up => assert!(x == 0.0 || rest(s) <= 0.0 && rest(s.next_down()) > 0.0),
                _ => assert_eq!(s, x.sqrt()),
            }
        }
    }
    assert_eq!(fma64(1.0, 1.0, -1.0, Round::Down).to_bits(), (-0.0f64).to_bits());
    assert_eq!(fma64(1.0, 1e-300, 1.0, Round::Up), 1f64.next_up());
}

#[test]
fn modes_flush_clamp_and_keep_signs() {
    let bits = |x: f32| u64::from(x.to_bits());
    let tiny = f32::from_bits(1);
    let add = |a: f32, b: f32, mode: Mode| {
        apply(arithmetic("add", Ty::F32, mode).unwrap(), [bits(a), bits(b), 0], mode.pack())
    };
    let ftz = Mode { ftz: true, ..Mode::NEAR };
    let sat = Mode { sat: true, ..Mode::NEAR };
    assert_eq!(add(tiny, tiny, ftz), 0);
    assert_eq!(add(tiny, tiny, Mode::NEAR), 2);
    assert_eq!(add(-tiny, -0.0, ftz), bits(-0.0));
    assert_eq!(add(1.0, 1.0, sat), bits(1.0));
    assert_eq!(add(-1.0, 0.5, sat), 0);
    assert_eq!(add(f32::NAN, 0.5, sat), 0);
    let relu = Mode { relu: true, ..Mode::NEAR };
    let fma = arithmetic("fma", Ty::F16x2, relu).unwrap();
    // (1 * -1 + 0, 1 * 1 + 1)
    assert_eq!(apply(fma, [0x3c00_3c00, 0x3c00_bc00, 0x3c00_0000], relu.pack()), 0x4000_0000);
    let max = |a: u64, b: u64, k| apply(extreme("max", Ty::F32, false).unwrap(), [a, b, 0], k);
    let min = |a: u64, b: u64, k| apply(extreme("min", Ty::F32, false).unwrap(), [a, b, 0], k);
    let nan = bits(f32::NAN);
    assert_eq!(max(nan, bits(1.0), 0), bits(1.0));
    assert_eq!(max(nan, bits(1.0), KEEP_NAN), 0x7fff_ffff);
    assert_eq!(max(nan, nan, 0), 0x7fff_ffff);
    assert_eq!((max(bits(-0.0), 0, 0), min(bits(-0.0), 0, 0), min(0, bits(-0.0), 0)), (0, bits(-0.0), bits(-0.0)));
    assert_eq!(max(bits(-3.0), bits(2.0), XOR_SIGN), bits(-3.0));
    assert_eq!(apply(sign("copysign", Ty::F32).unwrap(), [bits(-1.0), bits(2.0), 0], 0), bits(-2.0));
    assert_eq!(apply(sign("neg", Ty::Bf16x2).unwrap(), [0x3f80_bf80, 0, 0], 0), 0xbf80_3f80);
    let fh = mixed("fma", Ty::F16).unwrap();
    assert_eq!(apply(fh, [0x4000, 0x4200, bits(0.5)], 0), bits(6.5));
}

#[test]
fn integers_agree_with_i128() {
    let mut r = Random(6);
    type Reference = fn(i128, i128, i128, u32) -> i128;
    let table: [(&str, Reference); 13] = [
        ("add", |a, b, _, _| a + b),
        ("sub", |a, b, _, _| a - b),
        ("mul.lo", |a, b, _, _| a.wrapping_mul(b)),
        ("mad.lo", |a, b, c, _| a.wrapping_mul(b).wrapping_add(c)),
        ("min", |a, b, _, _| a.min(b)),
        ("max", |a, b, _, _| a.max(b)),
        ("sad", |a, b, c, _| (a - b).abs() + c),
        ("div", |a, b, _, _| if b == 0 { -1 } else { a / b }),
        ("rem", |a, b, _, _| if b == 0 { a } else { a % b }),
        ("and", |a, b, _, _| a & b),
        ("xor", |a, b, _, _| a ^ b),
        ("mul.hi", |a, b, _, n| {
            if n < 64 || (a >= 0 && b >= 0) { (a as u128).wrapping_mul(b as u128) as i128 >> n } else { (a * b) >> n }
        }),
        ("shr", |a, b, _, n| a >> (b as u32).min(n)),
    ];
    for ty in [Ty::U(16), Ty::S(16), Ty::U(32), Ty::S(32), Ty::U(64), Ty::S(64)] {
        let n = ty.bits();
        let extend =
            |x: u64| if ty.is_signed() { i128::from((x << (64 - n)) as i64 >> (64 - n)) } else { i128::from(x) };
        for (op, reference) in table {
            let f = integer(op, ty).unwrap_or_else(|| panic!("{op} {ty:?}"));
            for _ in 0..3000 {
                let x = [r.bits(), r.bits(), r.bits()].map(|v| v & mask_of(n));
                let mut e = x.map(extend);
                if op == "shr" {
                    e[1] = i128::from(x[1] as u32);
                }
                // The product of two large unsigned numbers needs all 128 bits.
                let want = match op {
                    "mul.hi" if ty == Ty::U(64) => ((u128::from(x[0]) * u128::from(x[1])) >> 64) as u64,
                    _ => reference(e[0], e[1], e[2], n) as u64,
                };
                assert_eq!(apply(f, x, 0), want & mask_of(n), "{op} {ty:?} {x:x?}");
            }
        }
    }
    let sat = integer("add.sat", Ty::S(32)).unwrap();
    assert_eq!(apply(sat, [0x7fff_ffff, 1, 0], 0), 0x7fff_ffff);
    let wide = integer("mad.wide", Ty::S(32)).unwrap();
    assert_eq!(apply(wide, [0xffff_ffff, 5, 3], 0), (-2i64) as u64);
    let mul24 = integer("mul24.hi", Ty::S(32)).unwrap();
    assert_eq!(apply(mul24, [0x80_0000, 0x40_0000, 0], 0), ((-(1i64 << 23) * (1 << 22)) >> 16) as u64 & 0xffff_ffff);
}

#[test]
fn bits_agree_with_their_definitions() {
    let mut r = Random(7);
    for _ in 0..20_000 {
        let (a, b, c) = (r.bits() as u32, r.bits() as u32, r.bits() as u32);
        let x = [u64::from(a), u64::from(b), u64::from(c)];
        let table = r.next() as u32 & 0xff;
        let bit = |v: u32, i: u32| v >> i & 1;
        let want = (0..32).fold(0, |d, i| d | (table >> (bit(a, i) << 2 | bit(b, i) << 1 | bit(c, i)) & 1) << i);
        assert_eq!(apply(lop3(), x, table), u64::from(want));
        // bfe, with the sign as the ISA says: bit min(pos + len - 1, 31).
        let (pos, len) = (b & 0xff, c & 0xff);
        for signed in [false, true] {
            let top = if len == 0 || !signed { 0 } else { bit(a, (pos + len - 1).min(31)) };
            let want = (0..32).fold(0, |d, i| d | (if i < len && pos + i <= 31 { bit(a, pos + i) } else { top }) << i);
            let ty = if signed { Ty::S(32) } else { Ty::U(32) };
            assert_eq!(apply(integer("bfe", ty).unwrap(), x, 0), u64::from(want), "bfe {signed} {a:#x} {pos} {len}");
        }
        let want = (0..32).fold(b, |d, i| {
            let at = u64::from(pos) + u64::from(i);
            if i < len && at < 32 { d & !(1 << at) | bit(a, i) << at } else { d }
        });
        assert_eq!(insert(32, x[0], x[1], pos, len), u64::from(want), "bfi");
        let bytes: Vec<u8> = [a.to_le_bytes(), b.to_le_bytes()].concat();
        let want = (0..4).fold(0u32, |d, i| {
            let s = c >> (4 * i);
            let byte = bytes[s as usize & 7];
            d | u32::from(if s & 8 == 0 {
                byte
            } else if byte & 0x80 != 0 {
                0xff
            } else {
                0
            }) << (8 * i)
        });
        assert_eq!(apply(prmt(None).unwrap(), x, 0), u64::from(want));
        let both = u64::from(b) << 32 | u64::from(a);
        assert_eq!(apply(funnel(true, true), x, 0), (both << (c & 31)) >> 32);
        assert_eq!(apply(funnel(false, true), x, 0), (both >> (c & 31)) & 0xffff_ffff);
        assert_eq!(apply(funnel(true, false), x, 0), if c >= 32 { u64::from(a) } else { (both << c) >> 32 });
        assert_eq!(apply(funnel(false, false), x, 0), if c >= 32 { u64::from(b) } else { (both >> c) & 0xffff_ffff });
        let dot = |sa: bool, sb: bool| {
            let byte = |v: u32, i: usize, s: bool| {
                if s { i64::from(v.to_le_bytes()[i] as i8) } else { i64::from(v.to_le_bytes()[i]) }
            };
            (0..4).fold(i64::from(c as i32), |d, i| d + byte(a, i, sa) * byte(b, i, sb)) as u32
        };
        for (sa, sb) in [(false, false), (false, true), (true, false), (true, true)] {
            assert_eq!(apply(dp4a(sa, sb), x, 0), u64::from(dot(sa, sb)));
        }
        let half = |i: u32| i64::from((a >> (16 * i)) as i16);
        let byte = |i: u32| i64::from((b >> (8 * i)) as i8);
        let want = i64::from(c as i32) + half(0) * byte(2) + half(1) * byte(3);
        assert_eq!(apply(dp2a(), x, 7), u64::from(want as u32));
        assert_eq!(apply(integer("bfind", Ty::U(32)).unwrap(), x, 0), u64::from(a.checked_ilog2().unwrap_or(u32::MAX)));
    }
}

#[test]
fn carries_go_from_word_to_word() {
    let mut r = Random(8);
    for _ in 0..5000 {
        let (a, b) = (r.bits(), r.bits());
        let words = |x: u64| [x & 0xffff_ffff, x >> 32];
        let (a32, b32) = (words(a), words(b));
        for (op, want) in [(Chain::Add, a.wrapping_add(b)), (Chain::Sub, a.wrapping_sub(b))] {
            let (low, carry) = chain(op, 32, [a32[0], b32[0], 0], false);
            let (high, _) = chain(op, 32, [a32[1], b32[1], 0], carry);
            assert_eq!(high << 32 | low, want);
        }
        // 64 x 64 bits from 32-bit parts, the low 64.
        let (low, _) = chain(Chain::MadLo, 32, [a32[0], b32[0], 0], false);
        let (mid, _) = chain(Chain::MadHi { signed: false }, 32, [a32[0], b32[0], 0], false);
        let (mid, _) = chain(Chain::MadLo, 32, [a32[0], b32[1], mid], false);
        let (mid, _) = chain(Chain::MadLo, 32, [a32[1], b32[0], mid], false);
        assert_eq!(mid << 32 | low, a.wrapping_mul(b));
    }
}

#[test]
fn conversions_agree_with_rust_and_half() {
    let mut r = Random(9);
    for _ in 0..50_000 {
        let (x, bits) = (r.f32(), r.bits());
        let fx = u64::from(x.to_bits());
        let k = |round| Mode { round, ..Mode::NEAR }.pack();
        let cvt = |d, s, v, k| apply(scalar(d, s, k).unwrap(), [v, 0, 0], k);
        // Rust's casts truncate and saturate.
        assert_eq!(cvt(Ty::S(32), Ty::F32, fx, k(Round::Zero)), u64::from(x as i32 as u32));
        assert_eq!(cvt(Ty::U(8), Ty::F32, fx, k(Round::Zero)), u64::from(x as u8));
        assert_eq!(cvt(Ty::S(32), Ty::F32, fx, k(Round::Near)), u64::from(x.round_ties_even() as i32 as u32));
        assert_eq!(cvt(Ty::U(32), Ty::F32, fx, k(Round::Up)), u64::from(x.ceil() as u32));
        let nan = x.is_nan();
        assert_eq!(cvt(Ty::S(64), Ty::F32, fx, k(Round::Down)), if nan { 1 << 63 } else { x.floor() as i64 as u64 });
        assert!(same32(cvt(Ty::F32, Ty::S(64), bits, k(Round::Near)), bits as i64 as f32));
        assert!(same32(cvt(Ty::F32, Ty::U(64), bits, k(Round::Near)), bits as f32));
        assert_eq!(cvt(Ty::F64, Ty::U(64), bits, k(Round::Near)), (bits as f64).to_bits());
        assert_eq!(cvt(Ty::F64, Ty::S(64), bits, k(Round::Near)), (bits as i64 as f64).to_bits());
        assert_eq!(cvt(Ty::F16, Ty::S(32), bits, k(Round::Near)), round_to(f64::from(bits as i32), F16, Round::Near));
        let h = if nan { 0x7fff } else { f16::from_f32(x).to_bits() };
        assert_eq!(cvt(Ty::F16, Ty::F32, fx, k(Round::Near)), u64::from(h));
        let b = if nan { 0x7fff } else { bf16::from_f32(x).to_bits() };
        assert_eq!(cvt(Ty::Bf16, Ty::F32, fx, k(Round::Near)), u64::from(b));
        let both = apply(pair(Ty::F16x2).unwrap(), [fx, u64::from(1f32.to_bits()), 0], 0);
        assert_eq!(both, u64::from(h) << 16 | 0x3c00);
        let integral = k(Round::Near) | INTEGRAL;
        assert!(same32(cvt(Ty::F32, Ty::F32, fx, integral), x.round_ties_even()));
        assert_eq!(cvt(Ty::S(8), Ty::S(32), bits, 16), (bits as i32).clamp(-128, 127) as u8 as u64);
        assert_eq!(apply(sign_extend(), [bits & 0xff, 0, 0], 8 | 32 << 8), u64::from(bits as i8 as i32 as u32));
    }
    let tf32 = apply(
        scalar(Ty::Tf32, Ty::F32, Mode { round: Round::Away, ..Mode::NEAR }.pack()).unwrap(),
        [0x3f80_1000, 0, 0],
        4,
    );
    assert_eq!(tf32, 0x3f80_2000);
    let e4m3 = pair(Ty::E4m3x2).unwrap();
    assert_eq!(
        apply(
            e4m3,
            [1f32, -1e9].map(|x| u64::from(x.to_bits())).into_iter().chain([0]).collect::<Vec<_>>().try_into().unwrap(),
            FINITE
        ),
        0x38fe
    );
}

#[test]
fn comparisons_know_order_and_nans() {
    let values = [f32::NAN, f32::NEG_INFINITY, -1.0, -0.0, 0.0, 1e-40, 1.0, f32::INFINITY];
    for a in values {
        for b in values {
            let order = a.partial_cmp(&b);
            let holds = |op: &str| {
                compare(op, Ty::F32).unwrap()([&[u64::from(a.to_bits()); 32], &[u64::from(b.to_bits()); 32]], 0)
                    == u32::MAX
            };
            use std::cmp::Ordering::{Equal, Greater, Less};
            for (op, orders) in [
                ("eq", &[Equal][..]),
                ("ne", &[Less, Greater]),
                ("lt", &[Less]),
                ("le", &[Less, Equal]),
                ("gt", &[Greater]),
                ("ge", &[Greater, Equal]),
            ] {
                let want = order.is_some_and(|o| orders.contains(&o));
                assert_eq!(holds(op), want, "{a} {op} {b}");
                assert_eq!(holds(&format!("{op}u")), want || order.is_none(), "{a} {op}u {b}");
            }
            assert_eq!(holds("num"), order.is_some());
            assert_eq!(holds("nan"), order.is_none());
        }
        let is = |class: &str| classify(class, Ty::F32).unwrap()([&[u64::from(a.to_bits()); 32]; 2], 0) != 0;
        assert_eq!(is("finite"), a.is_finite());
        assert_eq!(is("subnormal"), a.is_subnormal());
        assert_eq!(is("notanumber"), a.is_nan());
    }
    let less = compare("lt", Ty::S(32)).unwrap();
    assert_eq!(less([&[0xffff_ffff; 32], &[0; 32]], 0), u32::MAX);
    let lower = compare("lo", Ty::U(32)).unwrap();
    assert_eq!(lower([&[0xffff_ffff; 32], &[0; 32]], 0), 0);
    assert!(compare("lo", Ty::S(32)).is_none() && compare("lt", Ty::B(32)).is_none());
}
