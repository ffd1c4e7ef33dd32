//! One-thread speed of the dots and attention atoms of the best instruction set here, by CPU time.
//!
//! `stream`: one token over more weights than any cache holds; `cached`: over weights that stay in L2; `tokens`: several
//! tokens, counting a multiply-add as one element, over weights that stay in L3.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ir::abi::{AccumulateFn, Atom, DotFn, KV_BLOCK, KvEncoding, Meaning, ScoresFn, TILE_ROWS};
use ir::abi::{f32_row_bytes, kv_f16_row_bytes, kv_q8_row_bytes, q8_row_bytes};
use ir::quant::{self, Format};
use ir::target::Isa;
use ir::tensor::Layout;
use microkernels::{Table, table};
use std::time::Duration;

/// CPU time of this thread, so that other processes on the machine count little.
fn cpu_time() -> Duration {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a timespec to write to.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut t) }, 0);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// The CPU time of `n` calls.
fn timed(n: u64, mut f: impl FnMut()) -> Duration {
    let start = cpu_time();
    for _ in 0..n {
        f();
    }
    cpu_time() - start
}

/// Columns of the weights.
const K: usize = 2048;
/// Bytes of weights that no cache holds.
const STREAM: usize = 128 << 20;
/// Elements of a head.
const HEAD: usize = 128;

/// Bytes that decode to finite numbers of ordinary size in every format: a repeated f16 and the upper half of an f32.
fn bytes(n: usize) -> Vec<u64> {
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    (0..n.div_ceil(8))
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x & 0x83ff_83ff_83ff_83ff | 0x2c00_2c00_2c00_2c00
        })
        .collect()
}

fn best() -> Option<(Isa, Table)> {
    [Isa::X86_64V4Vnni, Isa::X86_64V3].into_iter().find_map(|isa| Some((isa, table(isa)?)))
}

fn dots(c: &mut Criterion) {
    let Some((isa, table)) = best() else { return println!("skipped: no vector instructions here") };
    let weights = bytes(STREAM);
    for &atom in Atom::ALL {
        let Meaning::Dot(form) = atom.meaning() else { continue };
        let format = Format(quant::ALL.iter().find(|f| f.dot == form).expect("a format for each dot"));
        // SAFETY: the entry of a dot is of that type.
        let dot: DotFn = unsafe { std::mem::transmute(table[atom as usize]) };
        let row = if form.wants_int8() { q8_row_bytes(K) } else { f32_row_bytes(K) };
        let tile = format.bytes_of(K as u64) as usize * TILE_ROWS;
        let mut group = c.benchmark_group(format!("{}/{isa:?}", atom.name()));
        for (name, tokens, working_set) in [
            ("stream", 1, STREAM),
            ("cached", 1, 192 << 10),
            ("tokens 4", 4, 4 << 20),
            ("tokens 16", 16, 4 << 20),
            ("tokens 128", 128, 1 << 20),
        ] {
            let pieces = Layout::Rows16.pieces(format, K);
            let tiles = (working_set / tile).max(1).next_multiple_of(pieces.tiles);
            // In the order of memory: byte, first column and number of columns of each piece.
            let mut at = 0;
            let walk: Vec<(usize, usize, usize)> = (0..tiles * pieces.count)
                .map(|i| {
                    let first = i / pieces.tiles % pieces.count * pieces.columns;
                    let columns = pieces.columns.min(K - first);
                    let start = at;
                    at += format.bytes_of(columns as u64) as usize * TILE_ROWS;
                    (start, first, columns)
                })
                .collect();
            let activations = bytes(tokens * row);
            let mut out = vec![0.0f32; tokens * TILE_ROWS];
            group.throughput(match tokens {
                1 => Throughput::Bytes((tiles * tile) as u64),
                _ => Throughput::Elements((tiles * TILE_ROWS * K * tokens) as u64),
            });
            group.bench_function(name, |b| {
                b.iter_custom(|n| {
                    timed(n, || {
                        for (w, first, columns) in walk.iter().copied() {
                            // SAFETY: a piece of the weights, `tokens` rows of activations and outputs.
                            unsafe {
                                let w = weights.as_ptr().cast::<u8>().add(w);
                                let a = activations.as_ptr().cast::<u8>().add(form.activation_bytes(first));
                                dot(w, a, out.as_mut_ptr(), columns, tokens, row, TILE_ROWS, first);
                            }
                        }
                    })
                });
            });
        }
        group.finish();
    }
}

fn attention(c: &mut Criterion) {
    let Some((isa, table)) = best() else { return };
    let cache = bytes(STREAM);
    for &atom in Atom::ALL {
        let (Meaning::Scores(encoding) | Meaning::Accumulate(encoding)) = atom.meaning() else { continue };
        let q8 = encoding == KvEncoding::Codes;
        let block = KV_BLOCK * if q8 { kv_q8_row_bytes(HEAD) } else { kv_f16_row_bytes(HEAD) };
        let mut group = c.benchmark_group(format!("{}/{isa:?}", atom.name()));
        for (name, rows, working_set) in [
            ("stream, 1 row", 1, STREAM),
            ("stream, 8 rows", 8, STREAM),
            ("cached, 1 row", 1, 192 << 10),
            ("cached, 4 rows", 4, 192 << 10),
            ("cached, 8 rows", 8, 192 << 10),
        ] {
            let vectors = vec![0.5f32; rows * HEAD];
            let weights = vec![0.5f32; rows * KV_BLOCK];
            let mut out = vec![0.0f32; rows * HEAD.max(KV_BLOCK)];
            let blocks = working_set / block;
            group.throughput(Throughput::Bytes((blocks * block) as u64));
            group.bench_function(name, |b| {
                b.iter_custom(|n| {
                    timed(n, || {
                        for i in 0..blocks {
                            let kv = cache.as_ptr().cast::<u8>().wrapping_add(i * block);
                            let (out, address) = (out.as_mut_ptr(), table[atom as usize]);
                            // SAFETY: the entry is of the type of its meaning; a block of KV rows, `rows` rows of operands.
                            unsafe {
                                if matches!(atom.meaning(), Meaning::Scores(_)) {
                                    let scores: ScoresFn = std::mem::transmute(address);
                                    scores(vectors.as_ptr(), kv, out, HEAD, KV_BLOCK, rows);
                                } else {
                                    let accumulate: AccumulateFn = std::mem::transmute(address);
                                    accumulate(weights.as_ptr(), kv, out, HEAD, KV_BLOCK, rows);
                                }
                            }
                        }
                    })
                });
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(600));
    targets = dots, attention
}
criterion_main!(benches);
