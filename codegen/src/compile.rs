//! The whole way from a model's header to an artifact, with the text of every stage on demand.

use crate::back;
use crate::lower::{KernelTable, lower};
use crate::passes::{self, PassContext};
use ir::artifact::{Artifact, EntryPoint, KernelEntry, Manifest, ModuleEntry, Param, Part, SIGNATURE, kernels_hash};
use ir::front::{self, EntryShape, Tensors};
use ir::gguf::{Metadata, ModelIdentity};
use ir::plan::DeviceId;
use ir::quant::Format;
use ir::spec::{KernelSpec, hex};
use ir::target::{Gpu, Target};
use ir::{Error, Result};
use kernels_gen::schedule::{self, Row};
use sha2::{Digest, Sha256};

/// Capacities of the verification entry points.
const BATCHES: [usize; 4] = [2, 4, 8, 16];
/// Capacity of the prefill entry point of CPUs, where GPUs take the most that they can: long enough to amortise unpacking, short enough for its rows to stay in cache.
const CHUNK: usize = 128;

/// The stages that have a text form, in order.
pub const STAGES: &[&str] = &["graph", "fused", "schedule", "kernel", "plan", "clif", "asm", "ptx"];
/// How many of them, from the front, every target has.
const COMMON: usize = 5;

/// The [`STAGES`] of a target.
pub fn stages(target: &Target) -> Vec<&'static str> {
    let (common, own) = STAGES.split_at(COMMON);
    let own = own.iter().filter(|&&stage| (stage == "ptx") == target.gpu().is_some());
    common.iter().chain(own).copied().collect()
}

/// What is known of a model without its weights.
#[derive(Debug, Clone, Copy)]
pub struct Model<'a> {
    /// Metadata of the GGUF.
    pub metadata: &'a Metadata,
    /// Types of its tensors.
    pub tensors: &'a Tensors,
    /// What identifies the file.
    pub identity: &'a ModelIdentity,
    /// Where the file is; the artifact remembers it.
    pub path: &'a str,
}

/// What to compile for.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// The target.
    pub target: &'a Target,
    /// Positions of the KV cache; `None`: the smaller of the model's context and 8192.
    pub context: Option<usize>,
    /// Format of the KV cache.
    pub kv: Format,
    /// Schedules that come before those of the tuned tables.
    pub schedules: &'a [Row],
}

/// The text of one stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// One of [`STAGES`].
    pub stage: &'static str,
    /// Entry point or kernel.
    pub name: String,
    /// The text.
    pub text: String,
}

/// An artifact, its kernels in their structured form, and the texts that were asked for.
#[derive(Debug)]
pub struct Compiled {
    /// The artifact.
    pub artifact: Artifact,
    /// Its kernels.
    pub table: KernelTable,
    /// The texts, stage by stage.
    pub listings: Vec<Listing>,
    /// What of the file is not used, a sentence for each kind.
    pub skipped: Vec<String>,
}

/// Name and capacity of each entry point for a context.
fn entries(target: &Target, context: usize) -> Vec<(String, usize)> {
    let mut list = vec![("decode".to_owned(), 1)];
    let chunk = target.gpu().map_or(CHUNK, Gpu::most_tokens).min(context);
    list.extend(BATCHES.iter().filter(|&&n| n <= chunk).map(|&n| (format!("batch@{n}"), n)));
    if list.iter().all(|&(_, n)| n < chunk) {
        list.push((format!("prefill@{chunk}"), chunk));
    }
    list
}

