//! [`Executor`]: a loaded model, which turns tokens into logits.
//!
//! Loading repacks the weights from the GGUF into the device's memory, binds the plan of every entry point to addresses,
//! and records it; a step then uploads token ids and replays. Logits come to the host when they are asked for, all of a row or only the largest. Invariant: on the CPU a step allocates nothing; one that is refused, or whose
//! tokens cannot be brought to the device, changes nothing. After a launch that fails, the device's memory is not what
//! kernels rely on, such as counters that they leave zero, so the executor refuses all further use. Next hop:
//! [`crate::device`] runs the launches; `alone` times single kernels.

mod alone;
mod load;

use crate::device::{self, Device, Kernel, Launch, Memory, Recording, Region};
use crate::{Error, ModelFile, Result, artifact, sys};
use ir::Verified;
use ir::abi::{Control, f32_row_bytes};
use ir::artifact::{Artifact, EntryPoint, Manifest, State};
use ir::plan::{Place, Plan, Step};
use ir::tensor::{Layout, kv_rows};

/// How to load a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Threads that compute; 0 for one on each core.
    pub threads: usize,
    /// Where.
    pub device: device::Kind,
    /// On the emulator: the errors of approximate instructions ([`device::EmuDevice::with_approximations`]).
    pub approx_seed: u64,
}

/// An entry point, ready to run.
struct Entry {
    /// Most tokens of a step.
    tokens: usize,
    recording: Recording,
    /// The rows of logits.
    logits: Region,
    /// The rows of the largest, and how many each has.
    top: Option<(Region, usize)>,
    /// Whether every token has a row.
    all_logits: bool,
}

impl Entry {
    /// The row of token `token` of a step that had `tokens`.
    fn row(&self, token: usize, tokens: usize) -> Result<usize> {
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

/// More tokens than a step can have.
fn too_many(tokens: &[u32], capacity: usize) -> Error {
    Error::Limit { what: "a step".into(), need: tokens.len() as u64, have: capacity as u64 }
}

/// Brings row `row` of `rows` to the host.
fn download_row(device: &mut dyn Device, rows: Region, row: usize, to: &mut [f32]) -> Result<()> {
    let bytes = f32_row_bytes(to.len()) as u64;
    device.download(Region { offset: rows.offset + row as u64 * bytes, bytes, ..rows }, sys::f32_bytes_mut(to))
}

/// The largest logits after a token.
#[derive(Debug, Clone, Copy)]
pub struct Top<'a> {
    logits: &'a [f32],
    ids: &'a [f32],
    /// The logarithm of the sum of the exponentials of all logits: a logit less this is the logarithm of a probability.
    pub log_sum_exp: f32,
}

impl Top<'_> {
    /// Token ids and logits, largest first, equal ones by id. NaN counts as -infinity, infinity as the largest float.
    pub fn iter(&self) -> impl Iterator<Item = (u32, f32)> {
        self.ids.iter().zip(self.logits).map(|(&id, &logit)| (id as u32, logit))
    }
}

/// A model on a device, with its KV cache.
pub struct Executor {
    device: Box<dyn Device>,
    manifest: Verified<Manifest>,
    /// By capacity, smallest first.
    entries: Vec<Entry>,
    bindings: Bindings,
    /// Kernels that have been timed.
    alone: Vec<alone::Alone>,
    position: usize,
    /// Whether a launch has failed.
    failed: bool,
    /// What the last step left on the device: which entry point ran, and its tokens.
    last: Option<(usize, usize)>,
    /// The logits after its last token, once they are asked for.
    logits: Vec<f32>,
    has_logits: bool,
    /// The largest of them, as [`ir::graph::Op::TopK`] gives them, once they are asked for.
    top: Vec<f32>,
    has_top: bool,
    /// One row, for [`Executor::logits_of`].
    row: Vec<f32>,
}

/// Where the numbered things of a plan are.
struct Bindings {
    arena: Memory,
    zeroed: Memory,
    tokens: Region,
    weights: Vec<Region>,
    states: Vec<Region>,
    kernels: Vec<Kernel>,
}

