//! A card by NVIDIA's driver as a [`Device`].
//!
//! All that is asked for goes to one stream, in order; a recording is one graph, unless graphs are switched off. The driver
//! tells of a kernel that failed only at the next wait, and not which: kernels write the number of their launch to pinned
//! memory when they begin, so that it can be named. Invariant: after a failure that the driver repeats for every call, things are given
//! back and nothing else is asked of it; after a step that hangs, nothing at all. Next hop: `driver`, which has the calls.

mod card;
mod code;
mod driver;
mod recorded;
mod waiter;

pub use card::Card;

use super::{
    Command, Device, HostBytes, Info, Kernel, Lent, Memory, Module, Options, Recording, Region, Slots, Ticket,
    same_size,
};
use crate::{Error, Result};
use code::Machine;
use cudarc::driver::sys;
use driver::{Failure, out};
use ir::artifact::{KernelEntry, Param};
use ir::target::Target;
use recorded::{Bound, End, Graph};
use std::collections::VecDeque;
use std::ffi::{CString, c_void};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;
use waiter::{Ended, Progress, Waiter};

/// Memory that is left to others and to the driver, beyond what is asked for: graphs, code, and what a desktop wants.
pub const RESERVE: u64 = 256 << 20;
/// How long no kernel begins until a step counts as hung.
const PATIENCE: Duration = Duration::from_secs(60);
/// Shared memory that a CTA may have without being asked for.
const USUAL_SHARED: u64 = 48 << 10;

/// Pinned memory, which the device gives back.
#[derive(Debug)]
struct Pinned(*mut c_void);

// SAFETY: the driver's memory is for all threads.
unsafe impl Send for Pinned {}
// SAFETY: it is an address, and what is there is touched by its owner alone.
unsafe impl Sync for Pinned {}

/// An allocation.
#[derive(Debug)]
enum Bytes {
    Card(sys::CUdeviceptr, u64),
    /// Pinned; shared while it is lent.
    Host(Arc<Pinned>, u64),
}

impl Bytes {
    fn len(&self) -> u64 {
        match self {
            Bytes::Card(_, len) | Bytes::Host(_, len) => *len,
        }
    }
}

/// A loaded kernel.
struct Entry {
    name: String,
    function: sys::CUfunction,
    params: Vec<Param>,
    ctas: u32,
    threads: u32,
    shared: u32,
}

/// A loaded module.
struct Loaded {
    module: sys::CUmodule,
    kernels: Vec<Entry>,
}

/// Commands bound to memory.
struct Recorded {
    commands: Vec<Bound>,
    /// The kernels of the launches, in order.
    kernels: Vec<Kernel>,
    graph: Option<Graph>,
}

/// A card.
pub struct CudaDevice {
    info: Info,
    card: Card,
    machine: Machine,
    context: sys::CUcontext,
    stream: sys::CUstream,
    progress: Option<Progress>,
    waiter: Option<Waiter>,
    /// Bytes of the card that may be allocated, and that are.
    limit: Option<u64>,
    used: u64,
    shared_limit: u64,
    graphs: bool,
    overlaps: bool,
    memories: Slots<Bytes>,
    modules: Slots<Loaded>,
    recorded: Slots<Recorded>,
    /// Copies under way, oldest first: their numbers, and events after them.
    copies: VecDeque<(Ticket, sys::CUevent)>,
    /// Events that nobody waits for.
    events: Vec<sys::CUevent>,
    last_copy: Ticket,
    /// What was replayed last.
    running: Option<Recording>,
    /// Why nothing more is asked of the driver.
    broken: bool,
}

