//! Approximate instructions. [`ROWS`] has for each what it approximates and the error that the PTX ISA allows. With seed 0
//! the result is the exact value, rounded once. With any other it has an error within that bound: a fixed function of the
//! instruction, the bits of its operands and the seed. Results that the ISA fixes (zeros, infinities, nans, `ex2` and `cos`
//! of zero) have none.

use super::float::{Brain, Half, Narrow, Single};
use super::soft::{BF16, F16, F32, Format, Specials};
use super::{Bits, Lanes, WARP};
use crate::types::{Mode, Ty, mask_of};
use std::f64::consts::PI;

/// A largest error.
#[derive(Debug, Clone, Copy)]
enum Bound {
    /// In units of the last place of the exact result.
    Ulps(f64),
    /// As a power of two, times the exact result.
    Relative(f64),
    /// As a power of two.
    Absolute(f64),
}

/// The bound for operands of a range of magnitudes; the first piece that has the operand counts.
#[derive(Debug)]
struct Piece {
    above: f64,
    up_to: f64,
    bound: Bound,
}

const fn always(bound: Bound) -> [Piece; 1] {
    [Piece { above: 0.0, up_to: f64::INFINITY, bound }]
}

/// A format of operands and results.
#[derive(Debug)]
struct Kind {
    format: Format,
    /// Bits of a register below the format's.
    low: u32,
    load: fn(u64, Mode) -> f64,
    store: fn(f64, Mode) -> u64,
}

const SINGLE: Kind = Kind { format: F32, low: 0, load: Single::load, store: Single::store };
const HALF: Kind = Kind { format: F16, low: 0, load: Half::load, store: Half::store };
const BRAIN: Kind = Kind { format: BF16, low: 0, load: Brain::load, store: Brain::store };
/// The upper half of an f64.
const UPPER: Kind = Kind {
    format: Format { mantissa: 20, exponent: 11, specials: Specials::Ieee },
    low: 32,
    load: |bits, _| flush64(f64::of(bits)),
    store: |x, _| flush64(x).bits() & !0xffff_ffff,
};

/// Zero of the same sign instead of a subnormal number.
fn flush64(x: f64) -> f64 {
    if x.is_subnormal() { 0f64.copysign(x) } else { x }
}

/// An approximate instruction.
#[derive(Debug)]
pub(crate) struct Row {
    op: &'static str,
    kind: Kind,
    exact: fn(f64, f64) -> f64,
    /// By the magnitude of the last operand.
    error: &'static [Piece],
}

const fn row(op: &'static str, kind: Kind, exact: fn(f64, f64) -> f64, error: &'static [Piece]) -> Row {
    Row { op, kind, exact, error }
}

const ONE_ULP: &[Piece] = &always(Bound::Ulps(1.0));
const TWO_ULPS: &[Piece] = &always(Bound::Ulps(2.0));
/// Beyond the last range the ISA promises only its best effort.
const CIRCULAR: &[Piece] = &[
    Piece { above: 0.0, up_to: 2.0 * PI, bound: Bound::Absolute(-20.5) },
    Piece { above: 2.0 * PI, up_to: f64::INFINITY, bound: Bound::Absolute(-14.7) },
];
const LOGARITHM: &[Piece] = &[
    Piece { above: 0.5, up_to: 2.0, bound: Bound::Absolute(-22.0) },
    Piece { above: 0.0, up_to: f64::INFINITY, bound: Bound::Relative(-22.0) },
];

/// All of them. Of the upper halves the ISA says only that they are coarse.
static ROWS: &[Row] = &[
    row("rcp", SINGLE, |x, _| 1.0 / x, ONE_ULP),
    row("rcp", UPPER, |x, _| 1.0 / x, ONE_ULP),
    row("sqrt", SINGLE, |x, _| x.sqrt(), &always(Bound::Relative(-23.0))),
    row("rsqrt", SINGLE, |x, _| 1.0 / x.sqrt(), &always(Bound::Relative(-22.9))),
    row("rsqrt", UPPER, |x, _| 1.0 / x.sqrt(), ONE_ULP),
    row("div.approx", SINGLE, divide_by_reciprocal, TWO_ULPS),
    row("div.full", SINGLE, |x, y| x / y, TWO_ULPS),
    row("ex2", SINGLE, |x, _| x.exp2(), TWO_ULPS),
    row("ex2", HALF, |x, _| x.exp2(), &always(Bound::Relative(-9.9))),
    row("ex2", BRAIN, |x, _| x.exp2(), &always(Bound::Relative(-7.0))),
    row("lg2", SINGLE, |x, _| x.log2(), LOGARITHM),
    row("sin", SINGLE, |x, _| x.sin(), CIRCULAR),
    row("cos", SINGLE, |x, _| x.cos(), CIRCULAR),
    row("tanh", SINGLE, |x, _| x.tanh(), &always(Bound::Relative(-11.0))),
    row("tanh", HALF, |x, _| x.tanh(), &always(Bound::Absolute(-10.987))),
    row("tanh", BRAIN, |x, _| x.tanh(), &always(Bound::Absolute(-8.0))),
];

