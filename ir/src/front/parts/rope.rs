//! Rotary position embedding: which elements of a head turn, how fast, and how that is scaled for longer contexts.

use super::linear::ensure;
use crate::front::{Network, most};
use crate::graph::{Angles, F32, Op, Ref, RopeStyle};
use crate::quote::quoted;
use crate::{Error, Result};

/// Factors of the frequencies, where the file has them.
const FACTORS: &str = "rope_freqs.weight";

/// How a head is rotated, and by which angles.
#[derive(Debug, Clone, Copy)]
pub(in crate::front) struct Rope {
    pub style: RopeStyle,
    /// \[T, rotated elements\].
    pub angles: Ref,
}

/// What stretches the frequencies beyond the context that they were trained for.
#[derive(Debug, Clone)]
pub(in crate::front) struct Scaling {
    /// For each pair; none: 1.
    divisors: Vec<F32>,
    /// Multiplies cosines and sines.
    magnitude: f64,
}

/// Figures of YaRN (Peng et al. 2023) that some files give and others leave at their defaults.
struct Yarn {
    /// Rotations within the first context above which, and below which, a pair keeps and gives up its frequency.
    beta: (f64, f64),
    /// Softens the growth of the magnitude.
    log_multiplier: f64,
}

impl Scaling {
    /// None.
    pub fn none() -> Scaling {
        Scaling { divisors: Vec::new(), magnitude: 1.0 }
    }

    /// What the file asks for, of `dim` rotated elements with base `theta`: `rope.scaling.type` is none, linear or yarn. A
    /// factor without a type is linear. `own_yarn`: the architecture reads the figures of YaRN from the file.
    pub fn read(n: &Network<'_>, dim: usize, theta: F32, own_yarn: bool) -> Result<Scaling> {
        let keys = n.keys;
        let old = keys.opt_factor("rope.scale_linear")?;
        let factor = f64::from(keys.opt_factor("rope.scaling.factor")?.or(old).map_or(1.0, |f| f.0));
        let attention = f64::from(keys.opt_factor("rope.scaling.attn_factor")?.map_or(1.0, |f| f.0));
        let kind = keys.opt_word("rope.scaling.type")?;
        let (divisors, magnitude) = match kind {
            Some("none") => (Vec::new(), 1.0),
            None | Some("linear") if factor == 1.0 => (Vec::new(), 1.0),
            None | Some("linear") => (vec![F32(factor as f32); dim / 2], 1.0),
            Some("yarn") => {
                let context = keys.count("rope.scaling.original_context_length", 1, most::CONTEXT)?;
                let yarn = Yarn::read(n, own_yarn)?;
                (yarn.divisors(dim, f64::from(theta.0), context as f64, factor), yarn.magnitude(factor))
            }
            // Its factors are tensors.
            Some("longrope") => (Vec::new(), 1.0),
            Some(kind) => {
                let feature = format!("RoPE scaling {} ('{}.rope.scaling.type')", quoted(kind), keys.architecture);
                return Err(Error::unsupported(feature, "none, linear, yarn and longrope are built"));
            }
        };
        Ok(Scaling { divisors, magnitude: magnitude * attention })
    }

    /// The same where YaRN's growth is of all scores and not of their rotated part alone, as far as the file's multiplier of the
    /// logarithm, which it stores as a tenth, says: the second figure multiplies scores.
    pub fn of_scores(n: &Network<'_>, dim: usize, theta: F32) -> Result<(Scaling, f64)> {
        let mut scaling = Scaling::read(n, dim, theta, false)?;
        let yarn = n.keys.opt_word("rope.scaling.type")? == Some("yarn");
        let stored = n.keys.opt_number("rope.scaling.yarn_log_multiplier", f32::is_finite)?.filter(|_| yarn);
        let log_multiplier = stored.map_or(0.0, |l| f64::from(l.0) / f64::from(0.1f32));
        let factor = n.keys.opt_factor("rope.scaling.factor")?.map_or(1.0, |f| f64::from(f.0));
        if log_multiplier != 0.0 {
            scaling.magnitude /= grown(1.0, factor);
        }
        let scores = scaling.magnitude * grown(log_multiplier, factor);
        Ok((scaling, scores * scores))
    }
}

