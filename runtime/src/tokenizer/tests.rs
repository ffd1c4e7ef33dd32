use super::*;
use ir::gguf::{Array, Value};
use std::collections::BTreeSet;

/// The character of the byte-level alphabet for a byte.
fn letter(byte: u8) -> char {
    (0..0x144).filter_map(char::from_u32).find(|c| bpe::byte_of(*c) == Some(byte)).expect("every byte has one")
}

/// All bytes, `ab`, `abc`, `bc`, `Ġa`; then control `<|end_of_text|>` 260, user-defined `  ` 261, control `<|x|>` 262,
/// unused `pad` 263, control `<|x|>y` 264.
fn vocab() -> Vocab<'static> {
    let mut tokens: Vec<Cow<str>> = (0..=255).map(|b| letter(b).to_string().into()).collect();
    let mut token_types = vec![1; 260];
    tokens.extend(["ab", "abc", "bc", "Ġa"].map(Cow::from));
    for (text, kind) in [("<|end_of_text|>", 3), ("  ", 4), ("<|x|>", 3), ("pad", 5), ("<|x|>y", 3)] {
        tokens.push(text.into());
        token_types.push(kind);
    }
    Vocab {
        model: "gpt2".into(),
        pre: "gpt-2".into(),
        tokens,
        token_types,
        merges: ["b c", "a b", "a bc", "Ġ a"].map(Cow::from).into(),
        bos: Some(262),
        eos: Some(260),
        ..Vocab::default()
    }
}

#[test]
fn encodes() {
    let t = Tokenizer::new(vocab()).unwrap();
    #[track_caller]
    fn check(t: &Tokenizer, text: &str, special: bool, want: &[u32]) {
        assert_eq!(t.encode(text, special), want, "{text:?}");
        assert!(special || t.decode(want) == text, "{text:?} decodes to {:?}", t.decode(want));
    }
    let b = u32::from;
    check(&t, "", false, &[]);
    check(&t, "ab", false, &[256]);
    check(&t, "abc", false, &[257]);
    check(&t, "abab", false, &[256, 256]);
    check(&t, " ab", false, &[b(b' '), 256]);
    check(&t, " a", false, &[259]);
    check(&t, "a  a", false, &[97, 261, 97]);
    check(&t, "a   a", false, &[97, 261, 259]);
    check(&t, "é", false, &[0xc3, 0xa9]);
    check(&t, "<|x|>", false, &[b(b'<'), b(b'|'), b(b'x'), b(b'|'), b(b'>')]);
    check(&t, "a<|x|>b<|x|>y", true, &[97, 262, 98, 264]);
    check(&t, "pad", true, &[b(b'p'), 97, b(b'd')]);
    // As llama.cpp has it, a byte without a token is left out.
    let mut v = vocab();
    v.tokens[7] = "字".into();
    assert_eq!(Tokenizer::new(v).unwrap().encode("a\u{7}bc", false), [97, 258]);
}

#[test]
fn long_words_merge_as_short_ones() {
    let t = Tokenizer::new(vocab()).unwrap();
    for (word, ids) in [("abc", &[257][..]), ("ab", &[256]), ("a", &[97]), ("cab", &[99, 256]), ("bca", &[258, 97])] {
        for n in [1, 10, 100, 1000] {
            // Repetition joins the ends of the words.
            let want = match word {
                "cab" if n > 1 => [&[99][..], &[257].repeat(n - 1), &[256]].concat(),
                "bca" if n > 1 => [&[258][..], &[257].repeat(n - 1), &[97]].concat(),
                _ => ids.repeat(n),
            };
            assert_eq!(t.encode(&word.repeat(n), false), want, "{word} x {n}");
        }
    }
}

