//! Whole models from bytes to tokens: against the interpreter, and against themselves by every other way there is.

use codegen::passes::{self, PassContext};
use ir::gguf::Writer;
use ir::graph::interp::{self, KvCache, Step};
use ir::quant;
use ir::target::Target;
use ir::tensor::{Elem, TensorType};
use runtime::generate::{self, StopReason};
use runtime::sampler::{Sampler, SamplerConfig, top_logits};
use runtime::tokenizer::Tokenizer;
use runtime::{Executor, ModelFile, artifact};
use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use tests::golden::argmax;
use tests::run::{self, Settings};
use tests::synthetic::{Rng, Synthetic, zoo};

/// Logits against the interpreter's, as a share of the largest: sums in another order, and where activations are rounded
/// to 8 bits, a code that falls to the other side and what the layers above make of it.
const FLOAT: f32 = 1e-4;
const INT8: f32 = 3e-2;

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0f32, |m, x| m.max(x.abs()));
    // A NaN is infinitely far.
    a.iter().zip(b).fold(0f32, |m, (a, b)| if (a - b).is_nan() { f32::INFINITY } else { m.max((a - b).abs()) })
        / largest
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

fn random_tokens(n: usize, vocab: usize, seed: u64) -> Vec<u32> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| rng.below(vocab) as u32).collect()
}

/// The demo model.
fn demo() -> ModelFile {
    static BYTES: &[u8] = include_bytes!("../../assets/bard-q4_k_m.gguf");
    ModelFile::from_static("bard-q4_k_m.gguf", BYTES).unwrap()
}

/// Prefill and greedy steps of a model of random weights, each held to the interpreter.
fn check_interpreter(name: &str, shape: &Synthetic, settings: Settings) {
    const STEPS: usize = 8;
    let prompt = shape.context.min(21);
    let model = shape.model();
    let file = run::file(model.file.clone()).unwrap();
    let mut executor = run::executor(&file, settings, 2);
    let fused = |tokens| {
        let context = PassContext { target: settings.target };
        passes::run(model.graph(tokens, settings.kv, false), &context, |_, _| {}).unwrap()
    };
    let (prefill, decode) = (fused(prompt), fused(1));
    let mut cache = KvCache::default();
    let mut tokens = random_tokens(prompt, shape.vocab, 3);
    let float = file.tensors().all(|(_, t)| !t.format().unwrap().dot.wants_int8()) && settings.kv == quant::F16;
    let tolerance = if float { FLOAT } else { INT8 };
    for step in 0..STEPS.min(shape.context - prompt + 1) {
        let graph = if step == 0 { &prefill } else { &decode };
        // Weights are found by name, and layouts do not change values.
        let weights = model.weights(graph);
        let position = executor.position();
        let expected = interp::run(graph, &weights, &mut cache, Step { position, tokens: &tokens }).unwrap();
        let (_, expected) = expected.iter().find(|(name, _)| name == "logits").unwrap();
        executor.prefill(&tokens, &mut |_, _| true).unwrap();
        let d = difference(executor.logits().unwrap(), expected.f32().unwrap());
        assert!(d <= tolerance, "{name}, {}, KV {}, step {step}: {d} > {tolerance}", settings.target.name, settings.kv);
        tokens = vec![argmax(executor.logits().unwrap())];
    }
}

/// The whole zoo for the best target of this machine, and the first models for the others, whose kernels are compared one by
/// one elsewhere.
#[test]
fn zoo_agrees_with_the_interpreter() {
    let targets = run::targets();
    for target in &targets {
        let models = if Some(target) == targets.last() { usize::MAX } else { 3 };
        for (name, shape) in zoo().into_iter().take(models) {
            for kv in [quant::F16, quant::Q8_0] {
                check_interpreter(&name, &shape, Settings { kv, ..Settings::new(target) });
            }
        }
    }
}

/// What an artifact gives after a prompt: logits and tokens.
fn outcome(executor: &mut Executor, prompt: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let (logits, ids) = run::greedy(executor, prompt, 6);
    (bits(&logits), ids)
}

#[test]
fn an_artifact_on_disk_is_the_one_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    for (name, shape) in zoo().into_iter().take(5) {
        let path = dir.path().join(format!("{name}.rig"));
        let file = run::file(shape.gguf()).unwrap();
        for target in run::targets() {
            let compiled = run::compile(&file, Settings::new(target)).unwrap();
            assert!(compiled == run::compile(&file, Settings::new(target)).unwrap(), "{name}: compiling is not pure");
            artifact::write(&compiled, &path).unwrap();
            let read = artifact::read(&path).unwrap();
            assert!(read == compiled, "{name} changes on disk");
            let prompt = random_tokens(10, shape.vocab, 5);
            let [a, b] = [compiled, read].map(|a| outcome(&mut run::load(&file, a, 2).unwrap(), &prompt));
            assert_eq!(a, b, "{name}, {}", target.name);
        }
    }
}

