//! A kernel of the kind that rigc emits, right and with single mistakes: each of them is found under every schedule.

use emu::{Error, Launch, Memory, Module, Options, Schedule};

const RING: &str = include_str!("ring.ptx");
const CTAS: usize = 3;
const TILES: usize = 11;
const SEEDS: u64 = 12;

/// What a run gave: sums, or what went wrong.
fn run(ptx: &str, seed: u64) -> Result<(), String> {
    let module = Module::parse(ptx).map_err(|e| e.to_string()).unwrap();
    let mut memory = Memory::new(1 << 20);
    let loaded = module.load(&mut memory).unwrap();
    let weight = |row: usize, k: usize| ((row * 29 + k * 13 + row * k) % 251) as u8 as i8;
    let activation = |k: usize| ((k * 71 + 5) % 253) as u8 as i8;
    let mut w = Vec::new();
    for cta in 0..CTAS {
        for tile in 0..TILES {
            for plane in 0..2 {
                for row in 0..32 {
                    w.extend((0..16).map(|i| weight(cta * 32 + row, tile * 32 + plane * 16 + i) as u8));
                }
            }
        }
    }
    let x = (0..TILES * 32).map(|k| activation(k) as u8).collect();
    let w = memory.alloc_with(w, 256).unwrap();
    let x = memory.alloc_with(x, 256).unwrap();
    let y = memory.alloc(CTAS as u64 * 128, 256).unwrap();
    memory.protect(w).unwrap();
    memory.protect(x).unwrap();
    let mut params: Vec<u8> = [w, x, y].iter().flat_map(|a| a.to_le_bytes()).collect();
    params.extend((TILES as u32).to_le_bytes());
    let launch = Launch {
        entry: "ring".into(),
        grid: [CTAS as u32, 1, 1],
        block: [96, 1, 1],
        dynamic_shared: 4416 + TILES as u64 * 32,
        params,
    };
    let options = Options {
        schedule: Schedule { seed },
        resident_ctas: Some(1 + seed as usize % 3),
        max_steps: 1 << 20,
        ..Options::default()
    };
    match loaded.run(&mut memory, &launch, &options) {
        Ok(_) => {}
        Err(Error::Fault(f)) => return Err(f.to_string()),
        Err(Error::Launch(e)) => panic!("{e}"),
    }
    for row in 0..CTAS * 32 {
        let got = memory.read(y + row as u64 * 4, 4).map_err(|e| e.to_string())?;
        let want: i32 = (0..TILES * 32).map(|k| i32::from(weight(row, k)) * i32::from(activation(k))).sum();
        if got != want.to_le_bytes() {
            return Err(format!("y[{row}] is wrong"));
        }
    }
    Ok(())
}

#[test]
fn the_kernel_is_right_under_every_schedule() {
    for seed in 0..4 * SEEDS {
        run(RING, seed).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

#[test]
fn every_mistake_is_found_under_every_schedule() {
    let mistakes = [
        ("no wait for a slot to be empty", "@!%p4 bra EMPTY;", ""),
        ("no wait for a slot to be full", "@!%p4 bra FULL;", ""),
        ("a wait for the wrong phase", "mov.u32 %r12, 0;", "mov.u32 %r12, 1;"),
        ("the producer waits for the wrong phase", "mov.u32 %r12, 1;", "mov.u32 %r12, 0;"),
        ("the parity never changes", "@%p6 xor.b32 %r12, %r12, 1;", ""),
        ("x is read before it is staged", "STAGED:\n  bar.sync 1, 64;", "STAGED:"),
        ("no bar.warp.sync before the slot is given back", "bar.warp.sync 0xffffffff;", ""),
        (
            "the slot is given back too early",
            "bar.warp.sync 0xffffffff;\n  setp.eq.u32 %p5, %r7, 0;",
            "bar.warp.sync 0xffffffff;\n  setp.eq.u32 %p5, %r7, 0;\n  ld.shared.u32 %r35, [%r15+1024];",
        ),
        ("every lane gives the slot back", "@%p5 mbarrier.arrive", "mbarrier.arrive"),
        ("nobody gives the slot back", "@%p5 mbarrier.arrive.shared::cta.b64 _, [%r14+32];", ""),
        ("too few bytes are expected", "_, [%r14], 1024;", "_, [%r14], 1008;"),
        ("too many bytes are expected", "_, [%r14], 1024;", "_, [%r14], 1040;"),
        ("a copy is larger than its slot", "[%rd4], 1024, [%r14];", "[%rd4], 2048, [%r14];"),
        ("sums are read before they are written", "[%r32], %r20;\n  bar.sync 1, 64;", "[%r32], %r20;"),
        ("a barrier of too many threads", "STAGED:\n  bar.sync 1, 64;", "STAGED:\n  bar.sync 1, 96;"),
        ("a barrier that nobody else comes to", "STAGED:\n  bar.sync 1, 64;", "STAGED:\n  bar.sync 0;"),
        ("an mbarrier is not initialised", "mbarrier.init.shared::cta.b64 [%r3+16], 1;", ""),
        ("an mbarrier expects two arrivals", "[%r3+40], 1;", "[%r3+40], 2;"),
        ("the mbarriers are not announced to the copies", "fence.mbarrier_init.release.cluster;", ""),
        ("no barrier after the initialisation", "INIT:\n  bar.sync 0;", "INIT:"),
        ("a misaligned load", "[%r15];\n", "[%r15+4];\n"),
        (
            "the producer reads a tile too many",
            "setp.ge.u32 %p3, %r11, %r1;\n  @%p3 bra DONE;",
            "setp.gt.u32 %p3, %r11, %r1;\n  @%p3 bra DONE;",
        ),
        ("x is read beyond its end", "setp.ge.u32 %p3, %r16, %r17;", "setp.gt.u32 %p3, %r16, %r17;"),
        ("y is written one row off", "st.global.u32 [%rd6], %r20;", "st.global.u32 [%rd6+4], %r20;"),
        ("both warps write one sum", "shl.b32 %r32, %r6, 2;", "shl.b32 %r32, %r7, 2;"),
        ("the wrong plane", "[%r15+512];", "[%r15+1536];"),
    ];
    let mut missed = Vec::new();
    for (what, from, to) in mistakes {
        let ptx = RING.replacen(from, to, 1);
        assert_ne!(ptx, RING, "{what}: nothing to change");
        for seed in 0..SEEDS {
            if run(&ptx, seed).is_ok() {
                missed.push(format!("{what}: seed {seed}"));
            }
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}