#[test]
fn merges_by_rank_and_from_the_left() {
    /// Merges one pair at a time, on texts.
    fn reference(v: &Vocab<'_>, word: &str) -> Vec<u32> {
        let mut parts: Vec<String> = word.chars().map(String::from).collect();
        loop {
            let rank = |i: &usize| v.merges.iter().position(|m| *m == format!("{} {}", parts[*i], parts[i + 1]));
            let best = (0..parts.len() - 1).filter_map(|i| Some((rank(&i)?, i))).min();
            let Some((_, at)) = best else { break };
            let right = parts.remove(at + 1);
            parts[at].push_str(&right);
        }
        parts.iter().map(|p| v.tokens.iter().position(|t| t == p).unwrap() as u32).collect()
    }
    // Any order of the merges: a pair may rank before those that make its parts.
    let merges = ["a a", "aa a", "aa aa", "a b", "b a", "ab a", "aa b", "aaa aa", "ba ab"];
    let mut state = 1u32;
    let mut random = |n: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as usize % n
    };
    for round in 0..60 {
        let mut v = Vocab { token_types: vec![], ..vocab() };
        v.merges = merges.map(Cow::from).into();
        for i in (1..merges.len()).rev() {
            v.merges.swap(i, random(i + 1));
        }
        v.tokens.truncate(256);
        v.tokens.extend(v.merges.iter().map(|m| m.replace(' ', "").into()).collect::<BTreeSet<_>>());
        (v.bos, v.eos) = (None, None);
        let alphabet = ["a", "b", "c"][..=round % 3].concat();
        let word: String = (0..1 + random(150)).map(|_| &alphabet[random(alphabet.len())..][..1]).collect();
        let want = reference(&v, &word);
        assert_eq!(Tokenizer::new(v.clone()).unwrap().encode(&word, false), want, "{word} by {:?}", v.merges);
    }
}

#[test]
fn ignoring_merges_takes_whole_words() {
    // `cab` has no merge that makes it.
    let whole = |pre: &str| {
        let mut v = Vocab { pre: pre.to_owned().into(), ..vocab() };
        v.tokens[263] = "cab".into();
        Tokenizer::new(v).unwrap().encode("cab cab", false)
    };
    assert_eq!(whole("llama-bpe"), [263, 32, 99, 256]);
    assert_eq!(whole("gpt-2"), [99, 256, 32, 99, 256]);
}

#[test]
fn prompts_get_bos_and_eos() {
    #[track_caller]
    fn check(pre: &str, add_bos: Option<bool>, add_eos: Option<bool>, want: &[u32]) {
        let t = Tokenizer::new(Vocab { pre: pre.to_owned().into(), add_bos, add_eos, ..vocab() }).unwrap();
        assert_eq!(t.encode_prompt("ab", true), want);
    }
    check("gpt-2", None, None, &[256]);
    check("gpt-2", Some(true), Some(true), &[262, 256, 260]);
    check("llama-bpe", None, None, &[262, 256]);
    check("llama-bpe", Some(false), None, &[256]);
}

#[test]
fn ends_and_silent_tokens() {
    let t = Tokenizer::new(Vocab { eos: None, eot: Some(262), ..vocab() }).unwrap();
    assert_eq!(t.ends(), [260, 262]);
    assert!(t.is_end(260) && !t.is_end(261) && !t.is_end(u32::MAX));
    for silent in [260, 262, 263, 264, 265, u32::MAX] {
        assert_eq!(t.token_bytes(silent), b"", "{silent}");
    }
    assert_eq!(t.decode(&[261, 259, 260, 0xc3]), "   a\u{fffd}");
    assert_eq!((t.token_text(259), t.token_text(265)), (Some("Ġa"), None));
    // A normal token of that text is no end.
    let mut v = Vocab { eos: None, ..vocab() };
    v.token_types[260] = 1;
    assert!(Tokenizer::new(v).unwrap().ends().is_empty());
}

