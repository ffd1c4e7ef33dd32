//! Small kernels of a body, and the fault that each has to have under every schedule.

#[path = "../kernel/mod.rs"]
mod kernel;

use emu::{Counters, Error, Fault, FaultKind, Launch, Memory, Module, Options, Schedule};
pub use kernel::text;

/// Schedules of each kernel.
pub const SEEDS: u64 = 6;

pub fn run(ptx: &str, grid: u32, seed: u64) -> Result<Counters, Error> {
    let module = Module::parse(ptx).unwrap_or_else(|e| panic!("{e}\n{ptx}"));
    let mut memory = Memory::new(1 << 20);
    let loaded = module.load(&mut memory).unwrap();
    let p = memory.alloc_with((0..1024u32).map(|i| i as u8).collect(), 256).unwrap();
    let q = memory.alloc(1024, 256).unwrap();
    let c = memory.alloc_with(vec![7; 1024], 256).unwrap();
    memory.protect(c).unwrap();
    let params = [p, q, c].iter().flat_map(|a| a.to_le_bytes()).collect();
    let launch = Launch { entry: "k".into(), grid: [grid, 1, 1], block: [64, 1, 1], dynamic_shared: 0, params };
    let options = Options {
        schedule: Schedule { seed },
        resident_ctas: Some(1 + seed as usize % 3),
        max_steps: 100_000,
        ..Options::default()
    };
    loaded.run(&mut memory, &launch, &options)
}

/// Runs the body, whose faulty lines are marked with `//!`. On any of those lines the fault may be reported.
pub fn fault(body: &str, grid: u32, kind: FaultKind) -> Fault {
    let ptx = text(body);
    let lines: Vec<u32> =
        ptx.lines().zip(1..).filter(|(line, _)| line.contains("//!")).map(|(_, number)| number).collect();
    let mut last = None;
    for seed in 0..SEEDS {
        match run(&ptx, grid, seed) {
            Err(Error::Fault(f)) => {
                // A copy that comes second, after an unordered access of a thread, is the thread's race.
                let second = kind == FaultKind::AsyncCopy && f.kind == FaultKind::RaceShared;
                assert!(f.kind == kind || second, "seed {seed}: {f}, expected {kind:?}\n{body}");
                assert!(lines.contains(&f.line), "seed {seed}: {f}, not in lines {lines:?}\n{body}");
                assert_eq!(f.kernel, "k");
                last = Some(*f);
            }
            other => panic!("seed {seed}: {other:?}, expected {kind:?}\n{body}"),
        }
    }
    last.unwrap()
}

pub fn clean(body: &str, grid: u32) {
    for seed in 0..SEEDS {
        if let Err(e) = run(&text(body), grid, seed) {
            panic!("seed {seed}: {e}\n{body}");
        }
    }
}
