//! Text to token ids and back.
//!
//! [`Vocab`] is what the GGUF says; [`Tokenizer`] is built from it once and then only read. Text that spells special
//! tokens is cut out first (`mod`). The rest is split into words (`pre`) in which bytes merge (`bpe`), or its characters
//! merge by the scores of tokens (`spm`); both by the engine of `merge`. The ids are those of llama.cpp. Encoding takes
//! time linear in the text, times a logarithm inside one word.

mod bpe;
mod merge;
mod pre;
mod spm;
#[cfg(test)]
mod tests;
mod vocab;

pub use vocab::{TokenType, Vocab};

use crate::error::{Error, Result};
use aho_corasick::{AhoCorasick, MatchKind};
use ir::gguf::{Metadata, Strings};
use std::borrow::Cow;
use vocab::quoted;

/// Texts that end a generation where they are special tokens, besides the file's own EOS and EOT.
const END_TEXTS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<turn|>",
    "<eos>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "[e~[",
    "<end_of_utterance>",
    "<|flush|>",
    "<|calls|>",
    "<|tool_response>",
    "</s>",
    "<｜end▁of▁sentence｜>",
];

/// A vocabulary and the rules of its use.
#[derive(Debug)]
pub struct Tokenizer {
    model: Model,
    /// Cuts out user-defined tokens, and with `special` control tokens too.
    plain: Special,
    special: Special,
    /// The tokens as the vocabulary spells them.
    texts: Strings,
    types: Vec<TokenType>,
    /// The bytes that each token stands for in text.
    bytes: Strings,
    bos: Option<u32>,
    eos: Option<u32>,
    unk: Option<u32>,
    pad: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    /// Sorted.
    ends: Vec<u32>,
}

/// How text between special tokens becomes tokens.
#[derive(Debug)]
enum Model {
    Bpe { bpe: bpe::Bpe, splitter: pre::Splitter },
    Spm { spm: spm::Spm, space_prefix: bool },
}

impl Tokenizer {
    /// Checks `vocab` and builds its tables.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model or pre-tokenizer that is not built, [`Error::Input`] naming the key for a
    /// vocabulary that contradicts itself.
    pub fn new(vocab: Vocab<'_>) -> Result<Self> {
        let Vocab { model, pre, tokens: texts, token_types, merges, scores, bos, eos, eot, .. } = vocab;
        let Vocab { unk, pad, add_bos, add_eos, add_space_prefix, .. } = vocab;
        // `None` is SentencePiece.
        let kind = match &*model {
            vocab::BPE => Some(pre::kind(&pre)?),
            vocab::SPM => None,
            _ => {
                return Err(Error::unsupported(
                    format!("the tokenizer model {} (tokenizer.ggml.model)", quoted(&model)),
                    format!("byte-level BPE, `{}`, and SentencePiece, `{}`, are", vocab::BPE, vocab::SPM),
                ));
            }
        };
        let default = |id: u32| Some(id).filter(|id| kind.is_none() && (*id as usize) < texts.len());
        let (bos, eos, unk) = (bos.or(default(1)), eos.or(default(2)), unk.or(default(0)));
        if texts.is_empty() || u32::try_from(texts.len()).is_err() {
            return Err(Error::input(format!("tokenizer.ggml.tokens holds {} tokens", texts.len())));
        }
        let types = if token_types.is_empty() {
            vec![TokenType::Normal; texts.len()]
        } else if token_types.len() == texts.len() {
            token_types.into_iter().map(TokenType::from_gguf).collect::<Result<Vec<_>>>()?
        } else {
            return Err(Error::input(format!(
                "tokenizer.ggml.token_type has {} entries for the {} of tokenizer.ggml.tokens",
                token_types.len(),
                texts.len()
            )));
        };
        for (key, id) in [("bos", bos), ("eos", eos), ("eot", eot), ("unknown", unk), ("padding", pad)] {
            if let Some(id) = id.filter(|id| *id as usize >= texts.len()) {
                return Err(Error::input(format!(
                    "tokenizer.ggml.{key}_token_id is {id}, but tokenizer.ggml.tokens has {} tokens",
                    texts.len()
                )));
            }
        }
        for (key, add, id) in [("bos", add_bos, bos), ("eos", add_eos, eos)] {
            if add == Some(true) && id.is_none() {
                return Err(Error::input(format!(
                    "tokenizer.ggml.add_{key}_token is set, but there is no tokenizer.ggml.{key}_token_id"
                )));
            }
        }
        let mut ends: Vec<u32> = [eos, eot].into_iter().flatten().collect();
        let is_special = |t| matches!(t, TokenType::Control | TokenType::UserDefined | TokenType::Unknown);
        ends.extend(
            (0..)
                .zip(texts.iter().zip(&types))
                .filter_map(|(id, (text, kind))| (is_special(*kind) && END_TEXTS.contains(&&**text)).then_some(id)),
        );
        ends.sort_unstable();
        ends.dedup();
        let spell = if kind.is_some() { byte_level_bytes } else { spm_bytes };
        let bytes = texts.iter().zip(&types).map(|(text, kind)| text_bytes(text, *kind, spell)).collect();
        let model = match kind {
            Some(kind) => Model::Bpe {
                bpe: bpe::Bpe::new(&texts, &merges, kind.ignore_merges)?,
                splitter: pre::Splitter::new(kind)?,
            },
            None => {
                let scores = if scores.is_empty() { vec![0.0; texts.len()] } else { scores };
                Model::Spm { spm: spm::Spm::new(&texts, &scores)?, space_prefix: add_space_prefix.unwrap_or(true) }
            }
        };
        Ok(Tokenizer {
            model,
            plain: Special::new(&texts, &types, |t| t == TokenType::UserDefined)?,
            special: Special::new(&texts, &types, is_special)?,
            texts: texts.iter().map(|t| t.as_bytes()).collect(),
            types,
            bytes,
            bos,
            eos,
            unk,
            pad,
            add_bos: add_bos.unwrap_or(kind.is_none_or(|k| k.add_bos) && bos.is_some()),
            add_eos: add_eos.unwrap_or(false),
            ends,
        })
    }

    /// The tokenizer that a header describes.
    ///
    /// # Errors
    /// Those of [`Vocab::from_gguf`] and [`Tokenizer::new`].
    pub fn from_metadata(metadata: &Metadata) -> Result<Self> {
        Self::new(Vocab::from_gguf(metadata)?)
    }

    /// The ids of `text`, without BOS and EOS.
    ///
    /// Text that spells a user-defined token is that token, and with `special` so is text that spells a control token;
    /// where several fit, the leftmost does, and of those the longest.
    pub fn encode(&self, text: &str, special: bool) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 4);
        let matcher = if special { &self.special } else { &self.plain };
        match &self.model {
            Model::Bpe { bpe, splitter } => {
                let mut scratch = merge::Scratch::default();
                matcher.cut(text, |part| match part {
                    Part::Text(t) => splitter.split(t, &mut |w| bpe.encode(w.as_bytes(), &mut scratch, &mut ids)),
                    Part::Token(id) => ids.push(id),
                });
            }
            Model::Spm { spm, space_prefix } => {
                let mut scratch = spm::SpmScratch::default();
                // Parts of text never follow each other, so each begins the text or follows a token.
                matcher.cut(text, |part| match part {
                    Part::Text(t) => spm.encode(t, *space_prefix, &mut scratch, &mut ids),
                    Part::Token(id) => ids.push(id),
                });
            }
        }
        ids
    }

    /// [`encode`](Self::encode) with BOS before and EOS after, each if the file asks for it, whatever `text` holds.
    pub fn encode_prompt(&self, text: &str, special: bool) -> Vec<u32> {
        let mut ids = Vec::new();
        ids.extend(self.bos.filter(|_| self.add_bos));
        ids.extend(self.encode(text, special));
        ids.extend(self.eos.filter(|_| self.add_eos));
        ids
    }

    /// The ids of a conversation that a chat template rendered: special tokens in it count, and BOS comes first if the file
    /// asks for it and the template has not written it.
    pub fn encode_rendered(&self, text: &str) -> Vec<u32> {
        let mut ids = self.encode(text, true);
        if let Some(bos) = self.bos.filter(|bos| self.add_bos && ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        ids
    }

    /// Text of generated tokens without the space that begins each text, where the vocabulary has one.
    pub fn without_prefix<'t>(&self, text: &'t str) -> &'t str {
        let prefixed = matches!(self.model, Model::Spm { space_prefix: true, .. });
        text.strip_prefix(' ').filter(|_| prefixed).unwrap_or(text)
    }

    /// The bytes that token `id` adds to the text: none for control, unknown and unused tokens and for an `id` out of
    /// the vocabulary. A character may be spread over several tokens: see [`TextStream`](crate::text::TextStream).
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize).unwrap_or_default()
    }

    /// The text of `ids`, of which [`encode`](Self::encode) makes them; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| self.token_bytes(*id)).copied().collect();
        self.without_prefix(&String::from_utf8_lossy(&bytes)).to_owned()
    }

    /// Token `id` as the vocabulary spells it: byte-level characters, or the name of a control token.
    pub fn token_text(&self, id: u32) -> Option<&str> {
        self.texts.get(id as usize).and_then(|t| std::str::from_utf8(t).ok())
    }

    /// What token `id` is for.
    pub fn token_type(&self, id: u32) -> Option<TokenType> {
        self.types.get(id as usize).copied()
    }

    /// Number of tokens.
    pub fn n_vocab(&self) -> usize {
        self.texts.len()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Whether [`encode_prompt`](Self::encode_prompt) begins with [`bos`](Self::bos).
    pub fn adds_bos(&self) -> bool {
        self.add_bos && self.bos.is_some()
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The token for text that no other covers.
    pub fn unk(&self) -> Option<u32> {
        self.unk
    }

    /// The token that pads a text.
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// Whether a prompt begins with BOS.
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether generation ends at `id`: EOS, EOT, or a special token whose text is known to end a turn.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.binary_search(&id).is_ok()
    }

    /// The tokens of [`is_end`](Self::is_end), ascending.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }
}

