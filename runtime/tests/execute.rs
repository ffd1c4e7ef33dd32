//! Artifact directories, loading, stepping and generation, with a toy model.
#![cfg(target_arch = "x86_64")]

mod fixture;

use fixture::watched::{Fail, Seen, Watched};
use fixture::{ALL_LOGITS, CAPACITIES, CONTEXT, TOP, VOCAB, next};
use ir::artifact::{Artifact, Part, Weight, kernels_hash};
use ir::plan::{Buffer, DeviceId, Place, Step, Top};
use ir::tensor::{Elem, Layout, TensorType, kv_bytes};
use runtime::device::{Command, Options, Shared};
use runtime::{Error, Executor, ModelFile, Result, artifact};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// A model file on disk and its artifact.
fn toy(tall: usize) -> (tempfile::TempDir, ModelFile, Artifact) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("toy.gguf");
    std::fs::write(&path, fixture::gguf(tall)).unwrap();
    let model = ModelFile::open(&path).unwrap();
    let artifact = fixture::artifact(model.identity(), tall);
    (dir, model, artifact)
}

fn load(artifact: Artifact, model: &ModelFile, threads: usize) -> Result<Executor> {
    Executor::new(artifact, model, &Options { threads, ..Options::default() }, &mut |_, _| ())
}

fn executor(threads: usize) -> Executor {
    let (_dir, model, artifact) = toy(0);
    load(artifact, &model, threads).unwrap()
}

#[track_caller]
fn check_next(e: &mut Executor, history: &[u32]) {
    let logits = e.logits().unwrap();
    let best = (0..VOCAB).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
    assert!(logits.iter().all(|l| !l.is_nan()), "a weight is not in its place");
    assert_eq!((best as u32, e.position()), (next(history), history.len()));
}

#[test]
fn chunks_of_every_length_give_the_same() {
    for threads in [1, 2, 3] {
        let mut e = executor(threads);
        assert_eq!((e.capacity(), e.context()), (CAPACITIES[2], CONTEXT));
        let tokens: Vec<u32> = (0..CONTEXT as u32).map(|i| i * 7 % VOCAB as u32).collect();
        for n in 1..=CONTEXT {
            e.set_position(0).unwrap();
            assert!(e.prefill(&tokens[..n], &mut |_, _| true).unwrap());
            check_next(&mut e, &tokens[..n]);
        }
        e.set_position(0).unwrap();
        for n in (0..CONTEXT - ALL_LOGITS).step_by(ALL_LOGITS - 1) {
            e.step(&tokens[n..n + ALL_LOGITS - 1]).unwrap();
            check_next(&mut e, &tokens[..n + ALL_LOGITS - 1]);
        }
    }
}

#[test]
fn rolls_back() {
    let mut e = executor(2);
    e.prefill(&[1, 2, 3, 4, 5], &mut |_, _| true).unwrap();
    e.set_position(2).unwrap();
    e.step(&[9]).unwrap();
    check_next(&mut e, &[1, 2, 9]);
    assert!(e.set_position(4).is_err());
}

/// The largest logits are those of the step, where the plan finds them; neither they nor the others outlive it.
#[test]
fn the_largest_logits() {
    let mut e = executor(2);
    check_error(e.logits(), &["no logits before the first step"]);
    check_error(e.top(0), &["no logits before the first step"]);
    for history in [&[4][..], &[4, 9], &[4, 9, 39]] {
        e.step(&history[history.len() - 1..]).unwrap();
        let expected: Vec<(u32, f32)> =
            (0..TOP as u32).map(|i| ((next(history) + i) % VOCAB as u32, -(i as f32))).collect();
        for wanted in [0, 1, TOP] {
            let top = e.top(wanted).unwrap().unwrap();
            assert_eq!((top.iter().collect::<Vec<_>>(), top.log_sum_exp), (expected.clone(), history.len() as f32));
            e.logits().unwrap();
        }
        assert!(e.top(TOP + 1).unwrap().is_none());
        e.logits().unwrap().fill(7.0);
        assert_eq!(e.logits().unwrap(), [7.0; VOCAB]);
    }
    e.step(&[1, 2]).unwrap();
    assert!(e.top(1).unwrap().is_none());
    check_next(&mut e, &[4, 9, 39, 1, 2]);
}

