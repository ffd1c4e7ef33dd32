//! Plans bound to a device: where what they number is, and their steps as recorded commands.
//!
//! Invariant: a region lies in memory that is held as long as the bindings live. Next hop: [`crate::device`].

use super::load::Loading;
use super::made;
use crate::device::{self, Command, Device, Held, Kernel, Launch, Recording, Region, Shared};
use crate::{Error, ModelFile, Result};
use ir::abi::{Control, f32_row_bytes};
use ir::artifact::{EntryPoint, Manifest, State};
use ir::plan::{Needs, Place, Plan, Step, Top};
use ir::tensor::{Layout, kv_rows};

/// Where the token ids begin in the memory of a step's inputs, after the control words.
const TOKENS: u64 = 64;

/// An entry point, ready to run.
pub(super) struct Entry {
    /// Most tokens of a step.
    pub tokens: usize,
    pub recording: Recording,
    /// The rows of logits, on the device.
    pub logits: Region,
    /// How many of the largest logits each row on the host has, from the start of the results on.
    pub top: Option<usize>,
    /// Whether every token has a row.
    pub all_logits: bool,
}

impl Entry {
    /// The row of token `token` of a step that had `tokens`.
    pub fn row(&self, token: usize, tokens: usize) -> Result<usize> {
        match self.all_logits {
            true if token < tokens => Ok(token),
            false if token + 1 == tokens => Ok(0),
            _ => {
                let what = "the logits of a token of the last step".into();
                let have = if self.all_logits { tokens as u64 } else { 1 };
                Err(Error::Limit { what, need: token as u64 + 1, have })
            }
        }
    }
}

/// Where weights come from.
pub(super) enum Weights<'m> {
    /// A file.
    Of(&'m ModelFile, Loading),
    /// Nowhere: they and the KV cache are made by a seed.
    Made(u64),
}

impl Weights<'_> {
    /// Bytes that will be allocated for those of a manifest.
    pub fn bytes(&self, manifest: &Manifest) -> u64 {
        match self {
            Weights::Of(_, loading) => loading.bytes(),
            Weights::Made(_) => made::bytes(manifest),
        }
    }
}

/// Where the numbered things of a plan are.
pub(super) struct Bindings {
    pub held: Held,
    /// What a step begins with, on the device: control words and, from [`TOKENS`] on, token ids.
    inputs: Region,
    /// The same on the host.
    from_host: Region,
    /// A row of logits, on the host.
    row: Region,
    /// The rows of the largest logits, on the host.
    tops: Region,
    arena: Region,
    zeroed: Region,
    weights: Vec<Region>,
    states: Vec<Region>,
    kernels: Vec<Kernel>,
}

/// A plan or a manifest refers to something that is not there.
fn absent() -> Error {
    Error::device("a plan refers to something that is not there")
}

/// What the entry points of a manifest need of the memory of its only device.
pub(super) fn most_needs(manifest: &Manifest) -> Needs {
    manifest.entries.iter().filter_map(|e| e.plan.needs.first()).fold(Needs::default(), |most, needs| Needs {
        arena_bytes: most.arena_bytes.max(needs.arena_bytes),
        zeroed_bytes: most.zeroed_bytes.max(needs.zeroed_bytes),
    })
}

/// The rows of the largest logits of an entry point, and the bytes of each.
fn top_rows(entry: &EntryPoint, top: Top) -> (u64, u64) {
    let rows = if entry.all_logits { u64::from(entry.tokens) } else { 1 };
    (rows, f32_row_bytes(2 * top.k as usize + 1) as u64)
}

