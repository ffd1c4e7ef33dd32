//! The tokenizer against the ids of llama.cpp.

use ir::gguf;
use runtime::Error;
use runtime::tokenizer::Tokenizer;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;
use tests::gguf_files;
use tests::golden::Golden;

fn load(path: &Path) -> Result<Tokenizer, Error> {
    let header = gguf::parse(&std::fs::read(path).unwrap()).unwrap();
    Tokenizer::from_metadata(&header.metadata)
}

/// Each vocabulary file has its strings in `.inp` and their ids in `.out`; special tokens are plain text.
#[test]
fn vocabularies() {
    let Some(dir) = tests::shared_dir("vocab") else { return };
    let mut passed = 0;
    for path in gguf_files(&dir) {
        let tokenizer = match load(&path) {
            Err(e @ Error::Unsupported { .. }) => {
                eprintln!("skipped: {}: {e}", path.display());
                continue;
            }
            tokenizer => tokenizer.unwrap_or_else(|e| panic!("{}: {e}", path.display())),
        };
        let beside = |extension: &str| std::fs::read_to_string(format!("{}.{extension}", path.display())).unwrap();
        let (texts, ids) = (beside("inp"), beside("out"));
        let mut texts = texts.split("\n__ggml_vocab_test__\n");
        for (line, ids) in ids.lines().enumerate() {
            let want: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
            let text = texts.next().unwrap();
            let place = format!("{}, string {line}", path.display());
            check(&tokenizer, text, false, &want, &place);
            assert_eq!(tokenizer.decode(&want), text, "{place}");
        }
        assert_eq!(texts.next(), Some(""), "{}: a string has no ids", path.display());
        passed += 1;
    }
    assert!(passed > 0, "{}: no vocabulary of a supported kind", dir.display());
}

#[derive(Deserialize)]
struct PreKinds {
    vocabulary: String,
    strings: Vec<String>,
    /// Of each string, by kind.
    ids: BTreeMap<String, Vec<Vec<u32>>>,
}

/// One vocabulary split by every kind of pre-tokenizer; the ids are llama.cpp's.
#[test]
fn pre_tokenizers() {
    let Some(dir) = tests::shared_dir("vocab") else { return };
    let table: PreKinds = serde_json::from_str(include_str!("../data/pre_kinds.json")).unwrap();
    let mut header = gguf::parse(&std::fs::read(dir.join(&table.vocabulary)).unwrap()).unwrap();
    for (kind, ids) in &table.ids {
        header.metadata.insert("tokenizer.ggml.pre", gguf::Value::String(kind.as_str().into()));
        let tokenizer = Tokenizer::from_metadata(&header.metadata).unwrap();
        for (text, ids) in table.strings.iter().zip(ids) {
            check(&tokenizer, text, false, ids, &format!("{kind}, {text:?}"));
            assert_eq!(tokenizer.decode(ids), *text, "{kind}");
        }
        assert_eq!(ids.len(), table.strings.len(), "{kind}");
    }
}

/// Texts that are slow where a regex backtracks or a long word merges by repeated scans: 5 MB take at most 3 s, whatever
/// they are.
#[test]
fn time_is_linear() {
    let Some(dir) = tests::shared_dir("vocab") else { return };
    let table: PreKinds = serde_json::from_str(include_str!("../data/pre_kinds.json")).unwrap();
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let bytes: Vec<u8> = (0..1 << 16).map(|_| random() as u8).collect();
    let chars = (0..1 << 14).filter_map(|_| char::from_u32(random() % 0x11_0000)).collect::<String>();
    let (bytes, all) = (String::from_utf8_lossy(&bytes).into_owned(), table.strings.concat());
    let parts =
        ["a", "A", "ab", " ", "\n", "\t ", " \n", "7", "😀", "字", "ก", "!", "'", "é\u{301}", &bytes, &chars, &all];
    let check = |tokenizer: &Tokenizer, kind: &str, length: usize| {
        for part in parts {
            let text = part.repeat(length / part.len() + 1);
            let start = Instant::now();
            let ids = tokenizer.encode(&text, false).unwrap();
            let (time, name) = (start.elapsed(), part.chars().take(20).collect::<String>());
            assert!(time.as_secs_f64() < 3.0, "{kind}: {length} bytes of {name:?} took {time:?}");
            assert_eq!(tokenizer.decode(&ids), text, "{kind}: {name:?}");
        }
    };
    let mut header = gguf::parse(&std::fs::read(dir.join(&table.vocabulary)).unwrap()).unwrap();
    check(&Tokenizer::from_metadata(&header.metadata).unwrap(), &table.vocabulary, 5_000_000);
    for kind in table.ids.keys() {
        header.metadata.insert("tokenizer.ggml.pre", gguf::Value::String(kind.as_str().into()));
        check(&Tokenizer::from_metadata(&header.metadata).unwrap(), kind, 500_000);
    }
    let sentencepiece = "ggml-vocab-llama-spm.gguf";
    check(&load(&dir.join(sentencepiece)).unwrap(), sentencepiece, 5_000_000);
}

#[derive(Deserialize)]
struct Strings {
    strings: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    text: String,
    ids: Vec<u32>,
    /// Where it differs.
    ids_parse_special_off: Option<Vec<u32>>,
}

/// All test models have one tokenizer, so `tokenizer.json` holds for each.
#[test]
fn models() {
    let Some(dir) = tests::shared_dir("models") else { return };
    let strings = std::fs::read_to_string(dir.join("golden/tokenizer.json")).ok();
    if strings.is_none() {
        eprintln!("skipped: {} has no golden/tokenizer.json", dir.display());
    }
    let strings = strings.map(|text| serde_json::from_str::<Strings>(&text).unwrap().strings).unwrap_or_default();
    for path in gguf_files(&dir) {
        let tokenizer = load(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        for entry in &strings {
            let place = format!("{}, {:?}", path.display(), entry.text);
            check(&tokenizer, &entry.text, true, &entry.ids, &place);
            let plain = entry.ids_parse_special_off.as_ref().unwrap_or(&entry.ids);
            check(&tokenizer, &entry.text, false, plain, &place);
            assert_eq!(tokenizer.decode(plain), entry.text, "{place}");
        }
        let stem = path.file_stem().unwrap().to_str().unwrap();
        for prompt in Golden::load(&dir, stem).map(|g| g.prompts).unwrap_or_default() {
            assert_eq!(
                tokenizer.encode_prompt(&prompt.text, true).unwrap(),
                prompt.ids,
                "{stem}, prompt '{}'",
                prompt.name
            );
        }
    }
}

#[track_caller]
fn check(tokenizer: &Tokenizer, text: &str, special: bool, want: &[u32], place: &str) {
    assert_eq!(tokenizer.encode(text, special).unwrap(), want, "{place}, special tokens {special}");
}
