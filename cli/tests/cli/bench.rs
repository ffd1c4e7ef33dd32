//! `rigc bench`: the JSON of contracts, the peer's runs, what it refuses.

use crate::harness::{check_refused, command, rigc, shared, wait};
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