impl Bindings {
    /// Brings a model to the device: code, weights, and memory for all else.
    pub fn new(
        device: Shared,
        manifest: &Manifest,
        code: &[u8],
        weights: Weights<'_>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Bindings> {
        let mut held = Held::new(device);
        let kernels = held.load(code, &manifest.kernels.iter().collect::<Vec<_>>())?;
        if kernels.len() != manifest.kernels.len() {
            return Err(Error::device("the device did not load every kernel"));
        }
        let tokens = manifest.entries.iter().map(|e| u64::from(e.tokens)).max().unwrap_or(0);
        let from_host = held.staging(TOKENS + tokens * 4, "a step's inputs")?;
        let inputs = held.alloc(from_host.bytes, "a step's inputs")?;
        let tops = manifest.entries.iter().filter_map(|e| Some(top_rows(e, e.plan.top?)));
        let tops = held.staging(tops.map(|(rows, bytes)| rows * bytes).max().unwrap_or(0), "a step's results")?;
        let row = held.staging(f32_row_bytes(manifest.figures.vocab) as u64, "a row of logits")?;
        let needs = most_needs(manifest);
        let arena = held.alloc(needs.arena_bytes, "the activations' memory")?;
        let zeroed = held.alloc(needs.zeroed_bytes, "the counters")?;
        device::upload(&mut *held.device(), zeroed, &vec![0; needs.zeroed_bytes as usize])?;
        let states = state_memory(&mut held, &manifest.states)?;
        let mut bindings =
            Bindings { held, inputs, from_host, row, tops, arena, zeroed, weights: Vec::new(), states, kernels };
        // For kernels that repack.
        bindings.write_inputs(Control { position: 0, tokens: 1 }, &[])?;
        let mut device = bindings.held.device();
        let ticket = device.copy(from_host, inputs)?;
        device.wait(ticket)?;
        drop(device);
        let control = bindings.control();
        let Bindings { held, kernels, states, .. } = &mut bindings;
        let weights = match weights {
            Weights::Of(model, loading) => loading.run(held, kernels, control, model, progress)?,
            Weights::Made(seed) => {
                let states = manifest.states.iter().zip(states.iter().copied());
                let caches: Vec<_> = states.filter(|(state, _)| !state.is_recurrent()).collect();
                made::caches(held, &caches, seed)?;
                made::weights(held, manifest, seed)?
            }
        };
        bindings.weights = weights;
        bindings.held.unsettled = false;
        Ok(bindings)
    }

    /// Where state `number` of the manifest is.
    pub fn state(&self, number: usize) -> Result<Region> {
        self.states.get(number).copied().ok_or_else(absent)
    }

    /// Where kernels find the control words.
    fn control(&self) -> Region {
        Region { bytes: TOKENS, ..self.inputs }
    }

    /// Writes what the next step begins with, on the host.
    pub fn write_inputs(&mut self, control: Control, tokens: &[u32]) -> Result<()> {
        let mut device = self.held.device();
        let bytes = device.host_bytes(self.from_host.memory).ok_or_else(absent)?;
        let (words, ids) = bytes.split_at_mut_checked(TOKENS as usize).ok_or_else(absent)?;
        let words = words.chunks_exact_mut(4).zip([control.position, control.tokens]);
        let ids = ids.chunks_exact_mut(4).zip(tokens.iter().copied());
        words.chain(ids).for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
        Ok(())
    }

    /// Row `row` of `rows`, which are on the device.
    pub fn read_row(&self, rows: Region, row: usize, to: &mut [f32]) -> Result<()> {
        let offset = rows.offset + (row * f32_row_bytes(to.len())) as u64;
        let from = Region { offset, bytes: (to.len() * 4) as u64, ..rows };
        let mut device = self.held.device();
        let in_place = device.host_bytes(rows.memory).is_some();
        let place = if in_place {
            from
        } else {
            let place = Region { bytes: from.bytes, ..self.row };
            let ticket = device.copy(from, place)?;
            device.wait(ticket)?;
            place
        };
        floats(&mut *device, place, to)
    }

    /// Row `row` of the largest logits, which the last step has left on the host.
    pub fn read_top(&self, row: usize, to: &mut [f32]) -> Result<()> {
        let bytes = f32_row_bytes(to.len()) as u64;
        let place = Region { offset: row as u64 * bytes, bytes, ..self.tops };
        floats(&mut *self.held.device(), place, to)
    }

    /// Where buffer `number` of a plan is; `None` if it is not in memory.
    fn region(&self, plan: &Plan, number: u32) -> Result<Option<Region>> {
        let buffer = plan.buffers.get(number as usize).ok_or_else(absent)?;
        let part = |whole: Region, offset| Region { offset: whole.offset + offset, bytes: buffer.bytes, ..whole };
        Ok(Some(match buffer.place {
            Place::Arena { offset } => part(self.arena, offset),
            Place::Zeroed { offset } => part(self.zeroed, offset),
            Place::Weight(n) => part(*self.weights.get(n as usize).ok_or_else(absent)?, 0),
            Place::State(n) => part(*self.states.get(n as usize).ok_or_else(absent)?, 0),
            Place::Tokens => part(self.inputs, TOKENS),
            Place::Control => return Ok(None),
        }))
    }

