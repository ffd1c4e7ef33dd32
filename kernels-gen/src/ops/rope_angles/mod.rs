//! `rope_angles`: cosines and sines of the rotary angles of the step's tokens.

mod cpu;
mod gpu;

use super::{FusedOp, only_output, reading};
use crate::body;
use crate::generator::Generator;
use ir::graph::{self, Graph, Op};
use ir::kernel::{Buf, Mem};

pub(super) const OP: FusedOp = FusedOp {
    name: "rope_angles",
    covers: |body| read(body).is_some(),
    cpu: Some(|g| {
        let angles = reading(g, read)?;
        cpu::generate(g, &angles)
    }),
    gpu: Some(|g| {
        let angles = reading(g, read)?;
        gpu::generate(g, &angles)
    }),
};

/// The angles, and the body parameter with their factors.
struct Angles {
    of: graph::Angles,
    factors: Option<u32>,
}

fn read(body: &Graph) -> Option<Angles> {
    let node = only_output(body, |op| matches!(op, Op::RopeAngles(_)))?;
    let Op::RopeAngles(of) = &node.op else { return None };
    let factors = match node.inputs.get(1) {
        Some(&factors) => Some(body::param(body, factors)?),
        None => None,
    };
    Some(Angles { of: (**of).clone(), factors })
}

impl Angles {
    /// The divisors, as part of the kernel, unless all are 1.
    fn divisors(&self, g: &mut Generator<'_>) -> Option<Buf> {
        let words: Vec<u32> = self.of.divisors.iter().map(|d| d.0.to_bits()).collect();
        (!words.is_empty()).then(|| g.b.constant("divisors", Mem::F32, words))
    }
}
