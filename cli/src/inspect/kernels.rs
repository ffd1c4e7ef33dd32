//! `rigc inspect --kernels`: what the kernels of a step cost, and what a step is predicted to take on a card.

use super::tools;
use crate::failure::usage;
use crate::output::note;
use anyhow::Result;
use codegen::assembly::{self, Resources};
use codegen::predict::Cost;
use ir::artifact::{Artifact, KernelEntry, Manifest, State};
use ir::plan::Step;
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

/// A kernel; what is not known or makes no sense is `null`.
#[derive(Serialize)]
struct Row {
    name: String,
    ctas: Option<u32>,
    threads: Option<u32>,
    launches: usize,
    registers: Option<u32>,
    shared_bytes: Option<u64>,
    spill_bytes: Option<u32>,
    instructions_per_32_weights: Option<f64>,
    weight_bytes: u64,
    bytes: u64,
    /// Of one launch, as all that follows.
    microseconds: Option<f64>,
    /// Time of the bytes at full bandwidth, over the time.
    share_of_roofline: Option<f64>,
}

/// All launches of a step.
#[derive(Serialize)]
struct Total {
    launches: usize,
    bytes: u64,
    microseconds: Option<f64>,
    share_of_roofline: Option<f64>,
    tokens_per_second: Option<f64>,
}

/// What assembler and disassembler say of a module.
struct Assembly {
    resources: HashMap<String, Resources>,
    costs: HashMap<String, f64>,
    /// What the costs are counted in.
    counted: &'static str,
}

impl Assembly {
    /// Of the module of a GPU; what is not known for want of a tool is said.
    fn of(module: &[u8], target: &str) -> Result<Assembly> {
        let text = std::str::from_utf8(module).map_err(|_| usage("the artifact's module is no text; compile again"))?;
        let costs = |kernels: Vec<assembly::Code>| {
            kernels.iter().filter_map(|k| Some((k.kernel.to_owned(), k.per_32_weights()?))).collect()
        };
        let mut found = Assembly { resources: HashMap::new(), costs: costs(assembly::ptx(text)), counted: "ptx" };
        let dir = tempfile::tempdir()?;
        match tools::assemble(module, target, dir.path()) {
            Err(why) => note!("rigc: registers and spills are not known, instructions are those of PTX: {why}"),
            Ok((said, cubin)) => {
                found.resources =
                    assembly::resources(&said).into_iter().map(|(name, r)| (name.to_owned(), r)).collect();
                match tools::disassemble(&cubin) {
                    Err(why) => note!("rigc: instructions are those of PTX: {why}"),
                    Ok(text) => (found.costs, found.counted) = (costs(assembly::sass(&text)), "sass"),
                }
            }
        }
        Ok(found)
    }
}

impl Row {
    fn new(k: &KernelEntry, launches: usize, position: u64, on: Option<(&Gpu, &Assembly)>) -> Row {
        let bytes = k.work.bytes(position);
        let mut row = Row {
            name: k.name.clone(),
            ctas: k.grid.map(|g| g.ctas),
            threads: k.grid.map(|g| g.threads),
            launches,
            registers: None,
            shared_bytes: k.grid.map(|_| k.scratch_bytes),
            spill_bytes: None,
            instructions_per_32_weights: None,
            weight_bytes: k.work.weight_bytes,
            bytes,
            microseconds: None,
            share_of_roofline: None,
        };
        if let Some((gpu, assembly)) = on {
            let per_32_weights = assembly.costs.get(&k.name).copied().filter(|_| k.work.products > 0);
            let Some(cost) = Cost::of(k, position, per_32_weights) else { return row };
            let resources = assembly.resources.get(&k.name);
            row.registers = resources.map(|r| r.registers);
            row.spill_bytes = resources.map(|r| r.spill_bytes);
            row.instructions_per_32_weights = per_32_weights;
            row.microseconds = Some(cost.seconds(gpu) * 1e6);
            row.share_of_roofline = Some(cost.transfer(gpu) / cost.seconds(gpu));
        }
        row
    }
}

