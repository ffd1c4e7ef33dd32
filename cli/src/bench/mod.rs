//! `rigc bench`: how fast a model runs, as shares of what the machine can do, and beside llama.cpp.
//!
//! Each repetition runs prefill and decode here, measures the machine right before and after decode, which its memory
//! bounds, and has llama-bench do the same on the same file, so that whatever else the machine does meets all of them
//! alike. `peer` runs llama-bench, `report` is the JSON and the table, `kernels` times each kernel alone.

mod kernels;
mod peer;
mod report;
mod suite;

use crate::device::DeviceArgs;
use crate::failure::{INTERRUPTED, usage};
use crate::interrupt::Interrupt;
use crate::model::{self, CompileArgs};
use crate::{machine, output, progress};
use anyhow::{Context, Result};
use indicatif::ProgressBar;
use ir::artifact::{Manifest, Weight};
use peer::Peer;
use report::{Bounds, Decode, Meter, PeerReport, Prefill, Ratio, Report, Spread};
use runtime::measure::{Copies, Machine};
use runtime::{Executor, ModelFile};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The context that models are compiled for where nothing else is asked for and theirs is not smaller.
const CONTEXT: u32 = 8192;
/// How often the bar is drawn.
const TICK: Duration = Duration::from_millis(200);

/// Measure prefill and decode, and compare them with the machine's bounds and with llama.cpp
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Both start with --depth tokens in the KV cache; prefill computes the logits of its last token, decode \
those of each. Token ids are random, and a run that is not counted comes first.\n\nShares: of the bandwidth at which all \
threads read memory, and of the int8 products that they add up on registers; products of attention are not counted. The \
machine is measured before and after each decode, and its best figures count.\n\n--against: in each repetition, llama-bench \
runs after rigc, with the same file, threads, KV format, prompt, tokens and depth (-t -ctk -ctv -p -n -d) and a warm-up of \
its own; all else is its default. The ratios are medians of rigc over medians of llama-bench.\n\n--kernels: for a step \
of one token, and for one of as many tokens at once as the prompt fills, both at the depth. A kernel's launches of all \
layers are replayed together for 50 ms or longer, on the activations of the first; the time of a launch includes the \
barrier after it. Bytes are those of weights and KV cache. The sum is that of all launches of a step, which is also \
run as a whole.\n\nOn a card, shares are of what copies within its memory read and write.\n\n--suite gpu: in less than 8 \
minutes and without any file, every kernel of every format against the interpreter; copies; products of each format at the \
shapes of models of 8B and 70B, by each path of the weights; what launches, graphs and early starts take; decoding at 1k, 8k \
and 32k tokens. DIR gets gpu-suite.ron and the same as a table, gpu-suite.txt. On an emulated device shapes are small, and \
its times mean nothing."
)]
pub struct Args {
    /// GGUF file or artifact (.rig)
    #[arg(required_unless_present = "suite")]
    model: Option<PathBuf>,
    /// Tokens of a prefill
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    prompt: u32,
    /// Steps of a decode
    #[arg(short = 'n', long = "tokens", value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    tokens: u32,
    /// Tokens in the KV cache before either
    #[arg(long, value_name = "N", default_value_t = 0)]
    depth: u32,
    /// Repetitions
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    reps: u32,
    /// Target, as of rigc compile [default: that of the device]
    #[arg(long)]
    target: Option<String>,
    /// Format of the KV cache: f16 or q8_0 [default: f16]
    #[arg(long)]
    kv: Option<String>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Compare with this llama-bench
    #[arg(long, value_name = "LLAMA_BENCH")]
    against: Option<PathBuf>,
    /// Time each kernel alone
    #[arg(long, conflicts_with_all = ["against", "tokens"])]
    kernels: bool,
    /// Measure a card by models that are made on it; gpu is the only suite
    #[arg(long, value_name = "NAME", requires = "out", value_parser = ["gpu"],
        conflicts_with_all = ["model", "against", "kernels", "json", "target", "kv"])]
    suite: Option<String>,
    /// Folder for the report of a suite
    #[arg(long, value_name = "DIR", requires = "suite")]
    out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is measured, and on what.
struct Bench {
    /// File name of the model.
    name: String,
    file: ModelFile,
    executor: Executor,
    meter: Meter,
}