#[test]
fn prefill_can_be_interrupted() {
    let mut e = executor(1);
    let mut told = Vec::new();
    let done = e.prefill(&[0; 20], &mut |done, total| {
        told.push((done, total));
        told.len() < 2
    });
    assert!(!done.unwrap());
    assert_eq!((told, e.position()), (vec![(8, 20), (16, 20)], 16));
}

#[test]
fn large_weights_stay_in_the_file_and_outlive_it() {
    let (_dir, model, artifact) = toy(40_000);
    let mut told = Vec::new();
    let mut e =
        Executor::new(artifact, &model, &Options { threads: 2, ..Options::default() }, &mut |a, b| told.push((a, b)))
            .unwrap();
    let tiles = (VOCAB * 8 * 4) as u64;
    assert_eq!(told, [(0, tiles), (tiles, tiles)], "only the small weight is copied");
    drop(model);
    e.step(&[3]).unwrap();
    check_next(&mut e, &[3]);
}

#[track_caller]
fn check_error<T>(result: Result<T>, parts: &[&str]) {
    let e = result.err().expect("an error").to_string();
    assert!(parts.iter().all(|p| e.contains(p)), "\n  want {parts:?}\n  got  {e}");
}

#[test]
fn bad_tokens_are_refused_before_anything_runs() {
    let mut e = executor(1);
    check_error(e.step(&[VOCAB as u32]), &["token 40 is not in the vocabulary of 40"]);
    check_error(e.step(&[]), &["no tokens"]);
    check_error(e.step(&[0; 9]), &["a step needs 9, but 8 is the limit"]);
    check_error(e.prefill(&[0; 51], &mut |_, _| true), &["the prompt has 51 tokens, the context holds 50", "--ctx"]);
    e.prefill(&[0; 48], &mut |_, _| true).unwrap();
    check_error(e.step(&[0; 3]), &["3 more tokens after 48 exceed the context of 50"]);
    assert_eq!(e.position(), 48);
    e.step(&[0; 2]).unwrap();
}

