//! SentencePiece by pairs: a text's characters become symbols, of which neighbours merge. Those that do are listed, by
//! rank, or they are those whose concatenation is a token, the highest score first. What stays without a token becomes its
//! UTF-8 bytes.
//!
//! A space is spelled U+2581 in tokens. No word boundary stops a merge, but most pairs of characters occur next to each
//! other in nothing that merges, and there a text is cut: that changes no merge and keeps words short.

use super::merge::{Merges, NONE, Pair, Scratch, WORD_MAX, two_parts};
use super::vocab::{Tally, quoted};
use crate::error::{Error, Result};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

/// What a space is in the text of a token.
pub(super) const SPACE: char = '\u{2581}';

/// Tokens and what merges.
#[derive(Debug)]
pub(super) struct Spm {
    /// Number of tokens. Symbols from here on are characters, and what merges make, that are no tokens.
    tokens: u32,
    chars: HashMap<char, u32>,
    merges: Merges,
    /// Characters that occur next to each other in what merges make.
    neighbours: HashSet<(char, char)>,
    /// Token of each byte, or [`NONE`].
    bytes: [u32; 256],
}

/// Working memory of [`Spm::encode`].
#[derive(Debug, Default)]
pub(super) struct SpmScratch {
    word: Vec<char>,
    pub(super) merge: Scratch,
    /// Of a merged word, the symbols and where each begins.
    merged: Vec<(usize, u32)>,
}

impl Spm {
    /// What merges is a token, by its score. `texts` are the tokens by id, empty for those that text never becomes. Of
    /// equal texts the last counts; a token whose score is no number is the last to merge.
    pub(super) fn by_scores(texts: &[Cow<'_, str>], scores: &[f32], blemishes: &mut Vec<String>) -> Self {
        let mut unscored = Tally::default();
        let scores: Vec<f32> = (0..)
            .zip(scores)
            .map(|(i, score)| {
                if score.is_nan() {
                    unscored.add(|| format!("tokenizer.ggml.scores[{i}] is not a number"));
                }
                if score.is_nan() { f32::NEG_INFINITY } else { *score }
            })
            .collect();
        blemishes.extend(unscored.tell("it counts as the lowest"));
        let ids = ids(texts, blemishes);
        let bytes = bytes(&ids, blemishes);

        let tokens = texts.len() as u32;
        let mut chars: HashMap<char, u32> = HashMap::new();
        // In a fixed order, so that symbols do not depend on that of the hash table.
        let used: BTreeMap<char, Option<u32>> =
            ids.keys().flat_map(|t| t.chars()).map(|c| (c, ids.get(&*c.to_string()).copied())).collect();
        let mut symbols = tokens;
        for (c, token) in used {
            let symbol = token.unwrap_or(symbols);
            symbols += u32::from(token.is_none());
            chars.insert(c, symbol);
        }

        let mut ranks: Vec<f32> = ids.values().map(|id| scores[*id as usize]).collect();
        ranks.sort_unstable_by(|a, b| b.total_cmp(a));
        ranks.dedup();
        // What text can be before it merges: tokens, and characters that are none.
        let singles: Vec<(String, u32)> =
            chars.iter().filter(|(_, symbol)| **symbol >= tokens).map(|(c, symbol)| (c.to_string(), *symbol)).collect();
        let parts = || ids.iter().map(|(t, id)| (*t, *id)).chain(singles.iter().map(|(t, symbol)| (&**t, *symbol)));
        // A token is made of each pair of parts that are its begin and its end. The ends are the begins of what is
        // written backwards.
        let mut ends: HashMap<u32, Vec<(u32, u32)>> = HashMap::new();
        let backwards = parts().map(|(text, symbol)| (text.bytes().rev().collect(), symbol)).collect();
        for_each_with_begins(backwards, |_, id, begins| {
            ends.insert(id, begins.iter().map(|(text, symbol)| (text.len() as u32, *symbol)).collect());
        });
        let mut pairs = Vec::new();
        for_each_with_begins(parts().map(|(text, symbol)| (text.into(), symbol)).collect(), |text, id, begins| {
            let Some(ends) = ends.get(&id) else { return };
            // Zeros of both signs are one rank.
            let rank = ranks.partition_point(|s| *s > scores[id as usize]) as u32;
            for (begin, left) in begins {
                let rest = (text.len() - begin.len()) as u32;
                if let Ok(at) = ends.binary_search_by_key(&rest, |(length, _)| *length) {
                    pairs.push(Pair { left: *left, right: ends[at].1, rank, symbol: id });
                }
            }
        });
        let merges = Merges::new(symbols as usize, ranks.len(), pairs);
        Spm { tokens, chars, merges, neighbours: neighbours(ids.keys().copied()), bytes }
    }

    /// What merges is listed, by rank: two texts with a space between. `texts` are as for [`by_scores`](Self::by_scores).
    pub(super) fn by_merges(texts: &[Cow<'_, str>], merges: &[Cow<'_, str>], blemishes: &mut Vec<String>) -> Self {
        let ids = ids(texts, blemishes);
        let bytes = bytes(&ids, blemishes);
        let tokens = texts.len() as u32;
        let mut others: HashMap<String, u32> = HashMap::new();
        let (mut pairs, mut wholes) = (Vec::with_capacity(merges.len()), Vec::with_capacity(merges.len()));
        let mut unread = Tally::default();
        for (rank, text) in (0u32..).zip(merges) {
            let Some((left, right)) = two_parts(text) else {
                unread.add(|| format!("tokenizer.ggml.merges[{rank}] is {}, which is not two tokens", quoted(text)));
                continue;
            };
            let whole = [left, right].concat();
            let [left, right, symbol] = [left, right, &whole].map(|text| match ids.get(text) {
                Some(id) => *id,
                None => {
                    let next = tokens + others.len() as u32;
                    *others.entry(text.to_owned()).or_insert(next)
                }
            });
            pairs.push(Pair { left, right, rank, symbol });
            wholes.push(whole);
        }
        blemishes.extend(unread.tell("it merges nothing"));
        let single = |text: &str, symbol: u32| {
            let mut chars = text.chars();
            chars.next().filter(|_| chars.next().is_none()).map(|c| (c, symbol))
        };
        let of_tokens = ids.iter().filter_map(|(text, id)| single(text, *id));
        let chars = of_tokens.chain(others.iter().filter_map(|(text, symbol)| single(text, *symbol))).collect();
        let neighbours = neighbours(wholes.iter().map(String::as_str));
        let merges = Merges::new(tokens as usize + others.len(), merges.len(), pairs);
        Spm { tokens, chars, merges, neighbours, bytes }
    }

    /// Appends the tokens of `text`, with a space before it if `prefix`, to `out`.
    ///
    /// # Errors
    /// [`Error::Input`] for a character of which neither it nor a byte is a token.
    pub(super) fn encode(&self, text: &str, prefix: bool, scratch: &mut SpmScratch, out: &mut Vec<u32>) -> Result<()> {
        scratch.word.clear();
        let spelled = text.chars().map(|c| if c == ' ' { SPACE } else { c });
        for c in prefix.then_some(SPACE).into_iter().chain(spelled) {
            if let Some(last) = scratch.word.last()
                && (!self.neighbours.contains(&(*last, c)) || scratch.word.len() == WORD_MAX)
            {
                self.merge(scratch, out)?;
            }
            scratch.word.push(c);
        }
        self.merge(scratch, out)
    }

    /// Merges the scratch's word and clears it.
    fn merge(&self, scratch: &mut SpmScratch, out: &mut Vec<u32>) -> Result<()> {
        let SpmScratch { word, merge, merged } = scratch;
        // A character of no token has a symbol that never merges.
        let symbols = word.iter().map(|c| self.chars.get(c).copied().unwrap_or(u32::MAX - 1));
        merged.clear();
        self.merges.run(symbols, merge, |at, symbol| merged.push((at, symbol)));
        let mut unspelled = None;
        let ends = merged.iter().skip(1).map(|(at, _)| *at).chain([word.len()]);
        for ((at, symbol), end) in merged.iter().zip(ends) {
            if *symbol < self.tokens {
                out.push(*symbol);
                continue;
            }
            for c in &word[*at..end] {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    match self.bytes[byte as usize] {
                        NONE => unspelled = unspelled.or(Some(*c)),
                        token => out.push(token),
                    }
                }
            }
        }
        word.clear();
        match unspelled {
            None => Ok(()),
            Some(c) => Err(Error::input(format!(
                "the text has the character {}, but the model's vocabulary has no token for it, nor for its bytes; leave \
                 it out",
                quoted(c.encode_utf8(&mut [0; 4]))
            ))),
        }
    }
}

