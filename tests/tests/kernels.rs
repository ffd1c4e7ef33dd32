//! Every kernel of the model zoo against the interpreter on its body.

use codegen::passes::{self, PassContext};
use codegen::{KernelTable, TableKernel, back, lower};
use ir::graph::{Graph, Op};
use ir::kernel::{Access, Builder, Mem};
use ir::quant;
use ir::spec::{GpuSchedule, KernelSpec, Schedule};
use ir::target::Target;
use ir::tensor::{Elem, TensorType};
use runtime::conform;
use runtime::device::{Command, CpuDevice, Device, Launch, Region, download, upload};
use std::collections::HashSet;
use tests::card::on_test_card;
use tests::kernels::{self, Difference, Draw, Trial};
use tests::run;
use tests::synthetic::{Synthetic, zoo, zoo_for};

/// Compares one kernel with the interpreter, in full and in part.
fn check_kernel(name: &str, kernel: &TableKernel, context: usize, target: &Target) {
    let seed = u64::from_str_radix(&kernel.hash[..8], 16).unwrap();
    for (trial, workers) in conform::Trial::list(kernel.spec.tokens, context, seed).zip([1, 1, 3, 3]) {
        check_trial(name, kernel, target, Trial::of(trial, workers));
    }
}

fn check_trial(name: &str, kernel: &TableKernel, target: &Target, trial: Trial) {
    check_differences(name, kernel, target, trial, &kernels::run(kernel, target, trial));
}

fn check_differences(name: &str, kernel: &TableKernel, target: &Target, trial: Trial, differences: &[Difference]) {
    let what = || format!("{name} {} {} {trial:?}, {}", target.name, kernel.kernel.name, kernel.schedule);
    // Of repacked weights the bytes were compared.
    match kernel.spec.body.nodes().iter().any(|n| matches!(n.op, Op::Repack { .. })) {
        true => assert!(differences.is_empty(), "{}", what()),
        false => kernels::assert_within(differences, what),
    }
}

/// Kernels by what makes them equal, so that each is run once: two with the same spec and schedule would get the same operands.
type Seen = HashSet<String>;

/// What is equal if kernels are: for CPUs spec and schedule; for GPUs the code, which several targets share.
fn identity(kernel: &TableKernel, target: &Target) -> String {
    if target.gpu().is_none() {
        return kernel.hash.clone();
    }
    let code = back::for_target(target).and_then(|b| b.emit(&kernel.kernel, target, false)).unwrap().code;
    let code = String::from_utf8(code).unwrap().replace(&kernel.kernel.name, "");
    format!("{:?} {code}", kernel.kernel.grid)
}

/// The kernels of a model that are not among those seen.
fn new_kernels(shape: &Synthetic, target: &Target, seen: &mut Seen) -> Vec<TableKernel> {
    let model = shape.model();
    // On GPUs places for tokens come in eights.
    let capacities: &[usize] = if target.gpu().is_some() { &[1, 8, 16] } else { &[1, 2, 4, 8, 16, 40] };
    let tables = [quant::F16, quant::Q8_0].map(|kv| kernels::table(&model, target, capacities, kv).kernels);
    tables.into_iter().flatten().filter(|k| seen.insert(identity(k, target))).collect()
}

/// Compares all kernels of a model for a target.
fn check(name: &str, shape: &Synthetic, target: &Target, seen: &mut Seen) {
    new_kernels(shape, target, seen).iter().for_each(|kernel| check_kernel(name, kernel, shape.context, target));
}

/// The whole zoo for one target, if this machine runs it; GPUs are emulated, with the card of tests. What `others` have too
/// is left to them.
fn check_target(name: &str, others: &[&str]) {
    let by_name = |name: &str| on_test_card(Target::by_name(name).unwrap());
    let target = &by_name(name);
    if !run::runs(target) {
        return;
    }
    let mut seen = Seen::new();
    for (_, shape) in zoo_for(target) {
        others.iter().for_each(|other| drop(new_kernels(&shape, &by_name(other), &mut seen)));
    }
    for (name, shape) in zoo_for(target) {
        check(&name, &shape, target, &mut seen);
    }
}

#[test]
fn x86_64() {
    check_target("x86-64", &[]);
}

#[test]
fn x86_64_v3() {
    check_target("x86-64-v3", &[]);
}

