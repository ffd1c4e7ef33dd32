//! The fused ops, one file each. To add one: a file here and its name in the list below.

use crate::generator::Generator;
use ir::Result;
use ir::graph::{Graph, Op};

/// A fused op.
#[derive(Debug)]
pub struct FusedOp {
    /// Its name: the kind of the fusions that it covers.
    pub name: &'static str,
    /// Whether it covers a fusion of this body; no two ops cover the same.
    pub covers: fn(&Graph) -> bool,
    /// Builds the kernel.
    pub(crate) generate: fn(&mut Generator<'_>) -> Result<()>,
}

macro_rules! ops {
    ($($file:ident),* $(,)?) => {
        $(mod $file;)*
        /// Every fused op.
        pub static ALL: &[FusedOp] = &[
            $(FusedOp { name: stringify!($file), covers: $file::covers, generate: $file::generate }),*
        ];
    };
}

ops! { embed, rope_angles, qkv, attention, project, gate_up, logits, top_k }

/// Whether the only output is that of such an op.
fn ends_in(body: &Graph, is: fn(&Op) -> bool) -> bool {
    matches!(body.outputs(), [(_, output)] if is(&body.node(output.node).op))
}
