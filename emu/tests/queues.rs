//! Queues of launches beside each other and beside the host: what orders their accesses, and that what does not is found.

use emu::{Error, Fault, FaultKind, HostError, Launch, Loaded, Machine, Memory, Module, Options, Queue, Schedule};
use std::time::Duration;

const SEEDS: u64 = 8;
const LONG: Duration = Duration::from_secs(60);

/// Kernels of one warp: `%rd1` is the thread's word of plain memory, `%rd2` that of host-shared memory, `%rd3` and `%rd4`
/// flags in host-shared memory; `%p1` holds in thread 0.
fn text(bodies: &[&str]) -> String {
    let kernel = |(i, body): (usize, &&str)| {
        format!(
            "\
.visible .entry k{i}(.param .u64 plain, .param .u64 data, .param .u64 flags)
{{
.reg .pred %p<4>; .reg .b32 %r<16>; .reg .b64 %rd<8>;
ld.param.u64 %rd1,[plain]; ld.param.u64 %rd2,[data]; ld.param.u64 %rd3,[flags]; add.s64 %rd4,%rd3,4;
mov.u32 %r1,%tid.x; mul.wide.u32 %rd5,%r1,4; add.s64 %rd1,%rd1,%rd5; add.s64 %rd2,%rd2,%rd5; setp.eq.u32 %p1,%r1,0;
{body}
ret;
}}
"
        )
    };
    let head = ".version 8.6\n.target sm_90\n.address_size 64\n";
    head.to_owned() + &bodies.iter().enumerate().map(kernel).collect::<String>()
}

struct Bench {
    machine: Machine,
    loaded: Loaded,
    plain: u64,
    data: u64,
    flags: u64,
}

impl Bench {
    fn new(bodies: &[&str], seed: u64) -> Bench {
        let text = text(bodies);
        let module = Module::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let options = Options { schedule: Schedule { seed }, ..Options::default() };
        let mut machine = Machine::new(Memory::new(1 << 20), options);
        let loaded = machine.load(&module).unwrap();
        let plain = machine.alloc(128, 256).unwrap();
        let data = machine.alloc_shared(128, 256).unwrap();
        let flags = machine.alloc_shared(8, 256).unwrap();
        machine.write(plain, &[0; 128]).unwrap();
        machine.write(data, &[0; 128]).unwrap();
        machine.write(flags, &[0; 8]).unwrap();
        Bench { machine, loaded, plain, data, flags }
    }

    fn launch(&mut self, queue: Queue, kernel: usize, overlaps: bool) {
        let params = [self.plain, self.data, self.flags].iter().flat_map(|a| a.to_le_bytes()).collect();
        let entry = format!("k{kernel}");
        let launch = Launch { entry, grid: [1; 3], block: [32, 1, 1], dynamic_shared: 0, params };
        self.machine.launch(queue, &self.loaded, &launch, overlaps).unwrap();
    }
}

const ACQUIRE: &str = "ld.acquire.sys.global.u32 %r5,[%rd3];";
const RELEASE: &str = "@%p1 st.release.sys.global.u32 [%rd4],1;";

/// A kernel that waits for the first flag, doubles the data, and sets the second flag.
fn double(acquire: &str, fence: &str, release: &str) -> String {
    format!(
        "\
@!%p1 bra GO;
W: {acquire}
setp.eq.u32 %p2,%r5,0;
@%p2 bra W;
{fence}
GO:
bar.warp.sync 0xffffffff;
ld.global.u32 %r6,[%rd2];
add.u32 %r6,%r6,%r6;
st.global.u32 [%rd2],%r6;
bar.warp.sync 0xffffffff;
{release}"
    )
}

