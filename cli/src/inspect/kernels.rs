//! `rigc inspect --kernels`: what the kernels of a step take on a card, and what of, those with the most time first.

use super::names::Subject;
use crate::failure::usage;
use crate::output::note;
use crate::tools;
use anyhow::Result;
use codegen::assembly::{self, Parts, Resources};
use codegen::predict::{self, Bound, Limit, Prediction};
use ir::artifact::{Artifact, EntryPoint, KernelEntry, Manifest, State};
use ir::plan::Step;
use ir::spec::{self, Schedule};
use ir::target::{Gpu, Target};
use serde::Serialize;
use std::collections::HashMap;
use std::fmt::Write;

/// All that is printed.
#[derive(Serialize)]
pub struct Report {
    artifact: String,
    target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    card: Option<&'static str>,
    entry: String,
    tokens: u32,
    position: u64,
    /// In what instructions are counted: sass or ptx.
    #[serde(skip_serializing_if = "Option::is_none")]
    instructions: Option<&'static str>,
    kernels: Vec<Row>,
    step: Total,
    memory: Memory,
}

/// What the card has to hold.
#[derive(Serialize)]
struct Memory {
    weight_bytes: u64,
    kv_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    card_bytes: Option<u64>,
}

/// A kernel; what is not known or makes no sense is `null`, and without a prediction its figures are left out.
#[derive(Serialize)]
struct Row {
    name: String,
    /// The weights that it multiplies, or else what it does.
    role: String,
    /// Of these weights, or of the KV cache that it attends to.
    format: Option<String>,
    schedule: Schedule,
    ctas: Option<u32>,
    threads: Option<u32>,
    launches: usize,
    registers: Option<u32>,
    shared_bytes: Option<u64>,
    spill_bytes: Option<u32>,
    instructions_per_32_weights: Option<f64>,
    weight_bytes: u64,
    bytes: u64,
    #[serde(flatten)]
    predicted: Option<Predicted>,
}

/// What is predicted of a kernel.
#[derive(Serialize)]
struct Predicted {
    /// Of one launch, as the others.
    microseconds: f64,
    start_microseconds: f64,
    stream_microseconds: f64,
    tail_microseconds: f64,
    /// What most of it goes to.
    bound: &'static str,
    /// Time of the bytes at full bandwidth, over the time.
    share_of_roofline: f64,
    /// How much shorter it would be at the bandwidth that can be reached.
    gain_microseconds: f64,
    /// Of all launches, of the step's time.
    share_of_step: f64,
    gain_of_step: f64,
    /// CTAs that a multiprocessor holds, and why no more.
    ctas_per_sm: u32,
    limited_by: &'static str,
    /// Most bytes that a multiprocessor waits for at once.
    bytes_in_flight_per_sm: u64,
}

/// All launches of a step.
#[derive(Serialize)]
struct Total {
    launches: usize,
    bytes: u64,
    microseconds: Option<f64>,
    share_of_roofline: Option<f64>,
    gain_of_step: Option<f64>,
    /// Steps of as many tokens as the entry point takes.
    tokens_per_second: Option<f64>,
}

/// What assembler and disassembler say of a module.
struct Assembly {
    resources: HashMap<String, Resources>,
    parts: HashMap<String, Parts>,
    /// What the parts are counted in.
    counted: &'static str,
}

impl Assembly {
    /// Of the module of a GPU; what is not known for want of a tool is said.
    fn of(module: &[u8], target: &str, kernels: &[KernelEntry]) -> Result<Assembly> {
        let ptx = std::str::from_utf8(module).map_err(|_| usage("the artifact's module is no text; compile again"))?;
        let dir = tempfile::tempdir()?;
        let (mut resources, mut sass) = (HashMap::new(), None);
        match tools::assemble(module, target, dir.path()) {
            Err(why) => note!("rigc: registers and spills are not known, instructions are those of PTX: {why}"),
            Ok((said, cubin)) => {
                resources = assembly::resources(&said).into_iter().map(|(name, r)| (name.to_owned(), r)).collect();
                match tools::disassemble(&cubin) {
                    Err(why) => note!("rigc: instructions are those of PTX: {why}"),
                    Ok(text) => sass = Some(text),
                }
            }
        }
        let counted = if sass.is_some() { "sass" } else { "ptx" };
        Ok(Assembly { resources, parts: predict::parts(ptx, sass.as_deref(), kernels), counted })
    }
}

