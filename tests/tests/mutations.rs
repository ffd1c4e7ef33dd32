//! Damaged files, in process: a changed model or manifest gives an error that the user can act on, or something that runs;
//! never a panic, and never an allocation out of proportion to the file.

use ir::target;
use runtime::tokenizer::Tokenizer;
use runtime::{Error, ModelFile, artifact};
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use tests::run::{self, Settings};
use tests::synthetic::{Rng, Synthetic, zoo};

/// Largest single allocation; the files have less than 100 KB.
const LIMIT: usize = 64 << 20;

/// The system's allocator, which refuses more than [`LIMIT`] at once: the process aborts, naming the size.
struct Limited;

// SAFETY: as the system's allocator, which may fail.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        if layout.size() > LIMIT { std::ptr::null_mut() } else { unsafe { System.alloc(layout) } }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above; `alloc` gives what `System` gave.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Limited = Limited;

/// Changes some bytes of `bytes`, most often among the first `header`.
fn mutate(bytes: &mut Vec<u8>, header: usize, rng: &mut Rng) {
    for _ in 0..=rng.below(3) {
        let end = if rng.below(8) == 0 { bytes.len() } else { header.min(bytes.len()) };
        if end < 16 {
            return;
        }
        let at = rng.below(end);
        let wide = at.min(bytes.len() - 8);
        match rng.below(8) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.below(5)],
            2 => bytes[at] = rng.next() as u8,
            3 => {
                let n = [0, 1, u64::MAX, 1 << 31, u64::MAX >> 1, 1 << 40, u64::from(u32::MAX)][rng.below(7)];
                bytes[wide..wide + 8].copy_from_slice(&n.to_le_bytes());
            }
            4 => bytes[wide..wide + 4].copy_from_slice(&[0xff, 0xff, 0xff, [0x7f, 0xff][rng.below(2)]]),
            5 if rng.below(4) == 0 => bytes.truncate(at),
            6 => drop(bytes.drain(at..(at + 1 + rng.below(9)).min(end))),
            _ => {
                let piece = bytes[wide..wide + 1 + rng.below(8)].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
}

/// Whether it is an error of the file and not of rigc.
fn check_error(e: &Error, what: &str) {
    let internal = matches!(e, Error::Ir(ir::Error::Verify { .. }));
    assert!(!internal, "{what}: an internal error: {e}");
    assert!(!e.to_string().is_empty() && e.to_string().len() < 1000, "{what}: {e}");
}

/// Opens, compiles, loads and runs a step.
fn use_model(bytes: Vec<u8>) -> Result<(), Error> {
    let file = run::file(bytes)?;
    let tokenizer = Tokenizer::from_metadata(file.metadata())?;
    let target = run::targets()[0];
    let artifact = run::compile(&file, Settings { context: Some(2), ..Settings::new(target) })?;
    let mut executor = run::load(&file, artifact, 1)?;
    let ids = tokenizer.encode_prompt("a", true);
    executor.prefill(&ids[..ids.len().min(2)], &mut |_, _| true).map(|_| ())
}

fn small(format: &str) -> Synthetic {
    let spec = zoo().into_iter().find(|(name, _)| name == format).unwrap().1;
    Synthetic { vocab: 260, layers: 1, ..spec }
}

#[test]
fn models() {
    for name in ["llama-f32", "llama-q8_0-factors", "qwen3-k"] {
        let good = small(name).gguf();
        let header = ir::gguf::parse(&good).unwrap().data_offset as usize;
        use_model(good.clone()).unwrap();
        let mut rng = Rng::new(1);
        let mut fine = 0;
        for case in 0..300 {
            let mut bytes = good.clone();
            mutate(&mut bytes, header, &mut rng);
            match use_model(bytes) {
                Ok(()) => fine += 1,
                Err(e) => check_error(&e, &format!("{name}, case {case}")),
            }
        }
        println!("{name}: {fine} of 300 still run");
        assert!((1..299).contains(&fine), "{name}: {fine} of 300 still run");
    }
}

/// Reads and loads an artifact; nothing of it is run.
fn use_artifact(path: &Path, file: &ModelFile) -> Result<(), Error> {
    let artifact = artifact::read(path)?;
    run::load(file, artifact, 1).map(|_| ())
}

#[test]
fn manifests() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.rig");
    let file = run::file(small("llama-f32").gguf()).unwrap();
    let compiled = run::compile(&file, Settings::new(&target::ALL[0])).unwrap();
    artifact::write(&compiled, &path).unwrap();
    use_artifact(&path, &file).unwrap();
    let manifest = path.join(artifact::MANIFEST);
    let good = std::fs::read(&manifest).unwrap();
    let mut rng = Rng::new(2);
    for case in 0..300 {
        let mut text = good.clone();
        if case % 2 == 0 {
            number(&mut text, &mut rng);
        } else {
            mutate(&mut text, good.len(), &mut rng);
        }
        std::fs::write(&manifest, &text).unwrap();
        if let Err(e) = use_artifact(&path, &file) {
            check_error(&e, &format!("case {case}"));
        }
    }
}

/// Replaces a number of a text by another.
fn number(text: &mut Vec<u8>, rng: &mut Rng) {
    let start = rng.below(text.len());
    let Some(from) = (start..text.len()).find(|&i| text[i].is_ascii_digit() && !text[i - 1].is_ascii_alphanumeric())
    else {
        return;
    };
    let to = (from..text.len()).find(|&i| !text[i].is_ascii_digit()).unwrap_or(text.len());
    let n = ["0", "1", "7", "64", "1048577", "18446744073709551615", "9223372036854775808"];
    text.splice(from..to, n[rng.below(n.len())].bytes());
}
