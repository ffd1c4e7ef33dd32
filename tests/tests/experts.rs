//! Kernels of mixtures of experts against the interpreter on their bodies: formats, shapes, routings and forms that no model of
//! the zoo has.

use codegen::TableKernel;
use ir::graph::{F32, Function, Gating, Graph, Groups, Op, Ref};
use ir::quant::{self, Format};
use ir::spec::KernelSpec;
use ir::target::Target;
use ir::tensor::{Elem, Layout, TensorType};
use kernels_gen::{ops, schedule};
use tests::kernels::{self, Draw, Trial};
use tests::run;
use tests::synthetic::format;

/// A body in the making.
#[derive(Default)]
struct Body {
    graph: Graph,
    params: u32,
}

impl Body {
    fn param(&mut self, elem: Elem, shape: &[usize], layout: Layout) -> Ref {
        self.params += 1;
        let ty = TensorType { elem, shape: shape.to_vec(), layout };
        self.graph.leaf(Op::Param(self.params - 1), ty).unwrap()
    }

    fn floats(&mut self, shape: &[usize]) -> Ref {
        self.param(Elem::F32, shape, Layout::Rows)
    }

    fn op(&mut self, op: Op, operands: &[Ref]) -> Ref {
        self.graph.add(op, operands).unwrap()
    }

    fn map(&mut self, f: Function, x: Ref) -> Ref {
        self.op(Op::Map(f), &[x])
    }

    /// The kernel for a target.
    fn kernel(mut self, out: Ref, tokens: usize, target: &Target) -> TableKernel {
        self.graph.output("out", out).unwrap();
        let kind = ops::kind(&self.graph).unwrap_or_else(|e| panic!("{e}"));
        let spec = KernelSpec::new(kind, self.graph, tokens, target);
        let made = schedule::choose(&spec, target, &[]).unwrap_or_else(|e| panic!("{e}"));
        TableKernel::new(spec, made, 0).unwrap()
    }
}

/// A mixture.
#[derive(Debug, Clone, Copy)]
struct Mixture {
    experts: usize,
    used: usize,
    /// Width of the model, and of an expert.
    width: usize,
    hidden: usize,
    format: Format,
}

impl Mixture {
    /// The products of the experts with `x`.
    fn product(&self, b: &mut Body, [rows, columns]: [usize; 2], x: Ref, routing: Ref, target: &Target) -> Ref {
        let tiled = target.has_dot(self.format.dot);
        let layout = if tiled { Layout::Rows16 } else { Layout::Rows };
        let w = b.param(Elem::Ggml(self.format), &[self.experts, rows, columns], layout);
        let x = if self.format.dot.wants_int8() { b.op(Op::Quantize, &[x]) } else { x };
        b.op(Op::ExpertMatMul, &[w, x, routing])
    }

    fn routing(&self, b: &mut Body, tokens: usize) -> Ref {
        b.floats(&[tokens, 2 * self.used])
    }

    /// An expert's rows, plus `y`.
    fn biased(&self, b: &mut Body, y: Ref, rows: usize, routing: Ref) -> Ref {
        let table = b.floats(&[self.experts, rows]);
        let rows = b.op(Op::ExpertRows, &[table, routing]);
        b.op(Op::Add, &[y, rows])
    }

    /// silu(gate) * up of normalised rows.
    fn gated(&self, tokens: usize, target: &Target) -> TableKernel {
        let mut b = Body::default();
        let (x, w, routing) = (b.floats(&[tokens, self.width]), b.floats(&[self.width]), self.routing(&mut b, tokens));
        let x = b.op(Op::RmsNorm { eps: F32(1e-5) }, &[x, w]);
        let shape = [self.hidden, self.width];
        let [gate, up] = [0, 1].map(|_| self.product(&mut b, shape, x, routing, target));
        let gate = b.map(Function::Silu, gate);
        let out = b.op(Op::Mul, &[gate, up]);
        b.kernel(out, tokens, target)
    }

