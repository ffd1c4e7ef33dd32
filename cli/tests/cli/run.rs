//! `rigc run`: prompts, JSON, sampling, stopping.

use crate::harness::{Outcome, command, interrupt, rigc, rigc_reading, shared, small, wait};
use serde_json::Value;
use std::io::Read;
use std::process::Stdio;
use tests::synthetic::Synthetic;

/// Greedy tokens of the demo model after these arguments.
fn greedy(args: &[&str]) -> Value {
    let all = [&["run", "demo.rig"], args, &["--json", "--temp", "0", "-n", "4", "--ignore-eos"]].concat();
    rigc(shared(), &all).json()
}

/// Every way to give a prompt gives the same tokens.
#[test]
fn prompts() {
    let dir = shared();
    std::fs::write(dir.join("prompt.txt"), "-- ROMEO:\n").unwrap();
    let text = "-- ROMEO:\n";
    let expected = greedy(&["-p", text]);
    let ids: Vec<String> = expected["prompt_ids"].as_array().unwrap().iter().map(Value::to_string).collect();
    assert_eq!(ids[0], "2043", "bos comes first");
    let tail = ["--json", "--temp", "0", "-n", "4", "--ignore-eos"];
    let demo = |args: &[&str]| rigc(dir, &[&["run"], args, &tail].concat()).json();
    let piped = rigc_reading(dir, &[&["run", "demo.rig"][..], &tail].concat(), text.as_bytes()).json();
    for (way, got) in [
        ("-f", greedy(&["-f", "prompt.txt"])),
        ("--prompt-ids", greedy(&["--prompt-ids", &ids.join(",")])),
        ("stdin", piped),
        ("after --", rigc(dir, &[&["run"], &tail[..], &["demo.rig", "--", text]].concat()).json()),
        ("--prompt=", greedy(&[&format!("--prompt={text}")])),
        ("MODEL.gguf", demo(&["demo.gguf", "-p", text])),
        ("the demo model", demo(&["-p", text])),
        ("PROMPT alone", rigc(dir, &[&["run"], &tail[..], &["--", text]].concat()).json()),
    ] {
        assert_eq!((&got["prompt_ids"], &got["ids"]), (&expected["prompt_ids"], &expected["ids"]), "{way}");
    }
    assert_eq!(demo(&["demo.gguf", "x"])["model"], "demo.gguf");
    assert_eq!(demo(&["x"])["model"], "bard-q4_k_m.gguf");
}

#[test]
fn special_tokens() {
    let ids = |args: &[&str]| greedy(args)["prompt_ids"].clone();
    assert_eq!(ids(&["<|eot_id|>"]), serde_json::json!([2043, 2047]));
    assert!(ids(&["<|eot_id|>", "--no-special"]).as_array().unwrap().len() > 2);
}

#[test]
fn json() {
    let o = greedy(&["ROMEO:", "--top-logits", "5"]);
    let number = |v: &Value| v.as_f64().is_some_and(|x| x >= 0.0);
    for (key, fits) in [
        ("model", o["model"] == "demo.gguf"),
        ("device", o["device"] == "cpu"),
        ("target", o["target"].as_str().is_some_and(|t| t.starts_with("x86-64"))),
        ("prompt_ids", o["prompt_ids"].as_array().is_some_and(|a| a.iter().all(Value::is_u64))),
        ("ids", o["ids"].as_array().is_some_and(|a| a.len() == 4 && a.iter().all(Value::is_u64))),
        ("text", o["text"].is_string()),
        ("stop_reason", o["stop_reason"] == "length"),
        ("top_logits", o["top_logits"].as_array().is_some_and(|a| a.len() == 5)),
    ] {
        assert!(fits, "{key}: {o}");
    }
    for key in [
        "load_ms",
        "prefill_ms",
        "decode_ms",
        "prefill_tokens_per_second",
        "decode_tokens_per_second",
        "weight_gb_per_second",
    ] {
        assert!(number(&o["timings"][key]), "{key}: {o}");
    }
    let top = o["top_logits"].as_array().unwrap();
    assert!(top.windows(2).all(|w| w[0][1].as_f64() >= w[1][1].as_f64()), "{o}");
    assert_eq!(top[0][0], o["ids"][0], "the greedy token is the one of the largest logit");
    assert!(greedy(&["x"]).get("top_logits").is_none());

    // The logits are those before any penalty.
    let ids = o["prompt_ids"].as_array().unwrap().iter().map(Value::to_string).collect::<Vec<_>>().join(",");
    let penalised = greedy(&["--prompt-ids", &ids, "--top-logits", "5", "--repeat-penalty", "5"]);
    assert_eq!(penalised["top_logits"], o["top_logits"]);
    let all = greedy(&["x", "--top-logits", "100000"]);
    assert_eq!(all["top_logits"].as_array().unwrap().len(), 2048);
}

