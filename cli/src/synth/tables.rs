//! The tables of shapes, mixes and vocabularies, which are RON files beside this one, and the tensors that they make.

use ir::gguf::NewTensor;
use ir::quant::{self, Format};
use serde::Deserialize;
use std::sync::LazyLock;

/// The figures of a model.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    pub name: String,
    pub architecture: String,
    pub layers: usize,
    pub width: usize,
    pub ffn: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head: usize,
    pub vocab: usize,
    pub ordinary: usize,
    pub vocabulary: String,
    pub context: usize,
    pub theta: f32,
    pub eps: f32,
    #[serde(default)]
    pub rope_factor: Option<u32>,
    #[serde(default)]
    pub qkv_bias: bool,
    #[serde(default)]
    pub qk_norm: bool,
    #[serde(default)]
    pub tied: bool,
    #[serde(default)]
    pub experts: Option<Experts>,
    #[serde(default)]
    pub harmony: Option<Harmony>,
}

/// The experts of each layer: how many, how many a token uses, and their hidden width.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experts {
    pub count: usize,
    pub used: usize,
    pub ffn: usize,
}

/// What gpt-oss has: biases of all products, sinks, a window of every other layer, YaRN.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Harmony {
    pub window: usize,
    pub yarn_factor: f32,
    pub yarn_context: usize,
}

/// The formats of a model's matrices.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    pub name: String,
    pub file_type: u32,
    pub base: Format,
    pub rules: Vec<Rule>,
}

/// The format of smaller blocks that stands in for some.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fallback {
    pub of: Vec<Format>,
    pub format: Format,
}

/// A format for some matrices.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub tensors: Vec<String>,
    #[serde(default)]
    pub when: Vec<Condition>,
    pub format: Format,
}

/// A condition of a rule: see `mixes.ron`.
#[derive(Debug, Clone, Copy, Deserialize)]
pub enum Condition {
    MoreBits,
    FirstOf(usize),
    Below(usize),
    SharedBy(usize),
    Inner(usize),
    Layers80,
}

/// Special tokens of a vocabulary: see `vocabularies.ron`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vocabulary {
    pub name: String,
    pub add_bos: bool,
    pub bos: usize,
    pub eos: usize,
    #[serde(default)]
    pub eot: Option<usize>,
    #[serde(default)]
    pub fill: Option<String>,
    pub specials: Vec<(usize, String)>,
}

/// Every shape.
pub static SHAPES: LazyLock<Vec<Shape>> = LazyLock::new(|| table(include_str!("shapes.ron")));
/// Every mix.
pub static MIXES: LazyLock<Vec<Mix>> = LazyLock::new(|| table(include_str!("mixes.ron")));
/// Every stand-in of smaller blocks.
pub static FALLBACKS: LazyLock<Vec<Fallback>> = LazyLock::new(|| table(include_str!("fallbacks.ron")));
/// Every vocabulary.
pub static VOCABULARIES: LazyLock<Vec<Vocabulary>> = LazyLock::new(|| table(include_str!("vocabularies.ron")));

/// A table in the binary; the tests read all of them.
pub fn table<T: serde::de::DeserializeOwned>(text: &str) -> T {
    let options = ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME);
    options.from_str(text).unwrap_or_else(|e| panic!("a built-in table: {e}"))
}

impl Condition {
    fn holds(self, shape: &Shape, layer: usize) -> bool {
        let n = shape.layers;
        match self {
            Condition::MoreBits => {
                layer < n / 8 || layer >= 7 * n / 8 || layer.checked_sub(n / 8).is_some_and(|i| i % 3 == 2)
            }
            Condition::FirstOf(k) => layer < n / k,
            Condition::Below(k) => layer < k,
            Condition::Inner(k) => (n / k..(k - 1) * n / k).contains(&layer),
            Condition::SharedBy(k) => shape.heads / shape.kv_heads >= k,
            Condition::Layers80 => n == 80 && shape.heads != shape.kv_heads,
        }
    }
}

impl Mix {
    /// The format of the matrix `part` (`attn_v`, `output`) of a layer.
    fn format(&self, shape: &Shape, part: &str, layer: usize) -> Format {
        // Matrices of experts count as those of a dense network, but where a rule names them.
        let named = |r: &Rule| r.tensors.iter().any(|t| t == part || Some(&**t) == part.strip_suffix("_exps"));
        let applies = |r: &&Rule| named(r) && r.when.iter().all(|c| c.holds(shape, layer));
        self.rules.iter().find(applies).map_or(self.base, |r| r.format)
    }
}

