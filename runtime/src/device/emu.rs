//! The emulator of a GPU as a device: it executes the very PTX that a card would, and checks what no card checks.
//!
//! Memory that nobody wrote stays unwritten, so that a kernel that reads it is found. Launches overlap where cards do that.
//! Invariant: the first fault ends the queue of launches; [`Device::sync`] returns it.

use super::{
    Command, Device, HostBytes, Info, Kernel, Lent, Memory, Module, Recording, Region, Slots, Ticket, same_size,
};
use crate::sys::{self, Arena};
use crate::{Error, Result};
use emu::{Loaded, Machine, MemoryError, Options, Queue, Schedule};
use ir::artifact::{KernelEntry, Param};
use ir::target::Target;
use std::sync::Arc;

/// Alignment of allocations: that of a card's.
const ALIGN: u64 = 256;
/// Emulated memory, far more than a model needs; what is really taken is what is touched.
const CAPACITY: u64 = 1 << 46;

/// A loaded kernel.
#[derive(Debug, Clone)]
struct Entry {
    params: Vec<Param>,
    /// The launch, but for its parameters.
    launch: emu::Launch,
}

/// An allocation.
#[derive(Debug)]
enum Bytes {
    /// Its address and size.
    Device(u64, u64),
    Staging(Arc<Arena>),
}

impl Bytes {
    fn len(&self) -> u64 {
        match self {
            Bytes::Device(_, len) => *len,
            Bytes::Staging(bytes) => bytes.len() as u64,
        }
    }
}

/// A command, bound to memory.
#[derive(Debug)]
enum Bound {
    Launch { module: Module, launch: emu::Launch, overlaps: bool },
    Copy { from: Region, to: Region },
}

/// An emulated GPU.
#[derive(Debug)]
pub struct EmuDevice {
    info: Info,
    machine: Machine,
    queue: Queue,
    memories: Slots<Bytes>,
    /// Where kernels write the number of their launch.
    progress: u64,
    /// Launches may be programmatic dependent launches.
    overlaps: bool,
    modules: Slots<(Loaded, Vec<Entry>)>,
    recorded: Slots<Vec<Bound>>,
}

fn refused(e: impl std::fmt::Display) -> Error {
    Error::device(format!("the emulator: {e}"))
}

/// What is wrong with a kernel, which the emulator has found.
fn faulty(fault: emu::Fault) -> Error {
    Error::Launch { kernel: fault.kernel.clone(), launch: None, cause: format!("the emulator: {fault}") }
}

impl EmuDevice {
    /// An emulator for code of `target`. Threads run in an order that `seed` chooses: 0 is round robin, any other an
    /// adversary.
    ///
    /// # Errors
    /// [`Error::Device`] if the target is no GPU.
    pub fn new(target: &Target, seed: u64) -> Result<EmuDevice> {
        EmuDevice::with_approximations(target, seed, 0)
    }

    /// [`EmuDevice::new`], with errors of approximate instructions that `approx_seed` chooses: 0 for none, otherwise as
    /// large as the PTX ISA allows.
    ///
    /// # Errors
    /// As there.
    pub fn with_approximations(target: &Target, seed: u64, approx_seed: u64) -> Result<EmuDevice> {
        let Some(gpu) = target.gpu() else {
            return Err(Error::device(format!(
                "the emulator runs code of GPUs, not of {}; leave out --device or give --target sm_120",
                target.name
            )));
        };
        let options = Options { schedule: Schedule { seed }, approx_seed, ..Options::default() };
        let mut machine = Machine::new(emu::Memory::new(CAPACITY), options);
        let progress = machine.alloc_shared(4, ALIGN).map_err(refused)?;
        let queue = machine.queue();
        Ok(EmuDevice {
            info: Info { name: "emu".into(), target: target.name.into(), workers: 1, emulated: true },
            machine,
            queue,
            memories: Slots::new("memory"),
            progress,
            overlaps: gpu.overlaps(),
            modules: Slots::new("module"),
            recorded: Slots::new("recording"),
        })
    }

    /// The address of a region, which lies in its allocation, which kernels reach.
    fn address(&self, region: Region) -> Result<u64> {
        match self.memories.get(region.memory.0)? {
            Bytes::Device(base, len) => region.check(*len).map(|()| base + region.offset),
            Bytes::Staging(_) => Err(Error::device("no kernel reaches staging memory")),
        }
    }

    /// Checks both ends of a copy.
    fn ends(&self, from: Region, to: Region) -> Result<()> {
        same_size(from, to)?;
        [from, to].into_iter().try_for_each(|end| end.check(self.memories.get(end.memory.0)?.len()))
    }

    fn read(&mut self, from: Region) -> Result<Vec<u8>> {
        let range = from.offset as usize..(from.offset + from.bytes) as usize;
        match self.memories.get(from.memory.0)? {
            Bytes::Staging(arena) => {
                let mut bytes = vec![0; range.len()];
                // SAFETY: the range lies in the arena, and copies wait for nobody who fills it.
                unsafe {
                    std::ptr::copy_nonoverlapping(arena.as_ptr().add(range.start), bytes.as_mut_ptr(), range.len())
                };
                Ok(bytes)
            }
            Bytes::Device(base, _) => {
                let mut bytes = vec![0; range.len()];
                self.machine.read(base + from.offset, &mut bytes).map_err(refused)?;
                Ok(bytes)
            }
        }
    }
}

impl Device for EmuDevice {
    fn info(&self) -> &Info {
        &self.info
    }

    fn free_memory(&self) -> Result<Option<u64>> {
        Ok(sys::memory::available())
    }

