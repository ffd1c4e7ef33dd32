//! A card, on the stand-in for NVIDIA's driver: agreement with golden outputs, the calls of a run, and what the program
//! makes of a driver that fails.

use crate::harness::{Outcome, check_said, command, shared, small, wait};
use ir::spec::hex;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::fd::FromRawFd;
use std::path::Path;
use tests::golden::{Golden, tolerance_share};
use tests::standin::{self, Call};
use tests::synthetic::{Rng, Synthetic};

/// Runs the program on the stand-in, with machine code kept in `cache`.
fn run_cached(dir: &Path, settings: &str, cache: &Path, args: &[&str]) -> Outcome {
    let mut command = command(dir, args);
    standin::on(&mut command, settings);
    wait(command.env("RIGC_CACHE", cache).spawn().unwrap())
}

/// The same, with a cache of its own.
fn run(dir: &Path, settings: &str, args: &[&str]) -> Outcome {
    let cache = tempfile::tempdir().unwrap();
    run_cached(dir, settings, cache.path(), args)
}

/// A folder with `one.gguf`, a model of one layer.
pub fn one_layer() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("one.gguf"), Synthetic { layers: 1, ..small() }.gguf()).unwrap();
    dir
}

/// Loads and three tokens.
pub const SHORT: [&str; 9] = ["run", "one.gguf", "--device", "cuda:0", "--prompt-ids", "5", "-n", "3", "--ignore-eos"];