impl CudaDevice {
    /// Card number `ordinal` for code of `target`.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no driver or no such card, or it does not run the target's code.
    pub fn new(ordinal: u32, target: &Target, options: &Options) -> Result<CudaDevice> {
        let Some(gpu) = target.gpu() else {
            return Err(Error::device(format!(
                "cards run code of GPUs, not of {}; leave out --device, or compile for a card",
                target.name
            )));
        };
        let card = Card::find(ordinal)?;
        if !card.runs(gpu.sm) {
            let fit = ir::target::ALL.iter().rfind(|t| t.gpu().is_some_and(|gpu| card.runs(gpu.sm)));
            let advice = match fit {
                Some(target) => format!("compile for it: --target {}", target.name),
                None => "this version has no target for it".into(),
            };
            return Err(Error::device(format!("{card} does not run code of {}; {advice}", target.name)));
        }
        // SAFETY: here and below: the driver was found, and writes what it is asked for.
        let context = unsafe { out(|context| driver::cuDevicePrimaryCtxRetain(context, card.device)) }?;
        let machine = Machine {
            name: card.name.clone(),
            sm: card.sm,
            driver: card.driver,
            cache: options.cache.clone(),
            assembling: options.assembling.clone(),
        };
        // What the target's cards have bounds what the driver tells, which is nonsense on some.
        let shared_limit = gpu.card.shared_bytes;
        let told = u32::try_from(card.shared_bytes).ok().filter(|&told| u64::from(told) >= USUAL_SHARED);
        let mut device = CudaDevice {
            info: Info {
                name: format!("cuda:{ordinal}"),
                target: target.name.into(),
                workers: 1,
                emulated: card.is_stand_in(),
            },
            card,
            machine,
            context,
            stream: std::ptr::null_mut(),
            progress: None,
            waiter: None,
            limit: options.vram_limit,
            used: 0,
            shared_limit: told.map_or(shared_limit, |told| told.min(shared_limit)).into(),
            graphs: options.graphs,
            overlaps: gpu.overlaps() && options.overlaps,
            memories: Slots::new("memory"),
            modules: Slots::new("module"),
            recorded: Slots::new("recording"),
            copies: VecDeque::new(),
            events: Vec::new(),
            last_copy: Ticket(0),
            running: None,
            broken: false,
        };
        // From here on dropping the device gives back what there is.
        device.enter()?;
        let stream = unsafe { out(|s| driver::cuStreamCreate(s, sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32)) };
        device.stream = device.answered(stream)?;
        let progress = Progress::new();
        device.progress = Some(device.answered(progress)?);
        let waiter = Waiter::new(context, device.stream)
            .map_err(|e| Error::device(format!("the system refuses a thread that waits for the card: {e}")))?;
        device.waiter = Some(device.answered(waiter)?);
        Ok(device)
    }

    /// The card.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// Makes the card that of this thread's calls.
    fn enter(&mut self) -> Result<()> {
        if self.broken {
            return Err(Error::device(format!("{} has failed before; start again", self.info.name)));
        }
        // SAFETY: the context is retained.
        let set = unsafe { driver::cuCtxSetCurrent(self.context) };
        self.answered(set)
    }

    /// An answer of the driver, as an error that names the device.
    fn answered<T>(&mut self, answer: Result<T, Failure>) -> Result<T> {
        answer.map_err(|failure| {
            self.broken |= sticks(failure.code);
            Error::device(format!("{}: {failure}", self.info.name))
        })
    }

    /// An answer to a call that gives something back. A driver that fails anyway has told why; one that does from now on
    /// tells it at the next call.
    fn given_back(&self, answer: Result<(), Failure>) -> Result<()> {
        answer.or_else(|failure| match self.broken {
            true => Ok(()),
            false => Err(Error::device(format!("{}: {failure}", self.info.name))),
        })
    }

    /// An answer to an allocation.
    fn allocated<T>(&mut self, answer: Result<T, Failure>, bytes: u64, what: &str) -> Result<T> {
        match answer {
            Err(Failure { code: sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY, .. }) => {
                let have = self.free_memory().ok().flatten();
                Err(Error::Memory { what: format!("{what} on {}", self.info.name), need: bytes, have })
            }
            answer => self.answered(answer),
        }
    }

