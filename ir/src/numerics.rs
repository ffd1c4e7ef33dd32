//! What is promised of numbers: for each instruction that takes or gives floats, and for each graph op, where its result is
//! how far from the exact one, and what infinities, NaN, zeros and subnormal numbers give.
//!
//! `docs/numerics.md` is these tables for people. The interpreter, every CPU target, the microkernels and PTX hold them
//! (`tests/tests/edges.rs`); a generator relies on nothing that is not here. Invariant: where a contract names no exception,
//! the edges are those of the exact function over f64: NaN where it is NaN, infinite where it is infinite.

use crate::kernel::{Binary, Compare, Unary};
use half::f16;
use std::fmt;

/// The f32 nearest to pi.
const PI: f64 = std::f32::consts::PI as f64;

/// How CPUs compute e^x: x is brought to [`LOW`](exp::LOW) to [`HIGH`](exp::HIGH); n = round(x log2 e); r = x - n ln 2;
/// e^x = 2^n (1 + r + r^2 P(r)), the polynomial of Cephes' `expf`. 2^n is made of its exponent, so it is 0 for n = -127, which
/// [`LOW`](exp::LOW) gives, and infinite for n = 128, which [`HIGH`](exp::HIGH) gives.
pub mod exp {
    /// What e^x of this and of all below is 0.
    pub const LOW: f32 = -88.0;
    /// What e^x of this and of all above is infinite.
    pub const HIGH: f32 = 89.0;
    /// log2 e.
    pub const LOG2_E: f32 = std::f32::consts::LOG2_E;
    /// ln 2 in two parts, of which the first has few bits, so that its product with n is exact.
    pub const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    /// P, from the highest power down.
    pub const POLYNOMIAL: [f32; 6] =
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
}

/// A set of numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Is {
    /// All, NaN too.
    Any,
    /// A zero of either sign.
    Zero,
    /// Between zero and the smallest normal f32, of either sign.
    Subnormal,
    /// From the first to the second, both included; -infinity and infinity may be ends.
    Between(f64, f64),
    /// As [`Is::Between`], but of magnitudes.
    Magnitude(f64, f64),
}

/// What an instruction gives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gives {
    /// Any number or NaN.
    Anything,
    /// One of a set.
    One(Is),
    /// The exact result within a bound.
    Within(Bound),
}

/// A bound of |result - exact|: the sum of three parts. A result may be infinite where the bound reaches past the largest f32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// Times |exact|.
    pub relative: f64,
    /// Times what [`Exact::spread`] says.
    pub spread: f64,
    /// By itself.
    pub absolute: f64,
}

/// The exact result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exact {
    /// The value over f64, whose own rounding is far below any bound.
    pub value: f64,
    /// A magnitude that errors also grow with: of the terms of a sum, or of an operand that is rounded.
    pub spread: f64,
}

/// The promise for one instruction. Numbers are passed as f64, which holds every f32 and i32.
#[derive(Debug, Clone, Copy)]
pub struct Contract {
    /// The instruction's name in kernel text.
    pub name: &'static str,
    /// What it computes, as a formula over a, b, c.
    pub meaning: &'static str,
    /// What [`Bound::spread`] multiplies, for people.
    pub spread: &'static str,
    /// The exact result of the operands.
    pub exact: fn(&[f64]) -> Exact,
    /// Exceptions: for operands in these sets that result. The first that holds counts.
    pub exceptions: &'static [(&'static [Is], Gives)],
    /// Everywhere else.
    pub bound: Bound,
}

/// 2^`n` for a normal result.
const fn power(n: i64) -> f64 {
    f64::from_bits(((1023 + n) as u64) << 52)
}

/// The smallest normal f32.
const SMALLEST: f64 = power(-126);
const INFINITY: f64 = f64::INFINITY;
const EXACT: Bound = Bound { relative: 0.0, spread: 0.0, absolute: 0.0 };
/// To the nearest f32.
const ROUNDED: Bound = Bound { relative: power(-24), spread: 0.0, absolute: power(-150) };

