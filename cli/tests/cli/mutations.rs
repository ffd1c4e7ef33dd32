//! Files damaged at random, given to the program: exit code 0 or 2, one sentence, memory within bounds.

use crate::harness::{Outcome, check_said, command, rigc, small};
use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};
use tests::damage::{damage, number, seed};
use tests::synthetic::{Rng, Synthetic};

/// Most memory that a run may ever have.
const PEAK: u64 = 2 << 30;
/// Longest time for a run.
const PATIENCE: Duration = Duration::from_secs(120);

/// The largest memory that any process had that this one waited for, bytes.
fn peak_of_children() -> u64 {
    // SAFETY: a rusage is plain integers, for which zero is valid, and the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_CHILDREN, &mut usage), 0);
        usage
    };
    usage.ru_maxrss as u64 * 1024
}

/// Runs the program, whose output fits a pipe or is read to its end, but not forever.
fn bounded(dir: &Path, args: &[&str]) -> Outcome {
    let mut child = command(dir, args).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut out = Vec::new();
        stdout.read_to_end(&mut out).map(|_| out)
    });
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("{args:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut o = crate::harness::wait(child);
    o.out = reader.join().unwrap().unwrap();
    o
}

/// Checks what came of a damaged file; true if it was still good.
fn check(o: &Outcome) -> bool {
    if o.code == Some(0) {
        return true;
    }
    check_said(o, &[]);
    false
}

#[test]
fn damaged_at_random() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let good = Synthetic { context: 32, ..small() }.gguf();
    let header = ir::gguf::parse(&good).unwrap().data_offset as usize;
    fs::write(dir.join("text"), "text, more or less ".repeat(8)).unwrap();
    fs::write(dir.join("m.gguf"), &good).unwrap();
    let o = rigc(dir, &["compile", "m.gguf"]);
    assert_eq!(o.code, Some(0), "{}", o.err);
    let mut rng = Rng::new(seed(3));
    let commands: &[&[&str]] = &[
        &["run", "m.gguf", "ab", "-n", "3"],
        &["inspect", "m.gguf", "--json"],
        &["inspect", "m.gguf", "--verify"],
        &["compile", "m.gguf", "-o", "other.rig", "--target", "x86-64"],
        &["perplexity", "m.gguf", "text", "--ctx", "8", "--chunks", "2"],
    ];
    let mut fine = [0, 0];
    const CASES: usize = 150;
    for case in 0..CASES {
        let mut bytes = good.clone();
        damage(&mut bytes, header, &mut rng);
        fs::write(dir.join("m.gguf"), bytes).unwrap();
        let args = commands[case % commands.len()];
        println!("case {case}: {args:?}");
        fine[0] += usize::from(check(&bounded(dir, args)));
    }
    // Of an artifact, any of its files.
    fs::write(dir.join("m.gguf"), &good).unwrap();
    for case in 0..CASES {
        let file = dir.join(["m.rig/manifest.ron", "m.rig/manifest.ron", "m.rig/cpu.bin", "m.gguf"][case % 4]);
        let whole = fs::read(&file).unwrap();
        let mut bytes = whole.clone();
        match case % 4 {
            0 => number(&mut bytes, &mut rng),
            _ => damage(&mut bytes, whole.len(), &mut rng),
        }
        fs::write(&file, bytes).unwrap();
        let args: &[&str] = if case % 3 == 0 { &["inspect", "m.rig"] } else { &["run", "m.rig", "ab", "-n", "3"] };
        println!("case {case} of {}: {args:?}", file.display());
        fine[1] += usize::from(check(&bounded(dir, args)));
        fs::write(&file, whole).unwrap();
    }
    println!("still good: {fine:?} of {CASES}; peak memory {} MB", peak_of_children() >> 20);
    assert!((1..CASES).contains(&fine[0]) && fine[1] < CASES / 10, "still good: {fine:?}");
    assert!(peak_of_children() < PEAK, "{} bytes of memory", peak_of_children());
    let left: Vec<_> = crate::harness::names(dir).into_iter().filter(|n| n.starts_with('.')).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// Artifacts whose manifest is whole but has another number somewhere: they run, or are refused; nothing worse.
#[test]
fn edited_artifacts() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("m.gguf"), Synthetic { context: 32, ..small() }.gguf()).unwrap();
    let o = rigc(dir, &["compile", "m.gguf"]);
    assert_eq!(o.code, Some(0), "{}", o.err);
    let manifest = dir.join("m.rig/manifest.ron");
    let good = fs::read(&manifest).unwrap();
    let mut rng = Rng::new(seed(4));
    let mut fine = 0;
    const CASES: usize = 300;
    for case in 0..CASES {
        let mut text = good.clone();
        number(&mut text, &mut rng);
        fs::write(&manifest, runtime::artifact::sealed(&String::from_utf8(text).unwrap())).unwrap();
        println!("case {case}");
        fine += usize::from(check(&bounded(dir, &["run", "m.rig", "ab cd ef", "-n", "3"])));
    }
    println!("still good: {fine} of {CASES}");
    assert!((1..CASES / 2).contains(&fine), "still good: {fine} of {CASES}");
}
