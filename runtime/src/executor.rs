//! [`Executor`]: a loaded model, which turns tokens into logits.
//!
//! Loading repacks the weights from the GGUF into the device's memory, binds the plan of every entry point to
//! addresses, and records it, between a copy of the step's inputs from staging memory and one of the largest logits to
//! it; a step then writes its inputs and replays. The logits of a row come to the host when they are asked for. Going back
//! is setting the position, but for recurrent states (`recurrent`), which need a checkpoint, and rings (`rings`), which hold
//! the last positions alone.
//! Invariant: a step allocates nothing but on the emulator; one that is refused changes nothing. After a launch that
//! fails, the device's memory is not what kernels rely on, such as counters that they leave zero, so the executor refuses
//! all further use. What it has on the device is given back when it is dropped. Next hop: [`crate::device`] runs the
//! launches; `alone` times single kernels.

mod alone;
mod bind;
mod load;
mod made;
mod recurrent;
mod rings;

use crate::device::{self, Device, Options, Recording, Shared};
use crate::{Error, ModelFile, Result, artifact};
use bind::{Bindings, Entry, Weights, most_needs};
use ir::Verified;
use ir::abi::Control;
use ir::artifact::{Artifact, Manifest, State};
use ir::plan::Step;
use recurrent::Recurrent;
use rings::Rings;

