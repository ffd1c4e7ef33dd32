//! Devices: what executors need of a machine that runs kernels.
//!
//! Everything is named by handles that the device gave out; what is not given back lives until the device is dropped.
//! Executors share a device ([`Shared`]), one using it after another. Invariant: what is asked of a device happens in
//! the order in which it was asked, but perhaps later: kernels run and copies take place only from the call that asks for
//! them to the end of the [`Device::wait`] or [`Device::sync`] after it. To add one: a file here, its name in the list
//! below, a row of [`Kind`] and a case of [`open`]. Next hop: `cpu`.

mod cpu;
mod cuda;
mod emu;
mod held;
mod lent;
mod pool;

pub use cpu::CpuDevice;
pub use cuda::{Card, CudaDevice, RESERVE};
pub use emu::EmuDevice;
pub(crate) use held::Held;
pub use lent::Lent;
pub use pool::{MAX_WORKERS, Pool, barrier};

use crate::{Error, Result};
use ir::artifact::{KernelEntry, Param, Part};
use ir::target::Target;
use std::cell::{RefCell, RefMut};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// The kinds of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// The best for the target that this machine has.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The emulator of GPUs.
    Emu,
    /// The card of this number, by NVIDIA's driver.
    Cuda(u32),
}

impl std::str::FromStr for Kind {
    type Err = Error;

    /// By its name on the command line.
    fn from_str(name: &str) -> Result<Kind> {
        match name {
            "auto" => Ok(Kind::Auto),
            "cpu" => Ok(Kind::Cpu),
            "emu" => Ok(Kind::Emu),
            _ => {
                let number = name.strip_prefix("cuda:").and_then(|n| n.parse().ok());
                number.map(Kind::Cuda).ok_or_else(|| {
                    Error::input(format!("there is no device '{name}'; the devices are auto, cpu, emu and cuda:N"))
                })
            }
        }
    }
}

/// Who is told how far a card's driver is with making machine code.
pub trait Assembling: std::fmt::Debug {
    /// Of `all` kernels for the card of this name, `done` are made; called before the first and after each.
    fn assembled(&self, card: &str, done: u64, all: u64);
    /// It ends, also where it fails.
    fn ended(&self);
}

/// Which device, and how it is used.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where.
    pub device: Kind,
    /// Threads that compute on a CPU; 0 for one on each core.
    pub threads: usize,
    /// On the emulator: the errors of approximate instructions ([`EmuDevice::with_approximations`]).
    pub approx_seed: u64,
    /// On cards: whether recorded commands are graphs.
    pub graphs: bool,
    /// On cards: whether launches may begin early.
    pub overlaps: bool,
    /// Bytes of a card that may be used.
    pub vram_limit: Option<u64>,
    /// The folder where machine code is kept that the driver has made.
    pub cache: Option<PathBuf>,
    /// On cards: who is told when machine code has to be made.
    pub assembling: Option<Rc<dyn Assembling>>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            device: Kind::Auto,
            threads: 0,
            approx_seed: 0,
            graphs: true,
            overlaps: true,
            vram_limit: None,
            cache: None,
            assembling: None,
        }
    }
}

/// The device for what a part of a model is compiled for.
///
/// # Errors
/// [`Error::Ir`] for a target that is not known, [`Error::Device`] if this machine cannot run its code.
pub fn open(part: &Part, options: &Options) -> Result<Shared> {
    let target = Target::by_name(&part.target)?;
    match options.device {
        Kind::Auto if target.gpu().is_some() => match Card::find(0) {
            Ok(card) if !card.is_stand_in() => Ok(Shared::new(CudaDevice::new(0, target, options)?)),
            Ok(card) => Err(Error::device(format!("{card} is no card; run on it with --device cuda:0"))),
            Err(e) => Err(Error::device(format!(
                "code of {} needs a card, but {e}; or run it with --device emu, or compile for the CPU",
                target.name
            ))),
        },
        Kind::Cuda(ordinal) => Ok(Shared::new(CudaDevice::new(ordinal, target, options)?)),
        Kind::Auto | Kind::Cpu => {
            let threads = if options.threads == 0 { crate::sys::thread::cores() } else { options.threads };
            Ok(Shared::new(CpuDevice::new(target, threads)?))
        }
        Kind::Emu => Ok(Shared::new(EmuDevice::with_approximations(target, 0, options.approx_seed)?)),
    }
}

