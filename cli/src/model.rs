//! Opening what the user named: a GGUF file, an artifact, or the demo model; compiling in memory where needed; loading.

use crate::failure::usage;
use crate::output::{self, note};
use crate::{machine, progress};
use anyhow::Result;
use codegen::schedule::{self, Row};
use codegen::{Compiled, Options};
use ir::artifact::Artifact;
use ir::front::Tensors;
use ir::kv::{self, KvFormat};
use ir::quant::Format;
use ir::target::Target;
use runtime::tokenizer::Tokenizer;
use runtime::{Error, Executor, ModelFile, device};
use std::path::{Path, PathBuf};

/// The demo model's file, which the binary carries.
static DEMO: &[u8] = include_bytes!("../../assets/bard-q4_k_m.gguf");
/// Its name.
pub const DEMO_NAME: &str = "bard-q4_k_m.gguf";

/// Flags that choose how a model is compiled.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct CompileArgs {
    /// Target: x86-64, x86-64-v3, x86-64-v4-vnni or native (the best that this CPU runs) for CPUs; sm_80, sm_89, sm_90 or
    /// sm_120 for GPUs [default: native]
    #[arg(long)]
    pub target: Option<String>,
    /// Card of a GPU target, whose multiprocessors work is split over [default: the best-known of the target]
    #[arg(long)]
    pub card: Option<String>,
    /// Positions of the KV cache [default: the smaller of the model's context and 8192]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub ctx: Option<u32>,
    /// Format of the KV cache: f16 or q8_0 [default: f16]
    #[arg(long)]
    pub kv: Option<String>,
    /// RON table of schedules, which come before rigc's own: rigc schedules MODEL prints one, rigc help schedules tells what
    /// stands in it
    #[arg(long, value_name = "FILE.ron")]
    pub schedules: Option<PathBuf>,
    /// The target where none is given; else the best that this CPU runs.
    #[arg(skip)]
    pub default_target: Option<Target>,
    /// Whether the model may be compiled for the CPU instead, where the device does not take it.
    #[arg(skip)]
    pub or_cpu: bool,
}

impl CompileArgs {
    fn schedules(&self) -> Result<Vec<Row>> {
        let Some(path) = &self.schedules else { return Ok(Vec::new()) };
        let text = std::fs::read_to_string(path).map_err(|e| usage(format!("{}: {e}", path.display())))?;
        Ok(schedule::rows(&text, &path.display().to_string())?)
    }

    fn format(&self) -> Result<Format> {
        let Some(name) = &self.kv else { return Ok(kv::ALL[0].format) };
        let known = KvFormat::by_name(name).map(|kv| kv.format);
        let names = KvFormat::names("--kv ");
        known.ok_or_else(|| usage(format!("a KV cache of '{name}' is not supported; use {names}")))
    }
}

/// The target that the flags ask for: a card alone stands for its target.
pub fn target(args: &CompileArgs) -> Result<Target> {
    let card = args.card.as_deref();
    let of_card = card.and_then(Target::of_card).filter(|_| args.target.is_none());
    let otherwise = || match (&args.target, args.default_target) {
        (None, Some(target)) => card.map_or(Ok(target), |card| Ok(target.with_card(card)?)),
        (name, _) => machine::target(name.as_deref().unwrap_or("native"), card),
    };
    of_card.map_or_else(otherwise, Ok)
}

/// Compiles a model; `stages` names the texts wanted.
pub fn compile(model: &ModelFile, args: &CompileArgs, stages: &[&str]) -> Result<Compiled> {
    if let Some(what) = model.no_model() {
        return Err(usage(what));
    }
    let tensors = Tensors::new(model.tensors().map(|(_, t)| t))?;
    let path = std::path::absolute(model.path()).unwrap_or_else(|_| model.path().to_owned());
    let Some(path) = path.to_str() else {
        let path = path.display();
        return Err(usage(format!(
            "{path} is not UTF-8, as an artifact has to name it; rename the file or its folder"
        )));
    };
    let options = Options {
        target: &target(args)?,
        context: args.ctx.map(|n| n as usize),
        kv: args.format()?,
        schedules: &args.schedules()?,
    };
    let identity = model.identity();
    let header = codegen::Model { metadata: model.metadata(), tensors: &tensors, identity: &identity, path };
    let compiled = codegen::compile(header, options, stages).map_err(|e| match e {
        ir::Error::Malformed { what, at } => {
            ir::Error::Malformed { what: format!("{path} cannot be used: {what}"), at }.into()
        }
        ir::Error::Unsupported { feature, target, hint } => {
            ir::Error::Unsupported { feature: format!("{path}: {feature}"), target, hint }.into()
        }
        e => anyhow::Error::from(e),
    })?;
    output::warn(model, &compiled.skipped);
    Ok(compiled)
}

/// The tokenizer of a model.
pub fn tokenizer(file: &ModelFile) -> Result<Tokenizer> {
    let path = file.path().display();
    let tokenizer = Tokenizer::from_metadata(file.metadata()).map_err(|e| match e {
        runtime::Error::Input { what } => runtime::Error::Input { what: format!("{path}: {what}") },
        runtime::Error::Unsupported { feature, hint } => {
            runtime::Error::Unsupported { feature: format!("{path}: {feature}"), hint }
        }
        runtime::Error::Limit { what, need, have } => {
            runtime::Error::Limit { what: format!("{path}: {what}"), need, have }
        }
        e => e,
    });
    Ok(tokenizer?)
}

