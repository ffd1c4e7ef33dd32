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
        assert_eq!(t.encode(text, special).unwrap(), want, "{text:?}");
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
    assert_eq!(Tokenizer::new(v).unwrap().encode("a\u{7}bc", false).unwrap(), [97, 258]);
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
            assert_eq!(t.encode(&word.repeat(n), false).unwrap(), want, "{word} x {n}");
        }
    }
}

/// The parts of a word after merging one pair at a time, on texts.
fn merged(v: &Vocab<'_>, word: &str) -> Vec<String> {
    let mut parts: Vec<String> = word.chars().map(String::from).collect();
    loop {
        let rank = |i: &usize| v.merges.iter().position(|m| *m == format!("{} {}", parts[*i], parts[i + 1]));
        let best = (0..parts.len() - 1).filter_map(|i| Some((rank(&i)?, i))).min();
        let Some((_, at)) = best else { break };
        let right = parts.remove(at + 1);
        parts[at].push_str(&right);
    }
    parts
}

/// Draws numbers below another.
fn draws(mut state: u32) -> impl FnMut(usize) -> usize {
    move |n| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as usize % n
    }
}

#[test]
fn merges_by_rank_and_from_the_left() {
    let reference = |v: &Vocab<'_>, word: &str| -> Vec<u32> {
        merged(v, word).iter().map(|p| v.tokens.iter().position(|t| t == p).unwrap() as u32).collect()
    };
    // Any order of the merges: a pair may rank before those that make its parts.
    let merges = ["a a", "aa a", "aa aa", "a b", "b a", "ab a", "aa b", "aaa aa", "ba ab"];
    let mut random = draws(1);
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
        assert_eq!(Tokenizer::new(v.clone()).unwrap().encode(&word, false).unwrap(), want, "{word} by {:?}", v.merges);
    }
}

#[test]
fn ignoring_merges_takes_whole_words() {
    // `cab` has no merge that makes it.
    let whole = |pre: &str| {
        let mut v = Vocab { pre: pre.to_owned().into(), ..vocab() };
        v.tokens[263] = "cab".into();
        Tokenizer::new(v).unwrap().encode("cab cab", false).unwrap()
    };
    assert_eq!(whole("llama-bpe"), [263, 32, 99, 256]);
    assert_eq!(whole("gpt-2"), [99, 256, 32, 99, 256]);
}

#[test]
fn prompts_get_bos_and_no_eos() {
    #[track_caller]
    fn check(pre: &str, add_bos: Option<bool>, want: &[u32]) {
        let t = Tokenizer::new(Vocab { pre: pre.to_owned().into(), add_bos, ..vocab() }).unwrap();
        assert_eq!(t.encode_prompt("ab", true).unwrap(), want);
        assert_eq!(t.adds_bos(), want.len() == 2);
    }
    check("gpt-2", None, &[256]);
    check("gpt-2", Some(true), &[262, 256]);
    check("llama-bpe", None, &[262, 256]);
    check("llama-bpe", Some(false), &[256]);
    let t = Tokenizer::new(Vocab { add_bos: Some(false), bos: Some(1), ..gemma_vocab() }).unwrap();
    assert_eq!(t.encode_prompt("a", true).unwrap(), [1, 259]);
}

