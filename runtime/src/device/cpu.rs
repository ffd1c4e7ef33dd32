//! The CPU as a [`Device`]: code modules in executable memory, run by the worker [`Pool`].
//!
//! Recording lays out one [`Frame`] for each launch and worker; a replay is a job of the pool for each run of launches
//! between copies, in which every worker walks through the launches and meets the others at a barrier after each. Copies
//! take place at once. Invariant: everything that a frame points to stays where it is as long as its recording lives:
//! memory and modules that a recording uses are not given back. Next hop: the generated code.

use super::pool::{Pool, barrier, meet};
use super::{
    Command, Device, HostBytes, Info, Kernel, Launch, Lent, Memory, Module, Recording, Region, Slots, Ticket, same_size,
};
use crate::sys::{self, Arena, CodeMemory};
use crate::{Error, Result};
use ir::abi::{Atom, Control, Frame, KernelFn, TICKET_BYTES};
use ir::artifact::{KernelEntry, Param};
use ir::target::Target;
use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Alignment that imported memory must have: the widest vectors that generated code loads itself.
const IMPORT_ALIGN: usize = 16;
/// Most stages of a kernel with work counters.
const MAX_TICKETS: u32 = 4096;

/// A work counter in a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Counter(AtomicU64);
const _: () = assert!(size_of::<Counter>() == TICKET_BYTES);

/// An allocation.
enum Bytes {
    Own(Arc<Arena>),
    Import(HostBytes),
}

/// An allocation, and how many recordings use it.
struct Allocation {
    bytes: Bytes,
    uses: usize,
}

/// A loaded kernel.
struct Loaded {
    name: String,
    function: KernelFn,
    tickets: u32,
    params: Vec<Param>,
}

/// A loaded module, and how many recordings use it.
struct Code {
    kernels: Vec<Loaded>,
    uses: usize,
    /// Where the functions are.
    _memory: CodeMemory,
}

/// Something to do between two barriers of all workers.
enum Segment {
    /// These launches.
    Launches(Range<usize>),
    Copy {
        from: *const u8,
        to: *mut u8,
        bytes: usize,
    },
}

/// Commands bound to memory. Frames point into the other fields, whose contents stay in place.
struct Recorded {
    segments: Vec<Segment>,
    functions: Box<[KernelFn]>,
    /// Their kernels.
    kernels: Box<[Kernel]>,
    /// Launch after launch, one for each worker.
    frames: Box<[Frame]>,
    tickets: Vec<Counter>,
    /// What frames point to.
    _buffers: Vec<*mut u8>,
    /// What is used.
    memories: Vec<Memory>,
}

/// The CPU with a pool of workers.
pub struct CpuDevice {
    info: Info,
    pool: Pool,
    atoms: Box<[usize]>,
    memories: Slots<Allocation>,
    modules: Slots<Code>,
    /// Scratch bytes of each worker that the loaded kernels need.
    scratch_bytes: u64,
    /// Scratch memory of all workers; recordings made before it grew keep the old one.
    scratch: Vec<Arena>,
    recorded: Slots<Recorded>,
}

// SAFETY: all pointers inside lead to memory that the device owns (or shares, for imports) and that does not depend on the
// thread that uses it.
unsafe impl Send for CpuDevice {}

/// A recording as the workers share it.
struct Replay<'a> {
    recorded: &'a Recorded,
    launches: Range<usize>,
    /// The launch in which a worker panicked first, or [`NO_LAUNCH`].
    failed: AtomicUsize,
}

/// No launch of a recording.
const NO_LAUNCH: usize = usize::MAX;

// SAFETY: workers only read functions and frames, each its own; what the frames point to is shared by the kernels' own
// rules (atomic tickets, disjoint parts of buffers, barriers), which the generator of the code guarantees.
unsafe impl Sync for Replay<'_> {}

