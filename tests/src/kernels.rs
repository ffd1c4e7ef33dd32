//! Runs one compiled kernel on a device with random operands and compares it with the interpreter on its body.

use crate::model::Model;
use crate::synthetic::{Rng, blocks};
use codegen::passes::{self, PassContext};
use codegen::{KernelTable, TableKernel, back, lower};
use half::f16;
use ir::Verified;
use ir::abi::{Control, KV_BLOCK, Q8_BLOCK, f32_row_bytes};
use ir::artifact::{KernelEntry, Param};
use ir::graph::interp::{Value, run_body};
use ir::graph::{Graph, Op, Ref};
use ir::kernel::{BufDecl, Kernel, interp};
use ir::numerics;
use ir::plan::DeviceId;
use ir::quant::Format;
use ir::state::StateKind;
use ir::target::Target;
use ir::tensor::{Elem, TensorType, kv_bytes, kv_rows};
use ir::work::Work;
use runtime::device::{Command, CpuDevice, Device, EmuDevice, Launch, Region, download, upload};
use runtime::repack;
use std::ops::Range;

/// What outputs hold before a kernel runs: a NaN that no computation gives.
const POISON: u32 = 0x7fc0_dead;

/// An operand, as the interpreter and as the device want it.
struct Operand {
    value: Value,
    bytes: Vec<u8>,
}

/// The role of body parameter `n`: the last op that uses it and the operand's place there.
fn role(body: &Graph, n: usize) -> (&Op, usize) {
    let mut users = body.nodes().iter().filter_map(|node| {
        let at = node.inputs.iter().position(|r| body.node(r.node).op == Op::Param(n as u32))?;
        Some((&node.op, at))
    });
    users.next_back().expect("every param is used")
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Rows padded as activation buffers are; `valid` rows have values, the others are poison.
fn padded(values: &[f32], rows: usize, columns: usize) -> Vec<u8> {
    let mut bytes = POISON.to_le_bytes().repeat(rows * f32_row_bytes(columns) / 4);
    for (t, row) in values.chunks_exact(columns).enumerate() {
        bytes[t * f32_row_bytes(columns)..][..columns * 4].copy_from_slice(&floats(row));
    }
    bytes
}

/// Columns of an activation: all dimensions but the first.
fn columns(ty: &TensorType) -> usize {
    ty.shape[1..].iter().product()
}

/// How operands are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draw {
    /// Within +-2, weights of any codes.
    Usual,
    /// Zero blocks, subnormal numbers, one magnitude throughout a block, and gates far beyond +-88; the largest codes of a
    /// format and blocks of scale zero.
    Edges,
    /// As usual, but for a NaN or an infinity in some rows of activations.
    NotFinite,
}

fn random(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.uniform() * 2.0).collect()
}

/// Rows of activations. `most` is how much larger than usual [`Draw::Edges`] may make them.
fn activations(rng: &mut Rng, rows: usize, columns: usize, draw: Draw, most: f32) -> Vec<f32> {
    let mut all = random(rng, rows * columns);
    for row in all.chunks_exact_mut(columns) {
        match draw {
            Draw::Usual => {}
            Draw::Edges => {
                let by = if rng.below(2) == 0 { most } else { 1.0 };
                for block in row.chunks_mut(Q8_BLOCK) {
                    match rng.below(4) {
                        0 => block.fill(0.0),
                        1 => block.iter_mut().step_by(2).for_each(|x| *x *= f32::MIN_POSITIVE / 64.0),
                        2 => block.iter_mut().for_each(|x| *x = by.copysign(*x)),
                        _ => block.iter_mut().for_each(|x| *x *= by),
                    }
                }
            }
            Draw::NotFinite => {
                let bad = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.0];
                row[rng.below(columns)] = bad[rng.below(bad.len())];
            }
        }
    }
    all
}

