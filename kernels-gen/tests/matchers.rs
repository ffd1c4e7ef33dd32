//! Which bodies the fused ops take: the forms that models have, and nothing that only looks like them.

use ir::Error;
use ir::graph::{F32, Function, Graph, Op, Ref, RopeStyle};
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
        self.op(Op::Map(Function::Silu), &[v])
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
    ("qkv", true, "two biases", |b| {
        let v = b.product();
        let v = b.plus(v, [32]);
        let v = b.plus(v, [32]);
        b.heads(v)
    }),
    ("qkv", true, "rows in the bias's place", |b| {
        let v = b.product();
        let v = b.plus(v, [1, 32]);
        b.heads(v)
    }),
    ("qkv", true, "a bias of each head", |b| {
        let v = b.product();
        let v = b.heads(v);
        b.plus(v, [16])
    }),
    ("qkv", true, "two norms", |b| {
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
    ("qkv", true, "a norm after the rotation", |b| {
        let v = b.product();
        let v = b.heads(v);
        let v = b.rope(v);
        b.norm(v, 16)
    }),
    ("qkv", true, "two rotations", |b| {
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
    ("qkv", true, "an activation", |b| {
        let v = b.product();
        let v = b.silu(v);
        b.heads(v)
    }),
    ("qkv", false, "two products", |b| {
        let (v, w) = (b.product(), b.product());
        let v = b.op(Op::Add, &[v, w]);
        b.heads(v)
    }),
    ("qkv", false, "the last token", |b| {
        let x = b.param([1, 16]);
        let x = b.op(Op::LastToken, &[x]);
        let v = b.times(x);
        b.heads(v)
    }),
    ("linear", true, "of the last token's norm", |b| {
        let x = b.param([1, 16]);
        let x = b.op(Op::LastToken, &[x]);
        let x = b.norm(x, 16);
        b.times(x)
    }),
    ("linear", true, "biases and residuals", |b| {
        let (x, v) = (b.param([1, 32]), b.product());
        let v = b.plus(v, [32]);
        let v = b.op(Op::Add, &[x, v]);
        b.plus(v, [1, 32])
    }),
    ("linear", true, "up * silu(gate) of a norm", |b| {
        let x = b.param([1, 16]);
        let x = b.norm(x, 16);
        let (up, gate) = (b.times(x), b.times(x));
        let gate = b.silu(gate);
        b.op(Op::Mul, &[up, gate])
    }),
    ("linear", false, "products of different inputs", |b| {
        let (v, w) = (b.product(), b.product());
        b.op(Op::Add, &[v, w])
    }),
    ("linear", false, "products of different norms", |b| {
        let x = b.param([1, 16]);
        let (v, w) = (b.norm(x, 16), b.norm(x, 16));
        let (v, w) = (b.times(v), b.times(w));
        b.op(Op::Add, &[v, w])
    }),
    ("linear", false, "a norm of the product", |b| {
        let v = b.product();
        let v = b.norm(v, 32);
        b.plus(v, [1, 32])
    }),
    ("linear", false, "heads", |b| {
        let v = b.product();
        b.heads(v)
    }),
    ("linear", false, "two norms", |b| {
        let x = b.param([1, 16]);
        let x = b.norm(x, 16);
        let x = b.norm(x, 16);
        b.times(x)
    }),
    ("linear", false, "the last token of a norm", |b| {
        let x = b.param([1, 16]);
        let x = b.norm(x, 16);
        let x = b.op(Op::LastToken, &[x]);
        b.times(x)
    }),
    ("linear", false, "no product", |b| {
        let x = b.param([1, 32]);
        b.plus(x, [1, 32])
    }),
    ("rows", true, "a norm and a residual", |b| {
        let v = b.param([1, 32]);
        let v = b.norm(v, 32);
        b.plus(v, [1, 32])
    }),
    ("rows", true, "a norm over the whole width, heads, rotation", |b| {
        let v = b.param([1, 32]);
        let v = b.norm(v, 32);
        let v = b.heads(v);
        b.rope(v)
    }),
    ("rows", false, "a product", |b| {
        let v = b.product();
        b.norm(v, 32)
    }),
    ("rows", false, "heads of two sizes", |b| {
        let v = b.param([1, 32]);
        let v = b.heads(v);
        let v = b.norm(v, 16);
        b.op(Op::Reshape(vec![1, 4, 8]), &[v])
    }),
    ("rows", true, "columns that are no multiple of four", |b| {
        let v = b.param([1, 30]);
        b.norm(v, 30)
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
