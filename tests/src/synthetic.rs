//! Models of random weights as GGUF files: any shape, any formats, no training. Weights are scaled so that activations
//! neither vanish nor explode.

use crate::model::Model;
use ir::gguf::{Array, Metadata, Strings, Value, Writer};
use ir::quant::{self, Format};
use ir::target::Target;
pub use runtime::random::{Rng, blocks};
use std::fs::File;
use std::path::Path;

/// What to make. Matrix formats whose rows would not be whole blocks become f32.
#[derive(Debug, Clone)]
pub struct Synthetic {
    /// `general.architecture`.
    pub architecture: &'static str,
    /// Number of layers.
    pub layers: usize,
    /// Model width.
    pub width: usize,
    /// Query heads.
    pub heads: usize,
    /// KV heads.
    pub kv_heads: usize,
    /// Elements of a head; written as `attention.key_length` where it is not width / heads.
    pub head: usize,
    /// Latent attention in the place of heads of their own.
    pub latent: Option<Latent>,
    /// Hidden width of the feed-forward network.
    pub ffn: usize,
    /// Experts in its place, if there are any.
    pub mixture: Option<Mixture>,
    /// Name of the norm before the feed-forward network.
    pub ffn_norm: &'static str,
    /// The window of positions of some layers, and logits without a value in attention.
    pub window_and_sinks: Option<usize>,
    /// Size of the vocabulary.
    pub vocab: usize,
    /// Context.
    pub context: usize,
    /// Rotated elements of a head, if not all.
    pub rope_dim: Option<usize>,
    /// Whether there is a tensor of rotary factors.
    pub rope_factors: bool,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the attention output has a bias.
    pub output_bias: bool,
    /// Whether heads of queries and keys are normalised.
    pub qk_norm: bool,
    /// Whether the output matrix is the embedding table.
    pub tied: bool,
    /// Formats by the last part of a tensor's name (`attn_v`, `token_embd`).
    pub formats: Vec<(&'static str, Format)>,
    /// Format of the other matrices.
    pub format: Format,
    /// Seed of the weights.
    pub seed: u64,
}

/// Experts of a layer.
#[derive(Debug, Clone, Copy)]
pub struct Mixture {
    /// How many.
    pub experts: usize,
    /// How many a token uses.
    pub used: usize,
    /// Hidden width of each.
    pub hidden: usize,
    /// Hidden width of the one that all tokens use; 0: there is none.
    pub shared: usize,
    /// Whether products have biases.
    pub biases: bool,
    /// Whether a bias chooses experts.
    pub chosen_by_bias: bool,
    /// Dense layers before.
    pub dense: usize,
}

/// Latent attention.
#[derive(Debug, Clone, Copy)]
pub struct Latent {
    /// Elements of the latent.
    pub rank: usize,
    /// Elements of the queries' own; 0: they are made of the input.
    pub query_rank: usize,
    /// Elements of a head of keys: those that are not rotated, and those that are.
    pub plain: usize,
    /// The latter.
    pub rotated: usize,
    /// Elements of a head of values.
    pub value: usize,
    /// Whether the matrices that make keys and values of the latent are cut by heads.
    pub by_heads: bool,
}

impl Default for Mixture {
    fn default() -> Self {
        Mixture { experts: 6, used: 2, hidden: 48, shared: 0, biases: false, chosen_by_bias: false, dense: 0 }
    }
}

impl Default for Synthetic {
    /// A small f32 llama.
    fn default() -> Self {
        Synthetic {
            architecture: "llama",
            layers: 2,
            width: 64,
            heads: 4,
            kv_heads: 2,
            head: 16,
            latent: None,
            ffn: 96,
            mixture: None,
            ffn_norm: "ffn_norm",
            window_and_sinks: None,
            vocab: 101,
            context: 64,
            rope_dim: None,
            rope_factors: false,
            qkv_bias: false,
            output_bias: false,
            qk_norm: false,
            tied: false,
            formats: Vec::new(),
            format: quant::F32,
            seed: 1,
        }
    }
}

/// A format by name.
///
/// # Panics
/// If there is none.
pub fn format(name: &str) -> Format {
    Format::by_name(name).unwrap_or_else(|| panic!("no format '{name}'"))
}

/// Small models that together cover Llama, Qwen 2, Qwen 3 and mixtures of experts, every format, mixed formats, biases, QK
/// norms, tied and untied outputs, partial rotation, rotary factors, the smallest and largest heads, groups and contexts, and
/// shapes that are no multiple of tiles and vectors. Of other architectures there are golden models.
pub fn zoo() -> Vec<(String, Synthetic)> {
    let base = Synthetic::default();
    let mut zoo = vec![
        ("llama-f32".to_string(), base.clone()),
        (
            "llama-f16-odd".into(),
            Synthetic {
                width: 160,
                heads: 2,
                kv_heads: 1,
                head: 80,
                ffn: 172,
                tied: true,
                rope_dim: Some(32),
                format: quant::F16,
                ..base.clone()
            },
        ),
        (
            "llama-q8_0-factors".into(),
            Synthetic {
                heads: 8,
                kv_heads: 1,
                head: 8,
                ffn: 416,
                rope_factors: true,
                output_bias: true,
                qkv_bias: true,
                format: quant::Q8_0,
                ..base.clone()
            },
        ),
        (
            "qwen2-mixed".into(),
            Synthetic {
                architecture: "qwen2",
                width: 224,
                heads: 7,
                kv_heads: 7,
                head: 32,
                ffn: 608,
                qkv_bias: true,
                tied: true,
                format: format("q4_0"),
                formats: vec![("attn_v", quant::F16), ("token_embd", quant::Q8_0), ("ffn_up", format("bf16"))],
                ..base.clone()
            },
        ),
        (
            "qwen3-k".into(),
            Synthetic {
                architecture: "qwen3",
                width: 256,
                heads: 4,
                kv_heads: 2,
                head: 80,
                ffn: 512,
                vocab: 300,
                qk_norm: true,
                tied: true,
                format: format("q4_k"),
                formats: vec![("attn_v", format("q6_k")), ("token_embd", format("q6_k")), ("attn_k", quant::F32)],
                ..base.clone()
            },
        ),
    ];
    // Rows whose tiles are cut into pieces on a CPU, and heads that begin within a group of tiles.
    let long_rows = Synthetic { width: 320, heads: 5, kv_heads: 1, head: 48, ffn: 344, vocab: 300, ..base.clone() };
    zoo.push(("llama-pieces".into(), Synthetic { tied: true, layers: 1, ..long_rows }));
    let experts = Mixture { experts: 9, used: 3, ..Mixture::default() };
    let mixed = Synthetic { layers: 1, mixture: Some(Mixture::default()), ..base.clone() };
    zoo.extend([
        ("mixtral-f16".to_string(), Synthetic { format: quant::F16, ..mixed.clone() }),
        (
            "qwen3moe-k".into(),
            Synthetic {
                architecture: "qwen3moe",
                width: 256,
                head: 64,
                mixture: Some(Mixture { hidden: 256, ..experts }),
                qk_norm: true,
                format: format("q4_k"),
                formats: vec![("ffn_down_exps", format("q6_k"))],
                ..mixed.clone()
            },
        ),
        (
            "gpt-oss-mxfp4".into(),
            Synthetic {
                architecture: "gpt-oss",
                layers: 2,
                width: 96,
                head: 24,
                mixture: Some(Mixture { biases: true, hidden: 64, ..experts }),
                ffn_norm: "post_attention_norm",
                window_and_sinks: Some(7),
                qkv_bias: true,
                output_bias: true,
                format: format("mxfp4"),
                formats: vec![("attn_q", quant::F16), ("attn_output", quant::F32), ("token_embd", quant::Q8_0)],
                ..mixed.clone()
            },
        ),
        (
            "glm4moe-q8_0".into(),
            Synthetic {
                architecture: "glm4moe",
                layers: 2,
                mixture: Some(Mixture { shared: 32, chosen_by_bias: true, dense: 1, hidden: 32, ..experts }),
                ffn_norm: "post_attention_norm",
                qkv_bias: true,
                rope_dim: Some(8),
                format: quant::Q8_0,
                ..mixed.clone()
            },
        ),
    ]);
    let latent = Latent { rank: 96, query_rank: 64, plain: 32, rotated: 8, value: 20, by_heads: true };
    let deepseek = Synthetic { architecture: "deepseek2", heads: 3, kv_heads: 1, latent: Some(latent), ..mixed };
    zoo.extend([
        ("deepseek2-q8_0".to_string(), Synthetic { format: quant::Q8_0, ..deepseek.clone() }),
        (
            "deepseek2-lite-whole".into(),
            Synthetic {
                kv_heads: 3,
                latent: Some(Latent { query_rank: 0, value: 24, by_heads: false, ..latent }),
                format: quant::F16,
                ..deepseek
            },
        ),
    ]);
    let wide_heads = Synthetic { heads: 16, kv_heads: 1, layers: 1, format: quant::F16, ..base.clone() };
    zoo.extend([
        ("llama-head-128".to_string(), Synthetic { head: 128, ffn: 1000, ..wide_heads.clone() }),
        ("llama-head-256".into(), Synthetic { head: 256, heads: 3, ffn: 172, context: 40, ..wide_heads.clone() }),
        ("llama-cuts".into(), Synthetic { width: 768, format: format("q8_0"), vocab: 40, ..wide_heads.clone() }),
        ("llama-context-1".into(), Synthetic { context: 1, head: 24, heads: 6, kv_heads: 3, ..wide_heads }),
    ]);
    for f in quant::ALL {
        let width = if f.block == 256 { 256 } else { 160 };
        let shape = Synthetic { width, heads: 5, kv_heads: 1, head: 32, ffn: width, layers: 1, ..base.clone() };
        zoo.push((format!("llama-all-{}", f.name), Synthetic { format: format(f.name), ..shape }));
    }
    zoo
}

/// The models of the zoo whose kernels are built for a target: mixtures of experts are for CPUs.
pub fn zoo_for(target: &Target) -> Vec<(String, Synthetic)> {
    zoo().into_iter().filter(|(_, shape)| target.gpu().is_none() || shape.mixture.is_none()).collect()
}

impl Synthetic {
    /// Whether `head` has to be written.
    fn explicit_head(&self) -> bool {
        self.head * self.heads != self.width
    }

