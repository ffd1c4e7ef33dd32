//! Command R: attention and the feed-forward network have one input, a layer norm without a bias, and are added together.

use super::cohere2::parallel;
use crate::Result;
use crate::front::Network;
use crate::front::parts::{Attention, Dims, Logits, Norm, Rope, embedding, logits, widths};
use crate::graph::{F32, RopeStyle};

pub(super) fn build(n: &mut Network<'_>) -> Result<()> {
    let (d, norm) = (Dims::read(n)?, Norm::layer(n.keys)?);
    let hidden = widths(n, d.layers)?;
    let mut x = embedding(n, d.width, F32(1.0))?;
    let rope = Some(Rope::read(n, RopeStyle::Adjacent, d.head)?);
    for (layer, &hidden) in hidden.iter().enumerate() {
        let a = Attention { rope, ..Attention::new(d.heads, d.kv_heads[layer], d.head) };
        x = parallel(n, layer, x, norm, &a, hidden)?;
    }
    let scale = n.keys.opt_factor("logit_scale")?.unwrap_or(F32(1.0));
    logits(n, x, Logits { scale, ..Logits::plain(norm) })
}
