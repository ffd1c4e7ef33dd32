//! The graph's type rules, verifier, text form and interpreter on small cases.

mod attention;
mod experts;
mod recurrent;

use ir::graph::interp::{self, KvCache, Step, Value, Weights};
use ir::graph::{Angles, F32, Function, Fusion, Gating, Graph, Groups, HeadMap, Input, NodeId, Op, Ref, RopeStyle};
use ir::kernel::Access;
use ir::quant::{self, Format};
use ir::role::Role;
use ir::tensor::{Elem, Layout, TensorType};
use proptest::prelude::*;

fn ty(elem: Elem, shape: &[usize]) -> TensorType {
    TensorType::new(elem, shape)
}

fn weight(g: &mut Graph, name: &str, format: &str, shape: &[usize]) -> Ref {
    let elem = Elem::Ggml(Format::by_name(format).unwrap());
    g.leaf(Op::Weight(name.into()), ty(elem, shape)).unwrap()
}

fn angles(tokens: usize, dim: usize, theta: F32) -> Op {
    Op::RopeAngles(Box::new(Angles { tokens, dim, theta, divisors: Vec::new(), magnitude: F32(1.0) }))
}

fn param(g: &mut Graph, n: u32, shape: &[usize]) -> Ref {
    g.leaf(Op::Param(n), ty(Elem::F32, shape)).unwrap()
}

fn tokens(g: &mut Graph, n: usize) -> Ref {
    g.leaf(Op::Input(Input::Tokens), ty(Elem::I32, &[n])).unwrap()
}

fn position(g: &mut Graph) -> Ref {
    g.leaf(Op::Input(Input::Position), ty(Elem::I32, &[1])).unwrap()
}

fn state(g: &mut Graph, name: &str, format: Format, shape: &[usize]) -> Ref {
    g.leaf(Op::State(name.into()), ty(Elem::Ggml(format), shape)).unwrap()
}

/// Attention without a window or a cap.
fn plain(scale: f32) -> Op {
    Op::Attention { scale: F32(scale), window: None, cap: None }
}

#[test]
fn equal_nodes_are_one() {
    let mut g = Graph::new();
    let (a, b) = (param(&mut g, 0, &[2, 8]), param(&mut g, 1, &[2, 8]));
    let first = g.add(Op::Add, &[a, b]).unwrap();
    assert_eq!(g.add(Op::Add, &[a, b]).unwrap(), first);
    assert_ne!(g.add(Op::Add, &[b, a]).unwrap(), first);
    assert_eq!(g.nodes().len(), 4);
}

/// The best k experts by a softmax of all, as they are.
fn route(k: usize) -> Op {
    Op::Route { k, gating: Gating::Softmax, normalise: false, scale: F32(1.0), groups: None }
}

/// The same, from some groups of `count`.
fn grouped(op: Op, count: usize, used: usize) -> Op {
    let Op::Route { k, gating, normalise, scale, .. } = op else { unreachable!() };
    Op::Route { k, gating, normalise, scale, groups: Some(Groups { count, used }) }
}

/// The gated delta rule over three tokens with V value heads, K others, S keys and s values.
fn delta_rule(g: &mut Graph, [count, shared, keys, values]: [usize; 4], shape: [usize; 3]) -> ir::Result<Ref> {
    let s = state(g, "s", quant::F32, &shape);
    let (q, k) = (param(g, 0, &[3, shared, keys]), param(g, 1, &[3, shared, keys]));
    let (v, decay, beta) = (param(g, 2, &[3, count, values]), param(g, 3, &[3, count]), param(g, 4, &[3, count]));
    g.add(Op::DeltaRule { heads: HeadMap::Tiled }, &[s, q, k, v, decay, beta])
}

/// Adds a node that its rule refuses.
type Broken = fn(&mut Graph) -> ir::Result<Ref>;

