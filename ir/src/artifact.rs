//! The artifact: everything that passes from the compiler to the runtime, except the weights, which stay in the GGUF.
//!
//! On disk it is a directory `NAME.rig/` with `manifest.ron` (this module's [`Manifest`]) and one file for each module.
//! Invariant: once [`Manifest::verify`] has passed, indices are in range, and every launch finds buffers of the sizes that
//! its kernel relies on, and writes only to what is the model's own. Next hop: `runtime` reads it.

use crate::abi::{MAX_SCRATCH, ROW_ALIGN, f32_row_bytes};
use crate::front::Figures;
use crate::gguf::ModelIdentity;
use crate::graph::{self, MOST_TOP, check_shape};
use crate::kernel::{Access, BufDecl, Grid};
use crate::plan::{Buffer, DeviceId, Needs, Place, Plan, Step, Top};
use crate::quant::Format;
use crate::spec::hex;
use crate::state::{self, StateKind};
use crate::tensor::{Layout, TensorType};
use crate::work::Work;
use crate::{Error, Result, Verified};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

/// First line of the manifest's contents; another means another format version.
pub const SIGNATURE: &str = "rigc-artifact-4";

/// Most devices of an artifact.
pub const MOST_DEVICES: usize = 16;

/// A weight tensor, or a part of one, as kernels want it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Weight {
    /// Name in the GGUF.
    pub name: String,
    /// Its rows of the tensor there; one of no rows, \[n\], counts as a row.
    pub rows: Range<u32>,
    /// Its columns of the tensor, from one block to another.
    pub columns: Range<u32>,
    /// Where it goes.
    pub device: DeviceId,
    /// Format, shape \[rows, columns\] or \[n\], and the layout to repack to.
    pub ty: TensorType,
    /// The number of the kernel by which the device repacks it from the order of the file; without, the host does.
    pub repack: Option<u32>,
}

/// What a layer keeps from one step to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Name in the graph.
    pub name: String,
    /// Where it is.
    pub device: DeviceId,
    /// Format and shape, which tell its [kind](StateKind::of); that of a KV cache of all positions is
    /// \[kv heads, context, head\].
    pub ty: TensorType,
    /// Size, with padding, from its first row on. In [`Layout::Values`] that is in the memory of the state before it, which
    /// has the layer's keys.
    pub bytes: u64,
}

impl Weight {
    /// A weight of a graph, whose shape was checked, on the first device.
    pub fn new(weight: &graph::Weight, ty: &TensorType) -> Weight {
        let mut of = Weight::whole(&weight.tensor, ty);
        if let Some(part) = &weight.rows {
            *(if ty.shape.len() == 1 { &mut of.columns } else { &mut of.rows }) = part.clone();
        }
        of
    }

    /// A whole tensor, on the first device.
    pub fn whole(name: &str, ty: &TensorType) -> Weight {
        let (rows, columns) = (0..ty.rows() as u32, 0..ty.columns() as u32);
        Weight { name: name.into(), rows, columns, device: DeviceId::default(), ty: ty.clone(), repack: None }
    }
}

impl State {
    /// Whether it is [`StateKind::Recurrent`].
    pub fn is_recurrent(&self) -> bool {
        StateKind::of(&self.ty) == Some(StateKind::Recurrent)
    }

    /// Whether it is [`StateKind::Ring`].
    pub fn is_ring(&self) -> bool {
        StateKind::of(&self.ty) == Some(StateKind::Ring)
    }

    /// Bytes of memory that it takes for itself.
    pub fn own_bytes(&self) -> u64 {
        if self.ty.layout == Layout::Values { 0 } else { self.bytes }
    }
}

/// What a kernel demands of a buffer that it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Param {
    /// The least size that it has; 0 for what is not in memory.
    pub bytes: u64,
    /// Whether the kernel may write to it.
    pub written: bool,
}

impl Param {
    /// What the kernel of a declaration demands.
    pub fn of(decl: &BufDecl) -> Param {
        Param { bytes: decl.bytes, written: decl.access == Access::Write }
    }
}

