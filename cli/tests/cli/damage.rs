//! Damaged files: each is refused by name.

use crate::harness::{check_refused, command, rigc, small, wait};
use half::f16;
use ir::target;
use runtime::device::CpuDevice;
use std::fs;
use std::path::Path;
use tests::model::Model;
use tests::synthetic::{Synthetic, format};

/// A folder with a small model and its artifact.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("m.gguf"), small().gguf()).unwrap();
    let o = rigc(dir.path(), &["compile", "m.gguf"]);
    assert_eq!(o.code, Some(0), "{}", o.err);
    dir
}

#[test]
fn cut_models() {
    let dir = tempfile::tempdir().unwrap();
    let whole = small().gguf();
    // All short lengths, then ever longer steps; the last byte too.
    let lengths = (1..40).chain((0..).map(|i| 40 + i * i * 7).take_while(|&n| n < whole.len()));
    for n in lengths.chain([whole.len() - 1]) {
        fs::write(dir.path().join("cut.gguf"), &whole[..n]).unwrap();
        check_refused(dir.path(), &["inspect", "cut.gguf"], &["cut.gguf"]);
        if n % 5 == 0 {
            check_refused(dir.path(), &["run", "cut.gguf", "x"], &["cut.gguf"]);
            check_refused(dir.path(), &["compile", "cut.gguf"], &["cut.gguf"]);
        }
    }
    assert!(!dir.path().join("cut.rig").exists());
}

/// Replaces the only or first occurrence of `from` in the manifest of the artifact in `dir`, which stays whole.
fn edit(dir: &Path, from: &str, to: &str) {
    let path = dir.join("m.rig/manifest.ron");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{} has no {from}", path.display());
    fs::write(path, runtime::artifact::sealed(&text.replacen(from, to, 1))).unwrap();
}

#[test]
fn damaged_artifacts() {
    type Damage = (&'static str, fn(&Path), &'static [&'static str]);
    let table: &[Damage] = &[
        ("no manifest", |d| fs::remove_file(d.join("m.rig/manifest.ron")).unwrap(), &["m.rig is no artifact"]),
        (
            "empty manifest",
            |d| fs::write(d.join("m.rig/manifest.ron"), "").unwrap(),
            &["manifest.ron", "compile the model again"],
        ),
        ("no text", |d| fs::write(d.join("m.rig/manifest.ron"), b"\xff\0").unwrap(), &["manifest.ron", "compile"]),
        (
            "half a manifest",
            |d| {
                let path = d.join("m.rig/manifest.ron");
                let bytes = fs::read(&path).unwrap();
                fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
            },
            &["manifest.ron", "compile the model again"],
        ),
        (
            "another format",
            |d| edit(d, "rigc-artifact-", "rigc-artifact-9"),
            &["rigc-artifact-9", "compile the model again"],
        ),
        (
            "another version",
            |d| edit(d, &format!("rigc: \"{}\"", env!("CARGO_PKG_VERSION")), "rigc: \"77.0.0\""),
            &["77.0.0", env!("CARGO_PKG_VERSION"), "compile the model again"],
        ),
        ("another ABI", |d| edit(d, "abi: ", "abi: 9"), &["ABI 9", "compile the model again"]),
        (
            "a digit of the manifest",
            |d| {
                let path = d.join("m.rig/manifest.ron");
                let text = fs::read_to_string(&path).unwrap();
                fs::write(path, text.replacen("offset: 64", "offset: 65", 1)).unwrap();
            },
            &["manifest.ron is damaged", "compile the model again"],
        ),
        (
            "a kernel without its hash",
            |d| edit(d, "hash: \"", "hash: \"x"),
            &["kernel 0 has no SHA-256", "compile the model again"],
        ),
        ("an unknown target", |d| edit(d, "target: \"x86-64", "target: \"vax"), &["vax"]),
        (
            "a bit of the code",
            |d| {
                let path = module(d);
                let mut bytes = fs::read(&path).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(path, bytes).unwrap();
            },
            &["is damaged", "SHA-256", "compile the model again"],
        ),
        (
            "short code",
            |d| {
                let path = module(d);
                let bytes = fs::read(&path).unwrap();
                fs::write(path, &bytes[1..]).unwrap();
            },
            &["is damaged", "bytes", "compile the model again"],
        ),
        ("no code", |d| fs::remove_file(module(d)).unwrap(), &["is missing", "compile the model again"]),
        ("no weights", |d| fs::remove_file(d.join("m.gguf")).unwrap(), &["weights", "m.gguf"]),
        (
            "a bit of the weights",
            |d| {
                let path = d.join("m.gguf");
                let mut bytes = fs::read(&path).unwrap();
                *bytes.last_mut().unwrap() ^= 1;
                fs::write(path, bytes).unwrap();
            },
            &["m.gguf is not the file", "compile the model again"],
        ),
        (
            "another model",
            |d| {
                let other = tests::synthetic::Synthetic { seed: 2, ..small() };
                fs::write(d.join("m.gguf"), other.gguf()).unwrap();
            },
            &["m.gguf is not the file", "compile the model again"],
        ),
    ];
    let good = folder();
    for (what, damage, words) in table {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("m.rig")).unwrap();
        for from in [good.path().to_owned(), good.path().join("m.rig")] {
            for entry in fs::read_dir(&from).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()) {
                let to = dir.path().join(entry.strip_prefix(good.path()).unwrap());
                fs::copy(&entry, to).unwrap();
            }
        }
        // The artifact remembers where its model was.
        let place = |d: &Path| d.to_str().unwrap().to_owned();
        edit(dir.path(), &place(good.path()), &place(dir.path()));
        damage(dir.path());
        println!("{what}");
        check_refused(dir.path(), &["run", "m.rig", "x"], words);
    }
}

