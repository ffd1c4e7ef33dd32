//! Compiled kernels on a device with random operands, compared with the interpreter on their bodies.

use crate::model::Model;
use codegen::passes::{self, PassContext};
use codegen::{KernelTable, TableKernel, back, lower};
use ir::Verified;
use ir::abi::{Control, f32_row_bytes};
use ir::artifact::{KernelEntry, Param};
use ir::kernel::{Kernel, interp};
use ir::plan::DeviceId;
use ir::quant::Format;
use ir::target::{Gpu, Target};
use ir::tensor::TensorType;
use ir::work::Work;
use runtime::conform::{self, Buffer, Case, Subject};
pub use runtime::conform::{Difference, Draw};
use runtime::device::{CpuDevice, Device, EmuDevice, Shared};
use std::ops::Range;

/// The kernels of a model for a target: entry points of these capacities, as far as context and target have them.
///
/// # Panics
/// If one cannot be compiled.
pub fn table(model: &Model, target: &Target, capacities: &[usize], kv: Format) -> KernelTable {
    let mut table = KernelTable::default();
    let most = target.gpu().map_or(usize::MAX, Gpu::most_tokens).min(model.figures.context);
    for &tokens in capacities.iter().filter(|&&t| t <= most) {
        let graph = model.graph(tokens, kv, tokens <= 16);
        passes::run(graph, &PassContext { target }, |_, _| {})
            .and_then(|fused| lower(&fused, tokens, target, &mut table))
            .unwrap_or_else(|e| panic!("{} {tokens} tokens: {e}", target.name));
    }
    table.add_repacks(target).unwrap_or_else(|e| panic!("{}: {e}", target.name));
    table
}

/// How a kernel is run.
#[derive(Debug, Clone, Copy)]
pub struct Trial {
    /// Position of the first token.
    pub position: usize,
    /// Tokens of the step.
    pub tokens: usize,
    /// Workers of a CPU; on an emulated GPU, the number of the schedule of its threads.
    pub workers: usize,
    /// Of the operands.
    pub seed: u64,
    /// How operands are drawn.
    pub draw: Draw,
}

impl Trial {
    /// With operands of a trial, on so many workers.
    pub fn of(trial: conform::Trial, workers: usize) -> Trial {
        let conform::Trial { position, tokens, seed, draw } = trial;
        Trial { position, tokens, workers, seed, draw }
    }

    /// What decides about the operands.
    fn drawn(self) -> conform::Trial {
        let Trial { position, tokens, seed, draw, .. } = self;
        conform::Trial { position, tokens, seed, draw }
    }
}

/// Emits a kernel, its code edited, and loads it into a device.
///
/// # Errors
/// What the device says.
///
/// # Panics
/// If the kernel cannot be emitted.
pub fn load(
    device: &mut dyn Device,
    kernel: &Verified<Kernel>,
    target: &Target,
    edit: impl FnOnce(&Vec<u8>) -> Vec<u8>,
) -> runtime::Result<runtime::device::Kernel> {
    let backend = back::for_target(target).unwrap_or_else(|e| panic!("{e}"));
    let mut code = backend.prefix(target).unwrap_or_else(|e| panic!("{e}"));
    let offset = code.len() as u64;
    code.extend(edit(&backend.emit(kernel, target, false).unwrap_or_else(|e| panic!("{e}")).code));
    let entry = KernelEntry {
        name: kernel.name.clone(),
        hash: String::new(),
        text: String::new(),
        device: DeviceId(0),
        offset,
        bytes: code.len() as u64 - offset,
        tokens: 1,
        tickets: kernel.tickets,
        scratch_bytes: kernel.scratch_bytes,
        params: kernel.param_buffers().map(Param::of).collect(),
        grid: kernel.grid,
        work: Work::default(),
    };
    Ok(device.load(&code, &[&entry])?.1[0])
}

/// A device with `workers` workers or, for a GPU, the emulator with the schedule of that number and errors of approximate
/// instructions by a seed.
///
/// # Panics
/// If this CPU does not run the target.
pub fn device(target: &Target, workers: usize, approximations: u64) -> Shared {
    let device = match target.gpu() {
        None => CpuDevice::new(target, workers).map(Shared::new),
        Some(_) => EmuDevice::with_approximations(target, workers as u64, approximations).map(Shared::new),
    };
    device.unwrap_or_else(|e| panic!("{e}"))
}

/// The buffers that a kernel takes, none of which has to be zero.
fn buffers(kernel: &Kernel) -> Vec<Buffer> {
    kernel.param_buffers().map(|decl| Buffer { bytes: decl.bytes, zeroed: false }).collect()
}

/// Launches a kernel some times over its parameters, its code edited; what the parameters then hold. An empty parameter has
/// no memory.
///
/// # Errors
/// What the device says.
///
/// # Panics
/// If the kernel cannot be emitted.
pub fn launch(
    kernel: &Verified<Kernel>,
    target: &Target,
    device: Shared,
    times: usize,
    params: &[Vec<u8>],
    control: Control,
    edit: impl FnOnce(&Vec<u8>) -> Vec<u8>,
) -> Result<Vec<Vec<u8>>, String> {
    let loaded = load(&mut *device.get(), kernel, target, edit).map_err(|e| e.to_string())?;
    conform::launch(&device, loaded, times, &buffers(kernel), params, control).map_err(|e| e.to_string())
}

