//! The CPU as a [`Device`]: code modules in executable memory, run by the worker [`Pool`].
//!
//! Recording lays out one [`Frame`] for each launch and worker; a replay is one job of the pool in which every worker
//! walks through the launches and meets the others at a barrier after each. Invariant: everything that a frame points to
//! stays where it is as long as the device lives. Next hop: the generated code.

use super::pool::{Pool, barrier, meet};
use super::{Device, HostBytes, Info, Kernel, Launch, Memory, Recording, Region};
use crate::sys::{Arena, CodeMemory};
use crate::{Error, Result};
use ir::abi::{Atom, Control, Frame, KernelFn, TICKET_BYTES};
use ir::artifact::{KernelEntry, Param};
use ir::target::Target;
use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Alignment that imported memory must have: the widest vectors that generated code loads itself.
const IMPORT_ALIGN: usize = 16;
/// Most stages of a kernel with work counters.
const MAX_TICKETS: u32 = 4096;

/// A work counter in a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Ticket(AtomicU64);
const _: () = assert!(size_of::<Ticket>() == TICKET_BYTES);

/// An allocation.
enum Bytes {
    Own(Arena),
    Import(HostBytes),
}

/// A loaded kernel.
struct Loaded {
    name: String,
    function: KernelFn,
    tickets: u32,
    params: Vec<Param>,
}

/// Launches bound to memory. Frames point into the other fields, whose contents stay in place.
struct Recorded {
    functions: Box<[KernelFn]>,
    /// The numbers of their kernels.
    kernels: Box<[u32]>,
    /// Launch after launch, one for each worker.
    frames: Box<[Frame]>,
    tickets: Vec<Ticket>,
    /// What frames point to.
    _buffers: Vec<*mut u8>,
}

/// The CPU with a pool of workers.
pub struct CpuDevice {
    info: Info,
    pool: Pool,
    atoms: Box<[usize]>,
    control: Box<UnsafeCell<Control>>,
    memories: Vec<Bytes>,
    modules: Vec<CodeMemory>,
    kernels: Vec<Loaded>,
    /// Scratch bytes of each worker that the loaded kernels need.
    scratch_bytes: u64,
    /// Scratch memory of all workers; recordings made before it grew keep the old one.
    scratch: Vec<Arena>,
    recorded: Vec<Recorded>,
}

// SAFETY: all pointers inside lead to memory that the device owns (or shares, for imports) and that does not depend on the
// thread that uses it.
unsafe impl Send for CpuDevice {}

