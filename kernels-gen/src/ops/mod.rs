//! The fused ops, one file or folder each. To add one: a file here, with its [`FusedOp`], and its name in the list below.
//!
//! An op reads its figures off a body, and has a generator for each kind of machine that it runs on.

use crate::generator::Generator;
use ir::graph::{Graph, Node, Op};
use ir::target::Machine;
use ir::{Error, Result};

/// Builds a kernel.
type Generate = fn(&mut Generator<'_>) -> Result<()>;

/// A fused op.
#[derive(Debug)]
pub struct FusedOp {
    /// Its name: the kind of the fusions that it covers.
    pub name: &'static str,
    /// Whether it covers a fusion of this body; of ops that do, the first in the list is taken.
    pub covers: fn(&Graph) -> bool,
    /// The generator for CPUs.
    cpu: Option<Generate>,
    /// The generator for GPUs.
    gpu: Option<Generate>,
}

macro_rules! ops {
    ($($file:ident),* $(,)?) => {
        $(mod $file;)*
        /// Every fused op.
        pub static ALL: &[FusedOp] = &[$($file::OP),*];
    };
}

ops! {
    embed, rope_angles, position_scale, step_codes, qkv, attention, linear, rows, route, experts, expert_sum, top_k, repack,
    short_conv, delta_rule, head_products,
}

impl FusedOp {
    /// Builds the kernel of a spec.
    pub(crate) fn generate(&self, g: &mut Generator<'_>) -> Result<()> {
        let generate = match &g.target.machine {
            Machine::Cpu(_) => self.cpu,
            Machine::Gpu(_) => self.gpu,
        };
        match generate {
            Some(generate) => generate(g),
            None => Err(Error::Unsupported {
                feature: format!("fused op {}", self.name),
                target: Some(g.target.name.into()),
                hint: "compile for another kind of machine".into(),
            }),
        }
    }
}

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

/// What an op reads off the generator's body.
///
/// # Errors
/// If the op does not cover it.
fn reading<T>(g: &Generator<'_>, read: fn(&Graph) -> Option<T>) -> Result<T> {
    read(g.body()).ok_or_else(|| g.unsupported("another body than it covers"))
}

/// The node that the only output is the result of, if its op is such.
fn only_output(body: &Graph, is: fn(&Op) -> bool) -> Option<&Node> {
    match body.outputs() {
        [(_, output)] => Some(body.node(output.node)).filter(|node| is(&node.op)),
        _ => None,
    }
}

/// The only op of a body, if its results are the body's outputs.
fn single(body: &Graph) -> Option<&Node> {
    let mut ops = body.iter().filter(|(_, node)| !node.op.is_leaf());
    let (id, node) = ops.next()?;
    let results = (0..node.results.len() as u32).map(|i| id.at(i));
    let alone = ops.next().is_none() && body.outputs().iter().map(|&(_, r)| r).eq(results);
    alone.then_some(node)
}