/// A compiled kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelEntry {
    /// Unique name.
    pub name: String,
    /// Hex SHA-256 of its text.
    pub hash: String,
    /// What it computes and how: [`crate::spec::text`].
    pub text: String,
    /// The device that it is for.
    pub device: DeviceId,
    /// Byte offset of its code in that device's module.
    pub offset: u64,
    /// Bytes of code.
    pub bytes: u64,
    /// Most tokens of a step that it computes.
    pub tokens: u32,
    /// Stages that have work counters: [`crate::abi::Frame::tickets`].
    pub tickets: u32,
    /// Scratch bytes for each worker, or shared memory of each CTA.
    pub scratch_bytes: u64,
    /// The buffers that it takes.
    pub params: Vec<Param>,
    /// Its threads, if it is for a GPU.
    pub grid: Option<Grid>,
    /// What a launch moves and computes.
    pub work: Work,
}

/// An emitted unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleEntry {
    /// File name in the artifact's directory.
    pub file: String,
    /// Hex SHA-256 of its bytes.
    pub sha256: String,
    /// [`kernels_hash`] of the kernels in it.
    pub kernels: String,
    /// Its size.
    pub bytes: u64,
}

/// Hex SHA-256 of the entries of kernels. Their code relies on figures there that nothing else tells, such as the size of
/// its scratch memory, so a module records for which entries it was made.
pub fn kernels_hash<'a>(kernels: impl IntoIterator<Item = &'a KernelEntry>) -> String {
    let kernels: Vec<_> = kernels.into_iter().collect();
    hex(&Sha256::digest(format!("{kernels:?}")))
}

/// What a part of the model is compiled for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Name of the target.
    pub target: String,
    /// Name of the card that work is split over, if it is a GPU.
    pub card: Option<String>,
}

/// For people: the target, and the card if there is one.
impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.target)?;
        self.card.as_ref().map_or(Ok(()), |card| write!(f, " ({card})"))
    }
}

/// A way to run the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryPoint {
    /// `decode`, `batch@N` or `prefill@N`.
    pub name: String,
    /// Most tokens that a step may have.
    pub tokens: u32,
    /// Whether it computes logits for every token, or for the last only.
    pub all_logits: bool,
    /// Its launches.
    pub plan: Plan,
}

/// All that the runtime needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`SIGNATURE`].
    pub signature: String,
    /// Version of rigc that wrote it.
    pub rigc: String,
    /// [`crate::abi::VERSION`] of the kernels.
    pub abi: u32,
    /// The devices that it runs on, in the order of their numbers.
    pub devices: Vec<Part>,
    /// The GGUF that it was compiled for.
    pub model: ModelIdentity,
    /// Where that was; a file of the same name beside the artifact serves as well.
    pub model_path: String,
    /// The model's figures.
    pub figures: Figures,
    /// Positions of the KV cache.
    pub context: u32,
    /// Format of the KV cache.
    pub kv: Format,
    /// Weights in the order of their numbers.
    pub weights: Vec<Weight>,
    /// States in the order of their numbers.
    pub states: Vec<State>,
    /// Entry points, by capacity, smallest first.
    pub entries: Vec<EntryPoint>,
    /// Kernels in the order of their numbers.
    pub kernels: Vec<KernelEntry>,
    /// The module of each device, with its kernels.
    pub modules: Vec<ModuleEntry>,
}

/// A manifest and the bytes of its modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// The manifest.
    pub manifest: Manifest,
    /// One for each [`Manifest::modules`].
    pub modules: Vec<Vec<u8>>,
}

impl Manifest {
    /// What it was compiled for, in prints.
    pub fn machine(&self) -> String {
        self.devices.iter().map(Part::to_string).collect::<Vec<_>>().join(" + ")
    }

    /// The kernels of a device, in the order of their numbers.
    pub fn kernels_of(&self, device: DeviceId) -> impl Iterator<Item = &KernelEntry> {
        self.kernels.iter().filter(move |k| k.device == device)
    }