/// Parts of larger tensors: a model whose weights are some rows and columns of what its file has gives the same bits, where
/// the host repacks them and where a device does.
#[test]
fn weights_may_be_parts_of_tensors() {
    let mut targets = run::targets();
    targets.push(Target::by_name("sm_120").unwrap());
    for (name, shape) in zoo().into_iter().take(5) {
        let small = shape.model();
        let mut rng = Rng::new(shape.seed ^ 0x9a27);
        let mut writer = Writer::new(small.header.metadata.clone());
        let (mut data, mut places) = (Vec::new(), HashMap::new());
        for t in &small.header.tensors {
            let format = t.format().unwrap();
            let ty = TensorType::new(Elem::Ggml(format), t.shape());
            let (rows, columns) = (ty.rows(), ty.columns());
            let [above, below, left, right] = [0; 4].map(|_: usize| rng.below(3));
            let (above, below) = if ty.shape.len() == 1 { (0, 0) } else { (above, below) };
            let [left, right] = [left, right].map(|blocks| blocks * format.block as usize);
            let (all_rows, all_columns) = (above + rows + below, left + columns + right);
            let [row, first, all] = [columns, left, all_columns].map(|n| format.bytes_of(n as u64) as usize);
            let mut bytes: Vec<u8> = (0..all_rows * all).map(|_| rng.next() as u8).collect();
            let to = bytes.chunks_exact_mut(all).skip(above);
            to.zip(small.bytes(&t.name).unwrap().chunks_exact(row))
                .for_each(|(to, from)| to[first..][..row].copy_from_slice(from));
            let shape = if ty.shape.len() == 1 { vec![all_columns] } else { vec![all_rows, all_columns] };
            writer.tensor(&t.name, shape, format);
            data.push(bytes);
            places.insert(t.name.clone(), (above as u32, left as u32));
        }
        let large = run::file(writer.to_vec(&data).unwrap()).unwrap();
        let file = run::file(small.file.clone()).unwrap();
        for &target in &targets {
            let artifact = run::compile(&file, Settings::new(target)).unwrap();
            let mut parts = artifact.clone();
            parts.manifest.model = large.identity();
            for weight in &mut parts.manifest.weights {
                let (row, column) = places[&weight.name];
                weight.rows = weight.rows.start + row..weight.rows.end + row;
                weight.columns = weight.columns.start + column..weight.columns.end + column;
            }
            let prompt = random_tokens(5, shape.vocab, 8);
            let whole = outcome(&mut run::load(&file, artifact, 2).unwrap(), &prompt);
            let parts = outcome(&mut run::load(&large, parts, 2).unwrap(), &prompt);
            assert_eq!(whole, parts, "{name}, {}", target.name);
        }
    }
}

/// The demo model and one of random weights whose context is longer than a split of attention, with their vocabularies.
fn models() -> [(ModelFile, usize); 2] {
    let mixed = Synthetic { context: 640, ..zoo().into_iter().find(|(name, _)| name == "qwen3-k").unwrap().1 };
    [(demo(), 2048), (run::file(mixed.gguf()).unwrap(), mixed.vocab)]
}

#[test]
fn threads_do_not_change_a_bit() {
    for (file, vocab) in models() {
        for target in run::targets() {
            let run = |threads| {
                let mut executor = run::executor(&file, Settings::new(target), threads);
                [1, 33, 150].map(|n| outcome(&mut executor, &random_tokens(n, vocab, 9)))
            };
            let one = run(1);
            for threads in [2, 3, 5] {
                assert!(run(threads) == one, "{}, {threads} threads", target.name);
            }
        }
    }
}

/// The same tokens in steps of every size, from positions where attention is one part and where it is split. Dots of a
/// token are the same in every batch. Attention is split alike in steps of up to 16 tokens; longer steps add its parts in
/// another order.
#[test]
fn batches_give_what_single_tokens_give() {
    for (file, vocab) in models() {
        for target in run::targets() {
            let mut executor = run::executor(&file, Settings::new(target), 2);
            for start in [0, executor.context() - 130] {
                let tokens = random_tokens(start + 40, vocab, 11);
                let (before, last) = tokens.split_at(start);
                if start > 0 {
                    executor.set_position(0).unwrap();
                    executor.prefill(before, &mut |_, _| true).unwrap();
                }
                let mut by = |size: usize| {
                    executor.set_position(start).unwrap();
                    last.chunks(size).for_each(|chunk| executor.step(chunk).unwrap());
                    executor.logits().unwrap().to_vec()
                };
                let one = by(1);
                for size in [2, 3, 4, 7, 8, 13, 16, 17, 40] {
                    let (logits, place) = (by(size), format!("{}, steps of {size} from {start}", target.name));
                    let d = difference(&logits, &one);
                    assert!(d <= INT8, "{place}: {d}");
                    assert!(size > 16 || bits(&logits) == bits(&one), "{place}: {d}");
                }
            }
        }
    }
}