    /// The file, parsed.
    pub fn model(&self) -> Model {
        Model::new(self.gguf())
    }

    /// The bytes of the file.
    pub fn gguf(&self) -> Vec<u8> {
        let writer = self.writer();
        let mut rng = Rng::new(self.seed);
        let data: Vec<Vec<u8>> = writer.tensors.iter().map(|t| tensor(&t.name, &t.shape, t.format, &mut rng)).collect();
        writer.to_vec(&data).expect("shapes fit their formats")
    }

    /// Writes a file whose weights are a hole, so that it may be larger than any disk.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn sparse(&self, path: &Path) -> std::io::Result<()> {
        let mut file = File::create(path)?;
        let bytes = self.writer().header_to(&mut file)?;
        file.set_len(bytes)
    }

    fn writer(&self) -> Writer {
        let mut writer = Writer::new(self.metadata());
        let (q, kv) = (self.heads * self.head, self.kv_heads * self.head);
        let mut add = |name: String, shape: &[usize]| {
            let kind = name.rsplit('.').nth(1).unwrap_or_default();
            let usual = if kind == "ffn_gate_inp" { quant::F32 } else { self.format };
            let chosen = self.formats.iter().find(|(k, _)| *k == kind).map_or(usual, |&(_, f)| f);
            let columns = shape[shape.len() - 1];
            let matrix = shape.len() >= 2 && name.ends_with("weight");
            let fits = matrix && columns.is_multiple_of(chosen.multiple as usize);
            writer.tensor(name, shape, if fits { chosen } else { quant::F32 });
        };
        add("token_embd.weight".into(), &[self.vocab, self.width]);
        if self.rope_factors {
            add("rope_freqs.weight".into(), &[self.rope_dim.unwrap_or(self.head) / 2]);
        }
        for layer in 0..self.layers {
            let mut add = |part: &str, shape: &[usize]| add(format!("blk.{layer}.{part}"), shape);
            add("attn_norm.weight", &[self.width]);
            if let Some(latent) = self.latent {
                self.latent(latent, &mut add);
            }
            let own = [("attn_q", q), ("attn_k", kv), ("attn_v", kv)];
            for (part, rows) in own.into_iter().filter(|_| self.latent.is_none()) {
                add(&format!("{part}.weight"), &[rows, self.width]);
                if self.qkv_bias {
                    add(&format!("{part}.bias"), &[rows]);
                }
                if self.qk_norm && part != "attn_v" {
                    add(&format!("{part}_norm.weight"), &[self.head]);
                }
            }
            let found = self.latent.map_or(q, |l| self.heads * l.value);
            add("attn_output.weight", &[self.width, found]);
            if self.output_bias {
                add("attn_output.bias", &[self.width]);
            }
            if self.window_and_sinks.is_some() {
                add("attn_sinks.weight", &[self.heads]);
            }
            add(&format!("{}.weight", self.ffn_norm), &[self.width]);
            match self.mixture.filter(|m| layer >= m.dense) {
                Some(mixture) => self.experts(mixture, &mut add),
                None => {
                    add("ffn_gate.weight", &[self.ffn, self.width]);
                    add("ffn_up.weight", &[self.ffn, self.width]);
                    add("ffn_down.weight", &[self.width, self.ffn]);
                }
            }
        }
        add("output_norm.weight".into(), &[self.width]);
        if !self.tied {
            add("output.weight".into(), &[self.vocab, self.width]);
        }
        writer
    }