/// The words of the message, and the node.
const BROKEN: &[(&str, Broken)] = &[
    ("columns of the weight q4_0[8,64] and of x f32[1,32] differ", |g| {
        let (w, x) = (weight(g, "w", "q4_0", &[8, 64]), param(g, 0, &[1, 32]));
        g.add(Op::MatMul, &[w, x])
    }),
    ("1 operands, 2 are expected", |g| {
        let x = param(g, 0, &[1, 32]);
        g.add(Op::MatMul, &[x])
    }),
    ("operand %7 does not exist", |g| g.add(Op::Map(Function::Silu), &[NodeId(7).at(0)])),
    ("operand %0.1 does not exist", |g| {
        let x = param(g, 0, &[1, 32]);
        g.add(Op::Map(Function::Silu), &[x.node.at(1)])
    }),
    ("block of 256", |g| g.leaf(Op::Weight("w".into()), ty(Elem::Ggml(Format::by_name("q4_k").unwrap()), &[8, 128]))),
    ("no elements or more than", |g| g.leaf(Op::Param(0), ty(Elem::F32, &[usize::MAX, 2]))),
    ("no elements or more than", |g| g.leaf(Op::Param(0), ty(Elem::F32, &[0]))),
    ("5 dimensions", |g| g.leaf(Op::Param(0), ty(Elem::F32, &[1; 5]))),
    ("a multiple of 32", |g| {
        let x = param(g, 0, &[1, 40]);
        g.add(Op::Quantize, &[x])
    }),
    ("b has the shape [8], not f32[4]", |g| {
        let (a, b) = (param(g, 0, &[2, 8]), param(g, 1, &[4]));
        g.add(Op::Add, &[a, b])
    }),
    ("4 columns of f32[2,8] have no 2 from 3 on", |g| {
        let x = param(g, 0, &[2, 8]);
        g.add(Op::Slice { first: 3, count: 2, every: 4 }, &[x])
    }),
    ("the columns of f32[2,8] are no multiple of 3", |g| {
        let x = param(g, 0, &[2, 8]);
        g.add(Op::Slice { first: 0, count: 2, every: 3 }, &[x])
    }),
    ("f32[2,8] cannot become [4, 4]", |g| {
        let x = param(g, 0, &[2, 8]);
        g.add(Op::Reshape(vec![4, 4]), &[x])
    }),
    ("dim 3 is not even", |g| {
        let at = position(g);
        g.add(angles(1, 3, F32(1e4)), &[at])
    }),
    ("theta is inf", |g| {
        let at = position(g);
        g.add(angles(1, 4, F32(f32::INFINITY)), &[at])
    }),
    ("dim at most the head size", |g| {
        let (x, angles) = (param(g, 0, &[1, 2, 8]), param(g, 1, &[1, 16]));
        g.add(Op::Rope { style: RopeStyle::Halves }, &[x, angles])
    }),
    ("do not fit the KV cache", |g| {
        let (s, x, at) = (state(g, "k", quant::F16, &[2, 4, 8]), param(g, 0, &[1, 3, 8]), position(g));
        g.add(Op::KvAppend, &[s, x, at])
    }),
    ("5 tokens do not fit", |g| {
        let (s, x, at) = (state(g, "k", quant::F16, &[2, 4, 8]), param(g, 0, &[5, 2, 8]), position(g));
        g.add(Op::KvAppend, &[s, x, at])
    }),
    ("or f16[G,blocks,64,h] or q8_0[G,blocks,64,h] or f32 of any shape, not f16[4,8]", |g| {
        g.leaf(Op::State("k".into()), ty(Elem::F16, &[4, 8]))
    }),
    ("a state is f16[G,context,h] or q8_0[G,context,h] or", |g| {
        g.leaf(Op::State("k".into()), ty(Elem::F16, &[2, 3, 32, 8]))
    }),
    ("the ring f16[2,1,64,8] does not hold what 3 tokens see", |g| {
        let (k, q, at) = (state(g, "k", quant::F16, &[2, 1, 64, 8]), param(g, 0, &[3, 2, 8]), position(g));
        g.add(Op::Attention { scale: F32(1.0), window: Some(63), cap: None }, &[q, k, k, at])
    }),
    ("the ring f16[2,1,64,8] does not hold what 1 tokens see", |g| {
        let (k, q, at) = (state(g, "k", quant::F16, &[2, 1, 64, 8]), param(g, 0, &[1, 2, 8]), position(g));
        g.add(plain(1.0), &[q, k, k, at])
    }),
    ("q8_0[G,context,h] or f16[G,blocks,64,h] or q8_0[G,blocks,64,h], not f32[2,4,8]", |g| {
        let (s, x, at) = (state(g, "k", quant::F32, &[2, 4, 8]), param(g, 0, &[1, 2, 8]), position(g));
        g.add(Op::KvAppend, &[s, x, at])
    }),
    ("the state is f32[3, 8], not f32[2,8]", |g| {
        let (s, x, w) = (state(g, "s", quant::F32, &[2, 8]), param(g, 0, &[5, 8]), weight(g, "w", "f32", &[8, 4]));
        g.add(Op::ShortConv, &[s, x, w])
    }),
    ("w is f32[8,c], c at least 2, not f32[8,1]", |g| {
        let (s, x, w) = (state(g, "s", quant::F32, &[2, 8]), param(g, 0, &[5, 8]), weight(g, "w", "f32", &[8, 1]));
        g.add(Op::ShortConv, &[s, x, w])
    }),
    ("the state is f32[6, 4, 8], not f32[6,8,4]", |g| delta_rule(g, [6, 2, 4, 8], [6, 8, 4])),
    ("heads of v f32[3,6,8] are no multiple of those of q f32[3,4,4]", |g| delta_rule(g, [6, 4, 4, 8], [6, 4, 8])),
    ("heads of q f32[1,3,8] do not fit", |g| {
        let (k, q, at) = (state(g, "k", quant::F16, &[2, 4, 8]), param(g, 0, &[1, 3, 8]), position(g));
        g.add(plain(1.0), &[q, k, k, at])
    }),
    ("the sinks has the shape [4], not f32[2]", |g| {
        let (k, q, at) = (state(g, "k", quant::F16, &[2, 4, 8]), param(g, 0, &[1, 4, 8]), position(g));
        let sinks = param(g, 1, &[2]);
        g.add(plain(1.0), &[q, k, k, at, sinks])
    }),
    ("6 operands, at most 5", |g| {
        let (k, q, at) = (state(g, "k", quant::F16, &[2, 4, 8]), param(g, 0, &[1, 2, 8]), position(g));
        let sinks = param(g, 1, &[2]);
        g.add(plain(1.0), &[q, k, k, at, sinks, sinks])
    }),
    ("the window is empty", |g| {
        let (k, q, at) = (state(g, "k", quant::F16, &[2, 4, 8]), param(g, 0, &[1, 2, 8]), position(g));
        g.add(Op::Attention { scale: F32(1.0), window: Some(0), cap: None }, &[q, k, k, at])
    }),
    ("cap is -1", |g| {
        let (k, q, at) = (state(g, "k", quant::F16, &[2, 4, 8]), param(g, 0, &[1, 2, 8]), position(g));
        g.add(Op::Attention { scale: F32(1.0), window: None, cap: Some(F32(-1.0)) }, &[q, k, k, at])
    }),
    ("k is f16[2,4,8], v is f16[2,5,8]", |g| {
        let (k, v) = (state(g, "k", quant::F16, &[2, 4, 8]), state(g, "v", quant::F16, &[2, 5, 8]));
        let (q, at) = (param(g, 0, &[1, 2, 8]), position(g));
        g.add(plain(1.0), &[q, k, v, at])
    }),
    ("k is f16[2,4,8]@keys, v is f16[2,4,4]@values", |g| {
        let mut state = |name: &str, shape: &[usize], layout| {
            g.leaf(Op::State(name.into()), TensorType { layout, ..ty(Elem::F16, shape) }).unwrap()
        };
        let (k, v) = (state("k", &[2, 4, 8], Layout::Keys), state("v", &[2, 4, 4], Layout::Values));
        let (q, at) = (param(g, 0, &[1, 2, 8]), position(g));
        g.add(plain(1.0), &[q, k, v, at])
    }),
    ("k is 5, 1 to 4 are allowed", |g| {
        let x = param(g, 0, &[2, 4]);
        g.add(Op::TopK { k: 5 }, &[x])
    }),
    ("k is 0, 1 to 256 are allowed", |g| {
        let x = param(g, 0, &[1, 300]);
        g.add(Op::TopK { k: 0 }, &[x])
    }),
    ("V at most 16777216, not f32[1,16777217]", |g| {
        let x = param(g, 0, &[1, (1 << 24) + 1]);
        g.add(Op::TopK { k: 1 }, &[x])
    }),
    ("k is 3, 1 to 2 are allowed", |g| {
        let x = param(g, 0, &[1, 2]);
        g.add(route(3), &[x])
    }),
    ("the bias has the shape [4], not f32[3]", |g| {
        let (x, bias) = (param(g, 0, &[1, 4]), param(g, 1, &[3]));
        g.add(route(2), &[x, bias])
    }),
    ("6 experts cannot be in 4 groups", |g| {
        let x = param(g, 0, &[1, 6]);
        g.add(grouped(route(2), 4, 1), &[x])
    }),
    ("1 groups of 3 have fewer than 3 experts", |g| {
        let x = param(g, 0, &[1, 6]);
        g.add(grouped(route(3), 3, 1), &[x])
    }),
    ("groups need weights of all", |g| {
        let x = param(g, 0, &[1, 6]);
        let Op::Route { k, normalise, scale, groups, .. } = grouped(route(3), 3, 2) else { unreachable!() };
        g.add(Op::Route { k, gating: Gating::SoftmaxOfChosen, normalise, scale, groups }, &[x])
    }),
    ("the weight has three dimensions, not f32[8,4]", |g| {
        let (w, x, routing) = (weight(g, "w", "f32", &[8, 4]), param(g, 0, &[2, 4]), param(g, 1, &[2, 4]));
        g.add(Op::ExpertMatMul, &[w, x, routing])
    }),
    ("of 2 rows a token, not f32[2,3,4]", |g| {
        let (w, x, routing) = (weight(g, "w", "f32", &[5, 8, 4]), param(g, 0, &[2, 3, 4]), param(g, 1, &[2, 4]));
        g.add(Op::ExpertMatMul, &[w, x, routing])
    }),
    ("k at most 5, not f32[2,12]", |g| {
        let (w, x, routing) = (weight(g, "w", "f32", &[5, 8, 4]), param(g, 0, &[2, 4]), param(g, 1, &[2, 12]));
        g.add(Op::ExpertMatMul, &[w, x, routing])
    }),
    ("the weight has three dimensions, not f32[8,4]", |g| {
        let (w, x) = (weight(g, "w", "f32", &[8, 4]), param(g, 0, &[2, 8, 4]));
        g.add(Op::HeadMatMul, &[w, x])
    }),
    ("of 3 heads of 4, not f32[2,4,4]", |g| {
        let (w, x) = (weight(g, "w", "f32", &[3, 8, 4]), param(g, 0, &[2, 4, 4]));
        g.add(Op::HeadMatMul, &[w, x])
    }),
    ("heads of a f32[2,4,8], or one head, not f32[2,2,8]", |g| {
        let (a, b) = (param(g, 0, &[2, 4, 8]), param(g, 1, &[2, 2, 8]));
        g.add(Op::Concat, &[a, b])
    }),
    ("the table is f32, not f16[5,8]", |g| {
        let (w, routing) = (weight(g, "w", "f16", &[5, 8]), param(g, 1, &[2, 4]));
        g.add(Op::ExpertRows, &[w, routing])
    }),
    ("2 tokens of 2 experts, not f32[2,3,8]", |g| {
        let (y, routing) = (param(g, 0, &[2, 3, 8]), param(g, 1, &[2, 4]));
        g.add(Op::ExpertSum, &[y, routing])
    }),
    ("one to three dimensions", |g| g.leaf(Op::Weight("w".into()), ty(Elem::F32, &[2, 2, 2, 2]))),
    ("the body has 1 params, 2 operands", |g| {
        let mut body = Graph::new();
        let x = param(&mut body, 0, &[1, 8]);
        body.output("out", x)?;
        let x = param(g, 0, &[1, 8]);
        g.add(Op::Fusion(Box::new(Fusion { kind: "id".into(), body })), &[x, x])
    }),
];

