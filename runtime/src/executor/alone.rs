//! Times of single kernels, for benchmarks.
//!
//! A kernel's launches of all layers are replayed together, so that weights come from where they come from in a step.
//! Invariant: each launch computes on what the first one finds in a step. They share its activations, and no launch
//! writes to what it reads there, so the numbers stay those of a step however often it is replayed. Recurrent states do
//! change, and are lost.

use super::{Executor, too_many};
use crate::device::Recording;
use crate::{Error, Result};
use ir::plan::{Place, Plan, Step};
use std::time::{Duration, Instant};

/// Least seconds of a replay: many times what starting one takes.
const REPLAY: f64 = 1e-3;
/// Most launches of a replay that is made longer.
const LAUNCHES: usize = 1024;

/// A kernel of an entry point, recorded.
#[derive(Clone, Copy)]
pub(super) struct Alone {
    entry: usize,
    kernel: u32,
    /// The step up to the kernel's first launch.
    before: Recording,
    /// Its launches of all layers, so many times.
    launches: Recording,
    copies: usize,
}

impl Executor {
    /// Seconds for all launches of kernel `kernel` in entry point `entry`, both by their numbers in the manifest, with
    /// `tokens` at the current position: the mean of as many as take `least` together. The position stays, the logits
    /// and recurrent states do not. The first call for a kernel records it, which allocates.
    ///
    /// # Errors
    /// As [`Executor::step`] for the tokens, and [`Error::Input`] if the entry point does not launch the kernel.
    pub fn time_kernel(&mut self, entry: usize, kernel: u32, tokens: &[u32], least: Duration) -> Result<f64> {
        let absent = || Error::input(format!("entry point {entry} does not launch kernel {kernel}"));
        let capacity = self.manifest.entries.get(entry).ok_or_else(absent)?.tokens as usize;
        self.check(tokens)?;
        if tokens.len() > capacity {
            return Err(too_many(tokens, capacity));
        }
        self.begin(tokens)?;
        self.recurrent.lose();
        let known = self.alone.iter().find(|a| (a.entry, a.kernel) == (entry, kernel)).copied();
        let alone = match known {
            Some(alone) => alone,
            None => {
                let alone = self.record_alone(entry, kernel)?.ok_or_else(absent)?;
                self.alone.push(alone);
                alone
            }
        };
        self.replay(alone.before)?;
        Ok(self.time(alone.launches, least)? / alone.copies as f64)
    }

    /// Seconds of a replay: the mean of as many as take `least` together.
    fn time(&mut self, recording: Recording, least: Duration) -> Result<f64> {
        let (start, mut replays) = (Instant::now(), 0u32);
        loop {
            self.replay(recording)?;
            replays += 1;
            let elapsed = start.elapsed();
            if elapsed >= least {
                return Ok(elapsed.as_secs_f64() / f64::from(replays));
            }
        }
    }

    /// Records a kernel; `None` if the entry point does not launch it.
    fn record_alone(&mut self, entry: usize, kernel: u32) -> Result<Option<Alone>> {
        let plan = self.manifest.entries[entry].plan.clone();
        let Some((first, own)) = launches(&plan, kernel) else { return Ok(None) };
        let record = |e: &mut Executor, steps: &[Step]| e.bindings.record(&plan, steps);
        let before = record(self, &plan.steps[..first])?;
        let once = record(self, &own)?;
        self.replay(before)?;
        let seconds = self.time(once, Duration::ZERO)?;
        let copies = ((REPLAY / seconds) as usize).clamp(1, LAUNCHES.div_ceil(own.len()));
        let launches = record(self, &vec![own; copies].concat())?;
        Ok(Some(Alone { entry, kernel, before, launches, copies }))
    }
}

/// A kernel's launches in a plan, with the activations of the first, and where that is; `None` if there are none.
fn launches(plan: &Plan, kernel: u32) -> Option<(usize, Vec<Step>)> {
    let own = |step: &Step| step.launch().filter(|(k, _)| *k == kernel).map(|(_, buffers)| buffers.to_vec());
    let first = plan.steps.iter().position(|step| own(step).is_some())?;
    let firsts = own(&plan.steps[first])?;
    let in_arena = |b: u32| plan.buffers.get(b as usize).is_some_and(|b| matches!(b.place, Place::Arena { .. }));
    let all = plan.steps.iter().filter_map(own).map(|buffers| {
        let shared = buffers.iter().zip(&firsts).map(|(&b, &first)| if in_arena(b) { first } else { b });
        Step::Launch { kernel, buffers: shared.collect() }
    });
    Some((first, all.collect()))
}
