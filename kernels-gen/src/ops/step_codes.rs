//! `step_codes`: rows of a step as int8 codes, normalised before if the body says so, for the products of several kernels.
//! On GPUs only: on CPUs, and of one row, products prepare them themselves.

use super::{FusedOp, only_output, reading};
use crate::body::{self, Source};
use crate::gpu::rows;
use ir::graph::{Graph, Op};

pub(super) const OP: FusedOp = FusedOp {
    name: "step_codes",
    covers: |body| read(body).is_some(),
    cpu: None,
    gpu: Some(|g| {
        let source = reading(g, read)?;
        let y = g.result(0)?;
        rows::prepare_step(g, source, y)
    }),
};

fn read(body: &Graph) -> Option<Source> {
    only_output(body, |op| *op == Op::Quantize)?;
    body::source(body, body.outputs()[0].1).filter(|source| !source.one_row && !source.is_quantised)
}
