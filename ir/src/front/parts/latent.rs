//! Multi-head latent attention (DeepSeek-V2, 2024): the keys and values of all heads are made of one row of each position,
//! the latent, and of a rotated part of the key that the heads share.

use super::attention::{Attention, attend, split};
use super::dims::HEAD_MULTIPLE;
use super::linear::{ensure, linear, norm};
use super::{Norm, Rope, name};
use crate::Result;
use crate::front::{Network, most};
use crate::graph::{F32, Op, Ref};

/// The latent attention of a model's layers.
#[derive(Debug, Clone, Copy)]
pub(in crate::front) struct Latent {
    pub heads: usize,
    /// Elements of the latent.
    pub rank: usize,
    /// Elements of a head of queries and keys: those that are not rotated, and those that are.
    pub plain: usize,
    pub rotated: usize,
    /// Elements of a head of values.
    pub value: usize,
    /// Whether queries and what is found meet the latent itself, through a matrix of each head, so that the cache has one row
    /// of each position; else it has the keys and values of all heads.
    pub absorbed: bool,
    pub norm: Norm,
}

impl Latent {
    /// The file's figures. Those that end in `_mla` are of files whose matrices are cut by heads.
    pub fn read(n: &Network<'_>, norm: Norm) -> Result<Latent> {
        let keys = n.keys;
        let heads = keys.count("attention.head_count", 1, most::HEADS)?;
        let rank = keys.count("attention.kv_lora_rank", 1, most::HEAD)?;
        let by_heads = keys.opt_count("attention.key_length_mla", 0, most::HEAD)?.filter(|&n| n > 0);
        let absorbed = by_heads.is_some();
        let (key, value) = match by_heads {
            Some(key) => (key, keys.count("attention.value_length_mla", 1, most::HEAD)?),
            None => {
                let of = |key| keys.count(key, 1, most::HEAD);
                (of("attention.key_length")?, of("attention.value_length")?)
            }
        };
        let kv_heads = keys.opt_count("attention.head_count_kv", 1, most::HEADS)?;
        let expected = if absorbed { 1 } else { heads };
        ensure(kv_heads.is_none_or(|kv| kv == expected), || {
            format!("{}.attention.head_count_kv is {}, not {expected}", keys.architecture, kv_heads.unwrap_or(0))
        })?;
        let rotated = Rope::dim(n, key)?;
        ensure(rotated < key, || format!("heads of {key} elements have none besides {rotated} that are rotated"))?;
        let plain = key - rotated;
        ensure([rank, plain, rotated, value].iter().all(|n| n.is_multiple_of(HEAD_MULTIPLE)), || {
            format!(
                "a latent of {rank} and heads of {plain} + {rotated} and {value} elements are no multiples of {HEAD_MULTIPLE}"
            )
        })?;
        Ok(Latent { heads, rank, plain, rotated, value, absorbed, norm })
    }

    /// Elements of a head of queries and keys.
    pub fn key(&self) -> usize {
        self.plain + self.rotated
    }
}

/// The latent attention of layer `layer` over `x`, with scores times `scale`: \[T, d\] -> \[T, d\].
pub(in crate::front) fn latent_attention(
    n: &mut Network<'_>,
    layer: usize,
    x: Ref,
    l: &Latent,
    (rope, scale): (Rope, F32),
) -> Result<Ref> {
    let (width, row) = (n.columns(x), l.rank + l.rotated);
    let q = queries(n, layer, x, l)?;
    let plain = part(n, q, (0, l.plain, l.key()), l.heads)?;
    let rotated = part(n, q, (l.plain, l.rotated, l.key()), l.heads)?;
    let rotate = |n: &mut Network<'_>, y: Ref| n.add(Op::Rope { style: rope.style }, &[y, rope.angles]);
    let rotated = rotate(n, rotated)?;
    let both = linear(n, x, &name(layer, "attn_kv_a_mqa"), row)?;
    let latent = n.add(Op::Slice { first: 0, count: l.rank, every: row }, &[both])?;
    let latent = norm(n, latent, &name(layer, "attn_kv_a_norm"), l.norm)?;
    let shared = part(n, both, (l.rank, l.rotated, row), 1)?;
    let shared = rotate(n, shared)?;
    let attended = match l.absorbed {
        true => over_latents(n, layer, l, [plain, rotated, latent, shared], scale)?,
        false => over_heads(n, layer, l, [plain, rotated, latent, shared], scale)?,
    };
    linear(n, attended, &name(layer, "attn_output"), width)
}