/// The host hands data to a kernel that runs, and takes what it makes of them.
fn exchange(kernel: &str, seed: u64) -> Result<u32, HostError> {
    let mut bench = Bench::new(&[kernel], seed);
    let queue = bench.machine.queue();
    bench.launch(queue, 0, false);
    let (data, flags) = (bench.data, bench.flags);
    let host = |bench: &mut Bench| {
        let mut host = bench.machine.host();
        for i in 0..32 {
            host.store(data + 4 * i, 100 + i as u32)?;
        }
        host.store_release(flags, 1)?;
        bench.machine.wait_until(flags + 4, LONG, |v| v == 1)?;
        bench.machine.host().load(data + 4 * 31)
    };
    // A kernel that ends with a fault never sets its flag, one that races with the flag itself never ends.
    let taken = host(&mut bench);
    let synced = bench.machine.sync(queue);
    if !matches!(taken, Err(HostError::Fault(_))) {
        synced?;
    }
    taken
}

#[test]
fn the_host_and_a_kernel_that_runs_exchange_data_in_system_scope() {
    let acquires = [
        (ACQUIRE, ""),
        ("ld.relaxed.sys.global.u32 %r5,[%rd3];", "fence.acq_rel.sys;"),
        ("ld.volatile.global.u32 %r5,[%rd3];", "membar.sys;"),
        ("atom.acquire.sys.global.or.b32 %r5,[%rd3],0;", ""),
    ];
    let releases = [
        RELEASE,
        "fence.acq_rel.sys;\n@%p1 st.relaxed.sys.global.u32 [%rd4],1;",
        "membar.sys;\n@%p1 st.volatile.global.u32 [%rd4],1;",
        "@%p1 red.release.sys.global.add.u32 [%rd4],1;",
    ];
    for seed in 0..SEEDS {
        for ((acquire, fence), release) in acquires.into_iter().zip(releases) {
            let kernel = double(acquire, fence, release);
            assert_eq!(exchange(&kernel, seed), Ok(262), "seed {seed}\n{kernel}");
        }
    }
}

#[test]
fn a_kernel_that_does_not_acquire_from_the_host_races() {
    for (acquire, fence) in [
        (&*ACQUIRE.replace("sys", "gpu"), ""),
        ("ld.relaxed.gpu.global.u32 %r5,[%rd3];", "fence.acq_rel.sys;"),
        ("ld.relaxed.sys.global.u32 %r5,[%rd3];", ""),
        ("atom.acquire.gpu.global.or.b32 %r5,[%rd3],0;", ""),
        ("ld.global.u32 %r5,[%rd3];", "membar.sys;"),
    ] {
        let kernel = double(acquire, fence, RELEASE);
        for seed in 0..SEEDS {
            let Err(HostError::Fault(f)) = exchange(&kernel, seed) else { panic!("seed {seed}\n{kernel}") };
            assert_eq!(f.kind, FaultKind::RaceGlobal, "{f}");
            assert!(f.kernel == "the host" || f.detail.ends_with("of the host"), "{f}");
        }
    }
}

#[test]
fn a_host_that_nothing_was_released_to_races() {
    for release in [
        &*RELEASE.replace("sys", "gpu"),
        "@%p1 st.relaxed.sys.global.u32 [%rd4],1;",
        "fence.acq_rel.gpu;\n@%p1 st.relaxed.sys.global.u32 [%rd4],1;",
        "membar.gl;\n@%p1 st.volatile.global.u32 [%rd4],1;",
        "@%p1 red.release.gpu.global.add.u32 [%rd4],1;",
        "@%p1 st.global.u32 [%rd4],1;",
    ] {
        let kernel = double(ACQUIRE, "", release);
        for seed in 0..SEEDS {
            let Err(HostError::Fault(f)) = exchange(&kernel, seed) else { panic!("seed {seed}\n{kernel}") };
            assert_eq!(f.kind, FaultKind::RaceGlobal, "{f}");
        }
    }
}

/// Adds one to the plain word and to the host-shared one.
const STEP: &str = "\
ld.global.u32 %r5,[%rd1];
add.u32 %r5,%r5,1;
st.global.u32 [%rd1],%r5;
ld.global.u32 %r5,[%rd2];
add.u32 %r5,%r5,1;
st.global.u32 [%rd2],%r5;";