impl Replay<'_> {
    /// Runs worker `worker`'s share, or as much as there is until another worker panics.
    fn run(&self, worker: usize) {
        let Recorded { functions, frames, .. } = self.recorded;
        let Some(workers) = frames.len().checked_div(functions.len()) else { return };
        let mut progress = Progress { replay: self, launch: self.launches.start };
        for (i, function) in functions.iter().enumerate().take(self.launches.end).skip(self.launches.start) {
            progress.launch = i;
            let frame = &frames[i * workers + worker];
            // SAFETY: `record` bound as many regions as the kernel has parameters, each inside of living memory and of the
            // size that the kernel's entry demands, which is that of the code.
            unsafe { function(frame) };
            if i + 1 < self.launches.end {
                // SAFETY: the handle is of the pool that runs this.
                let go_on = unsafe { meet(frame.pool, worker) };
                if !go_on {
                    return;
                }
            }
        }
    }
}

/// Where a worker is; tells the replay when it is unwound.
struct Progress<'a> {
    replay: &'a Replay<'a>,
    launch: usize,
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (order, failed) = (Ordering::Relaxed, &self.replay.failed);
            // An earlier panic of another worker is the one that is told.
            let _ = failed.compare_exchange(NO_LAUNCH, self.launch, order, order);
        }
    }
}

/// What a panic says.
fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".into())
}

impl CpuDevice {
    /// This machine's CPU for code of `target`, with a pool of `workers`.
    ///
    /// # Errors
    /// [`Error::Device`] if the CPU lacks what the target needs; [`Error::Limit`] for an absurd number of workers.
    pub fn new(target: &Target, workers: usize) -> Result<CpuDevice> {
        let Some(mut atoms) = target.cpu().and_then(microkernels::table) else {
            return Err(Error::device(format!(
                "this CPU lacks instructions of {}; compile the model for this machine (--target native)",
                target.name
            )));
        };
        let pool = Pool::new(workers)?;
        atoms[Atom::Barrier as usize] = barrier as *const () as usize;
        Ok(CpuDevice {
            info: Info { name: "cpu".into(), target: target.name.into(), workers, emulated: false },
            pool,
            atoms: atoms.into(),
            memories: Slots::new("memory"),
            modules: Slots::new("module"),
            scratch_bytes: 0,
            scratch: Vec::new(),
            recorded: Slots::new("recording"),
        })
    }

    fn add(&mut self, bytes: Bytes) -> Result<Memory> {
        self.memories.add(Allocation { bytes, uses: 0 }).map(Memory)
    }

    fn kernel(&self, kernel: Kernel) -> Result<&Loaded> {
        let module = self.modules.get(kernel.module.0)?;
        module.kernels.get(kernel.number as usize).ok_or_else(|| Error::foreign("kernel", kernel.number))
    }

    /// The address of a region, which lies in its allocation.
    fn address(&self, region: Region) -> Result<*mut u8> {
        let (base, len) = match &self.memories.get(region.memory.0)?.bytes {
            Bytes::Own(arena) => (arena.as_ptr(), arena.len()),
            // Kernels only read imports.
            Bytes::Import(bytes) => (bytes.as_ref().as_ptr().cast_mut(), bytes.as_ref().len()),
        };
        region.check(len as u64)?;
        Ok(base.wrapping_add(region.offset as usize))
    }

    /// The addresses of the two ends of a copy, and its bytes.
    fn ends(&self, from: Region, to: Region) -> Result<(*const u8, *mut u8, usize)> {
        same_size(from, to)?;
        if matches!(self.memories.get(to.memory.0)?.bytes, Bytes::Import(_)) {
            return Err(Error::device("imported memory cannot be written"));
        }
        Ok((self.address(from)?, self.address(to)?, from.bytes as usize))
    }

    /// Scratch memory that suits every loaded kernel: its start, and each worker's share in bytes.
    fn scratch(&mut self) -> Result<(*mut u8, u64)> {
        let workers = self.pool.workers() as u64;
        let stride = self.scratch_bytes.checked_next_multiple_of(128).unwrap_or(u64::MAX);
        let need = stride.saturating_mul(workers);
        if self.scratch.last().is_none_or(|a| (a.len() as u64) < need) {
            let arena = Arena::new(need, "the workers' scratch memory")?;
            arena.populate();
            self.scratch.push(arena);
        }
        Ok((self.scratch.last().map_or(std::ptr::null_mut(), Arena::as_ptr), stride))
    }
}

