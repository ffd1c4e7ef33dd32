//! What the machine can do at most, with the threads that a model runs on: read bandwidth and int8 products. These are the
//! bounds that benchmarks compare with, measured between their runs.

use crate::device::Pool;
use crate::sys::{Arena, memory, thread};
use crate::{Error, Result};
use ir::target::Isa;
use microkernels::measure::Measure;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Bytes that a measurement of bandwidth reads; far more than caches hold.
const BYTES: u64 = 640 << 20;
/// Bytes of a thread's part are a multiple of this.
const ALIGN: usize = 4096;
/// Least time of a measurement of products.
const DOT_TIME: Duration = Duration::from_millis(40);

/// Memory and threads to measure with.
#[derive(Debug)]
pub struct Machine {
    measure: Measure,
    pool: Pool,
    /// In small pages and in huge ones.
    memory: [Arena; 2],
    /// Rounds of dots that take about [`DOT_TIME`].
    rounds: u64,
}

impl Machine {
    /// Measures `isa` on `threads` threads; 0 for one on each core.
    ///
    /// # Errors
    /// [`Error::Device`] if the CPU does not have the instruction set, [`Error::Memory`].
    pub fn new(isa: Isa, threads: usize) -> Result<Machine> {
        let measure = Measure::new(isa).ok_or_else(|| Error::device(format!("this CPU does not run {isa:?} code")))?;
        let what = "the measurement of memory bandwidth";
        if let Some(have) = memory::available().filter(|&have| have < 2 * BYTES) {
            return Err(Error::Memory { what: what.into(), need: 2 * BYTES, have: Some(have) });
        }
        let arenas = [Arena::in_small_pages(BYTES, what)?, Arena::new(BYTES, what)?];
        arenas.iter().for_each(Arena::populate);
        let pool = Pool::new(if threads == 0 { thread::cores() } else { threads })?;
        let mut machine = Machine { measure, pool, memory: arenas, rounds: 1 << 14 };
        while machine.rounds < 1 << 40 && machine.time_dots().1 < DOT_TIME {
            machine.rounds *= 2;
        }
        Ok(machine)
    }

    /// Bytes a second that all threads together read: the best of plain and prefetched reads of small and of huge pages.
    pub fn read_bytes_per_second(&mut self) -> f64 {
        let mut best = 0f64;
        for arena in &self.memory {
            let bytes = arena.bytes();
            let part = (bytes.len() / self.pool.workers()).next_multiple_of(ALIGN);
            let measure = self.measure;
            for prefetched in [false, true] {
                let time = span(&mut self.pool, |worker| {
                    let start = (worker * part).min(bytes.len());
                    let end = (start + part).min(bytes.len());
                    std::hint::black_box(measure.read(&bytes[start..end], prefetched));
                });
                best = best.max(bytes.len() as f64 / time.as_secs_f64());
            }
        }
        best
    }

    /// Int8 products a second that all threads together add up, on registers.
    pub fn int8_macs_per_second(&mut self) -> f64 {
        let (macs, time) = self.time_dots();
        macs as f64 / time.as_secs_f64()
    }

    fn time_dots(&mut self) -> (u64, Duration) {
        let (measure, rounds) = (self.measure, self.rounds);
        let total = Mutex::new(0);
        let time = span(&mut self.pool, |_| {
            let macs = measure.dots(rounds);
            if let Ok(mut total) = total.lock() {
                *total += macs;
            }
        });
        (total.into_inner().unwrap_or_default(), time)
    }
}

/// Runs `work` on all threads; from the first start to the last end, at least a nanosecond.
fn span(pool: &mut Pool, work: impl Fn(usize) + Sync) -> Duration {
    let times = Mutex::new(Vec::with_capacity(pool.workers()));
    pool.run(&|worker| {
        let start = Instant::now();
        work(worker);
        let end = Instant::now();
        if let Ok(mut times) = times.lock() {
            times.push((start, end));
        }
    });
    let times = times.into_inner().unwrap_or_default();
    let (start, end) = (times.iter().map(|t| t.0).min(), times.iter().map(|t| t.1).max());
    let time = start.zip(end).map_or(Duration::ZERO, |(start, end)| end - start);
    time.max(Duration::from_nanos(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plausible() {
        let isas = [Isa::X86_64, Isa::X86_64V3, Isa::X86_64V4Vnni];
        let Some(isa) = isas.into_iter().rev().find(|&isa| Measure::new(isa).is_some()) else { return };
        for threads in [1, 2] {
            let mut machine = Machine::new(isa, threads).unwrap();
            // Slower than any machine in use, faster than none.
            assert!((1e8..1e13).contains(&machine.read_bytes_per_second()));
            assert!((1e8..1e15).contains(&machine.int8_macs_per_second()));
        }
    }
}
