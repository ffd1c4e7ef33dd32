//! Text to token ids and back.
//!
//! [`Vocab`] is what the GGUF says; [`Tokenizer`] is built from it once and then only read. Text that spells special
//! tokens is cut out first (`special`). The rest is split into words (`pre`) in which bytes merge (`bpe`) or characters do
//! (`spm`), or its characters merge without words; all by the engine of `merge`. The ids are those of llama.cpp. Encoding takes
//! time linear in the text, times a logarithm inside one word.

mod bpe;
mod merge;
mod pre;
mod special;
mod spm;
#[cfg(test)]
mod tests;
mod vocab;

pub use vocab::{TokenType, Vocab};

use crate::error::{Error, Result};
use ir::gguf::{Metadata, Strings};
use pre::{Bos, Spelling, Whole};
use special::{Part, Special};
use std::borrow::Cow;
use std::collections::BTreeMap;
use vocab::{Tally, quoted};

/// Texts of tokens that end a generation: of a turn, a message or a text, and what follows a text that fills a gap. They
/// are control tokens, whatever the vocabulary says of them.
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
    "<｜end▁of▁sentence｜>",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Ends a text and is a control token, unless it is a normal one: in HTML it is the end of struck text.
const END_OF_S: &str = "</s>";

/// Texts of tokens around a gap to fill in, which are control tokens, whatever the vocabulary says of them.
const GAP_TEXTS: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
];

/// Ends that only separate the parts of a turn where the vocabulary has all the other tokens.
const SEPARATORS: &[(&str, &[&str])] = &[
    ("<|end|>", &["<|return|>", "<|call|>"]),
    ("<|end|>", &["<|calls|>", "<|flush|>"]),
    (END_OF_S, &["<|tool_response>"]),
];

/// Control tokens by the vocabulary that name the parts of an answer, and are text in it.
const PART_TEXTS: &[&str] = &["<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"];

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
    /// Sorted.
    ends: Vec<u32>,
    /// Bytes of the longest text of a token.
    longest: usize,
    blemishes: Vec<String>,
}

/// How text between special tokens becomes tokens.
#[derive(Debug)]
enum Model {
    Bpe {
        bpe: bpe::Bpe,
        splitter: pre::Splitter,
    },
    /// Characters merge in words; a word of newlines only is the token of as many, where `newlines` has one.
    Words {
        spm: spm::Spm,
        splitter: pre::Splitter,
        newlines: BTreeMap<usize, u32>,
    },
    Spm {
        spm: spm::Spm,
        space_prefix: bool,
    },
}

impl Model {
    /// Adds the tokens of a part of a text that begins it or follows a token.
    fn encode(&self, text: &str, scratch: &mut spm::SpmScratch, ids: &mut Vec<u32>) -> Result<()> {
        let mut done = Ok(());
        match self {
            Model::Bpe { bpe, splitter } => {
                splitter.split(text, &mut |word| bpe.encode(word.as_bytes(), &mut scratch.merge, ids));
            }
            Model::Words { spm, splitter, newlines } => {
                splitter.split(text, &mut |word| match newlines.get(&word.len()) {
                    Some(id) if word.starts_with('\n') => ids.push(*id),
                    _ if done.is_ok() => done = spm.encode(word, false, scratch, ids),
                    _ => {}
                });
            }
            Model::Spm { spm, space_prefix } => done = spm.encode(text, *space_prefix, scratch, ids),
        }
        done
    }
}