    /// Adds the tensors of latent attention.
    fn latent(&self, l: Latent, add: &mut dyn FnMut(&str, &[usize])) {
        let rows = self.heads * (l.plain + l.rotated);
        if l.query_rank > 0 {
            add("attn_q_a.weight", &[l.query_rank, self.width]);
            add("attn_q_a_norm.weight", &[l.query_rank]);
            add("attn_q_b.weight", &[rows, l.query_rank]);
        } else {
            add("attn_q.weight", &[rows, self.width]);
        }
        add("attn_kv_a_mqa.weight", &[l.rank + l.rotated, self.width]);
        add("attn_kv_a_norm.weight", &[l.rank]);
        if l.by_heads {
            add("attn_k_b.weight", &[self.heads, l.rank, l.plain]);
            add("attn_v_b.weight", &[self.heads, l.value, l.rank]);
        } else {
            add("attn_kv_b.weight", &[self.heads * (l.plain + l.value), l.rank]);
        }
    }

    /// Adds the tensors of a mixture.
    fn experts(&self, m: Mixture, add: &mut dyn FnMut(&str, &[usize])) {
        let mut biased = |part: &str, shape: &[usize]| {
            add(&format!("{part}.weight"), shape);
            if m.biases {
                add(&format!("{part}.bias"), &shape[..shape.len() - 1]);
            }
        };
        biased("ffn_gate_inp", &[m.experts, self.width]);
        biased("ffn_gate_exps", &[m.experts, m.hidden, self.width]);
        biased("ffn_up_exps", &[m.experts, m.hidden, self.width]);
        biased("ffn_down_exps", &[m.experts, self.width, m.hidden]);
        if m.chosen_by_bias {
            add("exp_probs_b.bias", &[m.experts]);
        }
        if m.shared > 0 {
            add("ffn_gate_shexp.weight", &[m.shared, self.width]);
            add("ffn_up_shexp.weight", &[m.shared, self.width]);
            add("ffn_down_shexp.weight", &[self.width, m.shared]);
        }
    }

