//! One planted fault in each of these kernels, found with its kind and its line under every schedule; and the same kernel
//! without it is clean.

use emu::{Error, FaultKind, Launch, Memory, Module, Options, Schedule};

mod planted;

use planted::*;

#[test]
fn bounds() {
    let f = fault("ld.global.u32 %r9,[%rd5+772]; //!", 1, FaultKind::OobGlobal);
    assert_eq!(f.thread.unwrap().tid, [63, 0, 0]);
    assert_eq!(f.address.unwrap() % 256, 0);
    clean("ld.global.u32 %r9,[%rd5+768];", 1);
    fault("st.global.u32 [%rd1+-4],%r1; //!", 1, FaultKind::OobGlobal);
    fault("ld.shared.v4.u32 {%r9,%r10,%r11,%r12},[%r2+1040]; //!", 1, FaultKind::OobShared);
    fault("st.shared.u32 [%r6+1024],%r1; //!", 1, FaultKind::OobShared);
    fault("mov.u64 %rd7,l; st.local.u32 [%rd7+4096],%r1; //!", 1, FaultKind::OobLocal);
    fault("cvta.shared.u64 %rd7,m; ld.u32 %r9,[%rd7+16]; //!", 1, FaultKind::OobShared);
    fault("mov.u64 %rd7,p; ld.param.u64 %rd8,[%rd7+24]; //!", 1, FaultKind::OobParam);
    fault("mov.u64 %rd7,0; ld.global.u32 %r9,[%rd7]; //!", 1, FaultKind::OobGlobal);
    fault("atom.global.add.u32 %r9,[%rd1+1024],1; //!", 1, FaultKind::OobGlobal);
}

#[test]
fn alignment() {
    let f = fault("ld.global.v2.u32 {%r9,%r10},[%rd1+4]; //!", 1, FaultKind::Misaligned);
    assert_eq!(f.address.unwrap() % 8, 4);
    fault("st.shared.u32 [%r2+2],%r1; //!", 1, FaultKind::Misaligned);
    fault("atom.shared.add.u32 %r9,[%r2+6],1; //!", 1, FaultKind::Misaligned);
    fault("st.local.v2.u32 [l+4],{%r1,%r1}; //!", 1, FaultKind::Misaligned);
    fault("@%p1 cp.async.ca.shared.global [%r2],[%rd1+4],8; //!", 1, FaultKind::Misaligned);
}

#[test]
fn read_only_memory() {
    fault("st.global.u32 [%rd3],%r1; //!", 1, FaultKind::ReadOnly);
    fault("red.global.add.u32 [%rd3],1; //!", 1, FaultKind::ReadOnly);
}

/// Words of the other warp, which were written long before as well.
const EXCHANGE: &str = "\
st.shared.u32 [%r6],0;
bar.sync 0;
st.shared.u32 [%r6],%r1; //!
SYNC
xor.b32 %r9,%r5,128; add.u32 %r9,%r9,%r2;
ld.shared.u32 %r10,[%r9]; //!";

#[test]
fn races_in_shared_memory() {
    clean(&EXCHANGE.replace("SYNC", "bar.sync 0;"), 1);
    // Neither of these orders the two warps.
    for sync in ["", "bar.warp.sync 0xffffffff;", "fence.acq_rel.cta;", "shfl.sync.idx.b32 %r9,%r1,0,31,0xffffffff;"] {
        fault(&EXCHANGE.replace("SYNC", sync), 1, FaultKind::RaceShared);
    }
    // Within a warp a shuffle does not order memory, bar.warp.sync does.
    let within = EXCHANGE.replace("128", "4");
    clean(&within.replace("SYNC", "bar.warp.sync 0xffffffff;"), 1);
    fault(&within.replace("SYNC", "shfl.sync.idx.b32 %r9,%r1,0,31,0xffffffff;"), 1, FaultKind::RaceShared);
    fault(&within.replace("SYNC", "vote.sync.ballot.b32 %r9,%p1,0xffffffff;"), 1, FaultKind::RaceShared);
    // Two writes, of bytes of one word: those of different bytes do not race.
    fault("st.shared.u32 [%r2],%r1; //!", 1, FaultKind::RaceShared);
    clean("add.u32 %r9,%r2,%r1; cvt.u16.u32 %h1,%r1; st.shared.u8 [%r9],%h1;", 1);
    // A read before a write that does not wait for it.
    let after = "@%p1 st.shared.u32 [%r2],%r1;\nbar.sync 0;\nld.shared.u32 %r9,[%r2]; //!\nSYNC\nsetp.eq.u32 %p2,%r1,63;\n@%p2 st.shared.u32 [%r2],%r1; //!";
    fault(&after.replace("SYNC", ""), 1, FaultKind::RaceShared);
    clean(&after.replace("SYNC", "bar.sync 0;"), 1);
    // Atomic operations do not race with each other, but with plain accesses.
    let atomics =
        "@%p1 st.shared.u32 [%r2],0;\nbar.sync 0;\nred.shared.add.u32 [%r2],1; //!\nSYNC\nld.shared.u32 %r9,[%r2]; //!";
    fault(&atomics.replace("SYNC", ""), 1, FaultKind::RaceShared);
    clean(&atomics.replace("SYNC", "bar.sync 0;"), 1);
}