impl Predicted {
    /// Of so many launches of a step of `step` seconds.
    fn new(p: &Prediction, launches: usize, step: f64) -> Predicted {
        let [start, stream, tail] = p.spans.map(|seconds| seconds * 1e6);
        let gain = (p.seconds - p.least).max(0.0);
        let share = |seconds: f64| seconds * launches as f64 / step;
        Predicted {
            microseconds: p.seconds * 1e6,
            start_microseconds: start,
            stream_microseconds: stream,
            tail_microseconds: tail,
            bound: match p.bound {
                Bound::Start => "start",
                Bound::Bandwidth => "bandwidth",
                Bound::Flight => "in flight",
                Bound::Issue => "issue",
                Bound::Tail => "tail",
            },
            share_of_roofline: p.roofline / p.seconds,
            gain_microseconds: gain * 1e6,
            share_of_step: share(p.seconds),
            gain_of_step: share(gain),
            ctas_per_sm: p.resident.0,
            limited_by: match p.resident.1 {
                Limit::Shared => "shared",
                Limit::Registers => "regs",
                Limit::Threads => "threads",
                Limit::Ctas => "ctas",
            },
            bytes_in_flight_per_sm: p.in_flight,
        }
    }
}

impl Row {
    /// Without what is predicted.
    fn new(m: &Manifest, number: usize, launches: usize, position: u64, assembly: Option<&Assembly>) -> Result<Row> {
        let k = &m.kernels[number];
        let Subject { role, format } = Subject::of(m, number)?;
        let resources = assembly.and_then(|a| a.resources.get(&k.name));
        let parts = assembly.and_then(|a| a.parts.get(&k.name)).filter(|_| k.work.products > 0);
        Ok(Row {
            name: k.name.clone(),
            role,
            format,
            schedule: spec::schedule(&k.text)?,
            ctas: k.grid.map(|g| g.ctas),
            threads: k.grid.map(|g| g.threads),
            launches,
            registers: resources.map(|r| r.registers),
            shared_bytes: k.grid.map(|_| k.scratch_bytes),
            spill_bytes: resources.map(|r| r.spill_bytes),
            instructions_per_32_weights: parts.and_then(Parts::per_32_weights),
            weight_bytes: k.work.weight_bytes,
            bytes: k.work.bytes(position),
            predicted: None,
        })
    }

    /// A figure of the prediction, if there is one.
    fn of(&self, figure: impl FnOnce(&Predicted) -> String) -> Option<String> {
        self.predicted.as_ref().map(figure)
    }

    /// The schedule in a few characters: CTAs and their warps and, of products, the streams of a CTA, the columns of a chunk
    /// and the depth of a ring.
    fn layout(&self) -> String {
        match (self.schedule, self.ctas, self.threads) {
            (Schedule::Gpu(s), Some(ctas), Some(threads)) => {
                let grid = format!("{ctas}x{}", threads / 32);
                let product = self.instructions_per_32_weights.is_some();
                if product { format!("{grid} s{} c{} d{}", s.streams, s.chunk, s.depth) } else { grid }
            }
            (Schedule::Cpu(s), ..) => format!("{:?} {} {} {}", s.prologue, s.unit_tiles, s.query_tokens, s.split),
            _ => String::new(),
        }
    }
}

impl Total {
    fn new(rows: &[Row], tokens: u32) -> Total {
        let sum = |f: &dyn Fn(&Predicted) -> f64| -> Option<f64> {
            rows.iter().map(|r| Some(f(r.predicted.as_ref()?) * r.launches as f64)).sum()
        };
        let microseconds = sum(&|p| p.microseconds);
        let transfer = sum(&|p| p.microseconds * p.share_of_roofline);
        let gain = sum(&|p| p.gain_microseconds);
        let of_step = |part: Option<f64>| part.zip(microseconds).map(|(part, all)| part / all);
        Total {
            launches: rows.iter().map(|r| r.launches).sum(),
            bytes: rows.iter().fold(0, |n, r| n.saturating_add(r.bytes.saturating_mul(r.launches as u64))),
            microseconds,
            share_of_roofline: of_step(transfer),
            gain_of_step: of_step(gain),
            tokens_per_second: microseconds.map(|us| 1e6 * f64::from(tokens) / us),
        }
    }
}