/// An exact result without a spread.
const fn plain(value: f64) -> Exact {
    Exact { value, spread: 0.0 }
}

const fn contract(name: &'static str, meaning: &'static str, exact: fn(&[f64]) -> Exact, bound: Bound) -> Contract {
    Contract { name, meaning, spread: "", exact, exceptions: &[], bound }
}

const ABS: Contract = contract("abs", "|a|", |x| plain(x[0].abs()), EXACT);
const SQRT: Contract = Contract {
    exceptions: &[],
    ..contract("sqrt", "sqrt(a)", |x| plain(x[0].sqrt()), Bound { relative: power(-22), ..ROUNDED })
};
const EXP: Contract = Contract {
    spread: "|a| e^a",
    exceptions: &[
        (&[Is::Between(-INFINITY, -104.0)], Gives::One(Is::Zero)),
        (&[Is::Between(-104.0, -87.3)], Gives::One(Is::Between(0.0, 1.3e-38))),
        (&[Is::Between(88.0, exp::HIGH as f64)], Gives::One(Is::Between(1.65e38, INFINITY))),
    ],
    ..contract(
        "exp",
        "e^a",
        |x| Exact { value: x[0].exp(), spread: x[0].abs() * x[0].exp() },
        Bound { relative: 3e-7, spread: 8e-8, absolute: 0.0 },
    )
};
const ROUND: Contract = Contract {
    exceptions: &[(&[Is::Between(-4_194_303.0, 4_194_303.0)], Gives::Within(EXACT)), (&[Is::Any], Gives::Anything)],
    ..contract("round", "a to the nearest i32, ties to even", |x| plain(x[0].round_ties_even()), EXACT)
};
const TO_FLOAT: Contract = contract("to_float", "the i32 a", |x| plain(x[0]), ROUNDED);
const FROM_HALF: Contract =
    contract("from_half", "the f16 with bits a", |x| plain(f16::from_bits(x[0] as u16).to_f64()), EXACT);
const TO_HALF: Contract = contract(
    "to_half",
    "a to the nearest f16, ties to even, infinite from 65520 on",
    |x| plain(f16::from_f32(x[0] as f32).to_f64()),
    EXACT,
);
const FROM_BF16: Contract =
    contract("from_bf16", "the bf16 with bits a", |x| plain(f64::from(f32::from_bits((x[0] as u32) << 16))), EXACT);
/// Beyond a turn, nothing.
const TURN: &[(&[Is], Gives)] = &[
    (&[Is::Magnitude(0.0, PI)], Gives::Within(Bound { relative: 0.0, spread: 0.0, absolute: 1e-6 })),
    (&[Is::Any], Gives::Anything),
];
const SIN: Contract = Contract { exceptions: TURN, ..contract("sin", "sin(a)", |x| plain(x[0].sin()), EXACT) };
const COS: Contract = Contract { exceptions: TURN, ..contract("cos", "cos(a)", |x| plain(x[0].cos()), EXACT) };
const LOG: Contract =
    contract("log", "ln(a)", |x| plain(x[0].ln()), Bound { relative: 4e-7, spread: 0.0, absolute: 4e-7 });
const AS_FLOAT: Contract =
    contract("as_float", "the f32 with bits a", |x| plain(f64::from(f32::from_bits(x[0] as i64 as u32))), EXACT);