/// `div.approx` multiplies by the reciprocal, which is zero for the largest divisors.
fn divide_by_reciprocal(x: f64, y: f64) -> f64 {
    let largest = 2f64.powi(126);
    if y.abs() > largest && y.is_finite() { x * 0f64.copysign(y) } else { x / y }
}

/// The row of an instruction (`div` with its kind of approximation), for operands of a type.
pub(crate) fn approximate(op: &str, ty: Ty) -> Option<&'static Row> {
    let format = match ty {
        Ty::F32 => F32,
        Ty::F16 | Ty::F16x2 => F16,
        Ty::Bf16 | Ty::Bf16x2 => BF16,
        Ty::F64 => UPPER.format,
        _ => return None,
    };
    ROWS.iter().find(|r| r.op == op && r.kind.format == format)
}

impl Row {
    /// The results for registers of a type.
    pub(crate) fn lanes(&self, ty: Ty, x: [&Lanes; 2], d: &mut Lanes, k: u32, seed: u64) {
        let width = self.kind.width();
        for i in 0..WARP {
            d[i] = 0;
            for shift in (0..ty.bits()).step_by(width as usize) {
                let part = |v: u64| v >> shift & mask_of(width);
                d[i] |= self.value([part(x[0][i]), part(x[1][i])], k, seed) << shift;
            }
        }
    }

    fn value(&self, bits: [u64; 2], k: u32, seed: u64) -> u64 {
        let (kind, mode) = (&self.kind, Mode::unpack(k));
        let [x, y] = bits.map(|b| (kind.load)(b, mode));
        let exact = (self.exact)(x, y);
        let rounded = (kind.store)(exact, mode);
        if seed == 0 || self.is_fixed(x, y, exact) {
            return rounded;
        }
        let format = kind.format;
        let magnitude = kind.magnitude(rounded);
        if magnitude == 0 || magnitude >= format.infinity() {
            return rounded;
        }
        let bound = self.bound(if self.has_two() { y } else { x }, exact);
        let name = self.op.bytes().fold(u64::from(k), |h, b| mix(h ^ u64::from(b)));
        let random = bits.iter().fold(mix(name ^ seed), |h, b| mix(h ^ b));
        // A quarter of the errors are the largest.
        let part = match random & 7 {
            0 => 1.0,
            1 => -1.0,
            _ => (random >> 11) as f64 / (1u64 << 52) as f64 - 1.0,
        };
        // What is no subnormal number or finite stays so.
        let least = if mode.ftz { kind.least() } else { 0.0 };
        let most = (kind.load)(format.largest() << kind.low, Mode::NEAR);
        let wanted = exact + part * bound;
        let wanted = wanted.abs().clamp(least, most).copysign(wanted);
        let got = (kind.store)(wanted, mode);
        if ((kind.load)(got, Mode::NEAR) - exact).abs() <= bound { got } else { rounded }
    }

    fn has_two(&self) -> bool {
        self.op.starts_with("div")
    }

    /// Whether the ISA fixes the result.
    fn is_fixed(&self, x: f64, y: f64, exact: f64) -> bool {
        let special = |v: f64| v == 0.0 || !v.is_finite();
        let tiny = x.abs() < self.kind.least();
        special(x) || (self.has_two() && special(y)) || special(exact) || (tiny && exact == 1.0)
    }

    /// The largest error for an operand, at least that of rounding.
    fn bound(&self, operand: f64, exact: f64) -> f64 {
        let format = self.kind.format;
        let ulp = format.ulp(exact);
        let has = |p: &&Piece| operand.abs() > p.above && operand.abs() <= p.up_to;
        let bound = match self.error.iter().find(has).map(|p| p.bound) {
            Some(Bound::Ulps(n)) => n * ulp,
            Some(Bound::Relative(power)) => power.exp2() * exact.abs(),
            Some(Bound::Absolute(power)) => power.exp2(),
            None => 0.0,
        };
        bound.max(ulp / 2.0)
    }
}

