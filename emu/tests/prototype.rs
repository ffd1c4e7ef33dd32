//! Kernels of the kind that rigc emits, written by hand for other shapes: they parse, and those whose layout is known give
//! the right sums.

mod common;
mod gemv;

use common::shared_dir;
use emu::{Counters, Error, Launch, Memory, Module, Options, Schedule};
use gemv::Gemv;

/// Runs a kernel of the GEMV of 8192 rows and columns, and checks the result.
fn run(name: &str, text: &str, gemv: &Gemv, dynamic_shared: u64, seed: u64) -> Result<Counters, Error> {
    let module = Module::parse(text).unwrap_or_else(|e| panic!("{name}: {e}"));
    let entry = &module.entries()[0];
    let block = entry.max_threads.unwrap();
    let mut memory = Memory::new(1 << 30);
    let loaded = module.load(&mut memory).unwrap();
    let (params, y) = gemv.upload(&mut memory);
    let launch = Launch { entry: entry.name.clone(), grid: [170, 1, 1], block, dynamic_shared, params };
    let options = Options { schedule: Schedule { seed }, ..Options::default() };
    let counters = loaded.run(&mut memory, &launch, &options)?;
    gemv.check(memory.read(y, 8192 * 4).unwrap());
    Ok(counters)
}

/// Single mistakes in the kernel with the ring of bulk copies.
const MISTAKES: &[(&str, &str, &str)] = &[
    ("no wait for an empty slot", "@!%p4 bra PW;", ""),
    ("no wait for a full slot", "@!%p5 bra CW;", ""),
    ("no barrier after staging", "bar.sync 1,128;", ""),
    ("no bar.warp.sync", "bar.warp.sync 0xffffffff;", ""),
    ("too few bytes expected", "[%r34],4608;", "[%r34],4592;"),
    ("too many bytes expected", "[%r34],4608;", "[%r34],4624;"),
    (
        "no last barrier",
        "bar.sync 1,128;\n  shr.u32 %r20,%r14,5;\n  shr.u32 %r21,%r2,5;\n  sub",
        "shr.u32 %r20,%r14,5;\n  shr.u32 %r21,%r2,5;\n  sub",
    ),
    ("a misaligned load", "[%r62+4096]", "[%r62+4100]"),
    ("a load of the wrong scales", "[%r62+4096]", "[%r62+4112]"),
    ("a tile too many", "@%p3 bra FIN;", "setp.gt.u32 %p3,%r30,%r3;\n  @%p3 bra FIN;"),
    ("a barrier of the wrong count", "bar.sync 1,128;", "bar.sync 1,160;"),
    ("an mbarrier not initialised", "mbarrier.init.shared::cta.b64 [%r17+16],1;", ""),
];

#[test]
fn the_kernels_parse_and_the_gemvs_are_right() {
    let Some(dir) = shared_dir("gpu/prototype") else { return };
    let gemv = Gemv::new(8192, 8192);
    let mut parsed = 0;
    let mut entries: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries.iter().filter(|p| p.extension().is_some_and(|e| e == "ptx")) {
        let text = std::fs::read_to_string(path).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if text.contains("kind::") {
            let refused = Module::parse(&text).unwrap_err();
            assert!(refused.what.contains("mma"), "{name}: {refused}");
            continue;
        }
        Module::parse(&text).unwrap_or_else(|e| panic!("{name}: {e}"));
        parsed += 1;
        let dynamic_shared = match name {
            "a_q4_tma_dp4a" => 86272,
            "b_q4_ldg_dp4a" => 14336,
            _ => continue,
        };
        run(name, &text, &gemv, dynamic_shared, 1).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    assert!(parsed >= 5, "{parsed} kernels");
}

#[test]
fn mistakes_in_the_ring_are_found_under_every_schedule() {
    let Some(dir) = shared_dir("gpu/prototype") else { return };
    let text = std::fs::read_to_string(dir.join("a_q4_tma_dp4a.ptx")).unwrap();
    let gemv = Gemv::new(8192, 8192);
    for (what, from, to) in MISTAKES {
        let wrong = text.replacen(from, to, 1);
        assert_ne!(wrong, text, "{what}");
        for seed in 0..2 {
            match run(what, &wrong, &gemv, 86272, seed) {
                Err(Error::Fault(_)) => {}
                other => panic!("{what}, seed {seed}: {other:?}"),
            }
        }
    }
}