const FADD: Contract = contract("fadd", "a + b", |x| plain(x[0] + x[1]), ROUNDED);
const FSUB: Contract = contract("fsub", "a - b", |x| plain(x[0] - x[1]), ROUNDED);
const FMUL: Contract = contract("fmul", "a b", |x| plain(x[0] * x[1]), ROUNDED);
const FDIV: Contract = Contract {
    exceptions: &[
        (&[Is::Any, Is::Subnormal], Gives::Anything),
        (&[Is::Magnitude(power(-102), INFINITY), Is::Magnitude(SMALLEST, power(126))], Gives::Within(ROUNDED)),
    ],
    ..contract(
        "fdiv",
        "a / b",
        |x| plain(x[0] / x[1]),
        Bound { relative: power(-22), spread: 0.0, absolute: power(-148) },
    )
};
const FMAX: Contract = contract("fmax", "the larger, NaN if one is", larger, EXACT);
const MAX: Contract = contract("max", "the largest lane, NaN if one is", larger, EXACT);
const SUM: Contract = Contract {
    spread: "the sum of the lanes' magnitudes",
    ..contract(
        "sum",
        "the sum of the lanes",
        |x| Exact { value: x.iter().sum(), spread: x.iter().map(|x| x.abs()).sum() },
        Bound { relative: 0.0, spread: 2.0 * power(-24), absolute: power(-149) },
    )
};
const FLT: Contract = contract("flt", "a < b; not with NaN", |x| plain(f64::from(u8::from(x[0] < x[1]))), EXACT);
const FEQ: Contract = contract("feq", "a = b; not with NaN", |x| plain(f64::from(u8::from(x[0] == x[1]))), EXACT);
const FMA: Contract = Contract {
    spread: "|a b|",
    ..contract(
        "fma",
        "a b + c, rounded once",
        |x| Exact { value: x[0].mul_add(x[1], x[2]), spread: (x[0] * x[1]).abs() },
        ROUNDED,
    )
};
const FMA_TWICE: Contract = Contract {
    name: "fma (x86-64)",
    meaning: "a b + c, rounded twice",
    bound: Bound { relative: power(-24), spread: power(-24), absolute: power(-149) },
    ..FMA
};

fn larger(x: &[f64]) -> Exact {
    let nan = x.iter().any(|x| x.is_nan());
    plain(if nan { f64::NAN } else { x.iter().copied().fold(-INFINITY, f64::max) })
}

/// Every contract of an instruction, in the order of the document.
pub const INSTRUCTIONS: &[&Contract] = &[
    &ABS, &SQRT, &EXP, &ROUND, &TO_FLOAT, &FROM_HALF, &TO_HALF, &FROM_BF16, &SIN, &COS, &LOG, &AS_FLOAT, &FADD, &FSUB,
    &FMUL, &FDIV, &FMAX, &MAX, &SUM, &FLT, &FEQ, &FMA, &FMA_TWICE,
];

/// The contract of a one-operand instruction, `None` if it is of integers alone and so exact.
pub fn unary(op: Unary) -> Option<&'static Contract> {
    Some(match op {
        Unary::Abs => &ABS,
        Unary::Sqrt => &SQRT,
        Unary::Exp => &EXP,
        Unary::Round => &ROUND,
        Unary::ToFloat => &TO_FLOAT,
        Unary::FromHalf => &FROM_HALF,
        Unary::ToHalf => &TO_HALF,
        Unary::FromBf16 => &FROM_BF16,
        Unary::Sin => &SIN,
        Unary::Cos => &COS,
        Unary::Log => &LOG,
        Unary::AsFloat => &AS_FLOAT,
        Unary::CountOnes | Unary::FillBytes => return None,
    })
}

/// The contract of a two-operand instruction, `None` if it is of integers and so exact.
pub fn binary(op: Binary) -> Option<&'static Contract> {
    Some(match op {
        Binary::FAdd => &FADD,
        Binary::FSub => &FSUB,
        Binary::FMul => &FMUL,
        Binary::FDiv => &FDIV,
        Binary::FMax => &FMAX,
        Binary::IAdd
        | Binary::ISub
        | Binary::IMul
        | Binary::UMin
        | Binary::UDiv
        | Binary::URem
        | Binary::And
        | Binary::Or
        | Binary::Xor
        | Binary::Shl
        | Binary::ShrU
        | Binary::ShrS
        | Binary::SubBytes => return None,
    })
}

/// The contract of a comparison, which gives 1 or 0; `None` if it is of integers.
pub fn compare(op: Compare) -> Option<&'static Contract> {
    match op {
        Compare::FLt => Some(&FLT),
        Compare::FEq => Some(&FEQ),
        Compare::ULt | Compare::IEq => None,
    }
}