    fn metadata(&self) -> Metadata {
        let mut metadata = Metadata::new();
        metadata.insert("general.architecture", self.architecture);
        let mut count = |key: &str, n: usize| {
            metadata.insert(format!("{}.{key}", self.architecture), Value::U32(n as u32));
        };
        count("block_count", self.layers);
        count("context_length", self.context);
        count("embedding_length", self.width);
        let mixtral = self.architecture == "llama" && self.mixture.is_some();
        count("feed_forward_length", self.mixture.filter(|_| mixtral).map_or(self.ffn, |m| m.hidden));
        if let Some(m) = self.mixture {
            count("expert_count", m.experts);
            count("expert_used_count", m.used);
            count("expert_feed_forward_length", m.hidden);
            if m.shared > 0 {
                count("expert_shared_count", m.shared / m.hidden);
            }
            if m.dense > 0 {
                count("leading_dense_block_count", m.dense);
            }
        }
        if let Some(window) = self.window_and_sinks {
            count("attention.sliding_window", window);
        }
        count("attention.head_count", self.heads);
        count("attention.head_count_kv", self.kv_heads);
        if let Some(l) = self.latent {
            count("attention.kv_lora_rank", l.rank);
            count("attention.q_lora_rank", l.query_rank);
            count("rope.dimension_count", l.rotated);
            let ending = if l.by_heads { "_mla" } else { "" };
            count(&format!("attention.key_length{ending}"), l.plain + l.rotated);
            count(&format!("attention.value_length{ending}"), l.value);
        } else if self.explicit_head() {
            count("attention.key_length", self.head);
            count("attention.value_length", self.head);
        }
        if let Some(dim) = self.rope_dim {
            count("rope.dimension_count", dim);
        }
        let eps = format!("{}.attention.layer_norm_rms_epsilon", self.architecture);
        metadata.insert(eps, Value::F32(1e-5));
        metadata.insert(format!("{}.rope.freq_base", self.architecture), Value::F32(10000.0));
        self.tokenizer(&mut metadata);
        metadata
    }

