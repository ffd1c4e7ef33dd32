//! Programmatic dependent launches: what a launch does before it waits for the one before races with that one, under every
//! schedule and wherever the accesses meet.

use emu::{Error, Fault, FaultKind, Launch, Loaded, Memory, Module, Options, Schedule, Step};

const SEEDS: u64 = 12;
const CTAS: u32 = 5;

/// Kernels of these bodies; each has `%rd1`, `%rd2`, `%rd3`: its thread's word of three buffers, the last of which nobody
/// writes.
fn module(bodies: &[&str]) -> String {
    let kernel = |(i, body): (usize, &&str)| {
        format!(
            "\
.visible .entry k{i}(.param .u64 a, .param .u64 b, .param .u64 w)
{{
.reg .pred %p<4>; .reg .b32 %r<16>; .reg .b64 %rd<8>;
ld.param.u64 %rd1,[a]; ld.param.u64 %rd2,[b]; ld.param.u64 %rd3,[w];
mov.u32 %r1,%tid.x; mov.u32 %r2,%ctaid.x; mad.lo.u32 %r3,%r2,64,%r1; mul.wide.u32 %rd4,%r3,4;
add.s64 %rd1,%rd1,%rd4; add.s64 %rd2,%rd2,%rd4; add.s64 %rd3,%rd3,%rd4; mov.u64 %rd5,flag;
{body}
ret;
}}
"
        )
    };
    let head = ".version 8.6\n.target sm_90\n.address_size 64\n.global .align 4 .u32 flag;\n";
    head.to_owned() + &bodies.iter().enumerate().map(kernel).collect::<String>()
}

/// Runs the kernels one after another, all but the first overlapping if asked for; what is in the second buffer.
fn run(text: &str, kernels: usize, overlaps: bool, seed: u64) -> Result<Option<Vec<u8>>, Box<Fault>> {
    let module = Module::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut memory = Memory::new(1 << 20);
    let loaded: Loaded = module.load(&mut memory).unwrap();
    let bytes = u64::from(CTAS) * 256;
    let words = |f: fn(u32) -> u32| (0..CTAS * 64).flat_map(|i| f(i).to_le_bytes()).collect();
    let a = memory.alloc_with(words(|_| 0), 256).unwrap();
    let b = memory.alloc_with(words(|_| 0), 256).unwrap();
    let w = memory.alloc_with(words(|i| 7 * i), 256).unwrap();
    let params: Vec<u8> = [a, b, w].iter().flat_map(|x| x.to_le_bytes()).collect();
    let launches: Vec<Launch> = (0..kernels)
        .map(|i| Launch {
            entry: format!("k{i}"),
            grid: [CTAS, 1, 1],
            block: [64, 1, 1],
            dynamic_shared: 0,
            params: params.clone(),
        })
        .collect();
    let steps: Vec<Step> = launches
        .iter()
        .enumerate()
        .map(|(i, launch)| Step { loaded: &loaded, launch, overlaps: overlaps && i > 0 })
        .collect();
    let options = Options {
        schedule: Schedule { seed },
        resident_ctas: Some(CTAS as usize + seed as usize % 3),
        max_steps: 1 << 20,
        ..Options::default()
    };
    match emu::run(&mut memory, &steps, &options) {
        Ok(_) => Ok(memory.read(b, bytes).ok().map(<[u8]>::to_vec)),
        Err(Error::Fault(f)) => Err(f),
        Err(Error::Launch(e)) => panic!("{e}"),
    }
}

fn clean(bodies: &[&str]) {
    let text = module(bodies);
    for seed in 0..SEEDS {
        let plain = run(&text, bodies.len(), false, seed).unwrap_or_else(|f| panic!("seed {seed}: {f}\n{text}"));
        let early = run(&text, bodies.len(), true, seed).unwrap_or_else(|f| panic!("seed {seed}: {f}\n{text}"));
        assert_eq!(plain, early, "seed {seed}\n{text}");
    }
}

/// The fault is in a line marked with `//!`, and there is none without overlap.
fn race(bodies: &[&str]) {
    let text = module(bodies);
    let lines: Vec<u32> = text.lines().zip(1..).filter(|(line, _)| line.contains("//!")).map(|(_, n)| n).collect();
    for seed in 0..SEEDS {
        run(&text, bodies.len(), false, seed).unwrap_or_else(|f| panic!("seed {seed}: {f}\n{text}"));
        let fault = run(&text, bodies.len(), true, seed).expect_err(&format!("seed {seed} is clean\n{text}"));
        assert_eq!(fault.kind, FaultKind::RaceGlobal, "seed {seed}: {fault}");
        assert!(lines.contains(&fault.line), "seed {seed}: {fault}, not in {lines:?}\n{text}");
        assert!(fault.detail.contains("of another launch, of k"), "{fault}");
    }
}

