//! `rigc bench`: the JSON of contracts, the peer's runs, what it refuses.

use crate::harness::{check_refused, command, rigc, shared, wait};
use ir::artifact::State;
use ir::plan::Step;
use ir::tensor::kv_rows;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// A program in place of llama-bench.
fn fake(dir: &Path, script: &str) -> String {
    let path = dir.join("llama-bench");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

const SHORT: [&str; 8] = ["bench", "demo.gguf", "--prompt", "20", "-n", "3", "--reps", "2"];
const KERNELS: [&str; 7] = ["bench", "demo.gguf", "--kernels", "--prompt", "20", "--reps", "2"];

#[test]
fn json() {
    let dir = tempfile::tempdir().unwrap();
    let args = dir.path().join("args");
    let tests = r#"[{"n_prompt": 20, "n_gen": 0, "avg_ts": 50}, {"n_prompt": 0, "n_gen": 3, "avg_ts": 10}]"#;
    let peer = fake(dir.path(), &format!("echo \"$@\" >> {}; echo '{tests}'", args.display()));
    let more = ["--depth", "7", "--threads", "1", "--json"];
    let r = rigc(shared(), &[&SHORT[..], &more, &["--against", &peer]].concat()).json();
    let mut keys: Vec<&String> = r.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["decode", "machine", "model", "peer", "prefill", "ratio", "threads"]);
    let number = |path: &str| r.pointer(path).and_then(|v| v.as_f64()).unwrap_or_else(|| panic!("{path} in {r}"));
    for phase in ["/decode", "/prefill", "/peer/decode", "/peer/prefill"] {
        let at = |name: &str| number(&format!("{phase}/tokens_per_second/{name}"));
        assert!(0.0 < at("min") && at("min") <= at("median") && at("median") <= at("max"), "{r}");
    }
    let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-9, "{a} {b}: {r}");
    near(number("/ratio/decode"), number("/decode/tokens_per_second/median") / 10.0);
    near(number("/ratio/prefill"), number("/prefill/tokens_per_second/median") / 50.0);
    let share = number("/decode/weight_gb_per_second") / number("/machine/read_gb_per_second");
    near(number("/decode/share_of_read_bandwidth"), share);
    assert!(number("/prefill/share_of_int8_peak") > 0.0 && number("/machine/int8_gmac_per_second") > 0.0);
    assert_eq!((&r["model"], &r["threads"]), (&"demo.gguf".into(), &1.into()));
    // One run for each repetition, on the same file.
    let args = std::fs::read_to_string(args).unwrap();
    assert_eq!(args.lines().count(), 2);
    for word in ["demo.gguf", "-t 1", "-p 20", "-n 3", "-d 7", "-r 1", "-o json"] {
        assert!(args.lines().all(|l| l.contains(word)), "{word} in {args}");
    }
    // Without a peer there is nothing of it.
    let r = rigc(shared(), &[&SHORT[..], &["--json"]].concat()).json();
    assert!(r.get("peer").is_none() && r.get("ratio").is_none());
}

#[test]
fn table() {
    let o = rigc(shared(), &SHORT);
    assert_eq!((o.code, o.err.as_str()), (Some(0), ""));
    for word in ["decode", "prefill", "% of read bandwidth", "% of int8 peak", "machine: reads"] {
        assert!(o.text().contains(word), "{word} in {}", o.text());
    }
}