    /// The region of buffer `number` of a plan, which is in memory.
    fn memory(&self, plan: &Plan, number: u32) -> Result<Region> {
        self.region(plan, number)?.ok_or_else(absent)
    }

    /// Binds steps of a plan to memory. A launch right after another may begin early.
    fn commands(&self, plan: &Plan, steps: &[Step]) -> Result<Vec<Command>> {
        let mut commands = Vec::with_capacity(steps.len());
        for step in steps {
            match step {
                Step::Launch { kernel, buffers } => {
                    let kernel = *self.kernels.get(*kernel as usize).ok_or_else(absent)?;
                    let buffers = buffers.iter().map(|&b| self.region(plan, b)).collect::<Result<_>>()?;
                    let early = matches!(commands.last(), Some(Command::Launch(_)));
                    commands.push(Command::Launch(Launch { kernel, buffers, early }));
                }
                Step::Copy { from, to } => {
                    let (from, to) = (self.memory(plan, *from)?, self.memory(plan, *to)?);
                    commands.push(Command::Copy { from, to });
                }
                // What one device does is in order anyway.
                Step::Signal { .. } | Step::Wait { .. } => {}
            }
        }
        Ok(commands)
    }

    /// Records steps of a plan, after the copy of a step's inputs.
    pub fn record(&mut self, plan: &Plan, steps: &[Step]) -> Result<Recording> {
        self.record_with(self.commands(plan, steps)?, None)
    }

    fn record_with(&mut self, mut commands: Vec<Command>, last: Option<Command>) -> Result<Recording> {
        commands.insert(0, Command::Copy { from: self.from_host, to: self.inputs });
        commands.extend(last);
        let control = self.control();
        self.held.record(&commands, control)
    }

    /// Makes an entry point ready to run.
    pub fn entry(&mut self, entry: &EntryPoint) -> Result<Entry> {
        let plan = &entry.plan;
        let mut results = None;
        if let Some(top) = plan.top {
            let (rows, row) = top_rows(entry, top);
            // Of a single row only what is written, which the emulator insists on; several are written with their padding.
            let bytes = if rows > 1 { rows * row } else { (2 * u64::from(top.k) + 1) * 4 };
            let from = Region { bytes, ..self.memory(plan, top.buffer)? };
            results = Some(Command::Copy { from, to: Region { bytes, ..self.tops } });
        }
        Ok(Entry {
            tokens: entry.tokens as usize,
            recording: self.record_with(self.commands(plan, &plan.steps)?, results)?,
            logits: self.memory(plan, plan.logits)?,
            top: plan.top.map(|top| top.k as usize),
            all_logits: entry.all_logits,
        })
    }
}

/// Reads floats that the host can touch in place.
fn floats(device: &mut dyn Device, place: Region, to: &mut [f32]) -> Result<()> {
    let all = device.host_bytes(place.memory).ok_or_else(absent)?;
    let bytes = all.get(place.offset as usize..).and_then(|b| b.get(..to.len() * 4)).ok_or_else(absent)?;
    let bytes = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    to.iter_mut().zip(bytes).for_each(|(to, x)| *to = x);
    Ok(())
}

/// Allocates the states: where each is.
fn state_memory(held: &mut Held, states: &[State]) -> Result<Vec<Region>> {
    let mut regions: Vec<Region> = Vec::new();
    for state in states {
        let first = kv_rows(&state.ty).map_or(0, |rows| rows.first as u64);
        let memory = match regions.last() {
            Some(keys) if state.ty.layout == Layout::Values => keys.memory,
            _ if state.is_recurrent() => held.alloc(state.own_bytes(), "the recurrent states")?.memory,
            _ => held.alloc(state.own_bytes(), "the KV cache")?.memory,
        };
        regions.push(Region { memory, offset: first, bytes: state.bytes });
    }
    Ok(regions)
}
