//! Rounding, exact. A result in a format narrower than f64 is first computed in f64 *rounded to odd* (inexact results get
//! an odd last bit), which loses nothing that a later rounding to at most 51 bits could see; [`round_to`] then rounds once,
//! in any direction. Results in f64 itself come from hardware when rounding to nearest, and from [`pack`] otherwise.

use crate::types::{Mode, Round};

/// An IEEE-like binary format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    /// Stored bits of the mantissa.
    pub(crate) mantissa: u32,
    /// Bits of the exponent.
    pub(crate) exponent: u32,
    /// All exponents are finite but for one nan; overflow saturates (e4m3).
    pub(crate) finite: bool,
}

pub(crate) const F16: Format = Format { mantissa: 10, exponent: 5, finite: false };
pub(crate) const BF16: Format = Format { mantissa: 7, exponent: 8, finite: false };
pub(crate) const TF32: Format = Format { mantissa: 10, exponent: 8, finite: false };
pub(crate) const F32: Format = Format { mantissa: 23, exponent: 8, finite: false };
pub(crate) const F64: Format = Format { mantissa: 52, exponent: 11, finite: false };
pub(crate) const E4M3: Format = Format { mantissa: 3, exponent: 4, finite: true };
pub(crate) const E5M2: Format = Format { mantissa: 2, exponent: 5, finite: false };

impl Format {
    fn min_exponent(self) -> i32 {
        2 - (1 << (self.exponent - 1))
    }

    fn sign(self) -> u64 {
        1 << (self.mantissa + self.exponent)
    }

    /// Bits of infinity, or what would be it.
    pub(crate) fn infinity(self) -> u64 {
        ((1 << self.exponent) - 1) << self.mantissa
    }

    /// Bits of the largest finite number.
    pub(crate) fn largest(self) -> u64 {
        if self.finite { self.sign() - 2 } else { self.infinity() - 1 }
    }

    /// The canonical nan: all bits but the sign.
    pub(crate) fn nan(self) -> u64 {
        self.sign() - 1
    }

    fn overflow(self, negative: bool, round: Round) -> u64 {
        let away = match round {
            Round::Near | Round::Away => true,
            Round::Zero => false,
            Round::Down => negative,
            Round::Up => !negative,
        };
        if away && !self.finite { self.infinity() } else { self.largest() }
    }

    /// The distance of neighbours at a number, not zero.
    pub(crate) fn ulp(self, x: f64) -> f64 {
        let exponent = (x.to_bits() >> 52 & 0x7ff) as i32 - 1023;
        f64::from(exponent.max(self.min_exponent()) - self.mantissa as i32).exp2()
    }

    /// The value of the bits; exact for all formats here.
    pub(crate) fn value(self, bits: u64) -> f64 {
        let sign = if bits & self.sign() != 0 { -1.0 } else { 1.0 };
        let magnitude = bits & (self.sign() - 1);
        let exponent = (magnitude >> self.mantissa) as i32;
        let mantissa = magnitude & ((1 << self.mantissa) - 1);
        if self.finite {
            if magnitude == self.nan() {
                return f64::NAN;
            }
        } else if magnitude >= self.infinity() {
            return if magnitude == self.infinity() { sign * f64::INFINITY } else { f64::NAN };
        }
        let (m, e) = if exponent == 0 { (mantissa, 1) } else { (mantissa | 1 << self.mantissa, exponent) };
        let power = e - 1 + self.min_exponent() - self.mantissa as i32;
        sign * m as f64 * f64::from_bits(((1023 + power) as u64) << 52)
    }
}