#[test]
fn rules_refuse_by_figures() {
    for (words, case) in BROKEN {
        let error = case(&mut Graph::new()).unwrap_err().to_string();
        assert!(error.contains(words), "'{error}' does not say '{words}'");
    }
}

#[test]
fn verifier_refuses_what_no_node_shows() {
    let mut g = Graph::new();
    let x = param(&mut g, 0, &[1, 8]);
    g.output("out", x).unwrap();
    assert!(g.output("out", x).is_err());
    assert!(g.verify().unwrap_err().to_string().contains("outside a fusion"));

    let mut g = Graph::new();
    tokens(&mut g, 1);
    assert!(g.verify().unwrap_err().to_string().contains("no outputs"));

    let appended = |rename: bool, twice: bool| {
        let mut g = Graph::new();
        let table = weight(&mut g, "t", "f32", &[4, 16]);
        let (ids, at) = (tokens(&mut g, 1), position(&mut g));
        let x = g.add(Op::Embed, &[table, ids]).unwrap();
        let x = g.add(Op::Reshape(vec![1, 2, 8]), &[x]).unwrap();
        let s = state(&mut g, "k.0", quant::F16, &[2, 4, 8]);
        let k = g.add(Op::KvAppend, &[s, x, at]).unwrap();
        let v = if twice { s } else { k };
        let y = g.add(plain(1.0), &[x, k, k, at]).unwrap();
        let z = g.add(plain(1.0), &[x, v, v, at]).unwrap();
        let sum = g.add(Op::Add, &[y, z]).unwrap();
        g.output("out", sum).unwrap();
        g.output(if rename { "other" } else { "k.0" }, k).unwrap();
        g.verify().map_err(|e| e.to_string())
    };
    appended(false, false).unwrap();
    assert!(appended(true, false).unwrap_err().contains("no output is named 'k.0'"));
    assert!(appended(false, true).unwrap_err().contains("more than one user"));
}