impl Total {
    fn new(rows: &[Row]) -> Total {
        let sum = |f: &dyn Fn(&Row) -> Option<f64>| -> Option<f64> {
            rows.iter().map(|r| Some(f(r)? * r.launches as f64)).sum()
        };
        let microseconds = sum(&|r| r.microseconds);
        let transfer = sum(&|r| Some(r.microseconds? * r.share_of_roofline?));
        Total {
            launches: rows.iter().map(|r| r.launches).sum(),
            bytes: rows.iter().fold(0, |n, r| n.saturating_add(r.bytes.saturating_mul(r.launches as u64))),
            microseconds,
            share_of_roofline: transfer.zip(microseconds).map(|(transfer, all)| transfer / all),
            tokens_per_second: microseconds.map(|us| 1e6 / us),
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

impl Report {
    /// Of the decode step at `position`, or else at the context's end, on `card`, or else on the artifact's.
    pub fn new(artifact: &Artifact, name: String, card: Option<&str>, position: Option<u32>) -> Result<Report> {
        let m = &artifact.manifest;
        let target = target(m, card)?;
        let last = m.context - 1;
        let position = position.unwrap_or(last);
        if position > last {
            return Err(usage(format!("{name} has positions up to {last}; give --position {last} or less")));
        }
        let assembly = match (target.gpu(), artifact.modules.first()) {
            (Some(_), Some(module)) => Some(Assembly::of(module, target.name)?),
            _ => None,
        };
        let on = target.gpu().zip(assembly.as_ref());
        let entry = &m.entries[0];
        let mut launches = vec![0; m.kernels.len()];
        for (kernel, _) in entry.plan.steps.iter().filter_map(Step::launch) {
            launches[kernel as usize] += 1;
        }
        let used = m.kernels.iter().zip(launches).filter(|(_, n)| *n > 0);
        let kernels: Vec<Row> = used.map(|(k, n)| Row::new(k, n, u64::from(position), on)).collect();
        Ok(Report {
            artifact: name,
            target: m.devices[0].target.clone(),
            card: target.gpu().map(|gpu| gpu.card.name),
            entry: entry.name.clone(),
            position: position.into(),
            instructions: assembly.map(|a| a.counted),
            step: Total::new(&kernels),
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
        let counted = self.instructions.map_or("instr/32w".into(), |i| format!("{}/32w", i.to_uppercase()));
        // Head, width, and the figure of a kernel.
        type Figure = fn(&Row) -> Option<String>;
        let columns: [(&str, usize, Figure); 9] = [
            ("grid", 10, |r| r.ctas.zip(r.threads).map(|(ctas, threads)| format!("{ctas} x {threads}"))),
            ("launches", 8, |r| Some(r.launches.to_string())),
            ("regs", 5, |r| r.registers.map(|n| n.to_string())),
            ("shared", 8, |r| r.shared_bytes.map(|n| n.to_string())),
            ("spills", 7, |r| r.spill_bytes.map(|n| n.to_string())),
            (&counted, 9, |r| r.instructions_per_32_weights.map(|n| format!("{n:.1}"))),
            ("bytes", 12, |r| Some(r.bytes.to_string())),
            ("us", 9, |r| r.microseconds.map(|us| format!("{us:.2}"))),
            ("roofline", 8, |r| r.share_of_roofline.map(|share| format!("{:.0} %", share * 100.0))),
        ];
        // A CPU has neither grids nor a prediction.
        let columns: Vec<_> =
            columns.iter().filter(|(.., figure)| kernels.iter().any(|r| figure(r).is_some())).collect();
        write!(s, "{:<20}", "kernel")?;
        for (head, width, _) in &columns {
            write!(s, " {head:>width$}")?;
        }
        for r in kernels {
            write!(s, "\n{:<20}", r.name)?;
            for (_, width, figure) in &columns {
                write!(s, " {:>width$}", figure(r).unwrap_or_else(|| "-".into()))?;
            }
        }
        writeln!(s)?;
        write!(s, "\nstep: {} launches, {:.3} GB", step.launches, step.bytes as f64 / 1e9)?;
        if let (Some(us), Some(share), Some(rate)) = (step.microseconds, step.share_of_roofline, step.tokens_per_second)
        {
            write!(s, "; predicted {us:.1} us, {rate:.1} tok/s, {:.0} % of the roofline", share * 100.0)?;
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