/// Rounds to a format of at most 51 mantissa bits. No nan.
#[inline]
pub(crate) fn round_to(x: f64, f: Format, round: Round) -> u64 {
    let bits = x.to_bits();
    let negative = bits >> 63 != 0;
    let sign = if negative { f.sign() } else { 0 };
    let field = (bits >> 52 & 0x7ff) as i32;
    let fraction = bits & ((1 << 52) - 1);
    if field == 0x7ff {
        return sign | if f.finite { f.largest() } else { f.infinity() };
    }
    let (m, e) = if field == 0 { (fraction, -1022) } else { (fraction | 1 << 52, field - 1023) };
    let min = f.min_exponent();
    let drop = (52 - f.mantissa as i32 + (min - e).max(0)).min(62) as u32;
    let half = 1u64 << (drop - 1);
    let up = match round {
        Round::Near => half - 1 + (m >> drop & 1),
        Round::Away => half,
        Round::Zero => 0,
        Round::Down => {
            if negative {
                2 * half - 1
            } else {
                0
            }
        }
        Round::Up => {
            if negative {
                0
            } else {
                2 * half - 1
            }
        }
    };
    let q = (m + up) >> drop;
    let magnitude = (((e.max(min) - min) as u64) << f.mantissa) + q;
    sign | if magnitude > f.largest() { f.overflow(negative, round) } else { magnitude }
}

/// The bits of `mantissa * 2^exponent`, rounded.
pub(crate) fn pack(negative: bool, mantissa: u128, exponent: i32, f: Format, round: Round) -> u64 {
    let sign = if negative { f.sign() } else { 0 };
    if mantissa == 0 {
        return sign;
    }
    let e = exponent + 127 - mantissa.leading_zeros() as i32;
    let min = f.min_exponent();
    let shift = e.max(min) - f.mantissa as i32 - exponent;
    let q = if shift <= 0 {
        (mantissa << -shift) as u64
    } else {
        let (kept, rest, half) = match shift as u32 {
            s @ 1..=127 => (mantissa >> s, mantissa & ((1 << s) - 1), 1u128 << (s - 1)),
            // Less than half of the last place.
            _ => (0, 1, 2),
        };
        let up = match round {
            Round::Near => rest > half || (rest == half && kept & 1 != 0),
            Round::Away => rest >= half,
            Round::Zero => false,
            Round::Down => rest != 0 && negative,
            Round::Up => rest != 0 && !negative,
        };
        kept as u64 + u64::from(up)
    };
    let magnitude = (((e.max(min) - min) as u64) << f.mantissa) + q;
    sign | if magnitude > f.largest() { f.overflow(negative, round) } else { magnitude }
}

/// An integer as f64, rounded to odd.
pub(crate) fn odd_from_int(x: i128) -> f64 {
    let magnitude = x.unsigned_abs();
    let bits = 128 - magnitude.leading_zeros();
    let drop = bits.saturating_sub(53);
    let kept = magnitude >> drop;
    let odd = kept | u128::from(kept << drop != magnitude);
    let value = odd as f64 * 2f64.powi(drop as i32);
    if x < 0 { -value } else { value }
}

/// `s` with its last bit made odd if `error`, what it lacks, is not zero.
#[inline]
fn odd(s: f64, error: f64) -> f64 {
    let bits = s.to_bits();
    if error == 0.0 || bits & 1 != 0 || !s.is_finite() || error.is_nan() {
        return s;
    }
    f64::from_bits(if (error > 0.0) == (s > 0.0) { bits + 1 } else { bits - 1 })
}

/// `a + b` rounded to odd.
#[inline]
pub(crate) fn odd_add(a: f64, b: f64) -> f64 {
    let s = a + b;
    let virtual_b = s - a;
    odd(s, (a - (s - virtual_b)) + (b - virtual_b))
}

/// `a * b + c` rounded to odd, of operands of at most 26 bits.
#[inline]
pub(crate) fn odd_fma(a: f64, b: f64, c: f64) -> f64 {
    odd_add(a * b, c)
}

/// `a / b` rounded to odd, of operands from f32.
pub(crate) fn odd_div(a: f64, b: f64) -> f64 {
    let q = a / b;
    let rest = (-q).mul_add(b, a);
    odd(q, if b < 0.0 { -rest } else { rest })
}

/// The square root rounded to odd, of an operand from f32.
pub(crate) fn odd_sqrt(a: f64) -> f64 {
    let q = a.sqrt();
    odd(q, (-q).mul_add(q, a))
}

