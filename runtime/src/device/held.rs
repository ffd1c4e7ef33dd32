//! What an executor, or a check of kernels, has asked a device for.
//!
//! Invariant: it is given back when this is dropped, recordings before what they use, also where loading fails half way.
//! Next hop: the device.

use super::{Command, Device, HostBytes, Kernel, Memory, Module, Recording, Region, Shared, given_back, upload};
use crate::Result;
use ir::artifact::KernelEntry;
use std::cell::RefMut;

/// What was asked of a device, to be given back.
pub(crate) struct Held {
    device: Shared,
    memories: Vec<Memory>,
    modules: Vec<Module>,
    recordings: Vec<Recording>,
    /// Whether copies or kernels may be under way that nobody waits for.
    pub unsettled: bool,
}

impl Held {
    pub fn new(device: Shared) -> Held {
        Held { device, memories: Vec::new(), modules: Vec::new(), recordings: Vec::new(), unsettled: true }
    }

    /// The device, for a moment.
    pub fn device(&self) -> RefMut<'_, dyn Device + 'static> {
        self.device.get()
    }

    /// The device, for others to use as well.
    pub fn shared(&self) -> Shared {
        self.device.clone()
    }

    fn keep(&mut self, memory: Memory, bytes: u64) -> Region {
        self.memories.push(memory);
        Region { memory, offset: 0, bytes }
    }

    /// [`Device::alloc`].
    pub fn alloc(&mut self, bytes: u64, what: &str) -> Result<Region> {
        let memory = self.device().alloc(bytes, what)?;
        Ok(self.keep(memory, bytes))
    }

    /// [`Device::staging`].
    pub fn staging(&mut self, bytes: u64, what: &str) -> Result<Region> {
        let memory = self.device().staging(bytes, what)?;
        Ok(self.keep(memory, bytes))
    }

    /// [`Device::import`].
    pub fn import(&mut self, bytes: HostBytes) -> Option<Region> {
        let len = bytes.as_ref().len() as u64;
        let memory = self.device().import(bytes)?;
        Some(self.keep(memory, len))
    }

    /// Gives memory back early.
    pub fn free(&mut self, region: Region) {
        self.memories.retain(|m| *m != region.memory);
        given_back(&mut *self.device(), |device| device.free(region.memory));
    }

    /// Writes a pattern to a region again and again, by copies on the device, and waits until that is done.
    pub fn fill(&mut self, region: Region, pattern: &[u8]) -> Result<()> {
        let mut device = self.device();
        let first = (pattern.len() as u64).min(region.bytes);
        if first == 0 {
            return Ok(());
        }
        upload(&mut *device, region, &pattern[..first as usize])?;
        let (mut done, mut last) = (first, None);
        while done < region.bytes {
            let bytes = done.min(region.bytes - done);
            let to = Region { offset: region.offset + done, bytes, ..region };
            last = Some(device.copy(Region { bytes, ..region }, to)?);
            done += bytes;
        }
        last.map_or(Ok(()), |ticket| device.wait(ticket))
    }

    /// [`Device::load`].
    pub fn load(&mut self, code: &[u8], kernels: &[&KernelEntry]) -> Result<Vec<Kernel>> {
        let (module, kernels) = self.device().load(code, kernels)?;
        self.modules.push(module);
        Ok(kernels)
    }

    /// [`Device::record`].
    pub fn record(&mut self, commands: &[Command], control: Region) -> Result<Recording> {
        let recording = self.device().record(commands, control)?;
        self.recordings.push(recording);
        Ok(recording)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut device = self.device.get();
        let mut given = Vec::new();
        // Where loading has failed, that was told.
        if self.unsettled {
            _ = device.sync();
        }
        given.extend(self.recordings.drain(..).map(|r| device.erase(r)));
        given.extend(self.memories.drain(..).map(|m| device.free(m)));
        given.extend(self.modules.drain(..).map(|m| device.unload(m)));
        // What follows from the first is not worth a word.
        if let Some(e) = given.into_iter().find_map(Result::err) {
            log::warn!("{e}");
        }
    }
}
