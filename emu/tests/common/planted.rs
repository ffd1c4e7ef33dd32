//! Small kernels of a body, and the fault that each has to have under every schedule.

use emu::{Counters, Error, Fault, FaultKind, Launch, Memory, Module, Options, Schedule};

/// Schedules of each kernel.
pub const SEEDS: u64 = 6;

/// A kernel: parameters `p` (256 u32, written), `q` (256 u32, nobody wrote), `c` (read-only), shared memory `s` of 1 KiB.
pub fn text(body: &str) -> String {
    format!(
        "\
.version 8.6
.target sm_90
.address_size 64
.global .align 4 .u32 flag;
.func leaf(.param .b32 a)
{{
ret;
}}
.visible .entry k(.param .u64 p, .param .u64 q, .param .u64 c)
{{
.reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %r<32>; .reg .b64 %rd<16>; .reg .f32 %f<8>;
.shared .align 16 .b8 s[1024]; .shared .align 8 .b8 m[16]; .local .align 8 .b8 l[16];
ld.param.u64 %rd1,[p]; ld.param.u64 %rd2,[q]; ld.param.u64 %rd3,[c];
mov.u32 %r1,%tid.x; mov.u32 %r2,s; mov.u32 %r3,m; mov.u32 %r4,%ctaid.x;
shl.b32 %r5,%r1,2; add.u32 %r6,%r2,%r5; cvt.u64.u32 %rd4,%r5; add.s64 %rd5,%rd1,%rd4; add.s64 %rd6,%rd2,%rd4;
and.b32 %r7,%r1,31; shr.u32 %r8,%r1,5; setp.eq.u32 %p1,%r1,0;
{body}
ret;
}}
"
    )
}

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