/// Compiles a model; `stages` names the texts wanted.
///
/// # Errors
/// [`Error::Unsupported`] and [`Error::Limit`] for what cannot be compiled, [`Error::Malformed`] for bad metadata.
pub fn compile(model: Model<'_>, options: Options<'_>, stages: &[&str]) -> Result<Compiled> {
    let header = front::Model::read(model.metadata, model.tensors)?;
    let figures = header.figures()?;
    let context = options.context.unwrap_or(figures.context.min(8192));
    if context == 0 || context > figures.context {
        return Err(Error::Limit { what: "the context".into(), need: context as u64, have: figures.context as u64 });
    }
    let target = options.target;
    let backend = back::for_target(target)?;
    let mut table = KernelTable::with(options.schedules.to_vec());
    let (mut plans, mut listings) = (Vec::new(), Vec::new());
    let mut list = |stage: &'static str, name: &str, text: &dyn Fn() -> String| {
        if stages.contains(&stage) {
            listings.push(Listing { stage, name: name.into(), text: text() });
        }
    };
    let entries = entries(target, context);
    let step = entries.iter().map(|&(_, tokens)| tokens).max().unwrap_or(1);
    for (name, tokens) in entries {
        let all_logits = !name.starts_with("prefill");
        let shape = EntryShape { tokens, context, step, kv: options.kv, all_logits };
        let graph = header.build(shape)?;
        list("graph", &name, &|| graph.to_string());
        let fused = passes::run(graph, &PassContext { target }, |_, _| {})?;
        list("fused", &name, &|| fused.to_string());
        let plan = lower(&fused, tokens, target, &mut table)?;
        list("plan", &name, &|| plan.to_string());
        plans.push(EntryPoint { name, tokens: tokens as u32, all_logits, plan });
    }
    table.add_repacks(target)?;
    let specs: Vec<&KernelSpec> = table.kernels.iter().map(|k| &k.spec).collect();
    schedule::check_used(options.schedules, &specs, target)?;
    if stages.contains(&"schedule") {
        let rows = schedule::table(table.kernels.iter().map(|k| (&k.spec, &k.schedule, None)), target)?;
        list("schedule", target.name, &|| rows.clone());
    }
    let mut module = backend.prefix(target)?;
    let mut kernels = Vec::new();
    let want_code = stages.iter().any(|s| ["clif", "asm", "ptx"].contains(s));
    for k in &table.kernels {
        list("kernel", &k.kernel.name, &|| format!("; {}\n{}", k.schedule, *k.kernel));
        let emitted = backend.emit(&k.kernel, target, want_code)?;
        let comment = backend.comment(&k.to_string());
        for (stage, text) in &emitted.listings {
            list(stage, &k.kernel.name, &|| format!("{comment}{text}"));
        }
        module.extend_from_slice(comment.as_bytes());
        module.resize(module.len().next_multiple_of(backend.align()), 0);
        kernels.push(KernelEntry {
            name: k.kernel.name.clone(),
            hash: k.hash.clone(),
            text: k.text.clone(),
            device: DeviceId::default(),
            offset: module.len() as u64,
            bytes: emitted.code.len() as u64,
            tokens: k.spec.tokens as u32,
            tickets: k.kernel.tickets,
            scratch_bytes: k.kernel.scratch_bytes,
            params: k.kernel.param_buffers().map(Param::of).collect(),
            grid: k.kernel.grid,
            work: k.work,
        });
        module.extend_from_slice(&emitted.code);
    }
    let manifest = Manifest {
        signature: SIGNATURE.into(),
        rigc: env!("CARGO_PKG_VERSION").into(),
        abi: ir::abi::VERSION,
        devices: vec![Part { target: target.name.into(), card: target.gpu().map(|gpu| gpu.card.name.into()) }],
        model: model.identity.clone(),
        model_path: model.path.into(),
        figures,
        context: context as u32,
        kv: options.kv,
        weights: table.weights.clone(),
        states: table.states.clone(),
        entries: plans,
        modules: vec![ModuleEntry {
            file: backend.module_file().into(),
            sha256: hex(&Sha256::digest(&module)),
            kernels: kernels_hash(&kernels),
            bytes: module.len() as u64,
        }],
        kernels,
    };
    let order = |l: &Listing| STAGES.iter().position(|s| *s == l.stage);
    listings.sort_by_key(order);
    let skipped = header.skipped()?;
    Ok(Compiled { artifact: Artifact { manifest, modules: vec![module] }, table, listings, skipped })
}
