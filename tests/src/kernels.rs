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
use ir::kernel::Kernel;
use ir::quant::Format;
use ir::target::Target;
use ir::tensor::{Elem, TensorType, kv_bytes, kv_rows};
use ir::work::Work;
use runtime::device::{CpuDevice, Device, EmuDevice, Launch, Region};
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

fn random(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.uniform() * 2.0).collect()
}

/// Random logits, of which many are equal, some impossible, and in some rows a few infinite.
fn logits(rng: &mut Rng, n: usize) -> Vec<f32> {
    let infinite = rng.below(4) == 0;
    let one = |rng: &mut Rng| match rng.below(64) {
        0..8 => f32::NAN,
        8..16 => f32::NEG_INFINITY,
        16..32 => (rng.uniform() * 8.0).round(),
        32 if infinite => f32::INFINITY,
        _ => rng.uniform() * 10.0,
    };
    (0..n).map(|_| one(rng)).collect()
}

/// A KV cache of random values that its format holds exactly.
fn cache(ty: &TensorType, rng: &mut Rng) -> Operand {
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
        let codes: Vec<i8> = (0..padded).map(|i| if i < head { rng.next() as i8 } else { 0 }).collect();
        let scales: Vec<f16> = (0..padded / Q8_BLOCK).map(|_| f16::from_f32(0.01 + 0.005 * rng.uniform())).collect();
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

fn operand(body: &Graph, n: usize, ty: &TensorType, position: usize, tokens: usize, rng: &mut Rng) -> Operand {
    let (op, at) = role(body, n);
    match (op, at) {
        (Op::KvAppend | Op::RopeAngles { .. }, _) | (Op::Attention { .. }, _) if ty.elem == Elem::I32 => {
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
        (Op::KvAppend, 0) | (Op::Attention { .. }, 1 | 2) => cache(ty, rng),
        (Op::Repack { .. }, _) => {
            let Elem::Ggml(format) = ty.elem else { unreachable!("weights are of a GGML format") };
            Operand { value: Vec::<f32>::new().into(), bytes: blocks(format, ty.elements(), 1.0, rng) }
        }
        (Op::MatMul | Op::Embed, 0) => {
            let Elem::Ggml(format) = ty.elem else { unreachable!("weights are of a GGML format") };
            let rows = blocks(format, ty.elements(), 1.0 / (ty.columns() as f32).sqrt(), rng);
            let mut values = vec![0.0; ty.elements()];
            format.decode_into(&rows, &mut values);
            let mut bytes = vec![0; repack::bytes(ty.layout, format, ty.rows(), ty.columns())];
            repack::repack(ty.layout, format, &rows, ty.rows(), ty.columns(), &mut bytes);
            Operand { value: values.into(), bytes }
        }
        (Op::TopK { .. }, _) => {
            let values = logits(rng, tokens * columns(ty));
            Operand { bytes: padded(&values, ty.shape[0], columns(ty)), value: values.into() }
        }
        _ if ty.shape.len() == 1 => {
            let values: Vec<f32> = random(rng, ty.elements()).iter().map(|v| 1.5 + v * 0.5).collect();
            Operand { bytes: floats(&values), value: values.into() }
        }
        _ => {
            let values = random(rng, tokens * columns(ty));
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
    if let Op::TopK { k } = body.node(output.node).op {
        return vec![(0..2 * k, 0.0), (2 * k..2 * k + 1, 1e-5)];
    }
    let requantises = body
        .nodes()
        .iter()
        .any(|n| n.op == Op::Quantize && !matches!(body.node(n.inputs[0].node).op, Op::Param(_) | Op::LastToken));
    let int8_cache = kv_bytes(ty).is_some() && ty.elem != Elem::F16 && ty.elem != Elem::F32;
    let tolerance = match (requantises, int8_cache, ty.elem == Elem::F16) {
        // A code, and a step of the block's f16 scale.
        (_, true, _) => 1.0 / 127.0 + 1.0 / 1024.0,
        (true, ..) => 5e-3,
        (false, false, true) => 1e-3,
        (false, false, false) => 2e-5,
    };
    vec![(0..columns(ty), tolerance)]
}

/// The kernels of a model for a target: entry points of these capacities, as far as context and target have them.
///
/// # Panics
/// If one cannot be compiled.
pub fn table(model: &Model, target: &Target, capacities: &[usize], kv: Format) -> KernelTable {
    let mut table = KernelTable::default();
    let most = if target.gpu().is_some() { 1 } else { model.config.context };
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
        offset,
        bytes: code.len() as u64 - offset,
        tokens: 1,
        tickets: kernel.tickets,
        scratch_bytes: kernel.scratch_bytes,
        params: kernel.param_buffers().map(Param::of).collect(),
        grid: kernel.grid,
        work: Work::default(),
    };
    Ok(device.load_module(&code, &[entry])?[0])
}

/// Runs a kernel with random operands and compares it with the interpreter.
///
/// # Panics
/// If it cannot be built or run, or leaves part of an output unwritten.
pub fn run(entry: &TableKernel, target: &Target, trial: Trial) -> Vec<Difference> {
    attempt(entry, target, trial, Clone::clone).unwrap_or_else(|e| panic!("{e}"))
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
    let Trial { position, tokens, workers, seed } = trial;
    let (body, kernel) = (&entry.spec.body, &entry.kernel);
    let mut rng = Rng::new(seed);
    let params = body.params().expect("a verified body");
    let operands: Vec<Operand> =
        params.iter().enumerate().map(|(n, ty)| operand(body, n, ty, position, tokens, &mut rng)).collect();
    let expected = run_body(body, operands.iter().map(|o| o.value.clone()).collect(), tokens)
        .unwrap_or_else(|e| panic!("{}: {e}", kernel.name));

    let device: runtime::Result<Box<dyn Device>> = match target.gpu() {
        None => CpuDevice::new(target, workers).map(|d| Box::new(d) as _),
        Some(_) => EmuDevice::new(target, workers as u64).map(|d| Box::new(d) as _),
    };
    let mut device = device.unwrap_or_else(|e| panic!("{e}"));
    let loaded = load(&mut *device, kernel, target, edit).map_err(|e| e.to_string())?;
    let mut regions = Vec::new();
    for (i, decl) in kernel.param_buffers().enumerate() {
        let given = operands.get(i).map(|o| o.bytes.as_slice());
        if given.is_some_and(<[u8]>::is_empty) {
            regions.push(None);
            continue;
        }
        let memory = device.alloc(decl.bytes, &decl.name).unwrap_or_else(|e| panic!("{e}"));
        let region = Region { memory, offset: 0, bytes: decl.bytes };
        // What kernels find zero, results, and workspaces.
        let zeroed = entry.zeroed(i);
        let fill = if zeroed { [0; 4] } else { POISON.to_le_bytes() };
        let fill = fill.repeat(decl.bytes.div_ceil(4) as usize);
        let bytes = given.unwrap_or(&fill[..decl.bytes as usize]);
        assert_eq!(bytes.len() as u64, decl.bytes, "{} {}", kernel.name, decl.name);
        device.upload(region, bytes).unwrap_or_else(|e| panic!("{e}"));
        regions.push(Some(region));
    }
    let launch = Launch { kernel: loaded, buffers: regions.clone() };
    // On a GPU twice, so that the launches overlap, and the second finds what the first leaves.
    let launches = if target.gpu().is_some() { vec![launch.clone(), launch] } else { vec![launch] };
    let recording = device.record(&launches).unwrap_or_else(|e| panic!("{e}"));
    device
        .replay(recording, Control { position: position as u32, tokens: tokens as u32 })
        .and_then(|()| device.sync())
        .map_err(|e| e.to_string())?;
    for (i, region) in regions.iter().enumerate() {
        let Some(region) = region.filter(|_| entry.zeroed(i)) else { continue };
        let mut bytes = vec![1; region.bytes as usize];
        device.download(region, &mut bytes).map_err(|e| e.to_string())?;
        if bytes.iter().any(|&b| b != 0) {
            return Err(format!("{}: a counter is left changed", kernel.name));
        }
    }

    let mut next = params.len();
    let mut differences = Vec::new();
    for ((_, output), expected) in body.outputs().iter().zip(&expected) {
        let producer = body.node(output.node);
        let ty = body.ty(*output);
        let appended = (producer.op == Op::KvAppend).then(|| match body.node(producer.inputs[0].node).op {
            Op::Param(n) => n as usize,
            _ => unreachable!("states are params"),
        });
        let at = appended.unwrap_or(next);
        next += usize::from(appended.is_none());
        let region = regions[at].expect("outputs have memory");
        let mut bytes = vec![0; region.bytes as usize];
        device.download(region, &mut bytes).map_err(|e| e.to_string())?;
        if let (Op::Repack { layout }, Elem::Ggml(format)) = (&producer.op, ty.elem) {
            let mut twin = vec![0; bytes.len()];
            repack::repack(*layout, format, &operands[0].bytes, ty.rows(), ty.columns(), &mut twin);
            if bytes != twin {
                return Err(format!("{}: the bytes are not those that the host gives", kernel.name));
            }
            continue;
        }
        let expected = expected.f32().expect("outputs are floats");
        let actual: Vec<f32> = match appended {
            Some(_) => decode_cache(ty, &bytes),
            None => bytes
                .chunks_exact(f32_row_bytes(columns(ty)))
                .take(expected.len() / columns(ty))
                .flat_map(|row| row[..columns(ty) * 4].chunks_exact(4))
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
        };
        assert_eq!(actual.len(), expected.len(), "{}", kernel.name);
        for (part, tolerance) in parts(body, *output) {
            let rows = actual.chunks_exact(columns(ty)).zip(expected.chunks_exact(columns(ty)));
            let pairs = rows.flat_map(|(a, e)| a[part.clone()].iter().zip(&e[part.clone()]));
            let (mut error, mut largest) = (0f32, 0f32);
            for (&a, &e) in pairs.filter(|(a, e)| a != e || e.is_finite()) {
                if !a.is_finite() {
                    return Err(format!("{}: an output element is {a}, expected {e}", kernel.name));
                }
                (largest, error) = (largest.max(e.abs()), error.max((a - e).abs()));
            }
            differences.push(Difference { error, bound: tolerance * largest });
        }
    }
    Ok(differences)
}
