//! A byte-level vocabulary of a given size: 256 bytes, a few merges, made-up words, special tokens.

use super::tables::{Shape, Vocabulary};
use ir::gguf::{Array, Metadata, Value};
use std::collections::HashSet;

/// Merges by rank; each makes a token. `Ġ` is a space.
const MERGES: &[(&str, &str)] = &[
    ("Ġ", "t"),
    ("Ġ", "a"),
    ("h", "e"),
    ("i", "n"),
    ("r", "e"),
    ("o", "n"),
    ("Ġt", "he"),
    ("e", "r"),
    ("Ġ", "s"),
    ("a", "t"),
    ("Ġ", "w"),
    ("Ġ", "o"),
    ("e", "n"),
    ("i", "t"),
    ("i", "s"),
    ("o", "r"),
    ("Ġ", "b"),
    ("Ġ", "f"),
    ("e", "s"),
    ("Ġa", "n"),
    ("Ġan", "d"),
    ("in", "g"),
    ("Ġo", "f"),
    ("l", "l"),
    ("Ġt", "o"),
];

/// GGUF's token types.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const UNUSED: i32 = 5;

/// The characters that stand for the bytes, in the order of published vocabularies: printable bytes first.
fn bytes() -> Vec<String> {
    let printable = |b: &u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let shown = (0..=u8::MAX).filter(printable).map(char::from);
    let others = (0..=u8::MAX).filter(|b| !printable(b)).count() as u32;
    let hidden = (0..others).filter_map(|i| char::from_u32(0x100 + i));
    shown.chain(hidden).map(String::from).collect()
}

/// Word `i`, with a space before it: distinct for each number.
fn word(mut i: usize) -> String {
    const CONSONANTS: &[u8] = b"bdfghjklmnprstvwxyz";
    const VOWELS: &[u8] = b"aeiou";
    let mut text = String::from("Ġ");
    for syllable in 0.. {
        if syllable >= 2 && i == 0 {
            break;
        }
        let n = i % (CONSONANTS.len() * VOWELS.len());
        i /= CONSONANTS.len() * VOWELS.len();
        text.push(char::from(CONSONANTS[n / VOWELS.len()]));
        text.push(char::from(VOWELS[n % VOWELS.len()]));
    }
    text
}

/// The texts and types of all tokens.
fn tokens(shape: &Shape, vocabulary: &Vocabulary) -> (Vec<String>, Vec<i32>) {
    let mut texts = bytes();
    texts.extend(MERGES.iter().map(|(a, b)| format!("{a}{b}")));
    let known: HashSet<String> = texts.iter().cloned().collect();
    let more = shape.ordinary.saturating_sub(texts.len());
    texts.extend((0..).map(word).filter(|w| !known.contains(w)).take(more));
    texts.truncate(shape.ordinary);
    let mut types = vec![NORMAL; texts.len()];
    let mut filled = 0;
    for i in 0..shape.vocab - shape.ordinary {
        let named = vocabulary.specials.iter().find(|(at, _)| *at == i).map(|(_, text)| text.clone());
        let (text, kind) = match (named, &vocabulary.fill) {
            (Some(text), _) => (text, CONTROL),
            (None, Some(fill)) => {
                filled += 1;
                (fill.replace("{}", &(filled - 1).to_string()), CONTROL)
            }
            (None, None) => (format!("[PAD{}]", shape.ordinary + i), UNUSED),
        };
        texts.push(text);
        types.push(kind);
    }
    (texts, types)
}

/// Adds the tokenizer's keys.
pub fn insert(metadata: &mut Metadata, shape: &Shape, vocabulary: &Vocabulary) {
    let (texts, types) = tokens(shape, vocabulary);
    let id = |n: usize| Value::U32((shape.ordinary + n) as u32);
    metadata.insert("tokenizer.ggml.model", "gpt2");
    metadata.insert("tokenizer.ggml.pre", vocabulary.name.as_str());
    metadata.insert("tokenizer.ggml.tokens", Value::Array(texts.iter().collect()));
    metadata.insert("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    let merges = MERGES.iter().map(|(a, b)| format!("{a} {b}"));
    metadata.insert("tokenizer.ggml.merges", Value::Array(merges.collect()));
    metadata.insert("tokenizer.ggml.bos_token_id", id(vocabulary.bos));
    metadata.insert("tokenizer.ggml.eos_token_id", id(vocabulary.eos));
    if let Some(eot) = vocabulary.eot {
        metadata.insert("tokenizer.ggml.eot_token_id", id(eot));
    }
    metadata.insert("tokenizer.ggml.add_bos_token", Value::Bool(vocabulary.add_bos));
}

#[cfg(test)]
mod tests {
    use super::super::tables::{SHAPES, VOCABULARIES};
    use super::*;
    use runtime::tokenizer::Tokenizer;

    #[test]
    fn every_vocabulary_is_a_tokenizer() {
        let mut seen = HashSet::new();
        for shape in SHAPES.iter().filter(|s| seen.insert((&s.vocabulary, s.ordinary, s.vocab))) {
            let vocabulary = VOCABULARIES.iter().find(|v| v.name == shape.vocabulary).unwrap();
            let (texts, _) = tokens(shape, vocabulary);
            let distinct: HashSet<&String> = texts.iter().collect();
            assert_eq!((texts.len(), distinct.len()), (shape.vocab, shape.vocab), "{}", shape.name);
            let mut metadata = Metadata::new();
            insert(&mut metadata, shape, vocabulary);
            let tokenizer = Tokenizer::from_metadata(&metadata).unwrap();
            let text = "The winter of 1999, and then\n\tæ—東 🙂";
            let ids = tokenizer.encode_prompt(text, true).unwrap();
            assert!(tokenizer.blemishes().is_empty(), "{}: {:?}", shape.name, tokenizer.blemishes());
            assert_eq!(ids[0] == (shape.ordinary + vocabulary.bos) as u32, vocabulary.add_bos, "{}", shape.name);
            assert_eq!(tokenizer.decode(&ids), text, "{}", shape.name);
        }
    }
}
