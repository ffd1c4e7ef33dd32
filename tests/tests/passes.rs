//! Every pass keeps the meaning of a graph: the interpreter gives the same bits before and after. Lowering gives constant
//! operands of kernels nothing but weights.

use codegen::passes::{self, PassContext};
use codegen::{KernelTable, lower};
use ir::graph::interp::{self, KvCache, Step, Weights};
use ir::graph::{Graph, Op};
use ir::plan::Plan;
use ir::quant::{self, Format};
use ir::target;
use ir::tensor::{Elem, Layout};
use ir::{Result, Verified};
use tests::synthetic::{self, Latent, Mixture};

/// Runs a prompt in steps of the graph's capacity or less, while the context lasts, and gives all outputs and caches, by name,
/// as bits.
fn trace(graph: &Verified<Graph>, weights: &Weights, spec: &synthetic::Synthetic) -> Vec<(String, Vec<u32>)> {
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
    let mut cache = KvCache::default();
    let mut results = Vec::new();
    let mut rng = synthetic::Rng::new(7);
    let capacity = graph.nodes().iter().find(|n| matches!(n.op, Op::Input(_))).unwrap().results[0].shape[0];
    let mut position = 0;
    for used in [capacity, capacity.div_ceil(2), 1] {
        if position + used > spec.context {
            break;
        }
        let tokens: Vec<u32> = (0..used).map(|_| rng.below(spec.vocab) as u32).collect();
        let outputs = interp::run(graph, weights, &mut cache, Step { position, tokens: &tokens }).unwrap();
        position += used;
        results.extend(outputs.iter().map(|(name, v)| (name.clone(), bits(v.f32().unwrap()))));
    }
    let states = graph.outputs().iter().filter_map(|(name, _)| Some((name.clone(), bits(cache.get(name)?))));
    results.extend(states);
    assert!(results.iter().flat_map(|(_, bits)| bits).all(|&x| f32::from_bits(x).is_finite()));
    results
}

fn check(
    name: &str,
    spec: &synthetic::Synthetic,
    tokens: usize,
    kv: Format,
    all_logits: bool,
    target: &target::Target,
) {
    let model = spec.model();
    let tokens = tokens.min(spec.context);
    let graph = model.graph(tokens, kv, all_logits);
    let weights = model.weights(&graph);
    let mut expected = trace(&graph, &weights, spec);
    let mut seen = Vec::new();
    let context = PassContext { target };
    let fused = passes::run(graph.clone(), &context, |pass, graph| {
        let got = trace(graph, &weights, spec);
        // Rounding activations changes results; from there on they stay.
        if pass == "quantise" {
            expected = got;
        } else if pass == "top" {
            assert!(got.iter().filter(|(name, _)| name != "top").eq(&expected), "{name}: 'top' changes results");
            assert_eq!(got.iter().any(|(name, _)| name == "top"), target.gpu().is_some());
            expected = got;
        } else {
            assert!(expected == got, "{name}, {tokens} tokens: '{pass}' changes results");
        }
        assert_eq!(graph.to_string().parse::<Graph>().unwrap(), **graph, "{name}: '{pass}' does not print and parse");
        seen.push(pass.to_string());
    })
    .unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(seen, passes::PIPELINE.iter().map(|p| p.name).collect::<Vec<_>>());

    let kinds: Vec<&str> = fused
        .nodes()
        .iter()
        .filter(|n| !n.op.is_leaf())
        .map(|n| if let Op::Fusion(f) = &n.op { f.kind.as_str() } else { panic!("{name}: {:?} is not fused", n.op) })
        .collect();
    let gpu = target.gpu().map(|_| "top_k");
    let ffn = |layer: usize| match spec.mixture.filter(|m| layer >= m.dense) {
        None => ["linear", "linear"].as_slice(),
        Some(Mixture { shared: 0, .. }) => &["linear", "route", "experts", "expert_sum"],
        Some(_) => &["linear", "route", "experts", "linear", "linear", "expert_sum"],
    };
    let attention = match spec.latent {
        None => "qkv attention linear",
        // Queries and their parts; the latent and the rotated part, which are normalised, rotated, joined and appended.
        Some(Latent { by_heads: true, .. }) => {
            "linear linear rows head_products rows rows linear rows rows rows rows attention rows head_products linear"
        }
        Some(_) => "linear rows rows linear rows linear rows rows rows attention linear",
    };
    let layer = |layer: usize| attention.split(' ').chain(ffn(layer).iter().copied());
    let expected: Vec<&str> =
        ["embed"].into_iter().chain((0..spec.layers).flat_map(layer)).chain(["linear"]).chain(gpu).collect();
    let mut without_angles: Vec<&str> = kinds.iter().copied().filter(|k| *k != "rope_angles").collect();
    assert_eq!(kinds.len(), without_angles.len() + 1, "{name}");
    let mut expected = expected;
    if target.prepares_steps() {
        // Kernels that prepare rows stand between the others, and products of codes and of floats are kernels of their own.
        for kinds in [&mut without_angles, &mut expected] {
            kinds.retain(|kind| !["rows", "step_codes"].contains(kind));
            kinds.dedup();
        }
    }
    assert_eq!(without_angles, expected, "{name}");

    for node in fused.nodes() {
        let (Op::Weight(weight), ty) = (&node.op, &node.results[0]) else { continue };
        let Elem::Ggml(format) = ty.elem else { panic!("{weight} is {ty}") };
        let matrix = ty.shape.len() >= 2 && weight.tensor.ends_with("weight");
        let multiplied = matrix && (spec.tied || weight.tensor != "token_embd.weight");
        let tiled = multiplied && target.has_dot(format.dot);
        assert_eq!(ty.layout == Layout::Rows16, tiled, "{name}: {weight} is {ty}");
    }
    let again = passes::run(graph, &context, |_, _| {}).unwrap();
    assert_eq!(again.to_string(), fused.to_string());
}