impl Tokenizer {
    /// Checks `vocab` and builds its tables. What is wrong and matters to few texts is left out, and told by
    /// [`blemishes`](Self::blemishes).
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model or pre-tokenizer that is not built, [`Error::Input`] naming the key for a
    /// vocabulary that no text can be read with, [`Error::Limit`] for special tokens that are too long.
    pub fn new(vocab: Vocab<'_>) -> Result<Self> {
        let Vocab { model, pre, tokens: texts, token_types, merges, scores, binary, mut blemishes, .. } = vocab;
        let Vocab { mut bos, mut eos, mut eot, mut eom, mut unk, mut pad, add_bos, add_space_prefix, .. } = vocab;
        let Vocab { mut fim_pad, mut fim_rep, mut fim_sep, trims_after_special, .. } = vocab;
        // `None` is SentencePiece.
        let kind = match &*model {
            vocab::BPE => Some(pre::kind(&pre)?),
            vocab::GEMMA_4 => Some(pre::kind(vocab::GEMMA_4)?),
            vocab::SPM => None,
            _ => {
                return Err(Error::unsupported(
                    format!("the tokenizer model {} (tokenizer.ggml.model)", quoted(&model)),
                    format!("supported are {}", [vocab::BPE, vocab::SPM, vocab::GEMMA_4].join(", ")),
                ));
            }
        };
        if texts.is_empty() || u32::try_from(texts.len()).is_err() {
            return Err(Error::input(format!("tokenizer.ggml.tokens holds {} tokens", texts.len())));
        }
        for (key, id) in [
            ("bos", &mut bos),
            ("eos", &mut eos),
            ("eot", &mut eot),
            ("eom", &mut eom),
            ("unknown", &mut unk),
            ("padding", &mut pad),
            ("fim_pad", &mut fim_pad),
            ("fim_rep", &mut fim_rep),
            ("fim_sep", &mut fim_sep),
        ] {
            if let Some(wrong) = id.filter(|id| *id as usize >= texts.len()) {
                let n = texts.len();
                blemishes.push(format!(
                    "tokenizer.ggml.{key}_token_id is {wrong}, but tokenizer.ggml.tokens has {n} tokens; it is not used"
                ));
                *id = None;
            }
        }
        let default = |id: u32| Some(id).filter(|id| kind.is_none() && (*id as usize) < texts.len());
        let (bos, eos, unk) = (bos.or(default(1)), eos.or(default(2)), unk.or(default(0)));
        if add_bos == Some(true) && bos.is_none() {
            blemishes.push(
                "tokenizer.ggml.add_bos_token is set, but there is no tokenizer.ggml.bos_token_id; no token is added"
                    .into(),
            );
        }
        let mut empty = Tally::default();
        let unread = |id: u32| binary.binary_search_by_key(&id, |(i, _)| *i).is_ok();
        for (id, _) in (0u32..).zip(&texts).filter(|(id, text)| text.is_empty() && !unread(*id)) {
            empty.add(|| format!("tokenizer.ggml.tokens[{id}] is empty"));
        }
        blemishes.extend(empty.tell("no text is taken for it"));
        let mut types = types(&texts, &token_types, &mut blemishes)?;
        let mut ends: Vec<u32> = Vec::new();
        for (id, (text, kind)) in (0u32..).zip(texts.iter().zip(&mut types)) {
            let text = &**text;
            let ends_here = END_TEXTS.contains(&text) || text == END_OF_S && *kind != TokenType::Normal;
            if ends_here {
                ends.push(id);
            }
            if ends_here || GAP_TEXTS.contains(&text) {
                *kind = TokenType::Control;
            }
            if PART_TEXTS.contains(&text) {
                *kind = TokenType::UserDefined;
            }
        }
        let has = |text: &str| ends.iter().any(|id| texts[*id as usize] == text);
        let separators: Vec<&str> =
            SEPARATORS.iter().filter(|(_, others)| others.iter().all(|t| has(t))).map(|(text, _)| *text).collect();
        ends.retain(|id| {
            let text = &*texts[*id as usize];
            let separates = separators.contains(&text);
            if separates {
                types[*id as usize] = if text == END_OF_S { TokenType::Normal } else { TokenType::UserDefined };
            }
            !separates
        });
        ends.extend([eos, eot, eom, fim_pad, fim_rep, fim_sep].into_iter().flatten());
        ends.sort_unstable();
        ends.dedup();

        let spell = if kind.is_some_and(|k| k.spelling == Spelling::Bytes) { byte_level_bytes } else { spm_bytes };
        let mut bytes: Vec<Cow<'_, [u8]>> =
            texts.iter().zip(&types).map(|(text, kind)| text_bytes(text, *kind, spell).into()).collect();
        for (id, raw) in binary {
            if let Some(bytes) = bytes.get_mut(id as usize) {
                *bytes = raw.into();
            }
        }
        // Text becomes a token without text of its own only where that token is asked for by name.
        let silent = |kind: &TokenType| matches!(kind, TokenType::Control | TokenType::Unknown);
        let plain: Vec<Cow<'_, str>> = texts
            .iter()
            .zip(&types)
            .map(|(text, kind)| Cow::Borrowed(if silent(kind) { "" } else { &**text }))
            .collect();
        let model = match kind {
            Some(kind) if kind.spelling == Spelling::Bytes => Model::Bpe {
                bpe: bpe::Bpe::new(&plain, &merges, kind.whole == Whole::All, &mut blemishes)?,
                splitter: pre::Splitter::new(kind)?,
            },
            Some(kind) => {
                let newlines = |text: &str| kind.whole == Whole::Newlines && text.bytes().all(|byte| byte == b'\n');
                let newlines = (0..).zip(&plain).filter(|(_, text)| !text.is_empty() && newlines(text));
                Model::Words {
                    spm: spm::Spm::by_merges(&plain, &merges, &mut blemishes),
                    splitter: pre::Splitter::new(kind)?,
                    newlines: newlines.map(|(id, text)| (text.len(), id)).collect(),
                }
            }
            None => {
                let scores = checked_scores(scores, texts.len(), &mut blemishes)?;
                let spm = spm::Spm::by_scores(&plain, &scores, &mut blemishes);
                Model::Spm { spm, space_prefix: add_space_prefix.unwrap_or(true) }
            }
        };
        let adds_bos = match kind.map_or(Bos::Default, |k| k.bos) {
            Bos::Asked => add_bos == Some(true),
            Bos::Default => add_bos != Some(false),
            Bos::Always => true,
        };
        let is_special = |t| matches!(t, TokenType::Control | TokenType::UserDefined | TokenType::Unknown);
        Ok(Tokenizer {
            model,
            plain: Special::new(&texts, &types, trims_after_special, |t| t == TokenType::UserDefined)?,
            special: Special::new(&texts, &types, trims_after_special, is_special)?,
            longest: texts.iter().map(|t| t.len()).max().unwrap_or(0),
            texts: texts.iter().map(|t| t.as_bytes()).collect(),
            types,
            bytes: bytes.into_iter().collect(),
            bos,
            eos,
            unk,
            pad,
            add_bos: adds_bos && bos.is_some(),
            ends,
            blemishes,
        })
    }

