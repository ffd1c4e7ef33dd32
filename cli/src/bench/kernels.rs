//! `rigc bench --kernels`: what each kernel takes alone, beside the step that launches them all.

use super::report::{Bounds, Spread};
use super::{Args, Bench, Work, bar, is_tall};
use anyhow::Result;
use indicatif::ProgressBar;
use ir::artifact::{EntryPoint, Manifest};
use ir::plan::{Place, Step};
use runtime::Executor;
use serde::Serialize;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// Least time of a kernel, or of the step, in each repetition.
const LEAST: Duration = Duration::from_millis(50);

/// A kernel of an entry point.
struct Kernel {
    /// Its number in the manifest.
    number: u32,
    launches: usize,
    /// Of one launch: weights and KV cache.
    bytes: u64,
    /// Of one launch.
    macs: u64,
    /// Seconds for all launches, by repetition.
    seconds: Vec<f64>,
}

/// An entry point.
struct Entry {
    /// Its number in the manifest.
    number: usize,
    tokens: Vec<u32>,
    kernels: Vec<Kernel>,
    /// Seconds for the step, by repetition.
    seconds: Vec<f64>,
}

/// All that is printed.
#[derive(Debug, Serialize)]
pub struct Report {
    model: String,
    target: String,
    threads: usize,
    depth: usize,
    reps: u32,
    entries: Vec<EntryReport>,
    machine: Bounds,
}

#[derive(Debug, Serialize)]
struct EntryReport {
    name: String,
    tokens: usize,
    kernels: Vec<Row>,
    /// Launches, and the medians of all of them.
    launches: usize,
    sum_microseconds: f64,
    step_microseconds: Spread,
}

/// A kernel; all but the number of launches is of one launch, and rates and shares are of the median. What a kernel
/// neither reads nor multiplies is `null`.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    launches: usize,
    microseconds: Spread,
    bytes: Option<u64>,
    gb_per_second: Option<f64>,
    share_of_read_bandwidth: Option<f64>,
    macs: Option<u64>,
    gmac_per_second: Option<f64>,
    share_of_int8_peak: Option<f64>,
    /// Of all launches.
    share_of_step: f64,
}

impl Entry {
    /// Entry point `number` for steps of as many of `tokens` as it takes, after `depth` tokens.
    fn new(manifest: &Manifest, number: usize, tokens: &[u32], depth: usize) -> Entry {
        let entry = &manifest.entries[number];
        let tokens = &tokens[..entry.tokens as usize];
        let attended = (depth + tokens.len()) as u64;
        let mut kernels: Vec<Kernel> = Vec::new();
        for (kernel, buffers) in entry.plan.steps.iter().filter_map(Step::launch) {
            if let Some(known) = kernels.iter_mut().find(|k| k.number == kernel) {
                known.launches += 1;
                continue;
            }
            let is_output = buffers.iter().any(|&b| match entry.plan.buffers[b as usize].place {
                Place::Weight(n) => is_tall(&manifest.weights[n as usize], manifest.figures.vocab),
                _ => false,
            });
            let rows = if is_output && !entry.all_logits { 1 } else { tokens.len() as u64 };
            let work = &manifest.kernels[kernel as usize].work;
            kernels.push(Kernel {
                number: kernel,
                launches: 1,
                bytes: work.bytes(attended - 1).saturating_sub(work.activation_bytes),
                macs: work.products.saturating_mul(rows),
                seconds: Vec::new(),
            });
        }
        Entry { number, tokens: tokens.to_vec(), kernels, seconds: Vec::new() }
    }

    /// Times the step and each kernel once. Returns false if interrupted.
    fn time(&mut self, executor: &mut Executor, work: &Work<'_>, bar: &ProgressBar) -> Result<bool> {
        bar.set_message("step");
        let (start, mut steps) = (Instant::now(), 0u32);
        while steps == 0 || start.elapsed() < LEAST {
            if work.go_back(executor)?.is_none() {
                return Ok(false);
            }
            executor.step(&self.tokens)?;
            steps += 1;
        }
        self.seconds.push(start.elapsed().as_secs_f64() / f64::from(steps));
        if work.go_back(executor)?.is_none() {
            return Ok(false);
        }
        for kernel in &mut self.kernels {
            if !work.go_on() {
                return Ok(false);
            }
            bar.set_message(executor.manifest().kernels[kernel.number as usize].name.clone());
            kernel.seconds.push(executor.time_kernel(self.number, kernel.number, &self.tokens, LEAST)?);
        }
        Ok(work.go_on())
    }

