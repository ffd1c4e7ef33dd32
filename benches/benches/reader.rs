//! Weights from a file that is not in the page cache, beside plain direct reads of the same file.
//!
//! `cargo bench --bench reader -- MODEL.gguf [ROUNDS]`; without arguments a model of 200 MB is made. In each round the file
//! is read past the page cache into one buffer a thread, in the ways below, and by the reader alone, and is loaded into host
//! memory with the repack, cold and then from the page cache. Beside that stands how fast such memory comes at all, which some
//! virtual machines have to fetch first. Rates are medians of the rounds.

use runtime::device::{self, Kind};
use runtime::measure::FileRate;
use runtime::sys::{Arena, cache};
use runtime::{Executor, ModelFile};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tests::run::{self, Settings};
use tests::synthetic::{Synthetic, format};

/// Threads and bytes of a read.
const PLAIN: [(usize, usize); 3] = [(1, 4 << 20), (8, 1 << 20), (8, 4 << 20)];

/// Bytes of a file, each read once by `threads` direct reads at a time.
fn plain(file: &File, bytes: u64, threads: usize, size: usize) -> Duration {
    let direct = cache::open_direct(file).expect("a file system with direct reads");
    let next = AtomicU64::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut buffer = Arena::new(size as u64, "a buffer").expect("memory");
                loop {
                    let at = next.fetch_add(size as u64, Ordering::Relaxed);
                    if at >= bytes {
                        break;
                    }
                    let read = direct.read_at(buffer.bytes_mut(), at).expect("a disk that reads");
                    assert_eq!(read as u64, (bytes - at).min(size as u64), "a read at once");
                }
            });
        }
    });
    start.elapsed()
}

/// The ways after the plain ones, in the order in which a round takes them.
const WAYS: [&str; 4] = ["the reader alone, cold", "memory for the weights", "load, cold", "load, from the page cache"];

/// How long as much new memory takes as the weights have.
fn new_memory(bytes: u64) -> Duration {
    let start = Instant::now();
    Arena::new(bytes, "memory").expect("memory").populate();
    start.elapsed()
}

/// Kilobytes of anonymous memory.
fn anonymous() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the system tells");
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).expect("a kernel that tells");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// What loading took: bytes from the file, time, and the most anonymous memory beyond the weights.
fn load(path: &Path, artifact: &ir::artifact::Artifact) -> (u64, Duration, u64) {
    let file = ModelFile::open(path).expect("a GGUF");
    let before = anonymous();
    let (mut total, mut most) = (0, 0);
    let start = Instant::now();
    let options = device::Options { device: Kind::Cpu, ..device::Options::default() };
    let mut tell = |done: u64, all: u64| {
        total = all;
        most = most.max((anonymous() - before).saturating_sub(done >> 10));
    };
    let executor = Executor::new(artifact.clone(), &file, &options, &mut tell).expect("a model that loads");
    let time = start.elapsed();
    drop(executor);
    (total, time, most)
}

/// A model of about 200 MB.
fn small(path: &Path) {
    let model = Synthetic {
        width: 2048,
        heads: 16,
        kv_heads: 4,
        head: 128,
        ffn: 5632,
        vocab: 32768,
        layers: 4,
        formats: vec![("output", format("q6_k")), ("ffn_down", format("q6_k"))],
        format: format("q4_k"),
        ..Synthetic::default()
    };
    std::fs::write(path, model.gguf()).expect("room for the model");
}

fn median(mut rates: Vec<f64>) -> String {
    rates.sort_by(f64::total_cmp);
    let (low, high) = (rates[0], rates[rates.len() - 1]);
    format!("{:7.0} MB/s ({low:.0} to {high:.0})", rates[rates.len() / 2])
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let dir = tempfile::tempdir_in(".").expect("a folder");
    let path = args.first().map_or_else(|| dir.path().join("model.gguf"), PathBuf::from);
    if args.is_empty() {
        small(&path);
    }
    let rounds = args.get(1).map_or(5, |n| n.parse().expect("a number of rounds"));
    let target = run::targets().pop().expect("a target that this CPU runs");
    let model = ModelFile::open(&path).expect("a GGUF");
    let artifact =
        run::compile(&model, Settings { context: Some(512), ..Settings::new(target) }).expect("a model that compiles");
    drop(model);

    let file = File::open(&path).expect("a file");
    file.sync_all().expect("a disk that writes");
    let bytes = file.metadata().expect("a file").len();
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); PLAIN.len() + WAYS.len()];
    let mut most = 0;
    for _ in 0..rounds {
        let mut ways = rates.iter_mut();
        let mut add = |bytes: u64, time: Duration| {
            ways.next().expect("a way").push(bytes as f64 / 1e6 / time.as_secs_f64());
        };
        for (threads, size) in PLAIN {
            cache::drop_cached(&file, 0, bytes as usize);
            add(bytes, plain(&file, bytes, threads, size));
        }
        cache::drop_cached(&file, 0, bytes as usize);
        let read = FileRate::measure(&path).expect("a file that is read");
        add(read.bytes, Duration::from_secs_f64(read.seconds));
        add(bytes, new_memory(bytes));
        cache::drop_cached(&file, 0, bytes as usize);
        let (total, time, peak) = load(&path, &artifact);
        add(total, time);
        most = most.max(peak);
        std::io::copy(&mut File::open(&path).expect("a file"), &mut std::io::sink()).expect("a disk that reads");
        let (total, time, _) = load(&path, &artifact);
        add(total, time);
    }
    println!("{}, {:.2} GB, {}, medians of {rounds} rounds", path.display(), bytes as f64 / 1e9, target.name);
    let mut rates = rates.into_iter();
    for ((threads, size), rates) in PLAIN.into_iter().zip(rates.by_ref()) {
        println!("direct, {threads} at once of {} MiB: {}", size >> 20, median(rates));
    }
    for (what, rates) in WAYS.into_iter().zip(rates) {
        println!("{what}: {}", median(rates));
    }
    println!("most memory beyond the weights, cold: {} MiB", most >> 10);
}
