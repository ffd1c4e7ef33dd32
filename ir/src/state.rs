//! Kinds of states: what a model keeps from one step to the next, zero at first and updated in place.
//!
//! The type of a state tells its kind. Next hop: the graph's rules, `runtime`, which rolls back each kind in its own way.

use crate::kv;
use crate::quant;
use crate::tensor::{Elem, Layout, TensorType, kv_bytes};

/// What a state is to time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateKind {
    /// A row for each position of each head, \[heads, context, h\]: a KV cache. Earlier rows stay as they are, so going back
    /// is forgetting the later ones.
    Rows,
    /// What all tokens so far have made of it, f32 of any shape, contiguous: it is that after the step's last token, and
    /// nothing else tells what it was before.
    Recurrent,
}

impl StateKind {
    /// Every kind.
    pub const ALL: [StateKind; 2] = [StateKind::Rows, StateKind::Recurrent];

    /// The kind of a state of this type; `None` if a state cannot be of it.
    pub fn of(ty: &TensorType) -> Option<StateKind> {
        let Elem::Ggml(format) = ty.elem else { return None };
        let in_rows = ty.layout == Layout::Rows;
        let cache = ty.elem.kv().is_some() && ty.shape.len() == 3;
        match format == quant::F32 {
            true => in_rows.then_some(StateKind::Recurrent),
            false => (cache && (in_rows || ty.layout.is_kv())).then_some(StateKind::Rows),
        }
    }

    /// The types of the kind, for people.
    pub fn form(self) -> String {
        match self {
            StateKind::Rows => kv::ALL.each_ref().map(|kv| format!("{}[G,context,h]", kv.format)).join(" or "),
            StateKind::Recurrent => format!("{} of any shape", quant::F32),
        }
    }

    /// The types of all kinds, for people.
    pub fn forms() -> String {
        StateKind::ALL.map(StateKind::form).join(" or ")
    }
}

/// Bytes of a state from its first element on; `None` if a state cannot be of this type.
pub fn bytes(ty: &TensorType) -> Option<u64> {
    match StateKind::of(ty)? {
        StateKind::Rows => kv_bytes(ty),
        StateKind::Recurrent => (ty.elements() as u64).checked_mul(4),
    }
}
