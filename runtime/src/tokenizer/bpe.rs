//! Byte-level byte-pair encoding: a word's bytes become tokens, and the pair of lowest rank merges until none is left.

use super::merge::{Merges, NONE, Pair, Scratch, WORD_MAX, two_parts};
use super::vocab::{Tally, quoted};
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
    /// Number of tokens. Symbols from here on are what merges make or take and is no token.
    count: u32,
    /// The bytes of those symbols.
    others: Vec<Box<[u8]>>,
    /// Whether a word that is a token as a whole is that token.
    whole: bool,
}

impl Bpe {
    /// `texts` are the tokens by id, empty for those that text never becomes, and `merges` the pairs by rank, both in the
    /// byte-level alphabet. Of equal texts the last counts; what a merge names and is no token merges all the same, and
    /// is left as the tokens of its bytes.
    ///
    /// # Errors
    /// [`Error::Input`] if no byte has a token.
    pub(super) fn new(
        texts: &[Cow<'_, str>],
        merges: &[Cow<'_, str>],
        whole: bool,
        blemishes: &mut Vec<String>,
    ) -> Result<Self> {
        let mut tokens: HashMap<Box<[u8]>, u32> = HashMap::with_capacity(texts.len());
        let (mut buffer, mut twice) = (Vec::new(), Tally::default());
        for (id, text) in (0u32..).zip(texts) {
            buffer.clear();
            // Text outside the alphabet is never made of bytes: only special tokens have it.
            if text.is_empty() || !decode_text(text, &mut buffer) {
                continue;
            }
            if let Some(first) = tokens.insert(buffer.as_slice().into(), id) {
                let text = quoted(text);
                twice.add(|| format!("tokenizer.ggml.tokens holds {text} twice, as {first} and {id}"));
            }
        }
        blemishes.extend(twice.tell("text becomes the last"));
        let bytes = std::array::from_fn(|byte| tokens.get([byte as u8].as_slice()).copied().unwrap_or(NONE));
        if bytes.iter().all(|id| *id == NONE) {
            return Err(Error::input("tokenizer.ggml.tokens has no token for any byte"));
        }
        let longest = tokens.keys().map(|k| k.len()).max().unwrap_or(0);

        let count = texts.len() as u32;
        let (mut others, mut other_of) = (Vec::new(), HashMap::new());
        let mut symbol = |bytes: &[u8]| {
            tokens.get(bytes).or_else(|| other_of.get(bytes)).copied().unwrap_or_else(|| {
                let new = count + others.len() as u32;
                others.push(bytes.into());
                other_of.insert(Box::from(bytes), new);
                new
            })
        };
        let mut pairs = Vec::with_capacity(merges.len());
        let (mut unread, mut unknown) = (Tally::default(), Tally::default());
        for (rank, text) in (0u32..).zip(merges) {
            let what = || format!("tokenizer.ggml.merges[{rank}] is {}", quoted(text));
            let Some((left, right)) = two_parts(text) else {
                unread.add(|| format!("{}, which is not two tokens", what()));
                continue;
            };
            buffer.clear();
            let known = decode_text(left, &mut buffer);
            let middle = buffer.len();
            if !(known && decode_text(right, &mut buffer)) {
                unread.add(|| format!("{}, which is not spelled in bytes", what()));
                continue;
            }
            let [left, right, symbol] = [&buffer[..middle], &buffer[middle..], &buffer].map(&mut symbol);
            if left >= count || right >= count || symbol >= count {
                unknown.add(|| format!("{}, of which a part or the whole is no token", what()));
            }
            pairs.push(Pair { left, right, rank, symbol });
        }
        blemishes.extend(unread.tell("it merges nothing"));
        blemishes.extend(unknown.tell("text that it leaves becomes the tokens of its bytes"));
        let merges = Merges::new(texts.len() + others.len(), merges.len(), pairs);
        Ok(Bpe { bytes, tokens, longest, merges, count, others, whole })
    }

    /// Appends the tokens of `word` to `out`.
    pub(super) fn encode(&self, word: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        if self.whole
            && word.len() <= self.longest
            && let Some(token) = self.tokens.get(word)
        {
            return out.push(*token);
        }
        for part in word.chunks(WORD_MAX) {
            let symbols = part.iter().map(|byte| self.bytes[*byte as usize]);
            self.merges.run(symbols, scratch, |_, symbol| match symbol.checked_sub(self.count) {
                None => out.push(symbol),
                Some(other) => {
                    let bytes = self.others.get(other as usize).into_iter().flatten();
                    out.extend(bytes.map(|byte| self.bytes[*byte as usize]).filter(|token| *token != NONE));
                }
            });
        }
    }
}