#[test]
fn writes_of_the_same_bytes_do_not_race() {
    let same = "st.global.v2.u32 [%rd1],{7,8}; //!\nSYNC\nld.global.u32 %r9,[%rd1+4]; //!";
    clean(&same.replace("SYNC", "bar.sync 0;"), 1);
    clean("st.global.u32 [%rd1],7;", 4);
    clean("st.shared.u16 [%r2+2],%h1;\nbar.sync 0;\nst.shared.u16 [%r2+2],%h1;", 1);
    // Who reads has to come after all that wrote.
    fault(&same.replace("SYNC", "bar.warp.sync 0xffffffff;"), 1, FaultKind::RaceGlobal);
    // Other bytes, or the same bytes by stores of other sizes.
    fault("st.global.u32 [%rd1],%r8; //!", 1, FaultKind::RaceGlobal);
    fault("st.global.u32 [%rd1],%r4; //!", 2, FaultKind::RaceGlobal);
    let sizes = "setp.eq.u32 %p2,%r8,0;\n@%p2 st.shared.u32 [%r2],0; //!\n@!%p2 st.shared.v2.u16 [%r2],{0,0}; //!";
    fault(sizes, 1, FaultKind::RaceShared);
    // Copies by two warps of one source, and of two.
    let copies = "\
and.b32 %r9,%r5,124; cvt.u64.u32 %rd7,%r9; add.s64 %rd7,%rd7,BASE; add.u32 %r9,%r9,%r2;
cp.async.ca.shared.global [%r9],[%rd7],4; //!
cp.async.wait_all;
SYNC
ld.shared.u32 %r10,[%r9]; //!";
    let with = |base: &str, sync: &str| copies.replace("BASE", base).replace("SYNC", sync);
    clean(&with("%rd3", "bar.sync 0;"), 1);
    fault(
        &with("%rd1", "").replace(
            "add.u32 %r9",
            "and.b32 %r10,%r5,128; cvt.u64.u32 %rd8,%r10; add.s64 %rd7,%rd7,%rd8;\nadd.u32 %r9",
        ),
        1,
        FaultKind::AsyncCopy,
    );
    fault(&with("%rd3", ""), 1, FaultKind::AsyncCopy);
    // Rows of a matrix.
    let rows = "and.b32 %r9,%r7,1; shl.b32 %r9,%r9,4; add.u32 %r9,%r9,%r2;\nstmatrix.sync.aligned.m8n8.x1.shared.b16 [%r9],{VALUE}; //!";
    clean(&rows.replace("VALUE", "%r2"), 1);
    fault(&rows.replace("VALUE", "%r7"), 1, FaultKind::RaceShared);
}

#[test]
fn member_masks_may_differ_at_one_instruction() {
    let masks = "and.b32 %r9,%r7,24; mov.u32 %r10,255; shl.b32 %r10,%r10,%r9;";
    for exchange in
        ["shfl.sync.bfly.b32 %r11,%r1,1,31,%r10;", "redux.sync.add.u32 %r11,%r1,%r10;", "bar.warp.sync %r10;"]
    {
        clean(&format!("{masks}\n{exchange}"), 1);
    }
    // Memory is ordered among those of one mask, no further.
    let write = "st.shared.u32 [%r6],%r1;\nbar.warp.sync %r10;\nxor.b32 %r12,%r5,BY; add.u32 %r12,%r12,%r2;\nld.shared.u32 %r13,[%r12]; //!";
    clean(&format!("{masks}\n{}", write.replace("BY", "28")), 1);
    fault(&format!("{masks}\n{}", write.replace("BY", "32")), 1, FaultKind::RaceShared);
}