    fn alloc(&mut self, bytes: u64, what: &str) -> Result<Memory> {
        let base = self.machine.alloc(bytes, ALIGN);
        let base = base.map_err(|e| match e {
            MemoryError::Full { capacity, .. } => {
                Error::Memory { what: what.into(), need: bytes, have: Some(capacity) }
            }
            e => Error::device(format!("the emulator cannot give {what} {bytes} bytes: {e}")),
        })?;
        self.memories.add(Bytes::Device(base, bytes)).map(Memory)
    }

    fn staging(&mut self, bytes: u64, what: &str) -> Result<Memory> {
        self.memories.add(Bytes::Staging(Arc::new(Arena::new(bytes, what)?))).map(Memory)
    }

    fn import(&mut self, _bytes: HostBytes) -> Option<Memory> {
        None
    }

    fn free(&mut self, memory: Memory) -> Result<()> {
        self.memories.remove(memory.0).map(drop)
    }

    fn host_bytes(&mut self, memory: Memory) -> Option<&mut [u8]> {
        match self.memories.get_mut(memory.0).ok()? {
            Bytes::Staging(arena) => Arc::get_mut(arena).map(Arena::bytes_mut),
            Bytes::Device(..) => None,
        }
    }

    fn lend(&mut self, memory: Memory) -> Option<Lent> {
        let Bytes::Staging(arena) = self.memories.get_mut(memory.0).ok()? else { return None };
        Lent::of_arena(memory, arena)
    }

    fn copy(&mut self, from: Region, to: Region) -> Result<Ticket> {
        self.ends(from, to)?;
        self.sync()?;
        let bytes = self.read(from)?;
        match self.memories.get_mut(to.memory.0)? {
            // SAFETY: the region lies in the arena, and is not touched until the copy has been waited for.
            Bytes::Staging(arena) => unsafe {
                std::ptr::copy_nonoverlapping(bytes.as_ptr(), arena.as_ptr().add(to.offset as usize), bytes.len());
            },
            Bytes::Device(base, _) => self.machine.write(*base + to.offset, &bytes).map_err(refused)?,
        }
        Ok(Ticket(0))
    }

    fn done(&mut self, _ticket: Ticket) -> Result<bool> {
        Ok(true)
    }

    fn wait(&mut self, _ticket: Ticket) -> Result<()> {
        Ok(())
    }

    fn load(&mut self, code: &[u8], kernels: &[&KernelEntry]) -> Result<(Module, Vec<Kernel>)> {
        let text = std::str::from_utf8(code).map_err(|_| Error::device("the module is no PTX text"))?;
        let module = emu::Module::parse(text).map_err(refused)?;
        let known: Vec<&str> = module.entries().iter().map(|e| e.name.as_str()).collect();
        let mut entries = Vec::with_capacity(kernels.len());
        for k in kernels {
            let Some(grid) = k.grid.filter(|_| known.contains(&k.name.as_str())) else {
                return Err(Error::device(format!("the module has no kernel {}", k.name)));
            };
            let launch = emu::Launch {
                entry: k.name.clone(),
                grid: [grid.ctas, 1, 1],
                block: [grid.threads, 1, 1],
                dynamic_shared: k.scratch_bytes,
                params: Vec::new(),
            };
            entries.push(Entry { params: k.params.clone(), launch });
        }
        let loaded = self.machine.load(&module).map_err(refused)?;
        let module = Module(self.modules.add((loaded, entries))?);
        Ok((module, (0..kernels.len() as u32).map(|number| Kernel { module, number }).collect()))
    }

    fn unload(&mut self, module: Module) -> Result<()> {
        self.modules.remove(module.0).map(drop)
    }

    fn record(&mut self, commands: &[Command], control: Region) -> Result<Recording> {
        let control = self.address(control)?;
        let (mut recorded, mut launches) = (Vec::with_capacity(commands.len()), 0);
        for command in commands {
            recorded.push(match command {
                Command::Copy { from, to } => {
                    self.ends(*from, *to)?;
                    Bound::Copy { from: *from, to: *to }
                }
                Command::Launch(l) => {
                    let (_, entries) = self.modules.get(l.kernel.module.0)?;
                    let k = entries.get(l.kernel.number as usize);
                    let k = k.ok_or_else(|| Error::foreign("kernel", l.kernel.number))?;
                    l.check(&k.launch.entry, &k.params)?;
                    let addresses = l.buffers.iter().map(|region| region.map_or(Ok(0), |r| self.address(r)));
                    let rest = [control, self.progress, launches];
                    let params = addresses.chain(rest.map(Ok)).collect::<Result<Vec<u64>>>()?;
                    launches += 1;
                    let params = params.iter().flat_map(|a| a.to_le_bytes()).collect();
                    let launch = emu::Launch { params, ..k.launch.clone() };
                    Bound::Launch { module: l.kernel.module, launch, overlaps: l.early && self.overlaps }
                }
            });
        }
        self.recorded.add(recorded).map(Recording)
    }

    fn erase(&mut self, recording: Recording) -> Result<()> {
        self.recorded.remove(recording.0).map(drop)
    }

    fn replay(&mut self, recording: Recording) -> Result<()> {
        for i in 0..self.recorded.get(recording.0)?.len() {
            match &self.recorded.get(recording.0)?[i] {
                Bound::Launch { module, launch, overlaps } => {
                    let (loaded, _) = self.modules.get(module.0)?;
                    self.machine.launch(self.queue, loaded, launch, *overlaps).map_err(|e| match e {
                        emu::Error::Fault(fault) => faulty(*fault),
                        emu::Error::Launch(e) => refused(format!("kernel {}: {e}", launch.entry)),
                    })?;
                }
                Bound::Copy { from, to } => {
                    let (from, to) = (*from, *to);
                    self.copy(from, to)?;
                }
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.machine.sync(self.queue).map(|_| ()).map_err(|fault| faulty(*fault))
    }
}
