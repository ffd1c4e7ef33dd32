//! Devices: what an executor needs of a machine that runs kernels.
//!
//! Everything is named by handles that the device gave out; a device owns all its memory until it is dropped. Invariant:
//! kernels run only inside of [`Device::replay`] and [`Device::sync`]. To add one: a file here, its name in the list below
//! and in [`for_target`]. Next hop: `cpu`.

mod cpu;
mod pool;

pub use cpu::CpuDevice;
pub use pool::{MAX_WORKERS, Pool, barrier};

use crate::Result;
use ir::abi::Control;
use ir::artifact::KernelEntry;
use std::sync::Arc;

/// The device for code of the target of this name: `workers` workers, or one for each core if that is 0.
///
/// # Errors
/// [`crate::Error::Ir`] for a target that is not known, [`crate::Error::Device`] if this machine cannot run its code.
pub fn for_target(target: &str, workers: usize) -> Result<Box<dyn Device>> {
    let target = ir::target::Target::by_name(target)?;
    let workers = if workers == 0 { crate::sys::thread::cores() } else { workers };
    Ok(Box::new(CpuDevice::new(target, workers)?))
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

/// One launch to record: a kernel and its buffers in the order of its parameters, `None` for an absent one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The kernel.
    pub kernel: Kernel,
    /// Its operands.
    pub buffers: Vec<Option<Region>>,
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
/// refused with [`crate::Error::Device`].
pub trait Device: Send {
    /// What it is.
    fn info(&self) -> &Info;

    /// Zeroed memory for `what`, aligned to 64 bytes or more.
    ///
    /// # Errors
    /// [`crate::Error::Memory`].
    fn alloc(&mut self, bytes: u64, what: &str) -> Result<Memory>;

    /// Host memory as an allocation that kernels only read, without a copy; `None` if the device cannot reach it, or not
    /// at that alignment.
    fn import(&mut self, bytes: HostBytes) -> Option<Memory>;

    /// An allocation as host memory, where the host can write it in place.
    fn host_bytes(&mut self, memory: Memory) -> Option<&mut [u8]>;

    /// Copies `bytes` to the start of `to`.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if they do not fit.
    fn upload(&mut self, to: Region, bytes: &[u8]) -> Result<()>;

    /// Copies the start of `from` to all of `out`, after [`Device::sync`].
    ///
    /// # Errors
    /// [`crate::Error::Device`] if it is shorter.
    fn download(&mut self, from: Region, out: &mut [u8]) -> Result<()>;

    /// Loads a module that holds these kernels. Code is trusted like an executable: it can do all that this process can.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if a kernel lies outside of the code, or the device refuses it.
    fn load_module(&mut self, code: &[u8], kernels: &[KernelEntry]) -> Result<Vec<Kernel>>;

    /// Binds launches, each starting when the one before has ended, to memory.
    ///
    /// # Errors
    /// [`crate::Error::Device`], [`crate::Error::Memory`] for scratch memory.
    fn record(&mut self, launches: &[Launch]) -> Result<Recording>;

    /// Runs recorded launches, perhaps until [`Device::sync`] only. Allocates nothing.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    fn replay(&mut self, recording: Recording, control: Control) -> Result<()>;

    /// Waits for the end of everything replayed.
    ///
    /// # Errors
    /// [`crate::Error::Device`] if a kernel failed.
    fn sync(&mut self) -> Result<()>;
}
