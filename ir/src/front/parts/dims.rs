//! The figures that nearly every architecture has.

use super::linear::ensure;
use crate::front::{Network, most};
use crate::{Error, Result};

/// Head sizes are multiples of this.
pub(super) const HEAD_MULTIPLE: usize = 4;

/// Layers and heads of a decoder.
#[derive(Debug, Clone)]
pub(in crate::front) struct Dims {
    /// Layers, without those that predict further tokens.
    pub layers: usize,
    /// Model width d.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// KV heads of each layer.
    pub kv_heads: Vec<usize>,
    /// Elements of a head.
    pub head: usize,
}

impl Dims {
    /// Layers and width alone, for attention of another kind.
    pub fn outer(n: &Network<'_>) -> Result<(usize, usize)> {
        let keys = n.keys;
        if keys.opt_bool("attention.causal")? == Some(false) {
            let feature = format!("attention to later tokens ('{}.attention.causal')", keys.architecture);
            return Err(Error::unsupported(feature, "models that generate text are built"));
        }
        let layers = crate::front::blocks(keys)?.start;
        Ok((layers, keys.count("embedding_length", 1, most::WIDTH)?))
    }

    /// Reads them; keys and values have the same head size.
    pub fn read(n: &Network<'_>) -> Result<Dims> {
        let keys = n.keys;
        let (layers, width) = Dims::outer(n)?;
        let heads = keys.count("attention.head_count", 1, most::HEADS)?;
        let head = head_size(n, width, heads)?;
        let kv_heads = keys.opt_counts("attention.head_count_kv", layers, 1, most::HEADS)?;
        let kv_heads = kv_heads.unwrap_or_else(|| vec![heads; layers]);
        for &kv in &kv_heads {
            ensure(heads.is_multiple_of(kv), || format!("{heads} query heads cannot share {kv} KV heads evenly"))?;
            if heads / kv > most::SHARE {
                let what = "the number of query heads that share a KV head".into();
                return Err(Error::Limit { what, need: (heads / kv) as u64, have: most::SHARE as u64 });
            }
        }
        Ok(Dims { layers, width, heads, kv_heads, head })
    }
}

/// `attention.key_length` where it is given, else width / heads.
fn head_size(n: &Network<'_>, width: usize, heads: usize) -> Result<usize> {
    let keys = n.keys;
    let value = keys.opt_count("attention.value_length", 1, most::HEAD)?;
    let head = match keys.opt_count("attention.key_length", 1, most::HEAD)? {
        Some(head) => head,
        None if width.is_multiple_of(heads) => {
            crate::front::keys::bound("the head size", (width / heads) as u64, 1, most::HEAD)?
        }
        None => return Err(Error::malformed(format!("a width of {width} cannot be split into {heads} heads"))),
    };
    if value.is_some_and(|v| v != head) {
        let feature = format!("{}.attention.value_length other than the key length {head}", keys.architecture);
        return Err(Error::unsupported(feature, "keys and values of the same size are built"));
    }
    if !head.is_multiple_of(HEAD_MULTIPLE) {
        let hint = format!("head sizes are multiples of {HEAD_MULTIPLE} up to {}", most::HEAD);
        return Err(Error::unsupported(format!("a head size of {head}"), hint));
    }
    Ok(head)
}