impl Kind {
    /// Bits of an operand.
    fn width(&self) -> u32 {
        1 + self.format.exponent + self.format.mantissa + self.low
    }

    /// The smallest number that is not subnormal.
    fn least(&self) -> f64 {
        (self.load)(1 << (self.format.mantissa + self.low), Mode::NEAR)
    }

    /// The bits of the format but for the sign.
    fn magnitude(&self, bits: u64) -> u64 {
        bits >> self.low & self.format.nan()
    }
}

/// Mixes bits (SplitMix64).
fn mix(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEDS: [u64; 3] = [1, 7, 12345];

    /// Operands of a row: edges, and bits at random.
    fn operands(row: &Row) -> Vec<u64> {
        let f = row.kind.format;
        let one = ((1 << (f.exponent - 1)) - 1) << f.mantissa;
        let edges =
            [0, 1, f.infinity() - 1, f.infinity(), f.nan(), 1 << f.mantissa, (1 << f.mantissa) - 1, one, one + 1];
        let mut all: Vec<u64> = edges.iter().flat_map(|&m| [m, m | (f.nan() + 1)]).collect();
        let mut state = 3;
        for i in 0..4000 {
            state = mix(state);
            let any = state & mask_of(row.kind.width() - row.kind.low);
            // Most are of moderate size, where functions are neither zero nor infinite.
            let near = (one as i64 + ((any & f.nan()) as i64 - one as i64) / 16) as u64;
            all.push(if i % 4 == 0 { any } else { near & f.nan() | any & (f.nan() + 1) });
        }
        all.iter().map(|m| m << row.kind.low).collect()
    }

    fn modes(row: &Row) -> Vec<Mode> {
        let ftz = Mode { ftz: true, ..Mode::NEAR };
        if row.kind.low > 0 { vec![ftz] } else { vec![Mode::NEAR, ftz] }
    }

    /// Of each instruction in its modes: that errors are within what the ISA says and real, and that the seed decides.
    #[test]
    fn errors_are_within_the_bounds_and_a_function_of_bits_and_seed() {
        for row in ROWS {
            let all = operands(row);
            for mode in modes(row) {
                let k = mode.pack();
                let (mut wrong, mut differ, mut beyond_half) = (0, 0, 0);
                for (i, &x) in all.iter().enumerate() {
                    let y = all[i * 7 % all.len()];
                    let exact = row.value([x, y], k, 0);
                    let results = SEEDS.map(|seed| row.value([x, y], k, seed));
                    assert_eq!(results, SEEDS.map(|seed| row.value([x, y], k, seed)));
                    differ += u32::from(results[0] != results[1]);
                    for got in results {
                        wrong += u32::from(got != exact);
                        let name = format!("{} {:#x} {:#x} {mode:?}: {got:#x}, exact {exact:#x}", row.op, x, y);
                        let (a, b) = ((row.kind.load)(x, mode), (row.kind.load)(y, mode));
                        let want = (row.exact)(a, b);
                        let value = (row.kind.load)(got, Mode::NEAR);
                        // These do not come from the table: what the ISA says in words.
                        let ulp = row.kind.format.ulp(want);
                        let (size, last) = (want.abs(), if row.op.starts_with("div") { b.abs() } else { a.abs() });
                        let allowed = match (row.op, row.kind.format.mantissa) {
                            ("rcp", _) | ("rsqrt", 20) => ulp,
                            ("div.approx" | "div.full", _) | ("ex2", 23) => 2.0 * ulp,
                            ("sqrt", _) => size / 8388608.0,
                            ("rsqrt", _) => size * (-22.9f64).exp2(),
                            ("ex2", 10) => size * (-9.9f64).exp2(),
                            ("ex2", _) => size / 128.0,
                            ("lg2", _) if last > 0.5 && last < 2.0 => 1.0 / 4194304.0,
                            ("lg2", _) => size / 4194304.0,
                            ("sin" | "cos", _) if last <= 2.0 * PI => (-20.5f64).exp2(),
                            ("sin" | "cos", _) => (-14.7f64).exp2(),
                            ("tanh", 23) => size / 2048.0,
                            ("tanh", 10) => (-10.987f64).exp2(),
                            ("tanh", _) => 1.0 / 256.0,
                            other => panic!("{other:?} is not checked"),
                        };
                        if !want.is_finite() || want == 0.0 || row.kind.magnitude(exact) == 0 {
                            assert_eq!(got, exact, "{name}");
                        } else if (row.kind.load)(exact, Mode::NEAR).is_finite() {
                            let rounding = if row.kind.low > 0 { ulp } else { ulp / 2.0 };
                            assert!((value - want).abs() <= allowed.max(rounding), "{name}: {value:e} is not {want:e}");
                            beyond_half += u32::from((value - want).abs() > 0.6 * allowed);
                        }
                    }
                }
                let n = all.len() as u32;
                assert!(wrong > n / 8 && differ > n / 16, "{} {mode:?}: {wrong} and {differ} of {n}", row.op);
                assert!(beyond_half > n / 50, "{} {mode:?}: {beyond_half} of {n} errors are large", row.op);
            }
        }
    }

    #[test]
    fn special_values_are_what_the_isa_says() {
        let ftz = Mode { ftz: true, ..Mode::NEAR }.pack();
        let (inf, nan, tiny) = (f32::INFINITY, f32::NAN, 1e-40f32);
        let table: &[(&str, u32, [f32; 2], f32)] = &[
            ("rcp", 0, [0.0, 0.0], inf),
            ("rcp", 0, [-0.0, 0.0], -inf),
            ("rcp", 0, [-inf, 0.0], -0.0),
            ("rcp", ftz, [-tiny, 0.0], -inf),
            ("rcp", ftz, [f32::MAX, 0.0], 0.0),
            ("rsqrt", 0, [-0.0, 0.0], -inf),
            ("rsqrt", ftz, [tiny, 0.0], inf),
            ("rsqrt", 0, [inf, 0.0], 0.0),
            ("rsqrt", 0, [-1.0, 0.0], nan),
            ("sqrt", 0, [-0.0, 0.0], -0.0),
            ("sqrt", ftz, [-tiny, 0.0], -0.0),
            ("sqrt", 0, [inf, 0.0], inf),
            ("sqrt", 0, [-1.0, 0.0], nan),
            ("ex2", 0, [-inf, 0.0], 0.0),
            ("ex2", 0, [inf, 0.0], inf),
            ("ex2", 0, [-0.0, 0.0], 1.0),
            ("ex2", 0, [tiny, 0.0], 1.0),
            ("ex2", ftz, [-tiny, 0.0], 1.0),
            ("ex2", ftz, [-127.5, 0.0], 0.0),
            ("ex2", 0, [129.0, 0.0], inf),
            ("lg2", 0, [0.0, 0.0], -inf),
            ("lg2", ftz, [tiny, 0.0], -inf),
            ("lg2", 0, [-1.0, 0.0], nan),
            ("lg2", 0, [inf, 0.0], inf),
            ("sin", 0, [-0.0, 0.0], -0.0),
            ("sin", 0, [inf, 0.0], nan),
            ("sin", ftz, [-tiny, 0.0], -0.0),
            ("cos", 0, [-0.0, 0.0], 1.0),
            ("cos", ftz, [tiny, 0.0], 1.0),
            ("cos", 0, [-inf, 0.0], nan),
            ("tanh", 0, [-0.0, 0.0], -0.0),
            ("tanh", 0, [-inf, 0.0], -1.0),
            ("div.approx", 0, [5.0, f32::MAX], 0.0),
            ("div.approx", 0, [-5.0, f32::MAX], -0.0),
            ("div.approx", 0, [inf, f32::MAX], nan),
            ("div.approx", 0, [1.0, inf], 0.0),
            ("div.full", 0, [inf, f32::MAX], inf),
            ("div.full", 0, [0.0, 0.0], nan),
            ("div.full", 0, [1.0, -0.0], -inf),
        ];
        for &(op, k, x, want) in table {
            let row = approximate(op, Ty::F32).unwrap();
            for seed in [0, 1, 2, 3] {
                let got = f32::of(row.value(x.map(f32::bits), k, seed));
                let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
                assert!(same, "{op} {x:?} {k} seed {seed}: {got} is not {want}");
            }
        }
    }

    #[test]
    fn both_halves_of_a_pair_are_computed() {
        let row = approximate("ex2", Ty::F16x2).unwrap();
        let mut d = [0; WARP];
        row.lanes(Ty::F16x2, [&[0x4000_3c00; WARP], &[0; WARP]], &mut d, 0, 0);
        assert_eq!(d[5], 0x4400_4000);
    }
}