/// The contract of `Fma`, on a target that [fuses](crate::target::Target::fuses_fma) it or on one that does not.
pub fn fma(fused: bool) -> &'static Contract {
    if fused { &FMA } else { &FMA_TWICE }
}

/// The contract of `Sum`, the lanes as operands.
pub fn sum() -> &'static Contract {
    &SUM
}

/// The contract of `Max`, the lanes as operands.
pub fn max() -> &'static Contract {
    &MAX
}

impl Is {
    /// Whether a number is in the set.
    pub fn holds(self, x: f64) -> bool {
        match self {
            Is::Any => true,
            Is::Zero => x == 0.0,
            Is::Subnormal => x != 0.0 && x.abs() < SMALLEST,
            Is::Between(low, high) => low <= x && x <= high,
            Is::Magnitude(low, high) => low <= x.abs() && x.abs() <= high,
        }
    }
}

impl Bound {
    /// Whether a result is within the bound of the exact one.
    fn holds(self, exact: Exact, result: f64) -> bool {
        let Exact { value, spread } = exact;
        // A term overflows by itself.
        if self.spread > 0.0 && spread > f64::from(f32::MAX) && !result.is_finite() {
            return true;
        }
        if value.is_nan() {
            return result.is_nan();
        }
        if value.is_infinite() {
            return result == value;
        }
        // The exact value itself is rounded, to f64.
        let bound = (self.relative * value.abs() + self.spread * spread + self.absolute) * (1.0 + 1e-6);
        let most = f64::from(f32::MAX);
        (result - value).abs() <= bound || result.is_infinite() && result * value > 0.0 && value.abs() + bound >= most
    }
}

impl Contract {
    /// Checks a result of these operands.
    ///
    /// # Errors
    /// What was to be expected.
    pub fn check(&self, operands: &[f64], result: f64) -> Result<(), String> {
        let matches = |sets: &[Is]| sets.iter().zip(operands).all(|(set, &x)| set.holds(x));
        let exception = self.exceptions.iter().find(|(sets, _)| matches(sets));
        let gives = exception.map_or(Gives::Within(self.bound), |&(_, gives)| gives);
        let exact = (self.exact)(operands);
        let kept = match gives {
            Gives::Anything => true,
            Gives::One(set) => set.holds(result),
            Gives::Within(bound) => bound.holds(exact, result),
        };
        if kept {
            return Ok(());
        }
        let expected = gives.text(self.spread);
        Err(format!("{} of {operands:?} is {result:e}, exactly {:e}, promised: {expected}", self.name, exact.value))
    }
}

/// The promise for one graph op. Errors are fractions of the largest magnitude of a row of results.
#[derive(Debug, Clone, Copy)]
pub struct OpContract {
    /// The op's name in graph text.
    pub name: &'static str,
    /// Largest error of compiled code; 0 if the result is exact, or exact once rounded to its format.
    pub error: f32,
    /// Where that holds.
    pub domain: &'static str,
    /// What a NaN or an infinity in an operand gives.
    pub not_finite: &'static str,
    /// The other edges.
    pub edges: &'static str,
}

const SUMS: f32 = 2e-5;
const EVERY: &str = "everywhere";
const ITS_ELEMENT: &str = "stays in the elements that are computed of it, by IEEE 754";
const ITS_ROW: &str = "no finite element in the row";