    fn report(&self, manifest: &Manifest, machine: &Bounds) -> EntryReport {
        let microseconds = |seconds: &[f64], launches: usize| {
            Spread::of(&seconds.iter().map(|s| s * 1e6 / launches as f64).collect::<Vec<_>>())
        };
        let step = microseconds(&self.seconds, 1);
        let row = |k: &Kernel| {
            let us = microseconds(&k.seconds, k.launches);
            let (bytes, macs) = (Some(k.bytes).filter(|&n| n > 0), Some(k.macs).filter(|&n| n > 0));
            // Thousands in a microsecond are 10^9 in a second.
            let rate = |n: Option<u64>| n.map(|n| n as f64 / 1e3 / us.median);
            Row {
                name: manifest.kernels[k.number as usize].name.clone(),
                launches: k.launches,
                microseconds: us,
                bytes,
                gb_per_second: rate(bytes),
                share_of_read_bandwidth: rate(bytes).map(|r| r / machine.read_gb_per_second),
                macs,
                gmac_per_second: rate(macs),
                share_of_int8_peak: rate(macs).zip(machine.int8_gmac_per_second).map(|(r, peak)| r / peak),
                share_of_step: us.median * k.launches as f64 / step.median,
            }
        };
        let kernels: Vec<Row> = self.kernels.iter().map(row).collect();
        EntryReport {
            name: manifest.entries[self.number].name.clone(),
            tokens: self.tokens.len(),
            launches: kernels.iter().map(|r| r.launches).sum(),
            sum_microseconds: kernels.iter().map(|r| r.microseconds.median * r.launches as f64).sum(),
            step_microseconds: step,
            kernels,
        }
    }
}

/// Times all kernels of the entry point of one token, and of the largest that the prompt fills; `None` if interrupted.
pub fn run(args: &Args, mut bench: Bench, interrupted: &AtomicBool) -> Result<Option<Report>> {
    let (prompt, depth) = (bench.ids(args.prompt), bench.ids(args.depth));
    let manifest = bench.executor.manifest();
    let filled = manifest.entries.iter().filter(|e| e.tokens <= args.prompt);
    let largest = filled.map(|e| e.tokens).max();
    let chosen = |e: &EntryPoint| e.tokens == 1 || Some(e.tokens) == largest;
    let numbers = (0..manifest.entries.len()).filter(|&n| chosen(&manifest.entries[n]));
    let mut entries: Vec<Entry> = numbers.map(|n| Entry::new(manifest, n, &prompt, depth.len())).collect();

    let work = Work { prompt: &prompt, depth: &depth, steps: &prompt, interrupted };
    let bar = bar(args);
    let bounds = measure(&mut bench, &mut entries, &work, &bar, args.reps);
    bar.finish_and_clear();
    let Some(machine) = bounds? else { return Ok(None) };
    bench.file.check_unchanged()?;
    let manifest = bench.executor.manifest();
    let device = bench.executor.device();
    Ok(Some(Report {
        target: device.target.clone(),
        threads: device.workers,
        depth: depth.len(),
        reps: args.reps,
        entries: entries.iter().map(|e| e.report(manifest, &machine)).collect(),
        model: bench.name,
        machine,
    }))
}

/// All repetitions, after a warm-up; `None` if interrupted.
fn measure(
    bench: &mut Bench,
    entries: &mut [Entry],
    work: &Work<'_>,
    bar: &ProgressBar,
    reps: u32,
) -> Result<Option<Bounds>> {
    let mut bounds = Bounds::default();
    if work.warm_up(&mut bench.executor)?.is_none() {
        return Ok(None);
    }
    for _ in 0..reps {
        bar.set_message("machine");
        bounds.measure(&mut bench.meter)?;
        for entry in entries.iter_mut() {
            if !entry.time(&mut bench.executor, work, bar)? {
                return Ok(None);
            }
        }
        bar.inc(1);
    }
    bounds.measure(&mut bench.meter)?;
    Ok(Some(bounds))
}

/// A share as people read it.
fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

impl Report {
    /// For people.
    pub fn table(&self) -> String {
        let Report { model, target, threads, depth, reps, .. } = self;
        let mut s = format!("{model}, {target}, {threads} threads; depth {depth}, {reps} repetitions\n");
        for entry in &self.entries {
            s += &entry.table();
        }
        s + "\n" + &self.machine.line()
    }
}

impl EntryReport {
    fn table(&self) -> String {
        let line = |cells: [String; 11]| {
            let [name, launches, us, min, bytes, gb, read, macs, gmac, int8, step] = cells;
            format!(
                "{name:<20} {launches:>8} {us:>10} {min:>10} {bytes:>10} {gb:>7} {read:>8} {macs:>12} {gmac:>7} \
                 {int8:>8} {step:>8}\n"
            )
        };
        let rate = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.1}"));
        let share = |x: Option<f64>| x.map_or("-".into(), percent);
        let count = |x: Option<u64>| x.map_or("-".into(), |x| x.to_string());
        let mut s = format!("\n{}, tokens: {}\n", self.name, self.tokens);
        let heads =
            ["kernel", "launches", "us", "min", "bytes", "GB/s", "of read", "MACs", "GMAC/s", "of int8", "of step"];
        s += &line(heads.map(String::from));
        for r in &self.kernels {
            s += &line([
                r.name.clone(),
                r.launches.to_string(),
                format!("{:.2}", r.microseconds.median),
                format!("{:.2}", r.microseconds.min),
                count(r.bytes),
                rate(r.gb_per_second),
                share(r.share_of_read_bandwidth),
                count(r.macs),
                rate(r.gmac_per_second),
                share(r.share_of_int8_peak),
                percent(r.share_of_step),
            ]);
        }
        let EntryReport { launches, sum_microseconds: sum, step_microseconds: step, .. } = self;
        let share = percent(sum / step.median);
        s + &format!(
            "sum of {launches} launches {sum:.1} us, {share} of the step: {:.1} us, min {:.1} us\n",
            step.median, step.min
        )
    }
}
