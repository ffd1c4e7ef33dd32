//! A layer: attention and a feed-forward network, each with norms around it, added to the residual stream.

use super::{Attention, Dims, Norm, attention, ffn, linear, map, name, norm, widths};
use crate::Result;
use crate::front::Network;
use crate::graph::{F32, Function, Ref};

/// Where the norms of a layer are, attention first, and what they are called.
#[derive(Debug, Clone, Copy)]
pub(in crate::front) struct Block {
    pub norm: Norm,
    /// Of the input of each part.
    pub before: [Option<&'static str>; 2],
    /// Of what each part gives.
    pub after: [Option<&'static str>; 2],
    /// Multiplies what each part gives.
    pub scale: F32,
}

impl Block {
    /// Norms before both parts.
    pub fn pre_norm(norm: Norm) -> Block {
        Block { norm, before: [Some("attn_norm"), Some("ffn_norm")], after: [None; 2], scale: F32(1.0) }
    }

    /// Norms after both parts.
    pub fn post_norm(norm: Norm) -> Block {
        Block { before: [None; 2], ..Block::sandwich(norm) }
    }

    /// Norms before and after both parts.
    pub fn sandwich(norm: Norm) -> Block {
        Block { after: [Some("post_attention_norm"), Some("post_ffw_norm")], ..Block::pre_norm(norm) }
    }

    /// Norms before both parts, of which the second is named after the first part.
    pub fn renamed(norm: Norm) -> Block {
        Block { before: [Some("attn_norm"), Some("post_attention_norm")], ..Block::pre_norm(norm) }
    }

    /// The layer: x + attention(x), then x + ffn(x), with the norms.
    pub fn layer(
        &self,
        n: &mut Network<'_>,
        layer: usize,
        x: Ref,
        attention: impl FnOnce(&mut Network<'_>, Ref) -> Result<Ref>,
        ffn: impl FnOnce(&mut Network<'_>, Ref) -> Result<Ref>,
    ) -> Result<Ref> {
        let x = self.part(n, layer, x, 0, attention)?;
        self.part(n, layer, x, 1, ffn)
    }

    /// All layers of a dense model; `of` gives a layer's attention from its number and a plain one of its heads.
    pub fn dense(
        &self,
        n: &mut Network<'_>,
        d: &Dims,
        mut x: Ref,
        function: Function,
        of: impl Fn(usize, Attention) -> Attention,
    ) -> Result<Ref> {
        for (layer, hidden) in widths(n, d.layers)?.into_iter().enumerate() {
            let a = of(layer, Attention::new(d.heads, d.kv_heads[layer], d.head));
            let attention = |n: &mut Network<'_>, x| attention(n, layer, x, &a);
            x = self.layer(n, layer, x, attention, |n, x| ffn(n, layer, x, hidden, function))?;
        }
        Ok(x)
    }

    fn part(
        &self,
        n: &mut Network<'_>,
        layer: usize,
        x: Ref,
        number: usize,
        part: impl FnOnce(&mut Network<'_>, Ref) -> Result<Ref>,
    ) -> Result<Ref> {
        let normed = |n: &mut Network<'_>, x: Ref, weights: Option<&str>| match weights {
            Some(weights) => norm(n, x, &name(layer, weights), self.norm),
            None => Ok(x),
        };
        let input = normed(n, x, self.before[number])?;
        let y = part(n, input)?;
        let y = normed(n, y, self.after[number])?;
        let y = map(n, y, Function::Scale(self.scale))?;
        linear::residual(n, x, y)
    }
}