/// Every op that computes.
pub const OPS: &[OpContract] = &[
    OpContract { name: "slice", error: 0.0, domain: EVERY, not_finite: ITS_ELEMENT, edges: "" },
    OpContract { name: "reshape", error: 0.0, domain: EVERY, not_finite: ITS_ELEMENT, edges: "" },
    OpContract { name: "last_token", error: 0.0, domain: EVERY, not_finite: ITS_ELEMENT, edges: "" },
    OpContract { name: "repack", error: 0.0, domain: EVERY, not_finite: ITS_ELEMENT, edges: "bytes are only moved" },
    OpContract { name: "embed", error: 0.0, domain: EVERY, not_finite: ITS_ELEMENT, edges: "blocks of scale 0 are 0" },
    OpContract {
        name: "rms_norm",
        error: SUMS,
        domain: "sums of squares below 3.4e38",
        not_finite: ITS_ROW,
        edges: "a row of zeros gives zeros; a larger sum of squares gives NaN",
    },
    OpContract {
        name: "layer_norm",
        error: SUMS,
        domain: "sums of squares below 3.4e38, of numbers whose mean is not much larger than what they differ by",
        not_finite: ITS_ROW,
        edges: "a row of equal numbers gives the bias; a larger sum of squares gives NaN",
    },
    OpContract {
        name: "matmul",
        error: SUMS,
        domain: "int8 activations below 1e33; sums of magnitudes below 3.4e38",
        not_finite: ITS_ROW,
        edges: "a row of zeros gives zeros; all codes are allowed; larger numbers give the exact result or none that is finite",
    },
    OpContract {
        name: "quantize",
        error: 5e-3,
        domain: EVERY,
        not_finite: "the scale of its block is NaN or infinite, the codes are anything",
        edges: "codes are 0 in a block whose scale is zero or subnormal; where the operand was computed, a code may be \
                the one beside it",
    },
    OpContract { name: "add", error: SUMS, domain: EVERY, not_finite: ITS_ELEMENT, edges: "" },
    OpContract { name: "mul", error: SUMS, domain: EVERY, not_finite: ITS_ELEMENT, edges: "" },
    OpContract {
        name: "silu",
        error: SUMS,
        domain: EVERY,
        not_finite: "NaN and -infinity give NaN, infinity gives itself",
        edges: "below -88 the result is between -6e-37 and 0",
    },
    OpContract {
        name: "gelu",
        error: SUMS,
        domain: EVERY,
        not_finite: "NaN and -infinity give NaN, infinity gives itself",
        edges: "",
    },
    OpContract {
        name: "gelu_erf",
        error: SUMS,
        domain: EVERY,
        not_finite: "NaN and -infinity give NaN, infinity gives itself",
        edges: "the error function is exact to 1.5e-7",
    },
    OpContract {
        name: "relu_squared",
        error: SUMS,
        domain: EVERY,
        not_finite: "NaN stays, -infinity gives 0",
        edges: "infinite from 1.9e19 on",
    },
    OpContract { name: "sigmoid", error: SUMS, domain: EVERY, not_finite: "NaN stays", edges: "between 0 and 1" },
    OpContract { name: "softplus", error: SUMS, domain: EVERY, not_finite: "NaN stays", edges: "" },
    OpContract { name: "scale", error: SUMS, domain: EVERY, not_finite: ITS_ELEMENT, edges: "" },
    OpContract { name: "offset", error: SUMS, domain: EVERY, not_finite: ITS_ELEMENT, edges: "" },
    OpContract {
        name: "soft_cap",
        error: SUMS,
        domain: EVERY,
        not_finite: "NaN stays",
        edges: "of numbers far below the cap the error is 2e-7 of the cap",
    },
    OpContract { name: "clamp", error: 0.0, domain: EVERY, not_finite: "NaN stays", edges: "" },
    OpContract {
        name: "position_scale",
        error: SUMS,
        domain: "positions below 2^24",
        not_finite: "it has no float operand",
        edges: "1 up to the first step",
    },
    OpContract {
        name: "rope_angles",
        error: SUMS,
        domain: "positions below 2^24",
        not_finite: "the cosines and sines of an angle that is not finite are NaN",
        edges: "",
    },
    OpContract { name: "rope", error: SUMS, domain: EVERY, not_finite: ITS_ELEMENT, edges: "" },
    OpContract {
        name: "kv_append",
        error: 1.0 / 127.0 + 1.0 / 1024.0,
        domain: "8-bit; f16 rounds by 1e-3",
        not_finite: "f16: stays; 8-bit: the whole block of 32 is not finite",
        edges: "f16: infinite from 65520 on; 8-bit: infinite from 8.3e6 on",
    },
    OpContract {
        name: "attention",
        error: SUMS,
        domain: "scores below 3.4e38",
        not_finite: "a key or sink whose score is -infinity counts 0; else no finite element in the head's result; a cap makes \
                     infinite scores finite",
        edges: "a value that is not finite makes its element so, whatever its weight",
    },
    OpContract {
        name: "short_conv",
        error: SUMS,
        domain: "sums of magnitudes below 3.4e38",
        not_finite: "no finite element in its column until c - 1 later tokens have passed",
        edges: "the state is moved exactly",
    },
    OpContract {
        name: "delta_rule",
        error: 1e-4,
        domain: "g at most 0, beta from 0 to 1, k of length at most 1",
        not_finite: "no finite element in the head's results and state from then on, or in the column's for v",
        edges: "below -88 of g nothing is left of the state before",
    },
    OpContract {
        name: "top_k",
        error: 1e-5,
        domain: "the log-sum-exp; values and indices are exact",
        not_finite: "NaN and infinity are the largest f32, and so come first",
        edges: "-infinity is kept",
    },
    OpContract {
        name: "route",
        error: SUMS,
        domain: "the weights; the experts are exact, but that scores which differ by rounding alone may come in either order",
        not_finite: "softmax: no finite weight; sigmoid: NaN stays; NaN and infinity rank first, so experts are always known",
        edges: "a sum of weights below 2^-14 counts as that",
    },
    OpContract {
        name: "head_matmul",
        error: SUMS,
        domain: "as of matmul",
        not_finite: "no finite element in the row of the token and head",
        edges: "",
    },
    OpContract { name: "concat", error: 0.0, domain: EVERY, not_finite: ITS_ELEMENT, edges: "" },
    OpContract {
        name: "expert_matmul",
        error: SUMS,
        domain: "as of matmul",
        not_finite: "no finite element in the row of the token and expert",
        edges: "experts that no token uses are not read",
    },
    OpContract { name: "expert_rows", error: 0.0, domain: EVERY, not_finite: ITS_ELEMENT, edges: "" },
    OpContract {
        name: "expert_sum",
        error: SUMS,
        domain: "sums of magnitudes below 3.4e38",
        not_finite: ITS_ELEMENT,
        edges: "a weight of 0 does not hide what is not finite",
    },
];

