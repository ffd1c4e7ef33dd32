//! What the front end refuses, and in which words.

use ir::front::{self, EntryShape, Tensors};
use ir::gguf::{self, Array, Value};
use ir::quant;
use tests::synthetic::{Latent, Mixture, Synthetic};

/// The error of a file whose metadata was changed.
fn refusal(spec: &Synthetic, change: &[(&str, Option<Value>)], drop: Option<&str>) -> Result<(), String> {
    let header = gguf::parse(&spec.gguf()).map_err(|e| e.to_string())?;
    let removed = |key: &str| change.iter().any(|(k, v)| *k == key && v.is_none());
    let kept = header.metadata.iter().filter(|(key, _)| !removed(key));
    let mut metadata: gguf::Metadata = kept.map(|(k, v)| (k.to_string(), v.clone())).collect();
    for (key, value) in change {
        if let Some(value) = value {
            metadata.insert(*key, value.clone());
        }
    }
    let tensors =
        Tensors::new(header.tensors.iter().filter(|t| Some(t.name.as_str()) != drop)).map_err(|e| e.to_string())?;
    let shape = EntryShape { tokens: 2, context: 8, step: 8, kv: quant::F16, all_logits: false };
    let built = front::Model::read(&metadata, &tensors).and_then(|model| model.build(shape));
    built.map(|_| ()).map_err(|e| e.to_string())
}

#[test]
fn refuses_by_name_and_figure() {
    let u = |n: u32| Some(Value::U32(n));
    let f = |x: f32| Some(Value::F32(x));
    let s = |text: &str| Some(Value::from(text));
    let cases: &[(&str, Option<Value>, &str)] = &[
        (
            "general.architecture",
            s("mamba"),
            "architecture 'mamba' is not supported; the architectures are llama, qwen2, qwen3",
        ),
        ("general.architecture", None, "'general.architecture' is missing"),
        ("llama.block_count", None, "'llama.block_count' is missing"),
        ("llama.block_count", u(0), "'llama.block_count' is 0, at least 1"),
        ("llama.block_count", u(u32::MAX), "needs 4294967295, but 1024 is the limit"),
        ("llama.block_count", u(3), "'blk.2.attn_norm.weight' is missing"),
        ("llama.block_count", u(1), "tensor 'blk.1.attn_k.weight'"),
        ("llama.block_count", s("two"), "'llama.block_count'"),
        ("llama.block_count", Some(Value::Array(Array::U32(vec![2, 2]))), "'llama.block_count' with a figure for each"),
        ("llama.embedding_length", u(0), "'llama.embedding_length' is 0"),
        ("llama.embedding_length", u(1 << 31), "needs 2147483648"),
        ("llama.embedding_length", u(128), "'token_embd.weight' is [101, 64], expected [101, 128]"),
        ("llama.feed_forward_length", u(97), "'blk.0.ffn_gate.weight' is [96, 64], expected [97, 64]"),
        ("llama.attention.head_count", u(0), "head_count' is 0"),
        ("llama.attention.head_count", u(3), "64 cannot be split into 3 heads"),
        ("llama.attention.head_count_kv", u(3), "4 query heads cannot share 3 KV heads"),
        ("llama.attention.head_count_kv", u(4), "'blk.0.attn_k.weight' is [32, 64], expected [64, 64]"),
        ("llama.attention.head_count_kv", u(0), "head_count_kv' is 0"),
        ("llama.attention.key_length", u(14), "a head size of 14 is not supported"),
        ("llama.attention.key_length", u(1024), "needs 1024, but 512"),
        ("llama.attention.value_length", u(32), "value_length other than the key length 16"),
        ("llama.attention.layer_norm_rms_epsilon", None, "layer_norm_rms_epsilon' is missing"),
        ("llama.attention.layer_norm_rms_epsilon", f(f32::NAN), "makes no sense"),
        ("llama.rope.freq_base", f(-1.0), "makes no sense"),
        ("llama.rope.dimension_count", u(18), "needs 18, but 16"),
        ("llama.rope.dimension_count", u(7), "which is odd"),
        ("llama.rope.scaling.type", s("yarn"), "'llama.rope.scaling.original_context_length' is missing"),
        ("llama.rope.scaling.type", s("dynamic"), "RoPE scaling 'dynamic' ('llama.rope.scaling.type')"),
        ("llama.attention.sliding_window", u(16), "metadata key 'llama.attention.sliding_window' is not supported"),
        ("llama.attn_logit_softcapping", f(50.0), "metadata key 'llama.attn_logit_softcapping'"),
        ("llama.final_logit_softcapping", f(30.0), "metadata key 'llama.final_logit_softcapping'"),
        ("llama.attention.scale", f(0.1), "metadata key 'llama.attention.scale'"),
        ("llama.residual_scale", f(0.5), "metadata key 'llama.residual_scale'"),
        ("llama.use_parallel_residual", Some(Value::Bool(true)), "metadata key 'llama.use_parallel_residual'"),
        ("llama.attention.causal", Some(Value::Bool(false)), "attention to later tokens ('llama.attention.causal')"),
        ("llama.context_length", u(0), "'llama.context_length' is 0"),
        ("llama.context_length", u(7), "context needs 8, but 7 is the limit"),
    ];
    let spec = Synthetic::default();
    for (key, value, words) in cases {
        let error = refusal(&spec, &[(key, value.clone())], None).expect_err(words);
        assert!(error.contains(words), "{key} = {value:?}: '{error}' does not say '{words}'");
    }
    for (key, value) in [
        ("general.type", s("model")),
        ("llama.rope.scaling.type", s("none")),
        ("llama.rope.scaling.factor", f(1.0)),
        ("llama.expert_count", u(0)),
        ("llama.attention.sliding_window", u(4096)),
        ("llama.logit_scale", f(1.0)),
    ] {
        refusal(&spec, &[(key, value)], None).unwrap();
    }
}

