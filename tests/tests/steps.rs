//! A token's logits are the same bits whether it is computed alone, in a batch, wherever it stands there, or in a chunk of a
//! prompt: on each target, for each format of weights and KV caches.

use ir::quant;
use ir::target::Target;
use runtime::Executor;
use tests::run::{self, Settings};
use tests::synthetic::{Rng, Synthetic, zoo_for};

/// Tokens of the steps that a text is cut into, in turn.
const CUTS: &[&[usize]] = &[&[2, 1, 3, 4], &[5, 8], &[16]];

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

/// The logits of all tokens, in steps of these sizes in turn.
fn in_steps(executor: &mut Executor, tokens: &[u32], sizes: &[usize]) -> Vec<Vec<u32>> {
    executor.set_position(0).unwrap();
    let (mut all, mut rest) = (Vec::new(), tokens);
    for &size in sizes.iter().cycle() {
        let (step, after) = rest.split_at(size.min(rest.len()));
        if step.is_empty() {
            break;
        }
        executor.step(step).unwrap();
        all.extend((0..step.len()).map(|i| bits(executor.logits_of(i).unwrap())));
        rest = after;
    }
    all
}

/// Compares steps of many sizes, and chunks as long as the target takes, with single tokens.
fn check(name: &str, shape: &Synthetic, settings: Settings, count: usize) {
    let file = run::file(shape.gguf()).unwrap();
    let mut executor = run::executor(&file, settings, 2);
    let mut rng = Rng::new(shape.seed);
    let tokens: Vec<u32> = (0..count).map(|_| rng.below(shape.vocab) as u32).collect();
    let alone = in_steps(&mut executor, &tokens, &[1]);
    let what = |sizes: &str| format!("{name}, {}, KV {}, {sizes}", settings.target.name, settings.kv);
    let fits = |sizes: &&&[usize]| sizes.iter().all(|&size| size <= executor.logits_capacity());
    for &sizes in CUTS.iter().filter(fits).collect::<Vec<_>>() {
        let together = in_steps(&mut executor, &tokens, sizes);
        let first = alone.iter().zip(&together).position(|(a, b)| a != b);
        assert_eq!((first, together.len()), (None, count), "{}", what(&format!("steps of {sizes:?}")));
    }
    executor.set_position(0).unwrap();
    executor.prefill(&tokens, &mut |_, _| true).unwrap();
    assert!(bits(executor.logits().unwrap()) == alone[count - 1], "{}", what("a prompt"));
}

/// Every model of the zoo, so every format.
fn check_zoo(target: &str) {
    let target = Target::by_name(target).unwrap();
    if !run::runs(target) {
        return;
    }
    for (number, (name, shape)) in zoo_for(target).into_iter().enumerate() {
        // One KV format for each model in the emulator, which takes its time.
        let formats = [quant::F16, quant::Q8_0];
        let formats = if target.gpu().is_some() { &formats[number % 2..][..1] } else { &formats };
        for &kv in formats {
            check(&name, &shape, Settings { kv, ..Settings::new(target) }, shape.context.min(21));
        }
    }
}

#[test]
fn x86_64() {
    check_zoo("x86-64");
}

#[test]
fn x86_64_v3() {
    check_zoo("x86-64-v3");
}

#[test]
fn x86_64_v4_vnni() {
    check_zoo("x86-64-v4-vnni");
}

#[test]
fn sm_80() {
    check_zoo("sm_80");
}

#[test]
fn sm_120() {
    check_zoo("sm_120");
}

/// Past the positions of the first ranges of attention, which are combined.
#[test]
fn long_texts() {
    let shape = Synthetic { layers: 1, context: 600, vocab: 64, kv_heads: 1, ..Synthetic::default() };
    let mut targets = run::targets();
    targets.push(Target::by_name("sm_120").unwrap());
    for target in targets {
        for kv in [quant::F16, quant::Q8_0] {
            check("long", &shape, Settings { kv, ..Settings::new(target) }, 600);
        }
    }
}