/// The tokens by their texts, but those without one.
fn ids<'t>(texts: &'t [Cow<'_, str>], blemishes: &mut Vec<String>) -> HashMap<&'t str, u32> {
    let (mut ids, mut twice) = (HashMap::with_capacity(texts.len()), Tally::default());
    for (text, id) in texts.iter().zip(0u32..).filter(|(text, _)| !text.is_empty()) {
        if let Some(first) = ids.insert(&**text, id) {
            twice.add(|| format!("tokenizer.ggml.tokens holds {} twice, as {first} and {id}", quoted(text)));
        }
    }
    blemishes.extend(twice.tell("text becomes the last"));
    ids
}

/// The token of each byte, or [`NONE`].
fn bytes(ids: &HashMap<&str, u32>, blemishes: &mut Vec<String>) -> [u32; 256] {
    let (mut bytes, mut missing) = ([NONE; 256], Tally::default());
    for (byte, id) in (0u8..=255).zip(&mut bytes) {
        let plain = char::from(byte).to_string();
        let token = ids.get(&*format!("<0x{byte:02X}>")).or_else(|| ids.get(&*plain).filter(|_| byte.is_ascii()));
        match token {
            Some(token) => *id = *token,
            None if matches!(byte, 0xc0 | 0xc1 | 0xf5..) => {}
            None => missing.add(|| format!("tokenizer.ggml.tokens has no token for the byte {byte:#04x}")),
        }
    }
    blemishes.extend(missing.tell("text that needs one is refused"));
    bytes
}

/// The characters that stand next to each other in a text.
fn neighbours<'t>(texts: impl Iterator<Item = &'t str>) -> HashSet<(char, char)> {
    texts.flat_map(|text| text.chars().zip(text.chars().skip(1))).collect()
}

/// Calls `each` with every text that begins with others, its symbol, and those others with theirs, shortest first. Texts
/// are distinct; the time is that of sorting them.
fn for_each_with_begins(mut texts: Vec<(Vec<u8>, u32)>, mut each: impl FnMut(&[u8], u32, &[&(Vec<u8>, u32)])) {
    texts.sort_unstable();
    // In order, what a text begins with is the text before it or among what that begins with.
    let mut begins: Vec<&(Vec<u8>, u32)> = Vec::new();
    for text in &texts {
        while begins.last().is_some_and(|(begin, _)| !text.0.starts_with(begin)) {
            begins.pop();
        }
        if !begins.is_empty() {
            each(&text.0, text.1, &begins);
        }
        begins.push(text);
    }
}