#[test]
fn unfit_artifacts_are_refused() {
    let (_dir, model, good) = toy(0);
    let check = |change: &dyn Fn(&mut Artifact), parts: &[&str]| {
        let mut bad = good.clone();
        change(&mut bad);
        let hash = kernels_hash(&bad.manifest.kernels);
        bad.manifest.modules.iter_mut().for_each(|m| m.kernels = hash.clone());
        check_error(load(bad, &model, 1), parts);
    };
    check(&|a| a.manifest.rigc = "0.0.0".into(), &["rigc 0.0.0", "compile the model again"]);
    check(&|a| a.manifest.devices[0].target = "z80".into(), &["z80", "x86-64-v3"]);
    check(&|a| a.modules[0].clear(), &["modules are not those"]);
    check(&|a| a.manifest.weights[0].name = "gone".into(), &["toy.gguf has no tensor 'gone'"]);
    let f16 = TensorType::new(Elem::F16, [2 * VOCAB, 8]);
    check(&|a| a.manifest.weights[0] = Weight::whole("rows", &f16), &["'rows'", "its type is F32"]);
    let shape = |a: &mut Artifact, rows: usize, columns: usize| {
        a.manifest.weights[0] = Weight::whole("rows", &TensorType::new(Elem::F32, [rows, columns]));
    };
    check(&|a| shape(a, 80, 4), &["'rows'", "its shape is [40, 8]"]);
    check(
        &|a| a.manifest.model.shards[0].length += 1,
        &["toy.gguf is not the file", "length", "compile the model again"],
    );
    check(
        &|a| {
            a.manifest.context = 1 << 30;
            a.manifest.states[0].ty.shape = vec![1 << 9, 1 << 30, 2];
            a.manifest.states[0].bytes = 1 << 41;
        },
        &["the model (weights 0.00 GB, KV cache 2199.02 GB", "can be had"],
    );
    check(&|a| a.manifest.weights[0].ty.layout = Layout::Keys, &["weight 'rows' has the layout of a KV cache"]);
    check(
        &|a| {
            let state = &mut a.manifest.states[0];
            state.ty.layout = Layout::Values;
            state.bytes = kv_bytes(&state.ty).expect("a size");
        },
        &["state 0 has values, and the one before it not their keys"],
    );
    check(&|a| a.manifest.kernels[0].scratch_bytes = u64::MAX, &["kernel 0", "scratch memory"]);
    // One edit at a time, whatever is sealed.
    for vocab in [VOCAB + 1, usize::MAX / 4 + 2] {
        let row = format!("no weight has a row for each of the {vocab} tokens");
        check(&|a| a.manifest.figures.vocab = vocab, &[&row]);
    }
    fn logits(a: &mut Artifact) -> &mut Buffer {
        &mut a.manifest.entries[1].plan.buffers[4]
    }
    check(&|a| logits(a).bytes -= 64, &["kernel 1 wants 768 bytes of its own where buffer logits is"]);
    check(&|a| logits(a).place = Place::Weight(1), &["of its own where buffer logits is"]);
    check(&|a| logits(a).place = Place::Tokens, &["buffer 4 (logits) is out of range"]);
    check(&|a| logits(a).place = Place::Arena { offset: 65 }, &["buffer 4 (logits) is out of range"]);
    check(&|a| logits(a).place = Place::Arena { offset: 128 }, &["buffers that live at the same time overlap"]);
    check(
        &|a| a.manifest.entries[0].plan.buffers[1].bytes -= 1,
        &["kernel 0 wants 200 bytes of its own where buffer state"],
    );
    check(&|a| a.manifest.entries[0].plan.buffers[0].bytes = 3, &["kernel 0 wants 4 bytes", "where buffer tokens is"]);
    check(&|a| a.manifest.kernels[1].tokens = 3, &["it takes 4 tokens, kernel 1 only 3"]);
    check(&|a| a.manifest.entries.swap(1, 2), &["of 8 tokens comes before one of 4"]);
    check(&|a| a.manifest.entries[1].tokens = 8, &["of 8 tokens comes before one of 8"]);
    check(&|a| a.manifest.entries[0].tokens = 2, &["no decode entry point"]);
    check(&|a| a.manifest.weights[0].repack = Some(0), &["no kernel of two parameters"]);
    check(&|a| drop(a.manifest.modules.pop()), &["0 modules for 1 devices"]);
    for figure in [0, 1, 2] {
        let mut bad = good.clone();
        let kernel = &mut bad.manifest.kernels[0];
        match figure {
            0 => kernel.scratch_bytes -= 1,
            1 => kernel.tickets += 1,
            _ => kernel.params[4].bytes -= 1,
        }
        check_error(load(bad, &model, 1), &["the kernels are not those of module cpu.bin"]);
    }
    let top = |a: &mut Artifact, buffer, k| a.manifest.entries[0].plan.top = Some(Top { buffer, k });
    check(&|a| top(a, 5, 0), &["it finds the 0 largest of 40 logits"]);
    check(&|a| top(a, 5, 41), &["it finds the 41 largest of 40 logits"]);
    check(&|a| top(a, 5, 8), &["the buffer of the largest logits is missing or too small"]);
    check(&|a| top(a, 6, 1), &["the buffer of the largest logits is missing or too small"]);
    check(&|a| top(a, 1, 1), &["the buffer of the largest logits is missing or too small"]);
    check(&|a| a.manifest.weights[0].ty.shape = vec![1 << 33, 1 << 33], &["'rows'", "elements"]);
    check(&|a| a.manifest.weights[0].rows.end -= 1, &["weight 'rows' has other rows and columns than its type"]);
    check(&|a| a.manifest.weights[1].device = DeviceId(1), &["weight 'tiles' has other rows", "or no device"]);
    check(&|a| a.manifest.states[0].device = DeviceId(1), &["state 0"]);
    check(&|a| logits(a).device = DeviceId(1), &["buffer 4 (logits) is on a device that is not there"]);
    check(&|a| a.manifest.entries[1].plan.needs.clear(), &["it needs memory of 0 devices, there are 1"]);
    let step = |a: &mut Artifact, step| a.manifest.entries[1].plan.steps.push(step);
    check(&|a| step(a, Step::Copy { from: 4, to: 5 }), &["buffer 4 cannot be copied to buffer 5"]);
    check(&|a| step(a, Step::Copy { from: 2, to: 3 }), &["buffer 2 cannot be copied to buffer 3"]);
    check(&|a| step(a, Step::Signal { device: DeviceId(0), flag: 0 }), &["device 0 cannot raise flag 0"]);
    check(&|a| step(a, Step::Wait { device: DeviceId(0), flag: 0 }), &["waits for flag 0, which is not raised before"]);
    let two = |a: &mut Artifact| {
        let part = Part { target: "x86-64-v3".into(), card: None };
        a.manifest.devices.push(part);
        a.manifest.entries.iter_mut().for_each(|e| e.plan.needs.push(Default::default()));
        a.modules.push(Vec::new());
        let other = a.manifest.modules[0].clone();
        a.manifest.modules.push(ir::artifact::ModuleEntry { bytes: 0, kernels: kernels_hash(&[]), ..other });
    };
    let mut bad = good.clone();
    two(&mut bad);
    check_error(load(bad, &model, 1), &["the artifact is for 2 devices"]);
    check(&|a| a.manifest.entries[2].tokens = u32::MAX, &["4294967295 tokens, the context is 50"]);
}