impl Memory {
    fn new(m: &Manifest, gpu: Option<&Gpu>) -> Memory {
        let sum = |bytes: &mut dyn Iterator<Item = u64>| bytes.fold(0, u64::saturating_add);
        Memory {
            weight_bytes: sum(&mut m.weights.iter().filter_map(|w| w.ty.weight_bytes())),
            kv_bytes: sum(&mut m.states.iter().map(State::own_bytes)),
            card_bytes: gpu.map(|gpu| gpu.card.memory_bytes),
        }
    }

    /// Whether weights and KV caches fit what is free of the card.
    fn fits(&self) -> bool {
        self.card_bytes.is_none_or(|has| self.weight_bytes.saturating_add(self.kv_bytes) <= free(has))
    }
}

/// What of a card's memory its driver leaves to a program: 0.6 GiB go to its context and to the desktop.
pub fn free(card_bytes: u64) -> u64 {
    card_bytes.saturating_sub((6 << 30) / 10)
}

/// Bytes in GiB.
pub fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// The target of an artifact, with the card that is asked for, or else its own.
fn target(m: &Manifest, card: Option<&str>) -> Result<Target> {
    let part = &m.devices[0];
    let target = Target::by_name(&part.target)?;
    Ok(card.or(part.card.as_deref()).map_or(Ok(*target), |card| target.with_card(card))?)
}

/// The smallest entry point for so many tokens.
fn entry<'a>(m: &'a Manifest, name: &str, tokens: u32) -> Result<&'a EntryPoint> {
    m.entries.iter().find(|e| e.tokens >= tokens).ok_or_else(|| {
        let most = m.entries.last().map_or(0, |e| e.tokens);
        usage(format!("{name} has steps of up to {most} tokens; give --tokens {most} or less"))
    })
}

impl Report {
    /// Of the step of so many tokens that begins at `position`, or else of the last that the context has room for, on
    /// `card`, or else on the artifact's.
    pub fn new(
        artifact: &Artifact,
        name: String,
        card: Option<&str>,
        (tokens, position): (u32, Option<u32>),
    ) -> Result<Report> {
        let m = &artifact.manifest;
        let target = target(m, card)?;
        let entry = entry(m, &name, tokens)?;
        let last = m.context - entry.tokens;
        let position = position.unwrap_or(last);
        if position > last {
            return Err(usage(format!("{name} has positions up to {last}; give --position {last} or less")));
        }
        let position = u64::from(position);
        let assembly = match (target.gpu(), artifact.modules.first()) {
            (Some(_), Some(module)) => Some(Assembly::of(module, target.name, &m.kernels)?),
            _ => None,
        };
        let mut launches = vec![0; m.kernels.len()];
        for (kernel, _) in entry.plan.steps.iter().filter_map(Step::launch) {
            launches[kernel as usize] += 1;
        }
        let (mut kernels, mut predictions) = (Vec::new(), Vec::new());
        for (number, &launches) in launches.iter().enumerate().filter(|(_, n)| **n > 0) {
            let k = &m.kernels[number];
            let row = Row::new(m, number, launches, position, assembly.as_ref())?;
            let on = target.gpu().zip(assembly.as_ref().and_then(|a| a.parts.get(&k.name)));
            let resources = assembly.as_ref().and_then(|a| a.resources.get(&k.name)).copied();
            predictions.push(match on {
                Some((gpu, parts)) => predict::predict(k, parts, resources, gpu, position)?,
                None => None,
            });
            kernels.push(row);
        }
        let seconds = predictions.iter().zip(&kernels).map(|(p, r)| p.map_or(0.0, |p| p.seconds) * r.launches as f64);
        let step: f64 = seconds.sum();
        for (row, p) in kernels.iter_mut().zip(&predictions) {
            row.predicted = p.as_ref().map(|p| Predicted::new(p, row.launches, step));
        }
        let cost = |r: &Row| r.predicted.as_ref().map_or(r.bytes as f64 * r.launches as f64, |p| p.share_of_step);
        kernels.sort_by(|a, b| cost(b).total_cmp(&cost(a)));
        Ok(Report {
            artifact: name,
            target: m.devices[0].target.clone(),
            card: target.gpu().map(|gpu| gpu.card.name),
            entry: entry.name.clone(),
            tokens: entry.tokens,
            position,
            instructions: assembly.map(|a| a.counted),
            step: Total::new(&kernels, entry.tokens),
            kernels,
            memory: Memory::new(m, target.gpu()),
        })
    }

