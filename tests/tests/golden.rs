//! The compiled test models against their golden outputs, on every CPU target that this machine runs and on the emulator.

use ir::graph::Op;
use ir::quant::{self, Format};
use ir::target::Target;
use runtime::ModelFile;
use runtime::tokenizer::Tokenizer;
use std::path::Path;
use tests::golden::{self, FLOAT_SHARE, Golden, tolerance_share};
use tests::model::Model;
use tests::npy::Matrix;
use tests::run::{self, Settings};

/// The CPU targets.
const CPUS: &[&str] = &["x86-64", "x86-64-v3", "x86-64-v4-vnni"];
/// Greedy steps: all that the files have.
const STEPS: usize = 48;
/// Greedy steps on the emulator.
const EMULATED_STEPS: usize = 4;

fn stem(path: &Path) -> &str {
    path.file_stem().and_then(|stem| stem.to_str()).unwrap()
}

fn open(path: &Path) -> ModelFile {
    ModelFile::open(path).unwrap_or_else(|e| panic!("{e}"))
}

/// The models of a folder that `wanted` names, for the CPU targets that `on` names.
fn check(folder: &str, kv: Format, on: &[&str], wanted: impl Fn(&str) -> bool) {
    for (path, golden) in golden::all(folder).into_iter().filter(|(path, _)| wanted(stem(path))) {
        let file = open(&path);
        // Logits computed with float activations.
        let exact = Matrix::load(&path.with_file_name(format!("golden/{}.logits.npy", stem(&path))));
        for target in run::targets().into_iter().filter(|t| on.contains(&t.name)) {
            let name = format!("{}, {}, KV {kv}", stem(&path), target.name);
            check_model(&name, &file, &golden, exact.as_ref(), Settings { kv, ..Settings::new(target) }, STEPS);
        }
    }
}

/// The models of a folder that `wanted` names, on the emulator: the prompts that `RIGC_EMULATE` lists, by default the shortest,
/// and a few steps; `all` for everything. Models with ops that GPUs have no kernels for have to be refused by name.
fn check_emulated(folder: &str, target: &str, wanted: impl Fn(&str) -> bool) {
    let target = Target::by_name(target).unwrap();
    let asked = std::env::var("RIGC_EMULATE").ok();
    for (path, mut golden) in golden::all(folder).into_iter().filter(|(path, _)| wanted(stem(path))) {
        let file = open(&path);
        let name = format!("{}, {}", stem(&path), target.name);
        match (run::compile(&file, Settings::new(target)), needs_cpu(&path)) {
            (Ok(_), false) => {}
            (Err(e @ ir::Error::Unsupported { target: Some(_), .. }), true) => {
                eprintln!("skipped: {name}: {e}");
                continue;
            }
            (Ok(_), true) => panic!("{name} is not refused"),
            (Err(e), _) => panic!("{name}: {e}"),
        }
        let shortest = golden.prompts.iter().map(|p| p.ids.len()).min().unwrap();
        golden.prompts.retain(|p| match asked.as_deref() {
            None => p.ids.len() == shortest,
            Some(asked) => asked == "all" || asked.split(',').any(|name| name == p.name),
        });
        let steps = if asked.as_deref() == Some("all") { STEPS } else { EMULATED_STEPS };
        check_model(&name, &file, &golden, None, Settings::new(target), steps);
    }
}

/// Whether a model has ops that CPUs alone have kernels for: experts and recurrent states.
fn needs_cpu(path: &Path) -> bool {
    let model = Model::new(std::fs::read(path).unwrap());
    let graph = model.graph(1, quant::F16, false);
    graph.nodes().iter().any(|n| matches!(n.op, Op::Route { .. } | Op::ShortConv | Op::DeltaRule { .. }))
}

fn check_model(
    name: &str,
    file: &ModelFile,
    golden: &Golden,
    exact: Option<&Matrix>,
    settings: Settings,
    steps: usize,
) {
    let tokenizer = Tokenizer::from_metadata(file.metadata()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let formats: Vec<Format> = file.tensors().map(|(_, t)| t.format().unwrap()).collect();
    let float = formats.iter().all(|f| !f.dot.wants_int8());
    let share = golden.tolerance.unwrap_or_else(|| tolerance_share(formats));
    let mut executor = run::executor(file, settings, 2);
    assert_eq!(executor.manifest().figures.vocab, golden.n_vocab, "{name}");
    for (i, prompt) in golden.prompts.iter().enumerate() {
        let name = format!("{name}, prompt '{}'", prompt.name);
        assert_eq!(tokenizer.encode_prompt(&prompt.text, true).unwrap(), prompt.ids, "{name}");
        let (logits, greedy) = run::greedy(&mut executor, &prompt.ids, steps.min(prompt.expected.greedy.len()));
        prompt.check(share, &logits, &greedy).unwrap_or_else(|e| panic!("{name}: {e}"));
        // A KV cache of 8 bits is no float computation.
        if let Some(exact) = exact.filter(|_| float && settings.kv == quant::F16) {
            let exact = exact.row(i);
            let largest = exact.iter().fold(0f32, |m, x| m.max(x.abs()));
            let difference = exact.iter().zip(&logits).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(difference <= FLOAT_SHARE * largest, "{name}: off the reference by {difference} of {largest}");
        }
    }
}

#[test]
fn models_agree_with_golden_outputs() {
    check("models", quant::F16, CPUS, |_| true);
}

/// Beside each other, as they are many.
#[test]
fn architectures_agree_with_golden_outputs_on_x86_64() {
    check("arch", quant::F16, &CPUS[..1], |_| true);
}

#[test]
fn architectures_agree_with_golden_outputs_on_x86_64_v3() {
    check("arch", quant::F16, &CPUS[1..2], |_| true);
}

#[test]
fn architectures_agree_with_golden_outputs_on_x86_64_v4_vnni() {
    check("arch", quant::F16, &CPUS[2..], |_| true);
}

#[test]
fn emulated_sm_120_agrees_with_golden_outputs() {
    check_emulated("models", "sm_120", |_| true);
}

#[test]
fn emulated_architectures_agree_with_golden_outputs() {
    check_emulated("arch", "sm_120", |_| true);
}

#[test]
fn emulated_sm_80_and_sm_90_agree_with_golden_outputs() {
    check_emulated("models", "sm_80", |stem| stem == "bard-q4_k_m");
    check_emulated("models", "sm_90", |stem| stem == "bard-q4_k_m");
}

#[test]
fn kv_cache_of_8_bits_agrees_with_golden_outputs() {
    check("models", quant::Q8_0, CPUS, |stem| stem == "bard-q8_0" || stem == "bardq3-q4_k_m");
}