/// Checks what is said of the kernels of the demo model: those of a step of one token, and of `large`, the entry point
/// of so many tokens that a prompt of 20 after `depth` tokens fills. Returns their names.
fn check_kernels(depth: u32, large: (&str, u64)) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let rig = dir.path().join("demo.rig");
    let (rig, context) = (rig.to_str().unwrap(), (depth + 20).to_string());
    assert_eq!(rigc(shared(), &["compile", "demo.gguf", "--ctx", &context, "-o", rig]).code, Some(0));
    let manifest = runtime::artifact::read(Path::new(rig)).unwrap().manifest;
    let r =
        rigc(shared(), &[&KERNELS[..], &["--depth", &depth.to_string(), "--threads", "1", "--json"]].concat()).json();
    assert_eq!((&r["model"], &r["threads"], &r["depth"]), (&"demo.gguf".into(), &1.into(), &depth.into()));
    let number = |v: &Value| v.as_f64().unwrap_or_else(|| panic!("{v} in {r}"));
    let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-9, "{a} {b}: {r}");
    let rates = [
        ("bytes", "gb_per_second", "share_of_read_bandwidth", number(&r["machine"]["read_gb_per_second"])),
        ("macs", "gmac_per_second", "share_of_int8_peak", number(&r["machine"]["int8_gmac_per_second"])),
    ];
    let mut names = Vec::new();
    let entries = r["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    for (entry, (name, tokens)) in entries.iter().zip([("decode", 1), large]) {
        assert_eq!((&entry["name"], &entry["tokens"]), (&name.into(), &tokens.into()));
        let compiled = manifest.entries.iter().find(|e| e.name == name).unwrap();
        let launched = compiled.plan.steps.iter().filter_map(Step::launch).map(|(kernel, _)| kernel as usize);
        let mut launches: Vec<&str> = launched.map(|k| &*manifest.kernels[k].name).collect();
        assert_eq!(entry["launches"], launches.len());
        let (mut sum, mut macs, mut bytes) = (0.0, 0, 0);
        for k in entry["kernels"].as_array().unwrap() {
            let n = launches.iter().filter(|&&l| l == k["name"]).count();
            assert!(n > 0 && k["launches"] == n, "{k}");
            launches.retain(|&l| l != k["name"]);
            names.push(k["name"].as_str().unwrap().to_owned());
            let at = |name: &str| number(&k["microseconds"][name]);
            assert!(0.0 < at("min") && at("min") <= at("median") && at("median") <= at("max"), "{k}");
            let all = at("median") * n as f64;
            near(number(&k["share_of_step"]), all / number(&entry["step_microseconds"]["median"]));
            for (count, rate, share, bound) in rates {
                if let Some(count) = k[count].as_f64() {
                    near(number(&k[rate]), count / at("median") / 1e3);
                    near(number(&k[share]), number(&k[rate]) / bound);
                } else {
                    assert!([count, rate, share].iter().all(|&figure| k[figure].is_null()), "{k}");
                }
            }
            sum += all;
            macs += k["macs"].as_u64().unwrap_or(0) * n as u64;
            bytes += k["bytes"].as_u64().unwrap_or(0) * n as u64;
        }
        assert!(launches.is_empty(), "no figures of {launches:?}");
        near(number(&entry["sum_microseconds"]), sum);
        // Each matrix for every token, but the output matrix, if there is one row of logits, for one.
        let matrices = manifest.weights.iter().filter(|w| w.ty.shape.len() == 2);
        let rows = |rows: usize| if rows == manifest.figures.vocab && !compiled.all_logits { 1 } else { tokens };
        assert_eq!(macs, matrices.map(|w| w.ty.elements() as u64 * rows(w.ty.rows())).sum::<u64>());
        // Besides all weights, rows of the embedding table for the tokens, and the KV cache up to them.
        let weights: u64 = manifest.weights.iter().filter_map(|w| w.ty.weight_bytes()).sum();
        let row = |s: &State| s.ty.shape[0] as u64 * kv_rows(&s.ty).unwrap().row as u64;
        let positions = (u64::from(depth) + 2 * tokens) * manifest.states.iter().map(row).sum::<u64>();
        let table = manifest.weights[0].ty.weight_bytes().unwrap() / manifest.figures.vocab as u64;
        assert_eq!(bytes, weights + positions + table * tokens);
    }
    names
}

#[test]
fn kernels() {
    check_kernels(3, ("batch@16", 16));
    let names = check_kernels(0, ("batch@16", 16));
    // A model is compiled as an artifact is, and the same steps are timed.
    let o = rigc(shared(), &["compile", "m.gguf", "-o", "timed.rig"]);
    assert_eq!(o.code, Some(0), "{}", o.err);
    let entries = |model: &str, prompt: &str| {
        let args = ["bench", model, "--kernels", "--prompt", prompt, "--reps", "1", "--json"];
        let json = rigc(shared(), &args).json();
        json["entries"].as_array().unwrap().iter().map(|e| e["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(entries("m.gguf", "33"), entries("timed.rig", "33"));
    // The table has a line for each.
    let o = rigc(shared(), &KERNELS);
    let lines = |name: &str| o.text().lines().filter(|l| l.split_whitespace().next() == Some(name)).count();
    assert!(names.iter().all(|name| lines(name) == 1), "{names:?}: {}", o.text());
    // A prompt of one token fills the step of one token only.
    let r = rigc(shared(), &["bench", "m.gguf", "--kernels", "--prompt", "1", "--reps", "1", "--json"]).json();
    assert_eq!(r["entries"].as_array().unwrap().len(), 1);
}

#[test]
fn refusals() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |more: &[&str], words: &[&str]| check_refused(shared(), &[&SHORT[..], more].concat(), words);
    refused(&["--against", "nowhere/llama-bench"], &["nowhere/llama-bench is no file"]);
    refused(&["--against", "demo.gguf"], &["demo.gguf cannot be started"]);
    refused(&["--against", &fake(dir.path(), "echo no model >&2; exit 3")], &["llama-bench ended with", "no model"]);
    refused(&["--against", &fake(dir.path(), "echo hello")], &["did not print the figures"]);
    refused(&["--against", &fake(dir.path(), "exec yes")], &["llama-bench ended with"]);
    refused(&["--depth", "100000"], &["context"]);
    check_refused(shared(), &["bench", "demo.rig", "--depth", "1"], &["demo", "holds 512 tokens", "need 513"]);
    check_refused(
        shared(),
        &["bench", "demo.rig", "--kernels", "--depth", "1"],
        &["need 513; lower --prompt or --depth"],
    );
    check_refused(
        shared(),
        &["bench", "demo.gguf", "--kernels", "--target", "sm_120"],
        &["code of sm_120 needs a card"],
    );
    for more in [["--against", "demo.gguf"], ["--tokens", "3"]] {
        check_refused(shared(), &[&KERNELS[..], &more].concat(), &["--kernels", "cannot be used with", more[0]]);
    }
}

/// Ctrl-C ends llama-bench too.
#[test]
fn interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let started = dir.path().join("started");
    let peer = fake(dir.path(), &format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000", started.display()));
    let child = command(shared(), &[&SHORT[..], &["--json", "--against", &peer]].concat()).spawn().unwrap();
    for _ in 0..2000 {
        if started.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let id = std::fs::read_to_string(&started).expect("the peer was started");
    assert!(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let o = wait(child);
    assert_eq!((o.code, o.out.as_slice(), o.err.as_str()), (Some(130), &b""[..], ""));
    assert!(!Path::new("/proc").join(id.trim()).exists());
}
