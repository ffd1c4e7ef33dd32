//! `rigc compile`: a model's kernels as an artifact, or the text of the stages on the way.

use crate::failure::{INTERRUPTED, usage};
use crate::interrupt::Interrupt;
use crate::model::{self, CompileArgs};
use crate::output::{self, note};
use crate::schedules::known_kernel;
use crate::{places, progress, tools};
use anyhow::Result;
use codegen::{Compiled, schedule};
use ir::artifact::Artifact;
use ir::quote;
use ir::target::Target;
use runtime::ModelFile;
use runtime::device::{self, Card, Kind, Options, Shared};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

/// Compile a model's kernels for one target into NAME.rig, which `rigc run` loads without compiling
#[derive(Debug, clap::Args)]
pub struct Args {
    /// GGUF file, or any shard of one
    model: PathBuf,
    #[command(flatten)]
    compile: CompileArgs,
    /// Have the driver of this card (cuda:N) make machine code of the kernels now, and not when they are first loaded
    /// [default: of the first card that runs them]
    #[arg(long, value_name = "DEVICE", conflicts_with = "emit")]
    device: Option<String>,
    /// Artifact to write [default: the model's name with .rig, in this directory]
    #[arg(short, long, value_name = "NAME.rig")]
    output: Option<PathBuf>,
    /// Print stages instead of writing the artifact: graph,fused,schedule,kernel,plan for every target, clif,asm for CPUs,
    /// ptx,sass for GPUs; sass is by ptxas and nvdisasm (RIGC_PTXAS, RIGC_NVDISASM or on the PATH)
    #[arg(long, value_name = "STAGES", value_delimiter = ',', conflicts_with = "output")]
    emit: Vec<String>,
    /// With --emit, this kernel only, as inspect --kernels names it
    #[arg(long, value_name = "NAME", requires = "emit")]
    kernel: Option<String>,
}