    /// For people.
    pub fn table(&self) -> Result<String> {
        let Report { artifact, target, entry, position, kernels, step, .. } = self;
        let card = self.card.map(|card| format!(" ({card})")).unwrap_or_default();
        let mut s = String::new();
        writeln!(s, "{artifact} for {target}{card}, {entry} at position {position}\n")?;
        // Head, width (of text, which begins at the left, below 0), and the figure of a kernel.
        type Figure = fn(&Row) -> Option<String>;
        let columns: [(&str, i32, Figure); 12] = [
            ("of step", 7, |r| r.of(|p| percent(p.share_of_step))),
            ("n", 4, |r| Some(r.launches.to_string())),
            ("kernel", -15, |r| Some(r.name.clone())),
            ("role", -15, |r| Some(r.role.clone())),
            ("format", -11, |r| r.format.clone()),
            ("schedule", -17, |r| Some(r.layout())),
            ("per SM", -9, |r| r.of(|p| format!("{} {}", p.ctas_per_sm, p.limited_by))),
            ("KB/SM", 5, |r| r.of(|p| format!("{:.1}", p.bytes_in_flight_per_sm as f64 / 1e3))),
            ("bound", -9, |r| r.of(|p| p.bound.into())),
            ("us", 7, |r| r.of(|p| format!("{:.1}", p.microseconds))),
            ("gain", 6, |r| r.of(|p| percent(p.gain_of_step))),
            ("bytes", 12, |r| r.predicted.is_none().then(|| r.bytes.to_string())),
        ];
        // A CPU has no prediction.
        let columns: Vec<_> =
            columns.iter().filter(|(.., figure)| kernels.iter().any(|r| figure(r).is_some())).collect();
        let mut line = |cells: &mut dyn Iterator<Item = (String, i32)>| {
            let cells = cells.map(|(text, width)| match (text, width.unsigned_abs() as usize) {
                (text, n) if width < 0 => format!("{text:<n$}"),
                (text, n) => format!("{text:>n$}"),
            });
            writeln!(s, "{}", cells.collect::<Vec<_>>().join(" ").trim_end())
        };
        line(&mut columns.iter().map(|(head, width, _)| ((*head).to_owned(), *width)))?;
        for r in kernels {
            line(&mut columns.iter().map(|(_, width, figure)| (figure(r).unwrap_or_else(|| "-".into()), *width)))?;
        }
        for r in kernels {
            if let Some(bytes) = r.spill_bytes.filter(|&n| n > 0) {
                writeln!(s, "{} spills {bytes} bytes of a thread's registers", r.name)?;
            }
        }
        write!(s, "\nstep: {} launches, {:.3} GB", step.launches, step.bytes as f64 / 1e9)?;
        if let (Some(us), Some(share), Some(gain), Some(rate)) =
            (step.microseconds, step.share_of_roofline, step.gain_of_step, step.tokens_per_second)
        {
            let counted = self.instructions.unwrap_or_default().to_uppercase();
            let (share, gain) = (percent(share), percent(gain));
            write!(
                s,
                "; predicted {us:.1} us, {rate:.1} tok/s, {share} of the roofline, possible gain {gain}; by {counted}"
            )?;
        }
        let Memory { weight_bytes, kv_bytes, card_bytes } = self.memory;
        write!(s, "\nmemory: {:.2} GiB of weights, {:.2} GiB of KV cache", gib(weight_bytes), gib(kv_bytes))?;
        if let Some(has) = card_bytes {
            let fits =
                if self.memory.fits() { "" } else { ", too little: the prediction is for a card that holds them" };
            write!(s, "; the card has {:.0} GiB, of which {:.1} are free{fits}", gib(has), gib(free(has)))?;
        }
        writeln!(s)?;
        Ok(s)
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}
