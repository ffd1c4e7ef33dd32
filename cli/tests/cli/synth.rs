//! `rigc synth`: files that load, are what they say, and are whole or absent.

use crate::harness::{check_refused, check_said, command, names, rigc, wait};
use std::time::Duration;

/// Every tiny shape, in mixes that together have all kinds of formats: made, read, run.
#[test]
fn made_models_run() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (shape, mix, formats) in [
        ("tiny-llama", "q4_k_m", &["F32", "Q4_K", "Q6_K"][..]),
        ("tiny-llama", "q3_k_m", &["F32", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]),
        ("tiny-llama", "iq4_xs", &["F32", "IQ4_XS", "Q5_K", "Q6_K"]),
        ("tiny-qwen2", "q8_0", &["F32", "Q8_0"]),
        ("tiny-qwen2", "q4_0", &["F32", "Q4_0", "Q6_K"]),
        ("tiny-qwen3", "f16", &["F16", "F32"]),
        ("tiny-qwen3", "iq3_xxs", &["F32", "IQ2_S", "IQ3_S", "IQ3_XXS", "Q5_K"]),
        ("tiny-qwen3", "q6_k", &["F32", "Q6_K"]),
        ("tiny-qwen3moe", "q4_k_m", &["F32", "Q4_K", "Q6_K"]),
        ("tiny-gpt-oss", "mxfp4_moe", &["F32", "MXFP4", "Q8_0"]),
    ] {
        let o = rigc(dir, &["synth", "--shape", shape, "--quant", mix, "-o", "m.gguf", "--force"]);
        assert_eq!((o.code, o.out.len()), (Some(0), 0), "{}", o.err);
        assert!(o.err.starts_with("m.gguf: ") && o.err.contains("bits a weight"), "{}", o.err);
        let report = rigc(dir, &["inspect", "m.gguf", "--json"]).json();
        let made: Vec<&String> = report["formats"].as_object().unwrap().keys().collect();
        assert_eq!(made, formats, "{shape} {mix}");
        let args = ["run", "m.gguf", "the winter of", "-n", "12", "--ignore-eos", "--json", "--temp", "0"];
        let run = rigc(dir, &[&args[..], &["--top-logits", "40", "--ctx", "64"]].concat()).json();
        assert_eq!(run["ids"].as_array().unwrap().len(), 12);
        // Logits of a model whose activations keep their size.
        let logits: Vec<f64> = run["top_logits"].as_array().unwrap().iter().map(|l| l[1].as_f64().unwrap()).collect();
        assert!((1.0..30.0).contains(&logits[0]) && logits[39] < logits[0], "{shape} {mix}: {logits:?}");
    }
    assert_eq!(names(dir), ["m.gguf"]);
}

#[test]
fn seeds() {
    let dir = tempfile::tempdir().unwrap();
    let make = |seed: &str, more: &[&str]| {
        let args = ["synth", "--shape", "tiny-qwen3", "--quant", "q4_k_m", "-o", "m.gguf", "--force", "--seed", seed];
        assert_eq!(rigc(dir.path(), &[&args[..], more].concat()).code, Some(0));
        std::fs::read(dir.path().join("m.gguf")).unwrap()
    };
    let (a, b, c) = (make("1", &[]), make("1", &[]), make("2", &[]));
    assert!(a == b && a != c && a.len() == c.len());
    let sparse = make("1", &["--sparse"]);
    let data = a.len() - a.iter().zip(&sparse).position(|(x, y)| x != y).unwrap();
    assert!(a.len() == sparse.len() && sparse[a.len() - data..].iter().all(|&x| x == 0));
}

/// The size that llama.cpp's quantiser gives a model of this shape: 42.5 GB.
#[test]
fn a_hole_of_full_size() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let o = rigc(dir.path(), &["synth", "--shape", "llama-70b", "--quant", "q4_k_m", "-o", "m.gguf", "--sparse"]);
    assert_eq!(o.code, Some(0), "{}", o.err);
    let file = std::fs::metadata(dir.path().join("m.gguf")).unwrap();
    assert!((42.51e9..42.53e9).contains(&(file.len() as f64)), "{} bytes", file.len());
    assert!(file.blocks() * 512 < 64 << 20, "{} blocks", file.blocks());
    let report = rigc(dir.path(), &["inspect", "m.gguf", "--json"]).json();
    assert_eq!((&report["config"]["layers"], &report["config"]["vocab"]), (&80.into(), &128256.into()));
    assert_eq!(report["formats"]["Q5_K"]["tensors"], 40);
}

#[test]
fn refusals() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(dir.join("old.gguf"), "mine").unwrap();
    std::fs::create_dir(dir.join("folder")).unwrap();
    let before = names(dir);
    let synth = |shape, mix, to| ["synth", "--shape", shape, "--quant", mix, "-o", to];
    for (args, words) in [
        (synth("tiny-llama", "q4_k_m", "old.gguf"), &["old.gguf exists", "--force"][..]),
        (synth("tiny-llama", "q4_k_m", "folder"), &["folder is a directory"]),
        (synth("tiny-llama", "q4_k_m", "nowhere/m.gguf"), &["nowhere/m.gguf"]),
        (synth("llama-9b", "q4_0", "m.gguf"), &["llama-9b", "llama-8b"]),
        (synth("tiny-llama", "q9", "m.gguf"), &["q9", "q8_0"]),
    ] {
        check_refused(dir, &args, words);
        assert_eq!(names(dir), before, "{args:?}");
    }
    assert_eq!(std::fs::read(dir.join("old.gguf")).unwrap(), b"mine");
}

/// Signals leave nothing behind.
#[test]
fn interrupted() {
    for name in ["INT", "TERM", "HUP"] {
        let dir = tempfile::tempdir().unwrap();
        // Some 16 GB, of which little is written.
        let child =
            command(dir.path(), &["synth", "--shape", "llama-8b", "--quant", "f16", "-o", "m.gguf"]).spawn().unwrap();
        // Once there is a file, signals are looked at; a small disk has it refused before.
        for _ in 0..500 {
            if !names(dir.path()).is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ =
            std::process::Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
        let o = wait(child);
        let refused = o.code == Some(2) && o.err.contains("no room");
        assert!(o.code == Some(130) || refused, "{name}: {:?}, {}", o.code, o.err);
        assert!(names(dir.path()).is_empty(), "{name}");
    }
}

/// Of several at once, one writes the file.
#[test]
fn one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let synth = |seed: &str| {
        let args = ["synth", "--shape", "tiny-llama", "--quant", "q4_0", "-o", "m.gguf", "--seed", seed];
        command(dir.path(), &args).spawn().unwrap()
    };
    let outcomes = ["1", "2", "3", "4"].map(synth).map(wait);
    assert_eq!(outcomes.iter().filter(|o| o.code == Some(0)).count(), 1, "{outcomes:?}");
    for o in outcomes.iter().filter(|o| o.code != Some(0)) {
        check_said(o, &["m.gguf exists", "--force"]);
    }
    assert_eq!(names(dir.path()), ["m.gguf"]);
}
