//! What the worker pool costs: a job (one replay), and a launch inside of a replay, with nothing to do.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ir::artifact::KernelEntry;
use ir::plan::DeviceId;
use ir::target::Target;
use ir::work::Work;
use runtime::device::{Command, CpuDevice, Device, Launch, Pool, Region};
use std::hint::black_box;

/// Launches of one replay.
const LAUNCHES: u64 = 1000;

fn pool(c: &mut Criterion) {
    let workers = [1, 2, 4];
    let mut jobs = c.benchmark_group("empty_job");
    for n in workers {
        let mut pool = Pool::new(n).expect("a pool");
        jobs.bench_function(BenchmarkId::from_parameter(n), |b| b.iter(|| pool.run(&|w| _ = black_box(w))));
    }
    jobs.finish();

    let mut launches = c.benchmark_group("empty_launch");
    launches.throughput(Throughput::Elements(LAUNCHES)).sample_size(20);
    for n in workers {
        let mut device = CpuDevice::new(Target::by_name("x86-64").expect("a target"), n).expect("a device");
        let entry = KernelEntry {
            name: "ret".into(),
            hash: String::new(),
            text: String::new(),
            device: DeviceId(0),
            offset: 0,
            bytes: 1,
            tokens: 1,
            tickets: 1,
            scratch_bytes: 0,
            params: Vec::new(),
            grid: None,
            work: Work::default(),
        };
        let kernel = device.load(&[0xc3], &[&entry]).expect("a module").1[0];
        let launch = Command::Launch(Launch { kernel, buffers: Vec::new(), early: false });
        let control = Region { memory: device.alloc(64, "control words").expect("memory"), offset: 0, bytes: 64 };
        let recording = device.record(&vec![launch; LAUNCHES as usize], control).expect("a recording");
        launches.bench_function(BenchmarkId::from_parameter(n), |b| b.iter(|| device.replay(recording)));
    }
    launches.finish();
}

criterion_group!(benches, pool);
criterion_main!(benches);