    /// The tokenizer that a header describes.
    ///
    /// # Errors
    /// Those of [`Vocab::from_gguf`] and [`Tokenizer::new`].
    pub fn from_metadata(metadata: &Metadata) -> Result<Self> {
        Self::new(Vocab::from_gguf(metadata)?)
    }

    /// The ids of `text`, without BOS.
    ///
    /// Text that spells a user-defined token is that token, and with `special` so is text that spells a control token;
    /// where several fit, the leftmost does, and of those the longest.
    ///
    /// # Errors
    /// [`Error::Input`] for text that the vocabulary has no tokens for.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        self.encode_parts(if special { &self.special } else { &self.plain }, text, None)
    }

    fn encode_parts(&self, tokens: &Special, text: &str, mark: Option<char>) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 4);
        let mut scratch = spm::SpmScratch::default();
        tokens.cut(text, mark, |part| match part {
            Part::Text(text) => self.model.encode(&text, &mut scratch, &mut ids),
            Part::Token(id) => {
                ids.push(id);
                Ok(())
            }
        })?;
        Ok(ids)
    }

    /// [`encode`](Self::encode) with BOS before if the file asks for it, whatever `text` holds. A token that ends texts never
    /// stands after it: what is generated goes on from here.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_prompt(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let mut ids = self.encode(text, special)?;
        if let Some(bos) = self.bos.filter(|_| self.add_bos) {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// `text` so that, with `mark` in it, [`encode_rendered`](Self::encode_rendered) makes no control token of what it
    /// spells. `mark` must occur in no text of the conversation.
    pub fn guard(&self, text: &str, mark: char) -> String {
        self.special.guard(text, mark)
    }

    /// The ids of a conversation that a chat template rendered: special tokens in it count but where
    /// [`guard`](Self::guard) has put `mark`, and BOS comes first if the file asks for it and the template has not
    /// written it.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_rendered(&self, text: &str, mark: char) -> Result<Vec<u32>> {
        let mut ids = self.encode_parts(&self.special, text, Some(mark))?;
        if let Some(bos) = self.bos.filter(|bos| self.add_bos && ids.first() != Some(bos)) {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// The fewest tokens that a text of so many bytes becomes.
    pub fn fewest(&self, bytes: usize) -> usize {
        bytes.div_ceil(self.longest.max(1))
    }

    /// What is wrong with the vocabulary but keeps few texts from being used, a sentence each.
    pub fn blemishes(&self) -> &[String] {
        &self.blemishes
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
        self.add_bos
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

    /// Whether generation ends at `id`: a key of the file says so, or its text is known to end a turn or a text.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.binary_search(&id).is_ok()
    }

    /// The tokens of [`is_end`](Self::is_end), ascending.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }
}

/// The type of each token: normal where the file has none.
fn types(texts: &[Cow<'_, str>], types: &[i32], blemishes: &mut Vec<String>) -> Result<Vec<TokenType>> {
    const KEY: &str = "tokenizer.ggml.token_type";
    if types.is_empty() {
        return Ok(vec![TokenType::Normal; texts.len()]);
    }
    check_length(KEY, types.len(), texts.len(), blemishes)?;
    let mut unknown = Tally::default();
    let types = (0..texts.len()).zip(types).map(|(id, &n)| {
        TokenType::from_gguf(n).unwrap_or_else(|| {
            unknown.add(|| format!("{KEY}[{id}] is {n}, which is not 1 to 6"));
            TokenType::Normal
        })
    });
    let types = types.collect();
    blemishes.extend(unknown.tell("it counts as normal"));
    Ok(types)
}

/// The score of each token: all equal where the file has none.
fn checked_scores(mut scores: Vec<f32>, tokens: usize, blemishes: &mut Vec<String>) -> Result<Vec<f32>> {
    const KEY: &str = "tokenizer.ggml.scores";
    if scores.is_empty() {
        blemishes.push(format!("{KEY} is missing; text may be cut into other tokens than the model was trained with"));
        return Ok(vec![0.0; tokens]);
    }
    check_length(KEY, scores.len(), tokens, blemishes)?;
    scores.truncate(tokens);
    Ok(scores)
}

/// There is an entry for each token; more do no harm.
fn check_length(key: &str, entries: usize, tokens: usize, blemishes: &mut Vec<String>) -> Result<()> {
    let what = format!("{key} has {entries} entries for the {tokens} of tokenizer.ggml.tokens");
    match entries.cmp(&tokens) {
        std::cmp::Ordering::Less => return Err(Error::input(what)),
        std::cmp::Ordering::Equal => {}
        std::cmp::Ordering::Greater => blemishes.push(format!("{what}; the last are not used")),
    }
    Ok(())
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
