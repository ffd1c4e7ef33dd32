//! From PTX to the machine code of a card, by the driver's assembler, once: what it makes is kept in a folder. It takes kernel by
//! kernel, so that whoever waits can be told how far it is.
//!
//! A file there is named by the hash of all that it was made from: the PTX, the card and the driver's version. It is
//! written beside its place and renamed, so that whoever reads it finds all of it. Invariant: what is read is handed to the
//! driver, which refuses code that is not for its card; then it is made again. Next hop: `mod`.

use super::driver::{self, Failure, out};
use crate::device::Assembling;
use crate::{Error, Result};
use cudarc::driver::sys;
use ir::artifact::KernelEntry;
use sha2::{Digest, Sha256};
use std::ffi::{CString, c_void};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Bytes of the assembler's messages that are looked at.
const LOG: usize = 8 << 10;

/// What machine code is for.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    /// The card's name.
    pub name: String,
    /// Its compute capability.
    pub sm: u32,
    /// The driver's version.
    pub driver: i32,
    /// Where machine code is kept.
    pub cache: Option<PathBuf>,
    /// Who is told how far making it is.
    pub assembling: Option<Rc<dyn Assembling>>,
}

impl Machine {
    /// Where the machine code of a PTX text is kept.
    fn file(&self, ptx: &[u8]) -> Option<PathBuf> {
        let mut hash = Sha256::new();
        hash.update(format!("{}\n{} sm_{}\n{}\n", env!("CARGO_PKG_VERSION"), self.name, self.sm, self.driver));
        hash.update(ptx);
        Some(self.cache.as_ref()?.join(format!("{:x}.cubin", hash.finalize())))
    }
}

/// Loads a module of the machine code of a PTX text that has these kernels.
///
/// # Errors
/// [`Error::Device`] with the assembler's first message, or if a kernel lies outside of the text.
pub(super) fn load(ptx: &[u8], kernels: &[&KernelEntry], machine: &Machine) -> Result<sys::CUmodule> {
    let file = machine.file(ptx);
    if let Some(kept) = file.as_ref().and_then(|file| std::fs::read(file).ok())
        && let Ok(module) = module(&kept)
    {
        return Ok(module);
    }
    let made = assemble(ptx, kernels, machine);
    machine.assembling.iter().for_each(|told| told.ended());
    let code = made?;
    if let Some(file) = file
        && let Err(e) = keep(&file, &code)
    {
        log::warn!("machine code cannot be kept as {}: {e}; it will be made again the next time", file.display());
    }
    Ok(module(&code)?)
}

/// Loads machine code.
fn module(code: &[u8]) -> Result<sys::CUmodule, Failure> {
    let none = std::ptr::null_mut();
    // SAFETY: the code is the driver's own, or a file that it checks; it is copied.
    out(|module| unsafe { driver::cuModuleLoadDataEx(module, code.as_ptr().cast(), 0, std::ptr::null_mut(), none) })
}

/// A linker of the driver.
struct Linker(sys::CUlinkState);

impl Drop for Linker {
    fn drop(&mut self) {
        // SAFETY: the state is living, and nobody else has it.
        if let Err(e) = unsafe { driver::cuLinkDestroy(self.0) } {
            log::warn!("{e}");
        }
    }
}

/// The texts that make up a module: each kernel's, with the constants before it, under what the module begins with.
fn texts(ptx: &[u8], kernels: &[&KernelEntry]) -> Result<Vec<CString>> {
    let prefix = kernels.iter().map(|k| k.offset as usize).min().unwrap_or(ptx.len());
    let text = |k: &&KernelEntry| {
        let end = k.offset.saturating_add(k.bytes) as usize;
        let own = ptx.get(k.offset as usize..end);
        let own = own.ok_or_else(|| Error::device(format!("kernel {} lies outside of the module", k.name)))?;
        let text = [&ptx[..prefix], own].concat();
        CString::new(text).map_err(|_| Error::device(format!("kernel {} is no PTX text", k.name)))
    };
    kernels.iter().map(text).collect()
}

/// Has the driver make machine code of PTX, kernel by kernel.
fn assemble(ptx: &[u8], kernels: &[&KernelEntry], machine: &Machine) -> Result<Vec<u8>> {
    let texts = texts(ptx, kernels)?;
    let tell = |done: usize| {
        machine.assembling.iter().for_each(|told| told.assembled(&machine.name, done as u64, texts.len() as u64));
    };
    let mut log = vec![0u8; LOG];
    let mut names = [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(LOG)];
    let refused = |failure: Failure, log: &[u8]| {
        let said = String::from_utf8_lossy(log.split(|&b| b == 0).next().unwrap_or_default()).into_owned();
        match said.lines().find(|line| !line.trim().is_empty()) {
            Some(line) => Error::device(format!("{failure}: {}", line.trim())),
            None => failure.into(),
        }
    };
    // SAFETY: both lists have as many entries as are told, and outlive the linker, as does the log.
    let state = out(|state| unsafe { driver::cuLinkCreate_v2(2, names.as_mut_ptr(), values.as_mut_ptr(), state) })?;
    let linker = Linker(state);
    let kind = sys::CUjitInputType::CU_JIT_INPUT_PTX;
    let (none, name) = (std::ptr::null_mut(), c"rigc".as_ptr());
    tell(0);
    for (done, text) in texts.iter().enumerate() {
        let bytes = text.as_bytes_with_nul();
        // SAFETY: the text ends with a zero, which is counted, and is only read.
        unsafe {
            let data = bytes.as_ptr().cast_mut().cast();
            driver::cuLinkAddData_v2(linker.0, kind, data, bytes.len(), name, 0, none, std::ptr::null_mut())
        }
        .map_err(|e| refused(e, &log))?;
        tell(done + 1);
    }
    let (mut code, mut len) = (std::ptr::null_mut(), 0);
    // SAFETY: both are written.
    unsafe { driver::cuLinkComplete(linker.0, &mut code, &mut len) }.map_err(|e| refused(e, &log))?;
    // SAFETY: the linker owns so many bytes there until it is destroyed.
    Ok(unsafe { std::slice::from_raw_parts(code.cast::<u8>(), len) }.to_vec())
}

/// Writes a file beside its place, and renames it.
fn keep(file: &Path, code: &[u8]) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let beside = file.with_extension(format!("{}.part", std::process::id()));
    let written = std::fs::write(&beside, code).and_then(|()| std::fs::rename(&beside, file));
    written.inspect_err(|_| _ = std::fs::remove_file(&beside))
}
