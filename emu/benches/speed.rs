//! Million thread-instructions per second on one core, all checks on: of a quantised GEMV whose weights come through a ring
//! of bulk copies, and of the PTX vectors. `cargo bench -p rigc-emu`.

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/gemv/mod.rs"]
mod gemv;

use common::shared_dir;
use emu::case::{Case, find};
use emu::{Launch, Memory, Module, Options};
use gemv::Gemv;
use std::time::Instant;

fn main() {
    let Some(dir) = shared_dir("gpu/prototype") else { return };
    let text = std::fs::read_to_string(dir.join("a_q4_tma_dp4a.ptx")).expect("the kernel can be read");
    let module = Module::parse(&text).expect("the kernel parses");
    let gemv = Gemv::new(8192, 8192);
    let mut memory = Memory::new(1 << 30);
    let loaded = module.load(&mut memory).expect("memory is enough");
    let (params, y) = gemv.upload(&mut memory);
    let launch =
        Launch { entry: "q4_tma_dp4a".into(), grid: [170, 1, 1], block: [160, 1, 1], dynamic_shared: 86272, params };
    let start = Instant::now();
    let counters = loaded.run(&mut memory, &launch, &Options::default()).expect("the kernel is correct");
    let seconds = start.elapsed().as_secs_f64();
    gemv.check(memory.read(y, 8192 * 4).expect("the result is complete"));
    report("q4_tma_dp4a 8192 x 8192", counters.instructions(), seconds);
    let Some(dir) = shared_dir("ptx-vectors") else { return };
    for folder in find(&dir).expect("there are cases") {
        let case = Case::read(&folder).expect("the case can be read");
        let Some(ptx) = case.ptx.get("sm_90").filter(|_| case.expect_fault.is_none()) else { continue };
        let start = Instant::now();
        let counters = case.count(ptx, &Options::default()).expect("the case runs");
        report(&case.name, counters.instructions(), start.elapsed().as_secs_f64());
    }
}

fn report(name: &str, instructions: u64, seconds: f64) {
    let rate = instructions as f64 / seconds / 1e6;
    println!("{name:<28} {instructions:>10} thread-instructions  {:>8.1} ms  {rate:>6.1} M/s", seconds * 1e3);
}
