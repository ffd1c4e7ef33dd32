//! Kernels that other compilers made: each gives what it must under every schedule, or is refused by name.

mod common;

use common::shared_dir;
use emu::case::{Case, Outcome, find};
use emu::{Options, Schedule};

/// What a refusal says: which instructions are not executed, or which function neither the module nor the emulator has.
const REFUSALS: [&str; 2] = ["the emulator does not execute ", " has no body in this module"];

#[test]
fn every_case_ends_as_it_must_or_is_refused() {
    let Some(dir) = shared_dir("ptx-others") else { return };
    let (mut misses, mut runs, mut refused) = (Vec::new(), 0, 0);
    for folder in find(&dir).unwrap() {
        let case = Case::read(&folder).unwrap();
        for (target, ptx) in &case.ptx {
            for seed in [0, 7, 12345] {
                let outcome = case.run(ptx, &Options { schedule: Schedule { seed }, ..Options::default() });
                runs += 1;
                match outcome {
                    Outcome::Pass => {}
                    Outcome::Refused(why) if !why.contains('\n') && REFUSALS.iter().any(|r| why.contains(r)) => {
                        refused += 1
                    }
                    _ => misses.push(format!("{} {target} seed {seed}: {outcome}", case.name)),
                }
            }
        }
    }
    eprintln!("{refused} of {runs} refused");
    assert!(misses.is_empty(), "{} of {runs}:\n{}", misses.len(), misses.join("\n"));
}

#[test]
fn a_fence_that_is_missing_is_found() {
    let Some(dir) = shared_dir("ptx-others/c_threadfence_reduce") else { return };
    let case = Case::read(&dir).unwrap();
    for (target, ptx) in &case.ptx {
        let without = ptx.replace("membar.gl;", "");
        assert_ne!(&without, ptx, "{target} has no membar");
        let found =
            |seed| case.run(&without, &Options { schedule: Schedule { seed }, ..Options::default() }) != Outcome::Pass;
        assert!((1..13).any(found), "{target}");
    }
}