/// The stage that NVIDIA's tools make.
const SASS: &str = "sass";
/// Stages that are of whole steps, not of kernels.
const OF_STEPS: [&str; 3] = ["graph", "fused", "plan"];

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    let stages: Vec<&str> = args.emit.iter().map(String::as_str).collect();
    let target = model::target(&args.compile)?;
    let mut has = codegen::stages(&target);
    has.extend(target.gpu().map(|_| SASS));
    if let Some(unknown) = stages.iter().find(|s| !has.contains(s)) {
        let (name, has) = (target.name, has.join(", "));
        return Err(usage(format!("--emit knows no stage {} of {name}; the stages are {has}", quote::quoted(unknown))));
    }
    if let Some(stage) = stages.iter().find(|s| args.kernel.is_some() && OF_STEPS.contains(s)) {
        return Err(usage(format!("--emit {stage} is of whole steps; --kernel is for the other stages")));
    }
    if model::is_artifact(&args.model) {
        let path = args.model.display();
        return Err(usage(format!("{path} is an artifact; rigc compile takes the GGUF file, rigc run the artifact")));
    }
    let card = card(args.device.as_deref(), &target)?;
    let interrupt = Interrupt::new();
    let start = std::time::Instant::now();
    let file = ModelFile::open(&args.model)?;
    let compiled = model::compile(&file, &args.compile, &stages)?;
    file.check_unchanged()?;
    if !stages.is_empty() {
        output::print(&listings(&compiled, &target, &stages, args.kernel.as_deref())?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let path = match args.output {
        Some(path) => path,
        None => PathBuf::from(args.model.file_name().unwrap_or_default()).with_extension("rig"),
    };
    if path.extension().is_none_or(|e| e != "rig") {
        return Err(usage(format!("the artifact {} must end in .rig", path.display())));
    }
    let options = |device| Options {
        device,
        cache: places::cache(),
        assembling: Some(progress::assembly(false)),
        ..Options::default()
    };
    let open = |kind| device::open(&compiled.artifact.manifest.devices[0], &options(kind));
    let card = match card {
        Some((kind, true)) => Some(open(kind)?),
        Some((kind, false)) => open(kind).inspect_err(|e| note!("warning: {e}")).ok(),
        None => None,
    };
    // From here on files are written, and removed if that fails.
    let interrupted = interrupt.flag();
    if interrupted.load(Ordering::Relaxed) {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    runtime::artifact::write(&compiled.artifact, &path)?;
    let m = &compiled.artifact.manifest;
    let bytes: u64 = m.modules.iter().map(|m| m.bytes).sum();
    note!(
        "{}: {} kernels, {:.0} KB of code for {}, context {}, KV {}; {:.2} s",
        path.display(),
        m.kernels.len(),
        bytes as f64 / 1e3,
        m.machine(),
        m.context,
        m.kv,
        start.elapsed().as_secs_f64()
    );
    if let Some(card) = card {
        assemble(&compiled.artifact, &card).unwrap_or_else(|e| note!("warning: {e}; it is made when it is loaded"));
    }
    Ok(ExitCode::SUCCESS)
}

/// The text of stages, of one kernel if it is named.
fn listings(compiled: &Compiled, target: &Target, stages: &[&str], kernel: Option<&str>) -> Result<String> {
    let manifest = &compiled.artifact.manifest;
    if let Some(name) = kernel {
        known_kernel(name, manifest.kernels.iter().map(|k| &*k.name))?;
    }
    let named = |name: &str| kernel.is_none_or(|kernel| kernel == name);
    let mut text = String::new();
    let mut add = |stage: &str, name: &str, of: &str| text.push_str(&format!("== {stage} {name}\n{}\n", of.trim_end()));
    for l in &compiled.listings {
        if l.stage == "schedule" {
            let own = compiled.table.kernels.iter().filter(|k| named(&k.kernel.name));
            let rows = schedule::table(own.map(|k| (&k.spec, &k.schedule, None)), target)?;
            add(l.stage, &l.name, &rows);
        } else if kernel.is_none() || named(&l.name) {
            add(l.stage, &l.name, &l.text);
        }
    }
    if stages.contains(&SASS) {
        for (name, code) in sass(compiled, target, &named)? {
            add(SASS, &name, &code);
        }
    }
    Ok(text)
}

/// The machine code of kernels by NVIDIA's tools, by name.
fn sass(compiled: &Compiled, target: &Target, named: &dyn Fn(&str) -> bool) -> Result<Vec<(String, String)>> {
    let (kernels, module) = (&compiled.artifact.manifest.kernels, &compiled.artifact.modules[0]);
    // What comes before the first kernel, and the kernels that are wanted.
    let first = kernels.iter().map(|k| k.offset as usize).min().unwrap_or(0);
    let mut code = module[..first].to_vec();
    for k in kernels.iter().filter(|k| named(&k.name)) {
        code.extend_from_slice(&module[k.offset as usize..][..k.bytes as usize]);
    }
    let dir = tempfile::tempdir()?;
    let made = tools::assemble(&code, target.name, dir.path()).and_then(|(_, cubin)| tools::disassemble(&cubin));
    let text = made.map_err(|why| usage(format!("--emit sass: {why}")))?;
    let mut found: Vec<(String, String)> = Vec::new();
    let mut within = false;
    for line in text.lines() {
        let label = line.trim().strip_prefix(".text.").and_then(|l| l.strip_suffix(':'));
        if let Some(name) = label {
            found.push((name.to_owned(), String::new()));
            within = true;
        } else if line.trim_start().starts_with(".section") {
            within = false;
        } else if let (true, Some((_, code))) = (within, found.last_mut()) {
            code.push_str(line);
            code.push('\n');
        }
    }
    // In the order of the kernels, which the tools do not keep.
    found.sort_by_key(|(name, _)| kernels.iter().position(|k| k.name == *name));
    Ok(found)
}

/// The card that machine code is made for now, and whether it was asked for.
fn card(given: Option<&str>, target: &Target) -> Result<Option<(Kind, bool)>> {
    let Some(gpu) = target.gpu() else {
        return match given {
            Some(_) => Err(usage("--device makes machine code for cards, and this is compiled for a CPU")),
            None => Ok(None),
        };
    };
    if let Some(name) = given {
        return match name.parse()? {
            kind @ Kind::Cuda(_) => Ok(Some((kind, true))),
            _ => Err(usage(format!("--device takes a card, such as cuda:0, not {name}"))),
        };
    }
    let card = Card::first().ok().flatten().filter(|card| !card.is_stand_in() && card.runs(gpu.sm));
    Ok(card.map(|card| (Kind::Cuda(card.ordinal), false)))
}

/// Has a card's driver make machine code, which is kept where the next load finds it.
fn assemble(artifact: &Artifact, card: &Shared) -> Result<()> {
    let start = std::time::Instant::now();
    let mut card = card.get();
    let kernels: Vec<_> = artifact.manifest.kernels.iter().collect();
    for module in &artifact.modules {
        let (loaded, _) = card.load(module, &kernels)?;
        card.unload(loaded)?;
    }
    note!("machine code for {}; {:.2} s", card.info().name, start.elapsed().as_secs_f64());
    Ok(())
}