/// Blocks of weights; with [`Draw::Edges`] half of them have one byte throughout, so all of the smallest or largest codes, and
/// some the scale zero.
fn weights(format: Format, elements: usize, spread: f32, draw: Draw, rng: &mut Rng) -> Vec<u8> {
    let mut all = blocks(format, elements, spread, rng);
    let Some(set_scale) = format.set_scale.filter(|_| draw == Draw::Edges) else { return all };
    let mut values = vec![0.0; format.block as usize];
    for block in all.chunks_exact_mut(format.bytes as usize) {
        let Some(&byte) = [0x00, 0xff, 0x80, 0x7f].get(rng.below(8)) else { continue };
        block.fill(byte);
        set_scale(block, 1.0);
        (format.decode)(block, &mut values);
        let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        set_scale(block, if largest > 0.0 && rng.below(4) > 0 { spread / largest } else { 0.0 });
    }
    all
}

/// Random logits, of which many are equal, some impossible, and in half of the rows a few NaN or infinite.
fn logits(rng: &mut Rng, n: usize) -> Vec<f32> {
    let infinite = rng.below(2) == 0;
    let one = |rng: &mut Rng| match rng.below(64) {
        8..16 => f32::NEG_INFINITY,
        16..32 => (rng.uniform() * 8.0).round(),
        32 if infinite => f32::INFINITY,
        33 if infinite => f32::NAN,
        _ => rng.uniform() * 10.0,
    };
    (0..n).map(|_| one(rng)).collect()
}

/// Divides by the length, if it is neither infinite nor tiny.
fn to_length_one(x: &mut [f32]) {
    let length = x.iter().map(|x| x * x).sum::<f32>().sqrt();
    if length.is_finite() && length > 1e-3 {
        x.iter_mut().for_each(|x| *x /= length);
    }
}

/// Scores of sinks: near those of keys, or such that they are all, or nothing.
fn sinks(rng: &mut Rng, n: usize, draw: Draw) -> Vec<f32> {
    let extremes = [f32::NEG_INFINITY, -1e30, 1e30, 80.0, -80.0, 0.0];
    let one = |rng: &mut Rng| match draw {
        Draw::Usual => 4.0 * rng.uniform(),
        Draw::Edges => extremes[rng.below(extremes.len())],
        Draw::NotFinite if rng.below(4) == 0 => [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][rng.below(3)],
        Draw::NotFinite => rng.uniform(),
    };
    (0..n).map(|_| one(rng)).collect()
}

/// Random weights of experts and different experts of each token: any, or the same few for most tokens.
fn routing(body: &Graph, ty: &TensorType, Trial { tokens, draw, .. }: Trial, rng: &mut Rng) -> Vec<f32> {
    let tables = body.nodes().iter().filter(|n| matches!(n.op, Op::ExpertMatMul | Op::ExpertRows));
    let experts = tables.map(|n| body.ty(n.inputs[0]).shape[0]).next().expect("a body of experts");
    let k = ty.columns() / 2;
    let favourites = if rng.below(2) == 0 { k + 1 } else { experts };
    let mut all = Vec::new();
    for _ in 0..tokens {
        let among = if rng.below(8) == 0 { experts } else { favourites.min(experts) };
        let mut ids: Vec<usize> = (0..among).map(|i| (i * 5 + 3) % experts).collect();
        if ids.iter().any(|id| ids.iter().filter(|other| *other == id).count() > 1) {
            ids = (0..among).collect();
        }
        for i in 0..k {
            let other = i + rng.below(ids.len() - i);
            ids.swap(i, other);
        }
        let mut weights: Vec<f32> = (0..k).map(|_| rng.uniform().abs()).collect();
        if draw == Draw::NotFinite && rng.below(4) == 0 {
            weights[rng.below(k)] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][rng.below(3)];
        }
        all.extend(weights);
        all.extend(ids[..k].iter().map(|&id| id as f32));
    }
    all
}

/// Random logits of experts, so far apart that rounding decides nothing, but many equal; some are impossible, and in half of the
/// rows a few NaN or infinite.
fn router(rng: &mut Rng, rows: usize, experts: usize) -> Vec<f32> {
    let mut all = Vec::with_capacity(rows * experts);
    for _ in 0..rows {
        let infinite = rng.below(2) == 0;
        all.extend((0..experts).map(|_| match rng.below(64) {
            8..12 => f32::NEG_INFINITY,
            12 if infinite => f32::INFINITY,
            13 if infinite => f32::NAN,
            _ => (rng.uniform() * 40.0).round() / 8.0,
        }));
    }
    all
}

