//! How fast weights are interleaved at load, on one thread.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ir::abi::TILE_ROWS;
use ir::quant::{self, Format};
use ir::tensor::Layout::Rows16;
use runtime::repack;

/// Elements of a row.
const COLUMNS: usize = 8192;
/// Bytes of the matrix, about.
const BYTES: usize = 16 << 20;

fn repack(c: &mut Criterion) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    let mut group = c.benchmark_group("interleave");
    for format in quant::ALL.iter().map(|f| Format(f)) {
        let row = format.bytes_of(COLUMNS as u64) as usize;
        let rows = BYTES / row / TILE_ROWS * TILE_ROWS;
        let from: Vec<u8> = (0..rows * row).map(|i| ((i * 31) >> 3) as u8).collect();
        let mut to = vec![0; repack::bytes(Rows16, format, rows, COLUMNS)];
        group.throughput(Throughput::Bytes(from.len() as u64)).sample_size(10);
        group.bench_function(BenchmarkId::from_parameter(format), |b| {
            b.iter(|| pool.install(|| repack::repack(Rows16, format, &from, rows, COLUMNS, &mut to)))
        });
    }
    group.finish();
}

criterion_group!(benches, repack);
criterion_main!(benches);