/// Mantissa and exponent of a finite f64.
fn split(x: f64) -> (bool, u128, i32) {
    let bits = x.to_bits();
    let field = (bits >> 52 & 0x7ff) as i32;
    let fraction = u128::from(bits & ((1 << 52) - 1));
    let (m, e) = if field == 0 { (fraction, -1074) } else { (fraction | 1 << 52, field - 1075) };
    (bits >> 63 != 0, m, e)
}

/// `a * b + c` in f64, rounded once.
pub(crate) fn fma64(a: f64, b: f64, c: f64, round: Round) -> f64 {
    let near = a.mul_add(b, c);
    let product = a * b;
    if round == Round::Near || !a.is_finite() || !b.is_finite() || !c.is_finite() {
        return near;
    }
    let ((sa, ma, ea), (sb, mb, eb), (sc, mc, ec)) = (split(a), split(b), split(c));
    let (sp, mp, ep) = (sa != sb, ma * mb, ea + eb);
    if mp == 0 && mc == 0 {
        // Zeros of unlike signs add up to -0 when rounding down.
        return if sp == sc {
            c
        } else if round == Round::Down {
            -0.0
        } else {
            product + c
        };
    }
    // Both as wide as possible on one exponent; what falls off the end stays as a sticky bit.
    let top = |m: u128, e: i32| if m == 0 { i32::MIN } else { e + 128 - m.leading_zeros() as i32 };
    let unit = top(mp, ep).max(top(mc, ec)) - 125;
    let align = |m: u128, e: i32| {
        let shift = unit - e;
        match shift {
            ..=0 if m == 0 => 0,
            ..=0 => m << -shift,
            1..=127 => m >> shift | u128::from(m & ((1 << shift) - 1) != 0),
            _ => u128::from(m != 0),
        }
    };
    let (p, c) = (align(mp, ep) as i128, align(mc, ec) as i128);
    let sum = if sp { -p } else { p } + if sc { -c } else { c };
    if sum == 0 {
        return if round == Round::Down { -0.0 } else { 0.0 };
    }
    f64::from_bits(pack(sum < 0, sum.unsigned_abs(), unit, F64, round))
}

/// `a / b` in f64, rounded once.
pub(crate) fn div64(a: f64, b: f64, round: Round) -> f64 {
    let near = a / b;
    if round == Round::Near || !a.is_finite() || !b.is_finite() || a == 0.0 || b == 0.0 {
        return near;
    }
    let ((sa, ma, ea), (sb, mb, eb)) = (split(a), split(b));
    // The divisor as a 53-bit number, so that the quotient has at least 65 bits.
    let room = mb.leading_zeros() - 75;
    let (mb, eb) = (mb << room, eb - room as i32);
    let lift = ma.leading_zeros();
    let (ma, ea) = (ma << lift, ea - lift as i32);
    let q = ma / mb;
    f64::from_bits(pack(sa != sb, q << 1 | u128::from(q * mb != ma), ea - eb - 1, F64, round))
}

/// The square root in f64, rounded once.
pub(crate) fn sqrt64(a: f64, round: Round) -> f64 {
    if round == Round::Near || !a.is_finite() || a <= 0.0 {
        return a.sqrt();
    }
    let (_, m, e) = split(a);
    let lift = (m.leading_zeros() - 2) & !1 | (e & 1) as u32;
    let (m, e) = (m << lift, e - lift as i32);
    let root = m.isqrt();
    f64::from_bits(pack(false, root << 1 | u128::from(root * root != m), e / 2 - 1, F64, round))
}

/// Zero of the same sign instead of a subnormal number.
#[inline]
pub(crate) fn flush32(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}

/// The bits in f32 of an exact or odd f64, as the mode asks for.
#[inline]
pub(crate) fn to_f32(x: f64, mode: Mode) -> u32 {
    if x.is_nan() {
        return if mode.sat { 0 } else { F32.nan() as u32 };
    }
    let mut y = if mode.round == Round::Near { x as f32 } else { f32::from_bits(round_to(x, F32, mode.round) as u32) };
    if mode.ftz {
        y = flush32(y);
    }
    if mode.sat {
        // -0 becomes +0 as well.
        y = if y > 0.0 { y.min(1.0) } else { 0.0 };
    }
    if mode.relu && y <= 0.0 {
        y = 0.0;
    }
    y.to_bits()
}