/// A KV cache of random values that its format holds exactly.
fn cache(ty: &TensorType, draw: Draw, rng: &mut Rng) -> Operand {
    let head = ty.columns();
    let (mut values, mut bytes) = (Vec::new(), Vec::new());
    for _ in 0..ty.rows() {
        if ty.elem == Elem::F16 {
            for v in random(rng, head) {
                let v = f16::from_f32(v);
                values.push(v.to_f32());
                bytes.extend(v.to_le_bytes());
            }
            continue;
        }
        let padded = head.next_multiple_of(Q8_BLOCK);
        let extreme = draw == Draw::Edges && rng.below(2) == 0;
        let code = |rng: &mut Rng| if extreme { [-128, -127, 127, 0][rng.below(4)] } else { rng.next() as i8 };
        let codes: Vec<i8> = (0..padded).map(|i| if i < head { code(rng) } else { 0 }).collect();
        let scale = |rng: &mut Rng| if extreme && rng.below(4) == 0 { 0.0 } else { 0.01 + 0.005 * rng.uniform() };
        let scales: Vec<f16> = (0..padded / Q8_BLOCK).map(|_| f16::from_f32(scale(rng))).collect();
        values.extend((0..head).map(|i| scales[i / Q8_BLOCK].to_f32() * f32::from(codes[i])));
        bytes.extend(codes.iter().map(|&c| c as u8));
        bytes.extend(scales.iter().flat_map(|s| s.to_le_bytes()));
    }
    let mut laid = vec![0xff; kv_bytes(ty).expect("a KV format") as usize];
    cache_units(ty, |from, to, n| laid[to..to + n].copy_from_slice(&bytes[from..from + n]));
    Operand { value: values.into(), bytes: laid }
}

/// Calls `f(byte in rows one after the other, byte in the layout of the type, bytes)` for each unit of a KV cache.
fn cache_units(ty: &TensorType, mut f: impl FnMut(usize, usize, usize)) {
    let (context, head, tile) = (ty.shape[1], ty.columns(), ty.layout.tile_rows());
    let rows = kv_rows(ty).expect("a KV format");
    let codes = if ty.elem == Elem::F16 { 0 } else { head.next_multiple_of(Q8_BLOCK) };
    for row in 0..ty.rows() {
        let (h, p) = (row / context, row % context);
        let first = h * rows.head + p / KV_BLOCK * rows.block + p % KV_BLOCK / tile * tile * rows.row;
        for at in (0..codes).chain((codes..rows.row).step_by(2)) {
            let unit = if at < codes { 1 } else { 2 };
            f(row * rows.row + at, first + at * tile + p % tile * unit, unit);
        }
    }
}

/// The values of a KV cache's bytes.
fn decode_cache(ty: &TensorType, bytes: &[u8]) -> Vec<f32> {
    let head = ty.columns();
    let row_bytes = kv_rows(ty).expect("a KV format").row;
    let half = |b: &[u8], at: usize| f16::from_le_bytes([b[at], b[at + 1]]).to_f32();
    let mut rows = vec![0; ty.rows() * row_bytes];
    cache_units(ty, |to, from, n| rows[to..to + n].copy_from_slice(&bytes[from..from + n]));
    let mut values = Vec::new();
    for row in rows.chunks_exact(row_bytes) {
        if ty.elem == Elem::F16 {
            values.extend((0..head).map(|i| half(row, 2 * i)));
        } else {
            let scales = head.next_multiple_of(Q8_BLOCK);
            values.extend((0..head).map(|i| half(row, scales + i / Q8_BLOCK * 2) * f32::from(row[i] as i8)));
        }
    }
    values
}

