//! The graph interpreter against the golden outputs of the test models: the meaning that everything else is held to is
//! right.

use ir::graph::interp::{self, KvCache, Step};
use ir::quant;
use tests::golden::{self, FLOAT_SHARE, Golden, argmax};
use tests::model::Model;

/// Greedy steps of the first prompt of each model.
const GREEDY_STEPS: usize = 16;

#[test]
fn interpreter_agrees_with_golden_outputs() {
    for (path, golden) in golden::FOLDERS.into_iter().flat_map(golden::all) {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        check_model(stem, &Model::new(std::fs::read(&path).unwrap()), &golden);
    }
}

fn check_model(stem: &str, model: &Model, golden: &Golden) {
    assert_eq!(model.figures.vocab, golden.n_vocab);
    let longest = golden.prompts.iter().map(|p| p.ids.len()).max().unwrap();
    let (prefill, decode) = (model.graph(longest, quant::F16, false), model.graph(1, quant::F16, false));
    let weights = model.weights(&prefill);
    for (i, prompt) in golden.prompts.iter().enumerate() {
        let mut cache = KvCache::default();
        let step = Step { position: 0, tokens: &prompt.ids };
        let logits = interp::run(&prefill, &weights, &mut cache, step).unwrap();
        let logits = logits[0].1.f32().unwrap();
        let mut greedy = vec![argmax(logits)];
        for position in (prompt.ids.len()..).take(if i == 0 { GREEDY_STEPS - 1 } else { 0 }) {
            let step = Step { position, tokens: &greedy[greedy.len() - 1..] };
            let logits = interp::run(&decode, &weights, &mut cache, step).unwrap();
            greedy.push(argmax(logits[0].1.f32().unwrap()));
        }
        // Activations are not quantised here, so the reference is met as closely as by float models.
        let expected = prompt.reference.as_ref().unwrap_or(&prompt.expected);
        println!("{stem} {}: {:.5}, {greedy:?}", prompt.name, expected.difference(logits));
        let check =
            expected.check_logits(FLOAT_SHARE, logits).and_then(|()| expected.check_greedy(FLOAT_SHARE, &greedy));
        check.unwrap_or_else(|e| panic!("{stem}, prompt '{}': {e}", prompt.name));
    }
}