#[test]
fn refuses_figures_of_latent_attention() {
    let u = |n: u32| Some(Value::U32(n));
    let latent = Latent { rank: 32, query_rank: 24, plain: 16, rotated: 8, value: 12, by_heads: true };
    let mixture = Some(Mixture::default());
    let spec =
        Synthetic { architecture: "deepseek2", kv_heads: 1, latent: Some(latent), mixture, ..Synthetic::default() };
    refusal(&spec, &[], None).unwrap();
    for (key, value, words) in [
        ("attention.kv_lora_rank", None, "'deepseek2.attention.kv_lora_rank' is missing"),
        ("attention.kv_lora_rank", u(1 << 20), "needs 1048576, but 512"),
        ("attention.kv_lora_rank", u(30), "a latent of 30 and heads of 16 + 8 and 12 elements"),
        ("attention.kv_lora_rank", u(36), "'blk.0.attn_kv_a_mqa.weight' is [40, 64], expected [44, 64]"),
        ("attention.q_lora_rank", None, "'blk.0.attn_q_a.weight' is [24, 64], expected [0, 64]"),
        ("attention.key_length_mla", u(8), "heads of 8 elements have none besides 8 that are rotated"),
        ("attention.key_length_mla", None, "'deepseek2.attention.key_length' is missing"),
        ("attention.value_length_mla", u(16), "'blk.0.attn_v_b.weight' is [4, 12, 32], expected [4, 16, 32]"),
        ("attention.head_count_kv", u(4), "head_count_kv is 4, not 1"),
        ("rope.scaling.type", Some(Value::from("yarn")), "original_context_length' is missing"),
    ] {
        let key = format!("deepseek2.{key}");
        let error = refusal(&spec, &[(&key, value.clone())], None).expect_err(words);
        assert!(error.contains(words), "{key} = {value:?}: '{error}' does not say '{words}'");
    }
}

#[test]
fn names_missing_and_foreign_tensors() {
    let spec = Synthetic { qk_norm: false, ..Default::default() };
    for name in ["token_embd.weight", "output_norm.weight", "blk.1.attn_v.weight", "blk.0.ffn_norm.weight"] {
        assert_eq!(refusal(&spec, &[], Some(name)).unwrap_err(), format!("tensor '{name}' is missing"));
    }
    let foreign = Synthetic { qk_norm: true, ..Default::default() };
    let error = refusal(&foreign, &[], None).unwrap_err();
    assert!(error.contains("tensor 'blk.0.attn_k_norm.weight' f32[16] is not supported"), "{error}");
    let crowd = Synthetic { heads: 64, kv_heads: 1, head: 8, width: 512, ..Default::default() };
    assert!(refusal(&crowd, &[], None).unwrap_err().contains("share a KV head needs 64, but 32"));
}

/// A file without tensors is no model.
#[test]
fn a_vocabulary_alone_is_named() {
    let header = gguf::parse(&Synthetic::default().gguf()).unwrap();
    let tensors = Tensors::default();
    let error = front::Model::read(&header.metadata, &tensors).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("the file has no tensors; it may hold a vocabulary only"), "{error}");
}

#[test]
fn refuses_entry_points_that_the_model_cannot_have() {
    let model = Synthetic::default().model();
    let build = |tokens, context, kv| {
        let shape = EntryShape { tokens, context, step: context, kv, all_logits: true };
        model.build(shape).map(|_| ()).map_err(|e| e.to_string())
    };
    build(64, 64, quant::Q8_0).unwrap();
    assert!(build(1, 65, quant::F16).unwrap_err().contains("context needs 65, but 64"));
    assert!(build(9, 8, quant::F16).unwrap_err().contains("tokens of a step needs 9, but 8"));
    assert!(build(0, 8, quant::F16).unwrap_err().contains("tokens of a step is 0"));
    assert!(build(1, 8, quant::F32).unwrap_err().contains("a KV cache of format f32"));
}
