//! From a file in the page cache to a model that can run: the header is read, weights are repacked.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use runtime::ModelFile;
use std::time::Duration;
use tests::run::{self, Settings};
use tests::synthetic::{Synthetic, format};

fn load(c: &mut Criterion) {
    let model = Synthetic {
        width: 2048,
        heads: 16,
        kv_heads: 4,
        head: 128,
        ffn: 5632,
        vocab: 8192,
        formats: vec![("output", format("q6_k")), ("ffn_down", format("q6_k"))],
        format: format("q4_k"),
        ..Synthetic::default()
    };
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("model.gguf");
    let bytes = model.gguf();
    std::fs::write(&path, &bytes).expect("room for the model");
    let open = || ModelFile::open(&path).expect("a GGUF");
    // The last is that of the widest vectors.
    let target = run::targets().pop().expect("a target that this CPU runs");
    let artifact = run::compile(&open(), Settings::new(target)).expect("a model that compiles");

    let mut group = c.benchmark_group("load");
    group.sample_size(10).warm_up_time(Duration::from_secs(1));
    group.bench_function("open", |b| b.iter(open));
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("open_and_repack", |b| {
        let loaded = |artifact| {
            let file = open();
            let executor = run::load(&file, artifact, 0).expect("a model that loads");
            (file, executor)
        };
        b.iter_batched(|| artifact.clone(), loaded, BatchSize::PerIteration)
    });
    group.finish();
}

criterion_group!(benches, load);
criterion_main!(benches);