/// The demo model.
pub fn demo() -> Result<ModelFile> {
    Ok(ModelFile::from_static(DEMO_NAME, DEMO)?)
}

/// Whether an argument names a model rather than being a prompt.
pub fn is_model(argument: &str) -> bool {
    let path = Path::new(argument);
    let ending = path.extension().is_some_and(|e| e == "gguf" || e == "rig");
    ending || (!argument.is_empty() && path.exists())
}

/// Whether a path names an artifact.
pub fn is_artifact(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "rig") || runtime::artifact::is_artifact(path)
}

/// The model file of an artifact: where it was, or beside the artifact.
pub fn of_artifact(artifact: &Artifact, path: &Path) -> Result<ModelFile> {
    let recorded = PathBuf::from(&artifact.manifest.model_path);
    let beside = recorded.file_name().map(|name| path.join("..").join(name));
    let found = [Some(recorded.clone()), beside].into_iter().flatten().find(|p| p.is_file());
    let Some(file) = found else {
        let (recorded, path) = (recorded.display(), path.display());
        return Err(usage(format!("the weights of {path} are missing: put {recorded} back, or beside the artifact")));
    };
    Ok(ModelFile::open(file)?)
}

/// What `rigc run` loads: an artifact and the file with its weights.
pub struct Loaded {
    /// The kernels.
    pub artifact: Artifact,
    /// The weights.
    pub file: ModelFile,
    /// File name of the model.
    pub name: String,
    /// How to compile it if the device does not take it.
    otherwise: Option<CompileArgs>,
}

/// Opens a model or artifact (`None`: the demo model), compiling if it is no artifact.
pub fn load(path: Option<&Path>, args: &CompileArgs) -> Result<Loaded> {
    let mut otherwise = None;
    let (artifact, file) = match path {
        Some(path) if is_artifact(path) => {
            let artifact = runtime::artifact::read(path)?;
            check_flags(args, &artifact, path)?;
            let file = of_artifact(&artifact, path)?;
            (artifact, file)
        }
        path => {
            let file = path.map_or_else(demo, |p| Ok(ModelFile::open(p)?))?;
            otherwise = args.or_cpu.then(|| CompileArgs { default_target: None, ..args.clone() });
            (compile(&file, args, &[])?.artifact, file)
        }
    };
    let name = file.path().file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Loaded { artifact, file, name, otherwise })
}

/// Loads weights and kernels, with a bar unless `quiet`; where the device does not take them, on the CPU if that may be.
pub fn executor(loaded: Loaded, options: &device::Options, quiet: bool) -> Result<(Executor, ModelFile, String)> {
    let Loaded { artifact, file, name, otherwise } = loaded;
    let options = &device::Options { assembling: Some(progress::assembly(quiet)), ..options.clone() };
    let load = |artifact, options: &device::Options| {
        let bar = progress::bytes("loading", quiet);
        let executor = Executor::new(artifact, &file, options, &mut progress::callback(&bar));
        bar.finish_and_clear();
        executor
    };
    let executor = match (load(artifact, options), otherwise) {
        (Err(e @ (Error::Memory { .. } | Error::Device { .. } | Error::Launch { .. })), Some(args)) => {
            note!("{e}; the model runs on the CPU");
            let options = device::Options { device: device::Kind::Cpu, ..options.clone() };
            load(compile(&file, &args, &[])?.artifact, &options)?
        }
        (Err(e @ Error::Memory { .. }), None) => return Err(others(e, options.device)),
        (executor, _) => executor?,
    };
    Ok((executor, file, name))
}

/// A lack of memory, and what takes it, if that is other programs on a card.
fn others(error: Error, device: device::Kind) -> anyhow::Error {
    let used = || {
        let device::Kind::Cuda(ordinal) = device else { return None };
        let card = device::Card::find(ordinal).ok()?;
        Some(card.memory_bytes.saturating_sub(card.free_bytes().ok()?))
    };
    match used().filter(|&used| used > device::RESERVE * 4) {
        Some(used) => {
            let gib = used as f64 / f64::from(1 << 30);
            usage(format!("{error}; {gib:.1} GiB of the card are in use, nvidia-smi lists by whom"))
        }
        None => error.into(),
    }
}

/// An artifact's figures are fixed: flags that say otherwise are an error.
fn check_flags(args: &CompileArgs, artifact: &Artifact, path: &Path) -> Result<()> {
    let m = &artifact.manifest;
    let target = args.target.as_deref().map(|name| machine::target(name, None)).transpose()?;
    let checks = [
        ("--target", target.map(|t| t.name.to_owned()), Some(m.devices[0].target.clone())),
        ("--card", args.card.clone(), m.devices[0].card.clone()),
        ("--ctx", args.ctx.map(|n| n.to_string()), Some(m.context.to_string())),
        ("--kv", args.kv.clone(), Some(m.kv.to_string())),
        ("--schedules", args.schedules.as_ref().map(|path| path.display().to_string()), None),
    ];
    for (flag, wanted, has) in checks {
        if let Some(wanted) = &wanted
            && has.as_ref() != Some(wanted)
        {
            let (path, has) = (path.display(), has.map_or_else(|| format!("no {flag}"), |has| format!("{flag} {has}")));
            return Err(usage(format!("{path} was compiled with {has}, not {wanted}; compile the model again")));
        }
    }
    Ok(())
}
