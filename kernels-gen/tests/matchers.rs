//! Which bodies the fused ops take: the forms that models have, and nothing that only looks like them.

use ir::Error;
use ir::graph::{F32, Graph, Op, Ref, RopeStyle};
use ir::quant;
use ir::spec::KernelSpec;
use ir::target::Target;
use ir::tensor::{Elem, TensorType};
use kernels_gen::schedule;

/// A body in the making: rows of 16 columns, products of 32 rows, two heads.
struct Body {
    graph: Graph,
    params: u32,
}

impl Body {
    fn leaf(&mut self, ty: TensorType) -> Ref {
        self.params += 1;
        self.graph.leaf(Op::Param(self.params - 1), ty).unwrap()
    }

    fn param<const N: usize>(&mut self, shape: [usize; N]) -> Ref {
        self.leaf(TensorType::new(Elem::F32, shape))
    }

    fn op(&mut self, op: Op, inputs: &[Ref]) -> Ref {
        self.graph.add(op, inputs).unwrap()
    }

    fn times(&mut self, x: Ref) -> Ref {
        let w = self.param([32, 16]);
        self.op(Op::MatMul, &[w, x])
    }

    fn product(&mut self) -> Ref {
        let x = self.param([1, 16]);
        self.times(x)
    }

    fn plus<const N: usize>(&mut self, v: Ref, shape: [usize; N]) -> Ref {
        let w = self.param(shape);
        self.op(Op::Add, &[v, w])
    }

    fn norm(&mut self, v: Ref, columns: usize) -> Ref {
        let w = self.param([columns]);
        self.op(Op::RmsNorm { eps: F32(1e-5) }, &[v, w])
    }

    fn heads(&mut self, v: Ref) -> Ref {
        self.op(Op::Reshape(vec![1, 2, 16]), &[v])
    }

    fn rope(&mut self, v: Ref) -> Ref {
        let angles = self.param([1, 16]);
        self.op(Op::Rope { style: RopeStyle::Halves }, &[v, angles])
    }

    fn silu(&mut self, v: Ref) -> Ref {
        self.op(Op::Silu, &[v])
    }

    fn attention(&mut self, q: Ref) -> Ref {
        let mut state = || self.leaf(TensorType::new(Elem::Ggml(quant::F16), [2, 64, 16]));
        let (k, v) = (state(), state());
        let position = self.leaf(TensorType::new(Elem::I32, [1]));
        self.op(Op::Attention { scale: F32(0.25), window: None, cap: None }, &[q, k, v, position])
    }
}

/// The op, whether it takes the body, and the body.
type Case = (&'static str, bool, &'static str, fn(&mut Body) -> Ref);