// Artifact directories.

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn artifacts_come_back_and_are_replaced() {
    let (dir, model, mut a) = toy(0);
    let path = dir.path().join("toy.rig");
    artifact::write(&a, &path).unwrap();
    assert_eq!(artifact::read(&path).unwrap(), a);
    a.manifest.modules[0].file = "other.bin".into();
    artifact::write(&a, &path).unwrap();
    assert_eq!(names(&path), ["manifest.ron", "other.bin"]);
    assert_eq!(names(dir.path()), ["toy.gguf", "toy.rig"]);
    artifact::check_model(&a.manifest, &model).unwrap();
    let mut e = load(artifact::read(&path).unwrap(), &model, 2).unwrap();
    e.step(&[5]).unwrap();
    check_next(&mut e, &[5]);
}

#[test]
fn failed_writes_leave_nothing() {
    let (dir, _, a) = toy(0);
    let taken = dir.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    std::fs::write(taken.join("mine"), "x").unwrap();
    check_error(artifact::write(&a, &taken), &["taken exists and is no artifact"]);
    check_error(artifact::write(&a, &dir.path().join("toy.gguf")), &["toy.gguf exists and is no artifact"]);
    check_error(artifact::write(&a, &dir.path().join("no/such.rig")), &["no"]);
    let mut twice = a.clone();
    twice.manifest.modules.push(a.manifest.modules[0].clone());
    twice.modules.push(a.modules[0].clone());
    check_error(artifact::write(&twice, &dir.path().join("twice.rig")), &["2 modules for 1 devices"]);
    let mut wrong = a.clone();
    wrong.modules[0][0] ^= 1;
    check_error(artifact::write(&wrong, &dir.path().join("wrong.rig")), &["cpu.bin has SHA-256"]);
    assert_eq!(names(dir.path()), ["taken", "toy.gguf"]);
    assert_eq!(names(&taken), ["mine"]);
}