#[test]
fn sequentially_consistent_fences_are_ordered() {
    // Every thread of CTA 0 writes and fences, and only then one of them tells the other CTA.
    let body = "\
mov.u64 %rd7,flag; setp.eq.u32 %p2,%r4,1;
@%p2 bra READ;
st.global.u32 [%rd6],%r1; //!
WRITERS
bar.sync 0;
@%p1 st.relaxed.gpu.global.u32 [%rd7],1;
bra DONE;
READ:
@!%p1 bra MET;
W: ld.relaxed.gpu.global.u32 %r9,[%rd7];
setp.eq.u32 %p3,%r9,0;
@%p3 bra W;
READERS
MET:
bar.sync 0;
ld.global.u32 %r9,[%rd6]; //!
DONE:";
    let with = |writers: &str, readers: &str| body.replace("WRITERS", writers).replace("READERS", readers);
    for good in ["fence.sc.gpu;", "membar.gl;", "membar.sys;"] {
        clean(&with(good, good), 2);
    }
    for (writers, readers) in
        [("fence.acq_rel.gpu;", "fence.acq_rel.gpu;"), ("fence.sc.cta;", "fence.sc.gpu;"), ("fence.sc.gpu;", "")]
    {
        fault(&with(writers, readers), 2, FaultKind::RaceGlobal);
    }
}

#[test]
fn a_cas_loop_may_begin_with_a_plain_load() {
    let body = "\
ld.global.u32 %r9,[%rd1]; //!
L: add.u32 %r10,%r9,1;
atom.global.cas.b32 %r11,[PLACE],%r9,%r10; //!
setp.ne.u32 %p2,%r11,%r9; mov.u32 %r9,%r11;
@%p2 bra L;";
    for seed in 0..SEEDS {
        let counters = run(&text(&body.replace("PLACE", "%rd1")), 2, seed).unwrap();
        assert_eq!(counters.plain_cas_loads, 128);
    }
    let f = fault(
        &body.replace("PLACE", "%rd1+0").replace("[%rd1];", "[%rd7];").replacen("ld", "mov.u64 %rd7,%rd1;\nld", 1),
        2,
        FaultKind::RaceGlobal,
    );
    let Some(thread) = f.thread else { panic!("{f}") };
    assert!(!f.detail.contains(&format!("thread {:?} of CTA {:?}", thread.tid, thread.cta)), "{f}");
}

#[test]
fn loads_through_the_non_coherent_cache() {
    clean("ld.global.nc.u32 %r9,[%rd5];", 2);
    // What the kernel itself writes, before or after, ordered or not.
    fault("st.global.u32 [%rd5],%r1;\nbar.sync 0;\nld.global.nc.u32 %r9,[%rd5]; //!", 1, FaultKind::RaceGlobal);
    fault("ld.global.nc.u32 %r9,[%rd5];\nbar.sync 0;\nst.global.u32 [%rd5],%r1; //!", 1, FaultKind::RaceGlobal);
}

