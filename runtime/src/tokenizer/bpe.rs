//! Byte-level byte-pair encoding: a word's bytes become tokens, and the pair of lowest rank merges until none is left.

use super::merge::{Merges, NONE, Pair, Scratch, WORD_MAX};
use super::vocab::quoted;
use crate::error::{Error, Result};
use std::borrow::Cow;
use std::collections::HashMap;

/// The byte that a character of the byte-level alphabet stands for.
///
/// Printable Latin-1 characters stand for themselves; the other 68 bytes, in order, are U+0100 and up.
pub(super) fn byte_of(c: char) -> Option<u8> {
    match c as u32 {
        c @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(c as u8),
        c @ 0x100..=0x120 => Some((c - 0x100) as u8),
        c @ 0x121..=0x142 => Some((c - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// Appends the bytes that `text` stands for; false, with a part of them appended, if it has a character outside the
/// byte-level alphabet.
pub(super) fn decode_text(text: &str, bytes: &mut Vec<u8>) -> bool {
    text.chars().all(|c| byte_of(c).map(|b| bytes.push(b)).is_some())
}

/// Tokens and merges.
#[derive(Debug)]
pub(super) struct Bpe {
    /// Token of each byte, or [`NONE`]: real vocabularies lack bytes that their training text did not have, and such a
    /// byte adds nothing.
    bytes: [u32; 256],
    /// Token of a word.
    tokens: HashMap<Box<[u8]>, u32>,
    /// Length of the longest key of `tokens`.
    longest: usize,
    merges: Merges,
    ignore_merges: bool,
}

impl Bpe {
    /// `texts` are the tokens by id and `merges` the pairs by rank, both in the byte-level alphabet.
    ///
    /// # Errors
    /// [`Error::Input`] if a text occurs twice, no byte has a token, or a merge is no pair of tokens
    /// whose concatenation is a token.
    pub(super) fn new(texts: &[Cow<'_, str>], merges: &[Cow<'_, str>], ignore_merges: bool) -> Result<Self> {
        let mut tokens: HashMap<Box<[u8]>, u32> = HashMap::with_capacity(texts.len());
        let mut buffer = Vec::new();
        for (id, text) in (0u32..).zip(texts) {
            buffer.clear();
            // Text outside the alphabet is never made of bytes: only special tokens have it.
            if text.is_empty() || !decode_text(text, &mut buffer) {
                continue;
            }
            if let Some(first) = tokens.insert(buffer.as_slice().into(), id) {
                return Err(Error::input(format!(
                    "tokenizer.ggml.tokens holds {} twice, as {first} and {id}",
                    quoted(text)
                )));
            }
        }
        let bytes = std::array::from_fn(|byte| tokens.get([byte as u8].as_slice()).copied().unwrap_or(NONE));
        if bytes.iter().all(|id| *id == NONE) {
            return Err(Error::input("tokenizer.ggml.tokens has no token for any byte"));
        }

        let mut pairs = Vec::with_capacity(merges.len());
        for (rank, text) in (0u32..).zip(merges) {
            let bad = |what: &str| Error::input(format!("tokenizer.ggml.merges[{rank}] is {}, {what}", quoted(text)));
            // The separator is never the first character, so that a token may start with a space.
            let space = text.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(i, _)| i);
            let (left, right) = text.split_at(space.ok_or_else(|| bad("which is not two tokens"))?);
            buffer.clear();
            let known = decode_text(left, &mut buffer);
            let middle = buffer.len();
            let known = known && decode_text(&right[1..], &mut buffer);
            let token = |bytes: &[u8]| tokens.get(bytes).copied().filter(|_| known);
            let pair = token(&buffer[..middle]).zip(token(&buffer[middle..]));
            let (left, right) = pair.ok_or_else(|| bad("of which a part is not in tokenizer.ggml.tokens"))?;
            let symbol = token(&buffer).ok_or_else(|| bad("which joined is not in tokenizer.ggml.tokens"))?;
            pairs.push(Pair { left, right, rank, symbol });
        }
        let longest = tokens.keys().map(|k| k.len()).max().unwrap_or(0);
        let merges = Merges::new(texts.len(), merges.len(), pairs);
        Ok(Bpe { bytes, tokens, longest, merges, ignore_merges })
    }

    /// Appends the tokens of `word` to `out`.
    pub(super) fn encode(&self, word: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        if self.ignore_merges
            && word.len() <= self.longest
            && let Some(token) = self.tokens.get(word)
        {
            return out.push(*token);
        }
        for part in word.chunks(WORD_MAX) {
            let symbols = part.iter().map(|byte| self.bytes[*byte as usize]);
            self.merges.run(symbols, scratch, |_, token| out.push(token));
        }
    }
}
