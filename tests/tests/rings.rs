//! Rings of windows in whole models: contexts that are longer than windows and rings, steps across their ends, going back.

use ir::graph::interp::{self, KvCache, Step};
use ir::quant;
use ir::state::ring_slack;
use runtime::Executor;
use tests::golden::FLOAT_SHARE;
use tests::model::Model;
use tests::run::{self, Settings};
use tests::synthetic::Rng;

/// Models of float weights with windows in some layers.
const MODELS: [&str; 4] = ["gemma3-a", "exaone4-swa-a", "cohere2-a", "gemma4-a"];
/// Tokens that they are given: more than their rings hold, and no multiple of a block or a step.
const TOKENS: usize = 417;

/// The models of the test data that are there, with random tokens.
fn models() -> impl Iterator<Item = (&'static str, Vec<u8>, Vec<u32>)> {
    let dir = tests::shared_dir("arch");
    MODELS.into_iter().filter_map(move |name| {
        let file = std::fs::read(dir.as_ref()?.join(format!("{name}.gguf"))).unwrap();
        let mut rng = Rng::new(11);
        let vocab = Model::new(file.clone()).figures.vocab;
        Some((name, file, (0..TOKENS).map(|_| rng.below(vocab) as u32).collect()))
    })
}

/// Positions of the rings of a loaded model, the context, and whether other caches have that.
fn rings(executor: &Executor) -> (usize, usize) {
    let states = &executor.manifest().states;
    let positions = |ring: bool| {
        let mut found = states.iter().filter(|s| s.is_ring() == ring && !s.is_recurrent());
        let shape = ir::tensor::kv_shape(&found.next().unwrap().ty).unwrap();
        assert_eq!(shape.ring, ring);
        shape.positions
    };
    (positions(true), positions(false))
}

/// Against the interpreter, whose caches hold every position.
#[test]
fn long_prompts_agree_with_caches_of_all_positions() {
    for (name, file, tokens) in models() {
        let model = Model::new(file.clone());
        let graph = model.graph(TOKENS, quant::F16, false);
        assert!(graph.nodes().iter().all(|n| ir::tensor::kv_shape(&n.results[0]).is_none_or(|shape| !shape.ring)));
        let step = Step { position: 0, tokens: &tokens };
        let expected = interp::run(&graph, &model.weights(&graph), &mut KvCache::default(), step).unwrap();
        let expected = expected[0].1.f32().unwrap();
        let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
        let file = run::file(file).unwrap();
        for target in run::targets() {
            let mut executor = run::executor(&file, Settings::new(target), 1);
            let (ring, context) = rings(&executor);
            assert!(ring < TOKENS && TOKENS < context, "{name}: {ring} of {context}");
            for last in [0, 3, 100] {
                executor.set_position(0).unwrap();
                executor.prefill(&tokens[..TOKENS - last], &mut |_, _| true).unwrap();
                tokens[TOKENS - last..].iter().for_each(|token| executor.step(&[*token]).unwrap());
                let difference =
                    expected.iter().zip(executor.logits().unwrap()).fold(0f32, |m, (a, b)| m.max((a - *b).abs()));
                assert!(difference <= FLOAT_SHARE * largest, "{name}, {}, {last}: {difference}", target.name);
            }
        }
    }
}

/// The bits of the logits after `tokens` in steps of `size`.
fn feed(executor: &mut Executor, tokens: &[u32], size: usize) -> Vec<u32> {
    tokens.chunks(size).for_each(|chunk| executor.step(chunk).unwrap());
    executor.logits().unwrap().iter().map(|x| x.to_bits()).collect()
}

/// As far as the rings hold what a window sees, the position is reached, and the logits are those of never having gone on.
#[test]
fn going_back_within_rings_and_past_them() {
    for (name, file, tokens) in models().take(2) {
        let file = run::file(file).unwrap();
        for target in run::targets() {
            let mut executor = run::executor(&file, Settings::new(target), 1);
            let slack = ring_slack(executor.capacity());
            let expected = feed(&mut executor, &tokens, 1);
            for (from, back) in [(TOKENS, 1), (TOKENS, slack), (300, 7), (300, slack)] {
                executor.set_position(0).unwrap();
                feed(&mut executor, &tokens[..from - back], 16);
                // Other tokens, which are forgotten.
                feed(&mut executor, &tokens[..back], 5);
                assert_eq!(executor.set_position(from - back).unwrap(), from - back, "{name} {from} {back}");
                let found = feed(&mut executor, &tokens[from - back..], 1);
                assert!(found == expected, "{name}, {}: back by {back} from {from}", target.name);
            }
            // The rest of what was written once counts after going back, until it is written again.
            assert_eq!(executor.set_position(TOKENS - 100).unwrap(), TOKENS - 100);
            assert_eq!(executor.set_position(TOKENS - slack - 1).unwrap(), 0, "{name}");
            assert!(feed(&mut executor, &tokens, 16) == expected, "{name}, {}: from the beginning", target.name);
        }
    }
}