    /// The gate of gpt-oss, with biases, of rows as they are.
    fn clamped(&self, tokens: usize, target: &Target) -> TableKernel {
        let mut b = Body::default();
        let (x, routing) = (b.floats(&[tokens, self.width]), self.routing(&mut b, tokens));
        let [gate, up] = [0, 1].map(|_| {
            let y = self.product(&mut b, [self.hidden, self.width], x, routing, target);
            self.biased(&mut b, y, self.hidden, routing)
        });
        let gate = b.map(Function::Clamp(F32(f32::MIN), F32(7.0)), gate);
        let up = b.map(Function::Clamp(F32(-7.0), F32(7.0)), up);
        let up = b.map(Function::Offset(F32(1.0)), up);
        let scaled = b.map(Function::Scale(F32(1.702)), gate);
        let sigmoid = b.map(Function::Sigmoid, scaled);
        let gate = b.op(Op::Mul, &[gate, sigmoid]);
        let out = b.op(Op::Mul, &[gate, up]);
        b.kernel(out, tokens, target)
    }

    /// The sum over experts; with biases, scales and a residual if so said.
    fn sum(&self, tokens: usize, dressed: bool, target: &Target) -> TableKernel {
        let mut b = Body::default();
        let (x, routing) = (b.floats(&[tokens, self.used, self.hidden]), self.routing(&mut b, tokens));
        let mut y = self.product(&mut b, [self.width, self.hidden], x, routing, target);
        if dressed {
            y = self.biased(&mut b, y, self.width, routing);
            let scales = b.floats(&[self.experts]);
            let scales = b.op(Op::ExpertRows, &[scales, routing]);
            y = b.op(Op::Mul, &[y, scales]);
        }
        let mut out = b.op(Op::ExpertSum, &[y, routing]);
        if dressed {
            let residual = b.floats(&[tokens, self.width]);
            out = b.op(Op::Add, &[out, residual]);
        }
        b.kernel(out, tokens, target)
    }
}

fn check(name: &str, kernel: &TableKernel, target: &Target) {
    let capacity = kernel.spec.tokens;
    let first = u64::from_str_radix(&kernel.hash[..8], 16).unwrap();
    // A clamp leaves of large products their errors, and of one that is not finite whether it is infinite or NaN.
    let clamps = kernel.spec.body.nodes().iter().any(|n| matches!(n.op, Op::Map(Function::Clamp(..))));
    let draws = if clamps { [Draw::Usual; 3] } else { [Draw::Usual, Draw::Edges, Draw::NotFinite] };
    let steps = [(capacity, 1), (capacity.div_ceil(2), 3), (capacity, 2)];
    let trials = steps.into_iter().zip(draws).map(|((tokens, workers), draw)| (tokens, workers, draw));
    for (seed, (tokens, workers, draw)) in (first..).zip(trials) {
        let trial = Trial { position: 0, tokens, workers, seed, draw };
        kernels::assert_within(&kernels::run(kernel, target, trial), || {
            format!("{name} {} {} {trial:?}, {}", target.name, kernel.kernel.name, kernel.schedule)
        });
    }
}

const CAPACITIES: [usize; 4] = [1, 2, 5, 128];