/// More tokens than a step can have.
fn too_many(tokens: &[u32], capacity: usize) -> Error {
    Error::Limit { what: "a step".into(), need: tokens.len() as u64, have: capacity as u64 }
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

/// A model on a device, with its states.
pub struct Executor {
    info: device::Info,
    manifest: Verified<Manifest>,
    /// By capacity, smallest first.
    entries: Vec<Entry>,
    bindings: Bindings,
    /// Kernels that have been timed.
    alone: Vec<alone::Alone>,
    position: usize,
    recurrent: Recurrent,
    rings: Rings,
    /// Positions of the KV cache that hold something, whatever the position.
    filled: usize,
    /// Whether a launch has failed.
    failed: bool,
    /// What the last step left on the device: which entry point ran, and its tokens.
    last: Option<(usize, usize)>,
    /// The logits after its last token, once they are asked for.
    logits: Vec<f32>,
    has_logits: bool,
    /// The largest of them, as [`ir::graph::Op::TopK`] gives them.
    top: Vec<f32>,
    /// One row, for [`Executor::logits_of`].
    row: Vec<f32>,
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
        let devices = artifact.manifest.devices.iter().map(|part| device::open(part, options));
        Self::on_devices(&devices.collect::<Result<Vec<_>>>()?, artifact, model, progress)
    }

    /// As [`Executor::new`], on given devices, those of the manifest in its order, which others may use as well.
    ///
    /// # Errors
    /// As there.
    pub fn on_devices(
        devices: &[Shared],
        artifact: Artifact,
        model: &ModelFile,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Executor> {
        artifact::check_model(&artifact.manifest, model)?;
        let loading = |manifest: &Manifest| Ok(Weights::Of(model, load::Loading::new(manifest, model)?));
        let executor = Self::load(devices, artifact, loading, progress)?;
        model.check_unchanged()?;
        Ok(executor)
    }

    /// An executor whose weights are not those of a file: random ones that repeat, and a KV cache of f16 that is full of
    /// them, for measurements.
    ///
    /// # Errors
    /// As [`Executor::new`], but for those of files.
    pub fn with_made_weights(devices: &[Shared], artifact: Artifact, seed: u64) -> Result<Executor> {
        let mut executor = Self::load(devices, artifact, |_| Ok(Weights::Made(seed)), &mut |_, _| ())?;
        executor.filled = executor.context();
        executor.rings.hold_all();
        Ok(executor)
    }

    fn load<'m>(
        devices: &[Shared],
        artifact: Artifact,
        weights: impl FnOnce(&Manifest) -> Result<Weights<'m>>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Executor> {
        let Artifact { manifest, modules } = artifact;
        let manifest = manifest.verify()?;
        let sizes = manifest.modules.iter().map(|m| m.bytes);
        if !sizes.eq(modules.iter().map(|m| m.len() as u64)) {
            return Err(Error::input("the modules are not those of the artifact's manifest; compile the model again"));
        }
        let ([device], [code]) = (devices, &modules[..]) else {
            let (need, have) = (manifest.devices.len(), devices.len());
            return Err(Error::device(format!(
                "the artifact is for {need} devices and is loaded on {have}; this version runs a model on one"
            )));
        };
        let info = device.get().info().clone();
        let weights = weights(&manifest)?;
        let caches = manifest.states.iter().filter(|s| !s.is_recurrent());
        let caches = caches.map(State::own_bytes).fold(0, u64::saturating_add);
        let scratch = manifest.kernels.iter().map(|k| k.scratch_bytes).max().unwrap_or(0);
        let scratch = scratch.saturating_mul(info.workers as u64);
        let activations = most_needs(&manifest).arena_bytes.saturating_add(scratch);
        let recurrent = recurrent::bytes(&manifest.states);
        let parts = [
            ("weights", weights.bytes(&manifest)),
            ("KV cache", caches),
            ("recurrent states", recurrent),
            ("activations", activations),
        ];
        check_memory(&*device.get(), &parts)?;
        let mut bindings = Bindings::new(device.clone(), &manifest, code, weights, progress)?;
        let recurrent = Recurrent::new(&mut bindings, &manifest.states)?;
        let entries = manifest.entries.iter().map(|e| bindings.entry(e)).collect::<Result<Vec<_>>>()?;
        let logits = vec![0.0; manifest.figures.vocab];
        let row = logits.clone();
        let most = entries.iter().filter_map(|e| e.top).max();
        let top = vec![0.0; most.map_or(0, |k| 2 * k + 1)];
        let (alone, position, filled, failed) = (Vec::new(), 0, 0, false);
        let (last, has_logits) = (None, false);
        let rings = Rings::new(&manifest);
        Ok(Executor {
            info,
            manifest,
            entries,
            bindings,
            alone,
            position,
            recurrent,
            rings,
            filled,
            failed,
            last,
            logits,
            has_logits,
            top,
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
        loop {
            let most = self.capacity().max(1).min(tokens.len() - done);
            let count = self.recurrent.until_wanted().map_or(most, |wanted| most.min(wanted));
            self.launch(&tokens[done..done + count])?;
            self.recurrent.keep_if_wanted(&self.bindings.held)?;
            done += count;
            if done == tokens.len() {
                return Ok(true);
            }
            if !go_on(done, tokens.len()) {
                return Ok(false);
            }
        }
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
            self.bindings.read_row(rows, row, &mut self.logits)?;
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
        let Some(k) = self.entries[entry].top.filter(|&k| k >= wanted) else { return Ok(None) };
        let all = &mut self.top[..2 * k + 1];
        self.bindings.read_top(row, all)?;
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
        self.bindings.read_row(entry.logits, entry.row(token, tokens)?, &mut self.row)?;
        Ok(&self.row)
    }

    /// Most tokens of a step that gives logits for each of its tokens.
    pub fn logits_capacity(&self) -> usize {
        self.entries.iter().take_while(|e| e.all_logits).last().map_or(0, |e| e.tokens)
    }

    /// Tokens that the states hold.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Forgets all tokens from `position` on, or more: a model with recurrent states goes back to the last checkpoint up to
    /// there, and one with rings to the beginning, where they no longer hold what the windows see from there. Gives the
    /// position that is reached; tokens from there on are to be processed again. What made KV caches hold counts as tokens.
    /// The logits stay.
    ///
    /// # Errors
    /// [`Error::Limit`] if there are not as many, [`Error::Device`].
    pub fn set_position(&mut self, position: usize) -> Result<usize> {
        if position > self.position.max(self.filled) {
            return Err(Error::Limit {
                what: "a position to go back to".into(),
                need: position as u64,
                have: self.position.max(self.filled) as u64,
            });
        }
        let mut reached = self.recurrent.go_back(&self.bindings.held, position)?;
        if !self.rings.hold(reached) {
            reached = self.recurrent.go_back(&self.bindings.held, 0)?;
        }
        self.rings.go_back(reached);
        self.position = reached;
        Ok(reached)
    }

    /// Whether checkpoints help to go back: the model has recurrent states.
    pub fn needs_checkpoints(&self) -> bool {
        !self.recurrent.is_empty()
    }

    /// Keeps the recurrent states as they are here, so that [`Executor::set_position`] reaches this position again. The oldest
    /// checkpoints make room for new ones; position 0 needs none.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn checkpoint(&mut self) -> Result<()> {
        self.recurrent.keep(&self.bindings.held)
    }

    /// Has the prompt that passes `position` leave a checkpoint there, as by [`Executor::checkpoint`].
    pub fn checkpoint_at(&mut self, position: usize) {
        self.recurrent.want(position);
    }

    /// Tokens that the states can hold.
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
        &self.info
    }

    /// The device that it runs on, for others to use as well.
    pub fn shared_device(&self) -> Shared {
        self.bindings.held.shared()
    }

    /// Bytes of weights that a step of one token reads: each matrix whole, but of the embedding table one row and of experts
    /// those that a token uses.
    pub fn weight_bytes(&self) -> u64 {
        let steps = self.manifest.entries.first().map_or(&[][..], |e| &e.plan.steps);
        let kernels = steps.iter().filter_map(Step::launch).filter_map(|(n, _)| self.manifest.kernels.get(n as usize));
        kernels.map(|kernel| kernel.work.weight_bytes).sum()
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
        if !self.recurrent.stands_at(self.position) {
            let what =
                format!("the recurrent states are not those of position {}; set the position first", self.position);
            return Err(Error::input(what));
        }
        self.begin(tokens)?;
        self.replay(self.entries[number].recording)?;
        self.last = Some((number, tokens.len()));
        self.position += tokens.len();
        self.recurrent.advance(self.position);
        self.rings.advance(self.position);
        Ok(())
    }

    /// Makes ready for a step of tokens, which are checked; the logits are no longer there.
    fn begin(&mut self, tokens: &[u32]) -> Result<()> {
        // In range, as context and capacity are u32.
        let control = Control { position: self.position as u32, tokens: tokens.len() as u32 };
        self.bindings.write_inputs(control, tokens)?;
        (self.last, self.has_logits) = (None, false);
        Ok(())
    }

    fn replay(&mut self, recording: Recording) -> Result<()> {
        let mut device = self.bindings.held.device();
        let result = device.replay(recording).and_then(|()| device.sync());
        drop(device);
        self.failed |= result.is_err();
        self.bindings.held.unsettled |= self.failed;
        result
    }
}

/// Refuses needs that exceed what the device can still give.
fn check_memory(device: &dyn Device, parts: &[(&str, u64)]) -> Result<()> {
    let need = parts.iter().map(|&(_, n)| n).fold(0, u64::saturating_add);
    match device.free_memory()? {
        Some(have) if need > have => {
            let list: Vec<_> = parts.iter().map(|&(what, n)| format!("{what} {:.2} GB", n as f64 / 1e9)).collect();
            Err(Error::Memory { what: format!("the model ({})", list.join(", ")), need, have: Some(have) })
        }
        _ => Ok(()),
    }
}
