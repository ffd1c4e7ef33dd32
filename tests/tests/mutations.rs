//! Damaged files, in process: a changed model or manifest gives an error that the user can act on, or something that runs;
//! never a panic, and never an allocation out of proportion to the file.

use ir::target::{self, Target};
use runtime::tokenizer::Tokenizer;
use runtime::{Error, ModelFile, artifact};
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use tests::damage::{damage, number, seed};
use tests::run::{self, Settings};
use tests::synthetic::{Rng, Synthetic, zoo};

/// Largest single allocation; the files have less than 100 KB.
const LIMIT: usize = 64 << 20;

/// Most memory that the process may ever have.
const PEAK: u64 = 2 << 30;

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

/// Whether it is an error of the file and not of rigc.
fn check_error(e: &Error, what: &str) {
    let internal = matches!(e, Error::Ir(ir::Error::Verify { .. }));
    assert!(!internal, "{what}: an internal error: {e}");
    assert!(!e.to_string().is_empty() && e.to_string().len() < 1000, "{what}: {e}");
}

/// Most memory that this process ever had, bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// Opens, compiles, loads and runs a step.
fn use_model(path: &Path, target: &'static Target) -> Result<(), Error> {
    let file = ModelFile::open(path)?;
    let tokenizer = Tokenizer::from_metadata(file.metadata())?;
    let artifact = run::compile(&file, Settings { context: Some(2), ..Settings::new(target) })?;
    let mut executor = run::load(&file, artifact, 1)?;
    let ids = tokenizer.encode_prompt("a", true)?;
    executor.prefill(&ids[..ids.len().min(2)], &mut |_, _| true).map(|_| ())
}

fn small(format: &str) -> Synthetic {
    let spec = zoo().into_iter().find(|(name, _)| name == format).unwrap().1;
    Synthetic { vocab: 260, layers: 1, ..spec }
}

#[test]
fn models() {
    const CASES: usize = 1000;
    let target = run::targets()[0];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    for name in ["llama-f32", "llama-q8_0-factors", "qwen3-k"] {
        let good = small(name).gguf();
        let header = ir::gguf::parse(&good).unwrap().data_offset as usize;
        std::fs::write(&path, &good).unwrap();
        use_model(&path, target).unwrap();
        let mut rng = Rng::new(seed(1));
        let mut fine = 0;
        for case in 0..CASES {
            let mut bytes = good.clone();
            damage(&mut bytes, header, &mut rng);
            std::fs::write(&path, &bytes).unwrap();
            match use_model(&path, target) {
                Ok(()) => fine += 1,
                Err(e) => check_error(&e, &format!("{name}, case {case}")),
            }
        }
        println!("{name}: {fine} of {CASES} still run");
        assert!((1..CASES).contains(&fine), "{name}: {fine} of {CASES} still run");
    }
    assert!(peak() < PEAK, "{} bytes of memory", peak());
}

/// Reads and loads an artifact; nothing of it is run.
fn use_artifact(path: &Path, file: &ModelFile) -> Result<(), Error> {
    let artifact = artifact::read(path)?;
    run::load(file, artifact, 1).map(|_| ())
}

/// Damaged manifests, and ones that are whole but say something else.
#[test]
fn manifests() {
    const CASES: usize = 1000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.rig");
    let file = run::file(small("llama-f32").gguf()).unwrap();
    let settings = Settings { context: Some(2), ..Settings::new(&target::ALL[0]) };
    artifact::write(&run::compile(&file, settings).unwrap(), &path).unwrap();
    use_artifact(&path, &file).unwrap();
    let manifest = path.join(artifact::MANIFEST);
    let good = std::fs::read(&manifest).unwrap();
    let mut rng = Rng::new(seed(2));
    let mut fine = 0;
    for case in 0..CASES {
        let mut text = good.clone();
        if case % 2 == 0 {
            number(&mut text, &mut rng);
        } else {
            damage(&mut text, good.len(), &mut rng);
        }
        std::fs::write(&manifest, &text).unwrap();
        match use_artifact(&path, &file) {
            // Damage to line ends and such.
            Ok(()) => assert!(text.starts_with(&good[..good.len() - 2]), "case {case}: damage is not seen"),
            Err(e) => check_error(&e, &format!("case {case}")),
        }
        let Ok(text) = String::from_utf8(text) else { continue };
        std::fs::write(&manifest, artifact::sealed(&text)).unwrap();
        match use_artifact(&path, &file) {
            Ok(()) => fine += 1,
            Err(e) => check_error(&e, &format!("case {case}, whole")),
        }
    }
    println!("{fine} of {CASES} can be loaded");
    assert!((1..CASES).contains(&fine), "{fine} of {CASES} can be loaded");
    assert!(peak() < PEAK, "{} bytes of memory", peak());
}