fn operand(body: &Graph, n: usize, ty: &TensorType, trial: Trial, rng: &mut Rng) -> Operand {
    let (op, at) = role(body, n);
    let Trial { position, tokens, draw, .. } = trial;
    match (op, at) {
        (Op::KvAppend | Op::RopeAngles(_) | Op::PositionScale { .. } | Op::Attention { .. }, _)
            if ty.elem == Elem::I32 =>
        {
            Operand { value: vec![position as i32].into(), bytes: Vec::new() }
        }
        (Op::Embed, 1) => {
            let Op::Param(table) =
                body.node(body.nodes().iter().find(|n| n.op == Op::Embed).unwrap().inputs[0].node).op
            else {
                unreachable!("the table is a param")
            };
            let vocab = body.params().unwrap()[table as usize].rows();
            let ids: Vec<i32> = (0..tokens).map(|_| rng.below(vocab) as i32).collect();
            let mut bytes: Vec<u8> = ids.iter().flat_map(|i| i.to_le_bytes()).collect();
            bytes.resize(ty.elements() * 4, 0);
            Operand { value: ids.into(), bytes }
        }
        (Op::KvAppend, 0) | (Op::Attention { .. }, 1 | 2) => cache(ty, draw, rng),
        (Op::Repack { .. }, _) => {
            let Elem::Ggml(format) = ty.elem else { unreachable!("weights are of a GGML format") };
            Operand { value: Vec::<f32>::new().into(), bytes: blocks(format, ty.elements(), 1.0, rng) }
        }
        (Op::ShortConv | Op::DeltaRule { .. }, 0) => {
            let values = random(rng, ty.elements());
            Operand { bytes: floats(&values), value: values.into() }
        }
        (Op::ShortConv, 2) => {
            let values = random(rng, ty.elements());
            Operand { bytes: floats(&values), value: values.into() }
        }
        (Op::DeltaRule { .. }, 1..) => {
            let mut values = activations(rng, tokens, columns(ty), draw, 2.0);
            match at {
                2 => values.chunks_mut(ty.columns()).for_each(to_length_one),
                4 => values.iter_mut().for_each(|x| *x = -x.abs() * if draw == Draw::Edges { 20.0 } else { 1.0 }),
                5 => values.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp())),
                _ => {}
            }
            Operand { bytes: padded(&values, ty.shape[0], columns(ty)), value: values.into() }
        }
        (Op::MatMul | Op::Embed | Op::ExpertMatMul, 0) => {
            let Elem::Ggml(format) = ty.elem else { unreachable!("weights are of a GGML format") };
            let all = weights(format, ty.elements(), 1.0 / (ty.columns() as f32).sqrt(), draw, rng);
            let mut values = vec![0.0; ty.elements()];
            format.decode_into(&all, &mut values);
            let (rows, columns) = (ty.rows() / ty.matrices(), ty.columns());
            let size = repack::bytes(ty.layout, format, rows, columns);
            let mut bytes = vec![0; ty.matrices() * size];
            for (from, to) in all.chunks_exact(all.len() / ty.matrices()).zip(bytes.chunks_exact_mut(size)) {
                repack::repack(ty.layout, format, from, rows, columns, to);
            }
            Operand { value: values.into(), bytes }
        }
        (Op::ExpertRows, 0) => {
            let values = random(rng, ty.elements());
            Operand { bytes: floats(&values), value: values.into() }
        }
        (Op::ExpertMatMul, 2) | (Op::ExpertRows | Op::ExpertSum, 1) => {
            let values = routing(body, ty, trial, rng);
            Operand { bytes: padded(&values, ty.shape[0], columns(ty)), value: values.into() }
        }
        (Op::Route { .. }, 0) => {
            let values = router(rng, tokens, columns(ty));
            Operand { bytes: padded(&values, ty.shape[0], columns(ty)), value: values.into() }
        }
        (Op::TopK { .. }, _) => {
            let values = logits(rng, tokens * columns(ty));
            Operand { bytes: padded(&values, ty.shape[0], columns(ty)), value: values.into() }
        }
        (Op::Attention { .. }, 4) => {
            let values = sinks(rng, ty.elements(), draw);
            Operand { bytes: floats(&values), value: values.into() }
        }
        _ if ty.shape.len() == 1 => {
            let values: Vec<f32> = random(rng, ty.elements()).iter().map(|v| 1.5 + v * 0.5).collect();
            Operand { bytes: floats(&values), value: values.into() }
        }
        _ => {
            // Scores of attention stay small, so that a weight is no more uncertain than other sums.
            let most = if matches!(op, Op::Attention { .. }) { 2.0 } else { 400.0 };
            let values = activations(rng, tokens.min(ty.shape[0]), columns(ty), draw, most);
            Operand { bytes: padded(&values, ty.shape[0], columns(ty)), value: values.into() }
        }
    }
}