#[test]
fn mixtures() {
    let named = |experts, used, width, hidden, f: &str| Mixture { experts, used, width, hidden, format: format(f) };
    let mixtures = [
        // One of one, all of all, one of many, rows that fill no tile, long rows, which are cut into pieces.
        named(1, 1, 64, 32, "f32"),
        named(4, 4, 32, 64, "f32"),
        named(16, 1, 96, 160, "f16"),
        named(7, 3, 36, 20, "f32"),
        named(8, 2, 96, 64, "q8_0"),
        named(5, 2, 256, 512, "q4_k"),
        named(6, 4, 320, 96, "mxfp4"),
        named(3, 2, 2304, 256, "q6_k"),
        named(33, 8, 68, 44, "bf16"),
        named(4, 2, 352, 352, "f32"),
    ];
    for (i, m) in mixtures.into_iter().enumerate() {
        for target in run::targets() {
            for tokens in CAPACITIES.into_iter().filter(|&t| t < 128 || i % 3 == 2) {
                let name = format!("{m:?}");
                check(&name, &m.gated(tokens, target), target);
                check(&name, &m.clamped(tokens, target), target);
                check(&name, &m.sum(tokens, i % 2 == 0, target), target);
                check(&name, &m.sum(tokens, i % 2 == 1, target), target);
            }
        }
    }
}

#[test]
fn every_format() {
    for f in quant::ALL {
        let width = if f.block == 256 { 256 } else { 96 };
        let m = Mixture { experts: 5, used: 2, width, hidden: width, format: Format(f) };
        for target in run::targets() {
            check(f.name, &m.gated(3, target), target);
            check(f.name, &m.sum(3, true, target), target);
        }
    }
}

#[test]
fn routes() {
    let all = [Gating::Softmax, Gating::Sigmoid, Gating::SoftmaxOfChosen];
    let shapes = [(1, 1), (2, 2), (8, 2), (9, 3), (128, 8), (30, 30), (513, 12)];
    for target in run::targets() {
        for (i, (experts, k)) in shapes.into_iter().enumerate() {
            for (gating, biased) in all.into_iter().flat_map(|gating| [false, true].map(|biased| (gating, biased))) {
                let op = |normalise, groups| Op::Route { k, gating, normalise, scale: F32(2.5), groups };
                let groups = [(8, 4, 2), (9, 3, 1), (9, 9, 5), (128, 8, 3), (30, 5, 5), (513, 3, 1)];
                let groups = groups.into_iter().filter(|g| g.0 == experts && gating != Gating::SoftmaxOfChosen);
                let groups = groups.map(|(_, count, used)| Some(Groups { count, used }));
                for (n, groups) in groups.chain([None]).enumerate() {
                    let mut b = Body::default();
                    let x = b.floats(&[CAPACITIES[i % 4], experts]);
                    let mut operands = vec![x];
                    if biased {
                        operands.push(b.floats(&[experts]));
                    }
                    let out = b.op(op((i + n).is_multiple_of(2), groups), &operands);
                    let name = format!("{k} of {experts}, {gating:?}, {groups:?}, biased {biased}");
                    check(&name, &b.kernel(out, CAPACITIES[i % 4], target), target);
                }
            }
        }
    }
}

/// A token's bits are the same alone and among others, whoever they are.
#[test]
fn tokens_do_not_see_each_other() {
    let m = Mixture { experts: 6, used: 3, width: 256, hidden: 256, format: format("q4_k") };
    for target in run::targets() {
        let kernels: [fn(&Mixture, usize, &Target) -> TableKernel; 2] =
            [Mixture::gated, |m, t, target| m.sum(t, true, target)];
        for kernel in kernels {
            let trial = |tokens, workers| Trial { position: 0, tokens, workers, seed: 5, draw: Draw::Usual };
            let [many, few, one] = [37, 3, 1].map(|tokens| kernel(&m, tokens, target));
            let bits = |kernel: &TableKernel, workers, tokens| {
                let rows = kernels::rows_of(&many, kernel, target, trial(37, workers), tokens);
                rows.into_iter().map(|row| row.into_iter().map(f32::to_bits).collect()).collect::<Vec<Vec<u32>>>()
            };
            let rows = bits(&many, 3, 0..37);
            for t in [0, 1, 36] {
                assert!(bits(&one, 2, t..t + 1) == rows[t..t + 1], "token {t} alone");
            }
            assert!(bits(&few, 2, 20..23) == rows[20..23], "three tokens");
        }
    }
}
