//! Vocabularies that a file may hold, and text.
#![no_main]

use arbitrary::Arbitrary;
use ir::gguf::{Array, Metadata, Value};
use libfuzzer_sys::fuzz_target;
use runtime::text::TextStream;
use runtime::tokenizer::Tokenizer;

/// What stands in a file, mostly of a form that is accepted.
#[derive(Debug, Arbitrary)]
struct Input<'a> {
    model: u8,
    pre: u8,
    /// Whether the vocabulary begins with the byte-level alphabet and the byte tokens.
    bytes: bool,
    tokens: Vec<Text<'a>>,
    types: Option<Vec<u8>>,
    scores: Option<Vec<f32>>,
    merges: Option<Vec<(Part, Part)>>,
    ids: [Option<u16>; 4],
    flags: [Option<bool>; 2],
    special: bool,
    stops: Vec<&'a str>,
    text: &'a str,
}

/// The text of a token: its own, or two earlier ones joined, as merges need them.
#[derive(Debug, Arbitrary)]
enum Text<'a> {
    Own(&'a str),
    Bytes(&'a [u8]),
    Joined(u16, u16),
}

/// A token of a merge.
#[derive(Debug, Arbitrary)]
struct Part(u16);

const MODELS: &[&str] = &["gpt2", "llama", "bert", ""];
const PRES: &[&str] = &["default", "gpt-2", "llama-bpe", "qwen2", "tekken", "gpt-4o", "deepseek-llm", "no such kind"];

/// The characters that GPT-2 writes for bytes.
fn alphabet() -> impl Iterator<Item = Vec<u8>> {
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let plain = (0..=255).filter(printable).map(char::from);
    let moved = (0x100..).filter_map(char::from_u32).take(256 - plain.clone().count());
    plain.chain(moved).map(|c| c.to_string().into_bytes())
}

fn metadata(input: &Input<'_>) -> Metadata {
    let model = MODELS[usize::from(input.model) % MODELS.len()];
    let mut tokens: Vec<Vec<u8>> = Vec::new();
    if input.bytes && model == "gpt2" {
        tokens.extend(alphabet());
    } else if input.bytes {
        tokens.extend((0..=255u8).map(|b| format!("<0x{b:02X}>").into_bytes()));
    }
    let known = tokens.len();
    let token =
        |tokens: &[Vec<u8>], n: u16| tokens.get(usize::from(n) % tokens.len().max(1)).cloned().unwrap_or_default();
    for text in &input.tokens {
        let text = match text {
            Text::Own(s) => s.as_bytes().to_vec(),
            Text::Bytes(b) => b.to_vec(),
            Text::Joined(a, b) => [token(&tokens, *a), token(&tokens, *b)].concat(),
        };
        tokens.push(text);
    }
    let mut m = Metadata::new();
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            m.insert(format!("tokenizer.ggml.{key}"), value);
        }
    };
    set("model", Some(model.into()));
    set("pre", Some(PRES[usize::from(input.pre) % PRES.len()].into()));
    let bytes = if model == "gpt2" { 1 } else { 6 };
    let types = input.types.as_ref().map(|types| {
        let of_extra = (known..tokens.len()).map(|i| types.get(i - known).map_or(1, |t| i32::from(t % 8)));
        std::iter::repeat_n(bytes, known).chain(of_extra).collect()
    });
    set("token_type", types.map(|t| Value::Array(Array::I32(t))));
    set(
        "scores",
        input.scores.as_ref().map(|s| {
            let scores = (0..tokens.len()).map(|i| s.get(i).copied().unwrap_or(0.0)).collect();
            Value::Array(Array::F32(scores))
        }),
    );
    let merges = input.merges.as_ref().map(|merges| {
        let merge = |(a, b): &(Part, Part)| [token(&tokens, a.0), b" ".to_vec(), token(&tokens, b.0)].concat();
        merges.iter().map(merge).collect()
    });
    set("merges", merges.map(Value::Array));
    for (key, id) in ["bos", "eos", "eot", "unknown"].iter().zip(input.ids) {
        set(&format!("{key}_token_id"), id.map(|id| Value::U32(id.into())));
    }
    for (key, flag) in ["add_bos_token", "add_space_prefix"].iter().zip(input.flags) {
        set(key, flag.map(Value::Bool));
    }
    set("tokens", Some(Value::Array(tokens.iter().collect())));
    m
}

fuzz_target!(|input: Input<'_>| {
    let metadata = metadata(&input);
    let tokenizer = match Tokenizer::from_metadata(&metadata) {
        Ok(tokenizer) => tokenizer,
        Err(e) => return assert!(e.to_string().len() < 1000, "{e}"),
    };
    let ids = match tokenizer.encode(input.text, input.special) {
        Ok(ids) => ids,
        Err(e) => return assert!(e.to_string().len() < 1000, "{e}"),
    };
    assert!(ids.iter().all(|id| (*id as usize) < tokenizer.n_vocab()));
    tokenizer.encode_prompt(input.text, input.special).expect("what could be encoded");
    let guarded = tokenizer.guard(input.text, '\u{fdd0}');
    assert_eq!(guarded.replace('\u{fdd0}', ""), input.text.replace('\u{fdd0}', ""));
    let text = tokenizer.decode(&ids);
    let mut stream = TextStream::new(&input.stops);
    for id in &ids {
        stream.push(tokenizer.token_bytes(*id));
    }
    stream.finish();
    // Byte-level tokens, if they are all there and plain text, give back what they were made of.
    let plain = input.types.as_ref().is_none_or(|types| types.iter().all(|t| matches!(t % 8, 1 | 4)));
    if metadata.str("tokenizer.ggml.model").is_ok_and(|m| m == "gpt2") && input.bytes && plain {
        assert_eq!(text, input.text);
    }
});
