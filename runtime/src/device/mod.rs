//! Devices: what an executor needs of a machine that runs kernels.
//!
//! Everything is named by handles that the device gave out; a device owns all its memory until it is dropped.
//! Invariant: kernels run only from a [`Device::replay`] to the end of the [`Device::sync`] after it. To add one: a
//! file here, its name in the list below and in [`for_target`]. Next hop: `cpu`.

mod cpu;
mod emu;
mod pool;

pub use cpu::CpuDevice;
pub use emu::EmuDevice;
pub use pool::{MAX_WORKERS, Pool, barrier};

use crate::{Error, Result};
use ir::abi::Control;
use ir::artifact::{KernelEntry, Param};
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
}

impl Kind {
    /// Every kind, with its name on the command line.
    pub const ALL: &[(&str, Kind)] = &[("auto", Kind::Auto), ("cpu", Kind::Cpu), ("emu", Kind::Emu)];
}

/// The device for code of the target of this name: on a CPU `workers` workers, or one for each core if that is 0; on
/// the emulator errors of approximate instructions by `approx_seed`.
///
/// # Errors
/// [`Error::Ir`] for a target that is not known, [`Error::Device`] if this machine cannot run its code.
pub fn for_target(target: &str, kind: Kind, workers: usize, approx_seed: u64) -> Result<Box<dyn Device>> {
    let target = ir::target::Target::by_name(target)?;
    match kind {
        Kind::Auto if target.gpu().is_some() => Err(Error::device(format!(
            "code of {} needs a GPU, which this version does not drive; run it with --device emu, or compile for the CPU",
            target.name
        ))),
        Kind::Auto | Kind::Cpu => {
            let workers = if workers == 0 { crate::sys::thread::cores() } else { workers };
            Ok(Box::new(CpuDevice::new(target, workers)?))
        }
        Kind::Emu => Ok(Box::new(EmuDevice::with_approximations(target, 0, approx_seed)?)),
    }
}

/// Errors that devices share.
impl Error {
    /// Handle `n` that a device has not given out.
    fn foreign(what: &str, n: u32) -> Error {
        Error::device(format!("the device has no {what} {n}"))
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
}

/// An allocation of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory(u32);

/// A loaded kernel of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel(u32);

/// Recorded launches of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recording(u32);

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

/// One launch to record: a kernel and its buffers in the order of its parameters, `None` for an absent one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The kernel.
    pub kernel: Kernel,
    /// Its operands.
    pub buffers: Vec<Option<Region>>,
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

/// Something that holds memory and runs recorded kernels. Handles of another device, and regions out of range, are
/// refused with [`Error::Device`].
pub trait Device: Send {
    /// What it is.
    fn info(&self) -> &Info;

    /// Memory for `what`, aligned to 64 bytes or more. What it holds is not defined.
    ///
    /// # Errors
    /// [`Error::Memory`].
    fn alloc(&mut self, bytes: u64, what: &str) -> Result<Memory>;

    /// Host memory as an allocation that kernels only read, without a copy; `None` if the device cannot reach it, or not
    /// at that alignment.
    fn import(&mut self, bytes: HostBytes) -> Option<Memory>;

    /// An allocation as host memory, where the host can write it in place.
    fn host_bytes(&mut self, memory: Memory) -> Option<&mut [u8]>;

    /// Copies `bytes` to the start of `to`.
    ///
    /// # Errors
    /// [`Error::Device`] if they do not fit.
    fn upload(&mut self, to: Region, bytes: &[u8]) -> Result<()>;

    /// Copies the start of `from` to all of `out`, after [`Device::sync`].
    ///
    /// # Errors
    /// [`Error::Device`] if it is shorter.
    fn download(&mut self, from: Region, out: &mut [u8]) -> Result<()>;

    /// Loads a module that holds these kernels. Code is trusted like an executable: it can do all that this process can.
    ///
    /// # Errors
    /// [`Error::Device`] if a kernel lies outside of the code, or the device refuses it.
    fn load_module(&mut self, code: &[u8], kernels: &[KernelEntry]) -> Result<Vec<Kernel>>;

    /// Binds launches to memory. Each sees what those before it did: it begins when the last of them has ended or, where
    /// launches overlap ([`Gpu::overlaps`](ir::target::Gpu::overlaps)), waits for that at its
    /// [`AwaitPrevious`](ir::kernel::Stmt::AwaitPrevious).
    ///
    /// # Errors
    /// [`Error::Device`], [`Error::Memory`] for scratch memory.
    fn record(&mut self, launches: &[Launch]) -> Result<Recording>;

    /// Runs recorded launches, perhaps until [`Device::sync`] only. Allocates nothing, but on the emulator. What kernels
    /// leave behind where one fails is not defined.
    ///
    /// # Errors
    /// [`Error::Device`]; [`Error::Launch`] if a kernel failed.
    fn replay(&mut self, recording: Recording, control: Control) -> Result<()>;

    /// Waits for the end of everything replayed.
    ///
    /// # Errors
    /// [`Error::Device`]; [`Error::Launch`] if a kernel failed.
    fn sync(&mut self) -> Result<()>;
}