/// The queries of all heads, \[T, heads * key\], of `x` or of a latent of their own.
fn queries(n: &mut Network<'_>, layer: usize, x: Ref, l: &Latent) -> Result<Ref> {
    let (whole, rows) = (name(layer, "attn_q"), l.heads * l.key());
    let rank = n.keys.opt_count("attention.q_lora_rank", 0, most::WIDTH)?.unwrap_or(0);
    if n.has(&format!("{whole}.weight")) {
        return linear(n, x, &whole, rows);
    }
    let y = linear(n, x, &name(layer, "attn_q_a"), rank)?;
    let y = norm(n, y, &name(layer, "attn_q_a_norm"), l.norm)?;
    linear(n, y, &name(layer, "attn_q_b"), rows)
}

/// Attention with queries of the latent's size over one row of each position, which is key and value at once: the values'
/// rotated part is left out afterwards, so that both caches have rows of one size, for which there are microkernels.
fn over_latents(
    n: &mut Network<'_>,
    layer: usize,
    l: &Latent,
    [plain, rotated, latent, shared]: [Ref; 4],
    scale: F32,
) -> Result<Ref> {
    let row = l.rank + l.rotated;
    let q = of_heads(n, plain, &name(layer, "attn_k_b"), l.rank)?;
    let q = split(n, q, (l.heads, l.rank))?;
    let q = n.add(Op::Concat, &[q, rotated])?;
    let latent = split(n, latent, (1, l.rank))?;
    let kept = n.add(Op::Concat, &[latent, shared])?;
    let (k, v) = (n.append(format!("k.{layer}"), kept, None)?, n.append(format!("v.{layer}"), kept, None)?);
    let attended = attend(n, layer, (q, k, v), &Attention { scale, ..Attention::new(l.heads, 1, row) })?;
    let attended = part(n, attended, (0, l.rank, row), l.heads)?;
    of_heads(n, attended, &name(layer, "attn_v_b"), l.value)
}

/// Attention of each head over its own keys and values, which are rows of `attn_kv_b`.
fn over_heads(
    n: &mut Network<'_>,
    layer: usize,
    l: &Latent,
    [plain, rotated, latent, shared]: [Ref; 4],
    scale: F32,
) -> Result<Ref> {
    let every = l.plain + l.value;
    let q = n.add(Op::Concat, &[plain, rotated])?;
    let both = linear(n, latent, &name(layer, "attn_kv_b"), l.heads * every)?;
    let k = part(n, both, (0, l.plain, every), l.heads)?;
    let k = n.add(Op::Concat, &[k, shared])?;
    let v = part(n, both, (l.plain, l.value, every), l.heads)?;
    let (k, v) = (n.append(format!("k.{layer}"), k, None)?, n.append(format!("v.{layer}"), v, None)?);
    attend(n, layer, (q, k, v), &Attention { scale, ..Attention::new(l.heads, l.heads, l.key()) })
}

/// `count` columns from `first` on of each `every` columns of a row, as heads.
fn part(n: &mut Network<'_>, x: Ref, (first, count, every): (usize, usize, usize), heads: usize) -> Result<Ref> {
    let y = n.add(Op::Slice { first, count, every }, &[x])?;
    split(n, y, (heads, count))
}

/// The rows of heads, \[T, heads, columns\], times the matrices of `part`.weight, of so many rows each: \[T, heads * rows\].
fn of_heads(n: &mut Network<'_>, x: Ref, part: &str, rows: usize) -> Result<Ref> {
    let &[_, heads, columns] = n.ty(x).shape.as_slice() else {
        return Err(crate::Error::verify("graph", "rows of heads are [T, heads, columns]"));
    };
    let weight = n.experts(&format!("{part}.weight"), (heads, rows), columns)?;
    n.add(Op::HeadMatMul, &[weight, x])
}