/// A recording as the workers share it.
struct Replay<'a> {
    recorded: &'a Recorded,
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
        let mut progress = Progress { replay: self, launch: 0 };
        for (i, function) in functions.iter().enumerate() {
            progress.launch = i;
            let frame = &frames[i * workers + worker];
            // SAFETY: `record` bound as many regions as the kernel has parameters, each inside of living memory and of the
            // size that the kernel's entry demands, which is that of the code.
            unsafe { function(frame) };
            if i + 1 < functions.len() {
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
            info: Info { name: "cpu".into(), target: target.name.into(), workers },
            pool,
            atoms: atoms.into(),
            control: Box::default(),
            memories: Vec::new(),
            modules: Vec::new(),
            kernels: Vec::new(),
            scratch_bytes: 0,
            scratch: Vec::new(),
            recorded: Vec::new(),
        })
    }

    fn add<T>(list: &mut Vec<T>, item: T) -> Result<u32> {
        let n = u32::try_from(list.len()).map_err(|_| Error::device("the device has too many objects"))?;
        list.push(item);
        Ok(n)
    }

    fn memory(&self, memory: Memory) -> Result<&Bytes> {
        self.memories.get(memory.0 as usize).ok_or_else(|| Error::foreign("memory", memory.0))
    }

    /// The address of a region, which lies in its allocation.
    fn address(&self, region: Region) -> Result<*mut u8> {
        let (base, len) = match self.memory(region.memory)? {
            Bytes::Own(arena) => (arena.as_ptr(), arena.len()),
            // Kernels only read imports.
            Bytes::Import(bytes) => (bytes.as_ref().as_ptr().cast_mut(), bytes.as_ref().len()),
        };
        region.check(len as u64)?;
        Ok(base.wrapping_add(region.offset as usize))
    }

    /// The bytes of a region, if they are the device's own.
    fn own(&mut self, region: Region) -> Result<&mut [u8]> {
        self.address(region)?;
        match &mut self.memories[region.memory.0 as usize] {
            Bytes::Own(arena) => Ok(&mut arena.bytes_mut()[region.offset as usize..][..region.bytes as usize]),
            Bytes::Import(_) => Err(Error::device("imported memory cannot be written")),
        }
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

    fn alloc(&mut self, bytes: u64, what: &str) -> Result<Memory> {
        let arena = Arena::new(bytes, what)?;
        Self::add(&mut self.memories, Bytes::Own(arena)).map(Memory)
    }

    fn import(&mut self, bytes: HostBytes) -> Option<Memory> {
        if !(bytes.as_ref().as_ptr() as usize).is_multiple_of(IMPORT_ALIGN) {
            return None;
        }
        Self::add(&mut self.memories, Bytes::Import(bytes)).ok().map(Memory)
    }

    fn host_bytes(&mut self, memory: Memory) -> Option<&mut [u8]> {
        match self.memories.get_mut(memory.0 as usize)? {
            Bytes::Own(arena) => Some(arena.bytes_mut()),
            Bytes::Import(_) => None,
        }
    }

    fn upload(&mut self, to: Region, bytes: &[u8]) -> Result<()> {
        let to = self.own(to)?;
        to.get_mut(..bytes.len())
            .ok_or_else(|| Error::device(format!("{} bytes do not fit their place", bytes.len())))?
            .copy_from_slice(bytes);
        Ok(())
    }

    fn download(&mut self, from: Region, out: &mut [u8]) -> Result<()> {
        self.address(from)?;
        let all = match self.memory(from.memory)? {
            Bytes::Own(arena) => arena.bytes(),
            Bytes::Import(bytes) => bytes.as_ref(),
        };
        let from = &all[from.offset as usize..][..from.bytes as usize];
        let from = from.get(..out.len()).ok_or_else(|| Error::device("a download is longer than its region"))?;
        out.copy_from_slice(from);
        Ok(())
    }

    fn load_module(&mut self, code: &[u8], kernels: &[KernelEntry]) -> Result<Vec<Kernel>> {
        let module = CodeMemory::new(code)?;
        let mut loaded = Vec::with_capacity(kernels.len());
        for k in kernels {
            let inside = k.bytes > 0 && k.offset.checked_add(k.bytes).is_some_and(|end| end <= code.len() as u64);
            let Some(address) = module.address(k.offset).filter(|_| inside && k.tickets <= MAX_TICKETS) else {
                return Err(Error::device(format!("kernel {} lies outside of its module", k.name)));
            };
            // SAFETY: the artifact is trusted like an executable: its manifest says that a function of this type starts
            // here, and the check above that it lies in the module.
            let function = unsafe { std::mem::transmute::<*const u8, KernelFn>(address) };
            let kernel = Loaded { name: k.name.clone(), function, tickets: k.tickets, params: k.params.clone() };
            loaded.push((kernel, k.scratch_bytes));
        }
        self.modules.push(module);
        loaded.into_iter().map(|(k, scratch)| self.register(k, scratch)).collect()
    }

    fn record(&mut self, launches: &[Launch]) -> Result<Recording> {
        let (scratch, stride) = self.scratch()?;
        let kernel =
            |l: &Launch| self.kernels.get(l.kernel.0 as usize).ok_or_else(|| Error::foreign("kernel", l.kernel.0));
        let mut functions = Vec::with_capacity(launches.len());
        let mut buffers = Vec::new();
        let mut ticket_count = 0;
        let workers = self.pool.workers();
        for launch in launches {
            let k = kernel(launch)?;
            launch.check(&k.name, &k.params)?;
            for &region in &launch.buffers {
                buffers.push(region.map_or(Ok(std::ptr::null_mut()), |r| self.address(r))?);
            }
            ticket_count += k.tickets as usize * workers;
            functions.push(k.function);
        }
        let kernels = launches.iter().map(|l| l.kernel.0).collect();
        let tickets: Vec<Ticket> = (0..ticket_count).map(|_| Ticket::default()).collect();
        let mut frames = Vec::with_capacity(launches.len() * workers);
        let (mut next_buffer, mut next_ticket) = (0, 0);
        for launch in launches {
            for worker in 0..workers {
                frames.push(Frame {
                    atoms: self.atoms.as_ptr(),
                    buffers: buffers[next_buffer..].as_ptr(),
                    control: self.control.get(),
                    tickets: tickets[next_ticket..].as_ptr().cast(),
                    scratch: scratch.wrapping_add(worker * stride as usize),
                    pool: self.pool.handle(),
                    worker: worker as u32,
                    workers: workers as u32,
                });
            }
            next_buffer += launch.buffers.len();
            next_ticket += kernel(launch)?.tickets as usize * workers;
        }
        let (functions, frames) = (functions.into(), frames.into());
        let recorded = Recorded { functions, kernels, frames, tickets, _buffers: buffers };
        Self::add(&mut self.recorded, recorded).map(Recording)
    }

    fn replay(&mut self, recording: Recording, control: Control) -> Result<()> {
        let recorded =
            self.recorded.get(recording.0 as usize).ok_or_else(|| Error::foreign("recording", recording.0))?;
        for ticket in &recorded.tickets {
            ticket.0.store(0, Ordering::Relaxed);
        }
        // SAFETY: kernels read it, and none runs now; the start of the pool's job publishes it to the workers.
        unsafe { *self.control.get() = control };
        let replay = Replay { recorded, failed: AtomicUsize::new(NO_LAUNCH) };
        let pool = &mut self.pool;
        catch_unwind(AssertUnwindSafe(|| pool.run(&|worker| replay.run(worker)))).map_err(|panic| {
            let launch = replay.failed.load(Ordering::Relaxed);
            let kernel = recorded.kernels.get(launch).and_then(|&k| self.kernels.get(k as usize));
            let kernel = kernel.map(|k| k.name.clone()).unwrap_or_default();
            Error::Launch { kernel, launch: Some(launch), cause: message(&*panic) }
        })
    }

    fn sync(&mut self) -> Result<()> {
        Ok(())
    }
}

impl CpuDevice {
    fn register(&mut self, kernel: Loaded, scratch_bytes: u64) -> Result<Kernel> {
        self.scratch_bytes = self.scratch_bytes.max(scratch_bytes);
        Self::add(&mut self.kernels, kernel).map(Kernel)
    }
}

#[cfg(test)]
mod tests;
