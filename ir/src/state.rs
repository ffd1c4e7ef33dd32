//! Kinds of states: what a model keeps from one step to the next, zero at first and updated in place.
//!
//! The type of a state tells its kind. Next hop: the graph's rules, `runtime`, which rolls back each kind in its own way.

use crate::abi::KV_BLOCK;
use crate::kv;
use crate::quant;
use crate::tensor::{Elem, Layout, TensorType, kv_bytes, kv_shape};

/// What a state is to time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateKind {
    /// A row for each position of each head, \[heads, context, h\]: a KV cache. Earlier rows stay as they are, so going back
    /// is forgetting the later ones.
    Rows,
    /// The same of the last positions alone, \[heads, blocks, [`KV_BLOCK`], h\]: position p lies where p mod (blocks *
    /// [`KV_BLOCK`]) would. Later rows take the place of earlier ones, so going back is forgetting the later ones as long as
    /// what the window sees from there is still in its place.
    Ring,
    /// What all tokens so far have made of it, f32 of any shape, contiguous: it is that after the step's last token, and
    /// nothing else tells what it was before.
    Recurrent,
}

impl StateKind {
    /// Every kind.
    pub const ALL: [StateKind; 3] = [StateKind::Rows, StateKind::Ring, StateKind::Recurrent];

    /// The kind of a state of this type; `None` if a state cannot be of it.
    pub fn of(ty: &TensorType) -> Option<StateKind> {
        let Elem::Ggml(format) = ty.elem else { return None };
        let in_rows = ty.layout == Layout::Rows;
        if format == quant::F32 {
            return in_rows.then_some(StateKind::Recurrent);
        }
        let shape = kv_shape(ty).filter(|_| ty.elem.kv().is_some() && (in_rows || ty.layout.is_kv()))?;
        Some(if shape.ring { StateKind::Ring } else { StateKind::Rows })
    }

    /// The types of the kind, for people.
    pub fn form(self) -> String {
        let caches = |shape: &str| kv::ALL.each_ref().map(|kv| format!("{}[{shape}]", kv.format)).join(" or ");
        match self {
            StateKind::Rows => caches("G,context,h"),
            StateKind::Ring => caches(&format!("G,blocks,{KV_BLOCK},h")),
            StateKind::Recurrent => format!("{} of any shape", quant::F32),
        }
    }

    /// The types of all kinds, for people.
    pub fn forms() -> String {
        StateKind::ALL.map(StateKind::form).join(" or ")
    }
}

/// Positions that a ring has for a window besides the window itself, where steps have up to `step` tokens: a step needs as many
/// as it has tokens, and so many tokens can be forgotten without being processed again.
pub fn ring_slack(step: usize) -> usize {
    const LEAST: usize = 128;
    step.max(LEAST)
}

/// Blocks of the ring of a window; `None` where a cache of the whole context has no more.
pub fn ring_blocks(window: usize, step: usize, context: usize) -> Option<usize> {
    let blocks = window.checked_add(ring_slack(step))?.div_ceil(KV_BLOCK);
    (blocks * KV_BLOCK < context).then_some(blocks)
}

/// Bytes of a state from its first element on; `None` if a state cannot be of this type.
pub fn bytes(ty: &TensorType) -> Option<u64> {
    match StateKind::of(ty)? {
        StateKind::Rows | StateKind::Ring => kv_bytes(ty),
        StateKind::Recurrent => (ty.elements() as u64).checked_mul(4),
    }
}