/// The tensors of a model, matrices first. With `pure` all matrices have the mix's base format.
pub fn tensors(shape: &Shape, mix: &Mix, pure: bool) -> Vec<NewTensor> {
    let mut list = Vec::new();
    let mut matrix = |name: &str, part: &str, layer: usize, dims: &[usize]| {
        let format = if pure { mix.base } else { mix.format(shape, part, layer) };
        // Rows that are no whole blocks, as those of 2880 weights, are in smaller ones.
        let fits = dims[dims.len() - 1].is_multiple_of(format.multiple as usize);
        let smaller = || FALLBACKS.iter().find(|f| f.of.contains(&format)).map_or(format, |f| f.format);
        let format = if fits { format } else { smaller() };
        list.push(NewTensor { name: format!("{name}.weight"), shape: dims.to_vec(), format });
    };
    let (q, kv) = (shape.heads * shape.head, shape.kv_heads * shape.head);
    matrix("token_embd", if shape.tied { "output" } else { "token_embd" }, 0, &[shape.vocab, shape.width]);
    if !shape.tied {
        matrix("output", "output", 0, &[shape.vocab, shape.width]);
    }
    let (up, down) = ([shape.ffn, shape.width], [shape.width, shape.ffn]);
    for i in 0..shape.layers {
        let mut matrix = |part: &str, dims: &[usize]| matrix(&format!("blk.{i}.{part}"), part, i, dims);
        for (part, rows, columns) in [
            ("attn_q", q, shape.width),
            ("attn_k", kv, shape.width),
            ("attn_v", kv, shape.width),
            ("attn_output", shape.width, q),
        ] {
            matrix(part, &[rows, columns]);
        }
        match &shape.experts {
            None => {
                matrix("ffn_gate", &up);
                matrix("ffn_up", &up);
                matrix("ffn_down", &down);
            }
            Some(Experts { count, ffn, .. }) => {
                matrix("ffn_gate_exps", &[*count, *ffn, shape.width]);
                matrix("ffn_up_exps", &[*count, *ffn, shape.width]);
                matrix("ffn_down_exps", &[*count, shape.width, *ffn]);
            }
        }
    }
    let mut floats = |name: String, dims: &[usize]| {
        list.push(NewTensor { name, shape: dims.to_vec(), format: quant::F32 });
    };
    floats("output_norm.weight".into(), &[shape.width]);
    if shape.rope_factor.is_some() {
        floats("rope_freqs.weight".into(), &[shape.head / 2]);
    }
    let ffn_norm = if shape.harmony.is_some() { "post_attention_norm" } else { "ffn_norm" };
    for i in 0..shape.layers {
        let mut floats = |part: &str, dims: &[usize]| floats(format!("blk.{i}.{part}"), dims);
        floats("attn_norm.weight", &[shape.width]);
        floats(&format!("{ffn_norm}.weight"), &[shape.width]);
        for (part, n) in [("attn_q", q), ("attn_k", kv), ("attn_v", kv)] {
            if shape.qkv_bias {
                floats(&format!("{part}.bias"), &[n]);
            }
            if shape.qk_norm && part != "attn_v" {
                floats(&format!("{part}_norm.weight"), &[shape.head]);
            }
        }
        if let Some(Experts { count, ffn, .. }) = &shape.experts {
            floats("ffn_gate_inp.weight", &[*count, shape.width]);
            if shape.harmony.is_some() {
                floats("attn_output.bias", &[shape.width]);
                floats("attn_sinks.weight", &[shape.heads]);
                floats("ffn_gate_inp.bias", &[*count]);
                floats("ffn_gate_exps.bias", &[*count, *ffn]);
                floats("ffn_up_exps.bias", &[*count, *ffn]);
                floats("ffn_down_exps.bias", &[*count, shape.width]);
            }
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn shape(name: &str) -> &'static Shape {
        SHAPES.iter().find(|s| s.name == name).unwrap()
    }

    fn mix(name: &str) -> &'static Mix {
        MIXES.iter().find(|m| m.name == name).unwrap()
    }

    /// Tensors of each format, of the matrices with this part in their names.
    fn count(s: &str, m: &str, part: &str) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for t in tensors(shape(s), mix(m), false) {
            if t.name.contains(part) && t.shape.len() == 2 {
                *counts.entry(t.format.0.name).or_default() += 1;
            }
        }
        counts
    }

    #[test]
    fn the_tables_are_whole() {
        for s in &*SHAPES {
            assert!(VOCABULARIES.iter().any(|v| v.name == s.vocabulary), "{}", s.name);
            assert!(s.ordinary < s.vocab && s.ordinary >= 256, "{}", s.name);
        }
        for m in &*MIXES {
            let parts =
                ["output", "token_embd", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
            for r in &m.rules {
                let known = |t: &str| parts.contains(&t.strip_suffix("_exps").unwrap_or(t));
                assert!(r.tensors.iter().all(|t| known(t)), "{}", m.name);
            }
            for s in &*SHAPES {
                for t in tensors(s, m, false).into_iter().chain(tensors(s, m, true)) {
                    let columns = t.shape[t.shape.len() - 1];
                    assert!(columns.is_multiple_of(t.format.multiple as usize), "{} {} {}", s.name, m.name, t.name);
                }
            }
        }
    }

    /// Counts that llama-quantize prints for these models.
    #[test]
    fn mixes_are_those_of_llama_cpp() {
        assert_eq!(count("llama-8b", "q4_k_m", "attn_v"), [("q4_k", 16), ("q6_k", 16)].into());
        assert_eq!(count("llama-8b", "q4_k_m", ""), [("q4_k", 193), ("q6_k", 33)].into());
        assert_eq!(count("llama-70b", "q4_k_m", "attn_v"), [("q5_k", 40), ("q6_k", 40)].into());
        assert_eq!(count("llama-70b", "q4_k_m", ""), [("q4_k", 441), ("q5_k", 40), ("q6_k", 81)].into());
        assert_eq!(count("llama-70b", "q3_k_m", "attn_v"), [("q5_k", 80)].into());
        assert_eq!(count("llama-70b", "q3_k_m", "ffn_down"), [("q4_k", 75), ("q5_k", 5)].into());
        assert_eq!(count("llama-1b", "q4_0", ""), [("q4_0", 112), ("q6_k", 1)].into());
        assert_eq!(count("qwen3-32b", "iq4_xs", "attn_v"), [("q5_k", 64)].into());
        assert_eq!(count("qwen3-1.7b", "iq4_xs", "attn_v"), [("iq4_xs", 28)].into());
        assert_eq!(count("qwen3-32b", "q8_0", ""), [("q8_0", 450)].into());
        // Rows of 2880 weights are no whole blocks of 256.
        assert_eq!(count("gpt-oss-20b", "q4_k_s", "attn_q"), [("q5_0", 24)].into());
    }
}