/// A device that executors share.
#[derive(Clone)]
pub struct Shared(Rc<RefCell<dyn Device>>);

impl Shared {
    /// A device, to be shared.
    pub fn new(device: impl Device + 'static) -> Shared {
        Shared(Rc::new(RefCell::new(device)))
    }

    /// The device, for a moment: nobody keeps it from one call to another.
    pub fn get(&self) -> RefMut<'_, dyn Device + 'static> {
        self.0.borrow_mut()
    }
}

/// Errors that devices share.
impl Error {
    /// Handle `n` that a device has not given out.
    fn foreign(what: &str, n: u32) -> Error {
        Error::device(format!("the device has no {what} {n}"))
    }
}

/// Things that were given out by number and may be given back. A number is never used again.
#[derive(Debug)]
struct Slots<T> {
    what: &'static str,
    list: Vec<Option<T>>,
}

impl<T> Slots<T> {
    fn new(what: &'static str) -> Slots<T> {
        Slots { what, list: Vec::new() }
    }

    fn add(&mut self, item: T) -> Result<u32> {
        let n = u32::try_from(self.list.len()).map_err(|_| Error::device("the device has too many objects"))?;
        self.list.push(Some(item));
        Ok(n)
    }

    fn get(&self, n: u32) -> Result<&T> {
        self.list.get(n as usize).and_then(Option::as_ref).ok_or_else(|| Error::foreign(self.what, n))
    }

    fn get_mut(&mut self, n: u32) -> Result<&mut T> {
        self.list.get_mut(n as usize).and_then(Option::as_mut).ok_or_else(|| Error::foreign(self.what, n))
    }

    fn remove(&mut self, n: u32) -> Result<T> {
        self.list.get_mut(n as usize).and_then(Option::take).ok_or_else(|| Error::foreign(self.what, n))
    }
}

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Its name on the command line.
    pub name: String,
    /// Name of the target whose code it runs.
    pub target: String,
    /// Workers that run a kernel at once.
    pub workers: usize,
    /// Whether kernels are emulated, which is slow.
    pub emulated: bool,
}

/// An allocation of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory(u32);

/// A loaded module of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Module(u32);

/// A kernel of a loaded module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    module: Module,
    number: u32,
}

/// Recorded commands of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recording(u32);

/// A copy that a device was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// A part of an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// The allocation.
    pub memory: Memory,
    /// Byte offset in it.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

impl Region {
    /// Checks that it lies in its allocation, which has `len` bytes.
    fn check(self, len: u64) -> Result<()> {
        let Region { offset, bytes, .. } = self;
        match offset.checked_add(bytes) {
            Some(end) if end <= len => Ok(()),
            _ => Err(Error::device(format!("bytes {offset}+{bytes} lie outside of an allocation of {len} bytes"))),
        }
    }
}

/// A launch of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The kernel.
    pub kernel: Kernel,
    /// Its operands in the order of its parameters, `None` for an absent one.
    pub buffers: Vec<Option<Region>>,
    /// Whether it may begin before the launch right before it ends, for which it waits at its
    /// [`AwaitPrevious`](ir::kernel::Stmt::AwaitPrevious). Where launches do not overlap, that changes nothing.
    pub early: bool,
}

/// Something to record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Runs a kernel.
    Launch(Launch),
    /// Copies bytes, as [`Device::copy`] does.
    Copy {
        /// The source.
        from: Region,
        /// The target, of the same size.
        to: Region,
    },
}

