//! Every kernel of the model zoo against the interpreter on its body.

use codegen::passes::{self, PassContext};
use codegen::{KernelTable, lower};
use ir::graph::Graph;
use ir::quant;
use ir::target;
use tests::kernels;
use tests::synthetic::{Synthetic, zoo};

/// Compares one kernel with the interpreter, in full and in part.
fn check_kernel(name: &str, table: &KernelTable, index: usize, context: usize, target: &target::Target) {
    let kernel = &table.kernels[index];
    let capacity = kernel.spec.tokens;
    let mut seed = 100 * index as u64;
    for (tokens, workers) in [(capacity, 1), (capacity.div_ceil(2), 3)] {
        for position in [0, context - tokens] {
            seed += 1;
            for (i, d) in kernels::run(table, index, target, (position, tokens), workers, seed).iter().enumerate() {
                assert!(
                    d.error <= d.bound,
                    "{name} {} {} output {i}, {tokens} tokens at {position}, {workers} workers: off by {}, bound {}",
                    target.name,
                    kernel.kernel.name,
                    d.error,
                    d.bound,
                );
            }
        }
    }
}

/// Compares all kernels of a model for a target.
fn check(name: &str, shape: &Synthetic, target: &target::Target) {
    let model = shape.model();
    for kv in [quant::F16, quant::Q8_0] {
        let table = kernels::table(&model, target, &[1, 2, 4, 8, 16, 40], kv);
        for index in 0..table.kernels.len() {
            check_kernel(name, &table, index, shape.context, target);
        }
    }
}

/// The whole zoo for one target, if this machine runs it: GPUs are emulated.
fn check_target(name: &str) {
    let target = target::Target::by_name(name).unwrap();
    if target.gpu().is_none() && runtime::device::CpuDevice::new(target, 1).is_err() {
        eprintln!("skipped: this CPU does not run {name}");
        return;
    }
    for (name, shape) in zoo() {
        check(&name, &shape, target);
    }
}

#[test]
fn x86_64() {
    check_target("x86-64");
}

#[test]
fn x86_64_v3() {
    check_target("x86-64-v3");
}

#[test]
fn x86_64_v4_vnni() {
    check_target("x86-64-v4-vnni");
}

#[test]
fn sm_80() {
    check_target("sm_80");
}

#[test]
fn sm_120() {
    check_target("sm_120");
}

/// Generated code decodes every format from tiles of rows too, whether or not a microkernel would read them.
#[test]
fn tiles_without_microkernels() {
    let target = target::Target::by_name("x86-64").unwrap();
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
        for index in 0..table.kernels.len() {
            check_kernel(&name, &table, index, shape.context, target);
        }
    }
}
