//! `rigc inspect`: what is in a model or an artifact (`summary`); with `--kernels`, what its kernels cost (`kernels`).

mod kernels;
pub mod names;
mod parameters;
mod summary;

use crate::failure::usage;
use crate::{model, output, progress};
use anyhow::Result;
use codegen::predict::{CONSTANTS, Source};
use ir::artifact::{Manifest, State};
use ir::front::{self, EntryShape, Figures, Tensors};
use ir::graph::Op;
use ir::quant;
use ir::tensor::kv_bytes;
use parameters::Parameters;
use runtime::ModelFile;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

/// Print shapes, quantisation mix, bytes and kernels of a model or an artifact
#[derive(Debug, clap::Args)]
#[command(after_help = help())]
pub struct Args {
    /// GGUF file or artifact (.rig); without it, the built-in demo model
    model: Option<PathBuf>,
    /// Hash every byte of the model, and check an artifact against its model
    #[arg(long)]
    verify: bool,
    /// Print what each kernel of a step of an artifact is predicted to take, and what of
    #[arg(long, conflicts_with = "verify")]
    kernels: bool,
    /// With --kernels, the card to predict for [default: the artifact's]
    #[arg(long, value_name = "NAME", requires = "kernels")]
    card: Option<String>,
    /// With --kernels, the position of the step's first token, such as 0, 8191 or 32767 [default: the last that there is
    /// room for]
    #[arg(long, value_name = "N", requires = "kernels")]
    position: Option<u32>,
    /// With --kernels, the tokens of the step: the smallest entry point that takes them is shown
    #[arg(long, value_name = "N", requires = "kernels", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// List every tensor
    #[arg(long, conflicts_with = "kernels")]
    tensors: bool,
    /// Print one JSON object, with every tensor
    #[arg(long)]
    json: bool,
}

/// How times are predicted, with every constant.
fn help() -> String {
    let mut s = String::from(
        "--kernels predicts what each kernel of a step takes on a card, the most first, and what most of that goes to (bound):\n  \
         start      the launch, the input row, which every CTA prepares, and the end of the kernel\n  \
         bandwidth  bytes / the bandwidth that as many multiprocessors draw\n  \
         in flight  items of a warp x (latency + clocks of its instructions) / depth of its ring: what it has asked for\n  \
         issue      instructions of the loops / what the warps there are, or the schedulers, issue\n  \
         tail       what the slowest warp has more than the mean: a chunk of a product, a block of 32 positions\n\
         The three in the middle hold at once; near each other they make each other longer. An item is a chunk of a product or\n\
         32 positions of a KV cache, which a kernel reads as often as it has loops over it; spilled words make its loops wait.\n\
         role: the weights that it multiplies. schedule: CTAs x warps and, of products, s: warps that multiply, c: columns of a\n\
         chunk, d: depth of the ring. per SM: CTAs that a multiprocessor holds, of overlapping launches too, and what limits\n\
         them. KB/SM: what a multiprocessor waits for at once. gain: of the step's time, if the kernel's bytes came at the\n\
         bandwidth that can be reached. The roofline is bytes / bandwidth. Weights are taken to come from memory, not from a\n\
         cache. Instructions are those of machine code (SASS) if ptxas and nvdisasm are there (RIGC_PTXAS, RIGC_NVDISASM or on\n\
         the PATH), else of PTX; registers limit CTAs only where ptxas is there.\n\nConstants:\n",
    );
    for c in CONSTANTS {
        let (kind, source) = match c.source {
            Source::Cited(source) => ("cited", source),
            Source::Estimated(source) => ("estimated", source),
        };
        let value = if c.unit.is_empty() { c.value.to_string() } else { format!("{} {}", c.value, c.unit) };
        s.push_str(&format!("  {}: {value} ({kind}: {source})\n", c.name));
    }
    s
}

#[derive(Serialize)]
struct Report {
    model: String,
    bytes: u64,
    shards: usize,
    /// `general.architecture`.
    architecture: Option<String>,
    /// `general.name`.
    name: Option<String>,
    parameters: Parameters,
    /// What is in the file and not used, a sentence each.
    skipped: Vec<String>,
    /// Whether there is a chat template.
    chat_template: bool,
    #[serde(rename = "config")]
    figures: Option<Figures>,
    /// Bytes that a position takes in the KV caches, in f16.
    kv_bytes_per_token: Option<u64>,
    #[serde(skip)]
    kv_bytes: u64,
    /// Why the model cannot be compiled, where it cannot.
    unsupported: Option<String>,
    formats: BTreeMap<String, Share>,
    tensors: Vec<Tensor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact: Option<ArtifactReport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sha256: Vec<String>,
}

