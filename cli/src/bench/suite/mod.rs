//! `rigc bench --suite gpu`: what a card does, measured with nothing but this program.
//!
//! Models are compiled from the figures of published ones, and their weights are made on the device. Invariant: a part
//! that takes too long leaves out what is left of it and says so. `made` makes models, `report` is what is written.

mod made;
mod report;

use super::report::Spread;
use super::{TICK, ids};
use crate::device::{DeviceArgs, of_card};
use crate::failure::{INTERRUPTED, usage};
use crate::output::{self, note};
use crate::progress;
use crate::synth::tables::{Mix, Shape, table};
use crate::temporary::Temporary;
use anyhow::{Context, Result};
use codegen::assembly::Parts;
use codegen::predict;
use codegen::schedule::{self, Row};
use indicatif::ProgressBar;
use ir::artifact::{Artifact, KernelEntry};
use ir::plan::Step;
use ir::quant::{self, Format};
use ir::target::{Gpu, Target};
use made::Made;
use report::{Conformance, Decode, Phase, Product, Report};
use runtime::device::{self, Card, Kind, Options, Shared};
use runtime::measure::Copies;
use runtime::{Executor, conform};
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::process::ExitCode;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Seconds after the start at which each part leaves out what is left of it.
const CONFORMANCE: u64 = 90;
const PRODUCTS: u64 = 270;
const PHASES: u64 = 320;
const DECODE: u64 = 450;
/// Repetitions of each measurement, and on an emulated device.
const REPS: usize = 7;
const EMULATED_REPS: usize = 1;
/// Trials of each kernel, and on an emulated device.
const TRIALS: usize = 4;
const EMULATED_TRIALS: usize = 1;
/// Least time of a repetition of a kernel or a step, and on an emulated device.
const LEAST: Duration = Duration::from_millis(10);
const EMULATED_LEAST: Duration = Duration::ZERO;
/// Bytes of a kernel's weights in all layers, which no cache holds.
const BEYOND_CACHES: u64 = 512 << 20;
/// Memory of the card that is left free.
const SPARE: u64 = 1 << 30;
/// What weights and operands are drawn from.
const SEED: u64 = 1;

/// What is measured: see `suite.ron`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    small: String,
    shapes: Vec<String>,
    caches: Vec<Format>,
    formats: Vec<Format>,
    depths: Vec<u32>,
    mixes: Vec<String>,
}

/// It.
static PLAN: LazyLock<Plan> = LazyLock::new(|| table(include_str!("suite.ron")));

/// What is measured, and how far it is.
struct Suite<'a> {
    options: Options,
    target: Target,
    device: Shared,
    emulated: bool,
    start: Instant,
    interrupted: &'a AtomicBool,
    bar: ProgressBar,
    report: Report,
}

/// A part of the suite.
type Part<'a> = fn(&mut Suite<'a>) -> Result<()>;