/// Runs a model's prompt and compares logits and greedy tokens.
fn check_golden(dir: &Path, stem: &str, card: &str, seed: u32, prompts: &str, steps: usize) {
    let Some(golden) = Golden::load(dir, stem) else { return };
    let file = runtime::ModelFile::open(dir.join(format!("{stem}.gguf"))).unwrap();
    let share = tolerance_share(file.tensors().map(|(_, t)| t.format().unwrap()));
    let chosen = golden.prompts.iter().filter(|p| prompts == "all" || prompts.split(',').any(|name| name == p.name));
    for prompt in chosen {
        let ids: Vec<String> = prompt.ids.iter().map(u32::to_string).collect();
        let n = steps.min(prompt.expected.greedy.len()).to_string();
        let vocab = golden.n_vocab.to_string();
        let (model, ids) = (format!("{stem}.gguf"), ids.join(","));
        let args = [
            "run",
            &model,
            "--device",
            "cuda:0",
            "--prompt-ids",
            &ids,
            "-n",
            &n,
            "--ignore-eos",
            "--temp",
            "0",
            "--json",
            "--top-logits",
            &vocab,
        ];
        let o = run(dir, &format!("card={card},seed={seed},leaks=1"), &args);
        let name = format!("{stem} on {card}, seed {seed}, prompt '{}'", prompt.name);
        assert!(!o.err.contains("libcuda"), "{name}: {}", o.err);
        let report = o.json();
        let mut logits = vec![f32::NEG_INFINITY; golden.n_vocab];
        for pair in report["top_logits"].as_array().unwrap() {
            logits[pair[0].as_u64().unwrap() as usize] = pair[1].as_f64().unwrap() as f32;
        }
        let ids: Vec<u32> = report["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        prompt.check(share, &logits, &ids).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

/// Every shared model on an RTX 5090, and one on each other kind of card. `RIGC_EMULATE` lists prompts, or says `all`.
#[test]
fn models_agree_with_golden_outputs() {
    let Some(dir) = tests::shared_dir("models") else { return };
    let asked = std::env::var("RIGC_EMULATE").unwrap_or_else(|_| "short".into());
    let steps = if asked == "all" { 48 } else { 4 };
    let stems: Vec<String> =
        tests::gguf_files(&dir).iter().map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    for (i, stem) in stems.iter().enumerate() {
        check_golden(&dir, stem, "rtx5090", i as u32 % 5, &asked, steps);
    }
    for (i, card) in ["a100", "rtx4090", "h200"].into_iter().enumerate() {
        check_golden(&dir, &stems[i % stems.len()], card, 1 + i as u32, &asked, steps);
    }
}

/// The trace of a run of the model of one layer: the calls, and those after the first launch of a graph.
fn traced(args: &[&str], cache: &Path) -> (Vec<Call>, Vec<Call>) {
    let dir = one_layer();
    let o = run_cached(dir.path(), "trace=trace.json,leaks=1", cache, args);
    assert_eq!(o.code, Some(0), "{}", o.err);
    let (calls, held) = standin::trace(&dir.path().join("trace.json"));
    assert!(held.is_empty(), "{held:?}");
    assert!(calls.iter().all(|c| c.result == 0), "{calls:?}");
    let loaded = calls.iter().rposition(|c| c.call == "cuGraphInstantiateWithFlags").unwrap_or(0);
    let steps = calls[loaded + 1..].iter().skip_while(|c| c.call != "cuGraphLaunch").cloned().collect();
    (calls, steps)
}

/// After loading, a token is one launch of a graph and one wait; nothing is allocated, and at the end nothing is held. The
/// second start makes no machine code.
#[test]
fn a_token_is_one_launch_and_one_wait() {
    let cache = tempfile::tempdir().unwrap();
    let (first, steps) = traced(&SHORT, cache.path());
    let names: Vec<&str> = steps.iter().map(|c| c.call.as_str()).collect();
    let tokens = names.iter().take_while(|name| ["cuGraphLaunch", "cuStreamSynchronize"].contains(name)).count();
    assert_eq!(tokens, 6, "three tokens: {names:?}");
    let cleaning = ["Destroy", "Free", "Unload", "Release", "SetCurrent", "Synchronize"];
    for name in &names[tokens..] {
        assert!(cleaning.iter().any(|word| name.contains(word)), "{name} after the last token: {names:?}");
    }
    let links = |calls: &[Call]| calls.iter().filter(|c| c.call.starts_with("cuLink")).count();
    assert!(links(&first) > 0);
    let (second, _) = traced(&SHORT, cache.path());
    assert_eq!(links(&second), 0);
    // Without graphs, or without early starts, the same comes out.
    let dir = one_layer();
    let json = ["--json", "--temp", "0"];
    let plain = run(dir.path(), "", &[&SHORT[..], &json].concat()).json();
    for flag in ["--no-graph", "--no-overlap"] {
        assert_eq!(
            run(dir.path(), "seed=3", &[&SHORT[..], &json, &[flag]].concat()).json()["ids"],
            plain["ids"],
            "{flag}"
        );
    }
}

/// What a run prints, and what it shows on a terminal of 100 columns that is its stderr.
fn run_at_terminal(dir: &Path, cache: &Path, args: &[&str]) -> (Vec<u8>, String) {
    let (mut ours, mut its) = (-1, -1);
    let size = libc::winsize { ws_row: 24, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    let (none, plain) = (std::ptr::null_mut(), std::ptr::null());
    // SAFETY: both descriptors are written, the size is read, and what is opened belongs to nobody else.
    let (mut ours, its) = unsafe {
        assert_eq!(libc::openpty(&mut ours, &mut its, none, plain, &size), 0);
        (std::fs::File::from_raw_fd(ours), std::fs::File::from_raw_fd(its))
    };
    let mut command = command(dir, args);
    standin::on(&mut command, "");
    let child = command.env("RIGC_CACHE", cache).env("TERM", "xterm").stderr(its).spawn().unwrap();
    // What holds the other end for starting the program has to go, for the end to be seen.
    drop(command);
    let mut shown = Vec::new();
    // A terminal that everybody has left ends with an error.
    _ = ours.read_to_end(&mut shown);
    let output = child.wait_with_output().unwrap();
    let shown = String::from_utf8(shown).unwrap();
    assert_eq!(output.status.code(), Some(0), "{shown}");
    (output.stdout, shown)
}

/// At a terminal it is shown that the driver makes machine code, at the first load and not at the second; results are the same.
#[test]
fn making_machine_code_is_shown_once() {
    let (dir, cache) = (one_layer(), tempfile::tempdir().unwrap());
    let args = [&SHORT[..], &["--temp", "0"]].concat();
    let (first, shown) = run_at_terminal(dir.path(), cache.path(), &args);
    assert!(shown.contains("making machine code for NVIDIA GeForce RTX 5090"), "{shown}");
    let (second, shown) = run_at_terminal(dir.path(), cache.path(), &args);
    assert!(!shown.contains("machine code") && first == second, "{shown}");
    // Made when it is compiled, and not shown where results are JSON.
    let other = tempfile::tempdir().unwrap();
    let compile = ["compile", "one.gguf", "--target", "sm_120", "-o", "one.rig", "--device", "cuda:0"];
    let (_, shown) = run_at_terminal(dir.path(), other.path(), &compile);
    assert!(shown.contains("making machine code for"), "{shown}");
    let fresh = tempfile::tempdir().unwrap();
    let (report, shown) = run_at_terminal(dir.path(), fresh.path(), &[&SHORT[..], &["--json"]].concat());
    assert!(!shown.contains("machine code"), "{shown}");
    serde_json::from_slice::<serde_json::Value>(&report).unwrap();
}

/// A cache that cannot be used is a warning.
#[test]
fn a_cache_that_cannot_be_written_is_a_warning() {
    let dir = one_layer();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let o = run_cached(dir.path(), "", &dir.path().join("file"), &SHORT);
    assert_eq!(o.code, Some(0), "{}", o.err);
    assert!(o.err.contains("warning: machine code cannot be kept"), "{}", o.err);
    // What is there and is no machine code is made again.
    let cache = tempfile::tempdir().unwrap();
    assert_eq!(run_cached(dir.path(), "", cache.path(), &SHORT).code, Some(0));
    for entry in std::fs::read_dir(cache.path()).unwrap() {
        std::fs::write(entry.unwrap().path(), "nonsense").unwrap();
    }
    let o = run_cached(dir.path(), "", cache.path(), &SHORT);
    assert_eq!(o.code, Some(0), "{}", o.err);
}

/// Whether a call only gives something back.
fn gives_back(call: &str) -> bool {
    ["Destroy", "Free", "Unload", "Release"].iter().any(|word| call.contains(word))
}

/// Every kind of call fails once, the first time and the last, with each error: one sentence, exit code 2, nothing held
/// but what the failed call was to free. `RIGC_FAULTS=all`: every call.
#[test]
fn every_call_fails_once() {
    let dir = one_layer();
    let cache = tempfile::tempdir().unwrap();
    let o = run_cached(dir.path(), "trace=trace.json", cache.path(), &SHORT);
    assert_eq!(o.code, Some(0), "{}", o.err);
    let (calls, _) = standin::trace(&dir.path().join("trace.json"));
    let mut sites: BTreeMap<String, usize> = BTreeMap::new();
    let (mut failing, mut cleaning) = (BTreeSet::new(), BTreeSet::new());
    // The last token's wait.
    let launched = calls.iter().rposition(|c| c.call == "cuGraphLaunch").unwrap();
    let ended = calls[launched..].iter().find(|c| c.call == "cuStreamSynchronize").map(|c| c.n);
    for call in &calls {
        let count = sites.entry(call.call.clone()).or_default();
        *count += 1;
        let end = ended.is_some_and(|ended| call.n > ended);
        cleaning.extend((end || gives_back(&call.call)).then(|| (call.call.clone(), *count)));
        // The second is that of the thread that waits.
        let waiter = call.call == "cuCtxSetCurrent" && *count == 2;
        if *count == 1 || waiter || std::env::var_os("RIGC_FAULTS").is_some_and(|which| which == "all") {
            failing.insert((call.call.clone(), *count));
        }
    }
    failing.extend(sites);
    for (call, nth) in failing {
        for error in [2, 1, 719, 999] {
            // The driver's own words about errors may be missing.
            if call.starts_with("cuGetError") {
                continue;
            }
            let cache = tempfile::tempdir().unwrap();
            let settings = format!("fail={call}@{nth}:{error},trace=failed.json");
            let o = run_cached(dir.path(), &settings, cache.path(), &SHORT);
            let name = format!("{call}@{nth}:{error}");
            let (_, held) = standin::trace(&dir.path().join("failed.json"));
            assert!(!o.err.contains("libcuda stand-in:"), "{name}: {}", o.err);
            if cleaning.contains(&(call.clone(), nth)) {
                assert_eq!(o.code, Some(0), "{name}: {}", o.err);
                assert!(o.err.contains("warning: ") && o.err.contains(&call), "{name}: {}", o.err);
                assert!(held.len() <= 1, "{name}: {held:?}");
            } else {
                check_said(&o, &[]);
                assert!(held.is_empty(), "{name}: {held:?}");
            }
            let kept = std::fs::read_dir(cache.path()).map_or(0, |files| {
                files.filter(|f| f.as_ref().unwrap().path().extension().is_none_or(|e| e != "cubin")).count()
            });
            assert_eq!(kept, 0, "{name}: a half-written file");
        }
    }
}

/// Cards and drivers that do not suit.
#[test]
fn unfit_cards_and_drivers_are_refused() {
    let dir = one_layer();
    let artifact =
        wait(command(dir.path(), &["compile", "one.gguf", "--target", "sm_120", "-o", "one.rig"]).spawn().unwrap());
    assert_eq!(artifact.code, Some(0), "{}", artifact.err);
    let compiled = ["run", "one.rig", "--device", "cuda:0", "--prompt-ids", "5", "-n", "1"];
    check_said(&run(dir.path(), "card=a100", &compiled), &["sm_80", "does not run code of sm_120", "--target sm_80"]);
    check_said(&run(dir.path(), "driver=12040", &compiled), &["CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "newer"]);
    check_said(&run(dir.path(), "memory=200KiB", &compiled), &["the model", "can be had", "of the card are in use"]);
    check_said(
        &run(dir.path(), "", &["run", "one.rig", "--device", "cuda:3", "--prompt-ids", "5"]),
        &["no card cuda:3"],
    );
    check_said(&run(dir.path(), "", &["run", "one.rig", "--prompt-ids", "5"]), &["stand-in", "--device cuda:0"]);
    let limited = [&SHORT[..], &["--vram-limit", "1MiB"]].concat();
    check_said(&run(dir.path(), "", &limited), &["the model", "can be had"]);
    // No driver, an empty library, one that lacks functions.
    let places = tempfile::tempdir().unwrap();
    let mut none = command(dir.path(), &compiled);
    check_said(&wait(none.env("LD_LIBRARY_PATH", places.path()).spawn().unwrap()), &["no libcuda.so.1", "driver"]);
    std::fs::write(places.path().join("libcuda.so.1"), "").unwrap();
    let mut empty = command(dir.path(), &compiled);
    check_said(&wait(empty.env("LD_LIBRARY_PATH", places.path()).spawn().unwrap()), &["no libcuda.so.1", "driver"]);
    let source = places.path().join("few.c");
    std::fs::write(&source, "int cuInit(unsigned flags) { return 0; }\n").unwrap();
    let library = places.path().join("libcuda.so.1");
    let cc = std::process::Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
    assert!(cc.is_ok_and(|status| status.success()), "there is no C compiler");
    let mut few = command(dir.path(), &compiled);
    check_said(&wait(few.env("LD_LIBRARY_PATH", places.path()).spawn().unwrap()), &["lacks cu", "550"]);
}

/// What `doctor` tells of a card.
#[test]
fn doctor_tells_of_cards() {
    let dir = shared();
    let o = run(dir, "card=rtx5090,memory=20GiB", &["doctor", "--json"]);
    let report = o.json();
    let findings = report["findings"].as_array().unwrap();
    let about = |name: &str| findings.iter().filter(|f| f["about"] == name).collect::<Vec<_>>();
    assert_eq!(about("driver")[0]["cuda"], 13000);
    let card = about("cuda:0");
    assert_eq!((&card[0]["sm"], &card[0]["sms"]), (&120.into(), &170.into()));
    assert_eq!(card[1]["status"], "warning", "a third is in use: {card:?}");
    assert!(about("cpu")[0]["target"].as_str().unwrap().starts_with("x86-64"));
    let o = run(dir, "driver=12000", &["doctor"]);
    assert_eq!(o.code, Some(1), "{}", o.text());
    assert!(o.text().contains("install a newer driver"), "{}", o.text());
}

/// `doctor FILE` measures the disk of a file.
#[test]
fn doctor_reads_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng::new(17);
    let bytes: Vec<u8> = (0..6 << 20).flat_map(|_| rng.next().to_le_bytes()).collect();
    let path = dir.path().join("file");
    std::fs::write(&path, bytes).unwrap();
    let disk = |args: &[&str]| {
        let report = wait(command(dir.path(), args).spawn().unwrap()).json();
        let found = report["findings"].as_array().unwrap().iter().find(|f| f["about"] == "disk").cloned();
        found.unwrap_or_else(|| panic!("{report}"))
    };
    // What is in the page cache is left out; where the system tells nothing of it, all is read.
    let found = disk(&["doctor", "file", "--json"]);
    let (read, cached) = (found["bytes"].as_f64().unwrap(), found["cached"].as_f64().unwrap());
    assert!((read / f64::from(48 << 20) + cached - 1.0).abs() < 1e-6, "{found}");
    assert_eq!(found["gb_per_second"].is_null(), read < f64::from(16 << 20), "{found}");
    // On disk alone, where the file system lets pages go.
    let drop = ["if=/dev/null", "oflag=nocache", "conv=notrunc,fdatasync", "count=0"];
    let of = format!("of={}", path.display());
    assert!(std::process::Command::new("dd").args(drop).arg(of).output().unwrap().status.success());
    let found = disk(&["doctor", "file", "--json"]);
    if found["cached"].as_f64().unwrap() < 0.5 {
        assert!(found["gb_per_second"].as_f64().unwrap() > 0.0, "{found}");
    } else {
        eprintln!("skipped: the rate of a disk: the file stays in the page cache");
    }
    std::fs::write(dir.path().join("short"), "x").unwrap();
    assert_ne!(disk(&["doctor", "short", "--json"])["status"], "error");
    check_said(&wait(command(dir.path(), &["doctor", "missing"]).spawn().unwrap()), &["missing"]);
}

/// `doctor --verify` runs every kernel of an artifact, for a CPU, the emulator and a card, and finds one that is changed.
#[test]
fn doctor_verifies_kernels() {
    let dir = one_layer();
    for (target, devices) in [("native", &["cpu"][..]), ("sm_120", &["emu", "cuda:0"])] {
        let args = ["compile", "one.gguf", "--target", target, "-o", "one.rig"];
        let compiled = wait(command(dir.path(), &args).spawn().unwrap());
        assert_eq!(compiled.code, Some(0), "{}", compiled.err);
        let path = dir.path().join("one.rig");
        let kernels = runtime::artifact::read(&path).unwrap().manifest.kernels;
        for device in devices {
            let report =
                run(dir.path(), "leaks=1", &["doctor", "--verify", "one.rig", "--device", device, "--json"]).json();
            let findings = report["findings"].as_array().unwrap();
            assert_eq!(findings.len(), kernels.len() + 1, "{device}: {report}");
            assert!(findings.iter().all(|f| f["status"] == "ok"), "{device}: {report}");
            for k in &kernels {
                let found = findings.iter().find(|f| f["about"] == *k.name).unwrap_or_else(|| panic!("{}", k.name));
                assert_eq!(found["trials"], 4, "{report}");
            }
        }
    }
    // Sums that are differences, in a module and a manifest that agree.
    let path = dir.path().join("one.rig");
    let mut artifact = runtime::artifact::read(&path).unwrap();
    let text = String::from_utf8(artifact.modules[0].clone()).unwrap();
    let (head, body) = text.split_at(text.find(".entry linear").unwrap());
    let changed = format!("{head}{}", body.replacen("add.rn.f32", "sub.rn.f32", 4));
    assert_ne!(text, changed);
    artifact.manifest.modules[0].sha256 = hex(&Sha256::digest(&changed));
    artifact.modules[0] = changed.into_bytes();
    runtime::artifact::write(&artifact, &path).unwrap();
    let o = run(dir.path(), "", &["doctor", "--verify", "one.rig", "--device", "cuda:0", "--seed", "3"]);
    assert_eq!(o.code, Some(1), "{}", o.text());
    let lines: Vec<String> = o.text().lines().map(String::from).collect();
    let wrong: Vec<&String> = lines.iter().filter(|line| line.starts_with("error")).collect();
    assert!(wrong.iter().any(|line| line.contains("linear")) && wrong.len() < lines.len(), "{lines:?}");
    check_said(&run(dir.path(), "", &["doctor", "--verify", "one.gguf"]), &["--verify takes an artifact"]);
}

/// `auto` leaves a stand-in out and says so; `bench` runs on it when it is asked to; `compile` has its machine code made.
#[test]
fn a_stand_in_has_to_be_asked_for() {
    let dir = one_layer();
    let o = run(dir.path(), "", &["run", "one.gguf", "--prompt-ids", "5", "-n", "1", "--json"]);
    assert_eq!(o.json()["device"], "cpu");
    assert!(o.err.contains("(stand-in)") && o.err.contains("the model runs on the CPU"), "{}", o.err);
    let short = ["bench", "one.gguf", "--device", "cuda:0", "--prompt", "3", "-n", "2", "--reps", "1", "--json"];
    for flags in [&[][..], &["--no-graph", "--no-overlap"]] {
        let r = run(dir.path(), "leaks=1", &[&short[..], flags].concat()).json();
        assert!(r["machine"]["read_gb_per_second"].as_f64().unwrap() > 0.0, "{r}");
        assert!(r["machine"]["int8_gmac_per_second"].is_null() && r["prefill"]["share_of_int8_peak"].is_null(), "{r}");
    }
    let limited = [&short[..], &["--vram-limit", "1MiB"]].concat();
    check_said(&run(dir.path(), "", &limited), &["the model", "can be had"]);
    let cache = tempfile::tempdir().unwrap();
    let compile = ["compile", "one.gguf", "--target", "sm_120", "-o", "one.rig", "--device"];
    let o = run_cached(dir.path(), "leaks=1", cache.path(), &[&compile[..], &["cuda:0"]].concat());
    assert!(o.code == Some(0) && o.err.contains("machine code for cuda:0"), "{}", o.err);
    let first = ["run", "one.rig", "--device", "cuda:0", "--prompt-ids", "5", "-n", "1"];
    let o = run_cached(dir.path(), "trace=trace.json", cache.path(), &first);
    assert_eq!(o.code, Some(0), "{}", o.err);
    let (calls, _) = standin::trace(&dir.path().join("trace.json"));
    assert!(calls.iter().all(|c| !c.call.starts_with("cuLink")), "{calls:?}");
    check_said(&run(dir.path(), "", &[&compile[..], &["cpu"]].concat()), &["--device takes a card"]);
    check_said(&run(dir.path(), "card=a100", &[&compile[..], &["cuda:0"]].concat()), &["does not run code of sm_120"]);
}

/// The suite of cards, with small shapes: every part has its figures, and the report is in its folder.
#[test]
fn the_suite_of_cards() {
    let dir = tempfile::tempdir().unwrap();
    let o = run(dir.path(), "leaks=1", &["bench", "--suite", "gpu", "--out", "out/suite", "--device", "cuda:0"]);
    assert_eq!(o.code, Some(0), "{} {}", o.text(), o.err);
    let file = |name: &str| std::fs::read_to_string(dir.path().join("out/suite").join(name)).unwrap();
    let (text, table) = (file("gpu-suite.ron"), file("gpu-suite.txt"));
    assert_eq!(o.text(), table);
    let report: ron::Value = ron::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let ron::Value::Map(report) = report else { panic!("{text}") };
    let list = |name: &str| match report.iter().find(|(key, _)| **key == ron::Value::String(name.into())) {
        Some((_, ron::Value::Seq(list))) => list.len(),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(list("conformance"), ir::quant::ALL.len(), "{table}");
    assert_eq!((list("phases"), list("decode")), (4, 6), "{table}");
    assert!(list("products") >= 6, "{table}");
    assert!(!table.contains("WRONG") && !table.contains("NaN") && table.contains("times mean nothing"), "{table}");
    check_said(
        &run(dir.path(), "", &["bench", "--suite", "gpu", "--out", "out", "--device", "cpu"]),
        &["measures cards"],
    );
    check_said(&run(dir.path(), "", &["bench", "--suite", "gpu", "--out", "out"]), &["there is none"]);
}