    /// Where a region is, which lies in its allocation.
    fn end(&self, region: Region) -> Result<End> {
        let bytes = self.memories.get(region.memory.0)?;
        region.check(bytes.len())?;
        Ok(match bytes {
            Bytes::Card(base, _) => End::Card(base + region.offset),
            Bytes::Host(pinned, _) => End::Host(pinned.0.wrapping_byte_add(region.offset as usize)),
        })
    }

    /// The address of a region that kernels reach.
    fn address(&self, region: Region) -> Result<u64> {
        match self.end(region)? {
            End::Card(address) => Ok(address),
            End::Host(_) => Err(Error::device("no kernel reaches staging memory")),
        }
    }

    fn entry(&self, kernel: Kernel) -> Result<&Entry> {
        let module = self.modules.get(kernel.module.0)?;
        module.kernels.get(kernel.number as usize).ok_or_else(|| Error::foreign("kernel", kernel.number))
    }

    /// Waits for an event or, if that is null, for all.
    fn wait_for(&mut self, event: sys::CUevent) -> Result<()> {
        let (Some(waiter), Some(progress)) = (&mut self.waiter, &self.progress) else {
            return Err(Error::device("the device is not ready"));
        };
        match waiter.wait(event, progress, PATIENCE) {
            Ended::Answer(Ok(())) => Ok(()),
            Ended::Answer(Err(failure)) => {
                self.broken |= sticks(failure.code);
                Err(self.lost(failure.to_string()))
            }
            Ended::Hung(time) => {
                self.broken = true;
                let seconds = time.as_secs();
                let advice =
                    "look at the system's log for messages of the driver, and restart the system if it stays so";
                Err(self.lost(format!("no kernel has begun for {seconds} s; {advice}")))
            }
        }
    }

    /// A wait that ended badly; the kernel that ran is named where that is known.
    fn lost(&self, cause: String) -> Error {
        let cause = format!("{}: {cause}", self.info.name);
        match self.last_launch().filter(|_| self.broken) {
            Some((kernel, launch)) => Error::Launch { kernel, launch: Some(launch), cause },
            None => Error::device(cause),
        }
    }

    /// The kernel that began last of what was replayed, and the number of its launch.
    fn last_launch(&self) -> Option<(String, usize)> {
        let launch = self.progress.as_ref()?.last()? as usize;
        let &kernel = self.recorded.get(self.running?.0).ok()?.kernels.get(launch)?;
        Some((self.entry(kernel).ok()?.name.clone(), launch))
    }

    /// Events of copies that have ended are free again.
    fn retire(&mut self, ticket: Ticket) {
        while let Some(&(first, event)) = self.copies.front().filter(|(first, _)| *first <= ticket) {
            debug_assert!(first <= ticket);
            self.copies.pop_front();
            self.events.push(event);
        }
    }

    /// The event after a copy that has not been found to be over.
    fn event_of(&self, ticket: Ticket) -> Option<sys::CUevent> {
        self.copies.iter().find(|(of, _)| *of >= ticket).map(|(_, event)| *event)
    }
}

/// Whether the driver gives this answer to every call from then on.
fn sticks(code: sys::CUresult) -> bool {
    use sys::CUresult::*;
    [
        CUDA_ERROR_ILLEGAL_ADDRESS,
        CUDA_ERROR_LAUNCH_TIMEOUT,
        CUDA_ERROR_ASSERT,
        CUDA_ERROR_HARDWARE_STACK_ERROR,
        CUDA_ERROR_ILLEGAL_INSTRUCTION,
        CUDA_ERROR_MISALIGNED_ADDRESS,
        CUDA_ERROR_INVALID_ADDRESS_SPACE,
        CUDA_ERROR_INVALID_PC,
        CUDA_ERROR_LAUNCH_FAILED,
        CUDA_ERROR_ECC_UNCORRECTABLE,
        CUDA_ERROR_UNKNOWN,
    ]
    .contains(&code)
}

impl Device for CudaDevice {
    fn info(&self) -> &Info {
        &self.info
    }

