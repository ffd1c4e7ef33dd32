//! The emulator of a GPU as a device: it executes the very PTX that a card would, and checks what no card checks.
//!
//! Memory that nobody wrote stays unwritten, so that a kernel that reads it is found. Launches overlap where cards do that.
//! Invariant: the first fault ends the queue of launches; [`Device::sync`] returns it.

use super::{Device, HostBytes, Info, Kernel, Launch, Memory, Recording, Region};
use crate::{Error, Result};
use emu::{Loaded, Machine, MemoryError, Module, Options, Queue, Schedule};
use ir::abi::Control;
use ir::artifact::{KernelEntry, Param};
use ir::target::Target;

/// Alignment of allocations: that of a card's.
const ALIGN: u64 = 256;
/// Emulated memory, far more than a model needs; what is really taken is what is touched.
const CAPACITY: u64 = 1 << 46;

/// A loaded kernel.
#[derive(Debug, Clone)]
struct Entry {
    module: usize,
    params: Vec<Param>,
    /// The launch, but for its parameters.
    launch: emu::Launch,
}

/// An emulated GPU.
#[derive(Debug)]
pub struct EmuDevice {
    info: Info,
    machine: Machine,
    queue: Queue,
    /// Address and size of each allocation.
    memories: Vec<(u64, u64)>,
    control: u64,
    /// Launches are programmatic dependent launches.
    overlaps: bool,
    modules: Vec<Loaded>,
    kernels: Vec<Entry>,
    recorded: Vec<Vec<(usize, emu::Launch)>>,
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
        let control = machine.alloc(size_of::<Control>() as u64, ALIGN).map_err(refused)?;
        let queue = machine.queue();
        Ok(EmuDevice {
            info: Info { name: "emu".into(), target: target.name.into(), workers: 1 },
            machine,
            queue,
            memories: Vec::new(),
            control,
            overlaps: gpu.overlaps(),
            modules: Vec::new(),
            kernels: Vec::new(),
            recorded: Vec::new(),
        })
    }

    /// The address of a region, which lies in its allocation.
    fn address(&self, region: Region) -> Result<u64> {
        let place = self.memories.get(region.memory.0 as usize);
        let &(base, len) = place.ok_or_else(|| Error::foreign("memory", region.memory.0))?;
        region.check(len)?;
        Ok(base + region.offset)
    }
}

impl Device for EmuDevice {
    fn info(&self) -> &Info {
        &self.info
    }

    fn alloc(&mut self, bytes: u64, what: &str) -> Result<Memory> {
        let base = self.machine.alloc(bytes, ALIGN);
        let base = base.map_err(|e| match e {
            MemoryError::Full { capacity, .. } => {
                Error::Memory { what: what.into(), need: bytes, have: Some(capacity) }
            }
            e => Error::device(format!("the emulator cannot give {what} {bytes} bytes: {e}")),
        })?;
        self.memories.push((base, bytes));
        Ok(Memory(self.memories.len() as u32 - 1))
    }

    fn import(&mut self, _bytes: HostBytes) -> Option<Memory> {
        None
    }

    fn host_bytes(&mut self, _memory: Memory) -> Option<&mut [u8]> {
        None
    }

    fn upload(&mut self, to: Region, bytes: &[u8]) -> Result<()> {
        if bytes.len() as u64 > to.bytes {
            return Err(Error::device(format!("{} bytes do not fit their place", bytes.len())));
        }
        let at = self.address(to)?;
        self.machine.write(at, bytes).map_err(refused)
    }

    fn download(&mut self, from: Region, out: &mut [u8]) -> Result<()> {
        if out.len() as u64 > from.bytes {
            return Err(Error::device("a download is longer than its region"));
        }
        let at = self.address(from)?;
        self.machine.read(at, out).map_err(refused)
    }

    fn load_module(&mut self, code: &[u8], kernels: &[KernelEntry]) -> Result<Vec<Kernel>> {
        let text = std::str::from_utf8(code).map_err(|_| Error::device("the module is no PTX text"))?;
        let module = Module::parse(text).map_err(refused)?;
        let known: Vec<&str> = module.entries().iter().map(|e| e.name.as_str()).collect();
        let mut loaded = Vec::with_capacity(kernels.len());
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
            loaded.push(Entry { module: self.modules.len(), params: k.params.clone(), launch });
        }
        self.modules.push(self.machine.load(&module).map_err(refused)?);
        let first = self.kernels.len() as u32;
        self.kernels.extend(loaded);
        Ok((first..self.kernels.len() as u32).map(Kernel).collect())
    }

    fn record(&mut self, launches: &[Launch]) -> Result<Recording> {
        let mut recorded = Vec::with_capacity(launches.len());
        for l in launches {
            let k = self.kernels.get(l.kernel.0 as usize).ok_or_else(|| Error::foreign("kernel", l.kernel.0))?;
            l.check(&k.launch.entry, &k.params)?;
            let addresses = l.buffers.iter().map(|region| region.map_or(Ok(0), |r| self.address(r)));
            let addresses = addresses.chain([Ok(self.control)]).collect::<Result<Vec<u64>>>()?;
            let params = addresses.iter().flat_map(|a| a.to_le_bytes()).collect();
            recorded.push((k.module, emu::Launch { params, ..k.launch.clone() }));
        }
        self.recorded.push(recorded);
        Ok(Recording(self.recorded.len() as u32 - 1))
    }

    fn replay(&mut self, recording: Recording, control: Control) -> Result<()> {
        let launches = self.recorded.get(recording.0 as usize);
        let launches = launches.ok_or_else(|| Error::foreign("recording", recording.0))?;
        let words = [control.position, control.tokens].map(u32::to_le_bytes);
        self.machine.write(self.control, words.as_flattened()).map_err(refused)?;
        for (module, launch) in launches {
            self.machine.launch(self.queue, &self.modules[*module], launch, self.overlaps).map_err(|e| match e {
                emu::Error::Fault(fault) => faulty(*fault),
                emu::Error::Launch(e) => refused(format!("kernel {}: {e}", launch.entry)),
            })?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.machine.sync(self.queue).map(|_| ()).map_err(|fault| faulty(*fault))
    }
}
