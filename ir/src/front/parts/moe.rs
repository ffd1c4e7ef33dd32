//! Mixtures of experts: a router, the experts that each token uses, and one that all tokens use.

use super::ffn::{ffn_of, gated};
use super::linear::{linear, map};
use super::name;
use crate::front::{Network, most};
use crate::graph::{F32, Function, Gating, Groups, Op, Ref};
use crate::{Error, Result};

/// What an expert makes of its gate and up products.
#[derive(Debug, Clone, Copy)]
pub(in crate::front) enum Gate {
    /// f(gate) * up.
    Times(Function),
    /// g sigmoid(1.702 g) (u + 1), with g = min(gate, 7) and u = up within +-7.
    Clamped,
}

/// The mixture of a layer.
#[derive(Debug, Clone, Copy)]
pub(in crate::front) struct Moe {
    pub experts: usize,
    /// Experts that a token uses.
    pub used: usize,
    /// Hidden width of an expert.
    pub hidden: usize,
    pub gating: Gating,
    /// Whether the weights are divided by their sum.
    pub normalise: bool,
    /// Multiplies the weights.
    pub scale: F32,
    pub groups: Option<Groups>,
    pub gate: Gate,
    /// Hidden width of the expert that all tokens use; 0: there is none.
    pub shared: usize,
    /// Whether that one's result is multiplied by the sigmoid of `ffn_gate_inp_shexp` . x.
    pub shared_gate: bool,
}

impl Moe {
    /// Experts of this hidden width, chosen and weighted by a softmax over all.
    pub fn read(n: &Network<'_>, hidden: usize) -> Result<Moe> {
        let experts = n.keys.count("expert_count", 1, most::EXPERTS)?;
        let used = n.keys.count("expert_used_count", 1, experts.min(crate::graph::MOST_TOP))?;
        Ok(Moe {
            experts,
            used,
            hidden,
            gating: Gating::Softmax,
            normalise: true,
            scale: F32(1.0),
            groups: None,
            gate: Gate::Times(Function::Silu),
            shared: 0,
            shared_gate: false,
        })
    }

    /// With the gating function, the treatment of weights, the groups and the shared expert that the file's keys name.
    pub fn with_keys(self, n: &Network<'_>, default: Gating) -> Result<Moe> {
        let keys = n.keys;
        let gating = match keys.opt_count("expert_gating_func", 0, 255)? {
            None | Some(0) => default,
            Some(1) => Gating::Softmax,
            Some(2) => Gating::Sigmoid,
            Some(other) => {
                let feature = format!("metadata key '{}.expert_gating_func' {other}", keys.architecture);
                return Err(Error::unsupported(feature, "1 (softmax) and 2 (sigmoid) are built"));
            }
        };
        let count = keys.opt_count("expert_group_count", 0, self.experts)?.unwrap_or(1);
        let used = keys.opt_count("expert_group_used_count", 0, count)?.unwrap_or(1);
        let shared = keys.opt_count("expert_shared_count", 0, most::EXPERTS)?.unwrap_or(0);
        Ok(Moe {
            gating,
            normalise: keys.opt_bool("expert_weights_norm")?.unwrap_or(false),
            scale: keys.opt_factor("expert_weights_scale")?.unwrap_or(F32(1.0)),
            groups: (count > 1).then_some(Groups { count, used }),
            shared: self.hidden * shared,
            ..self
        })
    }
}

/// The hidden width of each expert.
pub(in crate::front) fn expert_width(n: &Network<'_>) -> Result<usize> {
    n.keys.count("expert_feed_forward_length", 1, most::FFN)
}

/// The mixture of layer `layer`, \[T, d\] -> \[T, d\]. Gate and up are two tensors or, in that order, the rows of each expert of
/// `ffn_gate_up_exps`.
pub(in crate::front) fn moe(n: &mut Network<'_>, layer: usize, x: Ref, m: &Moe) -> Result<Ref> {
    moe_by(n, layer, x, x, m)
}