/// The file of an artifact that holds its code.
fn module(dir: &Path) -> std::path::PathBuf {
    let files = fs::read_dir(dir.join("m.rig")).unwrap().map(|e| e.unwrap().path());
    files.into_iter().find(|p| !p.ends_with("manifest.ron")).unwrap()
}

/// A moved pair of artifact and model still runs.
#[test]
fn moved_together() {
    let (old, new) = (folder(), tempfile::tempdir().unwrap());
    for name in ["m.gguf", "m.rig"] {
        fs::rename(old.path().join(name), new.path().join(name)).unwrap();
    }
    let o = rigc(new.path(), &["run", "m.rig", "x", "-n", "1", "--ignore-eos"]);
    assert_eq!(o.code, Some(0), "{}", o.err);
}

/// A full disk under stdout is a failure, not a panic; under stderr it changes nothing.
#[test]
fn full_disk() {
    let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") else { return };
    let o = wait(command(Path::new("."), &["inspect"]).stdout(full).spawn().unwrap());
    assert_eq!(o.code, Some(2), "{}", o.err);
    assert_eq!(o.err.lines().count(), 1, "{}", o.err);
    for (args, code) in [(&["run", "missing.gguf", "x"][..], 2), (&["run", "x", "-n", "1"], 0)] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let o = wait(command(Path::new("."), args).stderr(full).spawn().unwrap());
        assert_eq!(o.code, Some(code), "{args:?} with stderr full");
    }
}

/// Numbers in the file that are not finite, or grow so large that they are stored as infinity, are an error on every target
/// that names the token after which no logit is finite; nothing is printed.
#[test]
fn numbers_that_are_not_finite() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let whole = Synthetic { format: format("q4_0"), ..small() }.gguf();
    let words = &["after token", "at position", "not finite"];
    let text = "Now is the winter of our discontent made glorious summer.\n".repeat(8);
    fs::write(dir.join("text.txt"), text).unwrap();
    let targets = target::ALL.iter().filter(|t| t.cpu().is_some() && CpuDevice::new(t, 1).is_ok());
    let mut devices: Vec<Vec<&str>> = targets.map(|t| vec!["--target", t.name, "--threads", "1"]).collect();
    devices.push(vec!["--target", "sm_120", "--device", "emu"]);
    let scale = |bits: u16| bits.to_le_bytes().to_vec();
    let table: [(&str, Vec<u8>, &[&str]); 7] = [
        ("blk.0.attn_norm.weight", f32::NAN.to_le_bytes().to_vec(), &["f16", "q8_0"]),
        ("blk.0.ffn_norm.weight", f32::INFINITY.to_le_bytes().to_vec(), &["f16"]),
        ("output_norm.weight", f32::NEG_INFINITY.to_le_bytes().to_vec(), &["f16"]),
        ("blk.0.ffn_down.weight", scale(f16::INFINITY.to_bits()), &["f16"]),
        ("blk.0.attn_output.weight", scale(f16::NAN.to_bits()), &["f16"]),
        ("blk.0.attn_k.weight", scale(f16::NAN.to_bits()), &["f16", "q8_0"]),
        // Finite, but more than the cache holds.
        ("blk.0.attn_v.weight", scale(f16::from_f32(60000.0).to_bits()), &["f16"]),
    ];
    for (tensor, bytes, formats) in table {
        let mut file = whole.clone();
        let at = Model::new(whole.clone()).header.tensor(tensor).unwrap().offset as usize;
        file[at..at + bytes.len()].copy_from_slice(&bytes);
        fs::write(dir.join("m.gguf"), file).unwrap();
        for kv in formats {
            for device in &devices {
                let run = ["run", "m.gguf", "x", "-n", "2", "--temp", "0", "--kv", kv];
                check_refused(dir, &[&run[..], device].concat(), words);
            }
        }
        check_refused(dir, &["run", "m.gguf", "x", "-n", "2", "--top-logits", "3", "--seed", "1", "--json"], words);
        check_refused(dir, &["perplexity", "m.gguf", "text.txt", "--ctx", "32", "--threads", "1"], words);
    }
}