#[test]
fn races_in_global_memory() {
    // Two CTAs write what the other reads; they have no barrier.
    fault(
        "shl.b32 %r9,%r4,2; cvt.u64.u32 %rd7,%r9; add.s64 %rd7,%rd7,%rd1;\n@%p1 st.global.u32 [%rd7],%r1; //!\n@%p1 ld.global.u32 %r9,[%rd1]; //!",
        2,
        FaultKind::RaceGlobal,
    );
    fault("st.global.u32 [%rd1],%r1; //!", 1, FaultKind::RaceGlobal);
    clean("red.global.add.u32 [%rd1],1;", 4);
    // Message passing between CTAs.
    let message = "\
@!%p1 bra DONE;
mov.u64 %rd7,flag;
setp.eq.u32 %p2,%r4,1;
@%p2 bra READ;
st.global.u32 [%rd2],%r1; //!
RELEASE
bra DONE;
READ:
ACQUIRE
setp.eq.u32 %p3,%r9,0;
@%p3 bra READ;
FENCE
ld.global.u32 %r10,[%rd2]; //!
DONE:";
    let with = |release: &str, acquire: &str, fence: &str| {
        message.replace("RELEASE", release).replace("ACQUIRE", acquire).replace("FENCE", fence)
    };
    let (release, acquire) = ("st.release.gpu.global.u32 [%rd7],1;", "ld.acquire.gpu.global.u32 %r9,[%rd7];");
    let (store, load) = ("st.relaxed.gpu.global.u32 [%rd7],1;", "ld.relaxed.gpu.global.u32 %r9,[%rd7];");
    let fence = "fence.acq_rel.gpu;";
    for seed in [0, 2, 5] {
        for (what, good) in [
            (with(release, acquire, ""), true),
            (with(&format!("{fence} {store}"), load, fence), true),
            (with("red.release.gpu.global.add.u32 [%rd7],1;", load, fence), true),
            (
                with("membar.gl; st.volatile.global.u32 [%rd7],1;", "ld.volatile.global.u32 %r9,[%rd7];", "membar.gl;"),
                true,
            ),
            (with(release, "atom.acquire.gpu.global.or.b32 %r9,[%rd7],0;", ""), true),
            (with(store, load, fence), false),
            (with(release, load, ""), false),
            (with(&format!("{fence} {store}"), load, ""), false),
            (with(&format!("fence.acq_rel.cta; {store}"), load, fence), false),
            (with(&release.replace("gpu", "cta"), acquire, ""), false),
        ] {
            match (run(&text(&what), 2, seed), good) {
                (Ok(_), true) => {}
                (Err(Error::Fault(f)), false) => assert_eq!(f.kind, FaultKind::RaceGlobal, "{f}\n{what}"),
                (other, _) => panic!("seed {seed}: {other:?}\n{what}"),
            }
        }
    }
}

#[test]
fn barriers() {
    fault(
        "setp.lt.u32 %p2,%r1,32;\n@%p2 bar.arrive 1,64;\nbar.sync 2,64;\n@!%p2 bar.sync 1,32; //!",
        1,
        FaultKind::Barrier,
    );
    // Threads that exit do not hold up the others, early or late, whole warps or parts of them.
    for (exited, early) in [(32, "exit"), (40, "exit"), (40, "bra OUT")] {
        let exchange = format!(
            "setp.lt.u32 %p2,%r1,{exited};\n@%p2 {early};\nst.shared.u32 [%r6],%r1;\nbar.sync 0;\n\
             xor.b32 %r9,%r5,28; add.u32 %r9,%r9,%r2;\nld.shared.u32 %r10,[%r9];\nbar.sync 0;\nOUT:"
        );
        clean(&exchange, 1);
        clean(&exchange.replace("bar.sync 0", "barrier.sync 1"), 1);
        fault(&exchange.replace("bar.sync 0;", "").replace("%r10,[%r9];", "%r10,[%r9]; //!"), 1, FaultKind::RaceShared);
    }
    fault("setp.lt.u32 %p2,%r1,16;\n@%p2 bar.sync 0; //!\n", 1, FaultKind::Divergence);
    fault(
        "setp.lt.u32 %p2,%r7,16;\n@%p2 bra A;\nbar.sync 0; //!\nbra B;\nA:\nbar.sync 0; //!\nB:",
        1,
        FaultKind::Divergence,
    );
    fault("bar.sync 1,40; //!", 1, FaultKind::BadOperand);
    fault("bar.sync %r1; //!", 1, FaultKind::BadOperand);
    // The named lanes never come together.
    let halves = "setp.lt.u32 %p2,%r7,16;\n@%p2 shfl.sync.idx.b32 %r9,%r1,0,31,0xffffffff; //!\n@!%p2 bar.warp.sync 0xffffffff; //!";
    fault(halves, 1, FaultKind::Deadlock);
    fault("setp.lt.u32 %p2,%r7,16;\n@%p2 shfl.sync.idx.b32 %r9,%r1,0,31,0x00ff00ff; //!", 1, FaultKind::Divergence);
    // The same exchange at two places is one exchange.
    clean(
        "setp.lt.u32 %p2,%r7,16;\n@%p2 shfl.sync.idx.b32 %r9,%r1,0,31,0xffffffff;\n@!%p2 shfl.sync.idx.b32 %r9,%r1,1,31,0xffffffff;",
        1,
    );
    let producer = "setp.lt.u32 %p2,%r1,32;\n@%p2 st.shared.u32 [%r6],%r1;\n@%p2 bar.arrive 1,64;\n@!%p2 bar.sync 1,64;\n@!%p2 ld.shared.u32 %r9,[%r6+-128];";
    clean(producer, 1);
}

