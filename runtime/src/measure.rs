//! What the machine can do at most: read bandwidth and int8 products with the threads that a model runs on, copies within
//! the memory of a device, reads of a disk. These are the bounds that benchmarks compare with, measured between their runs.

use crate::device::{Command, Held, Pool, Recording, Region, Shared};
use crate::reader::{self, OnDisk, Piece, Reading, Source};
use crate::sys::{Arena, Mapping, memory, thread};
use crate::{Error, Result};
use ir::target::Isa;
use microkernels::measure::Measure;
use std::path::Path;
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

/// Bytes that a measurement of copies copies at once, and on an emulated device.
const COPY: u64 = 512 << 20;
const EMULATED_COPY: u64 = 64 << 10;
/// Copies between two waits.
const COPIES: u64 = 8;

/// Memory of a device that is copied to other memory of it.
pub struct Copies {
    held: Held,
    recording: Recording,
    bytes: u64,
}

impl Copies {
    /// Takes memory of the device for it, until this is dropped.
    ///
    /// # Errors
    /// [`Error::Memory`], [`Error::Device`].
    pub fn new(device: &Shared) -> Result<Copies> {
        let most = if device.get().info().emulated { EMULATED_COPY } else { COPY };
        let free = device.get().free_memory()?;
        let bytes = free.map_or(most, |free| most.min(free / 4)) / ALIGN as u64 * ALIGN as u64;
        let mut held = Held::new(device.clone());
        let what = "the measurement of copies";
        let (from, to) = (held.alloc(bytes, what)?, held.alloc(bytes, what)?);
        held.fill(from, &[0x5a; ALIGN])?;
        let copies = (0..COPIES).map(|n| match n % 2 {
            0 => Command::Copy { from, to },
            _ => Command::Copy { from: to, to: from },
        });
        let recording = held.record(&copies.collect::<Vec<_>>(), Region { bytes: bytes.min(64), ..from })?;
        Ok(Copies { held, recording, bytes })
    }

    /// Bytes a second that are read and written.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn bytes_per_second(&mut self) -> Result<f64> {
        let mut device = self.held.device();
        let start = Instant::now();
        device.replay(self.recording)?;
        device.sync()?;
        Ok((2 * COPIES * self.bytes) as f64 / start.elapsed().as_secs_f64().max(1e-9))
    }
}

/// Most bytes of a file that are read to measure its disk, and the longest time that it may take.
const DISK: u64 = 2 << 30;
const DISK_TIME: Duration = Duration::from_secs(4);
/// Bytes of a read.
const DISK_PIECE: usize = 4 << 20;

/// How fast a file is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FileRate {
    /// Bytes that were read, of parts all over the file that were not in memory.
    pub bytes: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// The share of the parts that was looked at and in the page cache already.
    pub cached: f64,
}

impl FileRate {
    /// Reads parts of a file as weights are read, several at once, past the page cache where that works.
    ///
    /// # Errors
    /// [`Error::Io`], and those of the reader.
    pub fn measure(path: &Path) -> Result<FileRate> {
        let mapping = Mapping::open(path).map_err(|e| Error::io(path, e))?;
        let source = OnDisk::new(path, &mapping, Reading { lends: false, keeps: false });
        let len = mapping.bytes().len() as u64;
        let step = DISK_PIECE as u64 * len.div_ceil(DISK).max(1);
        let pieces = (0..len).step_by(step as usize).map(|offset| Piece {
            source: &source,
            offset,
            bytes: DISK_PIECE.min((len - offset) as usize),
        });
        let all: Vec<Piece<'_>> = pieces.collect();
        let cold: Vec<Piece<'_>> = all.iter().copied().filter(|p| !source.cached(p.offset, p.bytes)).collect();
        let slot = reader::slot_for(DISK_PIECE);
        let mut ring = Arena::new((16 * slot) as u64, "the buffers for reading")?;
        let mut slots: Vec<&mut [u8]> = ring.bytes_mut().chunks_exact_mut(slot).collect();
        let start = Instant::now();
        let bytes = reader::read(&cold, &mut slots, |reader| {
            let mut bytes = 0;
            while let Some(filled) = reader.next() {
                bytes += filled.bytes().len() as u64;
                if start.elapsed() > DISK_TIME {
                    break;
                }
            }
            Ok(bytes)
        })?;
        let seconds = start.elapsed().as_secs_f64().max(1e-9);
        Ok(FileRate { bytes, seconds, cached: 1.0 - cold.len() as f64 / all.len().max(1) as f64 })
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