#[test]
fn damaged_artifacts_are_named() {
    let (dir, _, a) = toy(0);
    let check = |file: &str, change: &dyn Fn(Vec<u8>) -> Option<Vec<u8>>, parts: &[&str]| {
        let path = dir.path().join("toy.rig");
        let _ = std::fs::remove_dir_all(&path);
        artifact::write(&a, &path).unwrap();
        let old = std::fs::read(path.join(file)).unwrap();
        match change(old) {
            Some(new) => std::fs::write(path.join(file), new).unwrap(),
            None => std::fs::remove_file(path.join(file)).unwrap(),
        }
        check_error(artifact::read(&path), parts);
    };
    let edit = |from: &'static str, to: &'static str| {
        move |old: Vec<u8>| {
            let text = String::from_utf8(old).unwrap();
            assert!(text.contains(from), "{from} is not in the manifest");
            Some(artifact::sealed(&text.replace(from, to)).into_bytes())
        }
    };
    let again = "compile the model again";
    check("cpu.bin", &|_| None, &["cpu.bin is missing", again]);
    check("cpu.bin", &|_| Some(vec![]), &["cpu.bin is damaged", "0 bytes instead of 24", again]);
    check("cpu.bin", &|b| Some([b, vec![0; 100]].concat()), &["cpu.bin is damaged", "bytes instead of 24", again]);
    check("cpu.bin", &|b| Some(b.iter().map(|b| b ^ 1).collect()), &["cpu.bin is damaged", "SHA-256", again]);
    check("manifest.ron", &|_| None, &["toy.rig is no artifact"]);
    check("manifest.ron", &|_| Some(vec![]), &["manifest.ron cannot be understood", again]);
    check("manifest.ron", &|_| Some(vec![0xff]), &["not text", again]);
    check("manifest.ron", &|b| Some(b[..b.len() / 2].into()), &["manifest.ron cannot be understood", again]);
    check("manifest.ron", &edit("rigc-artifact-4", "rigc-artifact-9"), &["format rigc-artifact-9", again]);
    let version = concat!("rigc: \"", env!("CARGO_PKG_VERSION"), "\"");
    check("manifest.ron", &edit(version, "rigc: \"9.9.9\""), &["rigc 9.9.9", again]);
    check("manifest.ron", &edit("\"cpu.bin\"", "\"../cpu.bin\""), &["file name '../cpu.bin'", again]);
    check("manifest.ron", &edit("\"cpu.bin\"", "\"/etc/passwd\""), &["file name '/etc/passwd'", again]);
    check("manifest.ron", &edit("kernel: 1", "kernel: 100"), &["kernel 100 is not there", again]);
    let unsealed = |b: Vec<u8>| Some(String::from_utf8(b).unwrap().replacen("offset: 0", "offset: 1", 1).into_bytes());
    check("manifest.ron", &unsealed, &["hash is in its last line", again]);
    check_error(artifact::read(&dir.path().join("none.rig")), &["none.rig does not exist"]);
}

// Generation.

mod generation {
    use super::*;
    use runtime::generate::{Generation, Options, StopReason, Watch, generate};
    use runtime::sampler::{Sampler, SamplerConfig};
    use runtime::tokenizer::{Tokenizer, Vocab};

    const PROMPT: [u32; 3] = [1, 2, 3];

    /// Every token is one byte; the first ones, which the model knows, from `A` on; `end` ends a text.
    fn tokenizer(end: Option<u32>) -> Tokenizer {
        let printable = |b: &u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
        let mut other = (256..).filter_map(char::from_u32);
        let mut spelling: Vec<char> =
            (0..=255u8).map(|b| if printable(&b) { b.into() } else { other.next().unwrap() }).collect();
        spelling.rotate_left(b'A'.into());
        Tokenizer::new(Vocab {
            model: "gpt2".into(),
            pre: "gpt-2".into(),
            tokens: spelling.iter().map(|c| c.to_string().into()).collect(),
            eos: end,
            ..Vocab::default()
        })
        .unwrap()
    }