impl Launch {
    /// Checks that it has a buffer for each parameter of its kernel, with at least the bytes that the kernel demands.
    ///
    /// # Errors
    /// [`Error::Device`] naming the kernel and the parameter.
    fn check(&self, kernel: &str, params: &[Param]) -> Result<()> {
        if self.buffers.len() != params.len() {
            let (want, have) = (params.len(), self.buffers.len());
            return Err(Error::device(format!("kernel {kernel} of {want} parameters is launched with {have}")));
        }
        for (i, (param, region)) in params.iter().zip(&self.buffers).enumerate() {
            let have = region.map_or(0, |region| region.bytes);
            if have < param.bytes {
                let what = format!("parameter {i} of kernel {kernel} has {} bytes or more", param.bytes);
                return Err(Error::device(format!("{what}, it is launched with {have}")));
            }
        }
        Ok(())
    }
}

/// Bytes of the host that a device may read in place, such as a part of a mapped file, with what keeps them alive.
#[derive(Clone)]
pub struct HostBytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    offset: usize,
    len: usize,
}

impl HostBytes {
    /// `len` bytes from `offset` of the owner's, or as many of them as there are.
    pub fn new(owner: Arc<dyn AsRef<[u8]> + Send + Sync>, offset: usize, len: usize) -> HostBytes {
        let all = (*owner).as_ref().len();
        let offset = offset.min(all);
        HostBytes { owner, offset, len: len.min(all - offset) }
    }
}

impl AsRef<[u8]> for HostBytes {
    fn as_ref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.offset..][..self.len]
    }
}

/// Checks that two regions are of one size.
fn same_size(from: Region, to: Region) -> Result<()> {
    let good = from.bytes == to.bytes;
    good.then_some(()).ok_or_else(|| Error::device(format!("{} bytes do not fit {}", from.bytes, to.bytes)))
}

/// Writes at the start of a region, and waits until that is done.
///
/// # Errors
/// [`Error::Device`] if it is shorter, [`Error::Memory`].
pub fn upload(device: &mut dyn Device, to: Region, bytes: &[u8]) -> Result<()> {
    let len = bytes.len() as u64;
    if len > to.bytes {
        return Err(Error::device(format!("{len} bytes do not fit their place")));
    }
    through_staging(device, len, |device, staging| {
        let place = device.host_bytes(staging.memory).ok_or_else(|| Error::device("staging memory is out of reach"))?;
        place.copy_from_slice(bytes);
        let ticket = device.copy(staging, Region { bytes: len, ..to })?;
        device.wait(ticket)
    })
}

/// Reads the start of a region, once all before is done.
///
/// # Errors
/// [`Error::Device`] if it is shorter, [`Error::Memory`].
pub fn download(device: &mut dyn Device, from: Region, out: &mut [u8]) -> Result<()> {
    let len = out.len() as u64;
    if len > from.bytes {
        return Err(Error::device("a download is longer than its region"));
    }
    through_staging(device, len, |device, staging| {
        let ticket = device.copy(Region { bytes: len, ..from }, staging)?;
        device.wait(ticket)?;
        let place = device.host_bytes(staging.memory).ok_or_else(|| Error::device("staging memory is out of reach"))?;
        out.copy_from_slice(place);
        Ok(())
    })
}

/// Does something with staging memory of its own.
fn through_staging(
    device: &mut dyn Device,
    bytes: u64,
    copy: impl FnOnce(&mut dyn Device, Region) -> Result<()>,
) -> Result<()> {
    let memory = device.staging(bytes, "staging memory")?;
    let copied = copy(device, Region { memory, offset: 0, bytes });
    if copied.is_err() {
        // The copy may be under way. What else is wrong is told already.
        _ = device.sync();
    }
    given_back(device, |device| device.free(memory));
    copied
}

/// Gives something back to a device; that it fails is a warning.
pub fn given_back(device: &mut dyn Device, give: impl FnOnce(&mut dyn Device) -> Result<()>) {
    if let Err(e) = give(device) {
        log::warn!("{e}");
    }
}

