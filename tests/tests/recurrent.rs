//! Kernels over recurrent states against the interpreter on their bodies: shapes, tokens of a step, and steps that follow
//! one another.

use codegen::TableKernel;
use ir::graph::{Graph, HeadMap, Op};
use ir::spec::KernelSpec;
use ir::target::Target;
use ir::tensor::{Elem, TensorType};
use kernels_gen::{ops, schedule};
use runtime::{Executor, ModelFile};
use tests::kernels::{self, Draw, Trial};
use tests::run::{self, Settings};
use tests::synthetic::Rng;

/// A kernel that computes `op` on operands of these shapes.
fn spec(op: Op, shapes: &[Vec<usize>], tokens: usize, target: &Target) -> KernelSpec {
    let mut body = Graph::new();
    let param = |(i, shape): (usize, &Vec<usize>)| (Op::Param(i as u32), TensorType::new(Elem::F32, shape.clone()));
    let leaves: Vec<_> = shapes.iter().enumerate().map(param).collect();
    let inputs: Vec<_> = leaves.into_iter().map(|(op, ty)| body.leaf(op, ty).unwrap()).collect();
    let node = body.push(op, &inputs).unwrap();
    body.output("out", node.at(0)).unwrap();
    body.output("state", node.at(1)).unwrap();
    KernelSpec::new(ops::kind(&body).unwrap(), body, tokens, target)
}

/// The same, with the schedule that is chosen.
fn kernel(op: Op, shapes: &[Vec<usize>], tokens: usize, target: &Target) -> TableKernel {
    let spec = spec(op, shapes, tokens, target);
    let made = schedule::choose(&spec, target, &[]).unwrap_or_else(|e| panic!("{e}"));
    TableKernel::new(spec, made, 0).unwrap()
}

/// A convolution of so many columns and taps.
fn conv(shape: [usize; 2], tokens: usize, target: &Target) -> TableKernel {
    kernel(Op::ShortConv, &conv_shapes(shape, tokens), tokens, target)
}

fn conv_shapes([columns, taps]: [usize; 2], tokens: usize) -> Vec<Vec<usize>> {
    vec![vec![taps - 1, columns], vec![tokens, columns], vec![columns, taps]]
}

/// A delta rule of so many value heads, heads of q and k, keys and values.
fn rule(heads: HeadMap, shape: [usize; 4], tokens: usize, target: &Target) -> TableKernel {
    kernel(Op::DeltaRule { heads }, &rule_shapes(shape, tokens), tokens, target)
}

fn rule_shapes([count, shared, keys, values]: [usize; 4], tokens: usize) -> Vec<Vec<usize>> {
    let (of_keys, of_heads) = (vec![tokens, shared, keys], vec![tokens, count]);
    vec![vec![count, keys, values], of_keys.clone(), of_keys, vec![tokens, count, values], of_heads.clone(), of_heads]
}

/// Columns and taps: of one vector, with rests, and of several units.
const CONVS: [[usize; 2]; 7] = [[4, 4], [1, 2], [7, 3], [64, 4], [66, 4], [160, 4], [131, 7]];
/// Value heads, heads of q and k, keys, values: whole tiles, narrow ones, single columns; one head and many.
const RULES: [[usize; 4]; 8] = [
    [1, 1, 1, 1],
    [2, 1, 4, 4],
    [4, 2, 8, 20],
    [6, 3, 16, 32],
    [6, 2, 5, 7],
    [3, 3, 12, 48],
    [4, 1, 128, 128],
    [8, 4, 64, 16],
];
const STEPS: [usize; 4] = [1, 2, 5, 128];

fn all(target: &Target) -> impl Iterator<Item = TableKernel> {
    let convs = CONVS.into_iter().flat_map(move |shape| STEPS.map(|tokens| conv(shape, tokens, target)));
    let maps = [HeadMap::Tiled, HeadMap::Grouped];
    let rules = RULES.into_iter().flat_map(move |shape| {
        maps.into_iter().flat_map(move |map| STEPS.map(|tokens| rule(map, shape, tokens, target)))
    });
    convs.chain(rules)
}

fn check(entry: &TableKernel, what: &str, trial: Trial, found: Result<Vec<kernels::Difference>, String>) {
    let found = found.unwrap_or_else(|e| panic!("{what} {e}, {trial:?}\n{}", entry.spec));
    kernels::assert_within(&found, || format!("{what} {trial:?}\n{}", entry.spec));
}

fn check_target(name: &str) {
    let target = Target::by_name(name).unwrap();
    if !run::runs(target) {
        return;
    }
    for entry in all(target) {
        let first = u64::from_str_radix(&entry.hash[..8], 16).unwrap();
        let capacity = entry.spec.tokens;
        let trials = [
            (capacity, 1, Draw::Usual),
            (capacity, 3, Draw::Edges),
            (capacity.div_ceil(2), 2, Draw::Usual),
            (capacity.min(9), 3, Draw::NotFinite),
        ];
        for (seed, (tokens, workers, draw)) in (first..).zip(trials) {
            let trial = Trial { position: 3, tokens, workers, seed, draw };
            check(&entry, name, trial, kernels::attempt(&entry, target, trial, Clone::clone));
        }
    }
}