/// All CTAs meet at a counter; then each reads what the next one wrote.
const GRID_BARRIER: &str = "\
shl.b32 %r9,%r4,2; cvt.u64.u32 %rd7,%r9; add.s64 %rd7,%rd7,%rd2;
@%p1 st.global.u32 [%rd7],%r4;
bar.sync 0;
@!%p1 bra MEET;
mov.u64 %rd8,flag;
red.release.gpu.global.add.u32 [%rd8],1;
W: ld.relaxed.gpu.global.u32 %r10,[%rd8];
setp.lt.u32 %p2,%r10,24;
@%p2 bra W;
FENCE
MEET:
bar.sync 0;
add.u32 %r9,%r4,1; setp.eq.u32 %p3,%r9,24;
@%p3 mov.u32 %r9,0;
shl.b32 %r9,%r9,2; cvt.u64.u32 %rd7,%r9; add.s64 %rd7,%rd7,%rd2;
ld.global.u32 %r11,[%rd7];";

#[test]
fn a_barrier_of_the_grid_needs_its_fence_and_room() {
    let module = |body: &str| Module::parse(&text(body)).unwrap();
    let launch = |body: &str, seed, resident_ctas| {
        let module = module(body);
        let mut memory = Memory::new(1 << 20);
        let loaded = module.load(&mut memory).unwrap();
        let params = [(); 3].map(|()| memory.alloc(1024, 256).unwrap().to_le_bytes()).concat();
        let launch = Launch { entry: "k".into(), grid: [24, 1, 1], block: [64, 1, 1], dynamic_shared: 0, params };
        let options = Options {
            schedule: Schedule { seed },
            resident_ctas: Some(resident_ctas),
            max_steps: 1_000_000,
            ..Options::default()
        };
        match loaded.run(&mut memory, &launch, &options) {
            Ok(_) => None,
            Err(Error::Fault(f)) => Some(f.kind),
            Err(e) => panic!("{e}"),
        }
    };
    for seed in 0..SEEDS {
        let good = GRID_BARRIER.replace("FENCE", "fence.acq_rel.gpu;");
        assert_eq!(launch(&good, seed, 24), None, "seed {seed}");
        assert_eq!(launch(&good, seed, 23), Some(FaultKind::Deadlock), "seed {seed}");
        assert_eq!(launch(&GRID_BARRIER.replace("FENCE", ""), seed, 24), Some(FaultKind::RaceGlobal), "seed {seed}");
    }
}

#[test]
fn deadlocks() {
    let f = fault("setp.lt.u32 %p2,%r1,32;\n@%p2 bar.sync 1,64; //!", 1, FaultKind::Deadlock);
    assert!(f.detail.contains("barrier 1 (32 of 64 threads)"), "{f}");
    // Nobody sets the flag.
    fault(
        "mov.u64 %rd7,flag;\nW:\nld.acquire.gpu.global.u32 %r9,[%rd7]; //!\nsetp.eq.u32 %p2,%r9,0; //!\n@%p2 bra W; //!",
        1,
        FaultKind::Deadlock,
    );
    // Lane 0 waits for lane 1 of its own warp, which runs all the same.
    clean(
        "@%p1 st.shared.u32 [%r2],0;\nbar.sync 0;\nsetp.eq.u32 %p2,%r1,1;\n@%p1 bra W;\n@%p2 st.release.cta.shared.u32 [%r2],1;\nbra E;\nW:\nld.acquire.cta.shared.u32 %r9,[%r2];\nsetp.eq.u32 %p3,%r9,0;\n@%p3 bra W;\nE:",
        1,
    );
    fault("W:\nbra W; //!", 1, FaultKind::StepLimit);
}

/// A bulk copy over words that were written before.
const COPY: &str = "\
shl.b32 %r9,%r1,3; add.u32 %r9,%r9,%r2; st.shared.v2.u32 [%r9],{0,0};
PROXY
bar.sync 0;
@!%p1 bra C;
INIT
C:
bar.sync 0;
@!%p1 bra D;
EXPECT
cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r2],[%rd3],512,[%r3]; //!
D:
WAIT
ld.shared.u32 %r9,[%r6]; //!
AFTER";