/// A graph with every op, a fusion with two results, and names that need escapes.
fn everything() -> Graph {
    let mut g = Graph::new();
    let table = weight(&mut g, "a \"quoted\" \\ na\u{ef}ve\n : name", "q4_0", &[40, 32]);
    let tiled = TensorType { layout: Layout::Rows16, ..ty(Elem::Ggml(quant::Q8_0), &[32, 32]) };
    let w = g.leaf(Op::Weight("w".into()), tiled).unwrap();
    let norm = weight(&mut g, "norm", "f32", &[32]);
    let (ids, at) = (tokens(&mut g, 3), position(&mut g));
    let x = g.add(Op::Embed, &[table, ids]).unwrap();
    let angles = g.add(angles(3, 8, F32(1e4)), &[at]).unwrap();
    let s = state(&mut g, "k", quant::Q8_0, &[2, 6, 16]);

    let mut body = Graph::new();
    let (p, n) = (param(&mut body, 0, &[3, 32]), param(&mut body, 1, &[32]));
    let y = body.add(Op::RmsNorm { eps: F32(1e-5) }, &[p, n]).unwrap();
    let q = body.add(Op::Quantize, &[y]).unwrap();
    body.output("float", y).unwrap();
    body.output("int8", q).unwrap();
    let fused = g.push(Op::Fusion(Box::new(Fusion { kind: "norm".into(), body })), &[x, norm]).unwrap();

    let y = g.add(Op::MatMul, &[w, fused.at(1)]).unwrap();
    let y = g.add(Op::Reshape(vec![3, 2, 16]), &[y]).unwrap();
    let y = g.add(Op::Rope { style: RopeStyle::Adjacent }, &[y, angles]).unwrap();
    let y = g.add(Op::Rope { style: RopeStyle::Halves }, &[y, angles]).unwrap();
    let k = g.add(Op::KvAppend, &[s, y, at]).unwrap();
    let ring = state(&mut g, "ring", quant::F16, &[2, 2, 64, 16]);
    let ring = g.add(Op::KvAppend, &[ring, y, at]).unwrap();
    let window = Op::Attention { scale: F32(1.0), window: Some(126), cap: None };
    let near = g.add(window, &[y, ring, ring, at]).unwrap();
    g.output("ring", ring).unwrap();
    g.output("near", near).unwrap();
    let q = g.add(plain(0.25), &[y, k, k, at]).unwrap();
    let q = g.add(Op::Reshape(vec![3, 2, 16]), &[q]).unwrap();
    let sinks = weight(&mut g, "sinks", "f32", &[2]);
    let all = Op::Attention { scale: F32(1.0), window: Some(5), cap: Some(F32(30.0)) };
    let y = g.add(all, &[q, k, k, at, sinks]).unwrap();
    let y = g.add(Op::Add, &[y, norm]).unwrap();
    let silu = g.add(Op::Map(Function::Silu), &[y]).unwrap();
    let y = g.add(Op::Mul, &[silu, fused.at(0)]).unwrap();
    let routing = g.add(grouped(route(2), 8, 3), &[y]).unwrap();
    let (bias, scale) = (weight(&mut g, "bias", "f32", &[32]), F32(2.5));
    let gating = Gating::SoftmaxOfChosen;
    let other = g.add(Op::Route { k: 2, gating, normalise: true, scale, groups: None }, &[y, bias]).unwrap();
    g.output("routing", other).unwrap();
    let experts = TensorType { layout: Layout::Rows16, ..ty(Elem::Ggml(quant::Q8_0), &[32, 5, 32]) };
    let experts = g.leaf(Op::Weight("experts".into()), experts).unwrap();
    let wide = g.add(Op::ExpertMatMul, &[experts, fused.at(1), routing]).unwrap();
    let table = weight(&mut g, "table", "f32", &[32, 5]);
    let biases = g.add(Op::ExpertRows, &[table, routing]).unwrap();
    let wide = g.add(Op::Add, &[wide, biases]).unwrap();
    let sum = g.add(Op::ExpertSum, &[wide, routing]).unwrap();
    g.output("experts", sum).unwrap();
    let whole = g.add(Op::Slice { first: 8, count: 16, every: 32 }, &[y]).unwrap();
    g.output("whole", whole).unwrap();
    let parts = g.add(Op::Slice { first: 1, count: 2, every: 8 }, &[y]).unwrap();
    g.output("parts", parts).unwrap();
    let heads = g.add(Op::Reshape(vec![3, 2, 16]), &[y]).unwrap();
    let matrices = weight(&mut g, "matrices of heads", "f16", &[2, 5, 16]);
    let of_heads = g.add(Op::HeadMatMul, &[matrices, heads]).unwrap();
    g.output("of heads", of_heads).unwrap();
    let longer = g.add(Op::Concat, &[heads, heads]).unwrap();
    g.output("longer", longer).unwrap();
    let recent = state(&mut g, "recent", quant::F32, &[3, 32]);
    let taps = weight(&mut g, "taps", "f32", &[32, 4]);
    let conv = g.push(Op::ShortConv, &[recent, y, taps]).unwrap();
    let matrices = state(&mut g, "matrices", quant::F32, &[4, 16, 8]);
    let q = g.add(Op::Reshape(vec![3, 2, 16]), &[y]).unwrap();
    let v = g.add(Op::Reshape(vec![3, 4, 8]), &[conv.into()]).unwrap();
    let four = weight(&mut g, "four", "f32", &[4, 32]);
    let decay = g.add(Op::MatMul, &[four, y]).unwrap();
    let rule = g.push(Op::DeltaRule { heads: HeadMap::Tiled }, &[matrices, q, q, v, decay, decay]).unwrap();
    let grouped = state(&mut g, "grouped", quant::F32, &[4, 16, 8]);
    let o = rule.into();
    let last = g.push(Op::DeltaRule { heads: HeadMap::Grouped }, &[grouped, q, q, o, decay, decay]).unwrap();
    g.output("recent", conv.at(1)).unwrap();
    g.output("matrices", rule.at(1)).unwrap();
    g.output("grouped", last.at(1)).unwrap();
    let y = g.add(Op::Reshape(vec![3, 32]), &[last.into()]).unwrap();
    let y = g.add(Op::LastToken, &[y]).unwrap();
    let top = g.add(Op::TopK { k: 3 }, &[y]).unwrap();
    g.output("out", y).unwrap();
    g.output("k", k).unwrap();
    g.output("top", top).unwrap();
    g
}

