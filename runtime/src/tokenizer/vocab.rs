//! The tokenizer part of a GGUF header.

use crate::error::Result;
use ir::gguf::{Array, Metadata, Strings, Value};
use std::borrow::Cow;

/// The name of byte-level BPE.
pub(super) const BPE: &str = "gpt2";
/// The name of SentencePiece by pairs.
pub(super) const SPM: &str = "llama";
/// The name of BPE of characters, and of its pre-tokenizer.
pub(super) const GEMMA_4: &str = "gemma4";
/// What `general.name` has, in small letters, of models of whose special tokens [`Vocab::trims_after_special`] is true.
const TRIMMING_NAMES: &[&str] = &["phi-3", "phi3"];

/// What `tokenizer.ggml.*` says, as it stands in the file: [`Tokenizer::new`](super::Tokenizer::new) checks it.
#[derive(Debug, Clone, Default)]
pub struct Vocab<'a> {
    /// `tokenizer.ggml.model`: the algorithm, `gpt2` for byte-level BPE, `llama` for SentencePiece, `gemma4` for BPE of
    /// characters.
    pub model: Cow<'a, str>,
    /// `tokenizer.ggml.pre`: the pre-tokenizer.
    pub pre: Cow<'a, str>,
    /// `tokenizer.ggml.tokens`: token texts by id.
    pub tokens: Vec<Cow<'a, str>>,
    /// `tokenizer.ggml.token_type`: one for each token, or empty: all normal. See [`TokenType`].
    pub token_types: Vec<i32>,
    /// `tokenizer.ggml.merges`: pairs of token texts, separated by a space, by rank.
    pub merges: Vec<Cow<'a, str>>,
    /// `tokenizer.ggml.scores`: for SentencePiece one for each token, or empty: all equal.
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`.
    pub eot: Option<u32>,
    /// `tokenizer.ggml.eom_token_id`: ends a message that is not the last of its turn.
    pub eom: Option<u32>,
    /// `tokenizer.ggml.fim_pad_token_id`: fills up a text with a gap to fill in.
    pub fim_pad: Option<u32>,
    /// `tokenizer.ggml.fim_rep_token_id`: begins a repository.
    pub fim_rep: Option<u32>,
    /// `tokenizer.ggml.fim_sep_token_id`: begins another file.
    pub fim_sep: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unk: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub pad: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`: for SentencePiece, whether text begins with a space that is not written.
    pub add_space_prefix: Option<bool>,
    /// Whether whitespace after a special token is left out; no key says so, but the name of the model.
    pub trims_after_special: bool,
    /// Tokens whose text is not UTF-8, by id, with its bytes; in `tokens` they have no text.
    pub binary: Vec<(u32, &'a [u8])>,
    /// What is wrong and does not keep the vocabulary from being used, a sentence each.
    pub blemishes: Vec<String>,
}