#[test]
fn launches_and_waiting_for_them_order_the_host() {
    for seed in 0..SEEDS {
        let mut bench = Bench::new(&[STEP], seed);
        let queue = bench.machine.queue();
        let (plain, data) = (bench.plain, bench.data);
        for round in 0..4u32 {
            bench.machine.host().store(data, 10 * round).unwrap();
            bench.launch(queue, 0, false);
            bench.launch(queue, 0, false);
            let counters = bench.machine.sync(queue).unwrap();
            assert_eq!(counters.global_loads, 2 * 64);
            assert_eq!(bench.machine.host().load(data), Ok(10 * round + 2));
            let mut word = [0; 4];
            bench.machine.read(plain, &mut word).unwrap();
            assert_eq!(u32::from_le_bytes(word), 2 * round + 2);
        }
        assert_eq!(bench.machine.host().update(data, |v| v / 2), Ok(32));
        assert_eq!(bench.machine.host().load_acquire(data), Ok(16));
        assert_eq!(bench.machine.host().load(plain), Err(HostError::NotShared(plain)));
        assert_eq!(bench.machine.host().load(data + 2), Err(HostError::Misaligned(data + 2)));
        assert!(matches!(bench.machine.host().load(data + 4096), Err(HostError::Memory(_))));
        let waited = bench.machine.wait_until(data, LONG, |v| v == 7);
        assert_eq!(waited, Err(HostError::Ended { address: data, value: 16 }));
    }
}

/// The race of a host or a queue.
fn race<T: std::fmt::Debug>(what: Result<T, HostError>, synced: Result<emu::Counters, Box<Fault>>) -> Box<Fault> {
    let fault = match (what, synced) {
        (Err(HostError::Fault(f)), _) | (_, Err(f)) => f,
        other => panic!("{other:?}"),
    };
    assert_eq!(fault.kind, FaultKind::RaceGlobal, "{fault}");
    fault
}

#[test]
fn a_host_that_does_not_wait_races() {
    for seed in 0..SEEDS {
        let start = || {
            let mut bench = Bench::new(&[STEP], seed);
            let queue = bench.machine.queue();
            bench.launch(queue, 0, false);
            (bench, queue)
        };
        let (mut bench, queue) = start();
        let stored = bench.machine.host().store(bench.data, 5);
        race(stored, bench.machine.sync(queue));
        let (mut bench, queue) = start();
        let loaded = bench.machine.host().load(bench.data + 124);
        race(loaded, bench.machine.sync(queue));
        let (mut bench, queue) = start();
        let read = bench.machine.read(bench.plain, &mut [0; 128]);
        race(read, bench.machine.sync(queue));
        let (mut bench, queue) = start();
        let written = bench.machine.write(bench.plain, &[1]);
        race(written, bench.machine.sync(queue));
    }
}

#[test]
fn queues_race_unless_an_event_orders_them() {
    for seed in 0..SEEDS {
        for (ordered, too_early) in [(true, false), (false, true), (false, false)] {
            let mut bench = Bench::new(&[STEP], seed);
            let (a, b) = (bench.machine.queue(), bench.machine.queue());
            let early = bench.machine.record(a).unwrap();
            bench.launch(a, 0, false);
            let event = bench.machine.record(a).unwrap();
            if ordered || too_early {
                bench.machine.wait(b, if ordered { event } else { early }).unwrap();
            }
            bench.launch(b, 0, false);
            let (first, second) = (bench.machine.sync(a), bench.machine.sync(b));
            if ordered {
                assert!(first.is_ok() && second.is_ok(), "seed {seed}: {first:?} {second:?}");
                assert_eq!(bench.machine.host().load(bench.data), Ok(2));
                continue;
            }
            let fault = race(first.map_err(HostError::Fault), second);
            assert!(fault.detail.contains("of another launch, of k0"), "{fault}");
        }
        // The host can order them as well.
        let mut bench = Bench::new(&[STEP], seed);
        let (a, b) = (bench.machine.queue(), bench.machine.queue());
        for queue in [a, b, a] {
            bench.launch(queue, 0, false);
            bench.machine.sync(queue).unwrap();
        }
        assert_eq!(bench.machine.host().load(bench.data), Ok(3));
    }
}