#[test]
fn refuses() {
    #[track_caller]
    fn check(change: impl FnOnce(&mut Vocab<'_>), want: &str) {
        let mut v = vocab();
        change(&mut v);
        let error = Tokenizer::new(v).expect_err(want).to_string();
        assert!(error.contains(want), "`{error}` does not say `{want}`");
    }
    check(|v| v.model = "bert".into(), "tokenizer model `bert` (tokenizer.ggml.model) is not supported; ");
    check(
        |v| v.pre = "kimi-k2".into(),
        "`kimi-k2` (tokenizer.ggml.pre) is not supported; supported are default, gpt-2",
    );
    check(|v| v.tokens.clear(), "tokenizer.ggml.tokens holds 0 tokens");
    check(|v| v.tokens.truncate(200), "token_type has 265 entries for the 200");
    check(|v| v.token_types.truncate(9), "token_type has 9 entries for the 265");
    check(|v| v.token_types[7] = 99, "tokenizer.ggml.token_type holds 99");
    check(|v| v.tokens[7] = "é".into(), "tokenizer.ggml.tokens holds `é` twice");
    check(|v| v.tokens[..256].iter_mut().for_each(|t| t.to_mut().insert(0, '字')), "no token for any byte");
    check(|v| v.bos = Some(265), "bos_token_id is 265, but tokenizer.ggml.tokens has 265");
    check(|v| v.eot = Some(u32::MAX), "eot_token_id is 4294967295");
    check(|v| (v.eos, v.add_eos) = (None, Some(true)), "add_eos_token is set, but there is no");
    check(|v| v.merges[2] = "abc".into(), "merges[2] is `abc`, which is not two tokens");
    check(|v| v.merges[2] = "".into(), "merges[2] is ``, which is not two tokens");
    check(|v| v.merges[2] = "a zz".into(), "merges[2] is `a zz`, of which a part");
    check(|v| v.merges[2] = "a ".into(), "merges[2] is `a `, of which a part");
    check(|v| v.merges[2] = "a b c".into(), "merges[2] is `a b c`, of which a part");
    check(|v| v.merges[2] = "a c".into(), "which joined is not");
}

#[test]
fn from_gguf() {
    let strings = |texts: &[Cow<'_, str>]| texts.iter().map(|t| t.as_bytes()).collect::<Array>();
    let v = vocab();
    let mut metadata = Metadata::new();
    metadata.insert("tokenizer.ggml.model", Value::String("gpt2".into()));
    metadata.insert("tokenizer.ggml.tokens", Value::Array(strings(&v.tokens)));
    metadata.insert("tokenizer.ggml.token_type", Value::Array(Array::I32(v.token_types.clone())));
    metadata.insert("tokenizer.ggml.eos_token_id", Value::U32(260));
    #[track_caller]
    fn check(metadata: &Metadata, want: &str) {
        assert_eq!(Tokenizer::from_metadata(metadata).expect_err(want).to_string(), want);
    }
    check(&metadata, "metadata key 'tokenizer.ggml.merges' is missing");
    metadata.insert("tokenizer.ggml.merges", Value::Array(strings(&v.merges)));
    assert_eq!(Tokenizer::from_metadata(&metadata).unwrap().encode_prompt("abc", true), [257]);
    metadata.insert("tokenizer.ggml.pre", Value::String("llama-bpe".into()));
    let t = Tokenizer::from_metadata(&metadata).unwrap();
    assert_eq!((t.n_vocab(), t.bos(), t.ends()), (265, None, [260].as_slice()));
    assert_eq!(t.encode_prompt("abc<|x|>", true), [257, 262]);
    metadata.insert("tokenizer.ggml.merges", Value::Array([b"a b".as_slice(), &[0xff]].iter().collect()));
    check(&metadata, "tokenizer.ggml.merges[1] is not UTF-8");
}

/// `<unk>`, `<s>`, `</s>`, all bytes, then from 259: a b c ab bc ▁ ▁a ▁▁, user-defined `!`, `é▁`.
fn spm_vocab() -> Vocab<'static> {
    let mut tokens: Vec<Cow<str>> = ["<unk>", "<s>", "</s>"].map(Cow::from).into();
    tokens.extend((0..=255).map(|b| Cow::from(format!("<0x{b:02X}>"))));
    let mut token_types = [vec![2, 3, 3], vec![6; 256], vec![1; 8], vec![4, 1]].concat();
    let mut scores = vec![0.0; 259];
    for (text, score) in
        [("a", -9.), ("b", -9.), ("c", -9.), ("ab", -2.), ("bc", -1.), ("▁", -9.), ("▁a", -2.), ("▁▁", -3.)]
    {
        tokens.push(text.into());
        scores.push(score);
    }
    tokens.extend(["!", "é▁"].map(Cow::from));
    scores.extend([0.0, -4.0]);
    token_types.truncate(tokens.len());
    Vocab { model: "llama".into(), tokens, token_types, scores, ..Vocab::default() }
}

#[test]
fn sentencepiece() {
    let t = Tokenizer::new(spm_vocab()).unwrap();
    let bare = Tokenizer::new(Vocab { add_space_prefix: Some(false), ..spm_vocab() }).unwrap();
    #[track_caller]
    fn check(t: &Tokenizer, text: &str, special: bool, want: &[u32]) {
        assert_eq!(t.encode(text, special), want, "{text:?}");
        assert!(special || t.decode(want) == text, "{text:?} decodes to {:?}", t.decode(want));
    }
    let byte = |b: u32| b + 3;
    check(&t, "", false, &[]);
    check(&t, "a", false, &[265]);
    check(&bare, "a", false, &[259]);
    // `bc` before `ab`; then ` ` and `a`.
    check(&t, "abc", false, &[265, 263]);
    // Equal scores: the leftmost.
    check(&t, "ab", false, &[265, 260]);
    check(&bare, "ab", false, &[262]);
    check(&bare, "   ", false, &[266, 264]);
    // A character without a token merges all the same, and alone it is bytes.
    check(&bare, "é a", false, &[byte(0xc3), byte(0xa9), 265]);
    check(&bare, "é ", false, &[268]);
    check(&bare, "字", false, &[byte(0xe5), byte(0xad), byte(0x97)]);
    // The space comes again after a special token; a user-defined one always is one.
    check(&t, "a!a", true, &[265, 267, 265]);
    check(&t, "<s>a</s>", true, &[1, 265, 2]);
    check(&bare, "<s>", false, &"<s>".bytes().map(|b| byte(b.into())).collect::<Vec<_>>());
    assert_eq!(t.encode_prompt("a", true), [1, 265]);
    assert_eq!((t.bos(), t.eos(), t.unk(), t.ends()), (Some(1), Some(2), Some(0), [2].as_slice()));
    for n in [10, 100, 1000] {
        check(&bare, &"abc".repeat(n), false, &[259, 263].repeat(n));
        check(&bare, &"a".repeat(n), false, &vec![259; n]);
    }
}

#[test]
fn sentencepiece_refuses() {
    #[track_caller]
    fn check(change: impl FnOnce(&mut Vocab<'_>), want: &str) {
        let mut v = spm_vocab();
        change(&mut v);
        let error = Tokenizer::new(v).expect_err(want).to_string();
        assert!(error.contains(want), "`{error}` does not say `{want}`");
    }
    check(|v| v.scores.truncate(9), "tokenizer.ggml.scores has 9 entries for the 269");
    check(|v| v.scores[4] = f32::NAN, "tokenizer.ggml.scores[4] is not a number");
    check(|v| v.tokens[4] = "zz".into(), "no token for the byte 0x01");
    check(|v| v.tokens[260] = "b".repeat(2000).into(), "tokens[260] is longer than 1024");
}

/// Ranks of equal score among which merges make each other possible, in words long and short.
#[test]
fn sentencepiece_by_score_and_from_the_left() {
    /// Merges one pair at a time, on texts.
    fn reference(v: &Vocab<'_>, word: &str) -> Vec<u32> {
        let id = |t: &str| v.tokens.iter().position(|x| x == t);
        let mut parts: Vec<String> = word.chars().map(String::from).collect();
        loop {
            let score = |i: usize| id(&parts[i..i + 2].concat()).map(|id| v.scores[id]);
            let all = (0..parts.len() - 1).filter_map(|i| Some((score(i)?, i)));
            let best = all.min_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            let Some((_, at)) = best else { break };
            let right = parts.remove(at + 1);
            parts[at].push_str(&right);
        }
        parts.iter().map(|p| id(p).unwrap() as u32).collect()
    }
    let mut state = 1u32;
    let mut random = |n: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as usize % n
    };
    for round in 0..80 {
        let mut v = Vocab { add_space_prefix: Some(false), ..spm_vocab() };
        v.token_types.clear();
        v.tokens.truncate(262);
        let made: BTreeSet<String> =
            (0..14).map(|_| (0..2 + random(4)).map(|_| ["a", "b", "c"][random(3)]).collect()).collect();
        v.tokens.extend(made.into_iter().map(Cow::from));
        v.scores = (0..v.tokens.len()).map(|_| -(random(1 + round % 5) as f32)).collect();
        let word: String = (0..1 + random(150)).map(|_| ["a", "b", "c"][random(1 + round % 3)]).collect();
        let want = reference(&v, &word);
        assert_eq!(Tokenizer::new(v.clone()).unwrap().encode(&word, false), want, "{word} by {:?}", v.tokens);
    }
}