#[test]
fn x86_64_v4_vnni() {
    check_target("x86-64-v4-vnni", &[]);
}

#[test]
fn sm_80() {
    check_target("sm_80", &[]);
}

#[test]
fn sm_89() {
    check_target("sm_89", &["sm_80"]);
}

#[test]
fn sm_90() {
    check_target("sm_90", &[]);
}

#[test]
fn sm_120() {
    check_target("sm_120", &["sm_90"]);
}

/// The interpreter of kernels, on any machine: generated code, microkernels by their references, and a GPU's rings.
#[test]
fn interpreted() {
    for name in ["x86-64", "x86-64-v3", "sm_120"] {
        let target = &on_test_card(Target::by_name(name).unwrap());
        let mut seen = Seen::new();
        for (name, shape) in zoo_for(target) {
            let kernels = kernels::table(&shape.model(), target, &[1, 4], quant::Q8_0).kernels;
            for kernel in kernels.into_iter().filter(|k| seen.insert(k.hash.clone())) {
                let tokens = kernel.spec.tokens.min(3);
                for (seed, draw) in (3..).zip([Draw::Usual, Draw::Edges, Draw::NotFinite]) {
                    let trial = Trial { position: shape.context - tokens, tokens, workers: 2, seed, draw };
                    let found = kernels::interpret(&kernel, trial);
                    let differences = found.unwrap_or_else(|e| panic!("{name}: {e}, {draw:?}"));
                    check_differences(&name, &kernel, target, trial, &differences);
                }
            }
        }
    }
}

/// Small grids and rings of every depth: streams of many chunks, which go through their ring several times, and units that
/// several streams share.
#[test]
fn schedules_of_gpus() {
    let target = Target::by_name("sm_90").unwrap();
    let grids = [(1, 1, 1, 1), (1, 2, 2, 4), (2, 2, 1, 2), (3, 1, 1, 2), (2, 3, 2, 1), (1, 8, 8, 0), (5, 2, 2, 0)];
    let mut seen = Seen::new();
    for (number, (name, shape)) in zoo_for(target).into_iter().enumerate() {
        for k in kernels::table(&shape.model(), target, &[1, 3], quant::F16).kernels {
            // A grid of each kind for some kernels, another for others.
            let (ctas, warps, streams, depth) = grids[(number + k.spec.kind.len()) % grids.len()];
            let multiplies = k.spec.body.nodes().iter().any(|n| n.op == Op::MatMul);
            let (warps, streams) = if multiplies { (warps, streams) } else { (8, 8) };
            let schedule = Schedule::Gpu(GpuSchedule { ctas, warps, streams, chunk: 64, depth });
            let made = kernels_gen::generate(&k.spec, &schedule, target).unwrap_or_else(|e| panic!("{name}: {e}"));
            let kernel = TableKernel::new(k.spec, (schedule, made), 0).unwrap();
            if !seen.insert(kernel.hash.clone()) {
                continue;
            }
            for workers in 0..4 {
                let (tokens, seed) = (kernel.spec.tokens, 7 * workers as u64 + number as u64);
                let position = shape.context - tokens;
                check_trial(&name, &kernel, target, Trial { position, tokens, workers, seed, draw: Draw::Usual });
            }
        }
    }
}

/// Rows of several segments, on grids of all of them and of fewer CTAs, and counts that are no power of two.
#[test]
fn the_largest_of_long_rows() {
    let target = Target::by_name("sm_120").unwrap();
    let cases = [(300, 256, 1), (2049, 1, 2), (5000, 256, 3), (5000, 40, 2), (4096, 100, 170), (32003, 256, 5)];
    for (columns, k, ctas) in cases {
        let mut body = Graph::new();
        let x = body.leaf(Op::Param(0), TensorType::new(Elem::F32, [1, columns])).unwrap();
        let top = body.add(Op::TopK { k }, &[x]).unwrap();
        body.output("out", top).unwrap();
        let spec = KernelSpec::new("top_k", body, 1, target);
        let schedule = Schedule::Gpu(GpuSchedule { ctas, warps: 8, streams: 8, chunk: 256, depth: 0 });
        let made = kernels_gen::generate(&spec, &schedule, target).unwrap();
        let kernel = TableKernel::new(spec, (schedule, made), 0).unwrap();
        for workers in 0..5 {
            let seed = (columns + workers) as u64;
            check_trial("top", &kernel, target, Trial { position: 0, tokens: 1, workers, seed, draw: Draw::Usual });
        }
    }
}