fn copy(changes: &[(&str, &str)]) -> String {
    let mut body = COPY.to_owned();
    let is_part = |change: &&(&str, &str)| COPY.lines().any(|line| line == change.0);
    let parts = changes.iter().filter(is_part).copied();
    let rest = changes.iter().filter(|c| !is_part(c)).copied();
    let all = parts.chain([
        ("PROXY", "fence.proxy.async.shared::cta;"),
        ("INIT", "mbarrier.init.shared::cta.b64 [%r3],1;\nfence.mbarrier_init.release.cluster;"),
        ("EXPECT", "mbarrier.arrive.expect_tx.shared::cta.b64 _,[%r3],512;"),
        ("WAIT", "mbarrier.try_wait.parity.shared::cta.b64 %p2,[%r3],0; //!\n@!%p2 bra D;"),
        ("AFTER", ""),
    ]);
    for (from, to) in all.chain(rest) {
        body = body.replace(from, to);
    }
    body
}

#[test]
fn copies_and_mbarriers() {
    clean(&copy(&[]), 1);
    fault(&copy(&[("WAIT", "")]), 1, FaultKind::AsyncCopy);
    // A wait for the phase before, which is over.
    fault(
        &copy(&[("WAIT", "mbarrier.try_wait.parity.shared::cta.b64 %p2,[%r3],1;\n@!%p2 bra D;")]),
        1,
        FaultKind::AsyncCopy,
    );
    fault(
        &copy(&[("INIT", ""), ("EXPECT", "mbarrier.arrive.expect_tx.shared::cta.b64 _,[%r3],512; //!")]),
        1,
        FaultKind::Mbarrier,
    );
    fault(&copy(&[("[%r3],512;", "[%r3],496;")]), 1, FaultKind::MbarrierTx);
    fault(&copy(&[("[%r3],512;", "[%r3],528;")]), 1, FaultKind::MbarrierTx);
    fault(&copy(&[("b64 [%r3],1;", "b64 [%r3],2;")]), 1, FaultKind::Deadlock);
    fault(&copy(&[("EXPECT", "")]), 1, FaultKind::Deadlock);
    fault(&copy(&[("WAIT", "st.shared.u32 [%r2],%r1; //!")]), 1, FaultKind::AsyncCopy);
    fault(&copy(&[("AFTER", "bar.sync 0;\nst.shared.u32 [%r3],%r1; //!")]), 1, FaultKind::Mbarrier);
    fault(
        &copy(&[("AFTER", "bar.sync 0;\n@%p1 mbarrier.arrive.shared::cta.b64 %rd7,[%r3],2; //!")]),
        1,
        FaultKind::MbarrierArrival,
    );
    fault(&copy(&[("],512,[", "],510,[")]), 1, FaultKind::Misaligned);
    fault(&copy(&[("],512,[", "],2048,[")]), 1, FaultKind::OobShared);
    fault(&copy(&[("[%rd3]", "[%rd2]")]), 1, FaultKind::UninitGlobal);
    // The initialisation is not ordered with its use in another warp.
    let early = copy(&[("bar.sync 0;", ""), ("_,[%r3],512;", "_,[%r3],512; //!")]);
    let early = early.replace("@!%p1 bra D;", "setp.ne.u32 %p3,%r1,32;\n@%p3 bra D;");
    for seed in 0..SEEDS {
        let Err(Error::Fault(f)) = run(&text(&early), 1, seed) else { panic!("seed {seed} is clean") };
        assert!(matches!(f.kind, FaultKind::Mbarrier | FaultKind::RaceShared), "{f}");
    }
}

#[test]
fn cp_async() {
    let body = "\
shl.b32 %r9,%r1,4; cvt.u64.u32 %rd7,%r9; add.s64 %rd7,%rd7,%rd3; add.u32 %r9,%r9,%r2;
st.shared.v4.u32 [%r9],{0,0,0,0};
bar.sync 0;
cp.async.cg.shared.global [%r9],[%rd7],16; //!
cp.async.commit_group;
WAIT
ld.shared.u32 %r10,[%r9]; //!
SYNC
xor.b32 %r9,%r9,512;
ld.shared.u32 %r10,[%r9]; //!";
    let with = |wait: &str, sync: &str| body.replace("WAIT", wait).replace("SYNC", sync);
    clean(&with("cp.async.wait_group 0;", "bar.sync 0;"), 1);
    clean(&with("cp.async.wait_all;", "bar.sync 0;"), 1);
    fault(&with("", "bar.sync 0;"), 1, FaultKind::AsyncCopy);
    fault(&with("cp.async.wait_group 1;", "bar.sync 0;"), 1, FaultKind::AsyncCopy);
    fault(&with("cp.async.wait_group 0;", ""), 1, FaultKind::AsyncCopy);
}