/// Measures a card; the report goes to a folder.
pub fn run<'a>(args: &DeviceArgs, out: &Path, interrupted: &'a AtomicBool) -> Result<ExitCode> {
    let mut suite = Suite::new(args, interrupted)?;
    std::fs::create_dir_all(out).map_err(|e| runtime::Error::io(out, e))?;
    suite.bar.enable_steady_tick(TICK);
    let parts: [(&str, Part<'a>); 5] = [
        ("kernels", Suite::conformance),
        ("copies", Suite::copies),
        ("products", Suite::products),
        ("launches", Suite::phases),
        ("decoding", Suite::decode),
    ];
    progress::start(&suite.bar, parts.len() as u64);
    for (name, part) in parts {
        suite.bar.set_message(name);
        part(&mut suite)?;
        if suite.stopped() {
            return Ok(ExitCode::from(INTERRUPTED));
        }
        suite.bar.inc(1);
    }
    suite.bar.finish_and_clear();
    let mut report = suite.report;
    report.seconds = suite.start.elapsed().as_secs_f64();
    let table = report.table()?;
    let pretty = ron::ser::PrettyConfig::new().depth_limit(2);
    let text = ron::ser::to_string_pretty(&report, pretty).context("the report")? + "\n";
    for (name, text) in [("gpu-suite.ron", &text), ("gpu-suite.txt", &table)] {
        let path = out.join(name);
        let written = Temporary::public(&path).and_then(|temporary| {
            std::io::Write::write_all(&mut temporary.file(), text.as_bytes())?;
            temporary.replace(&path)
        });
        written.map_err(|e| runtime::Error::io(&path, e))?;
    }
    output::print(&table)?;
    note!("written: {}", out.join("gpu-suite.ron").display());
    Ok(if report.conforms() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl<'a> Suite<'a> {
    fn new(args: &DeviceArgs, interrupted: &'a AtomicBool) -> Result<Suite<'a>> {
        let mut options = args.given()?;
        let card = match options.device {
            Kind::Cuda(ordinal) => Some(Card::find(ordinal)?),
            Kind::Auto => Some(Card::first()?.filter(|card| !card.is_stand_in()).ok_or_else(|| {
                usage("the suite measures cards, and there is none; --device emu emulates one, with times that mean nothing")
            })?),
            Kind::Emu => None,
            Kind::Cpu => return Err(usage("the suite measures cards; rigc bench MODEL measures a CPU")),
        };
        let target = match &card {
            Some(card) => of_card(card).ok_or_else(|| usage(format!("{card} runs none of rigc's targets")))?,
            None => *Target::by_name("sm_120")?,
        };
        if let Some(card) = &card {
            options.device = Kind::Cuda(card.ordinal);
        }
        let known = target.gpu().map_or("", |gpu| gpu.card.name);
        let part = ir::artifact::Part { target: target.name.into(), card: Some(known.into()) };
        let device = device::open(&part, &options)?;
        let emulated = device.get().info().emulated;
        let report = Report {
            rigc: env!("CARGO_PKG_VERSION").into(),
            device: card.as_ref().map_or_else(|| "the emulator".into(), Card::to_string),
            emulated,
            target: target.name.into(),
            card: known.into(),
            driver: card.as_ref().map_or(0, |card| card.driver),
            ..Report::default()
        };
        let bar = progress::count("suite", false);
        Ok(Suite { options, target, device, emulated, start: Instant::now(), interrupted, bar, report })
    }

    fn stopped(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Whether a part is to go on with `what`.
    fn go_on(&mut self, until: u64, what: impl FnOnce() -> String) -> bool {
        if self.stopped() {
            return false;
        }
        let late = !self.emulated && self.start.elapsed().as_secs() >= until;
        if late {
            self.report.left_out.push(format!("{}: {until} s were over", what()));
        }
        !late
    }

    fn reps(&self) -> usize {
        if self.emulated { EMULATED_REPS } else { REPS }
    }

    fn least(&self) -> Duration {
        if self.emulated { EMULATED_LEAST } else { LEAST }
    }

    /// A model of the tables, or a small one of the same kind where it would be emulated.
    fn shape(&self, name: &str, layers: usize) -> Result<Shape> {
        let shape = made::shape(if self.emulated { &PLAN.small } else { name })?;
        let layers = if self.emulated { layers.min(2) } else { layers };
        Ok(Shape { name: name.into(), layers, ..shape })
    }

    /// Every kernel of a model of one layer, for every format.
    fn conformance(&mut self) -> Result<()> {
        let caches = PLAN.caches.iter().copied().cycle();
        for (format, kv) in quant::ALL.iter().map(|f| Format(f)).zip(caches) {
            if !self.go_on(CONFORMANCE, || format!("kernels of {format}")) {
                continue;
            }
            let small = made::shape(&PLAN.small)?;
            let shape = Shape { layers: 1, vocab: 300, ordinary: 256, tied: false, ..small };
            let made = Made { shape: &shape, mix: &made::pure(format), context: 96, kv };
            let artifact = made.compile(&self.target, &[])?;
            let mut found = Conformance {
                format: format.to_string(),
                kv: kv.to_string(),
                kernels: 0,
                trials: 0,
                error: 0.0,
                wrong: Vec::new(),
            };
            let interrupted = self.interrupted;
            let trials = if self.emulated { EMULATED_TRIALS } else { TRIALS };
            conform::check(&artifact, &self.device, SEED, trials, &mut |verdict| {
                found.kernels += 1;
                found.trials += verdict.trials;
                found.error = found.error.max(verdict.error);
                found.wrong.extend(verdict.wrong.as_ref().map(|what| format!("{}: {what}", verdict.kernel)));
                !interrupted.load(Ordering::Relaxed)
            })?;
            self.report.conformance.push(found);
        }
        Ok(())
    }

    fn copies(&mut self) -> Result<()> {
        let mut copies = Copies::new(&self.device)?;
        copies.bytes_per_second()?;
        let rates = (0..self.reps()).map(|_| Ok(copies.bytes_per_second()? / 1e9)).collect::<Result<Vec<f64>>>()?;
        self.report.copy_gb_per_second = Some(Spread::of(&rates));
        Ok(())
    }

    /// A rate in GB/s as a share of what copies reach.
    fn share(&self, gb_per_second: f64) -> f64 {
        self.report.copy_gb_per_second.map_or(f64::NAN, |copies| gb_per_second / copies.median)
    }

    /// Products of each format by every path.
    fn products(&mut self) -> Result<()> {
        let (formats, depths) = if self.emulated { (1, 2) } else { (PLAN.formats.len(), PLAN.depths.len()) };
        for &format in PLAN.formats.iter().take(formats) {
            for model in &PLAN.shapes {
                let mut known = Known::default();
                for depth in std::iter::once(None).chain(PLAN.depths.iter().take(depths).map(|&d| Some(d))) {
                    let what = || format!("products of {format} in {model}, depth {depth:?}");
                    if self.go_on(PRODUCTS, what) {
                        self.product(model, format, depth, &mut known)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Products of a format with rings of a depth, or else as rigc chooses, which comes first.
    fn product(&mut self, model: &str, format: Format, depth: Option<u32>, known: &mut Known) -> Result<()> {
        let gpu = *self.target.gpu().context("the target is no GPU")?;
        if depth.is_some_and(|depth| depth > 0) && !gpu.bulk_copies() {
            return Ok(());
        }
        let whole = self.shape(model, 1)?;
        let down = format.bytes_of((whole.width * whole.ffn) as u64);
        let layers = BEYOND_CACHES.div_ceil(down) as usize;
        let shape = Shape { vocab: 1024, ordinary: 768, ..self.shape(model, layers)? };
        let made = Made { shape: &shape, mix: &made::pure(format), context: 128, kv: quant::F16 };
        let rows = depth.map_or(Ok(Vec::new()), |depth| rows(&known.ops, gpu.card.sms, depth))?;
        let artifact = match made.compile(&self.target, &rows) {
            // Rings that a CTA has no room for, or formats that come in other chunks.
            Err(ir::Error::Schedule { what, .. }) => {
                self.report.left_out.push(format!("products of {format} in {model}, depth {depth:?}: {what}"));
                return Ok(());
            }
            artifact => artifact?,
        };
        if !self.fits(&artifact)? {
            self.report.left_out.push(format!("products of {format} in {model}: the card has too little memory"));
            return Ok(());
        }
        let costs = costs(&artifact);
        let mut executor = self.executor(artifact)?;
        let manifest = executor.manifest().clone();
        for (number, launches) in launches(&manifest) {
            let k = &manifest.kernels[number as usize];
            let Some((op, columns)) = product(&k.text) else { continue };
            known.ops.insert(op.clone());
            if !self.emulated && k.work.weight_bytes * (launches as u64) < BEYOND_CACHES / 4 {
                continue;
            }
            let text = k.text.lines().last().unwrap_or_default();
            let found = text.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default();
            let kernel = format!("{op} {}x{columns}", k.work.products / columns);
            if known.measured.contains(&(kernel.clone(), found)) {
                continue;
            }
            let samples = (0..self.reps())
                .map(|_| Ok(executor.time_kernel(0, number, &[7], self.least())? * 1e6 / launches as f64))
                .collect::<Result<Vec<f64>>>()?;
            let microseconds = Spread::of(&samples);
            let bytes = k.work.bytes(0);
            let gb_per_second = bytes as f64 / 1e3 / microseconds.median;
            let predicted = predicted(k, &costs, &gpu, 0)?;
            self.report.products.push(Product {
                shape: model.into(),
                format: format.to_string(),
                kernel: kernel.clone(),
                path: if found == 0 { "loads".into() } else { format!("ring {found}") },
                chosen: depth.is_none(),
                bytes,
                microseconds,
                gb_per_second,
                share_of_copies: self.share(gb_per_second),
                predicted_microseconds: predicted * 1e6,
            });
            known.measured.insert((kernel, found));
        }
        Ok(())
    }

    /// What steps take beside their kernels.
    fn phases(&mut self) -> Result<()> {
        let shape = self.shape(&PLAN.shapes[0], 8)?;
        let mix = made::mix(&PLAN.mixes[0])?;
        let context = shape.context.min(1024);
        let artifact = Made { shape: &shape, mix: &mix, context, kv: quant::F16 }.compile(&self.target, &[])?;
        if !self.fits(&artifact)? {
            self.report.left_out.push("launches: the card has too little memory".into());
            return Ok(());
        }
        for (graph, overlap) in [(true, true), (true, false), (false, true), (false, false)] {
            let what = || format!("launches with graph {graph}, overlap {overlap}");
            if !self.go_on(PHASES, what) {
                continue;
            }
            let options = Options { graphs: graph, overlaps: overlap, ..self.options.clone() };
            let device = device::open(&artifact.manifest.devices[0], &options)?;
            let mut executor = Executor::with_made_weights(&[device], artifact.clone(), SEED)?;
            let position = context / 2;
            let step = self.step(&mut executor, position)?;
            let manifest = executor.manifest().clone();
            let (mut count, mut sum) = (0, 0.0);
            for (number, launches) in launches(&manifest) {
                executor.set_position(position)?;
                sum += executor.time_kernel(0, number, &[7], self.least())? * 1e6;
                count += launches;
            }
            let model = format!("{}, {} layers", shape.name, shape.layers);
            self.report.phases.push(Phase {
                model,
                graph,
                overlap,
                launches: count,
                step_microseconds: step,
                kernels_microseconds: sum,
                overhead_microseconds: (step.median - sum) / count.max(1) as f64,
            });
        }
        Ok(())
    }

    /// Whole models.
    fn decode(&mut self) -> Result<()> {
        for model in &PLAN.shapes {
            let positions = if self.emulated { [32, 64, 96] } else { [1 << 10, 8 << 10, 32 << 10] };
            let context = positions[2] + if self.emulated { 8 } else { 256 };
            let layers = made::shape(model)?.layers;
            let Some((mix, shape, artifact)) = self.largest(model, layers, context)? else {
                self.report.left_out.push(format!("decoding of {model}: the card has too little memory"));
                continue;
            };
            if !self.go_on(DECODE, || format!("decoding of {model}")) {
                continue;
            }
            let costs = costs(&artifact);
            let gpu = *self.target.gpu().context("the target is no GPU")?;
            let mut executor = self.executor(artifact)?;
            let manifest = executor.manifest().clone();
            for position in positions {
                if !self.go_on(DECODE, || format!("decoding of {model} at {position}")) {
                    continue;
                }
                let step = self.step(&mut executor, position)?;
                let (mut bytes, mut predicted) = (0, 0.0);
                for (number, launches) in launches(&manifest) {
                    let k = &manifest.kernels[number as usize];
                    bytes += k.work.bytes(position as u64) * launches as u64;
                    predicted += self::predicted(k, &costs, &gpu, position as u64)? * launches as f64;
                }
                let gb_per_second = bytes as f64 / 1e3 / step.median;
                let milliseconds = Spread { median: step.median / 1e3, min: step.min / 1e3, max: step.max / 1e3 };
                self.report.decode.push(Decode {
                    model: format!("{model} {}", mix.name),
                    layers: shape.layers,
                    position,
                    milliseconds,
                    tokens_per_second: 1e3 / milliseconds.median,
                    gb: bytes as f64 / 1e9,
                    gb_per_second,
                    share_of_copies: self.share(gb_per_second),
                    predicted_tokens_per_second: 1.0 / predicted,
                });
            }
        }
        Ok(())
    }

    /// The model in the first mix that fits; if none does, with half of its layers, or a quarter.
    fn largest(&self, model: &str, layers: usize, context: usize) -> Result<Option<(Mix, Shape, Artifact)>> {
        for layers in [layers, layers / 2, layers / 4] {
            for mix in &PLAN.mixes {
                let (mix, shape) = (made::mix(mix)?, self.shape(model, layers)?);
                let made = Made { shape: &shape, mix: &mix, context, kv: quant::F16 };
                let artifact = made.compile(&self.target, &[])?;
                if self.fits(&artifact)? {
                    return Ok(Some((mix, shape, artifact)));
                }
            }
        }
        Ok(None)
    }

    fn fits(&self, artifact: &Artifact) -> Result<bool> {
        let spare = if self.emulated { 0 } else { SPARE };
        let free = self.device.get().free_memory()?;
        Ok(free.is_none_or(|free| made::bytes(artifact).saturating_add(spare) <= free))
    }

    fn executor(&self, artifact: Artifact) -> Result<Executor> {
        Ok(Executor::with_made_weights(std::slice::from_ref(&self.device), artifact, SEED)?)
    }

    /// Microseconds of a step at a position.
    fn step(&self, executor: &mut Executor, position: usize) -> Result<Spread> {
        let tokens = ids(16, executor.manifest().figures.vocab);
        let mut samples = Vec::new();
        for rep in 0..=self.reps() {
            let (start, mut steps) = (Instant::now(), 0u32);
            while steps == 0 || start.elapsed() < self.least() {
                executor.set_position(position)?;
                executor.step(&[tokens[steps as usize % tokens.len()]])?;
                steps += 1;
            }
            // The first warms up.
            if rep > 0 {
                samples.push(start.elapsed().as_secs_f64() * 1e6 / f64::from(steps));
            }
            if self.stopped() {
                break;
            }
        }
        Ok(Spread::of(&samples))
    }
}

/// What is known of the products of a format and a shape.
#[derive(Default)]
struct Known {
    /// Ops that multiply matrices.
    ops: BTreeSet<String>,
    /// Kernels that were measured, and depths of their rings.
    measured: BTreeSet<(String, u32)>,
}

/// Schedules of all products, with rings of a depth.
fn rows(ops: &BTreeSet<String>, ctas: u32, depth: u32) -> Result<Vec<Row>> {
    let row = |op: &String| {
        let schedule = format!("Gpu((ctas: {ctas}, warps: 8, streams: 8, chunk: 256, depth: {depth}))");
        format!("(op: \"{op}\", tokens: (1, 1), columns: (1, 1048576), schedule: {schedule})")
    };
    let rows: Vec<String> = ops.iter().map(row).collect();
    Ok(schedule::rows(&format!("[{}]", rows.join(", ")), "the suite")?)
}

/// The parts of the kernels of an artifact, by its PTX.
fn costs(artifact: &Artifact) -> HashMap<String, Parts> {
    let text = artifact.modules.first().map(|module| String::from_utf8_lossy(module).into_owned()).unwrap_or_default();
    predict::parts(&text, None, &artifact.manifest.kernels)
}

/// Predicted seconds of a launch at a position.
fn predicted(kernel: &KernelEntry, costs: &HashMap<String, Parts>, gpu: &Gpu, position: u64) -> Result<f64> {
    let Some(parts) = costs.get(&kernel.name) else { return Ok(f64::NAN) };
    Ok(predict::predict(kernel, parts, None, gpu, position)?.map_or(f64::NAN, |p| p.seconds))
}

/// The kernels of a step of one token, and how often each is launched.
fn launches(manifest: &ir::artifact::Manifest) -> Vec<(u32, usize)> {
    let mut list: Vec<(u32, usize)> = Vec::new();
    for (kernel, _) in manifest.entries.iter().take(1).flat_map(|e| &e.plan.steps).filter_map(Step::launch) {
        match list.iter_mut().find(|(known, _)| *known == kernel) {
            Some((_, launches)) => *launches += 1,
            None => list.push((kernel, 1)),
        }
    }
    list
}

/// The op of a kernel that multiplies matrices, and their columns, by its text.
fn product(text: &str) -> Option<(String, u64)> {
    let spec = ir::spec::parse(text).ok()?;
    let product = spec.body.nodes().iter().find(|n| n.op == ir::graph::Op::MatMul)?;
    let columns = spec.body.ty(product.inputs[0]).columns() as u64;
    Some((spec.kind, columns))
}