impl<'a> Vocab<'a> {
    /// Takes the keys from a header. Texts that are not UTF-8 and ids that are no numbers of tokens become blemishes.
    ///
    /// # Errors
    /// [`Error::Ir`](crate::Error::Ir) for a key that is missing or of another type.
    pub fn from_gguf(metadata: &'a Metadata) -> Result<Self> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        const MERGES: &str = "tokenizer.ggml.merges";
        const SCORES: &str = "tokenizer.ggml.scores";
        let mut blemishes = Vec::new();
        let mut texts = |key: &str, strings: &'a Strings| {
            let (mut bad, mut binary) = (Tally::default(), Vec::new());
            let mut text = |(i, bytes): (u32, &'a [u8])| match std::str::from_utf8(bytes) {
                Ok(text) => Cow::Borrowed(text),
                Err(_) => {
                    bad.add(|| format!("{key}[{i}] is not UTF-8"));
                    binary.push((i, bytes));
                    Cow::Borrowed("")
                }
            };
            let texts: Vec<Cow<'a, str>> = (0..).zip(strings.iter()).map(&mut text).collect();
            blemishes.extend(bad.tell("no text is taken for it"));
            (texts, binary)
        };
        let model = metadata.str("tokenizer.ggml.model")?;
        let merges = match model {
            BPE | GEMMA_4 => Some(metadata.strings(MERGES)?),
            _ => metadata.opt_strings(MERGES)?,
        };
        let scores = match model {
            SPM => match metadata.get(SCORES) {
                Some(Value::Array(Array::I32(scores))) => scores.iter().map(|s| *s as f32).collect(),
                _ => metadata.opt_f32s(SCORES)?.unwrap_or_default(),
            },
            _ => Vec::new(),
        };
        let name = metadata.opt_str("general.name").ok().flatten().unwrap_or_default().to_lowercase();
        let (tokens, binary) = texts(TOKENS, metadata.strings(TOKENS)?);
        let merges = merges.map(|merges| texts(MERGES, merges).0).unwrap_or_default();
        let mut id = |name: &str| {
            metadata.opt_u32(&format!("tokenizer.ggml.{name}_token_id")).unwrap_or_else(|e| {
                blemishes.push(format!("{e}; it is not used"));
                None
            })
        };
        Ok(Vocab {
            model: model.into(),
            pre: metadata.opt_str("tokenizer.ggml.pre")?.unwrap_or("default").into(),
            tokens,
            token_types: metadata.opt_i32s("tokenizer.ggml.token_type")?.unwrap_or_default(),
            merges,
            scores,
            bos: id("bos"),
            eos: id("eos"),
            eot: id("eot"),
            eom: id("eom"),
            fim_pad: id("fim_pad"),
            fim_rep: id("fim_rep"),
            fim_sep: id("fim_sep"),
            unk: id("unknown"),
            pad: id("padding"),
            add_bos: metadata.opt_bool("tokenizer.ggml.add_bos_token")?,
            add_space_prefix: metadata.opt_bool("tokenizer.ggml.add_space_prefix")?,
            trims_after_special: TRIMMING_NAMES.iter().any(|part| name.contains(part)),
            binary,
            blemishes,
        })
    }
}

/// Faults of one kind: the first, and how many more there are.
#[derive(Debug, Default)]
pub(super) struct Tally {
    first: Option<String>,
    more: usize,
}

impl Tally {
    pub(super) fn add(&mut self, what: impl FnOnce() -> String) {
        match self.first {
            None => self.first = Some(what()),
            Some(_) => self.more += 1,
        }
    }

    /// A sentence with what follows from the faults; `None` if there were none.
    pub(super) fn tell(self, consequence: &str) -> Option<String> {
        let more = if self.more > 0 { format!(", and {} more are like it", self.more) } else { String::new() };
        self.first.map(|first| format!("{first}{more}; {consequence}"))
    }
}

/// `text` for a message: escaped, and cut if it is long.
pub(super) fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(40).flat_map(char::escape_debug).collect();
    if text.chars().nth(40).is_some() {
        short.push('…');
    }
    format!("`{short}`")
}

/// What a token is for: `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenType {
    /// A piece of text (1).
    Normal,
    /// Stands for text that no token covers (2).
    Unknown,
    /// Structure, such as the end of a turn; without text of its own (3).
    Control,
    /// Text that is always this token, whatever the merges say (4).
    UserDefined,
    /// Padding of the vocabulary (5).
    Unused,
    /// One byte, written `<0xAB>` (6).
    Byte,
}

impl TokenType {
    /// The type that GGUF numbers `n`; `None` out of 1 to 6.
    pub fn from_gguf(n: i32) -> Option<Self> {
        Some(match n {
            1 => TokenType::Normal,
            2 => TokenType::Unknown,
            3 => TokenType::Control,
            4 => TokenType::UserDefined,
            5 => TokenType::Unused,
            6 => TokenType::Byte,
            _ => return None,
        })
    }
}