#[test]
fn text_round_trips() {
    let graph = everything().verify().unwrap();
    let text = graph.to_string();
    let parsed: Graph = text.parse().unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(parsed, *graph);
    assert_eq!(parsed.to_string(), text);
}

proptest! {
    #[test]
    fn parser_survives_garbage(text in "\\PC{0,80}(\n\\PC{0,40}){0,3}") {
        let _ = text.parse::<Graph>();
    }

    /// Mutations of valid text reach deeper than noise.
    #[test]
    fn parser_survives_mutations(at in 0usize..3000, cut in 0usize..12, insert in "[%0-9a-z:,.{}\\[\\]\"=\\\\ \n-]{0,6}") {
        let text: Vec<char> = everything().to_string().chars().collect();
        let at = at % text.len();
        let end = (at + cut).min(text.len());
        let mutated: String =
            text[..at].iter().copied().chain(insert.chars()).chain(text[end..].iter().copied()).collect();
        if let Ok(graph) = mutated.parse::<Graph>() {
            let _ = graph.verify();
        }
    }
}

fn run_body(build: impl FnOnce(&mut Graph) -> Ref, operands: Vec<Value>, tokens: usize) -> Value {
    let mut body = Graph::new();
    let out = build(&mut body);
    body.output("out", out).unwrap();
    interp::run_body(&body, operands, tokens).unwrap().remove(0)
}