    /// Runs greedily after [`PROMPT`]; the generation and the texts as they came.
    fn run(end: Option<u32>, options: Options, interrupt_at: usize) -> (Generation, Vec<String>) {
        let mut e = executor(2);
        let config = SamplerConfig { temperature: 0.0, ..SamplerConfig::default() };
        let mut sampler = Sampler::new(config, VOCAB).unwrap();
        let interrupted = AtomicBool::new(interrupt_at == 0);
        let mut texts = Vec::new();
        let mut on_text = |t: &str| {
            texts.push(t.to_owned());
            interrupted.store(texts.len() >= interrupt_at, Ordering::Relaxed);
        };
        let mut watch = Watch { text: &mut on_text, prefill: &mut |_, _| (), interrupted: &interrupted };
        let g = generate(&mut e, &tokenizer(end), &mut sampler, &PROMPT, &options, &mut watch);
        (g.unwrap(), texts)
    }

    /// What follows the prompt.
    fn expected(n: usize) -> Vec<u32> {
        let mut all = PROMPT.to_vec();
        (0..n).for_each(|_| all.push(next(&all)));
        all.split_off(PROMPT.len())
    }

    fn text(ids: &[u32]) -> String {
        ids.iter().map(|&i| char::from(b'A' + i as u8)).collect()
    }

    #[track_caller]
    fn check(run: (Generation, Vec<String>), n: usize, reason: StopReason) {
        let (g, texts) = run;
        assert_eq!((g.ids.as_slice(), g.stop_reason), (expected(n).as_slice(), reason));
        assert_eq!(g.text, texts.concat());
        assert!(texts.iter().all(|t| !t.is_empty()));
    }

    #[test]
    fn stops_for_each_reason() {
        let never = usize::MAX;
        let options = |n| Options { max_tokens: n, ..Options::default() };
        check(run(None, options(Some(10)), never), 10, StopReason::Length);
        check(run(None, options(Some(0)), never), 0, StopReason::Length);
        check(run(None, options(None), never), CONTEXT - PROMPT.len() + 1, StopReason::Context);
        check(run(None, options(None), 0), 0, StopReason::Interrupted);
        check(run(None, options(None), 4), 4, StopReason::Interrupted);
        let all = expected(20);
        let end = all[6];
        let first = all.iter().position(|&i| i == end).unwrap();
        check(run(Some(end), options(Some(20)), never), first, StopReason::Eos);
        let ignoring = Options { ignore_eos: true, ..options(Some(20)) };
        check(run(Some(end), ignoring, never), 20, StopReason::Length);
    }

    #[test]
    fn stop_strings_are_not_text() {
        let all = expected(20);
        let options = Options { stops: vec![text(&all[5..8])], max_tokens: Some(20), ..Options::default() };
        let (g, texts) = run(None, options, usize::MAX);
        assert_eq!((g.ids.as_slice(), g.stop_reason), (&all[..8], StopReason::Stop));
        assert_eq!((g.text.as_str(), texts.concat()), (text(&all[..5]).as_str(), text(&all[..5])));
        // One that begins but does not come is text after all.
        let stop = text(&all[8..10]) + "~";
        let (g, _) = run(None, Options { stops: vec![stop], max_tokens: Some(10), ..Options::default() }, usize::MAX);
        assert_eq!((g.text, g.stop_reason), (text(&all[..10]), StopReason::Length));
    }

    #[test]
    fn reports() {
        let options = Options { max_tokens: Some(5), top_logits: 3, ..Options::default() };
        let (g, _) = run(None, options, usize::MAX);
        let best = next(&PROMPT);
        let id = |i: u32| (best + i) % VOCAB as u32;
        assert_eq!(g.top_logits, [(id(0), 0.0), (id(1), -1.0), (id(2), -2.0)]);
        assert_eq!((g.timings.prefill_tokens, g.timings.decode_steps), (3, 4));
        assert!(g.timings.prefill_tokens_per_second() > 0.0 && g.timings.decode_tokens_per_second() > 0.0);
        assert_eq!(StopReason::Context.to_string(), "context");
    }
}