/// How YaRN's magnitude grows with the factor of the context.
fn grown(by: f64, factor: f64) -> f64 {
    1.0 + 0.1 * by * factor.ln()
}

impl Yarn {
    fn read(n: &Network<'_>, own: bool) -> Result<Yarn> {
        let number = |key: &str, default: f64| -> Result<f64> {
            let given = if own { n.keys.opt_number(key, f32::is_finite)? } else { None };
            Ok(given.map_or(default, |x| f64::from(x.0)))
        };
        let beta = (number("rope.scaling.yarn_beta_fast", 32.0)?, number("rope.scaling.yarn_beta_slow", 1.0)?);
        ensure(beta.0 > 0.0 && beta.1 > 0.0, || format!("the betas of RoPE scaling are {} and {}", beta.0, beta.1))?;
        Ok(Yarn { beta, log_multiplier: number("rope.scaling.yarn_log_multiplier", 0.0)? })
    }

    /// Pairs that turn often within the first context keep their frequency, those that turn seldom have it divided by the
    /// factor, those between are blended.
    fn divisors(&self, dim: usize, theta: f64, context: f64, factor: f64) -> Vec<F32> {
        let pair = |beta: f64| dim as f64 * (context / (2.0 * std::f64::consts::PI * beta)).ln() / (2.0 * theta.ln());
        let (low, high) = (pair(self.beta.0).floor().max(0.0), pair(self.beta.1).ceil().min(dim as f64 - 1.0));
        let kept = |i: usize| 1.0 - ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
        (0..dim / 2).map(|i| F32((1.0 / (kept(i) + (1.0 - kept(i)) / factor)) as f32)).collect()
    }

    fn magnitude(&self, factor: f64) -> f64 {
        let all = grown(1.0, factor);
        if self.log_multiplier == 0.0 { all } else { all / grown(self.log_multiplier, factor) }
    }
}

impl Rope {
    /// The rotation that the file's keys describe, of heads of `head` elements.
    pub fn read(n: &mut Network<'_>, style: RopeStyle, head: usize) -> Result<Rope> {
        let (dim, theta) = (Rope::dim(n, head)?, Rope::base(n, "rope.freq_base", 10_000.0)?);
        let scaling = Scaling::read(n, dim, theta, false)?;
        Rope::new(n, style, (dim, theta), scaling)
    }

    /// A rotation with the factors of `rope_freqs.weight`, where the file has them.
    pub fn new(n: &mut Network<'_>, style: RopeStyle, of: (usize, F32), scaling: Scaling) -> Result<Rope> {
        let factors = n.opt_vector(FACTORS, of.0 / 2)?;
        Rope::with(n, style, of, scaling, factors)
    }

    /// A rotation of `dim` elements with base `theta`, frequencies divided by `factors`.
    pub fn with(
        n: &mut Network<'_>,
        style: RopeStyle,
        (dim, theta): (usize, F32),
        scaling: Scaling,
        factors: Option<Ref>,
    ) -> Result<Rope> {
        let Scaling { divisors, magnitude } = scaling;
        let tokens = n.shape.tokens;
        let angles = Angles { tokens, dim, theta, divisors, magnitude: F32(magnitude as f32) };
        let operands: Vec<Ref> = [n.position].into_iter().chain(factors).collect();
        Ok(Rope { style, angles: n.add(Op::RopeAngles(Box::new(angles)), &operands)? })
    }

    /// Rotated elements of a head of `head`: `rope.dimension_count`, all without.
    pub fn dim(n: &Network<'_>, head: usize) -> Result<usize> {
        let dim = n.keys.opt_count("rope.dimension_count", 2, head)?.unwrap_or(head);
        ensure(dim.is_multiple_of(2), || {
            format!("{}.rope.dimension_count is {dim}, which is odd", n.keys.architecture)
        })?;
        Ok(dim)
    }

    /// The base of the frequencies under `key`.
    pub fn base(n: &Network<'_>, key: &str, default: f32) -> Result<F32> {
        Ok(n.keys.opt_number(key, |x| x.is_finite() && x > 0.0)?.unwrap_or(F32(default)))
    }
}
