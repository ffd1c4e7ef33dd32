//! The compiled test models against their golden outputs, on every CPU target that this machine runs.

use ir::quant::{self, Format};
use ir::target::Target;
use runtime::ModelFile;
use runtime::tokenizer::Tokenizer;
use tests::golden::{FLOAT_SHARE, Golden, tolerance_share};
use tests::npy::Matrix;
use tests::run::{self, Settings};

/// Greedy steps: all that the files have.
const STEPS: usize = 48;
/// Greedy steps on the emulator.
const EMULATED_STEPS: usize = 4;

/// All models with a golden file that `wanted` names, for all targets.
fn check(kv: Format, wanted: impl Fn(&str) -> bool) {
    let Some(dir) = tests::shared_dir("models") else { return };
    for path in tests::gguf_files(&dir) {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        if !wanted(stem) {
            continue;
        }
        let Some(golden) = Golden::load(&dir, stem) else { continue };
        let file = ModelFile::open(&path).unwrap_or_else(|e| panic!("{e}"));
        // Logits computed with float activations.
        let exact = Matrix::load(&dir.join(format!("golden/{stem}.logits.npy")));
        for target in run::targets() {
            let name = format!("{stem}, {}, KV {kv}", target.name);
            check_model(&name, &file, &golden, exact.as_ref(), Settings { kv, ..Settings::new(target) }, STEPS);
        }
    }
}

/// Models with a golden file that `wanted` names, on the emulator: the prompts that `RIGC_EMULATE` lists, `short` by
/// default, and a few steps; `all` for everything.
fn check_emulated(target: &str, wanted: impl Fn(&str) -> bool) {
    let Some(dir) = tests::shared_dir("models") else { return };
    let target = Target::by_name(target).unwrap();
    let asked = std::env::var("RIGC_EMULATE").unwrap_or_else(|_| "short".into());
    for path in tests::gguf_files(&dir) {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let Some(mut golden) = Golden::load(&dir, stem).filter(|_| wanted(stem)) else { continue };
        golden.prompts.retain(|p| asked == "all" || asked.split(',').any(|name| name == p.name));
        let steps = if asked == "all" { STEPS } else { EMULATED_STEPS };
        let file = ModelFile::open(&path).unwrap_or_else(|e| panic!("{e}"));
        check_model(&format!("{stem}, {}", target.name), &file, &golden, None, Settings::new(target), steps);
    }
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
    let share = tolerance_share(formats);
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
    check(quant::F16, |_| true);
}

#[test]
fn emulated_sm_120_agrees_with_golden_outputs() {
    check_emulated("sm_120", |_| true);
}

#[test]
fn emulated_sm_80_and_sm_90_agree_with_golden_outputs() {
    check_emulated("sm_80", |stem| stem == "bard-q4_k_m");
    check_emulated("sm_90", |stem| stem == "bard-q4_k_m");
}

#[test]
fn kv_cache_of_8_bits_agrees_with_golden_outputs() {
    check(quant::Q8_0, |stem| stem == "bard-q8_0" || stem == "bardq3-q4_k_m");
}