    fn free_memory(&self) -> Result<Option<u64>> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: there is a context, and both are written.
        unsafe { driver::cuMemGetInfo_v2(&mut free, &mut total) }
            .map_err(|failure| Error::device(format!("{}: {failure}", self.info.name)))?;
        let free = (free as u64).saturating_sub(RESERVE);
        Ok(Some(self.limit.map_or(free, |limit| limit.saturating_sub(self.used).min(free))))
    }

    fn alloc(&mut self, bytes: u64, what: &str) -> Result<Memory> {
        self.enter()?;
        if let Some(limit) = self.limit
            && bytes > limit.saturating_sub(self.used)
        {
            let have = Some(limit.saturating_sub(self.used));
            return Err(Error::Memory { what: format!("{what} on {}", self.info.name), need: bytes, have });
        }
        // SAFETY: there is a context. Nothing has no address.
        let address = unsafe { out(|p| driver::cuMemAlloc_v2(p, bytes.max(1) as usize)) };
        let address = self.allocated(address, bytes, what)?;
        self.used += bytes;
        self.memories.add(Bytes::Card(address, bytes)).map(Memory)
    }

    fn staging(&mut self, bytes: u64, what: &str) -> Result<Memory> {
        self.enter()?;
        // SAFETY: there is a context. Nothing has no address.
        let address =
            unsafe { out(|p| driver::cuMemHostAlloc(p, bytes.max(1) as usize, sys::CU_MEMHOSTALLOC_PORTABLE)) };
        let address = self.allocated(address, bytes, &format!("pinned memory for {what}"))?;
        // SAFETY: so many bytes are there, and nobody else knows of them.
        unsafe { std::ptr::write_bytes(address.cast::<u8>(), 0, bytes as usize) };
        self.memories.add(Bytes::Host(Arc::new(Pinned(address)), bytes)).map(Memory)
    }

    fn import(&mut self, _bytes: HostBytes) -> Option<Memory> {
        None
    }

    fn free(&mut self, memory: Memory) -> Result<()> {
        if matches!(self.memories.get(memory.0)?, Bytes::Host(pinned, _) if Arc::strong_count(pinned) > 1) {
            return Err(Error::device("memory that is lent cannot be given back"));
        }
        let bytes = self.memories.remove(memory.0)?;
        // SAFETY: it is living, and by the trait's contract nothing uses it.
        let freed = unsafe {
            match bytes {
                Bytes::Card(address, bytes) => {
                    self.used -= bytes;
                    driver::cuMemFree_v2(address)
                }
                Bytes::Host(pinned, _) => driver::cuMemFreeHost(pinned.0),
            }
        };
        self.given_back(freed)
    }

    fn host_bytes(&mut self, memory: Memory) -> Option<&mut [u8]> {
        match self.memories.get_mut(memory.0).ok()? {
            Bytes::Host(pinned, len) => {
                let Pinned(address) = Arc::get_mut(pinned)?;
                // SAFETY: pinned memory of so many bytes, which were written; by the trait's contract no copy touches it.
                Some(unsafe { std::slice::from_raw_parts_mut(address.cast(), *len as usize) })
            }
            Bytes::Card(..) => None,
        }
    }

    fn lend(&mut self, memory: Memory) -> Option<Lent> {
        let Bytes::Host(pinned, len) = self.memories.get_mut(memory.0).ok()? else { return None };
        let start = NonNull::new(Arc::get_mut(pinned)?.0.cast())?;
        // SAFETY: pinned memory of so many bytes, which were written; it is given back only when nobody else shares it.
        Some(unsafe { Lent::new(memory, start, *len, pinned.clone()) })
    }

    fn copy(&mut self, from: Region, to: Region) -> Result<Ticket> {
        same_size(from, to)?;
        let ends = (self.end(from)?, self.end(to)?);
        self.enter()?;
        if from.bytes == 0 {
            return Ok(self.last_copy);
        }
        let event = match self.events.pop() {
            Some(event) => event,
            None => {
                let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
                // SAFETY: there is a context.
                let event = unsafe { out(|event| driver::cuEventCreate(event, flags)) };
                self.answered(event)?
            }
        };
        let copied = recorded::copy(ends.0, ends.1, from.bytes as usize, self.stream);
        // SAFETY: both are living.
        let noted = copied.and_then(|()| unsafe { driver::cuEventRecord(event, self.stream) });
        if noted.is_err() {
            self.events.push(event);
        }
        if copied.is_ok() && noted.is_err() {
            // Nobody else can wait for the copy. What is wrong is told below.
            _ = self.wait_for(std::ptr::null_mut());
        }
        self.answered(noted)?;
        self.last_copy = Ticket(self.last_copy.0 + 1);
        self.copies.push_back((self.last_copy, event));
        Ok(self.last_copy)
    }

    fn done(&mut self, ticket: Ticket) -> Result<bool> {
        let Some(event) = self.event_of(ticket) else { return Ok(true) };
        self.enter()?;
        // SAFETY: the event is living.
        match unsafe { driver::cuEventQuery(event) } {
            Err(Failure { code: sys::CUresult::CUDA_ERROR_NOT_READY, .. }) => Ok(false),
            answer => {
                self.answered(answer)?;
                self.retire(ticket);
                Ok(true)
            }
        }
    }

    fn wait(&mut self, ticket: Ticket) -> Result<()> {
        let Some(event) = self.event_of(ticket) else { return Ok(()) };
        self.enter()?;
        self.wait_for(event)?;
        self.retire(ticket);
        Ok(())
    }

    fn load(&mut self, code: &[u8], kernels: &[&KernelEntry]) -> Result<(Module, Vec<Kernel>)> {
        for k in kernels {
            if k.scratch_bytes > self.shared_limit {
                let (need, have) = (k.scratch_bytes, self.shared_limit);
                let what =
                    format!("kernel {} needs {need} bytes of shared memory, where {} has {have}", k.name, self.card);
                return Err(Error::device(format!("{what}; compile the model for this card")));
            }
        }
        self.enter()?;
        let module = code::load(code, kernels, &self.machine)?;
        // What fails from here on is given back with the module.
        let number = self.modules.add(Loaded { module, kernels: Vec::new() })?;
        let loaded = kernels.iter().map(|k| self.function(module, k)).collect::<Result<Vec<_>>>();
        let module = Module(number);
        match loaded {
            Ok(loaded) => self.modules.get_mut(number)?.kernels = loaded,
            Err(e) => {
                self.unload(module)?;
                return Err(e);
            }
        }
        Ok((module, (0..kernels.len() as u32).map(|number| Kernel { module, number }).collect()))
    }

    fn unload(&mut self, module: Module) -> Result<()> {
        let loaded = self.modules.remove(module.0)?;
        // SAFETY: it is living, and by the trait's contract nothing of it runs.
        let unloaded = unsafe { driver::cuModuleUnload(loaded.module) };
        self.given_back(unloaded)
    }

    fn record(&mut self, commands: &[Command], control: Region) -> Result<Recording> {
        self.enter()?;
        let (control, progress) = (self.address(control)?, self.progress.as_ref().map_or(0, |p| p.address));
        let (mut bound, mut kernels) = (Vec::with_capacity(commands.len()), Vec::new());
        for command in commands {
            bound.push(match command {
                Command::Copy { from, to } => {
                    same_size(*from, *to)?;
                    Bound::Copy { from: self.end(*from)?, to: self.end(*to)?, bytes: from.bytes as usize }
                }
                Command::Launch(launch) => {
                    let k = self.entry(launch.kernel)?;
                    launch.check(&k.name, &k.params)?;
                    let buffers = launch.buffers.iter().map(|region| region.map_or(Ok(0), |r| self.address(r)));
                    let rest = [control, progress, kernels.len() as u64];
                    let params = buffers.chain(rest.map(Ok)).collect::<Result<Vec<u64>>>()?;
                    kernels.push(launch.kernel);
                    Bound::launch(k.function, (k.ctas, k.threads, k.shared), launch.early && self.overlaps, params)
                }
            });
        }
        let mut graph = None;
        if self.graphs {
            let made = Graph::new(&mut bound, self.context, self.stream);
            graph = Some(self.answered(made)?);
        }
        self.recorded.add(Recorded { commands: bound, kernels, graph }).map(Recording)
    }

    fn erase(&mut self, recording: Recording) -> Result<()> {
        let recorded = self.recorded.remove(recording.0)?;
        let destroyed = recorded.graph.map_or(Ok(()), Graph::destroy);
        self.given_back(destroyed)
    }

    fn replay(&mut self, recording: Recording) -> Result<()> {
        if self.broken {
            return self.enter();
        }
        let recorded = self.recorded.get_mut(recording.0)?;
        if let Some(progress) = &self.progress {
            progress.reset();
        }
        self.running = Some(recording);
        let stream = self.stream;
        let launched = match &recorded.graph {
            Some(graph) => graph.launch(stream),
            None => recorded.commands.iter_mut().try_for_each(|command| command.submit(stream)),
        };
        self.answered(launched)
    }

    fn sync(&mut self) -> Result<()> {
        self.wait_for(std::ptr::null_mut())?;
        self.retire(self.last_copy);
        Ok(())
    }
}