#[test]
fn ops_mean_what_their_docs_say() {
    let norm = run_body(
        |g| {
            let (x, w) = (param(g, 0, &[1, 2]), param(g, 1, &[2]));
            g.add(Op::RmsNorm { eps: F32(0.5) }, &[x, w]).unwrap()
        },
        vec![vec![3.0, 4.0].into(), vec![1.0, 2.0].into()],
        1,
    );
    let inverse = 1.0 / 13f64.sqrt();
    assert_eq!(norm.f32().unwrap(), [(3.0 * inverse) as f32, (4.0 * inverse * 2.0) as f32]);

    // 64 elements: a block with ties, which round to even, and a block of zeros.
    let mut x = vec![0.0f32; 64];
    (x[0], x[1], x[2]) = (127.0, 2.5, -3.5);
    let quantise = |g: &mut Graph| {
        let x = param(g, 0, &[1, 64]);
        g.add(Op::Quantize, &[x]).unwrap()
    };
    let q = run_body(quantise, vec![x.into()], 1);
    let q = q.q8().unwrap();
    assert_eq!((&q.codes[..3], &q.scales[..]), ([127, 2, -4].as_slice(), [1.0, 0.0].as_slice()));

    for (slice, expected) in [
        (Op::Slice { first: 1, count: 2, every: 6 }, vec![1.0, 2.0, 7.0, 8.0]),
        (Op::Slice { first: 2, count: 1, every: 3 }, vec![2.0, 5.0, 8.0, 11.0]),
    ] {
        let slice = |g: &mut Graph| {
            let x = param(g, 0, &[2, 6]);
            g.add(slice.clone(), &[x]).unwrap()
        };
        let y = run_body(slice, vec![(0..12).map(|i| i as f32).collect::<Vec<f32>>().into()], 2);
        assert_eq!(y.f32().unwrap(), expected);
    }

    // Two tokens of two heads of three elements.
    let x: Vec<f32> = (0..12).map(|i| i as f32).collect();
    let product = |g: &mut Graph| {
        let (w, x) = (param(g, 0, &[2, 1, 3]), param(g, 1, &[2, 2, 3]));
        g.add(Op::HeadMatMul, &[w, x]).unwrap()
    };
    let y = run_body(product, vec![vec![1.0, 0.0, 0.0, 0.0, 2.0, 1.0].into(), x.clone().into()], 2);
    assert_eq!(y.f32().unwrap(), [0.0, 13.0, 6.0, 31.0]);
    for (heads, second) in [(1, [20.0, 20.0, 21.0, 21.0]), (2, [20.0, 21.0, 22.0, 23.0])] {
        let concat = |g: &mut Graph| {
            let (a, b) = (param(g, 0, &[2, 2, 3]), param(g, 1, &[2, heads, 1]));
            g.add(Op::Concat, &[a, b]).unwrap()
        };
        let b: Vec<f32> = (0..2 * heads).map(|i| 20.0 + i as f32).collect();
        let y = run_body(concat, vec![x.clone().into(), b.into()], 2);
        let expected = x.chunks_exact(3).zip(second).flat_map(|(a, b)| [a[0], a[1], a[2], b]);
        assert!(expected.eq(y.f32().unwrap().iter().copied()), "{heads} heads");
    }

    let angles = run_body(
        |g| {
            let at = g.leaf(Op::Param(0), ty(Elem::I32, &[1])).unwrap();
            let factors = param(g, 1, &[2]);
            g.add(angles(4, 4, F32(100.0)), &[at, factors]).unwrap()
        },
        vec![vec![5].into(), vec![1.0, 2.0].into()],
        2,
    );
    let expected = [5.0f64, 5.0 * 0.1 / 2.0, 6.0, 6.0 * 0.1 / 2.0].map(|a| [a.cos() as f32, a.sin() as f32]);
    assert_eq!(angles.f32().unwrap(), expected.as_flattened(), "two of four tokens");

    for (style, expected) in
        [(RopeStyle::Adjacent, [-2.0, 1.0, 3.0, 4.0, 5.0]), (RopeStyle::Halves, [-3.0, 2.0, 1.0, 4.0, 5.0])]
    {
        // A quarter turn of the first pair, none of the second; the fifth element is not rotated.
        let y = run_body(
            |g| {
                let (x, angles) = (param(g, 0, &[1, 1, 5]), param(g, 1, &[1, 4]));
                g.add(Op::Rope { style }, &[x, angles]).unwrap()
            },
            vec![vec![1.0, 2.0, 3.0, 4.0, 5.0].into(), vec![0.0, 1.0, 1.0, 0.0].into()],
            1,
        );
        assert_eq!(y.f32().unwrap(), expected);
    }
}