/// A model on a device that fails where it is told to.
fn watched() -> (Executor, std::sync::Arc<std::sync::Mutex<Seen>>) {
    let (_dir, model, artifact) = toy(0);
    let (device, seen) = Watched::shared(2);
    (Executor::on_devices(&[device], artifact, &model, &mut |_, _| ()).unwrap(), seen)
}

/// What an executor has on a device is given back, also where loading fails half way.
#[test]
fn everything_is_given_back() {
    let (e, seen) = watched();
    assert!(seen.lock().unwrap().held > 5);
    drop(e);
    assert_eq!(seen.lock().unwrap().held, 0);
    for fail in [Fail::Alloc, Fail::Copy] {
        let (_dir, model, artifact) = toy(0);
        let (device, seen) = Watched::shared(2);
        seen.lock().unwrap().fail = Some(fail);
        check_error(Executor::on_devices(&[device], artifact, &model, &mut |_, _| ()), &["it is told to"]);
        assert_eq!(seen.lock().unwrap().held, 0);
    }
}

/// Two models take turns on one device.
#[test]
fn executors_share_a_device() {
    let (_dir, model, artifact) = toy(0);
    let (device, seen) = Watched::shared(2);
    let load = |device: &Shared| {
        Executor::on_devices(std::slice::from_ref(device), artifact.clone(), &model, &mut |_, _| ()).unwrap()
    };
    let (mut a, mut b) = (load(&device), load(&device));
    a.step(&[3]).unwrap();
    b.step(&[8]).unwrap();
    a.step(&[4]).unwrap();
    check_next(&mut a, &[3, 4]);
    check_next(&mut b, &[8]);
    drop(a);
    b.step(&[9]).unwrap();
    check_next(&mut b, &[8, 9]);
    drop(b);
    assert_eq!(seen.lock().unwrap().held, 0);
}

/// The largest logits come with the step, by a copy that is part of it.
#[test]
fn steps_bring_inputs_and_results() {
    let (_e, seen) = watched();
    let recorded = &seen.lock().unwrap().recorded;
    assert_eq!(recorded.len(), CAPACITIES.len());
    for ((_, commands), tops) in recorded.iter().zip([1, 0, 0]) {
        let copies: Vec<bool> = commands.iter().map(|c| matches!(c, Command::Copy { .. })).collect();
        let expected = [true].into_iter().chain([false]).chain(std::iter::repeat_n(true, tops));
        assert_eq!(copies, expected.collect::<Vec<_>>());
    }
}

/// After a launch that failed, nothing is computed or told any more.
#[test]
fn a_failed_launch_ends_the_executor() {
    for fail in [Fail::Replay, Fail::Sync] {
        for timed in [false, true] {
            let (mut e, seen) = watched();
            e.step(&[3]).unwrap();
            seen.lock().unwrap().fail = Some(fail);
            let result = match timed {
                false => e.step(&[4]),
                true => e.time_kernel(0, 0, &[4], std::time::Duration::ZERO).map(|_| ()),
            };
            check_error(result, &["kernel k, launch 7, failed"]);
            assert_eq!(e.position(), 1);
            let replayed = seen.lock().unwrap().replayed.len();
            let ends = ["a step before failed", "load it again"];
            check_error(e.step(&[4]), &ends);
            check_error(e.prefill(&[4; 9], &mut |_, _| true), &ends);
            check_error(e.time_kernel(0, 0, &[4], std::time::Duration::ZERO), &ends);
            check_error(e.logits().map(|_| ()), &ends);
            check_error(e.top(1).map(|_| ()), &ends);
            check_error(e.logits_of(0).map(|_| ()), &ends);
            assert_eq!(seen.lock().unwrap().replayed.len(), replayed);
        }
    }
}

#[test]
fn errors_have_causes() {
    let (_dir, model, mut a) = toy(0);
    a.manifest.states[0].ty.shape = vec![1 << 30, CONTEXT, 2];
    a.manifest.states[0].bytes = (CONTEXT as u64 * 4) << 30;
    assert!(matches!(load(a, &model, 1), Err(Error::Memory { have: Some(_), .. })));
}