const NEXT: &str = "griddepcontrol.launch_dependents;";
const WAIT: &str = "griddepcontrol.wait;";
/// Weights into the first buffer.
const FIRST: &str = "ld.global.u32 %r5,[%rd3];\nst.global.u32 [%rd1],%r5; //!";
/// The first buffer into the second.
const SECOND: &str = "ld.global.u32 %r6,[%rd1]; //!\nst.global.u32 [%rd2],%r6;";

#[test]
fn a_launch_that_waits_is_ordered() {
    clean(&[FIRST, &format!("{WAIT}\n{SECOND}")]);
    clean(&[&format!("{NEXT}\n{FIRST}"), &format!("{WAIT}\n{SECOND}")]);
    // What nobody writes may be read early.
    let early = format!(
        "{NEXT}\nld.global.u32 %r7,[%rd3];\n{WAIT}\nld.global.u32 %r6,[%rd1];\nadd.u32 %r6,%r6,%r7;\nst.global.u32 [%rd2],%r6;"
    );
    clean(&[&format!("{NEXT}\n{FIRST}"), &early]);
    // One thread waits for all of its CTA.
    let one = format!("{NEXT}\nsetp.ne.u32 %p1,%r1,0;\n@%p1 bra L;\n{WAIT}\nL:\nbar.sync 0;\n{SECOND}");
    clean(&[&format!("{NEXT}\n{FIRST}"), &one]);
    let diverged = format!("and.b32 %r8,%r1,1; setp.eq.u32 %p1,%r8,0;\n@%p1 {WAIT}\n@!%p1 {WAIT}\n{SECOND}");
    clean(&[&format!("{NEXT}\n{FIRST}"), &diverged]);
    // A chain, which writes the first buffer again.
    let third = format!("{NEXT}\n{WAIT}\nld.global.u32 %r6,[%rd2];\nst.global.u32 [%rd1],%r6;");
    let fourth = format!("{WAIT}\n{SECOND}");
    clean(&[&format!("{NEXT}\n{FIRST}"), &format!("{NEXT}\n{WAIT}\n{SECOND}"), &third, &fourth]);
}

#[test]
fn a_launch_that_does_not_wait_races() {
    for first in [FIRST.to_owned(), format!("{NEXT}\n{FIRST}"), format!("{FIRST}\n{NEXT}")] {
        race(&[&first, SECOND]);
        race(&[&first, &format!("{SECOND}\n{WAIT}")]);
        race(&[&first, &format!("ld.global.u32 %r5,[%rd1]; //!\n{WAIT}\n{SECOND}")]);
    }
    // A thread that does not take part in the wait.
    race(&[&format!("{NEXT}\n{FIRST}"), &format!("setp.eq.u32 %p1,%r1,5;\n@%p1 bra L;\n{WAIT}\nL:\n{SECOND}")]);
    // The later launch writes what the one before reads, and what it writes.
    let read = format!("{NEXT}\nld.global.u32 %r5,[%rd1]; //!");
    race(&[&read, "st.global.u32 [%rd1],%r1; //!"]);
    race(&[&format!("{NEXT}\n{FIRST}"), "st.global.u32 [%rd1],%r1; //!"]);
    clean(&[&read, &format!("{WAIT}\nst.global.u32 [%rd1],%r1;")]);
}

#[test]
fn a_launch_that_does_not_wait_orders_nothing_for_the_next() {
    let first = format!("{NEXT}\n{FIRST}");
    let last = format!("{WAIT}\n{SECOND}");
    race(&[&first, NEXT, &last]);
    clean(&[&first, &format!("{NEXT}\n{WAIT}"), &last]);
    // Nor may a launch read early what the one before the last wrote.
    race(&[&first, &format!("{NEXT}\n{WAIT}"), &format!("{SECOND}\n{WAIT}")]);
}

#[test]
fn launches_run_at_the_same_time() {
    // The first waits for a word that the second writes.
    let first = format!("{NEXT}\nW: ld.acquire.gpu.global.u32 %r5,[%rd5];\nsetp.eq.u32 %p1,%r5,0;\n@%p1 bra W;");
    let store = "setp.ne.u32 %p2,%r3,0;\n@!%p2 st.release.gpu.global.u32 [%rd5],1;";
    let text = module(&[&first, store]);
    for seed in 0..SEEDS {
        run(&text, 2, true, seed).unwrap_or_else(|f| panic!("seed {seed}: {f}"));
        assert_eq!(run(&text, 2, false, seed).unwrap_err().kind, FaultKind::Deadlock, "seed {seed}");
    }
    // Only once every CTA has let it.
    let text = module(&[&first.replace(NEXT, &format!("setp.ne.u32 %p3,%r2,1;\n@%p3 {NEXT}")), store]);
    for seed in 0..SEEDS {
        assert_eq!(run(&text, 2, true, seed).unwrap_err().kind, FaultKind::Deadlock, "seed {seed}");
    }
}