#[test]
fn the_largest_come_in_order() {
    let top = |k: usize, rows: &[[f32; 5]]| {
        let top = run_body(
            |g| {
                let x = param(g, 0, &[2, 5]);
                g.add(Op::TopK { k }, &[x]).unwrap()
            },
            vec![rows.concat().into()],
            rows.len(),
        );
        top.f32().unwrap().to_vec()
    };
    let (nan, infinity) = (f32::NAN, f32::INFINITY);
    let sum = |x: &[f64]| x.iter().map(|x| x.exp()).sum::<f64>().ln() as f32;
    let expected = [3.0, 1.0, 1.0, 3.0, 0.0, 2.0, sum(&[1.0, 0.0, 1.0, 3.0, -2.0])];
    assert_eq!(top(3, &[[1.0, 0.0, 1.0, 3.0, -2.0]]), expected);
    // NaN counts as the largest number, so that it is found among the largest.
    let two = [[nan, -1.0, -infinity, nan, -1.0], [200.0, 199.0, -200.0, 199.0, -200.0]];
    let (most, shifted) = (f32::MAX, sum(&[200.0, 199.0, 199.0]));
    let expected = [most, most, -1.0, 0.0, 3.0, 1.0, most, 200.0, 199.0, 199.0, 0.0, 1.0, 3.0, shifted];
    assert_eq!(top(3, &two), expected);
    assert_eq!(top(1, &[[0.0, -0.0, infinity, f32::MAX, infinity]]), [f32::MAX, 2.0, f32::MAX]);
    assert_eq!(top(2, &[[nan, -infinity, nan, nan, nan]]), [most, most, 0.0, 2.0, most]);
}

