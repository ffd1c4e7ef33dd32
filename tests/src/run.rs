//! Compiling and running whole models on the CPU, without the command line.

use crate::golden::argmax;
use codegen::Options;
use ir::artifact::Artifact;
use ir::front::Tensors;
use ir::quant::{self, Format};
use ir::target::{self, Target};
use runtime::device::{self, CpuDevice, Kind};
use runtime::{Executor, ModelFile};

/// Whether this machine runs a target's code, GPUs in the emulator; says so if not.
pub fn runs(target: &Target) -> bool {
    let runs = target.gpu().is_some() || CpuDevice::new(target, 1).is_ok();
    if !runs {
        eprintln!("skipped: this CPU does not run {}", target.name);
    }
    runs
}

/// The CPU targets whose code this machine runs; says which are skipped.
pub fn targets() -> Vec<&'static Target> {
    target::ALL.iter().filter(|t| t.gpu().is_none() && runs(t)).collect()
}

/// How a model is compiled.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The target.
    pub target: &'static Target,
    /// Positions of the KV cache; `None`: what rigc takes by itself.
    pub context: Option<usize>,
    /// Format of the KV cache.
    pub kv: Format,
}

impl Settings {
    /// The default context and KV cache.
    pub fn new(target: &'static Target) -> Settings {
        Settings { target, context: None, kv: quant::F16 }
    }
}

/// A model file made of bytes, which stay for as long as the program runs.
///
/// # Errors
/// What [`ModelFile::from_static`] says.
pub fn file(bytes: Vec<u8>) -> runtime::Result<ModelFile> {
    ModelFile::from_static("model.gguf", bytes.leak())
}

/// Compiles a model.
///
/// # Errors
/// What [`codegen::compile`] says.
pub fn compile(file: &ModelFile, settings: Settings) -> ir::Result<Artifact> {
    let Settings { target, context, kv } = settings;
    let tensors = Tensors::new(file.tensors().map(|(_, t)| t))?;
    let (metadata, identity) = (file.metadata(), file.identity());
    let path = file.path().to_string_lossy();
    let model = codegen::Model { metadata, tensors: &tensors, identity: &identity, path: &path };
    Ok(codegen::compile(model, Options { target, context, kv, schedules: &[] }, &[])?.artifact)
}

/// Loads a model on `threads` threads, or on the emulator if it is compiled for a GPU.
///
/// # Errors
/// What [`Executor::new`] says.
pub fn load(file: &ModelFile, artifact: Artifact, threads: usize) -> runtime::Result<Executor> {
    let gpu = target::ALL.iter().any(|t| t.name == artifact.manifest.devices[0].target && t.gpu().is_some());
    let device = if gpu { Kind::Emu } else { Kind::Cpu };
    Executor::new(artifact, file, &device::Options { threads, device, ..Default::default() }, &mut |_, _| ())
}

/// Compiles and loads.
///
/// # Panics
/// If the model cannot be compiled or loaded.
pub fn executor(file: &ModelFile, settings: Settings, threads: usize) -> Executor {
    let artifact = compile(file, settings).unwrap_or_else(|e| panic!("{e}"));
    load(file, artifact, threads).unwrap_or_else(|e| panic!("{e}"))
}

/// The logits after `prompt` from position 0, and the first `n` greedy tokens.
///
/// # Panics
/// If a step fails.
pub fn greedy(executor: &mut Executor, prompt: &[u32], n: usize) -> (Vec<f32>, Vec<u32>) {
    executor.set_position(0).unwrap_or_else(|e| panic!("{e}"));
    executor.prefill(prompt, &mut |_, _| true).unwrap_or_else(|e| panic!("{e}"));
    let logits = executor.logits().unwrap_or_else(|e| panic!("{e}")).to_vec();
    (logits, go_on(executor, n))
}

/// The next `n` greedy tokens.
///
/// # Panics
/// If a step fails.
pub fn go_on(executor: &mut Executor, n: usize) -> Vec<u32> {
    let mut ids = Vec::with_capacity(n);
    for step in 0..n {
        if step > 0 {
            executor.step(&ids[step - 1..]).unwrap_or_else(|e| panic!("{e}"));
        }
        ids.push(best(executor));
    }
    ids
}

/// The token of the largest logit. What the device itself has found has to agree.
fn best(executor: &mut Executor) -> u32 {
    let logits = executor.logits().unwrap_or_else(|e| panic!("{e}"));
    let id = argmax(logits);
    let expected = (id, logits[id as usize]);
    if let Some(top) = executor.top(1).unwrap_or_else(|e| panic!("{e}")) {
        assert_eq!(top.iter().next(), Some(expected), "the largest logit");
    }
    id
}