    /// Checks signature, versions and every index and range.
    ///
    /// # Errors
    /// [`Error::Malformed`] for another version, [`Error::Verify`] for an index out of range.
    pub fn verify(self) -> Result<Verified<Manifest>> {
        if self.signature != SIGNATURE || self.rigc != env!("CARGO_PKG_VERSION") || self.abi != crate::abi::VERSION {
            return Err(Error::malformed(format!(
                "the artifact was written by rigc {} ({}, kernel ABI {}), this is rigc {} ({SIGNATURE}, kernel ABI {}); compile the model again",
                self.rigc,
                self.signature,
                self.abi,
                env!("CARGO_PKG_VERSION"),
                crate::abi::VERSION,
            )));
        }
        let bad = |what: String| Err(Error::verify("manifest", what));
        if self.context == 0 || self.entries.first().is_none_or(|e| e.tokens != 1) {
            return bad("it has no context or no decode entry point".into());
        }
        if let Some([a, b]) = self.entries.array_windows().find(|[a, b]| a.tokens >= b.tokens) {
            return bad(format!("entry {} of {} tokens comes before one of {}", a.name, a.tokens, b.tokens));
        }
        let (devices, modules) = (self.devices.len(), self.modules.len());
        if devices == 0 || devices > MOST_DEVICES || modules != devices {
            return bad(format!(
                "it has {modules} modules for {devices} devices, of which there are 1 to {MOST_DEVICES}"
            ));
        }
        let vocab = self.figures.vocab;
        if !self.weights.iter().any(|w| w.ty.shape.len() == 2 && w.ty.rows() == vocab) {
            return bad(format!("no weight has a row for each of the {vocab} tokens"));
        }
        let types = self.weights.iter().map(|w| (&w.name, &w.ty)).chain(self.states.iter().map(|s| (&s.name, &s.ty)));
        for (name, ty) in types {
            check_shape(&ty.shape).map_err(|e| Error::verify("manifest", format!("'{name}': {e}")))?;
        }
        for (i, k) in self.kernels.iter().enumerate() {
            let module = self.modules.get(k.device.index()).map_or(0, |m| m.bytes);
            if k.offset.checked_add(k.bytes).is_none_or(|end| end > module) {
                return bad(format!("kernel {i} lies outside its module"));
            }
            if k.scratch_bytes > MAX_SCRATCH {
                return bad(format!(
                    "kernel {i} wants {} bytes of scratch memory, more than {MAX_SCRATCH}",
                    k.scratch_bytes
                ));
            }
            if k.hash.len() != 64 || !k.hash.bytes().all(|b| b.is_ascii_hexdigit()) {
                return bad(format!("kernel {i} has no SHA-256"));
            }
        }
        for (device, module) in self.modules.iter().enumerate() {
            if module.kernels != kernels_hash(self.kernels_of(DeviceId(device as u8))) {
                return bad(format!("the kernels are not those of module {}", module.file));
            }
        }
        for w in &self.weights {
            if let Some(number) = w.repack {
                let raw = TensorType { layout: Layout::Rows, ..w.ty.clone() };
                let room = [(raw.weight_bytes(), false), (w.ty.weight_bytes(), true)];
                let fits = |(p, (room, own)): (&Param, (Option<u64>, bool))| {
                    room.is_some_and(|room| room >= p.bytes) && (own || !p.written)
                };
                let kernel = self.kernels.get(number as usize).filter(|k| k.params.len() == 2 && k.device == w.device);
                if !kernel.is_some_and(|k| k.params.iter().zip(room).all(fits)) {
                    return bad(format!("weight '{}' has no kernel of two parameters that repacks it", w.name));
                }
            }
            let shape = (w.ty.rows() as u64, w.ty.columns() as u64);
            if (w.rows.len() as u64, w.columns.len() as u64) != shape || w.device.index() >= devices {
                return bad(format!("weight '{}' has other rows and columns than its type, or no device", w.name));
            }
            if w.ty.layout.is_kv() {
                return bad(format!("weight '{}' has the layout of a KV cache", w.name));
            }
        }
        for (i, s) in self.states.iter().enumerate() {
            let fits = match StateKind::of(&s.ty) {
                Some(StateKind::Rows) => s.ty.shape[1] == self.context as usize,
                Some(StateKind::Ring | StateKind::Recurrent) => true,
                None => false,
            };
            if s.device.index() >= devices || !fits || state::bytes(&s.ty) != Some(s.bytes) {
                return bad(format!("state {i} has the wrong shape or size"));
            }
            let keys = TensorType { layout: Layout::Keys, ..s.ty.clone() };
            if s.ty.layout == Layout::Values
                && i.checked_sub(1).is_none_or(|before| {
                    let before = &self.states[before];
                    before.ty != keys || before.device != s.device
                })
            {
                return bad(format!("state {i} has values, and the one before it not their keys"));
            }
        }
        for e in &self.entries {
            self.verify_plan(e)?;
        }
        Ok(Verified::assert(self))
    }