#[test]
fn what_a_queue_did_stays_unknown_to_the_host_while_another_runs() {
    let wait = double(ACQUIRE, "", RELEASE);
    let plain = "st.global.u32 [%rd1],%r1;";
    for seed in 0..SEEDS {
        let mut bench = Bench::new(&[&wait, plain], seed);
        let (a, b) = (bench.machine.queue(), bench.machine.queue());
        bench.launch(a, 0, false);
        bench.launch(b, 1, false);
        bench.machine.sync(b).unwrap();
        bench.machine.read(bench.plain, &mut [0; 128]).unwrap();
        let waited = bench.machine.wait_until(bench.flags + 4, Duration::from_millis(3), |v| v == 1);
        assert!(matches!(waited, Err(HostError::Timeout { value: 0, .. })), "{waited:?}");
        // The queue that polls goes on only now.
        bench.machine.host().store_release(bench.flags, 1).unwrap();
        bench.machine.sync(a).unwrap();
        bench.machine.read(bench.data, &mut [0; 128]).unwrap();
    }
}

#[test]
fn kernels_of_two_queues_wait_for_each_other() {
    let ping = "\
@!%p1 bra E;
st.release.gpu.global.u32 [%rd3],1;
W: ld.acquire.gpu.global.u32 %r5,[%rd4];
setp.eq.u32 %p2,%r5,0;
@%p2 bra W;
E:";
    let pong = "\
@!%p1 bra E;
W: ld.acquire.gpu.global.u32 %r5,[%rd3];
setp.eq.u32 %p2,%r5,0;
@%p2 bra W;
st.release.gpu.global.u32 [%rd4],1;
E:";
    for seed in 0..SEEDS {
        let mut bench = Bench::new(&[ping, pong], seed);
        let (a, b) = (bench.machine.queue(), bench.machine.queue());
        bench.launch(b, 1, false);
        bench.launch(a, 0, false);
        bench.machine.sync(b).unwrap();
        bench.machine.sync(a).unwrap();
        // In one queue neither can go on, nor if nobody answers.
        for order in [&[1, 0][..], &[0]] {
            let mut bench = Bench::new(&[ping, pong], seed);
            let (a, b) = (bench.machine.queue(), bench.machine.queue());
            for &kernel in order {
                bench.launch(a, kernel, false);
            }
            let last = bench.machine.record(a).unwrap();
            bench.machine.wait(b, last).unwrap();
            bench.launch(b, 1, false);
            assert_eq!(bench.machine.sync(a).unwrap_err().kind, FaultKind::Deadlock, "seed {seed}");
        }
    }
}

#[test]
fn a_queue_ends_at_its_first_fault() {
    let mut bench = Bench::new(&[STEP, "st.global.u32 [%rd1+-4096],%r1;", "trap;"], 0);
    let queue = bench.machine.queue();
    for kernel in [0, 1, 2, 0] {
        bench.launch(queue, kernel, false);
    }
    for _ in 0..2 {
        let fault = bench.machine.sync(queue).unwrap_err();
        assert_eq!((fault.kind, &*fault.kernel), (FaultKind::OobGlobal, "k1"));
    }
    let launch = Launch { entry: "k7".into(), grid: [1; 3], block: [1; 3], dynamic_shared: 0, params: Vec::new() };
    assert!(matches!(bench.machine.launch(queue, &bench.loaded, &launch, false), Err(Error::Launch(_))));
}

#[test]
fn launches_of_a_queue_overlap() {
    let first = format!("griddepcontrol.launch_dependents;\n{STEP}");
    let waits = format!("griddepcontrol.wait;\n{STEP}");
    for seed in 0..SEEDS {
        for (second, good) in [(&waits, true), (&first, false)] {
            let mut bench = Bench::new(&[&first, second], seed);
            let queue = bench.machine.queue();
            bench.launch(queue, 0, true);
            bench.launch(queue, 1, true);
            assert_eq!(bench.machine.sync(queue).is_ok(), good, "seed {seed}");
            // After an event launches do not overlap.
            let mut bench = Bench::new(&[&first, second], seed);
            let queue = bench.machine.queue();
            bench.launch(queue, 0, true);
            bench.machine.record(queue).unwrap();
            bench.launch(queue, 1, true);
            bench.machine.sync(queue).unwrap();
        }
    }
}
