//! Choosing a token from a row of logits of a large vocabulary.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use runtime::sampler::{Sampler, SamplerConfig};
use std::time::Duration;
use tests::synthetic::Rng;

/// Tokens of the vocabulary.
const VOCAB: usize = 128_256;

fn sampler(c: &mut Criterion) {
    let mut rng = Rng::new(1);
    // About normal, of a standard deviation of 3.
    let logits: Vec<f32> = (0..VOCAB).map(|_| (0..9).map(|_| rng.uniform() * 3f32.sqrt()).sum()).collect();
    let default = SamplerConfig::default;
    let all = || SamplerConfig { top_k: 0, top_p: 1.0, min_p: 0.0, ..default() };
    let mut group = c.benchmark_group("sampler");
    group.throughput(Throughput::Elements(VOCAB as u64)).sample_size(20);
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    for (name, config) in [
        ("greedy", SamplerConfig { temperature: 0.0, ..default() }),
        ("top_k", SamplerConfig { top_k: 40, ..all() }),
        ("top_p", SamplerConfig { top_p: 0.95, ..all() }),
        ("temperature", SamplerConfig { temperature: 0.8, ..all() }),
        ("default", default()),
    ] {
        let mut sampler = Sampler::new(config, VOCAB).expect("a sampler");
        // Without a penalty nothing changes in the row.
        let mut row = logits.clone();
        group.bench_function(name, |b| b.iter(|| sampler.sample(&mut row)));
    }
    group.finish();
}

criterion_group!(benches, sampler);
criterion_main!(benches);