    fn verify_plan(&self, e: &EntryPoint) -> Result<()> {
        let bad = |what: String| Err(Error::verify("manifest", format!("entry {}: {what}", e.name)));
        if e.tokens > self.context {
            return bad(format!("it takes {} tokens, the context is {}", e.tokens, self.context));
        }
        if e.plan.needs.len() != self.devices.len() {
            return bad(format!("it needs memory of {} devices, there are {}", e.plan.needs.len(), self.devices.len()));
        }
        for (i, b) in e.plan.buffers.iter().enumerate() {
            let after =
                |offset: u64, all: u64| all.checked_sub(offset).filter(|_| offset.is_multiple_of(ROW_ALIGN as u64));
            let Some(needs) = e.plan.needs.get(b.device.index()) else {
                return bad(format!("buffer {i} ({}) is on a device that is not there", b.name));
            };
            let room = match b.place {
                Place::Arena { offset } => after(offset, needs.arena_bytes),
                Place::Zeroed { offset } => after(offset, needs.zeroed_bytes),
                Place::Weight(n) => {
                    let weight = self.weights.get(n as usize).filter(|w| w.device == b.device);
                    weight.and_then(|w| w.ty.weight_bytes())
                }
                Place::State(n) => self.states.get(n as usize).filter(|s| s.device == b.device).map(|s| s.bytes),
                Place::Tokens => Some(u64::from(e.tokens) * 4),
                Place::Control => Some(0),
            };
            if room.is_none_or(|room| b.bytes > room) {
                return bad(format!("buffer {i} ({}) is out of range", b.name));
            }
        }
        let mut raised = HashSet::new();
        for step in &e.plan.steps {
            let fault = match step {
                Step::Launch { kernel, buffers } => self.launch_fault(e, *kernel, buffers),
                Step::Copy { from, to } => {
                    let sizes = [from, to].map(|&b| e.plan.buffers.get(b as usize).map(|b| b.bytes));
                    let own = e.plan.buffers.get(*to as usize).is_some_and(own);
                    let good = sizes[0].is_some() && sizes[0] == sizes[1] && own;
                    (!good).then(|| format!("buffer {from} cannot be copied to buffer {to}"))
                }
                Step::Signal { device, flag } => {
                    let good = device.index() < self.devices.len() && *flag < e.plan.flags && raised.insert(*flag);
                    (!good).then(|| format!("device {} cannot raise flag {flag}", device.0))
                }
                Step::Wait { device, flag } => {
                    let good = device.index() < self.devices.len() && raised.contains(flag);
                    (!good).then(|| format!("device {} waits for flag {flag}, which is not raised before", device.0))
                }
            };
            if let Some(fault) = fault {
                return bad(fault);
            }
        }
        if !apart(&e.plan) {
            return bad("buffers that live at the same time overlap".into());
        }
        if let Some(Needs { zeroed_bytes, .. }) = e.plan.needs.iter().find(|n| n.zeroed_bytes > MAX_SCRATCH) {
            return bad(format!("it wants {zeroed_bytes} bytes of zeroed memory, more than {MAX_SCRATCH}"));
        }
        let rows = if e.all_logits { u64::from(e.tokens) } else { 1 };
        let vocab = self.figures.vocab;
        let holds = |buffer: u32, columns: usize| {
            let row = check_shape(&[columns]).map(|()| f32_row_bytes(columns) as u64);
            let need = row.ok().and_then(|row| rows.checked_mul(row));
            let in_arena = |b: &&Buffer| matches!(b.place, Place::Arena { .. });
            let buffer = e.plan.buffers.get(buffer as usize).filter(in_arena);
            buffer.is_some_and(|b| need.is_some_and(|need| b.bytes >= need))
        };
        if !holds(e.plan.logits, vocab) {
            return bad("the logits buffer is missing or too small".into());
        }
        match e.plan.top {
            Some(Top { k, .. }) if !(1..=vocab.min(MOST_TOP)).contains(&(k as usize)) => {
                bad(format!("it finds the {k} largest of {vocab} logits"))
            }
            Some(Top { buffer, k }) if !holds(buffer, 2 * k as usize + 1) => {
                bad("the buffer of the largest logits is missing or too small".into())
            }
            _ => Ok(()),
        }
    }