#[test]
fn bulk_stores() {
    let body = "\
st.shared.u32 [%r6],%r1;
fence.proxy.async.shared::cta;
bar.sync 0;
@!%p1 bra DONE;
cp.async.bulk.global.shared::cta.bulk_group [%rd2],[%r2],256;
cp.async.bulk.commit_group;
WAIT
st.shared.u32 [%r2],5; //!
LAST
ld.global.u32 %r9,[%rd2]; //!
DONE:";
    let with = |wait: &str, last: &str| body.replace("WAIT", wait).replace("LAST", last);
    clean(&with("cp.async.bulk.wait_group.read 0;", "cp.async.bulk.wait_group 0;"), 1);
    clean(&with("cp.async.bulk.wait_group 0;", ""), 1);
    fault(&with("", "cp.async.bulk.wait_group 0;"), 1, FaultKind::AsyncCopy);
    fault(&with("cp.async.bulk.wait_group.read 0;", ""), 1, FaultKind::AsyncCopy);
}

#[test]
fn proxies() {
    // What threads wrote before a copy writes over it.
    for good in ["fence.proxy.async;", "fence.proxy.async.shared::cta;", "fence.proxy.async.shared::cluster;"] {
        clean(&copy(&[("PROXY", good)]), 1);
    }
    let bad = ["", "fence.proxy.async.global;", "fence.proxy.alias;", "fence.acq_rel.gpu;", "@%p1 fence.proxy.async;"];
    for bad in bad {
        let f = fault(&copy(&[("PROXY", bad)]), 1, FaultKind::ProxyFence);
        assert!(f.address.is_some() && f.detail.contains("of CTA [0, 0, 0] wrote"), "{f}");
    }
    // After the barrier it is another thread's: too late for those that wrote.
    let late = copy(&[("PROXY", "")]).replace("@!%p1 bra C;", "@%p1 fence.proxy.async;\n@!%p1 bra C;");
    fault(&late, 1, FaultKind::ProxyFence);
    let early = "fence.proxy.async;\nst.shared.v2.u32 [%r9],{0,0};";
    fault(&copy(&[("PROXY", early)]), 1, FaultKind::ProxyFence);
    // What was only read needs no more than the barrier, nor what a copy wrote.
    let again = |between: &str| {
        copy(&[(
            "AFTER",
            &format!(
                "bar.sync 0;\n{between}\n@!%p1 bra E;\nmbarrier.arrive.expect_tx.shared::cta.b64 _,[%r3],512;\n\
                 cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r2],[%rd3],512,[%r3]; //!\n\
                 E: mbarrier.try_wait.parity.shared::cta.b64 %p2,[%r3],1;\n@!%p2 bra E;"
            ),
        )])
    };
    clean(&again(""), 1);
    fault(&again("st.shared.u32 [%r6],%r1;\nbar.sync 0;"), 1, FaultKind::ProxyFence);
    clean(&again("st.shared.u32 [%r6],%r1;\nfence.proxy.async;\nbar.sync 0;"), 1);
    // An mbarrier that nobody announced.
    let init = "mbarrier.init.shared::cta.b64 [%r3],1;";
    let other = |init: &str| {
        let body = copy(&[("INIT", init)]);
        let (first, second) = body.rsplit_once("@!%p1 bra D;").unwrap();
        format!("{first}setp.ne.u32 %p3,%r1,32;\n@%p3 bra D;{second}")
    };
    // Its own initialisation the thread knows, and so do its copies.
    clean(&copy(&[("INIT", init)]), 1);
    clean(&other(&format!("{init}\nfence.proxy.async;")), 1);
    clean(&other(&format!("{init}\nfence.mbarrier_init.release.cluster;")), 1);
    for fences in [("", ""), ("fence.mbarrier_init.release.cluster;", ""), ("", "fence.proxy.async.global;")] {
        let f = fault(&other(&format!("{}\n{init}\n{}", fences.0, fences.1)), 1, FaultKind::ProxyFence);
        assert!(f.detail.contains("initialised"), "{f}");
    }
    // A source in shared memory, written by a thread or by its cp.async.
    let store = "\
WRITE
FENCE
bar.sync 0;
@!%p1 bra DONE;
cp.async.bulk.global.shared::cta.bulk_group [%rd2],[%r2],256; //!
cp.async.bulk.commit_group;
cp.async.bulk.wait_group 0;
DONE:";
    let copies = "add.s64 %rd7,%rd3,%rd4;\ncp.async.ca.shared.global [%r6],[%rd7],4;\ncp.async.wait_all;";
    for write in ["st.shared.u32 [%r6],%r1;", copies] {
        let with = |fence: &str| store.replace("WRITE", write).replace("FENCE", fence);
        clean(&with("fence.proxy.async.shared::cta;"), 1);
        fault(&with(""), 1, FaultKind::ProxyFence);
    }
    fault(
        &store.replace("WRITE", &format!("fence.proxy.async;\n{copies}")).replace("FENCE", ""),
        1,
        FaultKind::ProxyFence,
    );
    // A target and a source in global memory.
    let global = "st.global.u32 [%rd6],%r1;\nst.shared.u32 [%r6],%r1;\nfence.proxy.async.shared::cta;";
    fault(&store.replace("WRITE", global).replace("FENCE", ""), 1, FaultKind::ProxyFence);
    clean(&store.replace("WRITE", global).replace("FENCE", "fence.proxy.async.global;"), 1);
    let load = copy(&[("[%rd3]", "[%rd2]"), ("],512,[", "],256,["), ("[%r3],512;", "[%r3],256;")]);
    let load =
        |fence: &str| load.replacen("bar.sync 0;", &format!("st.global.u32 [%rd6],%r1;\n{fence}\nbar.sync 0;"), 1);
    fault(&load(""), 1, FaultKind::ProxyFence);
    clean(&load("fence.proxy.async;"), 1);
}