#[test]
fn x86_64() {
    check_target("x86-64");
}

#[test]
fn x86_64_v3() {
    check_target("x86-64-v3");
}

#[test]
fn x86_64_v4_vnni() {
    check_target("x86-64-v4-vnni");
}

#[test]
fn interpreted() {
    for name in ["x86-64", "x86-64-v3"] {
        for entry in all(Target::by_name(name).unwrap()).filter(|k| k.spec.tokens == 2) {
            for (seed, draw) in (3..).zip([Draw::Usual, Draw::Edges, Draw::NotFinite]) {
                let trial = Trial { position: 0, tokens: 2, workers: 2, seed, draw };
                check(&entry, name, trial, kernels::interpret(&entry, trial));
            }
        }
    }
}

#[test]
fn gpus_are_refused_by_name() {
    let target = Target::by_name("sm_120").unwrap();
    let rule = Op::DeltaRule { heads: HeadMap::Tiled };
    for (name, op, shapes) in
        [("short_conv", Op::ShortConv, conv_shapes([8, 4], 1)), ("delta_rule", rule, rule_shapes([4, 2, 8, 20], 1))]
    {
        let error = schedule::choose(&spec(op, &shapes, 1, target), target, &[]).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("sm_120"), "{error}");
    }
}

/// Rows of floats as activations lie in memory.
fn rows(values: &[f32], columns: usize, capacity: usize) -> Vec<u8> {
    let stride = ir::abi::f32_row_bytes(columns);
    let mut bytes = vec![0; capacity * stride];
    for (row, values) in bytes.chunks_exact_mut(stride).zip(values.chunks_exact(columns)) {
        row.chunks_exact_mut(4).zip(values).for_each(|(to, x)| to.copy_from_slice(&x.to_le_bytes()));
    }
    bytes
}

/// The outputs and the last state of a run of steps of `tokens` tokens each. `x` are the operands of all tokens, `None` for the
/// one that is a weight.
fn run_in_steps(
    entry: &TableKernel,
    target: &Target,
    (tokens, workers): (usize, usize),
    state: &[u8],
    x: &[(Vec<f32>, Option<usize>)],
    out_columns: usize,
    total: usize,
) -> (Vec<u8>, Vec<u8>) {
    let capacity = entry.spec.tokens;
    let (mut state, mut out) = (state.to_vec(), Vec::new());
    for first in (0..total).step_by(tokens) {
        let now = tokens.min(total - first);
        let mut params = vec![state];
        for (values, columns) in x {
            params.push(match columns {
                Some(n) => rows(&values[first * n..(first + now) * n], *n, capacity),
                None => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            });
        }
        params.push(vec![0; capacity * ir::abi::f32_row_bytes(out_columns)]);
        let device = kernels::device(target, workers, 0);
        let control = ir::abi::Control { position: first as u32, tokens: now as u32 };
        let after = kernels::launch(&entry.kernel, target, device, 1, &params, control, Clone::clone).unwrap();
        let stride = ir::abi::f32_row_bytes(out_columns);
        let last = after.last().unwrap();
        out.extend(last.chunks_exact(stride).take(now).flat_map(|row| &row[..out_columns * 4]).copied());
        state = after[0].clone();
    }
    (out, state)
}

/// A token's bits do not depend on how many tokens are in a step, of which capacity the kernel is, or how many workers there
/// are.
#[test]
fn bits_do_not_depend_on_steps() {
    const TOTAL: usize = 37;
    let mut rng = Rng::new(11);
    let mut random = |n: usize, by: f32| -> Vec<f32> { (0..n).map(|_| rng.uniform() * by).collect() };
    for name in ["x86-64", "x86-64-v3", "x86-64-v4-vnni"] {
        let target = Target::by_name(name).unwrap();
        if !run::runs(target) {
            continue;
        }
        let ways = [(128, TOTAL, 1), (1, 1, 2), (2, 2, 1), (5, 5, 3), (5, 3, 2)];
        let (columns, taps) = (70, 4);
        let x = [(random(TOTAL * columns, 2.0), Some(columns)), (random(columns * taps, 1.0), None)];
        let state = vec![0; (taps - 1) * columns * 4];
        let results = ways.map(|(capacity, tokens, workers)| {
            let entry = conv([columns, taps], capacity, target);
            run_in_steps(&entry, target, (tokens, workers), &state, &x, columns, TOTAL)
        });
        assert!(results.iter().all(|r| *r == results[0]), "{name}");
        assert!(results[0].0.iter().any(|&b| b != 0));

        let [count, shared, keys, values] = [4, 2, 16, 24];
        let gates: Vec<f32> = random(TOTAL * count, 1.0).iter().map(|x| -x.abs()).collect();
        let x = [
            (random(TOTAL * shared * keys, 1.0), Some(shared * keys)),
            (random(TOTAL * shared * keys, 0.25), Some(shared * keys)),
            (random(TOTAL * count * values, 2.0), Some(count * values)),
            (gates, Some(count)),
            (random(TOTAL * count, 1.0).iter().map(|x| x.abs()).collect(), Some(count)),
        ];
        let state = vec![0; count * keys * values * 4];
        let results = ways.map(|(capacity, tokens, workers)| {
            let entry = rule(HeadMap::Tiled, [count, shared, keys, values], capacity, target);
            run_in_steps(&entry, target, (tokens, workers), &state, &x, count * values, TOTAL)
        });
        assert!(results.iter().all(|r| *r == results[0]), "{name}");
        assert!(results[0].1.iter().any(|&b| b != 0));
    }
}