impl Device for CpuDevice {
    fn info(&self) -> &Info {
        &self.info
    }

    fn free_memory(&self) -> Result<Option<u64>> {
        Ok(sys::memory::available())
    }

    fn alloc(&mut self, bytes: u64, what: &str) -> Result<Memory> {
        self.add(Bytes::Own(Arc::new(Arena::new(bytes, what)?)))
    }

    fn staging(&mut self, bytes: u64, what: &str) -> Result<Memory> {
        self.alloc(bytes, what)
    }

    fn import(&mut self, bytes: HostBytes) -> Option<Memory> {
        if !(bytes.as_ref().as_ptr() as usize).is_multiple_of(IMPORT_ALIGN) {
            return None;
        }
        self.add(Bytes::Import(bytes)).ok()
    }

    fn free(&mut self, memory: Memory) -> Result<()> {
        if self.memories.get(memory.0)?.uses > 0 {
            return Err(Error::device("memory that a recording uses cannot be given back"));
        }
        self.memories.remove(memory.0).map(drop)
    }

    fn host_bytes(&mut self, memory: Memory) -> Option<&mut [u8]> {
        match &mut self.memories.get_mut(memory.0).ok()?.bytes {
            Bytes::Own(arena) => Arc::get_mut(arena).map(Arena::bytes_mut),
            Bytes::Import(_) => None,
        }
    }

    fn lend(&mut self, memory: Memory) -> Option<Lent> {
        let Bytes::Own(arena) = &mut self.memories.get_mut(memory.0).ok()?.bytes else { return None };
        Lent::of_arena(memory, arena)
    }

    fn copy(&mut self, from: Region, to: Region) -> Result<Ticket> {
        let (from, to, bytes) = self.ends(from, to)?;
        // SAFETY: both lie in living memory, and no kernel runs.
        unsafe { std::ptr::copy(from, to, bytes) };
        Ok(Ticket(0))
    }

    fn done(&mut self, _ticket: Ticket) -> Result<bool> {
        Ok(true)
    }

    fn wait(&mut self, _ticket: Ticket) -> Result<()> {
        Ok(())
    }

    fn load(&mut self, code: &[u8], kernels: &[&KernelEntry]) -> Result<(Module, Vec<Kernel>)> {
        let memory = CodeMemory::new(code)?;
        let mut loaded = Vec::with_capacity(kernels.len());
        for k in kernels {
            let inside = k.bytes > 0 && k.offset.checked_add(k.bytes).is_some_and(|end| end <= code.len() as u64);
            let Some(address) = memory.address(k.offset).filter(|_| inside && k.tickets <= MAX_TICKETS) else {
                return Err(Error::device(format!("kernel {} lies outside of its module", k.name)));
            };
            // SAFETY: the artifact is trusted like an executable: its manifest says that a function of this type starts
            // here, and the check above that it lies in the module.
            let function = unsafe { std::mem::transmute::<*const u8, KernelFn>(address) };
            loaded.push(Loaded { name: k.name.clone(), function, tickets: k.tickets, params: k.params.clone() });
        }
        let scratch = kernels.iter().map(|k| k.scratch_bytes).max().unwrap_or(0);
        self.scratch_bytes = self.scratch_bytes.max(scratch);
        let module = Module(self.modules.add(Code { kernels: loaded, uses: 0, _memory: memory })?);
        Ok((module, (0..kernels.len() as u32).map(|number| Kernel { module, number }).collect()))
    }

    fn unload(&mut self, module: Module) -> Result<()> {
        if self.modules.get(module.0)?.uses > 0 {
            return Err(Error::device("a module that a recording uses cannot be given back"));
        }
        self.modules.remove(module.0).map(drop)
    }

