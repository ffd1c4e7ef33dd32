//! The tokenizer against the ids of llama.cpp.

use ir::gguf;
use runtime::Error;
use runtime::tokenizer::Tokenizer;
use serde::Deserialize;
use std::path::Path;
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
            assert_eq!(tokenizer.encode_prompt(&prompt.text, true), prompt.ids, "{stem}, prompt '{}'", prompt.name);
        }
    }
}

#[track_caller]
fn check(tokenizer: &Tokenizer, text: &str, special: bool, want: &[u32], place: &str) {
    assert_eq!(tokenizer.encode(text, special), want, "{place}, special tokens {special}");
}