impl Executor {
    /// Loads `artifact` with the weights of `model` on the device for its target. `progress` is told the bytes of
    /// weights loaded so far, and of all that are to be.
    ///
    /// # Errors
    /// [`Error::Input`] if `model` is not the file that the artifact was compiled for, [`Error::Memory`] if the machine
    /// has too little, [`Error::Device`] if it cannot run the target's code.
    pub fn new(
        artifact: Artifact,
        model: &ModelFile,
        options: &Options,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Executor> {
        let device =
            device::for_target(&artifact.manifest.target, options.device, options.threads, options.approx_seed)?;
        Self::on_device(device, artifact, model, progress)
    }

    /// As [`Executor::new`], on a given device.
    ///
    /// # Errors
    /// As there.
    pub fn on_device(
        mut device: Box<dyn Device>,
        artifact: Artifact,
        model: &ModelFile,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Executor> {
        let Artifact { manifest, modules } = artifact;
        let manifest = manifest.verify()?;
        artifact::check_model(&manifest, model)?;
        let sizes = manifest.modules.iter().map(|m| m.bytes);
        if !sizes.eq(modules.iter().map(|m| m.len() as u64)) {
            return Err(Error::input("the modules are not those of the artifact's manifest; compile the model again"));
        }
        let loading = load::Loading::new(&manifest, model)?;
        let buffers = manifest.entries.iter().map(|e| e.plan.arena_bytes).max().unwrap_or(0);
        let states = manifest.states.iter().map(State::own_bytes).fold(0, u64::saturating_add);
        let scratch = manifest.kernels.iter().map(|k| k.scratch_bytes).max().unwrap_or(0);
        let scratch = scratch.saturating_mul(device.info().workers as u64);
        check_memory(&[
            ("weights", loading.bytes()),
            ("KV cache", states),
            ("activations", buffers.saturating_add(scratch)),
        ])?;

        let kernels = load_modules(&mut *device, &manifest, &modules)?;
        let arena = device.alloc(buffers, "the activations' memory")?;
        let zeroed = manifest.entries.iter().map(|e| e.plan.zeroed_bytes).max().unwrap_or(0);
        let zeroed = zeroed_memory(&mut *device, zeroed)?;
        let capacity = manifest.entries.iter().map(|e| u64::from(e.tokens)).max().unwrap_or(0);
        let tokens = Region { memory: device.alloc(capacity * 4, "the token ids")?, offset: 0, bytes: capacity * 4 };
        let states = kv_memory(&mut *device, &manifest.states)?;
        let weights = loading.run(&mut *device, &kernels, model, progress)?;
        model.check_unchanged()?;
        let bindings = Bindings { arena, zeroed, tokens, weights, states, kernels };
        let entries = manifest.entries.iter().map(|e| bindings.entry(&mut *device, e)).collect::<Result<Vec<_>>>()?;
        let logits = vec![0.0; manifest.config.vocab];
        let row = logits.clone();
        let most = entries.iter().filter_map(|e| e.top).map(|(_, k)| k).max();
        let top = vec![0.0; most.map_or(0, |k| 2 * k + 1)];
        let (last, has_logits, has_top) = (None, false, false);
        let (alone, position) = (Vec::new(), 0);
        Ok(Executor {
            device,
            manifest,
            entries,
            bindings,
            alone,
            position,
            failed: false,
            last,
            logits,
            has_logits,
            top,
            has_top,
            row,
        })
    }

    /// Processes all of `tokens`, in chunks as large as an entry point takes. After each chunk but the last,
    /// `go_on(tokens done, tokens in all)` decides whether to continue. Returns whether all were processed; the logits
    /// are then those after the last.
    ///
    /// # Errors
    /// [`Error::Input`] for no tokens, more than the context holds, or an id outside of the vocabulary, before anything
    /// is computed; [`Error::Launch`] and [`Error::Device`], the latter also for all use after a launch that failed.
    pub fn prefill(&mut self, tokens: &[u32], go_on: &mut dyn FnMut(usize, usize) -> bool) -> Result<bool> {
        self.check(tokens)?;
        let mut done = 0;
        for chunk in tokens.chunks(self.capacity().max(1)) {
            let last = done + chunk.len() == tokens.len();
            self.launch(chunk)?;
            done += chunk.len();
            if !last && !go_on(done, tokens.len()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Processes `tokens`, at most [`Executor::capacity`], in one step.
    ///
    /// # Errors
    /// As [`Executor::prefill`]; [`Error::Limit`] for more tokens.
    pub fn step(&mut self, tokens: &[u32]) -> Result<()> {
        self.check(tokens)?;
        self.launch(tokens)
    }

    /// The logits after the last token processed, one for each token of the vocabulary. Changes to them stay until the
    /// next step.
    ///
    /// # Errors
    /// [`Error::Input`] before the first step, [`Error::Device`].
    pub fn logits(&mut self) -> Result<&mut [f32]> {
        if !self.has_logits {
            let (entry, row) = self.last_row()?;
            let rows = self.entries[entry].logits;
            download_row(&mut *self.device, rows, row, &mut self.logits)?;
            self.has_logits = true;
        }
        Ok(&mut self.logits)
    }

    /// The largest logits after the last token processed, if the device has found `wanted` of them or more.
    ///
    /// # Errors
    /// As [`Executor::logits`].
    pub fn top(&mut self, wanted: usize) -> Result<Option<Top<'_>>> {
        let (entry, row) = self.last_row()?;
        let Some((rows, k)) = self.entries[entry].top.filter(|&(_, k)| k >= wanted) else { return Ok(None) };
        let all = &mut self.top[..2 * k + 1];
        if !self.has_top {
            download_row(&mut *self.device, rows, row, all)?;
            self.has_top = true;
        }
        let (logits, rest) = all.split_at(k);
        Ok(Some(Top { logits, ids: &rest[..k], log_sum_exp: rest[k] }))
    }

    /// The logits after token `token` of the last step, which had at most [`Executor::logits_capacity`].
    ///
    /// # Errors
    /// [`Error::Limit`] if the step had fewer tokens or gave no logits for this one, [`Error::Device`].
    pub fn logits_of(&mut self, token: usize) -> Result<&[f32]> {
        let (entry, tokens) = self.last()?;
        let entry = &self.entries[entry];
        download_row(&mut *self.device, entry.logits, entry.row(token, tokens)?, &mut self.row)?;
        Ok(&self.row)
    }

    /// Most tokens of a step that gives logits for each of its tokens.
    pub fn logits_capacity(&self) -> usize {
        self.entries.iter().take_while(|e| e.all_logits).last().map_or(0, |e| e.tokens)
    }

    /// Tokens in the KV cache.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Forgets all tokens from `position` on. The logits stay.
    ///
    /// # Errors
    /// [`Error::Limit`] if there are not as many.
    pub fn set_position(&mut self, position: usize) -> Result<()> {
        if position > self.position {
            return Err(Error::Limit {
                what: "a position to go back to".into(),
                need: position as u64,
                have: self.position as u64,
            });
        }
        self.position = position;
        Ok(())
    }

    /// Tokens that the KV cache can hold.
    pub fn context(&self) -> usize {
        self.manifest.context as usize
    }

    /// Most tokens of a step.
    pub fn capacity(&self) -> usize {
        self.entries.last().map_or(0, |e| e.tokens)
    }

    /// What was loaded.
    pub fn manifest(&self) -> &Verified<Manifest> {
        &self.manifest
    }

    /// Where it runs.
    pub fn device(&self) -> &device::Info {
        self.device.info()
    }

    /// Bytes of weights that a step of one token reads: each matrix whole, but of the embedding table one row.
    pub fn weight_bytes(&self) -> u64 {
        let vocab = self.manifest.config.vocab;
        let mut numbers: Vec<u32> = Vec::new();
        for b in self.manifest.entries.first().map_or(&[][..], |e| &e.plan.buffers) {
            if let Place::Weight(n) = b.place
                && !numbers.contains(&n)
            {
                numbers.push(n);
            }
        }
        let weights: Vec<_> = numbers.iter().filter_map(|&n| self.manifest.weights.get(n as usize)).collect();
        let tall = |w: &ir::artifact::Weight| w.ty.shape.len() == 2 && w.ty.rows() == vocab;
        // Where the embedding table also is the output matrix in the same layout, it is read whole.
        let lookup = weights.iter().position(|w| tall(w) && w.ty.layout == Layout::Rows);
        let lookup = lookup.filter(|_| weights.iter().filter(|w| tall(w)).count() > 1);
        let bytes = |i: usize, w: &ir::artifact::Weight| {
            let bytes = w.ty.weight_bytes().unwrap_or(0);
            if lookup == Some(i) { bytes / vocab.max(1) as u64 } else { bytes }
        };
        weights.iter().enumerate().map(|(i, w)| bytes(i, w)).sum()
    }

    /// Refuses an executor of which a launch has failed.
    fn sound(&self) -> Result<()> {
        if self.failed {
            return Err(Error::device("a step before failed, so this model cannot go on; load it again"));
        }
        Ok(())
    }

    /// The entry point that ran last, and its tokens.
    fn last(&self) -> Result<(usize, usize)> {
        self.sound()?;
        self.last.ok_or_else(|| Error::input("there are no logits before the first step"))
    }

    /// The entry point that ran last, and the row of its last token.
    fn last_row(&self) -> Result<(usize, usize)> {
        let (entry, tokens) = self.last()?;
        Ok((entry, self.entries[entry].row(tokens - 1, tokens)?))
    }

    /// Checks that `tokens` can be processed now.
    fn check(&self, tokens: &[u32]) -> Result<()> {
        self.sound()?;
        let vocab = self.logits.len();
        if let Some(id) = tokens.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::input(format!("token {id} is not in the vocabulary of {vocab}")));
        }
        let context = self.context();
        match (tokens.len(), self.position) {
            (0, _) => Err(Error::input("there are no tokens to process; give a prompt")),
            (n, 0) if n > context => Err(Error::input(format!(
                "the prompt has {n} tokens, the context holds {context}; shorten it, or compile with a larger --ctx"
            ))),
            (n, p) if n > context - p => Err(Error::input(format!(
                "{n} more tokens after {p} exceed the context of {context}; compile with a larger --ctx"
            ))),
            _ => Ok(()),
        }
    }

    /// Runs the smallest entry point that takes the tokens, which are checked.
    fn launch(&mut self, tokens: &[u32]) -> Result<()> {
        let Some(number) = self.entries.iter().position(|e| e.tokens >= tokens.len()) else {
            return Err(too_many(tokens, self.capacity()));
        };
        let control = self.begin(tokens)?;
        self.replay(self.entries[number].recording, control)?;
        self.last = Some((number, tokens.len()));
        self.position += tokens.len();
        Ok(())
    }

    /// Makes ready for a step of tokens, which are checked; the logits are no longer there.
    fn begin(&mut self, tokens: &[u32]) -> Result<Control> {
        self.device.upload(self.bindings.tokens, sys::u32_bytes(tokens))?;
        (self.last, self.has_logits, self.has_top) = (None, false, false);
        // In range, as context and capacity are u32.
        Ok(Control { position: self.position as u32, tokens: tokens.len() as u32 })
    }

    fn replay(&mut self, recording: Recording, control: Control) -> Result<()> {
        let result = self.device.replay(recording, control).and_then(|()| self.device.sync());
        self.failed |= result.is_err();
        result
    }
}

impl Bindings {
    /// Where buffer `number` of a plan is; `None` if it is not in memory.
    fn region(&self, plan: &Plan, number: u32) -> Result<Option<Region>> {
        let absent = || Error::device("a plan refers to something that is not there");
        let buffer = plan.buffers.get(number as usize).ok_or_else(absent)?;
        let part = |whole: Region, offset| Region { offset: whole.offset + offset, bytes: buffer.bytes, ..whole };
        let memory = |memory| Region { memory, offset: 0, bytes: buffer.bytes };
        Ok(Some(match buffer.place {
            Place::Arena { offset } => part(memory(self.arena), offset),
            Place::Zeroed { offset } => part(memory(self.zeroed), offset),
            Place::Weight(n) => part(*self.weights.get(n as usize).ok_or_else(absent)?, 0),
            Place::State(n) => part(*self.states.get(n as usize).ok_or_else(absent)?, 0),
            Place::Tokens => part(self.tokens, 0),
            Place::Control => return Ok(None),
        }))
    }

    /// Binds steps of a plan and records them.
    fn record(&self, device: &mut dyn Device, plan: &Plan, steps: &[Step]) -> Result<Recording> {
        let launches = steps.iter().map(|Step::Launch { kernel, buffers }| {
            let kernel = self.kernels.get(*kernel as usize);
            let kernel = *kernel.ok_or_else(|| Error::device("a plan launches a kernel that is not there"))?;
            Ok(Launch { kernel, buffers: buffers.iter().map(|&b| self.region(plan, b)).collect::<Result<_>>()? })
        });
        device.record(&launches.collect::<Result<Vec<_>>>()?)
    }

    /// Makes an entry point ready to run.
    fn entry(&self, device: &mut dyn Device, entry: &EntryPoint) -> Result<Entry> {
        let plan = &entry.plan;
        let row = |buffer| {
            let absent = || Error::device("the logits of a plan are not in memory");
            self.region(plan, buffer)?.ok_or_else(absent)
        };
        Ok(Entry {
            tokens: entry.tokens as usize,
            recording: self.record(device, plan, &plan.steps)?,
            logits: row(plan.logits)?,
            top: plan.top.map(|top| Ok::<_, Error>((row(top.buffer)?, top.k as usize))).transpose()?,
            all_logits: entry.all_logits,
        })
    }
}

/// Allocates the KV cache: the memory of each state.
fn kv_memory(device: &mut dyn Device, states: &[State]) -> Result<Vec<Region>> {
    let mut regions: Vec<Region> = Vec::new();
    for state in states {
        let first = kv_rows(&state.ty).map_or(0, |rows| rows.first as u64);
        let memory = match regions.last() {
            Some(keys) if state.ty.layout == Layout::Values => keys.memory,
            _ => device.alloc(state.own_bytes(), "the KV cache")?,
        };
        regions.push(Region { memory, offset: first, bytes: state.bytes });
    }
    Ok(regions)
}

/// Memory that is zero.
fn zeroed_memory(device: &mut dyn Device, bytes: u64) -> Result<Memory> {
    let memory = device.alloc(bytes, "the counters")?;
    device.upload(Region { memory, offset: 0, bytes }, &vec![0; bytes as usize])?;
    Ok(memory)
}

/// Loads the module; the kernels in the manifest's order.
fn load_modules(device: &mut dyn Device, manifest: &Manifest, modules: &[Vec<u8>]) -> Result<Vec<Kernel>> {
    let code = modules.first().map_or(&[][..], Vec::as_slice);
    let loaded = device.load_module(code, &manifest.kernels)?;
    let all = loaded.len() == manifest.kernels.len();
    all.then_some(loaded).ok_or_else(|| Error::device("the device did not load every kernel"))
}

/// Refuses needs that exceed what the machine can still give.
fn check_memory(parts: &[(&str, u64)]) -> Result<()> {
    let need = parts.iter().map(|&(_, n)| n).fold(0, u64::saturating_add);
    match sys::memory::available() {
        Some(have) if need > have => {
            let list: Vec<_> = parts.iter().map(|&(what, n)| format!("{what} {:.2} GB", n as f64 / 1e9)).collect();
            Err(Error::Memory { what: format!("the model ({})", list.join(", ")), need, have: Some(have) })
        }
        _ => Ok(()),
    }
}