/// Runs a kernel with random operands and compares it with the interpreter.
///
/// # Panics
/// If it cannot be built or run, or leaves part of an output unwritten.
pub fn run(entry: &TableKernel, target: &Target, trial: Trial) -> Vec<Difference> {
    attempt(entry, target, trial, Clone::clone)
        .unwrap_or_else(|e| panic!("{} {e}, {trial:?}, {}", target.name, entry.schedule))
}

/// The same with the kernel's code edited; an error instead of a panic.
///
/// # Errors
/// What the device says, or which output is not finite, or which counter is left changed.
///
/// # Panics
/// If the kernel cannot be emitted.
pub fn attempt(
    entry: &TableKernel,
    target: &Target,
    trial: Trial,
    edit: impl FnOnce(&Vec<u8>) -> Vec<u8>,
) -> Result<Vec<Difference>, String> {
    with_case(entry, trial, |case| {
        // Usual operands with exact functions, so that a mistake that is found is the one that was made.
        let approximations = if trial.draw == Draw::Usual { 0 } else { trial.seed };
        let device = device(target, trial.workers, approximations);
        let times = conform::launches(target.gpu().is_some());
        launch(&entry.kernel, target, device, times, &case.before, trial.drawn().control(), edit)
    })
}

/// The same by the interpreter of kernels.
///
/// # Errors
/// As [`attempt`].
pub fn interpret(entry: &TableKernel, trial: Trial) -> Result<Vec<Difference>, String> {
    with_case(entry, trial, |case| {
        let mut after = case.before.clone();
        for _ in 0..conform::launches(entry.kernel.grid.is_some()) {
            interp::run(&entry.kernel, &mut after, trial.drawn().control(), trial.workers)
                .map_err(|e| e.to_string())?;
        }
        Ok(after)
    })
}

/// What of a kernel's results differs, with what `run` makes of its operands.
fn with_case(
    entry: &TableKernel,
    trial: Trial,
    run: impl FnOnce(&Case<'_>) -> Result<Vec<Vec<u8>>, String>,
) -> Result<Vec<Difference>, String> {
    let mut buffers = buffers(&entry.kernel);
    buffers.iter_mut().enumerate().for_each(|(i, buffer)| buffer.zeroed = entry.zeroed(i));
    let subject = Subject { name: &entry.kernel.name, body: &entry.spec.body, buffers: &buffers };
    let case = Case::new(subject, trial.drawn())?;
    case.compare(&run(&case)?)
}

/// What the buffers of a kernel hold before it runs.
fn before(entry: &TableKernel, trial: Trial) -> Vec<Vec<u8>> {
    let buffers = buffers(&entry.kernel);
    let subject = Subject { name: &entry.kernel.name, body: &entry.spec.body, buffers: &buffers };
    Case::new(subject, trial.drawn()).unwrap_or_else(|e| panic!("{e}")).before
}

/// Rows of the only output of `kernel`, which computes what `whole` does for fewer tokens, given the operands of `whole` for
/// these of its tokens.
///
/// # Panics
/// If it cannot be run.
pub fn rows_of(
    whole: &TableKernel,
    kernel: &TableKernel,
    target: &Target,
    trial: Trial,
    tokens: Range<usize>,
) -> Vec<Vec<f32>> {
    let own = Trial { tokens: tokens.len(), ..trial };
    let (mut buffers, all) = (before(kernel, own), before(whole, trial));
    let types = |k: &TableKernel| -> Vec<TensorType> {
        k.spec.body.params().expect("a verified body").into_iter().cloned().collect()
    };
    for (i, (large, small)) in types(whole).iter().zip(types(kernel)).enumerate() {
        let (bytes, row) = (&all[i], all[i].len() / large.shape[0]);
        buffers[i] = if *large == small { bytes.clone() } else { bytes[tokens.start * row..tokens.end * row].to_vec() };
    }
    let output = kernel.spec.body.ty(kernel.spec.body.outputs()[0].1);
    let columns: usize = output.shape[1..].iter().product();
    let device = device(target, trial.workers, 0);
    let after = launch(&kernel.kernel, target, device, 1, &buffers, own.drawn().control(), Clone::clone);
    let after = after.unwrap_or_else(|e| panic!("{} {e}", target.name));
    let rows = after[types(kernel).len()].chunks_exact(f32_row_bytes(columns)).take(tokens.len());
    let float = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    rows.map(|row| row[..columns * 4].chunks_exact(4).map(float).collect()).collect()
}

/// Checks that outputs were compared and that each is within its bound.
///
/// # Panics
/// With `what` if not.
pub fn assert_within(found: &[Difference], what: impl Fn() -> String) {
    assert!(!found.is_empty(), "{}: nothing was compared", what());
    for (i, d) in found.iter().enumerate() {
        assert!(d.error <= d.bound, "{}: output {i} is off by {}, bound {}", what(), d.error, d.bound);
    }
}
