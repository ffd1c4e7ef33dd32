//! SentencePiece by pairs: a text's characters become symbols, and of the neighbours whose concatenation is a token,
//! those of the highest score merge first. A character that stays without a token becomes its UTF-8 bytes.
//!
//! A space is spelled U+2581 in tokens. No word boundary stops a merge, but most pairs of characters occur next to each
//! other in no token, and there a text is cut: that changes no merge and keeps words short.

use super::merge::{Merges, Pair, Scratch, WORD_MAX};
use crate::error::{Error, Result};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

/// What a space is in the text of a token.
pub(super) const SPACE: char = '\u{2581}';

/// Most bytes of a token's text: what bounds the time to find its splits.
const TOKEN_MAX: usize = 1024;

/// Tokens and their scores.
#[derive(Debug)]
pub(super) struct Spm {
    /// Number of tokens. Symbols from here on are characters that occur in tokens and are none themselves.
    tokens: u32,
    chars: HashMap<char, u32>,
    merges: Merges,
    /// Characters that occur next to each other in a token.
    neighbours: HashSet<(char, char)>,
    /// Token of each byte.
    bytes: [u32; 256],
}

/// Working memory of [`Spm::encode`].
#[derive(Debug, Default)]
pub(super) struct SpmScratch {
    word: Vec<char>,
    merge: Scratch,
}

impl Spm {
    /// `texts` are the tokens by id. Of equal texts the last counts.
    ///
    /// # Errors
    /// [`Error::Input`] if there is not a score for each token, a score is no number, a text is
    /// too long, or a byte that UTF-8 uses has no
    /// token.
    pub(super) fn new(texts: &[Cow<'_, str>], scores: &[f32]) -> Result<Self> {
        if scores.len() != texts.len() {
            return Err(Error::input(format!(
                "tokenizer.ggml.scores has {} entries for the {} of tokenizer.ggml.tokens",
                scores.len(),
                texts.len()
            )));
        }
        if let Some(i) = scores.iter().position(|s| s.is_nan()) {
            return Err(Error::input(format!("tokenizer.ggml.scores[{i}] is not a number")));
        }
        if let Some(i) = texts.iter().position(|t| t.len() > TOKEN_MAX) {
            return Err(Error::input(format!("tokenizer.ggml.tokens[{i}] is longer than {TOKEN_MAX} bytes")));
        }
        let ids: HashMap<&str, u32> = texts.iter().map(|t| &**t).zip(0..).filter(|(t, _)| !t.is_empty()).collect();
        let mut bytes = [0; 256];
        for (byte, id) in (0u8..=255).zip(&mut bytes) {
            let plain = char::from(byte).to_string();
            let token = ids.get(&*format!("<0x{byte:02X}>")).or_else(|| ids.get(&*plain).filter(|_| byte.is_ascii()));
            match token {
                Some(token) => *id = *token,
                None if matches!(byte, 0xc0 | 0xc1 | 0xf5..) => {}
                None => {
                    return Err(Error::input(format!("tokenizer.ggml.tokens has no token for the byte {byte:#04x}")));
                }
            }
        }

        let tokens = texts.len() as u32;
        let mut chars: HashMap<char, u32> = HashMap::new();
        let mut neighbours = HashSet::new();
        for text in ids.keys() {
            for (c, next) in text.chars().zip(text.chars().skip(1)) {
                neighbours.insert((c, next));
            }
        }
        // In a fixed order, so that symbols do not depend on that of the hash table.
        let used: BTreeMap<char, Option<u32>> =
            ids.keys().flat_map(|t| t.chars()).map(|c| (c, ids.get(&*c.to_string()).copied())).collect();
        let mut symbols = tokens;
        for (c, token) in used {
            let symbol = token.unwrap_or(symbols);
            symbols += u32::from(token.is_none());
            chars.insert(c, symbol);
        }

        let symbol = |text: &str| {
            let mut all = text.chars();
            let only = all.next().filter(|_| all.next().is_none()).and_then(|c| chars.get(&c).copied());
            ids.get(text).copied().or(only)
        };
        let mut ranks: Vec<f32> = ids.values().map(|id| scores[*id as usize]).collect();
        ranks.sort_unstable_by(|a, b| b.total_cmp(a));
        ranks.dedup();
        let mut pairs = Vec::new();
        for (text, id) in &ids {
            // Zeros of both signs are one rank.
            let rank = ranks.partition_point(|s| *s > scores[*id as usize]) as u32;
            for (cut, _) in text.char_indices().skip(1) {
                let (left, right) = text.split_at(cut);
                if let Some((left, right)) = symbol(left).zip(symbol(right)) {
                    pairs.push(Pair { left, right, rank, symbol: *id });
                }
            }
        }
        let merges = Merges::new(symbols as usize, ranks.len(), pairs);
        Ok(Spm { tokens, chars, merges, neighbours, bytes })
    }

    /// Appends the tokens of `text`, with a space before it if `prefix`, to `out`.
    pub(super) fn encode(&self, text: &str, prefix: bool, scratch: &mut SpmScratch, out: &mut Vec<u32>) {
        scratch.word.clear();
        let spelled = text.chars().map(|c| if c == ' ' { SPACE } else { c });
        for c in prefix.then_some(SPACE).into_iter().chain(spelled) {
            if let Some(last) = scratch.word.last()
                && (!self.neighbours.contains(&(*last, c)) || scratch.word.len() == WORD_MAX)
            {
                self.merge(scratch, out);
            }
            scratch.word.push(c);
        }
        self.merge(scratch, out);
    }

    /// Merges the scratch's word and clears it.
    fn merge(&self, scratch: &mut SpmScratch, out: &mut Vec<u32>) {
        let SpmScratch { word, merge } = scratch;
        // A character of no token has a symbol that never merges.
        let symbols = word.iter().map(|c| self.chars.get(c).copied().unwrap_or(u32::MAX - 1));
        self.merges.run(symbols, merge, |at, symbol| {
            if symbol < self.tokens {
                out.push(symbol);
            } else {
                out.extend(word[at].encode_utf8(&mut [0; 4]).bytes().map(|b| self.bytes[b as usize]));
            }
        });
        word.clear();
    }
}