    /// A byte-level vocabulary without merges: the bytes, as many as fit, then tokens that no text gives, eos last. To
    /// serve text it takes all 256 bytes.
    fn tokenizer(&self, metadata: &mut Metadata) {
        // GPT-2 writes printable bytes as themselves and the others as what follows U+0100.
        let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let plain = (0..=255).filter(printable).map(char::from);
        let moved = (0x100..).filter_map(char::from_u32).take(256 - plain.clone().count());
        let bytes = plain.chain(moved).map(String::from);
        let extra = (0..self.vocab).map(|i| format!("<|{i}|>"));
        let tokens: Vec<String> = bytes.chain(extra).take(self.vocab).collect();
        let types = tokens.iter().map(|t| if t.chars().count() == 1 { 1 } else { 3 }).collect();
        metadata.insert("tokenizer.ggml.model", "gpt2");
        metadata.insert("tokenizer.ggml.pre", "llama-bpe");
        metadata.insert("tokenizer.ggml.tokens", Value::Array(tokens.iter().collect()));
        metadata.insert("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
        metadata.insert("tokenizer.ggml.merges", Value::Array(Array::String(Strings::default())));
        metadata.insert("tokenizer.ggml.eos_token_id", Value::U32(self.vocab as u32 - 1));
        metadata.insert("tokenizer.ggml.add_bos_token", Value::Bool(false));
    }
}

/// Random data of a tensor: norms and rotary factors around 1, biases small, matrices of variance 1 / columns.
fn tensor(name: &str, shape: &[usize], format: Format, rng: &mut Rng) -> Vec<u8> {
    let n: usize = shape.iter().product();
    let centred = name.contains("norm") || name.contains("rope_freqs");
    match shape {
        [_] => (0..n).flat_map(|_| (rng.uniform() * 0.5 + if centred { 1.25 } else { 0.0 }).to_le_bytes()).collect(),
        [.., columns] => {
            let spread = if name.starts_with("token_embd") { 1.0 } else { 1.0 / (*columns as f32).sqrt() };
            blocks(format, n, spread, rng)
        }
        [] => Vec::new(),
    }
}
