//! The text of the stages before kernels for small models of three architectures, as files in `tests/snapshots`. For kernels
//! and their code there are file tests and the lock file.
//!
//! `INSTA_UPDATE=always cargo test -p rigc-tests --test snapshots` writes them again.

use codegen::schedule::{self, Row};
use codegen::{Compiled, Options};
use ir::front::Tensors;
use ir::quant;
use ir::target::Target;
use tests::run;
use tests::synthetic::{Synthetic, format};

/// The stages that have snapshots.
const STAGES: [&str; 3] = ["graph", "fused", "plan"];

/// One small layer of three architectures: float, 4-bit and mixed weights.
fn models() -> [(&'static str, Synthetic); 3] {
    let base = Synthetic { layers: 1, vocab: 64, context: 32, ..Synthetic::default() };
    let llama = Synthetic { format: format("q8_0"), rope_factors: true, ..base.clone() };
    let qwen2 = Synthetic {
        architecture: "qwen2",
        format: format("q4_0"),
        formats: vec![("token_embd", quant::F16)],
        qkv_bias: true,
        tied: true,
        ..base.clone()
    };
    let qwen3 = Synthetic {
        architecture: "qwen3",
        width: 256,
        head: 32,
        ffn: 256,
        format: format("q4_k"),
        formats: vec![("attn_v", format("q6_k")), ("attn_output", quant::F32)],
        qk_norm: true,
        ..base
    };
    [("llama", llama), ("qwen2", qwen2), ("qwen3", qwen3)]
}

fn compile(shape: &Synthetic, target: &str, schedules: &[Row]) -> Compiled {
    let file = run::file(shape.gguf()).unwrap();
    let tensors = Tensors::new(file.tensors().map(|(_, t)| t)).unwrap();
    let identity = file.identity();
    let model = codegen::Model { metadata: file.metadata(), tensors: &tensors, identity: &identity, path: "m.gguf" };
    let options = Options { target: Target::by_name(target).unwrap(), context: None, kv: quant::F16, schedules };
    codegen::compile(model, options, &STAGES).unwrap()
}

/// The decode entry point's text of a stage.
fn check(name: &str, compiled: &Compiled, stage: &str) {
    let text = compiled.listings.iter().find(|l| l.stage == stage && l.name == "decode");
    let text = text.map(|l| format!("== {}\n{}\n", l.name, l.text.trim_end()));
    let text = text.unwrap_or_else(|| panic!("{name} has no {stage}"));
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(format!("{name}.{stage}"), text));
}

#[test]
fn stages_of_small_models() {
    for (name, shape) in models() {
        let compiled = compile(&shape, "x86-64-v3", &[]);
        for stage in STAGES {
            check(name, &compiled, stage);
        }
    }
}

/// A row of a schedule table changes the kernels that it is for, and no others.
#[test]
fn a_schedule_moves_its_kernels_only() {
    let [(_, shape), ..] = models();
    let before = compile(&shape, "sm_120", &[]).table.kernels;
    let row = r#"[(
        op: "qkv", tokens: (1, 1), columns: (1, 100000),
        schedule: Gpu((ctas: 170, warps: 4, streams: 4, chunk: 64, depth: 2)),
    )]"#;
    let after = compile(&shape, "sm_120", &schedule::rows(row, "rows").unwrap()).table.kernels;
    let moved: Vec<&str> = before
        .iter()
        .zip(&after)
        .filter(|(a, b)| a.hash != b.hash || a.kernel.to_string() != b.kernel.to_string())
        .map(|(a, _)| a.spec.kind.as_str())
        .collect();
    assert_eq!(moved, ["qkv"]);
}

/// Every file belongs to a snapshot of this file.
#[test]
fn no_file_is_left_over() {
    let expected = models().map(|(name, _)| STAGES.map(|stage| format!("{name}.{stage}.snap"))).concat();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("snapshots");
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(expected.contains(&name), "{} belongs to no test", folder.join(name).display());
    }
}