/// The largest difference of one output, or of a part of its rows, from the interpreter's, and how large a difference is
/// tolerated.
#[derive(Debug, Clone, Copy)]
pub struct Difference {
    /// Largest |device - interpreter|.
    pub error: f32,
    /// The bound of [`parts`].
    pub bound: f32,
}

/// The columns of a kernel's output that are compared with the interpreter's by themselves, and the tolerance relative to
/// their largest magnitude. What is selected is exact. Else it is the rounding of f32 sums; where a kernel rounds what it
/// has computed itself to codes (int8 rows after a norm, KV caches), one code of a block may fall to the other side, or its
/// scale.
fn parts(body: &Graph, output: Ref) -> Vec<(Range<usize>, f32)> {
    let ty = body.ty(output);
    let promised = |name| numerics::op(name).expect("an op that computes").error;
    if let Op::TopK { k } = body.node(output.node).op {
        return vec![(0..2 * k, 0.0), (2 * k..2 * k + 1, promised("top_k"))];
    }
    if let Op::DeltaRule { .. } = body.node(output.node).op {
        return vec![(0..columns(ty), promised("delta_rule"))];
    }
    if let Op::Route { k, .. } = body.node(output.node).op {
        return vec![(0..k, promised("route")), (k..2 * k, 0.0)];
    }
    let requantises = body
        .nodes()
        .iter()
        .any(|n| n.op == Op::Quantize && !matches!(body.node(n.inputs[0].node).op, Op::Param(_) | Op::LastToken));
    let int8_cache = kv_bytes(ty).is_some() && ty.elem != Elem::F16 && ty.elem != Elem::F32;
    let tolerance = match (requantises, int8_cache, ty.elem == Elem::F16) {
        // A code, and a step of the block's f16 scale.
        (_, true, _) => promised("kv_append"),
        (true, ..) => promised("quantize"),
        (false, false, true) => 1e-3,
        (false, false, false) => promised("matmul"),
    };
    vec![(0..columns(ty), tolerance)]
}