/// The bytes that a token adds to text; `spell` says what a normal token's text stands for.
fn text_bytes(text: &str, kind: TokenType, spell: fn(&str) -> Vec<u8>) -> Vec<u8> {
    match kind {
        TokenType::Control | TokenType::Unknown | TokenType::Unused => Vec::new(),
        TokenType::UserDefined => text.as_bytes().into(),
        TokenType::Byte => {
            let digits = text.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
            digits.and_then(|d| u8::from_str_radix(d, 16).ok()).into_iter().collect()
        }
        TokenType::Normal => spell(text),
    }
}

fn byte_level_bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for c in text.chars() {
        match bpe::byte_of(c) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

fn spm_bytes(text: &str) -> Vec<u8> {
    text.replace(spm::SPACE, " ").into_bytes()
}

/// Finds the texts of a set of tokens.
#[derive(Debug)]
struct Special {
    /// `None`: the set is empty.
    matcher: Option<AhoCorasick>,
    /// Token of each pattern.
    ids: Vec<u32>,
}

/// What [`Special::cut`] yields.
enum Part<'t> {
    Text(&'t str),
    Token(u32),
}

impl Special {
    /// Of the tokens whose type `wanted` accepts.
    fn new(texts: &[Cow<'_, str>], types: &[TokenType], wanted: impl Fn(TokenType) -> bool) -> Result<Self> {
        let set = (0u32..).zip(texts.iter().zip(types)).filter(|(_, (text, t))| wanted(**t) && !text.is_empty());
        let (ids, patterns): (Vec<u32>, Vec<&str>) = set.map(|(id, (text, _))| (id, &**text)).unzip();
        let build = || AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&patterns);
        let matcher = (!ids.is_empty()).then(build).transpose();
        let matcher = matcher.map_err(|e| Error::input(format!("tokenizer.ggml.tokens: special tokens: {e}")))?;
        Ok(Special { matcher, ids })
    }

    /// Calls `part` with the parts of `text` in order; no text is empty.
    fn cut<'t>(&self, text: &'t str, mut part: impl FnMut(Part<'t>)) {
        let mut at = 0;
        for found in self.matcher.iter().flat_map(|m| m.find_iter(text)) {
            if found.start() > at {
                part(Part::Text(&text[at..found.start()]));
            }
            part(Part::Token(self.ids[found.pattern().as_usize()]));
            at = found.end();
        }
        if at < text.len() {
            part(Part::Text(&text[at..]));
        }
    }
}