/// The contract of the op of this name in graph text.
pub fn op(name: &str) -> Option<&'static OpContract> {
    OPS.iter().find(|c| c.name == name)
}

/// A number for people: powers of two as such.
fn number(x: f64) -> String {
    let exponent = x.abs().log2();
    let sign = if x < 0.0 { "-" } else { "" };
    match x {
        _ if x.is_infinite() => format!("{sign}infinity"),
        _ if x == 0.0 => "0".into(),
        _ if x == PI => "pi".into(),
        _ if exponent.fract() == 0.0 && exponent.abs() > 20.0 => format!("{sign}2^{exponent}"),
        _ if x.abs() < 1e-3 || x.abs() >= 1e9 => format!("{x:e}"),
        _ => format!("{x}"),
    }
}

impl fmt::Display for Is {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Is::Any => write!(f, "anything"),
            Is::Zero => write!(f, "0"),
            Is::Subnormal => write!(f, "subnormal"),
            Is::Between(low, high) => write!(f, "{} to {}", number(*low), number(*high)),
            Is::Magnitude(low, high) => write!(f, "+-({} to {})", number(*low), number(*high)),
        }
    }
}

impl Gives {
    /// For people; `spread` is [`Contract::spread`].
    pub fn text(self, spread: &str) -> String {
        match self {
            Gives::Anything => "anything".into(),
            Gives::One(set) => set.to_string(),
            Gives::Within(EXACT) => "exact".into(),
            Gives::Within(ROUNDED) => "correctly rounded".into(),
            Gives::Within(Bound { relative, spread: of_spread, absolute }) => {
                let parts = [(relative, "of itself"), (of_spread, spread), (absolute, "")];
                let parts = parts.into_iter().filter(|(x, _)| *x > 0.0);
                let parts: Vec<_> = parts.map(|(x, of)| format!("{} {of}", number(x)).trim().to_owned()).collect();
                format!("within {}", parts.join(" + "))
            }
        }
    }
}