    /// What is wrong with a launch of an entry point.
    fn launch_fault(&self, e: &EntryPoint, kernel: u32, buffers: &[u32]) -> Option<String> {
        let Some(k) = self.kernels.get(kernel as usize) else {
            return Some(format!("kernel {kernel} is not there"));
        };
        let buffers: Option<Vec<&Buffer>> = buffers.iter().map(|&b| e.plan.buffers.get(b as usize)).collect();
        let Some(buffers) = buffers.filter(|buffers| buffers.len() == k.params.len()) else {
            return Some(format!("kernel {kernel} is launched with the wrong buffers"));
        };
        if k.tokens < e.tokens {
            return Some(format!("it takes {} tokens, kernel {kernel} only {}", e.tokens, k.tokens));
        }
        let unfit = |(b, p): &(&&Buffer, &Param)| b.device != k.device || b.bytes < p.bytes || (p.written && !own(b));
        let (b, p) = buffers.iter().zip(&k.params).find(unfit)?;
        let rule = if p.written { "of its own" } else { "" };
        Some(format!("kernel {kernel} wants {} bytes {rule} where buffer {} is", p.bytes, b.name))
    }
}

/// Whether steps may write to a buffer.
fn own(buffer: &Buffer) -> bool {
    matches!(buffer.place, Place::Arena { .. } | Place::Zeroed { .. } | Place::State(_))
}

/// Whether buffers that live at the same time are apart, in the arena and in the zeroed memory of each device. A buffer
/// lives from the first step that takes it to the last one, of all devices as the plan lists them; results live to the end.
fn apart(plan: &Plan) -> bool {
    let none = (usize::MAX, 0);
    let mut lives = vec![none; plan.buffers.len()];
    let mut used = |buffer: u32, step: usize| {
        if let Some((first, last)) = lives.get_mut(buffer as usize) {
            (*first, *last) = (step.min(*first), step.max(*last));
        }
    };
    for (number, step) in plan.steps.iter().enumerate() {
        match step {
            Step::Launch { buffers, .. } => buffers.iter().for_each(|&b| used(b, number)),
            Step::Copy { from, to } => [from, to].into_iter().for_each(|&b| used(b, number)),
            Step::Signal { .. } | Step::Wait { .. } => {}
        }
    }
    let results = [Some(plan.logits), plan.top.map(|top| top.buffer)];
    results.into_iter().flatten().for_each(|b| used(b, plan.steps.len()));
    let mut events = vec![(Vec::new(), Vec::new()); plan.steps.len() + 1];
    for (b, (first, last)) in plan.buffers.iter().zip(lives).filter(|(b, life)| b.bytes > 0 && *life != none) {
        let place = match b.place {
            Place::Arena { offset } => ((b.device, 0), offset),
            Place::Zeroed { offset } => ((b.device, 1), offset),
            _ => continue,
        };
        events[first].0.push((place, b.bytes));
        events[last].1.push(place);
    }
    let mut living: BTreeMap<((DeviceId, u8), u64), u64> = BTreeMap::new();
    events.into_iter().all(|(born, dead)| {
        let apart = born.into_iter().all(|((memory, offset), bytes)| {
            let end = offset + bytes;
            // The one that begins last before this one's end ends before this one, or is in the other memory.
            let before = living.range(..(memory, end)).next_back();
            let apart = before.is_none_or(|(&(m, at), &bytes)| m != memory || at + bytes <= offset);
            living.insert((memory, offset), bytes);
            apart
        });
        dead.iter().for_each(|place| _ = living.remove(place));
        apart
    })
}