#[test]
fn kv_caches_round_and_stay() {
    // Round-to-nearest f16, and f16(1 / 127) times 127 and 42.
    let scale = half::f16::from_f32(1.0 / 127.0).to_f32();
    for (format, expected) in [(quant::F16, [1.0, 0.333_251_95]), (quant::Q8_0, [127.0 * scale, 42.0 * scale])] {
        let mut g = Graph::new();
        let table = weight(&mut g, "t", "f32", &[2, 8]);
        let (ids, at) = (tokens(&mut g, 2), position(&mut g));
        let x = g.add(Op::Embed, &[table, ids]).unwrap();
        let x = g.add(Op::Reshape(vec![2, 1, 8]), &[x]).unwrap();
        let s = state(&mut g, "k", format, &[1, 4, 8]);
        let k = g.add(Op::KvAppend, &[s, x, at]).unwrap();
        g.output("k", k).unwrap();
        let graph = g.verify().unwrap();
        let mut table = [0.0f32; 16];
        (table[0], table[1], table[8]) = (1.0, 1.0 / 3.0, 2.0);
        let bytes: Vec<u8> = table.iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut weights = Weights::default();
        weights.load(&graph, |_| Some(&bytes)).unwrap();
        let mut cache = KvCache::default();
        interp::run(&graph, &weights, &mut cache, Step { position: 0, tokens: &[0] }).unwrap();
        interp::run(&graph, &weights, &mut cache, Step { position: 3, tokens: &[0] }).unwrap();
        let k = cache.get("k").unwrap();
        for row in [0, 3] {
            assert_eq!(k[8 * row..][..2], expected, "{format}");
        }
        assert!(k[8..24].iter().all(|&x| x == 0.0));
        let mut refuse = |position, tokens: &[u32]| {
            interp::run(&graph, &weights, &mut cache, Step { position, tokens }).unwrap_err().to_string()
        };
        assert!(refuse(4, &[0]).contains("context"));
        assert!(refuse(0, &[9]).contains("token id"));
        assert!(refuse(0, &[0, 0, 0]).contains("tokens in a step"));
        assert!(refuse(0, &[]).contains("tokens in a step"));
    }
}

/// Loads of constants may miss what the launch before writes, so only operands that are always weights are constant.
#[test]
fn only_weights_are_constant() {
    let bodies = [
        ("%1 = param 1 : f32[2,64]\n%2 = matmul %0, %1 : f32[2,2]", "f32[2,64]", Some(Access::Constant)),
        ("%1 = param 1 : f32[2,64]\n%2 = matmul %1, %0 : f32[2,2]", "f32[2,64]", Some(Access::Read)),
        ("%1 = param 1 : i32[3]\n%2 = embed %0, %1 : f32[3,64]", "f32[2,64]", Some(Access::Constant)),
        ("%1 = param 1 : f32[64]\n%2 = rms_norm %0, %1 eps=1e-5 : f32[2,64]", "f32[2,64]", Some(Access::Read)),
        ("%1 = param 1 : f32[2,4]\n%2 = expert_rows %0, %1 : f32[2,2,64]", "f32[2,64]", Some(Access::Constant)),
        ("%1 = param 1 : f32[2,4]\n%2 = expert_sum %0, %1 : f32[2,64]", "f32[2,2,64]", Some(Access::Read)),
        // Multiplied by, and added: it could be memory that the launch before writes.
        ("%1 = add %0, %0 : f32[64,64]\n%2 = matmul %0, %1 : f32[64,64]", "f32[64,64]", None),
    ];
    for (nodes, ty, expected) in bodies {
        let body: Graph = format!("%0 = param 0 : {ty}\n{nodes}\noutput \"out\" %2\n").parse().expect(nodes);
        assert_eq!(Role::of(&body, 0).map(Role::access).ok(), expected, "{body}");
    }
}

/// A ring gives what a cache of all positions gives, and holds the last rows alone.
#[test]
fn rings_hold_the_last_positions() {
    let run = |shape: &[usize]| {
        let mut g = Graph::new();
        let table = weight(&mut g, "table", "f32", &[300, 4]);
        let (ids, at) = (tokens(&mut g, 3), position(&mut g));
        let x = g.add(Op::Embed, &[table, ids]).unwrap();
        let x = g.add(Op::Reshape(vec![3, 1, 4]), &[x]).unwrap();
        let s = state(&mut g, "k", quant::F16, shape);
        let k = g.add(Op::KvAppend, &[s, x, at]).unwrap();
        let y = g.add(Op::Attention { scale: F32(1.0), window: Some(62), cap: None }, &[x, k, k, at]).unwrap();
        g.output("k", k).unwrap();
        g.output("y", y).unwrap();
        let graph = g.verify().unwrap();
        let bytes: Vec<u8> = (0..1200).flat_map(|i| ((i * 37 % 101) as f32 / 64.0).to_le_bytes()).collect();
        let mut weights = Weights::default();
        weights.load(&graph, |_| Some(&bytes)).unwrap();
        let (mut cache, mut all) = (KvCache::default(), Vec::new());
        for position in (0..201).step_by(3) {
            let tokens: Vec<u32> = (position..position + 3).map(|p| p as u32).collect();
            let outputs = interp::run(&graph, &weights, &mut cache, Step { position, tokens: &tokens }).unwrap();
            all.extend_from_slice(outputs[0].1.f32().unwrap());
        }
        (all, cache.get("k").unwrap().to_vec())
    };
    let ((expected, rows), (found, ring)) = (run(&[1, 201, 4]), run(&[1, 1, 64, 4]));
    assert_eq!(found, expected);
    for p in 201 - 64..201 {
        assert_eq!(ring[p % 64 * 4..][..4], rows[p * 4..][..4], "position {p}");
    }
}
