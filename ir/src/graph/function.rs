//! The functions that [`Op::Map`](super::Op::Map) applies to each element.
//!
//! A new one is a variant here, its name, its formula, and its code in `kernels-gen/src/math.rs`.

use super::F32;

/// A function of one number. Figures of a function are finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Function {
    /// x / (1 + exp(-x)).
    Silu,
    /// x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))): GELU as most models have it (Hendrycks and Gimpel 2016).
    Gelu,
    /// x / 2 (1 + erf(x / sqrt(2))): GELU itself.
    GeluErf,
    /// max(x, 0)^2.
    ReluSquared,
    /// 1 / (1 + exp(-x)).
    Sigmoid,
    /// ln(1 + exp(x)).
    Softplus,
    /// x times the figure.
    Scale(F32),
    /// x plus the figure.
    Offset(F32),
    /// c tanh(x / c), c > 0.
    SoftCap(F32),
    /// x, not below the first figure and not above the second.
    Clamp(F32, F32),
}

impl Function {
    /// Each function with its name in text and the names of its figures; figures here are of no meaning.
    pub const ALL: [(Function, &'static str, &'static [&'static str]); 10] = {
        const X: F32 = F32(1.0);
        [
            (Function::Silu, "silu", &[]),
            (Function::Gelu, "gelu", &[]),
            (Function::GeluErf, "gelu_erf", &[]),
            (Function::ReluSquared, "relu_squared", &[]),
            (Function::Sigmoid, "sigmoid", &[]),
            (Function::Softplus, "softplus", &[]),
            (Function::Scale(X), "scale", &["by"]),
            (Function::Offset(X), "offset", &["by"]),
            (Function::SoftCap(X), "soft_cap", &["at"]),
            (Function::Clamp(X, X), "clamp", &["low", "high"]),
        ]
    };

    /// The name in text, and the figures with theirs.
    pub(super) fn text(&self) -> (&'static str, Vec<(&'static str, F32)>) {
        let same = |f: &Function| std::mem::discriminant(f) == std::mem::discriminant(self);
        let (_, name, names) = Self::ALL.iter().find(|(f, ..)| same(f)).expect("every function is in the list");
        (name, names.iter().copied().zip(self.figures()).collect())
    }

    fn figures(&self) -> Vec<F32> {
        match *self {
            Function::Scale(x) | Function::Offset(x) | Function::SoftCap(x) => vec![x],
            Function::Clamp(low, high) => vec![low, high],
            _ => Vec::new(),
        }
    }

    /// The same function with other figures.
    pub(super) fn with(self, figures: &[F32]) -> Function {
        match (self, figures) {
            (Function::Scale(_), &[x]) => Function::Scale(x),
            (Function::Offset(_), &[x]) => Function::Offset(x),
            (Function::SoftCap(_), &[x]) => Function::SoftCap(x),
            (Function::Clamp(..), &[low, high]) => Function::Clamp(low, high),
            _ => self,
        }
    }

    /// Whether its figures make sense.
    pub(super) fn check(&self) -> Result<(), String> {
        let figures = self.figures();
        let sensible = figures.iter().all(|x| x.0.is_finite())
            && match self {
                Function::SoftCap(c) => c.0 > 0.0,
                Function::Clamp(low, high) => low.0 <= high.0,
                _ => true,
            };
        if sensible { Ok(()) } else { Err(format!("{self:?} makes no sense")) }
    }

    /// The formula.
    pub fn apply(&self, x: f64) -> f64 {
        let f = |x: F32| f64::from(x.0);
        let gelu = |tanh: f64| 0.5 * x * (1.0 + tanh);
        match *self {
            Function::Silu => x / (1.0 + (-x).exp()),
            Function::Gelu => gelu(((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh()),
            Function::GeluErf => gelu(erf(x * std::f64::consts::FRAC_1_SQRT_2)),
            Function::ReluSquared => x.max(0.0).powi(2) + if x.is_nan() { x } else { 0.0 },
            Function::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Function::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
            Function::Scale(by) => x * f(by),
            Function::Offset(by) => x + f(by),
            Function::SoftCap(at) => f(at) * (x / f(at)).tanh(),
            Function::Clamp(low, high) => x.clamp(f(low), f(high)),
        }
    }
}

/// The error function: its Taylor series for small |x|, else the continued fraction of its complement (Abramowitz and
/// Stegun 7.1.6 and 7.1.14).
fn erf(x: f64) -> f64 {
    let magnitude = x.abs();
    let value = if magnitude < 2.5 {
        let (mut term, mut sum) = (magnitude, magnitude);
        for n in 1..60 {
            term *= 2.0 * magnitude * magnitude / f64::from(2 * n + 1);
            sum += term;
        }
        2.0 / std::f64::consts::PI.sqrt() * (-magnitude * magnitude).exp() * sum
    } else {
        let fraction = (1..=60).rev().fold(0.0, |rest, k| f64::from(k) / 2.0 / (magnitude + rest));
        1.0 - (-magnitude * magnitude).exp() / (magnitude + fraction) / std::f64::consts::PI.sqrt()
    };
    value.copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_is_that_of_the_tables() {
        // Abramowitz and Stegun, table 7.1, and the place where the methods meet.
        for (x, y) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_8),
            (1.0, 0.842_700_792_9),
            (2.0, 0.995_322_265_0),
            (2.499_999_999, 0.999_593_047_98),
            (2.500_000_001, 0.999_593_047_98),
            (4.0, 0.999_999_984_6),
        ] {
            assert!((erf(x) - y).abs() < 2e-10, "{x}: {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
    }

    #[test]
    fn every_function_is_in_the_list_once() {
        for (f, name, figures) in Function::ALL {
            assert_eq!(f.text().0, name);
            assert_eq!((f.figures().len(), f.with(&f.figures())), (figures.len(), f));
        }
    }
}
