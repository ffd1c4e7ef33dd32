//! What a kernel does with each of its operands. It decides the type and the access of the kernel's buffers, hence whether
//! loads may bypass coherence (`.nc`), and which bytes [`crate::work`] counts where.
//!
//! Invariant: only operands that are weights wherever they stand are [`Access::Constant`]. That a plan gives such a buffer
//! a weight and nothing that a launch writes is for `codegen`'s lowering to check.

use crate::graph::{Graph, Node, Op, Ref};
use crate::kernel::Access;
use crate::{Error, Result};

/// What a body does with one of its parameters or results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Multiplies by it.
    Matrix,
    /// Takes rows of it, those of the tokens.
    Table,
    /// Multiplies by matrices of it, those of the experts that a token uses, which are so many.
    Experts(usize),
    /// Takes rows of it, those of the experts that a token uses, which are so many.
    ExpertTable(usize),
    /// Copies it from one layout of weights to another.
    Repacked,
    /// Appends to it: a KV cache.
    Appended,
    /// Attends to it: a KV cache.
    Attended,
    /// Reads it and leaves its new value in its place: a recurrent state.
    Updated,
    /// Weighs the tokens of a column by a row of it.
    Taps,
    /// Is told it by the launch: the position, which is not in memory.
    Position,
    /// Reads or writes it as it is.
    Plain,
}

impl Role {
    /// The role of body parameter `n`; [`Role::Plain`] if nothing uses it.
    ///
    /// # Errors
    /// [`Error::Verify`] if its uses disagree, or if it is an operand of an op that no kernel computes.
    pub fn of(body: &Graph, n: u32) -> Result<Role> {
        let mut role = None;
        for node in body.nodes() {
            for (at, _) in node.inputs.iter().enumerate().filter(|(_, r)| body.node(r.node).op == Op::Param(n)) {
                let here = operand(node, at)?;
                if role.is_some_and(|role| role != here) {
                    return Err(Error::verify("body", format!("parameter {n} is used as {role:?} and as {here:?}")));
                }
                role = Some(here);
            }
        }
        Ok(role.unwrap_or(Role::Plain))
    }

    /// The role of a result.
    pub fn of_result(body: &Graph, result: Ref) -> Role {
        match &body.node(result.node).op {
            Op::KvAppend => Role::Appended,
            Op::Repack { .. } => Role::Repacked,
            op if op.update().is_some_and(|(_, new)| new == result.result) => Role::Updated,
            _ => Role::Plain,
        }
    }

    /// How a kernel may access a parameter of this role.
    pub fn access(self) -> Access {
        match self {
            Role::Matrix | Role::Table | Role::Experts(_) | Role::ExpertTable(_) | Role::Repacked | Role::Taps => {
                Access::Constant
            }
            Role::Appended | Role::Updated => Access::Write,
            Role::Attended | Role::Position | Role::Plain => Access::Read,
        }
    }
}

/// The role of operand number `at` of a node.
fn operand(node: &Node, at: usize) -> Result<Role> {
    Ok(match (&node.op, at) {
        (Op::MatMul | Op::HeadMatMul, 0) => Role::Matrix,
        (Op::Embed, 0) => Role::Table,
        (Op::ExpertMatMul, 0) => Role::Experts(node.results[0].shape[1]),
        (Op::ExpertRows, 0) => Role::ExpertTable(node.results[0].shape[1]),
        (Op::Repack { .. }, _) => Role::Repacked,
        (Op::KvAppend, 0) => Role::Appended,
        (Op::Attention { .. }, 1 | 2) => Role::Attended,
        (Op::ShortConv | Op::DeltaRule { .. }, 0) => Role::Updated,
        (Op::ShortConv, 2) => Role::Taps,
        (Op::KvAppend, 2) | (Op::Attention { .. }, 3) | (Op::RopeAngles(_) | Op::PositionScale { .. }, 0) => {
            Role::Position
        }
        // Every op is named, so that a new one says what it does with its operands.
        (
            Op::MatMul
            | Op::HeadMatMul
            | Op::Embed
            | Op::KvAppend
            | Op::Attention { .. }
            | Op::ShortConv
            | Op::DeltaRule { .. }
            | Op::RmsNorm { .. }
            | Op::LayerNorm { .. }
            | Op::Quantize
            | Op::Add
            | Op::Mul
            | Op::Map(_)
            | Op::Reshape(_)
            | Op::Slice { .. }
            | Op::Concat
            | Op::RopeAngles(_)
            | Op::PositionScale { .. }
            | Op::Rope { .. }
            | Op::LastToken
            | Op::TopK { .. }
            | Op::Route { .. }
            | Op::ExpertMatMul
            | Op::ExpertRows
            | Op::ExpertSum,
            _,
        ) => Role::Plain,
        (op @ (Op::Input(_) | Op::Weight(_) | Op::State(_) | Op::Param(_) | Op::Fusion(_)), _) => {
            return Err(Error::verify("body", format!("{op:?} takes a parameter, but no kernel computes it")));
        }
    })
}