#[test]
fn lengths_and_stops() {
    let dir = shared();
    let run =
        |args: &[&str]| rigc(dir, &[&["run", "demo.rig", "ROMEO:\n", "--json", "--seed", "7"], args].concat()).json();
    let count = |o: &Value| o["ids"].as_array().unwrap().len();
    let o = run(&["-n", "0"]);
    assert_eq!((count(&o), &o["stop_reason"], &o["text"]), (0, &"length".into(), &"".into()));
    let o = run(&["-n", "300", "--ignore-eos"]);
    assert_eq!((count(&o), &o["stop_reason"]), (300, &"length".into()));
    let text = o["text"].as_str().unwrap().to_owned();
    let o = run(&["-n", "10000", "--ignore-eos"]);
    assert_eq!(o["stop_reason"], "context");
    assert_eq!(count(&o) + o["prompt_ids"].as_array().unwrap().len(), 513);
    let o = run(&["-n", "10000"]);
    assert!(o["stop_reason"] == "eos" || o["stop_reason"] == "context", "{o}");
    // From the middle of the text, so that it spans tokens.
    let middle = text.char_indices().nth(40).unwrap().0;
    let stop: String = text[middle..].chars().take(9).collect();
    let o = run(&["-n", "300", "--ignore-eos", "--stop", "no such text", "--stop", &stop]);
    assert_eq!(o["stop_reason"], "stop");
    assert_eq!(o["text"], text[..text.find(&stop).unwrap()]);
    // Printed, the text is the same, with a line end after it.
    let args = ["run", "demo.rig", "ROMEO:\n", "--seed", "7", "-n", "300", "--ignore-eos", "--stop", &stop];
    let printed = rigc(dir, &args);
    assert_eq!(printed.text(), format!("{}\n", o["text"].as_str().unwrap()));
    assert!(printed.err.contains("seed 7") && printed.err.contains("stopped by stop"), "{}", printed.err);
}

#[test]
fn seeds() {
    let run = |extra: &[&str]| {
        let args = [&["run", "demo.rig", "O", "--json", "-n", "40", "--ignore-eos", "--temp", "1.2"], extra].concat();
        let outcome = rigc(shared(), &args);
        let (_, seed) = outcome.err.rsplit_once("seed ").expect("the summary tells the seed");
        (outcome.json()["ids"].clone(), seed.trim().to_owned())
    };
    let (first, _) = run(&["--seed", "1"]);
    assert_eq!(run(&["--seed", "1"]).0, first);
    assert_eq!(run(&["--seed", "1", "--threads", "3"]).0, first);
    assert_ne!(run(&["--seed", "2"]).0, first);
    let (drawn, seed) = run(&[]);
    assert_eq!(run(&["--seed", &seed]).0, drawn, "the seed reported gives the run again");
}

/// Characters reach stdout whole, even where tokens are parts of them.
#[test]
fn characters_are_not_split() {
    let sampling = ["--seed", "3", "--temp", "20", "--top-k", "0", "--top-p", "1", "--min-p", "0"];
    let args = [&["run", "demo.rig", "é", "-n", "400", "--ignore-eos"], &sampling[..]].concat();
    let mut child = command(shared(), &args).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let (mut text, mut piece) = (String::new(), [0; 1 << 16]);
    loop {
        // Writes of less than a page are not torn by the pipe.
        let n = out.read(&mut piece).unwrap();
        if n == 0 {
            break;
        }
        text.push_str(std::str::from_utf8(&piece[..n]).expect("whole characters"));
    }
    assert_eq!(wait(child).code, Some(0));
    let json = rigc(shared(), &[&args[..], &["--json"]].concat()).json();
    assert_eq!(text.strip_suffix('\n').unwrap(), json["text"]);
    assert!(!text.is_ascii());
}

/// A run that would take very long, stopped when its first text comes.
fn interrupted(args: &[&str]) -> Outcome {
    let dir = shared();
    let spec = Synthetic { context: 1 << 20, ..small() };
    let name = format!("endless{}.gguf", args.len());
    std::fs::write(dir.join(&name), spec.gguf()).unwrap();
    let all = [&["run", &name, "a", "--ctx", "262144", "-n", "200000", "--ignore-eos"], args].concat();
    let mut child = command(dir, &all).spawn().unwrap();
    let mut first = vec![0; 1];
    if args.contains(&"--json") {
        std::thread::sleep(std::time::Duration::from_millis(1500));
        first.clear();
    } else {
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    }
    interrupt(&child);
    let mut o = wait(child);
    o.out.splice(..0, first);
    o
}

#[test]
fn interrupts() {
    let o = interrupted(&[]);
    assert_eq!(o.code, Some(130), "{}", o.err);
    assert!(o.err.contains("stopped by interrupted"), "{}", o.err);
    assert!(o.text().len() > 1 && o.text().ends_with('\n'));
    let o = interrupted(&["--json"]);
    assert_eq!(o.code, Some(130), "{}", o.err);
    let json: Value = serde_json::from_slice(&o.out).unwrap();
    assert_eq!(json["stop_reason"], "interrupted");
    assert!(!json["ids"].as_array().unwrap().is_empty());
    // Before there is anything to end cleanly.
    let mut child = command(shared(), &["run", "demo.rig"]).stdin(Stdio::piped()).spawn().unwrap();
    let stdin = child.stdin.take();
    std::thread::sleep(std::time::Duration::from_millis(500));
    interrupt(&child);
    let o = wait(child);
    drop(stdin);
    assert_eq!((o.code, o.out.len(), o.err.as_str()), (Some(130), 0, ""));
}

/// Who closes the pipe has seen enough.
#[test]
fn closed_pipes() {
    for args in [
        &["run", "demo.rig", "x", "-n", "200", "--ignore-eos"][..],
        &["run", "demo.rig", "x", "-n", "2", "--json"],
        &["inspect", "demo.gguf"],
        &["compile", "m.gguf", "--emit", "kernel"],
        &["help", "run"],
        &[],
    ] {
        let mut child = command(shared(), args).spawn().unwrap();
        drop(child.stdout.take());
        let o = wait(child);
        assert_eq!((o.code, o.err.as_str()), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn help() {
    for (args, word) in [
        (&[][..], "rigc run MODEL.gguf"),
        (&["--help"], "compile"),
        (&["help", "run"], "--temp"),
        (&["compile", "--help"], "--emit"),
        (&["--version"], env!("CARGO_PKG_VERSION")),
    ] {
        let o = rigc(shared(), args);
        assert_eq!((o.code, o.err.as_str()), (Some(0), ""), "{args:?}");
        assert!(o.text().contains(word), "{args:?}: {}", o.text());
    }
}