/// Something that holds memory and runs recorded kernels. Handles of another device, and regions out of range, are
/// refused with [`Error::Device`].
pub trait Device {
    /// What it is.
    fn info(&self) -> &Info;

    /// Bytes that [`Device::alloc`] can still give, as far as that is known.
    ///
    /// # Errors
    /// [`Error::Device`].
    fn free_memory(&self) -> Result<Option<u64>>;

    /// Memory for `what`, aligned to 64 bytes or more. What it holds is not defined.
    ///
    /// # Errors
    /// [`Error::Memory`].
    fn alloc(&mut self, bytes: u64, what: &str) -> Result<Memory>;

    /// Host memory for `what` that copies are fastest from and to, and no kernel reaches. It is zero.
    ///
    /// # Errors
    /// [`Error::Memory`].
    fn staging(&mut self, bytes: u64, what: &str) -> Result<Memory>;

    /// Host memory as an allocation that kernels only read, without a copy; `None` if the device cannot reach it, or not
    /// at that alignment.
    fn import(&mut self, bytes: HostBytes) -> Option<Memory>;

    /// Gives memory back, which nothing that still runs or is recorded uses.
    ///
    /// # Errors
    /// [`Error::Device`].
    fn free(&mut self, memory: Memory) -> Result<()>;

    /// The bytes of memory that the host can touch in place: of [`Device::staging`], and on some devices of
    /// [`Device::alloc`]. Copies and kernels that were asked for and touch it must have been waited for.
    fn host_bytes(&mut self, memory: Memory) -> Option<&mut [u8]>;

    /// Lends the bytes of [`Device::staging`] memory, to be filled while the device is used. Until all of them are dropped
    /// the host cannot touch the memory in place, and it cannot be given back. `None` while they are lent, and for other
    /// memory.
    fn lend(&mut self, memory: Memory) -> Option<Lent>;

    /// Copies `from` to `to`, which are of one size and apart.
    ///
    /// # Errors
    /// [`Error::Device`].
    fn copy(&mut self, from: Region, to: Region) -> Result<Ticket>;

    /// Whether a copy has ended.
    ///
    /// # Errors
    /// [`Error::Device`]; [`Error::Launch`] if a kernel before it failed.
    fn done(&mut self, ticket: Ticket) -> Result<bool>;

    /// Waits for the end of a copy.
    ///
    /// # Errors
    /// As [`Device::done`].
    fn wait(&mut self, ticket: Ticket) -> Result<()>;

    /// Loads a module that holds these kernels, in their order. Code is trusted like an executable: it can do all that
    /// this process can.
    ///
    /// # Errors
    /// [`Error::Device`] if a kernel lies outside of the code, or the device refuses it.
    fn load(&mut self, code: &[u8], kernels: &[&KernelEntry]) -> Result<(Module, Vec<Kernel>)>;

    /// Gives a module back, of which nothing runs or is recorded.
    ///
    /// # Errors
    /// [`Error::Device`].
    fn unload(&mut self, module: Module) -> Result<()>;

    /// Binds commands to memory. Each sees what those before it did. Kernels find [`Control`](ir::abi::Control) in
    /// `control`.
    ///
    /// # Errors
    /// [`Error::Device`], [`Error::Memory`] for scratch memory.
    fn record(&mut self, commands: &[Command], control: Region) -> Result<Recording>;

    /// Gives a recording back that does not run.
    ///
    /// # Errors
    /// [`Error::Device`].
    fn erase(&mut self, recording: Recording) -> Result<()>;

    /// Runs recorded commands. Allocates nothing, but on the emulator. What kernels leave behind where one fails is not
    /// defined.
    ///
    /// # Errors
    /// [`Error::Device`]; [`Error::Launch`] if a kernel failed.
    fn replay(&mut self, recording: Recording) -> Result<()>;

    /// Waits for the end of everything that was asked for.
    ///
    /// # Errors
    /// [`Error::Device`]; [`Error::Launch`] if a kernel failed.
    fn sync(&mut self) -> Result<()>;
}