#[test]
fn the_rest() {
    fault("@%p1 trap; //!", 1, FaultKind::Trap);
    fault("ts: .branchtargets A, A;\nbrx.idx %r1,ts; //!\nA:", 1, FaultKind::BadOperand);
    fault("setp.lt.u32 %p2,%r7,16;\n@%p2 movmatrix.sync.aligned.m8n8.trans.b16 %r9,%r1; //!", 1, FaultKind::Divergence);
    fault("mbarrier.init.shared::cta.b64 [%r3],0; //!", 1, FaultKind::BadOperand);
}

/// Each CTA stores a number, and the last to arrive at a counter traps unless it reads all of them.
const PARTIALS: &str = "\
@!%p1 bra E;
mul.wide.u32 %rd7,%r4,4; add.s64 %rd7,%rd7,%rd1; mov.u64 %rd8,flag;
STORE [%rd7],7;
FENCE
atom.relaxed.gpu.global.add.u32 %r10,[%rd8],1;
setp.ne.u32 %p2,%r10,7; @%p2 bra E;
FENCE
mov.u32 %r11,0; mov.u64 %rd7,%rd1;
L: ld.volatile.global.u32 %r12,[%rd7];
setp.ne.u32 %p3,%r12,7; @%p3 trap;
add.s64 %rd7,%rd7,4; add.u32 %r11,%r11,1;
setp.lt.u32 %p3,%r11,8; @%p3 bra L;
E:";

#[test]
fn strong_stores_without_a_fence_are_seen_late() {
    let stores = ["st.volatile.global.u32", "st.relaxed.gpu.global.u32", "st.relaxed.sys.global.u32"];
    let late = |body: &str, seed| match run(&text(body), 8, seed) {
        Ok(_) => false,
        Err(Error::Fault(f)) if f.kind == FaultKind::Trap => true,
        other => panic!("seed {seed}: {other:?}\n{body}"),
    };
    for store in stores {
        let with = |fence: &str| PARTIALS.replace("STORE", store).replace("FENCE", fence);
        for fence in ["membar.gl;", "fence.acq_rel.gpu;", "fence.sc.sys;"] {
            assert!((0..20).all(|seed| !late(&with(fence), seed)), "{fence}");
        }
        for fence in ["", "membar.cta;", "bar.warp.sync 1;"] {
            assert!(!late(&with(fence), 0), "round robin is in order");
            assert!((1..20).any(|seed| late(&with(fence), seed)), "{store} {fence}");
        }
    }
    // A release is a fence of its own, and a thread of the CTA sees everything at once.
    let released = PARTIALS.replace("STORE", stores[0]).replace("atom.relaxed", "atom.acq_rel").replace("FENCE", "");
    assert!((0..20).all(|seed| !late(&released, seed)));
    clean(
        "st.volatile.global.u32 [%rd5],%r1;\nbar.sync 0;\nld.volatile.global.u32 %r9,[%rd5];\nsetp.ne.u32 %p2,%r9,%r1;\n@%p2 trap;",
        1,
    );
}
