//! Norms, matrix products with their biases, functions of each element.

use crate::front::{Keys, Network};
use crate::graph::{F32, Function, Op, Ref};
use crate::{Error, Result};
use std::ops::Range;

/// A norm over the last dimension.
#[derive(Debug, Clone, Copy)]
pub(in crate::front) enum Norm {
    /// [`Op::RmsNorm`].
    Rms(F32),
    /// [`Op::LayerNorm`].
    Layer(F32),
}

impl Norm {
    /// RMS norms with the file's epsilon.
    pub fn rms(keys: &Keys<'_>) -> Result<Norm> {
        rms_epsilon(keys).map(Norm::Rms)
    }

    /// Layer norms with the file's epsilon.
    pub fn layer(keys: &Keys<'_>) -> Result<Norm> {
        epsilon(keys, "attention.layer_norm_epsilon").map(Norm::Layer)
    }
}

/// The epsilon of RMS norms.
pub(in crate::front) fn rms_epsilon(keys: &Keys<'_>) -> Result<F32> {
    epsilon(keys, "attention.layer_norm_rms_epsilon")
}

fn epsilon(keys: &Keys<'_>, key: &str) -> Result<F32> {
    keys.opt_number(key, |x| (0.0..1.0).contains(&x))?.ok_or_else(|| keys.missing(key))
}

/// The norm of `x` with the weights `part`.weight, and `part`.bias for a layer norm that has one.
pub(in crate::front) fn norm(n: &mut Network<'_>, x: Ref, part: &str, norm: Norm) -> Result<Ref> {
    let columns = n.columns(x);
    let weight = n.vector(&format!("{part}.weight"), columns)?;
    match norm {
        Norm::Rms(eps) => n.add(Op::RmsNorm { eps }, &[x, weight]),
        Norm::Layer(eps) => {
            let bias = n.opt_vector(&format!("{part}.bias"), columns)?;
            let operands: Vec<Ref> = [x, weight].into_iter().chain(bias).collect();
            n.add(Op::LayerNorm { eps }, &operands)
        }
    }
}

/// `x` times `part`.weight transposed, of so many rows, plus `part`.bias where it exists.
pub(in crate::front) fn linear(n: &mut Network<'_>, x: Ref, part: &str, rows: usize) -> Result<Ref> {
    let columns = n.columns(x);
    let weight = n.matrix(&format!("{part}.weight"), rows, columns)?;
    let y = n.add(Op::MatMul, &[weight, x])?;
    match n.opt_vector(&format!("{part}.bias"), rows)? {
        Some(bias) => n.add(Op::Add, &[y, bias]),
        None => Ok(y),
    }
}

/// [`linear`] with some of the `all` rows of a tensor that holds several matrices.
pub(in crate::front) fn linear_rows(
    n: &mut Network<'_>,
    x: Ref,
    part: &str,
    all: usize,
    rows: Range<u32>,
) -> Result<Ref> {
    let columns = n.columns(x);
    let weight = n.matrix_rows(&format!("{part}.weight"), all, rows.clone(), columns)?;
    let y = n.add(Op::MatMul, &[weight, x])?;
    let bias = format!("{part}.bias");
    if !n.has(&bias) {
        return Ok(y);
    }
    let bias = n.vector_part(&bias, all, rows)?;
    n.add(Op::Add, &[y, bias])
}

/// A function of each element; a scale by 1 is none.
pub(in crate::front) fn map(n: &mut Network<'_>, x: Ref, function: Function) -> Result<Ref> {
    if function == Function::Scale(F32(1.0)) { Ok(x) } else { n.add(Op::Map(function), &[x]) }
}

/// What a part of a layer adds to its input.
pub(in crate::front) fn residual(n: &mut Network<'_>, x: Ref, added: Ref) -> Result<Ref> {
    n.add(Op::Add, &[added, x])
}

/// Refuses figures that do not go together.
pub(in crate::front) fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::malformed(what())) }
}