#[test]
fn rolling_back_forgets() {
    for target in run::targets() {
        let file = demo();
        let mut executor = run::executor(&file, Settings::new(target), 2);
        let [a, b, c] = [20, 10, 33].map(|n| random_tokens(n, 2048, n as u64));
        let feed = |executor: &mut Executor, from: usize, tokens: &[u32]| {
            executor.set_position(from).unwrap();
            executor.prefill(tokens, &mut |_, _| true).unwrap();
            (bits(executor.logits().unwrap()), run::go_on(executor, 6))
        };
        feed(&mut executor, 0, &a);
        let first = feed(&mut executor, a.len(), &b);
        assert!(feed(&mut executor, a.len(), &c) != first);
        assert!(feed(&mut executor, a.len(), &b) == first, "{}", target.name);
        assert!(executor.set_position(executor.position() + 1).is_err());
        feed(&mut executor, 0, &c);
        feed(&mut executor, 0, &a);
        assert!(feed(&mut executor, a.len(), &b) == first, "{}", target.name);
    }
}

/// Generates greedily for as long as the context allows.
fn generate(executor: &mut Executor, tokenizer: &Tokenizer, prompt: &[u32]) -> Result<(usize, StopReason), String> {
    let config = SamplerConfig { temperature: 0.0, ..SamplerConfig::default() };
    let mut sampler = Sampler::new(config, executor.manifest().figures.vocab).unwrap();
    let options = generate::Options { ignore_eos: true, ..Default::default() };
    executor.set_position(0).unwrap();
    let go = AtomicBool::new(false);
    let mut watch = generate::Watch { text: &mut |_| (), prefill: &mut |_, _| (), interrupted: &go };
    generate::generate(executor, tokenizer, &mut sampler, prompt, &options, &mut watch)
        .map(|g| (g.ids.len(), g.stop_reason))
        .map_err(|e| e.to_string())
}

#[test]
fn contexts_are_used_up_and_not_exceeded() {
    let file = demo();
    let tokenizer = Tokenizer::from_metadata(file.metadata()).unwrap();
    for target in run::targets() {
        for context in [1, 2, 5, 40, 130] {
            let mut executor = run::executor(&file, Settings { context: Some(context), ..Settings::new(target) }, 2);
            assert_eq!(executor.context(), context);
            for prompt in [1, context.div_ceil(2), context] {
                // The last token generated needs no place.
                let expected = Ok((context - prompt + 1, StopReason::Context));
                let got = generate(&mut executor, &tokenizer, &random_tokens(prompt, 2048, 1));
                assert_eq!(got, expected, "{}, context {context}, prompt {prompt}", target.name);
            }
            let error = generate(&mut executor, &tokenizer, &vec![1; context + 1]).unwrap_err();
            let words = format!("the prompt has {} tokens, the context holds {context}", context + 1);
            assert!(error.contains(&words), "{error}");
        }
        for (context, words) in [(0, "the context"), (513, "needs 513, but 512")] {
            let error = run::compile(&file, Settings { context: Some(context), ..Settings::new(target) }).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}

/// On a GPU the largest logits are those of the whole row, and a sampler draws the same from both.
#[test]
fn the_largest_logits_of_a_gpu() {
    let large =
        Synthetic { vocab: 5000, layers: 1, ..zoo().into_iter().find(|(name, _)| name == "qwen3-k").unwrap().1 };
    let file = run::file(large.gguf()).unwrap();
    let mut executor = run::executor(&file, Settings::new(Target::by_name("sm_120").unwrap()), 1);
    assert!(executor.top(1).is_err() && executor.logits().is_err(), "logits before the first step");
    let configs = [0.0, 0.9].map(|temperature| SamplerConfig { temperature, seed: 4, ..SamplerConfig::default() });
    let [mut samplers, mut others] = [0, 1].map(|_| configs.clone().map(|c| Sampler::new(c, large.vocab).unwrap()));
    for token in [7, 4999, 7, 0, 1234] {
        executor.step(&[token]).unwrap();
        let top = executor.top(256).unwrap().unwrap();
        let (found, log_sum_exp): (Vec<(u32, f32)>, f32) = (top.iter().collect(), top.log_sum_exp);
        let drawn = samplers.each_mut().map(|s| s.sample_top(found.iter().copied()).unwrap());
        assert!(executor.top(257).unwrap().is_none());
        let logits = executor.logits().unwrap();
        assert_eq!(found, top_logits(logits, 256).unwrap());
        let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        assert!((f64::from(log_sum_exp) - sum.ln()).abs() < 1e-5 * sum.ln(), "{log_sum_exp} is not {}", sum.ln());
        assert_eq!(drawn, others.each_mut().map(|s| s.sample(logits).unwrap()));
    }
}