/// [`vocab`] with more tokens of these texts and types, from 265 on.
fn with(tokens: &[(&'static str, i32)]) -> Vocab<'static> {
    let mut v = vocab();
    v.tokens.extend(tokens.iter().map(|(text, _)| Cow::from(*text)));
    v.token_types.extend(tokens.iter().map(|(_, kind)| kind));
    v
}

#[test]
fn ends() {
    /// With these tokens from 265 on and changed so, generation ends at `want` and at EOS.
    #[track_caller]
    fn check(tokens: &[(&'static str, i32)], change: impl FnOnce(&mut Vocab<'_>), want: &[u32]) {
        let mut v = with(tokens);
        change(&mut v);
        let t = Tokenizer::new(v).unwrap();
        assert_eq!(t.ends(), [&[260], want].concat(), "{tokens:?}");
        assert!(want.iter().all(|id| t.is_end(*id)) && !t.is_end(261) && !t.is_end(u32::MAX));
    }
    // By text, whatever the type; the token is a control token then.
    for text in END_TEXTS {
        for kind in 1..=7 {
            check(&[(text, kind)], |_| (), &[265]);
            let t = Tokenizer::new(with(&[(text, kind)])).unwrap();
            assert_eq!((t.token_type(265), t.token_bytes(265)), (Some(TokenType::Control), &b""[..]), "{text} {kind}");
        }
    }
    check(&[("<|im_end|>", 3), ("<|fim_pad|>", 1), ("<|start|>", 3), ("<|file_sep|>", 4)], |_| (), &[265, 266, 268]);
    check(&[("</s>", 1)], |_| (), &[]);
    check(&[("</s>", 3)], |_| (), &[265]);
    check(&[("</s>", 4)], |_| (), &[265]);
    let t = Tokenizer::new(with(&[("</s>", 4)])).unwrap();
    assert_eq!((t.token_type(265), t.encode("</s>", false).unwrap().len()), (Some(TokenType::Control), 4));
    check(&[("</s>", 1)], |v| v.eos = Some(265), &[265]);
    check(&[("<|fim_prefix|>", 3), ("<|fim_middle|>", 1), ("<|im_start|>", 3), ("im_end", 3)], |_| (), &[]);
    // Parts of a turn are not its end.
    check(&[("<|end|>", 3), ("<|return|>", 3), ("<|call|>", 3)], |_| (), &[266, 267]);
    check(&[("<|end|>", 3), ("<|calls|>", 3), ("<|flush|>", 3)], |_| (), &[266, 267]);
    check(&[("<|end|>", 3), ("<|return|>", 3)], |_| (), &[265, 266]);
    check(&[("</s>", 3), ("<|tool_response>", 3)], |_| (), &[266]);
    // By key, whatever the text.
    check(&[("<a>", 3)], |v| v.eot = Some(265), &[265]);
    check(&[("<a>", 3)], |v| v.eom = Some(265), &[265]);
    check(&[("<a>", 1)], |v| v.fim_pad = Some(265), &[265]);
    check(&[("<a>", 4)], |v| v.fim_rep = Some(265), &[265]);
    check(&[("<a>", 5)], |v| v.fim_sep = Some(265), &[265]);
    check(&[("<a>", 3)], |v| (v.unk, v.pad) = (Some(265), Some(265)), &[]);
}

/// Tokens that name the parts of an answer are in its text, and text that spells them is them.
#[test]
fn parts_of_an_answer() {
    let texts = PART_TEXTS.iter().chain(&["<|end|>", "<|return|>", "<|call|>"]);
    let t = Tokenizer::new(with(&texts.map(|text| (*text, 3)).collect::<Vec<_>>())).unwrap();
    assert_eq!(t.ends(), [260, 270, 271]);
    let text = "<|channel|>ab<|message|>a<|end|>";
    let ids = [266, 256, 268, 97, 269];
    assert_eq!((t.encode(text, false).unwrap(), t.decode(&ids)), (ids.to_vec(), text.to_owned()));
    assert_eq!(t.guard(text, '#').matches('#').count(), 3);
    // Where it ends turns, it is silent.
    let t = Tokenizer::new(with(&[("<|end|>", 4)])).unwrap();
    assert_eq!((t.ends(), t.decode(&[265])), (&[260, 265][..], String::new()));
}

/// Whitespace after special tokens is left out where the model's name says so, but after some.
#[test]
fn whitespace_after_special_tokens() {
    let v = || with(&[("<|u|>", 3), ("<s>", 3), ("<t>", 4)]);
    let t = Tokenizer::new(Vocab { trims_after_special: true, ..v() }).unwrap();
    #[track_caller]
    fn check(t: &Tokenizer, text: &str, special: bool, want: &[u32]) {
        assert_eq!(t.encode(text, special).unwrap(), want, "{text:?}");
    }
    check(&t, "<|u|> \r\n\t\u{b}\u{c}a<|u|>\n", true, &[265, 97, 265]);
    check(&t, "<|u|>\u{a0}", true, &[265, 0xc2, 0xa0]);
    check(&t, "<s> a", true, &[266, 259]);
    check(&t, "<t> a <t>", false, &[267, 97, 32, 267]);
    check(&Tokenizer::new(v()).unwrap(), "<|u|> a", true, &[265, 259]);
    let mut metadata = Metadata::new();
    let strings = |texts: &[Cow<'_, str>]| Value::Array(texts.iter().map(|t| t.as_bytes()).collect());
    metadata.insert("tokenizer.ggml.model", Value::String("gpt2".into()));
    metadata.insert("tokenizer.ggml.tokens", strings(&v().tokens));
    metadata.insert("tokenizer.ggml.token_type", Value::Array(Array::I32(v().token_types)));
    metadata.insert("tokenizer.ggml.merges", strings(&v().merges));
    for (name, trims) in [("Phi-3.5 Mini", true), ("my-phi3-tune", true), ("Phi 4", false)] {
        metadata.insert("general.name", Value::String(name.into()));
        assert_eq!(Vocab::from_gguf(&metadata).unwrap().trims_after_special, trims, "{name}");
    }
}

#[test]
fn silent_tokens() {
    let t = Tokenizer::new(Vocab { eos: None, ..with(&[("<|fim_suffix|>", 1)]) }).unwrap();
    for silent in [260, 262, 263, 264, 265, 266, u32::MAX] {
        assert_eq!(t.token_bytes(silent), b"", "{silent}");
    }
    assert_eq!(t.decode(&[261, 259, 260, 0xc3]), "   a\u{fffd}");
    assert_eq!((t.token_text(259), t.token_text(266)), (Some("Ġa"), None));
}

/// A control token stands where its name is asked for, and never where plain text or merges spell it.
#[test]
fn plain_text_makes_no_control_token() {
    let whole = Vocab { pre: "llama-bpe".into(), ..with(&[("cab", 3)]) };
    let merged = Vocab { merges: ["a b", "c ab"].map(Cow::from).into(), ..with(&[("cab", 3)]) };
    for v in [whole, merged] {
        let t = Tokenizer::new(v).unwrap();
        let parts = t.encode("cab", false).unwrap();
        assert!(!parts.contains(&265) && t.decode(&parts) == "cab", "{parts:?}");
        assert_eq!(t.encode("cab", true).unwrap(), [265]);
    }
    let mut v = spm_vocab();
    (v.token_types[263], v.scores[263]) = (3, 0.0);
    let t = Tokenizer::new(v).unwrap();
    assert_eq!((t.encode("bc", false).unwrap(), t.encode("bc", true).unwrap()), (vec![264, 260, 261], vec![263]));
}

/// What messages spell is text, wherever a template puts it; what the template spells counts.
#[test]
fn guarded_text_makes_no_structure() {
    const MARK: char = '\u{fdd0}';
    let t = Tokenizer::new(with(&[("<|u|>", 4), ("<think>", 4), ("#", 3), ("x#y", 3), ("<｜d｜>", 4)])).unwrap();
    /// `rendered` with each `{}` replaced by the guarded `message`: the tokens from 260 on.
    #[track_caller]
    fn check(t: &Tokenizer, message: &str, rendered: &str, want: &[u32]) {
        let guarded = t.guard(message, MARK);
        assert_eq!(guarded.replace(MARK, ""), message);
        let ids = t.encode_rendered(&rendered.replace("{}", &guarded), MARK).unwrap();
        let special: Vec<u32> = ids.iter().copied().filter(|id| *id >= 260).collect();
        assert_eq!(special, want, "{message:?} in {rendered:?}");
        let plain = t.encode(message, false).unwrap();
        if rendered == "{}" && plain.iter().all(|id| *id < 260) {
            assert_eq!(ids, plain, "{message:?}");
        }
    }
    check(&t, "a", "<|x|>{}<|u|>", &[262, 265]);
    for message in ["<|x|>", "<|x|>y", "<|end_of_text|>", "<|u|>", "a<|x|><|x|>b", "<|x<|x|>", "#", "x#y", "<｜d｜>"]
    {
        check(&t, message, "{}", &[]);
        check(&t, message, "<|x|>{}<|u|>", &[262, 265]);
        check(&t, message, "<|u|>{}{}{}<|x|>", &[265, 262]);
    }
    // What a message only begins, the next completes.
    check(&t, "<|x", "{}|>", &[]);
    check(&t, "<|", "{}x|>", &[]);
    check(&t, "<", "{}<|x|>", &[262]);
    check(&t, "a<|x|>y", "{}y", &[]);
    // User-defined tokens that are no structure are what they are in any text.
    check(&t, "a  b<think>", "{}", &[261, 266]);
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
        |v| v.pre = "unheard-of".into(),
        "`unheard-of` (tokenizer.ggml.pre) is not supported; supported are default, gpt-2",
    );
    check(|v| v.tokens.clear(), "tokenizer.ggml.tokens holds 0 tokens");
    check(|v| v.token_types.truncate(9), "token_type has 9 entries for the 265");
    check(|v| v.tokens[..256].iter_mut().for_each(|t| t.to_mut().insert(0, '字')), "no token for any byte");
    check(
        |v| v.tokens[260] = "long".repeat(1 << 20).into(),
        "special tokens of tokenizer.ggml.tokens, in bytes, needs 41943",
    );
}

/// What is wrong and harms few texts is told, once for each kind.
#[test]
fn blemishes() {
    /// Of `vocab`, changed so, this is told, and `text` becomes these ids.
    #[track_caller]
    fn check(mut v: Vocab<'static>, change: impl FnOnce(&mut Vocab<'_>), text: &str, ids: &[u32], want: &[&str]) {
        change(&mut v);
        let t = Tokenizer::new(v).unwrap();
        assert_eq!(t.encode_prompt(text, false).unwrap(), ids);
        let told = t.blemishes();
        assert_eq!(told.len(), want.len(), "{told:?}");
        for (told, want) in told.iter().zip(want) {
            assert!(told.contains(want) && told.len() < 250, "`{told}` does not say `{want}`");
        }
    }
    check(vocab(), |_| (), "abc", &[257], &[]);
    check(
        vocab(),
        |v| v.pad = Some(u32::MAX),
        "abc",
        &[257],
        &["padding_token_id is 4294967295, but tokenizer.ggml.t"],
    );
    check(
        vocab(),
        |v| v.eos = Some(265),
        "abc",
        &[257],
        &["eos_token_id is 265, but tokenizer.ggml.tokens has 265 tok"],
    );
    check(vocab(), |v| v.unk = Some(300), "abc", &[257], &["unknown_token_id is 300"]);
    check(vocab(), |v| (v.eot, v.eom) = (Some(300), Some(301)), "abc", &[257], &["eot_token_id", "eom_token_id"]);
    check(vocab(), |v| v.fim_sep = Some(300), "abc", &[257], &["fim_sep_token_id is 300"]);
    check(
        vocab(),
        |v| (v.bos, v.add_bos) = (None, Some(true)),
        "abc",
        &[257],
        &["add_bos_token is set, but there is no"],
    );
    check(
        vocab(),
        |v| v.token_types[256] = 7,
        "ab",
        &[256],
        &["token_type[256] is 7, which is not 1 to 6; it counts as n"],
    );
    check(
        vocab(),
        |v| v.token_types[1..4].fill(-1),
        "a",
        &[97],
        &["token_type[1] is -1, which is not 1 to 6, and 2 more"],
    );
    check(vocab(), |v| v.token_types.push(1), "a", &[97], &["token_type has 266 entries for the 265"]);
    check(vocab(), |v| v.tokens[263] = "".into(), "a", &[97], &["tokens[263] is empty"]);
    check(
        vocab(),
        |v| v.tokens[263] = "ab".into(),
        "ab",
        &[263],
        &["holds `ab` twice, as 256 and 263; text becomes the last"],
    );
    let merges = |text: &'static str| move |v: &mut Vocab<'_>| v.merges.insert(0, text.into());
    check(vocab(), merges("abc"), "abc", &[257], &["merges[0] is `abc`, which is not two tokens; it merges nothing"]);
    check(vocab(), merges(""), "abc", &[257], &["merges[0] is ``, which is not two tokens"]);
    check(vocab(), merges("a "), "abc", &[257], &["merges[0] is `a `, which is not two tokens"]);
    check(vocab(), merges("a 字"), "abc", &[257], &["merges[0] is `a 字`, which is not spelled in bytes"]);
    check(vocab(), merges("a b c"), "abc", &[257], &["merges[0] is `a b c`, which is not spelled in bytes"]);
    // A merge of no token comes at its rank and leaves bytes.
    check(
        vocab(),
        merges("a c"),
        "acb",
        &[97, 99, 98],
        &["merges[0] is `a c`, of which a part or the whole is no token"],
    );
    check(vocab(), merges("a zz"), "abc", &[257], &["merges[0] is `a zz`, of which a part or the whole is no token"]);
    check(
        vocab(),
        |v| v.merges.splice(..0, ["Q Q", "q q"].map(Cow::from)).for_each(drop),
        "QQab",
        &[81, 81, 256],
        &["1 more"],
    );
    let through = |v: &mut Vocab<'_>| v.merges = ["a c", "ac b"].map(Cow::from).into();
    let whole = |v: &mut Vocab<'_>| (v.tokens[263], v.token_types[263]) = ("acb".into(), 1);
    let change = |v: &mut Vocab<'_>| {
        through(v);
        whole(v);
    };
    check(vocab(), change, "acb", &[263], &["merges[0] is `a c`, of which"]);

    check(spm_vocab(), |_| (), "a", &[1, 265], &[]);
    check(spm_vocab(), |v| v.scores.clear(), "a", &[1, 265], &["tokenizer.ggml.scores is missing"]);
    check(spm_vocab(), |v| v.scores.push(1.0), "a", &[1, 265], &["scores has 270 entries for the 269"]);
    check(
        spm_vocab(),
        |v| v.scores[263] = f32::NAN,
        "bc",
        &[1, 264, 263],
        &["scores[263] is not a number; it counts as the"],
    );
    check(
        spm_vocab(),
        |v| v.tokens[13] = "".into(),
        "a",
        &[1, 265],
        &["tokens[13] is empty", "no token for the byte 0x0a; "],
    );
    check(
        spm_vocab(),
        |v| v.tokens[4] = "zz".into(),
        "a",
        &[1, 265],
        &["no token for the byte 0x01; text that needs one"],
    );
    check(
        spm_vocab(),
        |v| v.tokens[3..259].fill("<>".into()),
        "a",
        &[1, 265],
        &["holds `<>` twice, as 3 and 4, and 254 more", "no token for the byte 0x00, and "],
    );
    check(spm_vocab(), |v| v.tokens[260] = "a".into(), "a", &[1, 265], &["holds `a` twice, as 259 and 260"]);
    check(spm_vocab(), |v| v.eos = Some(999), "a", &[1, 265], &["eos_token_id is 999"]);
    // Where the key is out of range, the default serves.
    let t = Tokenizer::new(Vocab { eos: Some(999), ..spm_vocab() }).unwrap();
    assert_eq!((t.eos(), t.ends()), (Some(2), &[2][..]));
}

/// Text that needs a token that the vocabulary lacks is refused, and other text is not.
#[test]
fn missing_bytes() {
    let mut v = spm_vocab();
    v.tokens[13] = "zz".into();
    let t = Tokenizer::new(v).unwrap();
    assert_eq!(t.encode("a b", false).unwrap(), [265, 264, 260]);
    let error = t.encode("a\nb", false).unwrap_err().to_string();
    assert!(error.contains("the character `\\n`, but the model's vocabulary has no token for it"), "{error}");
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
    assert_eq!(Tokenizer::from_metadata(&metadata).unwrap().encode_prompt("abc", true).unwrap(), [257]);
    metadata.insert("tokenizer.ggml.pre", Value::String("llama-bpe".into()));
    let t = Tokenizer::from_metadata(&metadata).unwrap();
    assert_eq!((t.n_vocab(), t.bos(), t.ends()), (265, None, [260].as_slice()));
    assert_eq!(t.encode_prompt("abc<|x|>", true).unwrap(), [257, 262]);
    // What is not UTF-8 or no id is left out and told.
    metadata.insert("tokenizer.ggml.merges", Value::Array([b"a b".as_slice(), &[0xff]].iter().collect()));
    metadata.insert("tokenizer.ggml.eot_token_id", Value::I32(-1));
    metadata.insert("tokenizer.ggml.padding_token_id", Value::String("none".into()));
    let raw: Vec<&[u8]> =
        v.tokens.iter().map(|t| if t == "pad" { b"\xe2\x96".as_slice() } else { t.as_bytes() }).collect();
    metadata.insert("tokenizer.ggml.tokens", Value::Array(raw.iter().collect()));
    let t = Tokenizer::from_metadata(&metadata).unwrap();
    let told: Vec<&str> = t.blemishes().iter().map(|b| b.split_once(';').unwrap().0).collect();
    let want = [
        "tokenizer.ggml.tokens[263] is not UTF-8",
        "tokenizer.ggml.merges[1] is not UTF-8",
        "metadata key 'tokenizer.ggml.eot_token_id' is -1 (i32), not an integer from 0 to 2^32 - 1",
        "metadata key 'tokenizer.ggml.padding_token_id' is of type string, not an integer from 0 to 2^32 - 1",
        "tokenizer.ggml.merges[1] is ``, which is not two tokens",
    ];
    assert_eq!(told, want);
    assert_eq!((t.encode("abc", true).unwrap(), t.token_bytes(263)), (vec![257], &b"\xe2\x96"[..]));
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
        assert_eq!(t.encode(text, special).unwrap(), want, "{text:?}");
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
    assert_eq!(t.encode_prompt("a", true).unwrap(), [1, 265]);
    assert_eq!((t.bos(), t.eos(), t.unk(), t.ends()), (Some(1), Some(2), Some(0), [2].as_slice()));
    for n in [10, 100, 1000] {
        check(&bare, &"abc".repeat(n), false, &[259, 263].repeat(n));
        check(&bare, &"a".repeat(n), false, &vec![259; n]);
    }
}

#[test]
fn sentencepiece_needs_scores_of_all_tokens() {
    let error = Tokenizer::new(Vocab { scores: vec![0.0; 9], ..spm_vocab() }).expect_err("too few").to_string();
    assert!(error.contains("tokenizer.ggml.scores has 9 entries for the 269"), "{error}");
}

/// `<pad>`, `<s>`, `</s>`, all bytes, then from 259: a b ▁ ▁a ab, newlines one and three, ▁▁, é.
fn gemma_vocab() -> Vocab<'static> {
    let mut tokens: Vec<Cow<str>> = ["<pad>", "<s>", "</s>"].map(Cow::from).into();
    tokens.extend((0..=255).map(|b| Cow::from(format!("<0x{b:02X}>"))));
    tokens.extend(["a", "b", "▁", "▁a", "ab", "\n", "\n\n\n", "▁▁", "é"].map(Cow::from));
    Vocab {
        model: "gemma4".into(),
        token_types: [vec![3; 3], vec![6; 256], vec![1; 9]].concat(),
        tokens,
        merges: ["▁ ▁", "a b", "▁ a", "\n \n", "é x", "éx ▁"].map(Cow::from).into(),
        ..Vocab::default()
    }
}

/// Characters merge by a list, across what would be words; what is left of no token is bytes.
#[test]
fn characters_merge_by_a_list() {
    let t = Tokenizer::new(gemma_vocab()).unwrap();
    assert_eq!(t.blemishes(), [] as [String; 0]);
    #[track_caller]
    fn check(t: &Tokenizer, text: &str, want: &[u32]) {
        assert_eq!(t.encode(text, false).unwrap(), want, "{text:?}");
        assert_eq!(t.decode(want), text, "{text:?}");
    }
    let byte = |b: u8| u32::from(b) + 3;
    check(&t, "", &[]);
    check(&t, "ab a", &[263, 262]);
    check(&t, " ab", &[261, 263]);
    check(&t, "   a", &[266, 262]);
    check(&t, "é字", &[267, byte(0xe5), byte(0xad), byte(0x97)]);
    // What merges into no token is the bytes of its characters.
    check(&t, "éxa", &[byte(0xc3), byte(0xa9), byte(b'x'), 259]);
    // As many newlines as a token has are it; others merge.
    check(&t, "a\n\n\nb\na", &[259, 265, 260, 264, 259]);
    check(&t, "\n\n", &[byte(b'\n'), byte(b'\n')]);
    check(&t, "<s>", &"<s>".bytes().map(byte).collect::<Vec<_>>());
    assert_eq!(t.encode("<s>a", true).unwrap(), [1, 259]);
    let mut v = gemma_vocab();
    v.merges.push("ab".into());
    assert!(Tokenizer::new(v).unwrap().blemishes()[0].contains("merges[6] is `ab`, which is not two tokens"));
}

/// Against merging one pair at a time, on texts.
#[test]
fn characters_merge_by_rank_and_from_the_left() {
    let reference = |v: &Vocab<'_>, word: &str| -> Vec<u32> {
        let id = |text: &str| v.tokens.iter().position(|t| t == text).map(|id| id as u32);
        let bytes = |part: &str| part.bytes().map(|b| u32::from(b) + 3).collect();
        let parts = merged(v, word);
        parts.iter().flat_map(|part| id(part).map_or_else(|| bytes(part), |id| vec![id])).collect()
    };
    let mut random = draws(7);
    for round in 0..80 {
        let mut v = gemma_vocab();
        v.token_types.clear();
        v.tokens.truncate(259);
        v.merges.clear();
        let alphabet = ["a", "b", "▁"];
        let mut known: Vec<String> = alphabet.map(String::from).into();
        for _ in 0..12 {
            let (left, right) = (known[random(known.len())].clone(), known[random(known.len())].clone());
            known.push([&*left, &*right].concat());
            v.merges.push(format!("{left} {right}").into());
        }
        // Some of what merges make is no token.
        let tokens: BTreeSet<String> = known.into_iter().filter(|_| random(4) > 0).collect();
        v.tokens.extend(tokens.into_iter().map(Cow::from));
        let word: String = (0..1 + random(150)).map(|_| alphabet[random(1 + round % 3)]).collect();
        let want = reference(&v, &word);
        let got = Tokenizer::new(v.clone()).unwrap().encode(&word, false).unwrap();
        assert_eq!(got, want, "{word} by {:?} of {:?}", v.merges, &v.tokens[259..]);
    }
}

/// The splits of tokens are found in time linear in their bytes, whatever they are.
#[test]
fn long_tokens_load_in_linear_time() {
    let mut v = Vocab { add_space_prefix: Some(false), ..spm_vocab() };
    v.token_types.clear();
    v.tokens.extend((2..2000).map(|n| Cow::from("a".repeat(n))));
    v.tokens.extend((0..2000).map(|n| Cow::from(format!("{n:04}").repeat(250))));
    v.scores.resize(v.tokens.len(), -1.0);
    let start = std::time::Instant::now();
    let t = Tokenizer::new(v).unwrap();
    let time = start.elapsed();
    assert!(time.as_secs_f64() < 10.0, "{time:?} for 4 MB of tokens");
    assert_eq!(t.decode(&t.encode(&"a".repeat(5000), false).unwrap()), "a".repeat(5000));
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
    let mut random = draws(1);
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
        assert_eq!(Tokenizer::new(v.clone()).unwrap().encode(&word, false).unwrap(), want, "{word} by {:?}", v.tokens);
    }
}