impl Bench {
    /// Loads the model for runs of `tokens` tokens after the depth.
    fn new(args: &Args, model: &Path, tokens: u32) -> Result<Bench> {
        let context = args.depth.checked_add(tokens);
        let context = context.ok_or_else(|| usage("the context would be too long; lower --depth"))?;
        let compiles = !model::is_artifact(model);
        let mut compile = CompileArgs {
            target: args.target.clone(),
            // An artifact's context is its own; it only has to be large enough. A model is compiled as for one.
            ctx: (compiles && context > CONTEXT).then_some(context),
            kv: args.kv.clone(),
            ..CompileArgs::default()
        };
        let options = args.device.choose(&mut compile, compiles)?;
        let loaded = model::load(Some(model), &compile)?;
        let (manifest, name) = (&loaded.artifact.manifest, &loaded.name);
        if manifest.context < context {
            let flags = if args.kernels { "--prompt or --depth" } else { "--prompt, -n or --depth" };
            let has = manifest.context;
            return Err(usage(format!("{name} holds {has} tokens, the runs need {context}; lower {flags}")));
        }
        let (executor, file, name) = model::executor(loaded, &options, args.json)?;
        let meter = match executor.device().name.as_str() {
            "cpu" => Meter::Cpu(Machine::new(machine::native()?.1, executor.device().workers)?),
            _ => Meter::Card(Copies::new(&executor.shared_device())?),
        };
        Ok(Bench { name, file, executor, meter })
    }

    /// `n` token ids, the same for each call.
    fn ids(&self, n: u32) -> Vec<u32> {
        ids(n as usize, self.executor.manifest().figures.vocab)
    }
}

/// A bar that counts repetitions.
fn bar(args: &Args) -> ProgressBar {
    let bar = progress::count("warm-up", args.json);
    bar.enable_steady_tick(TICK);
    progress::start(&bar, u64::from(args.reps));
    bar
}

/// Figures of all repetitions.
#[derive(Default)]
struct Samples {
    decode: Vec<f64>,
    prefill: Vec<f64>,
    peer_decode: Vec<f64>,
    peer_prefill: Vec<f64>,
    bounds: Bounds,
}

/// What is run.
struct Work<'a> {
    prompt: &'a [u32],
    depth: &'a [u32],
    steps: &'a [u32],
    interrupted: &'a AtomicBool,
}

impl Work<'_> {
    fn go_on(&self) -> bool {
        !self.interrupted.load(Ordering::Relaxed)
    }

    /// Fills the KV cache up to the depth, where all runs start, and runs prefill and a step once. `None` if interrupted.
    fn warm_up(&self, executor: &mut Executor) -> Result<Option<()>> {
        executor.set_position(0)?;
        if !self.depth.is_empty() && !executor.prefill(self.depth, &mut |_, _| self.go_on())? {
            return Ok(None);
        }
        executor.checkpoint()?;
        let once = Work { steps: &self.steps[..1], ..*self };
        Ok(once.prefill(executor)?.and(once.decode(executor)?).map(|_| ()))
    }

    /// Goes back to the depth; what states no longer hold of it is processed again. `None` if interrupted.
    fn go_back(&self, executor: &mut Executor) -> Result<Option<()>> {
        let reached = executor.set_position(self.depth.len())?;
        let rest = &self.depth[reached..];
        Ok((rest.is_empty() || executor.prefill(rest, &mut |_, _| self.go_on())?).then_some(()))
    }

    /// Prompt tokens a second, from the depth on. `None` if interrupted.
    fn prefill(&self, executor: &mut Executor) -> Result<Option<f64>> {
        if self.go_back(executor)?.is_none() {
            return Ok(None);
        }
        let start = Instant::now();
        let whole = executor.prefill(self.prompt, &mut |_, _| self.go_on())?;
        Ok(whole.then(|| self.prompt.len() as f64 / start.elapsed().as_secs_f64()))
    }

    /// Steps of one token a second, from the depth on. `None` if interrupted.
    fn decode(&self, executor: &mut Executor) -> Result<Option<f64>> {
        if self.go_back(executor)?.is_none() {
            return Ok(None);
        }
        let start = Instant::now();
        for token in self.steps {
            if !self.go_on() {
                return Ok(None);
            }
            executor.step(std::slice::from_ref(token))?;
        }
        let rate = self.steps.len() as f64 / start.elapsed().as_secs_f64();
        Ok(self.go_on().then_some(rate))
    }
}

/// `n` token ids, the same for each call.
fn ids(n: usize, vocab: usize) -> Vec<u32> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let next = |_| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        ((state >> 33) % vocab.max(1) as u64) as u32
    };
    (0..n).map(next).collect()
}

/// Products of weights and activations of a prefill of `tokens`: each layer's matrices for every token, the output
/// matrix for the last.
fn prefill_macs(manifest: &Manifest, tokens: usize) -> f64 {
    let vocab = manifest.figures.vocab;
    let matrices = manifest.weights.iter().filter(|w| w.ty.shape.len() == 2 && !is_tall(w, vocab));
    let layers: f64 = matrices.map(|w| w.ty.shape.iter().map(|&d| d as f64).product::<f64>()).sum();
    layers * tokens as f64 + vocab as f64 * manifest.figures.width as f64
}