impl CudaDevice {
    /// A function of a module, allowed the shared memory that it needs.
    fn function(&mut self, module: sys::CUmodule, k: &KernelEntry) -> Result<Entry> {
        let absent = || Error::device(format!("the module has no kernel {}", k.name));
        let (Some(grid), Ok(name)) = (k.grid, CString::new(k.name.as_str())) else { return Err(absent()) };
        // SAFETY: the module is living, the name ends with a zero.
        let function = match unsafe { out(|f| driver::cuModuleGetFunction(f, module, name.as_ptr())) } {
            Err(Failure { code: sys::CUresult::CUDA_ERROR_NOT_FOUND, .. }) => return Err(absent()),
            function => self.answered(function)?,
        };
        if k.scratch_bytes > USUAL_SHARED {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is of a living module.
            let allowed = unsafe { driver::cuFuncSetAttribute(function, attribute, k.scratch_bytes as i32) };
            self.answered(allowed)?;
        }
        let (name, params, shared) = (k.name.clone(), k.params.clone(), k.scratch_bytes as u32);
        Ok(Entry { name, function, params, ctas: grid.ctas, threads: grid.threads, shared })
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        let hung = self.waiter.as_ref().is_some_and(Waiter::is_hung);
        self.waiter = None;
        if hung {
            // The driver would not come back.
            return;
        }
        // What follows from a failure is not worth a word.
        let mut told = self.broken;
        let mut warn = |given: Result<(), Failure>| {
            if let Err(e) = given
                && !std::mem::replace(&mut told, true)
            {
                log::warn!("{e}");
            }
        };
        for recorded in self.recorded.list.drain(..).flatten() {
            warn(recorded.graph.map_or(Ok(()), Graph::destroy));
        }
        // SAFETY: all are living, and nothing runs: whoever replayed has waited, or will not look at it.
        unsafe {
            let copies = self.copies.drain(..).map(|(_, event)| event);
            copies.chain(self.events.drain(..)).for_each(|event| warn(driver::cuEventDestroy_v2(event)));
            for bytes in self.memories.list.drain(..).flatten() {
                warn(match bytes {
                    Bytes::Card(address, _) => driver::cuMemFree_v2(address),
                    // What is still lent stays.
                    Bytes::Host(pinned, _) if Arc::strong_count(&pinned) > 1 => Ok(()),
                    Bytes::Host(pinned, _) => driver::cuMemFreeHost(pinned.0),
                });
            }
            for loaded in self.modules.list.drain(..).flatten() {
                warn(driver::cuModuleUnload(loaded.module));
            }
            if let Some(progress) = self.progress.take() {
                warn(progress.free());
            }
            if !self.stream.is_null() {
                warn(driver::cuStreamDestroy_v2(self.stream));
            }
            warn(driver::cuDevicePrimaryCtxRelease_v2(self.card.device));
        }
    }
}
