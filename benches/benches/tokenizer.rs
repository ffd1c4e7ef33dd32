//! Text to tokens and back, by the demo model's vocabulary and by the larger ones of the shared test data.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use runtime::ModelFile;
use runtime::tokenizer::Tokenizer;
use std::path::Path;
use std::time::Duration;

/// Prose with code and tables in it.
const TEXT: &str = include_str!("../../docs/architecture.md");
/// How often it comes in the text that is encoded.
const TIMES: usize = 8;

fn tokenizer(c: &mut Criterion) {
    let text = TEXT.repeat(TIMES);
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/bard-q4_k_m.gguf");
    let larger = tests::shared_dir("vocab").map(|dir| tests::gguf_files(&dir)).unwrap_or_default();
    let mut group = c.benchmark_group("tokenizer");
    group.throughput(Throughput::Bytes(text.len() as u64)).sample_size(10);
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    for path in [vec![demo], larger].concat() {
        let file = ModelFile::open(&path).expect("a GGUF");
        let tokenizer = Tokenizer::from_metadata(file.metadata()).expect("a vocabulary");
        let name = path.file_stem().expect("a name").to_string_lossy();
        let ids = tokenizer.encode(&text, false).expect("tokens");
        group.bench_function(BenchmarkId::new("encode", &name), |b| b.iter(|| tokenizer.encode(&text, false)));
        group.bench_function(BenchmarkId::new("decode", &name), |b| b.iter(|| tokenizer.decode(&ids)));
    }
    group.finish();
}

criterion_group!(benches, tokenizer);
criterion_main!(benches);