const CASES: &[Case] = &[
    ("qkv", true, "heads", |b| {
        let v = b.product();
        b.heads(v)
    }),
    ("qkv", true, "bias, heads, norm, rotation", |b| {
        let v = b.product();
        let v = b.plus(v, [32]);
        let v = b.heads(v);
        let v = b.norm(v, 16);
        b.rope(v)
    }),
    ("qkv", false, "no heads", |b| b.product()),
    ("qkv", false, "two biases", |b| {
        let v = b.product();
        let v = b.plus(v, [32]);
        let v = b.plus(v, [32]);
        b.heads(v)
    }),
    ("qkv", false, "rows in the bias's place", |b| {
        let v = b.product();
        let v = b.plus(v, [1, 32]);
        b.heads(v)
    }),
    ("qkv", false, "a bias of each head", |b| {
        let v = b.product();
        let v = b.heads(v);
        b.plus(v, [16])
    }),
    ("qkv", false, "two norms", |b| {
        let v = b.product();
        let v = b.heads(v);
        let v = b.norm(v, 16);
        b.norm(v, 16)
    }),
    ("qkv", false, "a norm over the whole width", |b| {
        let v = b.product();
        let v = b.norm(v, 32);
        b.heads(v)
    }),
    ("qkv", false, "a norm after the rotation", |b| {
        let v = b.product();
        let v = b.heads(v);
        let v = b.rope(v);
        b.norm(v, 16)
    }),
    ("qkv", false, "two rotations", |b| {
        let v = b.product();
        let v = b.heads(v);
        let v = b.rope(v);
        b.rope(v)
    }),
    ("qkv", false, "heads of heads", |b| {
        let v = b.product();
        let v = b.heads(v);
        b.op(Op::Reshape(vec![1, 4, 8]), &[v])
    }),
    ("qkv", false, "an activation", |b| {
        let v = b.product();
        let v = b.silu(v);
        b.heads(v)
    }),
    ("project", true, "product and residual", |b| {
        let v = b.product();
        b.plus(v, [1, 32])
    }),
    ("project", true, "residual and product with bias", |b| {
        let (x, v) = (b.param([1, 32]), b.product());
        let v = b.plus(v, [32]);
        b.op(Op::Add, &[x, v])
    }),
    ("project", false, "no residual", |b| {
        let v = b.product();
        b.plus(v, [32])
    }),
    ("project", false, "two biases", |b| {
        let v = b.product();
        let v = b.plus(v, [32]);
        let v = b.plus(v, [32]);
        b.plus(v, [1, 32])
    }),
    ("project", false, "two residuals", |b| {
        let v = b.product();
        let v = b.plus(v, [1, 32]);
        b.plus(v, [1, 32])
    }),
    ("project", false, "two products", |b| {
        let (v, w) = (b.product(), b.product());
        b.op(Op::Add, &[v, w])
    }),
    ("project", false, "a norm of the product", |b| {
        let v = b.product();
        let v = b.norm(v, 32);
        b.plus(v, [1, 32])
    }),
    ("gate_up", true, "silu(gate) * up", |b| {
        let x = b.param([1, 16]);
        let (gate, up) = (b.times(x), b.times(x));
        let gate = b.silu(gate);
        b.op(Op::Mul, &[gate, up])
    }),
    ("gate_up", true, "up * silu(gate) of a norm", |b| {
        let x = b.param([1, 16]);
        let x = b.norm(x, 16);
        let (up, gate) = (b.times(x), b.times(x));
        let gate = b.silu(gate);
        b.op(Op::Mul, &[up, gate])
    }),
    ("gate_up", false, "no activation", |b| {
        let x = b.param([1, 16]);
        let (gate, up) = (b.times(x), b.times(x));
        b.op(Op::Mul, &[gate, up])
    }),
    ("gate_up", false, "two activations", |b| {
        let x = b.param([1, 16]);
        let (gate, up) = (b.times(x), b.times(x));
        let (gate, up) = (b.silu(gate), b.silu(up));
        b.op(Op::Mul, &[gate, up])
    }),
    ("gate_up", false, "a bias", |b| {
        let x = b.param([1, 16]);
        let (gate, up) = (b.times(x), b.times(x));
        let gate = b.plus(gate, [32]);
        let gate = b.silu(gate);
        b.op(Op::Mul, &[gate, up])
    }),
    ("gate_up", false, "different inputs", |b| {
        let (gate, up) = (b.product(), b.product());
        let gate = b.silu(gate);
        b.op(Op::Mul, &[gate, up])
    }),
    ("logits", true, "of the last token's norm", |b| {
        let x = b.param([1, 16]);
        let x = b.op(Op::LastToken, &[x]);
        let x = b.norm(x, 16);
        b.times(x)
    }),
    ("logits", false, "two norms", |b| {
        let x = b.param([1, 16]);
        let x = b.norm(x, 16);
        let x = b.norm(x, 16);
        b.times(x)
    }),
    ("logits", false, "the last token of a norm", |b| {
        let x = b.param([1, 16]);
        let x = b.norm(x, 16);
        let x = b.op(Op::LastToken, &[x]);
        b.times(x)
    }),
    ("logits", false, "a bias", |b| {
        let v = b.product();
        b.plus(v, [32])
    }),
    ("attention", true, "of parameters", |b| {
        let q = b.param([1, 4, 16]);
        b.attention(q)
    }),
    ("attention", false, "of a norm", |b| {
        let q = b.param([1, 4, 16]);
        let q = b.norm(q, 16);
        b.attention(q)
    }),
];

#[test]
fn bodies_are_taken_as_they_are_or_refused() {
    let target = Target::by_name("x86-64").unwrap();
    for &(op, taken, what, build) in CASES {
        let mut body = Body { graph: Graph::new(), params: 0 };
        let out = build(&mut body);
        body.graph.output("out", out).unwrap();
        let spec = KernelSpec::new(op, body.graph, 1, target);
        match schedule::choose(&spec, target, &[]) {
            Ok(_) => assert!(taken, "{op}, {what}: taken"),
            Err(Error::Unsupported { .. }) => assert!(!taken, "{op}, {what}: refused"),
            Err(e) => panic!("{op}, {what}: {e}"),
        }
    }
}