#[derive(Serialize, Default)]
struct Share {
    tensors: usize,
    elements: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Tensor {
    name: String,
    format: String,
    shape: Vec<usize>,
    bytes: u64,
}

#[derive(Serialize)]
struct ArtifactReport {
    target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    card: Option<String>,
    #[serde(skip)]
    machine: String,
    context: u32,
    kv: String,
    kv_bytes: u64,
    entries: Vec<(String, usize, u64)>,
    kernels: Vec<(String, u64, String)>,
}

impl ArtifactReport {
    fn new(m: &Manifest) -> Self {
        ArtifactReport {
            target: m.devices[0].target.clone(),
            card: m.devices[0].card.clone(),
            machine: m.machine(),
            context: m.context,
            kv: m.kv.to_string(),
            kv_bytes: m.states.iter().map(State::own_bytes).sum(),
            entries: m
                .entries
                .iter()
                .map(|e| (e.name.clone(), e.plan.steps.len(), e.plan.needs[0].arena_bytes))
                .collect(),
            kernels: m.kernels.iter().map(|k| (k.name.clone(), k.bytes, k.hash.clone())).collect(),
        }
    }
}

/// Runs the command with `--kernels`.
fn run_kernels(args: &Args) -> Result<ExitCode> {
    let Some(path) = args.model.as_deref().filter(|path| model::is_artifact(path)) else {
        return Err(usage("--kernels is for artifacts; write one with rigc compile MODEL.gguf --target sm_120"));
    };
    let artifact = runtime::artifact::read(path)?;
    let name = path.display().to_string();
    let report = kernels::Report::new(&artifact, name, args.card.as_deref(), (args.tokens, args.position))?;
    let text = if args.json { serde_json::to_string(&report)? + "\n" } else { report.table()? };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What is understood of a model.
#[derive(Default)]
struct Understood {
    figures: Option<Figures>,
    /// Bytes that a position takes in its KV caches, in f16.
    kv_bytes_per_token: Option<u64>,
    /// Bytes of KV caches of [`summary::CONTEXT`] positions, or the model's.
    kv_bytes: u64,
    skipped: Vec<String>,
}

fn understood(file: &ModelFile) -> ir::Result<Understood> {
    let tensors = Tensors::new(file.tensors().map(|(_, t)| t))?;
    let model = front::Model::read(file.metadata(), &tensors)?;
    let figures = model.figures()?;
    let bytes = |context: usize| -> ir::Result<u64> {
        let graph = model.build(EntryShape { tokens: 1, context, step: 1, kv: quant::F16, all_logits: false })?;
        let states = graph.nodes().iter().filter(|n| matches!(n.op, Op::State(_)));
        Ok(states.filter_map(|n| kv_bytes(&n.results[0])).sum())
    };
    let (one, all) = (bytes(1)?, bytes(figures.context.min(summary::CONTEXT as usize))?);
    Ok(Understood { figures: Some(figures), kv_bytes_per_token: Some(one), kv_bytes: all, skipped: model.skipped()? })
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    if args.kernels {
        return run_kernels(&args);
    }
    let (file, artifact) = match &args.model {
        None => (model::demo()?, None),
        Some(path) if model::is_artifact(path) => {
            let artifact = runtime::artifact::read(path)?;
            let file = model::of_artifact(&artifact, path)?;
            runtime::artifact::check_model(&artifact.manifest, &file)?;
            (file, Some(ArtifactReport::new(&artifact.manifest)))
        }
        Some(path) => (ModelFile::open(path)?, None),
    };
    let mut formats: BTreeMap<String, Share> = BTreeMap::new();
    let mut tensors = Vec::new();
    for (_, t) in file.tensors() {
        let (name, elements) = (t.type_name(), t.elements());
        let share = formats.entry(name.clone()).or_default();
        share.tensors += 1;
        share.elements = share.elements.saturating_add(elements);
        share.bytes += t.bytes;
        tensors.push(Tensor { name: t.name.clone(), format: name, shape: t.shape(), bytes: t.bytes });
    }
    let (understood, unsupported) = match (file.no_model(), understood(&file)) {
        (Some(what), _) => (Understood::default(), Some(what)),
        (None, Ok(understood)) => (understood, None),
        (None, Err(e)) => (Understood::default(), Some(e.to_string())),
    };
    let Understood { figures, kv_bytes_per_token, kv_bytes, skipped } = understood;
    let text = |key: &str| file.metadata().opt_str(key).ok().flatten().map(String::from);
    let mut sha256 = Vec::new();
    if args.verify {
        let bar = progress::bytes("hashing", args.json);
        let total = file.bytes();
        let mut step = progress::callback(&bar);
        sha256 = file.verify_hash(|done| step(done, total));
        drop(step);
        bar.finish_and_clear();
    }
    file.check_unchanged()?;
    let report = Report {
        model: file.path().display().to_string(),
        bytes: file.bytes(),
        shards: file.shards().len(),
        architecture: text("general.architecture"),
        name: text("general.name"),
        parameters: Parameters::of(&file),
        skipped,
        chat_template: file.metadata().get(runtime::chat::KEY).is_some(),
        figures,
        kv_bytes_per_token,
        kv_bytes,
        unsupported,
        formats,
        tensors,
        artifact,
        sha256,
    };
    let text = if args.json { serde_json::to_string(&report)? + "\n" } else { summary::text(&report, args.tensors)? };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
