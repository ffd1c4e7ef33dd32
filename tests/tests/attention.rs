//! Attention by itself, in both layouts of a KV cache, against the interpreter; and that a token's bits do not depend on the
//! tokens beside it.

use codegen::{TableKernel, schedule};
use ir::abi::{Control, f32_row_bytes};
use ir::quant;
use ir::spec::KernelSpec;
use ir::target::Target;
use tests::attention::{Row, rows};
use tests::card::on_test_card;
use tests::kernels::{self, Draw, Trial};
use tests::run;
use tests::synthetic::Rng;

fn check(row: Row, kernel: &TableKernel, target: &Target, trial: Trial) {
    kernels::assert_within(&kernels::run(kernel, target, trial), || {
        format!("{row:?} {} {trial:?} {}\n{}", target.name, kernel.schedule, kernel.spec.body)
    });
}

/// Every row on a target that this machine runs.
fn check_target(name: &str) {
    let target = &on_test_card(Target::by_name(name).unwrap());
    let gpu = target.gpu().is_some();
    if !run::runs(target) {
        return;
    }
    let capacities: &[usize] = if gpu { &[1, 3] } else { &[1, 5, 16, 40] };
    for row in rows() {
        for &capacity in capacities.iter().filter(|&&c| c <= row.context) {
            for kernel in row.kernels(capacity, target) {
                let seed = u64::from_str_radix(&kernel.hash[..8], 16).unwrap();
                for (n, tokens) in [capacity, capacity.div_ceil(2)].into_iter().enumerate() {
                    for (i, position) in row.positions(tokens, seed + n as u64).into_iter().enumerate() {
                        let draw = [Draw::Usual, Draw::Edges, Draw::NotFinite][(n + i) % 3];
                        let (workers, seed) = (1 + (n + i) % 3, seed + (10 * n + i) as u64);
                        check(row, &kernel, target, Trial { position, tokens, workers, seed, draw });
                    }
                }
            }
        }
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

/// The interpreter of kernels, which knows where a buffer ends.
#[test]
fn interpreted() {
    for name in ["x86-64", "x86-64-v3", "sm_120"] {
        let target = &on_test_card(Target::by_name(name).unwrap());
        for row in rows().filter(|row| row.head <= 100 && row.context <= 300) {
            let capacity = if target.gpu().is_some() { 1 } else { 3.min(row.context) };
            for kernel in row.kernels(capacity, target) {
                for (seed, position) in (0..).zip(row.positions(capacity, 3)) {
                    let trial = Trial { position, tokens: capacity, workers: 2, seed, draw: Draw::Edges };
                    let found = kernels::interpret(&kernel, trial).unwrap_or_else(|e| panic!("{row:?}: {e}"));
                    kernels::assert_within(&found, || format!("{row:?} {name} {trial:?}"));
                }
            }
        }
    }
}

/// The rows that a step gives, each as bits, given the queries of all tokens from `first` on.
fn results(
    row: Row,
    spec: KernelSpec,
    target: &Target,
    operands: &Operands,
    first: usize,
    tokens: usize,
) -> Vec<Vec<u8>> {
    let capacity = spec.tokens;
    let made = schedule::choose(&spec, target, &[]).unwrap();
    let kernel = TableKernel::new(spec, made, 0).unwrap();
    let row_bytes = f32_row_bytes(row.heads * row.head);
    let mut queries = operands.queries[first * row_bytes..(first + tokens) * row_bytes].to_vec();
    queries.resize(capacity * row_bytes, 0xff);
    let mut params = vec![queries];
    for decl in kernel.kernel.param_buffers().skip(1) {
        let bytes = decl.bytes as usize;
        params.push(match params.len() {
            1 | 2 => operands.cache[..bytes].to_vec(),
            3 => Vec::new(),
            4 if row.sinks => operands.sinks[..bytes].to_vec(),
            _ => vec![0xff; bytes],
        });
    }
    let control = Control { position: (operands.position + first) as u32, tokens: tokens as u32 };
    let device = kernels::device(target, 2, 0);
    let after = kernels::launch(&kernel.kernel, target, device, 1, &params, control, Clone::clone).unwrap();
    let out = &after[if row.sinks { 5 } else { 4 }];
    let out_bytes = f32_row_bytes(row.heads * row.value);
    out.chunks_exact(out_bytes).take(tokens).map(|y| y[..row.heads * row.value * 4].to_vec()).collect()
}

/// What steps of any size are given.
struct Operands {
    position: usize,
    queries: Vec<u8>,
    cache: Vec<u8>,
    sinks: Vec<u8>,
}

#[test]
fn a_token_does_not_depend_on_those_beside_it() {
    const TOKENS: usize = 16;
    for name in ["x86-64", "x86-64-v3", "x86-64-v4-vnni"] {
        let target = Target::by_name(name).unwrap();
        if !run::runs(target) {
            continue;
        }
        for (number, row) in rows().enumerate().filter(|(_, row)| row.context > 2 * TOKENS) {
            let mut rng = Rng::new(number as u64);
            let position = row.context - TOKENS - rng.below(row.context / 4);
            let mut floats = |n: usize| (0..n).flat_map(|_| (2.0 * rng.uniform()).to_le_bytes()).collect::<Vec<u8>>();
            let queries = floats(TOKENS * f32_row_bytes(row.heads * row.head) / 4);
            let sinks = floats(row.heads);
            let elements = 4 * row.kv_heads * row.context.next_multiple_of(64) * row.head.max(row.value);
            let half = |_| half::f16::from_f32(2.0 * rng.uniform()).to_le_bytes();
            let cache: Vec<u8> = (0..elements).flat_map(half).collect();
            let operands = Operands { position, queries, cache, sinks };
            let tiled = row.tiles(quant::F16, target);
            for ring in [None].into_iter().chain(row.ring(40).map(Some)) {
                let step = |capacity: usize, first: usize, tokens: usize| {
                    let spec = row.spec(capacity, quant::F16, (tiled, ring), target);
                    results(row, spec, target, &operands, first, tokens)
                };
                let whole = step(TOKENS, 0, TOKENS);
                let parts = [step(TOKENS, 0, 5), step(4, 5, 3), step(8, 8, 8)].concat();
                assert!(whole == parts, "{name} {row:?} {ring:?}: steps of 5, 3 and 8 tokens");
                let single: Vec<Vec<u8>> = (0..TOKENS).flat_map(|t| step(1, t, 1)).collect();
                assert!(whole == single, "{name} {row:?} {ring:?}: steps of one token");
                // Entry points for prompts take the ranges of the cache one after the other.
                if row.context >= 40 {
                    assert!(whole == step(40, 0, TOKENS), "{name} {row:?} {ring:?}: a prompt");
                }
            }
        }
    }
}
