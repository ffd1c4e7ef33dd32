//! The ends of a network: token ids to rows, rows to logits.

use super::linear::{Norm, linear, map, norm};
use crate::front::{Network, most};
use crate::graph::{F32, Function, Op, Ref};
use crate::{Error, Result};

/// The embedding table.
pub(in crate::front) const EMBEDDING: &str = "token_embd.weight";
/// The output matrix, where it is not the embedding table.
const OUTPUT: &str = "output";

/// The embedded tokens times `scale`: \[T, d\].
pub(in crate::front) fn embedding(n: &mut Network<'_>, width: usize, scale: F32) -> Result<Ref> {
    let table = table(n, width)?;
    let x = n.add(Op::Embed, &[table, n.tokens])?;
    map(n, x, Function::Scale(scale))
}

fn table(n: &mut Network<'_>, width: usize) -> Result<Ref> {
    if !n.has(EMBEDDING) {
        return Err(Error::malformed(format!("tensor '{EMBEDDING}' is missing")));
    }
    let rows = crate::front::keys::bound("the vocabulary", n.rows(EMBEDDING) as u64, 1, most::VOCAB)?;
    n.matrix(EMBEDDING, rows, width)
}

/// What follows the output matrix.
#[derive(Debug, Clone, Copy)]
pub(in crate::front) struct Logits {
    pub norm: Norm,
    /// Multiplies the logits.
    pub scale: F32,
    /// Soft cap of the logits.
    pub cap: Option<F32>,
}

impl Logits {
    /// Nothing does.
    pub fn plain(norm: Norm) -> Logits {
        Logits { norm, scale: F32(1.0), cap: None }
    }
}

/// Ends the network: the final norm of `x` and the logits of every token, or of the last.
pub(in crate::front) fn logits(n: &mut Network<'_>, x: Ref, of: Logits) -> Result<()> {
    let x = if n.shape.all_logits { x } else { n.add(Op::LastToken, &[x])? };
    let width = n.columns(x);
    let x = norm(n, x, "output_norm", of.norm)?;
    let table = table(n, width)?;
    let y = if n.has("output.weight") {
        let vocab = n.rows(EMBEDDING);
        linear(n, x, OUTPUT, vocab)?
    } else {
        n.add(Op::MatMul, &[table, x])?
    };
    let y = map(n, y, Function::Scale(of.scale))?;
    let y = match of.cap {
        Some(cap) => map(n, y, Function::SoftCap(cap))?,
        None => y,
    };
    n.output("logits", y)
}