/// Whether a weight has a row for each token of the vocabulary: the embedding table, the output matrix.
fn is_tall(weight: &Weight, vocab: usize) -> bool {
    weight.ty.shape.len() == 2 && weight.ty.rows() == vocab
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    let interrupt = Interrupt::new();
    if let Some(path) = args.against.as_ref().filter(|p| !p.is_file()) {
        return Err(usage(format!("--against {} is no file; give the path of llama-bench", path.display())));
    }
    if let Some(out) = &args.out {
        return suite::run(&args.device, out, interrupt.flag());
    }
    let model = args.model.as_deref().ok_or_else(|| usage("no model is given"))?;
    let text = if args.kernels {
        let bench = Bench::new(&args, model, args.prompt)?;
        kernels::run(&args, bench, interrupt.flag())?.map(|r| text(&args, &r, kernels::Report::table))
    } else {
        let bench = Bench::new(&args, model, args.prompt.max(args.tokens))?;
        phases(&args, bench, interrupt.flag())?.map(|r| text(&args, &r, Report::table))
    };
    let Some(text) = text else { return Ok(ExitCode::from(INTERRUPTED)) };
    output::print(&text?)?;
    Ok(ExitCode::SUCCESS)
}

/// A report as it is printed.
fn text<R: Serialize>(args: &Args, report: &R, table: impl Fn(&R) -> String) -> Result<String> {
    Ok(if args.json { serde_json::to_string(report).context("the report")? + "\n" } else { table(report) })
}

/// Prefill and decode; `None` if interrupted.
fn phases(args: &Args, mut bench: Bench, interrupted: &AtomicBool) -> Result<Option<Report>> {
    let (prompt, tokens, depth) = (bench.ids(args.prompt), bench.ids(args.tokens), bench.ids(args.depth));
    let work = Work { prompt: &prompt, depth: &depth, steps: &tokens, interrupted };
    let threads = bench.executor.device().workers;
    let kv = bench.executor.manifest().kv.to_string();
    let (prompt, tokens, depth) = (prompt.len(), tokens.len(), depth.len());
    let model = bench.file.path();
    let peer = args.against.as_ref().map(|program| Peer { program, model, threads, prompt, tokens, depth, kv: &kv });
    let bar = bar(args);
    let samples = measure(&mut bench.executor, &mut bench.meter, peer.as_ref(), &work, &bar, args.reps);
    bar.finish_and_clear();
    let Some(s) = samples? else { return Ok(None) };
    bench.file.check_unchanged()?;

    let executor = &bench.executor;
    let (decode, prefill) = (Spread::of(&s.decode), Spread::of(&s.prefill));
    let weights = decode.median * executor.weight_bytes() as f64;
    let macs = prefill_macs(executor.manifest(), prompt);
    let peer = peer.is_some().then(|| PeerReport::new(Spread::of(&s.peer_decode), Spread::of(&s.peer_prefill)));
    Ok(Some(Report {
        target: executor.device().target.clone(),
        model: bench.name,
        threads,
        prompt,
        tokens,
        depth,
        reps: args.reps,
        ratio: peer.as_ref().map(|p| Ratio {
            decode: decode.median / p.decode.tokens_per_second.median,
            prefill: prefill.median / p.prefill.tokens_per_second.median,
        }),
        decode: Decode {
            tokens_per_second: decode,
            weight_gb_per_second: weights / 1e9,
            share_of_read_bandwidth: weights / 1e9 / s.bounds.read_gb_per_second,
        },
        prefill: Prefill {
            tokens_per_second: prefill,
            share_of_int8_peak: s
                .bounds
                .int8_gmac_per_second
                .map(|peak| macs * prefill.median / prompt as f64 / 1e9 / peak),
        },
        machine: s.bounds,
        peer,
    }))
}

/// All repetitions, after a warm-up; `None` if interrupted.
fn measure(
    executor: &mut Executor,
    meter: &mut Meter,
    peer: Option<&Peer<'_>>,
    work: &Work<'_>,
    bar: &ProgressBar,
    reps: u32,
) -> Result<Option<Samples>> {
    let mut s = Samples::default();
    if work.warm_up(executor)?.is_none() {
        return Ok(None);
    }
    for _ in 0..reps {
        let start = Instant::now();
        bar.set_message("prefill");
        let Some(prefill) = work.prefill(executor)? else { return Ok(None) };
        s.prefill.push(prefill);
        bar.set_message("machine");
        s.bounds.measure(meter)?;
        bar.set_message("decode");
        let Some(decode) = work.decode(executor)? else { return Ok(None) };
        s.decode.push(decode);
        bar.set_message("machine");
        s.bounds.measure(meter)?;
        if let Some(peer) = peer {
            bar.set_message("llama-bench");
            let Some((prefill, decode)) = peer.run(peer::patience(start.elapsed()), work.interrupted)? else {
                return Ok(None);
            };
            s.peer_prefill.push(prefill);
            s.peer_decode.push(decode);
        }
        bar.inc(1);
    }
    Ok(Some(s))
}