    fn record(&mut self, commands: &[Command], control: Region) -> Result<Recording> {
        let (scratch, stride) = self.scratch()?;
        let workers = self.pool.workers();
        let control_at = self.address(control)?.cast::<Control>();
        if !control_at.is_aligned() || control.bytes < size_of::<Control>() as u64 {
            return Err(Error::device("the control words have no place"));
        }
        let (mut segments, mut launches, mut memories) = (Vec::new(), Vec::<&Launch>::new(), vec![control.memory]);
        let (mut buffers, mut ticket_count) = (Vec::new(), 0);
        for command in commands {
            match command {
                Command::Copy { from, to } => {
                    let (source, target, bytes) = self.ends(*from, *to)?;
                    segments.push(Segment::Copy { from: source, to: target, bytes });
                    memories.extend([from.memory, to.memory]);
                }
                Command::Launch(launch) => {
                    let k = self.kernel(launch.kernel)?;
                    launch.check(&k.name, &k.params)?;
                    for &region in &launch.buffers {
                        buffers.push(region.map_or(Ok(std::ptr::null_mut()), |r| self.address(r))?);
                    }
                    memories.extend(launch.buffers.iter().flatten().map(|r| r.memory));
                    ticket_count += k.tickets as usize * workers;
                    match segments.last_mut() {
                        Some(Segment::Launches(range)) => range.end += 1,
                        _ => segments.push(Segment::Launches(launches.len()..launches.len() + 1)),
                    }
                    launches.push(launch);
                }
            }
        }
        let kernels: Vec<Kernel> = launches.iter().map(|l| l.kernel).collect();
        let tickets: Vec<Counter> = (0..ticket_count).map(|_| Counter::default()).collect();
        let mut frames = Vec::with_capacity(launches.len() * workers);
        let (mut functions, mut next_buffer, mut next_ticket) = (Vec::new(), 0, 0);
        for launch in launches {
            let k = self.kernel(launch.kernel)?;
            for worker in 0..workers {
                frames.push(Frame {
                    atoms: self.atoms.as_ptr(),
                    buffers: buffers[next_buffer..].as_ptr(),
                    control: control_at,
                    tickets: tickets[next_ticket..].as_ptr().cast(),
                    scratch: scratch.wrapping_add(worker * stride as usize),
                    pool: self.pool.handle(),
                    worker: worker as u32,
                    workers: workers as u32,
                });
            }
            functions.push(k.function);
            next_buffer += launch.buffers.len();
            next_ticket += k.tickets as usize * workers;
        }
        for memory in &memories {
            self.memories.get_mut(memory.0)?.uses += 1;
        }
        for kernel in &kernels {
            self.modules.get_mut(kernel.module.0)?.uses += 1;
        }
        let (functions, frames, kernels) = (functions.into(), frames.into(), kernels.into());
        let recorded = Recorded { segments, functions, kernels, frames, tickets, _buffers: buffers, memories };
        self.recorded.add(recorded).map(Recording)
    }

    fn erase(&mut self, recording: Recording) -> Result<()> {
        let recorded = self.recorded.remove(recording.0)?;
        for memory in &recorded.memories {
            self.memories.get_mut(memory.0)?.uses -= 1;
        }
        for kernel in &recorded.kernels {
            self.modules.get_mut(kernel.module.0)?.uses -= 1;
        }
        Ok(())
    }

    fn replay(&mut self, recording: Recording) -> Result<()> {
        let recorded = self.recorded.get(recording.0)?;
        for ticket in &recorded.tickets {
            ticket.0.store(0, Ordering::Relaxed);
        }
        for segment in &recorded.segments {
            let launches = match segment {
                Segment::Launches(launches) => launches.clone(),
                Segment::Copy { from, to, bytes } => {
                    // SAFETY: both lie in memory that is not given back, and no kernel runs.
                    unsafe { std::ptr::copy(*from, *to, *bytes) };
                    continue;
                }
            };
            let replay = Replay { recorded, launches, failed: AtomicUsize::new(NO_LAUNCH) };
            let pool = &mut self.pool;
            catch_unwind(AssertUnwindSafe(|| pool.run(&|worker| replay.run(worker)))).map_err(|panic| {
                let launch = replay.failed.load(Ordering::Relaxed);
                let kernel = recorded.kernels.get(launch).and_then(|&k| {
                    let module = self.modules.get(k.module.0).ok()?;
                    module.kernels.get(k.number as usize)
                });
                let kernel = kernel.map(|k| k.name.clone()).unwrap_or_default();
                Error::Launch { kernel, launch: Some(launch), cause: message(&*panic) }
            })?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