/// [`moe`] of `x`, with a router that sees `routed`.
pub(in crate::front) fn moe_by(n: &mut Network<'_>, layer: usize, routed: Ref, x: Ref, m: &Moe) -> Result<Ref> {
    let width = n.columns(x);
    let logits = linear(n, routed, &name(layer, "ffn_gate_inp"), m.experts)?;
    let bias = n.opt_vector(&name(layer, "exp_probs_b.bias"), m.experts)?;
    let operands: Vec<Ref> = [logits].into_iter().chain(bias).collect();
    let &Moe { used: k, gating, normalise, scale, groups, .. } = m;
    let routing = n.add(Op::Route { k, gating, normalise, scale, groups }, &operands)?;
    let of = Experts { count: m.experts, routing };
    let fused = name(layer, "ffn_gate_up_exps");
    let (gate, up) = if n.has(&format!("{fused}.weight")) {
        let both = of.linear(n, x, &fused, 2 * m.hidden)?;
        (half(n, both, 0)?, half(n, both, 1)?)
    } else {
        let gate = of.linear(n, x, &name(layer, "ffn_gate_exps"), m.hidden)?;
        (gate, of.linear(n, x, &name(layer, "ffn_up_exps"), m.hidden)?)
    };
    let hidden = match m.gate {
        Gate::Times(f) => gated(n, gate, up, f)?,
        Gate::Clamped => clamped(n, gate, up)?,
    };
    let down = name(layer, "ffn_down_exps");
    let mut y = of.linear(n, hidden, &down, width)?;
    let scales = format!("{down}.scale");
    if n.has(&scales) {
        let scales = n.vector(&scales, m.experts)?;
        let scales = n.add(Op::ExpertRows, &[scales, routing])?;
        y = n.add(Op::Mul, &[y, scales])?;
    }
    let y = n.add(Op::ExpertSum, &[y, routing])?;
    if m.shared == 0 {
        return Ok(y);
    }
    let mut shared = ffn_of(n, layer, x, m.shared, Function::Silu, "_shexp")?;
    if m.shared_gate {
        let weights = n.row(&name(layer, "ffn_gate_inp_shexp.weight"), width)?;
        let gate = n.add(Op::MatMul, &[weights, x])?;
        let gate = map(n, gate, Function::Sigmoid)?;
        shared = n.add(Op::Mul, &[shared, gate])?;
    }
    n.add(Op::Add, &[y, shared])
}

/// The experts that tokens use.
struct Experts {
    count: usize,
    routing: Ref,
}

impl Experts {
    /// `x` times the experts' matrices of `part`.weight transposed, of so many rows, plus their `part`.bias where it exists.
    fn linear(&self, n: &mut Network<'_>, x: Ref, part: &str, rows: usize) -> Result<Ref> {
        let columns = n.columns(x);
        let weight = n.experts(&format!("{part}.weight"), (self.count, rows), columns)?;
        let y = n.add(Op::ExpertMatMul, &[weight, x, self.routing])?;
        let bias = format!("{part}.bias");
        if !n.has(&bias) {
            return Ok(y);
        }
        let table = n.table(&bias, self.count, rows)?;
        let bias = n.add(Op::ExpertRows, &[table, self.routing])?;
        n.add(Op::Add, &[y, bias])
    }
}

/// One half of what each expert gives, \[T, k, 2 n\] -> \[T, k, n\].
fn half(n: &mut Network<'_>, both: Ref, number: usize) -> Result<Ref> {
    let every = n.columns(both);
    n.add(Op::Slice { first: number * every / 2, count: every / 2, every }, &[both])
}

fn clamped(n: &mut Network<'_>, gate: Ref, up: Ref) -> Result<Ref> {
    let gate = map(n, gate, Function::Clamp(F32(f32::MIN), F32(7.0)))?;
    let up = map(n, up, Function::Clamp(F32(-7.0), F32(7.0)))?;
    let up = map(n, up, Function::Offset(F32(1.0)))?;
    let scaled = map(n, gate, Function::Scale(F32(1.702)))?;
    let sigmoid = map(n, scaled, Function::Sigmoid)?;
    let gate = n.add(Op::Mul, &[gate, sigmoid])?;
    n.add(Op::Mul, &[gate, up])
}
