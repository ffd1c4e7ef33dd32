//! Tokens that text names: their texts are cut out before the rest is tokenized, and hidden where they must not count.
//!
//! Text that others write into a conversation must not become its structure. [`Special::guard`] puts a mark, a character
//! that occurs nowhere else, into each text of a token of structure; [`Special::cut`] takes what bears a mark for plain
//! text and drops the mark. In between, a template may move and trim the text as it likes.

use super::vocab::TokenType;
use crate::error::{Error, Result};
use aho_corasick::{AhoCorasick, AhoCorasickKind, Input, MatchKind};
use std::borrow::Cow;

/// Most bytes of the texts of all special tokens. The automaton takes about 50 times that; large vocabularies have 0.2 MB.
const BYTES_MAX: usize = 1 << 20;

/// Finds the texts of a set of tokens.
#[derive(Debug)]
pub(super) struct Special {
    /// `None`: the set is empty.
    matcher: Option<AhoCorasick>,
    /// Of each pattern.
    tokens: Vec<Token>,
    /// The texts of structure, sorted.
    structure: Vec<Box<str>>,
    /// Bytes of the longest of them.
    longest: usize,
}

/// A token that text names.
#[derive(Debug, Clone, Copy)]
struct Token {
    id: u32,
    structure: bool,
    /// Whether whitespace after it is left out.
    trims: bool,
}

/// Special tokens after which whitespace stays, even where the others leave it out.
const NEVER_TRIM: &[&str] = &["<unk>", "<s>", "<|endoftext|>"];

/// What [`Special::cut`] yields.
pub(super) enum Part<'t> {
    Text(Cow<'t, str>),
    Token(u32),
}

/// Whether a token is structure of a conversation: control tokens are, and what vocabularies call user-defined but
/// spell as they spell control tokens.
fn is_structure(text: &str, kind: TokenType) -> bool {
    const SPELLINGS: [(&str, &str); 3] = [("<|", ">"), ("<", "|>"), ("<｜", "｜>")];
    let spelled = |(open, close): &(&str, &str)| text.starts_with(open) && text.ends_with(close);
    kind == TokenType::Control || SPELLINGS.iter().any(spelled)
}

impl Special {
    /// Of the tokens whose type `wanted` accepts; with `trims`, most leave out whitespace after them.
    ///
    /// # Errors
    /// [`Error::Limit`] if their texts are too long.
    pub(super) fn new(
        texts: &[Cow<'_, str>],
        types: &[TokenType],
        trims: bool,
        wanted: impl Fn(TokenType) -> bool,
    ) -> Result<Self> {
        let set = || (0u32..).zip(texts.iter().zip(types)).filter(|(_, (text, t))| wanted(**t) && !text.is_empty());
        let bytes: usize = set().map(|(_, (text, _))| text.len()).sum();
        if bytes > BYTES_MAX {
            let what = "the text of all special tokens of tokenizer.ggml.tokens, in bytes,".into();
            return Err(Error::Limit { what, need: bytes as u64, have: BYTES_MAX as u64 });
        }
        let token = |(id, (text, t)): (u32, (&Cow<'_, str>, &TokenType))| {
            let trims = trims && !NEVER_TRIM.contains(&&**text);
            Token { id, structure: is_structure(text, *t), trims }
        };
        let tokens: Vec<Token> = set().map(token).collect();
        // An automaton of all transitions would take a table row for each byte of each text.
        let build = || {
            AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .kind(Some(AhoCorasickKind::ContiguousNFA))
                .build(set().map(|(_, (text, _))| &**text))
        };
        let matcher = (!tokens.is_empty()).then(build).transpose();
        let matcher = matcher.map_err(|e| Error::input(format!("tokenizer.ggml.tokens: special tokens: {e}")))?;
        let mut structure: Vec<Box<str>> =
            set().filter(|(_, (text, t))| is_structure(text, **t)).map(|(_, (text, _))| (&**text).into()).collect();
        structure.sort_unstable();
        let longest = structure.iter().map(|text| text.len()).max().unwrap_or(0);
        Ok(Special { matcher, tokens, structure, longest })
    }

    /// Calls `part` with the parts of `text` in order; no text is empty, and two never follow each other. A token whose
    /// text `mark` follows is text, and of text the marks are left out.
    pub(super) fn cut<'t>(
        &self,
        text: &'t str,
        mark: Option<char>,
        mut part: impl FnMut(Part<'t>) -> Result<()>,
    ) -> Result<()> {
        let plain = |text: &'t str| match mark {
            Some(mark) if text.contains(mark) => Cow::Owned(text.replace(mark, "")),
            _ => Cow::Borrowed(text),
        };
        let (mut at, mut from) = (0, 0);
        while let Some((start, mut end, token)) = self.find(text, from) {
            if mark.is_some_and(|mark| text[end..].starts_with(mark)) {
                from = after_first(text, start);
                continue;
            }
            if start > at {
                part(Part::Text(plain(&text[at..start])))?;
            }
            part(Part::Token(token.id))?;
            if token.trims {
                end = text.len() - text[end..].trim_start_matches([' ', '\t', '\n', '\u{b}', '\u{c}', '\r']).len();
            }
            (at, from) = (end, end);
        }
        if at < text.len() {
            part(Part::Text(plain(&text[at..])))?;
        }
        Ok(())
    }

    /// `text` with `mark` after the first character of each text of structure in it, also of one that ends too early:
    /// what comes next could complete it.
    pub(super) fn guard(&self, text: &str, mark: char) -> String {
        let mut places = Vec::new();
        let mut from = 0;
        while let Some((start, _, token)) = self.find(text, from) {
            from = after_first(text, start);
            places.extend(token.structure.then_some(from));
        }
        let tail = text.len() - text.len().min(self.longest);
        let tail = (tail..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
        for (at, _) in text[tail..].char_indices() {
            let rest = &text[tail + at..];
            let next = self.structure.partition_point(|s| **s < *rest);
            if self.structure.get(next).is_some_and(|s| s.starts_with(rest)) {
                places.push(after_first(text, tail + at));
            }
        }
        places.sort_unstable();
        places.dedup();
        let mut guarded = String::with_capacity(text.len() + places.len() * mark.len_utf8());
        let mut done = 0;
        for place in places {
            guarded.push_str(&text[done..place]);
            guarded.push(mark);
            done = place;
        }
        guarded.push_str(&text[done..]);
        guarded
    }

    /// The leftmost and longest token at or after `from`: where it begins and ends.
    fn find(&self, text: &str, from: usize) -> Option<(usize, usize, Token)> {
        let found = self.matcher.as_ref()?.find(Input::new(text).span(from..text.len()))?;
        Some((found.start(), found.end(), self.tokens[found.pattern().as_usize()]))
    }
}

/// Where the character after the one at `at` begins.
fn after_first(text: &str, at: usize) -> usize {
    at + text[at..].chars().next().map_or(1, char::len_utf8)
}
