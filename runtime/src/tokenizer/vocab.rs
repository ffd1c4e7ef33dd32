//! The tokenizer part of a GGUF header.

use crate::error::{Error, Result};
use ir::gguf::{Array, Metadata, Strings, Value};
use std::borrow::Cow;

/// The name of byte-level BPE.
pub(super) const BPE: &str = "gpt2";
/// The name of SentencePiece by pairs.
pub(super) const SPM: &str = "llama";

/// What `tokenizer.ggml.*` says, as it stands in the file: [`Tokenizer::new`](super::Tokenizer::new) checks it.
#[derive(Debug, Clone, Default)]
pub struct Vocab<'a> {
    /// `tokenizer.ggml.model`: the algorithm, `gpt2` for byte-level BPE, `llama` for SentencePiece.
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
    /// `tokenizer.ggml.unknown_token_id`.
    pub unk: Option<u32>,
    /// `tokenizer.ggml.padding_token_id`.
    pub pad: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`: for SentencePiece, whether text begins with a space that is not written.
    pub add_space_prefix: Option<bool>,
}

impl<'a> Vocab<'a> {
    /// Takes the keys from a header.
    ///
    /// # Errors
    /// [`Error::Ir`] for a key that is missing or of another type, [`Error::Input`] for a text that is not UTF-8.
    pub fn from_gguf(metadata: &'a Metadata) -> Result<Self> {
        let texts = |key: &str, strings: &'a Strings| {
            let text = |(i, s): (usize, &'a [u8])| match std::str::from_utf8(s) {
                Ok(text) => Ok(Cow::Borrowed(text)),
                Err(_) => Err(Error::input(format!("{key}[{i}] is not UTF-8"))),
            };
            strings.iter().enumerate().map(text).collect::<Result<Vec<_>>>()
        };
        let model = metadata.str("tokenizer.ggml.model")?;
        const MERGES: &str = "tokenizer.ggml.merges";
        let merges = match model {
            BPE => Some(metadata.strings(MERGES)?),
            _ => metadata.opt_strings(MERGES)?,
        };
        const SCORES: &str = "tokenizer.ggml.scores";
        let scores = match model {
            SPM => match metadata.get(SCORES) {
                Some(Value::Array(Array::I32(scores))) => scores.iter().map(|s| *s as f32).collect(),
                _ => metadata.opt_f32s(SCORES)?.unwrap_or_default(),
            },
            _ => Vec::new(),
        };
        const TOKENS: &str = "tokenizer.ggml.tokens";
        Ok(Vocab {
            model: model.into(),
            pre: metadata.opt_str("tokenizer.ggml.pre")?.unwrap_or("default").into(),
            tokens: texts(TOKENS, metadata.strings(TOKENS)?)?,
            token_types: metadata.opt_i32s("tokenizer.ggml.token_type")?.unwrap_or_default(),
            merges: merges.map(|merges| texts(MERGES, merges)).transpose()?.unwrap_or_default(),
            scores,
            bos: metadata.opt_u32("tokenizer.ggml.bos_token_id")?,
            eos: metadata.opt_u32("tokenizer.ggml.eos_token_id")?,
            eot: metadata.opt_u32("tokenizer.ggml.eot_token_id")?,
            unk: metadata.opt_u32("tokenizer.ggml.unknown_token_id")?,
            pad: metadata.opt_u32("tokenizer.ggml.padding_token_id")?,
            add_bos: metadata.opt_bool("tokenizer.ggml.add_bos_token")?,
            add_eos: metadata.opt_bool("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: metadata.opt_bool("tokenizer.ggml.add_space_prefix")?,
        })
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
    /// The type that GGUF numbers `n`.
    ///
    /// # Errors
    /// [`Error::Input`] for a number out of 1 to 6.
    pub fn from_gguf(n: i32) -> Result<Self> {
        Ok(match n {
            1 => TokenType::Normal,
            2 => TokenType::Unknown,
            3 => TokenType::Control,
            4 => TokenType::UserDefined,
            5 => TokenType::Unused,
            6 => TokenType::Byte,
            _ => return Err(Error::input(format!("tokenizer.ggml.token_type holds {n}, which is not 1 to 6"))),
        })
    }
}