#[test]
fn passes_keep_the_meaning() {
    for (name, spec) in synthetic::zoo() {
        for target in [&target::ALL[0], &target::ALL[target::ALL.len() - 1]] {
            check(&name, &spec, 1, quant::F16, false, target);
            check(&name, &spec, 5, quant::Q8_0, true, target);
            check(&name, &spec, 3, quant::F16, false, target);
        }
    }
}

/// Layers of the same formats have the same bodies, so that they share a kernel.
#[test]
fn equal_layers_have_equal_bodies() {
    let spec = synthetic::Synthetic { layers: 4, ..Default::default() };
    let graph = spec.model().graph(1, quant::F16, false);
    let fused = passes::run(graph, &PassContext { target: &target::ALL[0] }, |_, _| {}).unwrap();
    let mut bodies: Vec<String> = fused
        .nodes()
        .iter()
        .filter_map(|n| if let Op::Fusion(f) = &n.op { Some(format!("{}\n{}", f.kind, f.body)) } else { None })
        .collect();
    bodies.sort();
    bodies.dedup();
    // embed, rope_angles, qkv, attention, and four of linear: two with residuals, gates, logits.
    assert_eq!(bodies.len(), 8);
}

/// The embeddings of two tokens, then a product of what `%3` says with them.
fn product_of(matrix: &str) -> Result<Plan> {
    let text = format!(
        "%0 = weight \"table\" : f32[2,64]\n\
         %1 = tokens : i32[2]\n\
         %2 = fusion \"embed\" %0, %1 : f32[2,64] {{\n\
         \x20 %0 = param 0 : f32[2,64]\n\
         \x20 %1 = param 1 : i32[2]\n\
         \x20 %2 = embed %0, %1 : f32[2,64]\n\
         \x20 output \"out\" %2\n\
         }}\n\
         %3 = fusion \"linear\" {matrix}, %2 : f32[2,2] {{\n\
         \x20 %0 = param 0 : f32[2,64]\n\
         \x20 %1 = param 1 : f32[2,64]\n\
         \x20 %2 = matmul %0, %1 : f32[2,2]\n\
         \x20 output \"out\" %2\n\
         }}\n\
         output \"logits\" %3\n"
    );
    let graph: Graph = text.parse()?;
    lower(&graph.verify()?, 2, &target::ALL[0], &mut KernelTable::default())
}

#[test]
fn what_a_launch_writes_is_no_constant() {
    product_of("%0").unwrap();
    let refusal = product_of("%2").unwrap_err().to_string();
    assert!(refusal.contains("as Constant"), "{refusal}");
}
