//! Every weight format decodes to the values of GGML's reference decoder.

use ir::gguf::{Array, Value};
use ir::quant::{ALL, Format, ggml_type};
use runtime::ModelFile;
use std::path::Path;

fn json(path: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Decodes the blocks of `dir/NAME.blocks.bin` and compares each value with `dir/NAME.values.f32.bin`: equal, or off by
/// at most 1e-6 of the block's largest magnitude, as products taken in another order may be.
fn check(dir: &Path, format: Format, blocks: usize) {
    let bytes = read(&dir.join(format!("{format}.blocks.bin")));
    let values = read(&dir.join(format!("{format}.values.f32.bin")));
    let want: Vec<f32> = values.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    let block = format.block as usize;
    assert_eq!((bytes.len(), want.len()), (blocks * format.bytes as usize, blocks * block), "{format}: file sizes");
    let mut got = vec![f32::NAN; want.len()];
    format.decode_into(&bytes, &mut got);
    for (b, (got, want)) in got.chunks(block).zip(want.chunks(block)).enumerate() {
        let most = want.iter().fold(0f32, |m, v| m.max(v.abs()));
        for (e, (&g, &w)) in got.iter().zip(want).enumerate() {
            assert!(g == w || (g - w).abs() <= 1e-6 * most, "{format}: block {b}, element {e}: {g} instead of {w}");
        }
    }
}

#[test]
fn decoders_reproduce_the_reference() {
    let Some(dir) = tests::shared_dir("quant") else { return };
    let index = json(&dir.join("index.json"));
    let index = index.as_object().expect("an object by format name");
    let field = |name: &str, key: &str| index[name][key].as_u64().unwrap_or_else(|| panic!("{name}.{key}"));
    let mut skipped = Vec::new();
    for name in index.keys() {
        let Some(format) = Format::by_name(name) else {
            let known = ggml_type(field(name, "ggml_type") as u32).expect("a GGML type");
            let sizes = (u64::from(known.block), u64::from(known.bytes));
            assert_eq!((known.name.to_lowercase(), sizes), (name.clone(), sizes_of(&field, name)));
            skipped.push(name.as_str());
            continue;
        };
        let sizes = (u64::from(format.block), u64::from(format.bytes));
        assert_eq!((u64::from(format.id), sizes), (field(name, "ggml_type"), sizes_of(&field, name)), "{name}");
        check(&dir, format, field(name, "blocks") as usize);
    }
    let without: Vec<_> = ALL.iter().map(|f| f.name).filter(|n| !index.contains_key(*n)).collect();
    println!("not supported: {}; without goldens: {}", skipped.join(", "), without.join(", "));
    assert_eq!(without, ["f32"]);
}

fn sizes_of(field: &impl Fn(&str, &str) -> u64, name: &str) -> (u64, u64) {
    (field(name, "block_elements"), field(name, "block_bytes"))
}

#[test]
fn model_files_hold_what_their_goldens_say() {
    let Some(dir) = tests::shared_dir("models") else { return };
    let mut files = 0;
    for entry in std::fs::read_dir(dir.join("golden")).expect("golden outputs").map(|e| e.expect("an entry").path()) {
        if entry.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let golden = json(&entry);
        let Some(name) = golden["model"].as_str() else { continue };
        let model = ModelFile::open(dir.join(name)).unwrap_or_else(|e| panic!("{e}"));
        files += 1;
        if let Some(hash) = golden["sha256"].as_str() {
            assert_eq!(model.verify_hash(|_| ()), [hash], "{name}");
        }
        let vocab = model.metadata().strings("tokenizer.ggml.tokens").expect("a vocabulary");
        assert_eq!(Some(vocab.len() as u64), golden["n_vocab"].as_u64(), "{name}");
        let Some(tensors) = golden["tensors"].as_object() else { continue };
        assert_eq!(tensors.len(), model.tensors().count(), "{name}");
        for (tensor, want) in tensors {
            let (_, info) = model.tensor(tensor).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(
                Some(format!("{} {:?}", info.type_name(), info.dims).as_str()),
                want.as_str(),
                "{name}: {tensor}"
            );
            let format = info.format().expect("a supported format");
            assert_eq!(model.tensor_bytes(tensor).unwrap().len() as u64, format.bytes_of(info.elements()));
        }
    }
    assert!(files > 0, "{} has no goldens", dir.display());
}

#[test]
fn vocabularies_without_tensors_open() {
    let Some(dir) = tests::shared_dir("vocab") else { return };
    let mut files = 0;
    for path in std::fs::read_dir(&dir).expect("vocabularies").map(|e| e.expect("an entry").path()) {
        if path.extension().is_none_or(|e| e != "gguf") {
            continue;
        }
        let model = ModelFile::open(&path).unwrap_or_else(|e| panic!("{e}"));
        let Some(Value::Array(tokens @ Array::String(_))) = model.metadata().get("tokenizer.ggml.tokens") else {
            panic!("{}: no tokens", path.display());
        };
        assert!(tokens.len() > 1000 && model.tensors().count() == 0, "{}", path.display());
        files += 1;
    }
    assert!(files > 0, "{} has no vocabularies", dir.display());
}
