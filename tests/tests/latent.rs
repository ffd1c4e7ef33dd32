//! Latent attention in forms that no golden file has: matrices that are not cut by heads, scales by the multiplier of YaRN, as
//! many heads as in published models.

use ir::gguf::{Metadata, Value, Writer};
use ir::graph::Op;
use ir::graph::interp::{self, KvCache, Step};
use ir::quant;
use std::collections::BTreeMap;
use tests::golden::{FLOAT_SHARE, Golden};
use tests::model::Model;
use tests::run::{self, Settings};
use tests::synthetic::{Latent, Mixture, Synthetic};

/// The golden file, its name, and what llama.cpp made of it.
fn golden() -> Option<(Model, Golden)> {
    let dir = tests::shared_dir("arch")?;
    let model = Model::new(std::fs::read(dir.join("deepseek2-a.gguf")).unwrap());
    Some((model, Golden::load(&dir, "deepseek2-a").unwrap()))
}

/// The metadata with other values, or without them.
fn changed(model: &Model, change: &[(&str, Option<Value>)]) -> Metadata {
    let mut all: BTreeMap<String, Value> =
        model.header.metadata.iter().map(|(key, value)| (key.to_string(), value.clone())).collect();
    for (key, value) in change {
        let key = format!("deepseek2.{key}");
        match value {
            Some(value) => all.insert(key, value.clone()),
            None => all.remove(&key),
        };
    }
    all.into_iter().collect()
}

/// The file with the matrices that make keys and values of the latent in one, `attn_kv_b`, as they are before they are cut.
fn whole(model: &Model) -> Vec<u8> {
    let count = |key: &str| model.header.metadata.opt_u64(&format!("deepseek2.{key}")).unwrap().unwrap();
    let (heads, rank) = (count("attention.head_count") as usize, count("attention.kv_lora_rank") as usize);
    let (key, value) = (count("attention.key_length_mla") as usize, count("attention.value_length_mla") as usize);
    let plain = key - count("rope.dimension_count") as usize;
    let u = |n: usize| Some(Value::U32(n as u32));
    let metadata = changed(
        model,
        &[
            ("attention.key_length_mla", None),
            ("attention.value_length_mla", None),
            ("attention.key_length", u(key)),
            ("attention.value_length", u(value)),
            ("attention.head_count_kv", u(heads)),
        ],
    );
    let (mut writer, mut data) = (Writer::new(metadata), Vec::new());
    for tensor in &model.header.tensors {
        let (name, format) = (tensor.name.as_str(), tensor.format().unwrap());
        let Some(layer) = name.strip_suffix(".attn_k_b.weight") else {
            if !name.ends_with(".attn_v_b.weight") {
                writer.tensor(name, tensor.shape(), format);
                data.push(model.bytes(name).unwrap().to_vec());
            }
            continue;
        };
        // Elements of two bytes.
        assert_eq!(format, quant::F16);
        let halves = |part: &str| model.bytes(&format!("{layer}.{part}.weight")).unwrap().chunks_exact(2);
        let (k, v): (Vec<&[u8]>, Vec<&[u8]>) = (halves("attn_k_b").collect(), halves("attn_v_b").collect());
        let mut rows: Vec<&[u8]> = Vec::new();
        for h in 0..heads {
            (0..plain).for_each(|i| rows.extend((0..rank).map(|c| k[(h * rank + c) * plain + i])));
            rows.extend(&v[h * value * rank..(h + 1) * value * rank]);
        }
        writer.tensor(format!("{layer}.attn_kv_b.weight"), [heads * (plain + value), rank], format);
        data.push(rows.concat());
    }
    writer.to_vec(&data).unwrap()
}

#[test]
fn matrices_that_are_not_cut_by_heads_give_the_same() {
    let Some((model, golden)) = golden() else { return };
    let file = run::file(whole(&model)).unwrap();
    for target in run::targets() {
        let mut executor = run::executor(&file, Settings::new(target), 2);
        for prompt in &golden.prompts {
            let (logits, greedy) = run::greedy(&mut executor, &prompt.ids, prompt.expected.greedy.len());
            let check = prompt.check(FLOAT_SHARE, &logits, &greedy);
            check.unwrap_or_else(|e| panic!("{}, prompt '{}': {e}", target.name, prompt.name));
        }
    }
}

/// By `llama_context` and `deepseek2.cpp` of llama.cpp, for a factor of 8 and heads of 48.
#[test]
fn scores_grow_with_the_context() {
    let Some((model, _)) = golden() else { return };
    let log = 8f64.ln();
    let all = 1.0 + 0.1 * log;
    for (stored, magnitude, grown) in [(0.1, 1.0, all), (0.0707, 1.0, 1.0 + 0.0707 * log), (0.0, all, all)] {
        let change = ("rope.scaling.yarn_log_multiplier", Some(Value::F32(stored)));
        let mut writer = Writer::new(changed(&model, &[change]));
        let names = model.header.tensors.iter().map(|t| {
            writer.tensor(t.name.as_str(), t.shape(), t.format().unwrap());
            model.bytes(&t.name).unwrap()
        });
        let data: Vec<&[u8]> = names.collect();
        let graph = Model::new(writer.to_vec(&data).unwrap()).graph(1, quant::F16, false);
        let close = |found: f32, expected: f64| {
            assert!((f64::from(found) - expected).abs() < 1e-6 * expected, "{stored}: {found} is not {expected}");
        };
        for node in graph.nodes() {
            match &node.op {
                Op::RopeAngles(angles) => close(angles.magnitude.0, magnitude),
                Op::Attention { scale, .. } => close(scale.0, grown * grown / 48f64.sqrt()),
                _ => {}
            }
        }
    }
}

/// The heads of DeepSeek V3, in steps of a prompt and of one token, against the interpreter.
#[test]
fn as_many_heads_as_published() {
    let shape = Synthetic {
        architecture: "deepseek2",
        layers: 1,
        heads: 128,
        kv_heads: 1,
        latent: Some(Latent { rank: 512, query_rank: 0, plain: 128, rotated: 64, value: 128, by_heads: true }),
        mixture: Some(Mixture::default()),
        format: quant::F16,
        ..Synthetic::default()
    };
    let prompt: Vec<u32> = (0..23).map(|i| i * 7 % 101).collect();
    let model = shape.model();
    let graph = model.graph(prompt.len(), quant::F16, false);
    let step = Step { position: 0, tokens: &prompt };
    let expected = interp::run(&graph, &model.weights(&graph), &mut KvCache::default(), step).unwrap();
    let expected = expected[0].1.f32().unwrap();
    let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    let file = run::file(shape.gguf()).unwrap();
    for target in run::targets() {
        let mut executor = run::executor(&file, Settings::new(target), 2);
        for last in [0, 5, 22] {
            executor.set_position(0).unwrap();
            executor.prefill(&prompt[..prompt.len() - last], &mut |_, _| true).unwrap();
            for token in &prompt[prompt.len() - last..] {
                executor.step(&[*token]).unwrap();
            }
            let logits = executor.logits().unwrap();
            let difference = expected.iter().zip(logits).fold(0f32, |m, (a, b)| m.max((a - *b).abs()));
            assert!(difference <= FLOAT_SHARE * largest, "{} {last}: {difference} of {largest}", target.name);
        }
    }
}
