//! The fused ops, one file each. To add one: a file here and its name in the list below.

use crate::generator::Generator;
use ir::graph::{Graph, Op};
use ir::{Error, Result};

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

ops! { embed, rope_angles, qkv, attention, project, gate_up, logits, top_k, repack }

/// The name of the op that covers a body.
///
/// # Errors
/// [`Error::Unsupported`] with the body.
pub fn kind(body: &Graph) -> Result<&'static str> {
    ALL.iter().find(|op| (op.covers)(body)).map(|op| op.name).ok_or_else(|| {
        Error::unsupported(
            format!("a fusion of {}", body.to_string().trim_end().replace('\n', "; ")),
            "the fused ops cover the layers of the architectures built",
        )
    })
}

/// Whether the only output is that of such an op.
fn ends_in(body: &Graph, is: fn(&Op) -> bool) -> bool {
    matches!(body.outputs(), [(_, output)] if is(&body.node(output.node).op))
}