/// Thousands of tokens: the state neither grows nor rots, and old tokens are forgotten.
#[test]
fn long_runs_stay_finite() {
    const TOTAL: usize = 20_000;
    let target = Target::by_name("x86-64").unwrap();
    let [count, shared, keys, values] = [2, 1, 8, 8];
    let entry = rule(HeadMap::Grouped, [count, shared, keys, values], 128, target);
    let mut rng = Rng::new(5);
    let mut random = |n: usize, by: f32| -> Vec<f32> { (0..n).map(|_| rng.uniform() * by).collect() };
    let mut k = random(TOTAL * shared * keys, 1.0);
    for key in k.chunks_exact_mut(keys) {
        let length = key.iter().map(|x| x * x).sum::<f32>().sqrt() + 1e-6;
        key.iter_mut().for_each(|x| *x /= length);
    }
    let x = [
        (random(TOTAL * shared * keys, 1.0), Some(shared * keys)),
        (k, Some(shared * keys)),
        (random(TOTAL * count * values, 2.0), Some(count * values)),
        (random(TOTAL * count, 1.0).iter().map(|x| -x.abs()).collect(), Some(count)),
        (random(TOTAL * count, 1.0).iter().map(|x| x.abs()).collect(), Some(count)),
    ];
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    let run = |first: f32| {
        let state = first.to_le_bytes().repeat(count * keys * values);
        let (out, state) = run_in_steps(&entry, target, (128, 2), &state, &x, count * values, TOTAL);
        (floats(&out), floats(&state))
    };
    let ((out, state), (_, other)) = (run(0.0), run(3.0));
    assert!(out.iter().chain(&state).all(|x| x.abs() < 100.0));
    assert!(state.iter().any(|x| x.abs() > 1e-3));
    assert!(state.iter().zip(&other).all(|(a, b)| (a - b).abs() < 1e-5), "what was before 20000 tokens is still there");
}

/// A model with recurrent states, if the test data are there.
fn recurrent_model() -> Option<ModelFile> {
    let path = tests::shared_dir("arch")?.join("qwen35-a.gguf");
    Some(ModelFile::open(&path).unwrap_or_else(|e| panic!("{e}")))
}

/// The bits of the logits after `tokens` in steps of `size`, from where the executor stands.
fn feed(executor: &mut Executor, tokens: &[u32], size: usize) -> Vec<u32> {
    tokens.chunks(size).for_each(|chunk| executor.step(chunk).unwrap());
    executor.logits().unwrap().iter().map(|x| x.to_bits()).collect()
}

/// A whole model: the same bits in steps of every size, from its beginning, from a checkpoint, and after what was to be
/// forgotten.
#[test]
fn models_go_back_and_on() {
    let Some(file) = recurrent_model() else { return };
    let mut rng = Rng::new(3);
    let tokens: Vec<u32> = (0..90).map(|_| rng.below(1024) as u32).collect();
    for target in run::targets() {
        let mut executor = run::executor(&file, Settings::new(target), 2);
        assert!(executor.needs_checkpoints());
        let expected = feed(&mut executor, &tokens, 1);
        for size in [1, 2, 5, 16] {
            assert_eq!(executor.set_position(0).unwrap(), 0);
            assert!(feed(&mut executor, &tokens, size) == expected, "{}, steps of {size}", target.name);
        }
        // A prompt leaves a checkpoint, other tokens follow it.
        assert_eq!(executor.set_position(0).unwrap(), 0);
        executor.checkpoint_at(12);
        assert!(executor.prefill(&tokens[..16], &mut |_, _| true).unwrap());
        assert!(feed(&mut executor, &[5, 6, 7], 1) != expected);
        assert_eq!(executor.set_position(14).unwrap(), 12);
        assert!(feed(&mut executor, &tokens[12..], 3) == expected, "{}", target.name);
        // The end of a step is rejected.
        assert_eq!(executor.set_position(12).unwrap(), 12);
        executor.step(&[tokens[12], 1, 2, 3]).unwrap();
        assert_eq!(executor.set_position(13).unwrap(), 12);
        assert!(feed(&mut executor, &tokens[12..], 4) == expected, "{}", target.name);
    }
}
