//! What compiling refuses: one sentence that says what, where and what to do instead. What the front end refuses by its
//! metadata is in `front.rs`.

use ir::quant;
use ir::target::Target;
use runtime::ModelFile;
use tests::run::{self, Settings};
use tests::synthetic::{Synthetic, format};

/// A narrow model with a hidden width of so many elements.
fn deep(ffn: usize) -> Synthetic {
    Synthetic { width: 32, ffn, layers: 1, format: format("q4_0"), ..Synthetic::default() }
}

/// What compiling a file of such weights says.
fn compile(shape: &Synthetic, settings: Settings) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    shape.sparse(&path).unwrap();
    run::compile(&ModelFile::open(&path).unwrap(), settings).map(|_| ()).map_err(|e| e.to_string())
}

/// Weights of more than 4 GiB.
fn table() -> Synthetic {
    Synthetic { width: 1 << 17, heads: 512, head: 256, kv_heads: 32, vocab: 1 << 14, layers: 1, ..Synthetic::default() }
}

/// Keys of a layer of more than 4 GiB.
fn long() -> Synthetic {
    Synthetic { context: 1 << 24, head: 128, kv_heads: 2, layers: 1, ..Synthetic::default() }
}

#[test]
fn says_what_and_what_to_do() {
    let cases: &[(&str, Synthetic, &[&str], &str)] = &[
        // Rows that do not fit the shared memory of a card: 1.25 bytes for each element.
        (
            "shared memory, int8",
            deep(99_840),
            &["sm_89", "sm_120", "sm_120 rtxpro6000"],
            "bytes of shared memory, where a CTA has 101376: compile for sm_80 or a CPU",
        ),
        ("its card", deep(99_840), &["sm_120 rtx5080"], "rows of 99840 elements is not supported for sm_120 (rtx5080)"),
        ("shared memory, larger", deep(140_000), &["sm_80"], "a CTA has 166912: compile for sm_90 or a CPU"),
        ("shared memory, most", deep(200_000), &["sm_80", "sm_90"], "bytes of shared memory, where a CTA has"),
        ("shared memory, nowhere", deep(200_000), &["sm_90"], "has 232448: compile for a CPU"),
        // Figures of 32 bits.
        ("weights", table(), &["x86-64", "sm_120"], "an operand f32[16384,131072]"),
        (
            "weights, hint",
            table(),
            &["x86-64", "sm_120"],
            "kernels reach 4294967295 bytes of each: use a model quantised to fewer bits",
        ),
        (
            "cache",
            long(),
            &["x86-64", "sm_90"],
            "an operand f16[2,16777216,128] of 8589934592 bytes is not supported; kernels reach 4294967295 bytes of each: \
             use a shorter context, or a KV cache of fewer bits",
        ),
        (
            "cache of 4 GiB",
            Synthetic { kv_heads: 1, ..long() },
            &["x86-64", "sm_80", "sm_120"],
            "of 4294967296 bytes is not supported; kernels reach 4294967295 bytes",
        ),
        // What no target has.
        (
            "KV heads",
            Synthetic { heads: 64, kv_heads: 1, head: 8, ..Synthetic::default() },
            &["sm_120"],
            "share a KV head needs 64, but 32 is the limit",
        ),
        (
            "head",
            Synthetic { head: 14, ..Synthetic::default() },
            &["sm_120"],
            "a head size of 14 is not supported; head sizes are multiples of 4 up to 512",
        ),
        (
            "architecture",
            Synthetic { architecture: "gemma", ..Synthetic::default() },
            &["sm_120"],
            "model architecture 'gemma' is not supported; the architectures are llama, qwen2, qwen3",
        ),
        (
            "rows",
            Synthetic { ffn: 90, ..Synthetic::default() },
            &["sm_120"],
            "'blk.0.ffn_down.weight' f32[64,90], whose rows are no multiple of 4 elements, is not supported; use another quantisation",
        ),
    ];
    for (what, shape, targets, words) in cases {
        for name in *targets {
            let (name, card) = name.split_once(' ').map_or((*name, None), |(name, card)| (name, Some(card)));
            let target = Target::by_name(name).unwrap();
            let target = card.map_or(*target, |card| target.with_card(card).unwrap());
            let target: &'static Target = Box::leak(Box::new(target));
            let settings = Settings { context: Some(shape.context), ..Settings::new(target) };
            let said = compile(shape, settings).expect_err(what);
            assert!(said.contains(words) && said.lines().count() == 1, "{what}, {name}: '{said}'");
            assert!(said.len() < 400, "{what}, {name}: '{said}'");
        }
    }
}

/// The nearest things that work, as the refusals say.
#[test]
fn what_is_advised_works() {
    for (shape, context, kv, target) in [
        (deep(99_840), 64, quant::F16, "sm_80"),
        (deep(140_000), 64, quant::F16, "sm_90"),
        (deep(200_000), 64, quant::F16, "x86-64"),
        // As long as bytes of the keys, on CPUs of keys and values, are 32 bits: 2 GiB, and nearly 4.
        (Synthetic { kv_heads: 1, ..long() }, 1 << 23, quant::F16, "sm_120"),
        (Synthetic { kv_heads: 1, ..long() }, 1 << 23, quant::F16, "x86-64"),
        (Synthetic { kv_heads: 1, ..long() }, (1 << 24) - 64, quant::F16, "sm_120"),
        (Synthetic { kv_heads: 1, ..long() }, (1 << 24) - 64, quant::F16, "x86-64"),
        (long(), (1 << 23) - 64, quant::F16, "sm_120"),
        (long(), 15 << 20, quant::Q8_0, "sm_120"),
    ] {
        let target = Target::by_name(target).unwrap();
        let settings = Settings { target, context: Some(context), kv };
        compile(&shape, settings).unwrap_or_else(|e| panic!("{} {context}: {e}", target.name));
    }
}
