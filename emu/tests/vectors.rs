//! The PTX vectors: kernels that others wrote and nvcc compiled, with the outputs that a correct execution gives.

mod common;

use common::shared_dir;
use emu::case::{Case, Outcome, find};
use emu::{Options, Schedule};

#[test]
fn every_case_ends_as_it_must_under_every_schedule() {
    let Some(dir) = shared_dir("ptx-vectors") else { return };
    let mut misses = Vec::new();
    let mut runs = 0;
    for folder in find(&dir).unwrap() {
        let case = Case::read(&folder).unwrap();
        for (target, ptx) in &case.ptx {
            for (seed, resident_ctas) in [(0, Some(16)), (1, Some(1)), (2, Some(3)), (3, None), (4, Some(2))] {
                let options = Options { schedule: Schedule { seed }, resident_ctas, ..Options::default() };
                let outcome = case.run(ptx, &options);
                runs += 1;
                if outcome != Outcome::Pass {
                    misses.push(format!("{} {target} seed {seed}: {outcome}", case.name));
                }
            }
        }
    }
    assert!(runs >= 15, "only {runs} runs");
    assert!(misses.is_empty(), "{} of {runs}:\n{}", misses.len(), misses.join("\n"));
}