/// The kernels of a model for a target: entry points of these capacities, as far as context and target have them.
///
/// # Panics
/// If one cannot be compiled.
pub fn table(model: &Model, target: &Target, capacities: &[usize], kv: Format) -> KernelTable {
    let mut table = KernelTable::default();
    let most = if target.gpu().is_some() { 1 } else { model.figures.context };
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
    fn control(self) -> Control {
        Control { position: self.position as u32, tokens: self.tokens as u32 }
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
pub fn device(target: &Target, workers: usize, approximations: u64) -> Box<dyn Device> {
    let device: runtime::Result<Box<dyn Device>> = match target.gpu() {
        None => CpuDevice::new(target, workers).map(|d| Box::new(d) as _),
        Some(_) => EmuDevice::with_approximations(target, workers as u64, approximations).map(|d| Box::new(d) as _),
    };
    device.unwrap_or_else(|e| panic!("{e}"))
}

/// Launches a kernel some times over its parameters, its code edited; what the parameters then hold. An empty parameter has
/// no memory.
///
/// # Errors
/// What the device says.
///
/// # Panics
/// If the kernel cannot be emitted, or a parameter is of another size.
pub fn launch(
    kernel: &Verified<Kernel>,
    target: &Target,
    mut device: Box<dyn Device>,
    times: usize,
    params: &[Vec<u8>],
    control: Control,
    edit: impl FnOnce(&Vec<u8>) -> Vec<u8>,
) -> Result<Vec<Vec<u8>>, String> {
    let loaded = load(&mut *device, kernel, target, edit).map_err(|e| e.to_string())?;
    let mut regions = Vec::new();
    for (decl, bytes) in kernel.param_buffers().zip(params) {
        if bytes.is_empty() {
            regions.push(None);
            continue;
        }
        let memory = device.alloc(decl.bytes, &decl.name).unwrap_or_else(|e| panic!("{e}"));
        let region = Region { memory, offset: 0, bytes: decl.bytes };
        upload(&mut *device, region, bytes).unwrap_or_else(|e| panic!("{e}"));
        regions.push(Some(region));
    }
    let memory = device.alloc(64, "the control words").unwrap_or_else(|e| panic!("{e}"));
    let place = Region { memory, offset: 0, bytes: 64 };
    let words = [control.position, control.tokens].map(u32::to_le_bytes);
    upload(&mut *device, place, words.as_flattened()).unwrap_or_else(|e| panic!("{e}"));
    let launch = |n| Command::Launch(Launch { kernel: loaded, buffers: regions.clone(), early: n > 0 });
    let recording = device.record(&(0..times).map(launch).collect::<Vec<_>>(), place).unwrap_or_else(|e| panic!("{e}"));
    device.replay(recording).and_then(|()| device.sync()).map_err(|e| e.to_string())?;
    let mut after = params.to_vec();
    for (region, bytes) in regions.into_iter().zip(&mut after) {
        if let Some(region) = region {
            download(&mut *device, region, bytes).map_err(|e| e.to_string())?;
        }
    }
    Ok(after)
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
    let case = Case::new(entry, trial);
    let (kernel, control) = (&entry.kernel, trial.control());
    // Usual operands with exact functions, so that a mistake that is found is the one that was made.
    let approximations = if trial.draw == Draw::Usual { 0 } else { trial.seed };
    let device = device(target, trial.workers, approximations);
    let after = launch(kernel, target, device, launches(kernel), &case.buffers, control, edit)?;
    case.compare(entry, &after)
}

/// The same by the interpreter of kernels.
///
/// # Errors
/// As [`attempt`].
pub fn interpret(entry: &TableKernel, trial: Trial) -> Result<Vec<Difference>, String> {
    let case = Case::new(entry, trial);
    let mut after = case.buffers.clone();
    for _ in 0..launches(&entry.kernel) {
        interp::run(&entry.kernel, &mut after, trial.control(), trial.workers).map_err(|e| e.to_string())?;
    }
    case.compare(entry, &after)
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
    let mut buffers = Case::new(kernel, Trial { tokens: tokens.len(), ..trial }).buffers;
    let (all, types) = (Case::new(whole, trial).operands, |k: &TableKernel| {
        k.spec.body.params().expect("a verified body").into_iter().cloned().collect::<Vec<_>>()
    });
    for (i, (large, small)) in types(whole).iter().zip(types(kernel)).enumerate() {
        let (bytes, row) = (&all[i].bytes, all[i].bytes.len() / large.shape[0]);
        buffers[i] = if *large == small { bytes.clone() } else { bytes[tokens.start * row..tokens.end * row].to_vec() };
    }
    let (output, columns) = (types(kernel).len(), columns(kernel.spec.body.ty(kernel.spec.body.outputs()[0].1)));
    let control = Trial { tokens: tokens.len(), ..trial }.control();
    let device = device(target, trial.workers, 0);
    let after = launch(&kernel.kernel, target, device, 1, &buffers, control, Clone::clone);
    let after = after.unwrap_or_else(|e| panic!("{} {e}", target.name));
    let rows = after[output].chunks_exact(f32_row_bytes(columns)).take(tokens.len());
    let float = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    rows.map(|row| row[..columns * 4].chunks_exact(4).map(float).collect()).collect()
}

/// How often a kernel is launched: on a GPU twice, so that the launches overlap, and the second finds what the first leaves.
fn launches(kernel: &Kernel) -> usize {
    if kernel.grid.is_some() { 2 } else { 1 }
}

/// A kernel's operands and results.
struct Case {
    operands: Vec<Operand>,
    /// What its parameters hold before it runs; of those that it takes from elsewhere, nothing.
    buffers: Vec<Vec<u8>>,
    /// What the interpreter of graphs makes of its body.
    expected: Vec<Value>,
}

impl Case {
    fn new(entry: &TableKernel, trial: Trial) -> Case {
        let Trial { tokens, seed, .. } = trial;
        let (body, kernel) = (&entry.spec.body, &entry.kernel);
        let mut rng = Rng::new(seed);
        let params = body.params().expect("a verified body");
        let operands: Vec<Operand> =
            params.iter().enumerate().map(|(n, ty)| operand(body, n, ty, trial, &mut rng)).collect();
        let expected = run_body(body, operands.iter().map(|o| o.value.clone()).collect(), tokens)
            .unwrap_or_else(|e| panic!("{}: {e}", kernel.name));
        let buffer = |(i, decl): (usize, &BufDecl)| {
            // What kernels find zero, results, and workspaces.
            let fill = if entry.zeroed(i) { [0; 4] } else { POISON.to_le_bytes() };
            let fill = || fill.into_iter().cycle().take(decl.bytes as usize).collect();
            let bytes: Vec<u8> = operands.get(i).map_or_else(fill, |o| o.bytes.clone());
            assert!(bytes.is_empty() || bytes.len() as u64 == decl.bytes, "{} {}", kernel.name, decl.name);
            bytes
        };
        let buffers = kernel.param_buffers().enumerate().map(buffer).collect();
        Case { operands, buffers, expected }
    }

    /// What the kernel has left in its buffers against what was expected. Elements that are not finite in the interpreter
    /// have to be so here.
    fn compare(&self, entry: &TableKernel, after: &[Vec<u8>]) -> Result<Vec<Difference>, String> {
        let (body, kernel) = (&entry.spec.body, &entry.kernel);
        let counters = after.iter().enumerate().filter(|(i, _)| entry.zeroed(*i));
        if counters.flat_map(|(_, bytes)| bytes).any(|&b| b != 0) {
            return Err(format!("{}: a counter is left changed", kernel.name));
        }
        let mut next = self.operands.len();
        let mut differences = Vec::new();
        for ((_, output), expected) in body.outputs().iter().zip(&self.expected) {
            let producer = body.node(output.node);
            let ty = body.ty(*output);
            let update = producer.op.update().filter(|&(_, new)| new == output.result);
            let updated = update.map(|(old, _)| match body.node(producer.inputs[old].node).op {
                Op::Param(n) => n as usize,
                _ => unreachable!("states are params"),
            });
            let at = updated.unwrap_or(next);
            next += usize::from(updated.is_none());
            let bytes = &after[at];
            if let (Op::Repack { layout }, Elem::Ggml(format)) = (&producer.op, ty.elem) {
                let mut twin = vec![0; bytes.len()];
                repack::repack(*layout, format, &self.operands[0].bytes, ty.rows(), ty.columns(), &mut twin);
                if *bytes != twin {
                    return Err(format!("{}: the bytes are not those that the host gives", kernel.name));
                }
                continue;
            }
            let expected = expected.f32().expect("outputs are floats");
            let float = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            let actual: Vec<f32> = match updated {
                Some(_) if StateKind::of(ty) == Some(StateKind::Recurrent) => {
                    bytes.chunks_exact(4).map(float).collect()
                }
                Some(_) => decode_cache(ty, bytes),
                None => bytes
                    .chunks_exact(f32_row_bytes(columns(ty)))
                    .take(expected.len() / columns(ty))
                    .flat_map(|row| row[..columns(ty) * 4].chunks_exact(4))
                    .map(float)
                    .collect(),
            };
            assert_eq!(actual.len(), expected.len(), "{}", kernel.name);
            for (part, tolerance) in parts(body, *output) {
                let rows = actual.chunks_exact(columns(ty)).zip(expected.chunks_exact(columns(ty)));
                let pairs = rows.flat_map(|(a, e)| a[part.clone()].iter().zip(&e[part.clone()]));
                let (mut error, mut largest) = (0f32, 0f32);
                for (&a, &e) in pairs {
                    // What is selected has to be the same infinity.
                    if a.is_finite() != e.is_finite() || (tolerance == 0.0 && !e.is_finite() && a != e) {
                        return Err(format!("{}: an output element is {a}, expected {e}", kernel.name));
                    }
                    if e.is_finite() {
                        (largest, error) = (largest.max(e.abs()), error.max((a - e).abs()));
                    }
                }
                differences.push(Difference { error, bound: tolerance * largest });
            }
        }
        Ok(differences)
    }
}
