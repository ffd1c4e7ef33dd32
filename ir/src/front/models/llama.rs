//! Llama 1 to 3 and what shares their layers (Mistral 7B, SmolLM2): GGUF permutes the rows of the query and key matrices,
//! so that rotary pairs are adjacent; with experts, Mixtral; Llama 3.1 scales its rotary frequencies by `rope_freqs.weight`.

use crate::Result;
use crate::front::parts::{
    Attention, Block, Dims, Logits, Moe, Norm, Rope, attention, embedding, ffn, logits, moe, widths,
};
use crate::front::{Network, most};
use crate::graph::{F32, Function, RopeStyle};

pub(super) fn build(n: &mut Network<'_>) -> Result<()> {
    let (d, norm) = (Dims::read(n)?, Norm::rms(n.keys)?);
    let hidden = widths(n, d.layers)?;
    let mut x = embedding(n, d.width, F32(1.0))?;
    let rope = Some(Rope::read(n, RopeStyle::Adjacent, d.head)?);
    let experts = n.keys.opt_count("expert_count", 0, most::EXPERTS)?.unwrap_or(0);
    for (layer, &hidden) in hidden.iter().enumerate() {
        let a = Attention { rope, ..Attention::new(d.heads, d.kv_heads[layer], d.head) };
        x = Block::pre_norm(norm).layer(
            n,
            layer,
            x,
            |n, x| attention(n, layer, x, &a),
            |n, x| match experts {
                0 => ffn(n, layer, x, hidden, Function::Silu),
                _ => {
                    let mixture = Moe::read(n, hidden)?;
                    moe(n, layer, x, &mixture)
                }
            },
        )?;
    }
    logits(n, x, Logits::plain(norm))
}