/// Every index once, whoever takes it: with ranges of none, of one and of many indices, and bodies of unequal length.
#[test]
fn parallel_loops_take_each_index_once() {
    const MOST: usize = 1000;
    let target = Target::by_name("x86-64").unwrap();
    let mut b = Builder::new("counts");
    let counts = b.param("counts", Mem::I32, MOST as u64 * 4, Access::Write);
    let (count, position) = (b.tokens(), b.position());
    b.parallel(count, |b, i| {
        let old = b.load(counts, i, Mem::I32);
        let (zero, one) = (b.int(0), b.int(1));
        let sum = b.var(old);
        // As many turns as the index, up to the position.
        let turns = b.umin(i, position);
        b.for_(zero, turns, 1, |b, turn| {
            let v = b.get(sum);
            let v = b.iadd(v, turn);
            b.set(sum, v);
        });
        b.for_(zero, turns, 1, |b, turn| {
            let v = b.get(sum);
            let v = b.isub(v, turn);
            b.set(sum, v);
        });
        let v = b.get(sum);
        let v = b.iadd(v, one);
        b.store(counts, i, Mem::I32, v);
    });
    let kernel = b.finish().verify().unwrap();
    for workers in [1, 2, 3, 8] {
        let mut device = CpuDevice::new(target, workers).unwrap();
        let loaded = kernels::load(&mut device, &kernel, target, Clone::clone).unwrap();
        for (tokens, replays) in [(1, 20), (7, 200), (MOST - 3, 300)] {
            let memory = device.alloc(MOST as u64 * 4, "counts").unwrap();
            let region = Region { memory, offset: 0, bytes: MOST as u64 * 4 };
            upload(&mut device, region, &[0; MOST * 4]).unwrap();
            let words = Region { memory: device.alloc(64, "control words").unwrap(), offset: 0, bytes: 8 };
            let launch = Launch { kernel: loaded, buffers: vec![Some(region)], early: false };
            let recording = device.record(&[Command::Launch(launch)], words).unwrap();
            for replay in 0..replays {
                let control = [replay * 10, tokens as u32].map(u32::to_le_bytes);
                upload(&mut device, words, control.as_flattened()).unwrap();
                device.replay(recording).unwrap();
                device.sync().unwrap();
            }
            let mut bytes = vec![0xff; MOST * 4];
            download(&mut device, region, &mut bytes).unwrap();
            for (i, count) in bytes.as_chunks().0.iter().enumerate() {
                let expected = if i < tokens { replays } else { 0 };
                assert_eq!(u32::from_le_bytes(*count), expected, "index {i} of {tokens}, {workers} workers");
            }
        }
    }
}

/// Real cards of every target, with the fewest and the most multiprocessors: work is split another way on each.
#[test]
fn real_cards() {
    let cards =
        [("sm_80", "a100"), ("sm_89", "rtx4080"), ("sm_90", "h100"), ("sm_120", "rtx5070ti"), ("sm_120", "rtxpro6000")];
    for (target, card) in cards {
        let target = Target::by_name(target).and_then(|t| t.with_card(card)).unwrap();
        let mut seen = Seen::new();
        for (name, shape) in &zoo()[..3] {
            check(name, shape, &target, &mut seen);
        }
    }
}

/// Generated code decodes every format from tiles of rows too, whether or not a microkernel would read them.
#[test]
fn tiles_without_microkernels() {
    let target = Target::by_name("x86-64").unwrap();
    for (name, shape) in zoo() {
        let format = shape.format;
        if !name.starts_with("llama-all-") || format.unpack.is_none() {
            continue;
        }
        let fused = passes::run(shape.model().graph(2, quant::F16, true), &PassContext { target }, |_, _| {}).unwrap();
        let text = fused.to_string();
        let start = format!("{format}[");
        let mut parts = text.split(&start);
        let mut tiled = parts.next().unwrap().to_owned();
        for part in parts {
            tiled += &start;
            tiled += &part.replacen(']', "]@rows16", 1);
        }
        let tiled = tiled.parse::<Graph>().and_then(Graph::verify).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut table = KernelTable::default();
        lower(&tiled, 2, target, &mut table).unwrap();
        table.kernels.iter().for_each(|kernel| check_kernel(&name, kernel, shape.context, target));
    }
}
