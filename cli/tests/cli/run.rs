//! `rigc run`: prompts, JSON, sampling, stopping.

use crate::harness::{Outcome, changed, check_said, command, interrupt, rigc, rigc_reading, shared, small, wait};
use ir::gguf;
use serde_json::Value;
use std::io::{Read, Seek, Write};
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

/// What is piped in comes after a prompt; a pipe that gives nothing does not hold it up.
#[test]
fn prompts_with_more_on_standard_input() {
    let tail = ["--json", "--temp", "0", "-n", "4", "--ignore-eos"];
    let piped = |args: &[&str], input: &str| {
        rigc_reading(shared(), &[&["run", "demo.rig"], args, &tail].concat(), input.as_bytes()).json()["prompt_ids"]
            .clone()
    };
    let joined = greedy(&["-p", "Say:\nO Romeo"])["prompt_ids"].clone();
    assert_eq!(piped(&["Say:"], "O Romeo"), joined);
    assert_eq!(piped(&["-p", "Say:"], "O Romeo"), joined);
    assert_eq!(piped(&["-f", "-"], "Say:\nO Romeo"), joined);
    assert_eq!(piped(&["Say:"], ""), greedy(&["Say:"])["prompt_ids"]);
    assert_eq!(piped(&["--prompt-ids", "1,2"], "O Romeo"), serde_json::json!([1, 2]));
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"O Romeo").unwrap();
    file.rewind().unwrap();
    let args = [&["run", "demo.rig", "Say:"][..], &tail].concat();
    let child = command(shared(), &args).stdin(file).spawn().unwrap();
    assert_eq!(wait(child).json()["prompt_ids"], joined);
    let mut child = command(shared(), &args).stdin(Stdio::piped()).spawn().unwrap();
    let open = child.stdin.take();
    assert_eq!(wait(child).json()["prompt_ids"], greedy(&["Say:"])["prompt_ids"]);
    drop(open);
}

/// Text that no context holds is refused before it is cut into tokens.
#[test]
fn prompts_too_long_to_try() {
    let o = rigc_reading(shared(), &["run", "demo.rig"], "a".repeat(50_000_000).as_bytes());
    check_said(&o, &["the prompt has", "tokens or more, but the context holds 512"]);
}

#[test]
fn summaries() {
    let run = |args: &[&str]| rigc(shared(), &[&["run", "demo.rig", "O Romeo", "--seed", "9"], args].concat());
    let o = run(&["-n", "4", "--ignore-eos"]);
    let lines: Vec<&str> = o.err.trim().lines().collect();
    let (short, hint) = (lines[0], lines[1]);
    assert!(lines.len() == 2 && short.chars().count() < 80, "{}", o.err);
    assert!(short.contains(" → 4 tok · ") && short.contains(" tok/s · stopped by length · seed 9"), "{short}");
    assert!(hint.contains("--chat"), "{hint}");
    let o = run(&["-n", "1", "--ignore-eos"]);
    assert!(o.err.contains("→ 1 tok · stopped by length") && !o.err.contains("tok/s"), "{}", o.err);
    let o = run(&["-n", "4", "--ignore-eos", "--verbose", "--top-k", "3", "--json"]);
    for words in ["\nload      ", "\nprefill   ", "\ndecode    4 tokens in ", "top-k 3,", "stopped by length; seed 9"] {
        assert!(o.err.contains(words), "'{words}' is not in: {}", o.err);
    }
    assert!(!o.err.contains("--chat"), "{}", o.err);
    let plain = rigc(shared(), &["run", "m.gguf", "x", "-n", "1"]);
    assert!(plain.code == Some(0) && !plain.err.contains("--chat"), "it has no template: {}", plain.err);
}

/// What the file recommends holds where no flag says otherwise, and the summary tells of it.
#[test]
fn sampling_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let model = small().gguf();
    let keys = [("general.sampling.top_k", gguf::Value::I32(1)), ("general.sampling.temp", gguf::Value::F32(5.0))];
    std::fs::write(dir.path().join("m.gguf"), changed(&model, &keys)).unwrap();
    let run = |args: &[&str]| {
        let o = rigc(dir.path(), &[&["run", "m.gguf", "ab", "-n", "8", "--ignore-eos", "--json"], args].concat());
        (o.json()["ids"].clone(), o.err)
    };
    let (greedy, _) = run(&["--temp", "0"]);
    let (ids, err) = run(&["--seed", "1"]);
    assert!(ids == greedy && err.contains("temp, top-k of the file"), "{ids} {err}");
    let (ids, err) = run(&["--seed", "1", "--top-k", "300"]);
    assert!(ids != greedy && err.contains("temp of the file"), "{ids} {err}");
    std::fs::write(dir.path().join("m.gguf"), changed(&model, &[("general.sampling.temp", gguf::Value::F32(-1.0))]))
        .unwrap();
    let (_, err) = run(&[]);
    assert!(
        err.starts_with("warning: m.gguf: general.sampling.temp is -1, which makes no sense; 0.8 is used\n"),
        "{err}"
    );
}

/// What is wrong with a vocabulary and matters to few texts is a warning; what a text needs and lacks is an error.
#[test]
fn blemishes_of_vocabularies() {
    let dir = tempfile::tempdir().unwrap();
    let id = ("tokenizer.ggml.padding_token_id", gguf::Value::U32(u32::MAX));
    std::fs::write(dir.path().join("m.gguf"), changed(&small().gguf(), &[id])).unwrap();
    let warning =
        "warning: m.gguf: tokenizer.ggml.padding_token_id is 4294967295, but tokenizer.ggml.tokens has 300 tokens";
    let args: [&[&str]; 2] = [&["run", "m.gguf", "ab", "-n", "2"], &["perplexity", "m.gguf", "text", "--ctx", "8"]];
    std::fs::write(dir.path().join("text"), "ab".repeat(20)).unwrap();
    for args in args {
        let o = rigc(dir.path(), args);
        assert!(o.code == Some(0) && o.err.starts_with(warning), "{args:?}: {o:?}");
        assert_eq!(o.err.matches("warning").count(), 1, "{}", o.err);
    }
}

/// A stop text may name special tokens, which are no part of the text.
#[test]
fn stops_at_special_tokens() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("m.gguf"), small().gguf()).unwrap();
    let run = |args: &[&str]| {
        let tail = ["-n", "200", "--ignore-eos", "--json", "--seed", "5", "--temp", "3", "--top-k", "0"];
        rigc(dir.path(), &[&["run", "m.gguf", "ab"], &tail[..], args].concat()).json()
    };
    let all = run(&[]);
    let ids: Vec<u64> = all["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    // Of this vocabulary, ids from 256 on are control tokens, named after their number above that.
    let at = ids.iter().position(|&id| id >= 256).expect("a control token was drawn");
    let stopped = run(&["--stop", &format!("<|{}|>", ids[at] - 256)]);
    assert_eq!(stopped["stop_reason"], "stop", "{stopped}");
    assert_eq!(stopped["ids"].as_array().unwrap().len(), at + 1);
    assert!(all["text"].as_str().unwrap().starts_with(stopped["text"].as_str().unwrap()));
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
