//! What the driver says of a card.

use super::driver::{self, out, probe};
use crate::{Error, Result};
use cudarc::driver::sys;
use cudarc::driver::sys::CUdevice_attribute as Attribute;
use std::ffi::{CStr, c_char, c_int};
use std::path::Path;

/// How the names of cards end that are none: a stand-in for the driver that emulates them.
const STAND_IN: &str = "(stand-in)";

/// The least GT/s of a lane from each generation of PCIe on.
const GENERATIONS: [f64; 6] = [2.5, 5.0, 8.0, 16.0, 32.0, 64.0];

/// How a card is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Generation of PCIe at which it runs now; an idle card lowers it.
    pub generation: u32,
    /// Lanes.
    pub width: u32,
    /// The highest generation that card and slot have.
    pub most_generation: u32,
    /// The most lanes of both.
    pub most_width: u32,
}

/// A card as the driver tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Its number.
    pub ordinal: u32,
    /// Its name.
    pub name: String,
    /// Compute capability: major times 10 plus minor.
    pub sm: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Bytes of shared memory that a CTA may ask for; some drivers tell nonsense here.
    pub shared_bytes: i32,
    /// Where it is on the PCI bus.
    pub pci: String,
    /// The driver's version: 1000 times major plus 10 times minor of the CUDA that it implements.
    pub driver: i32,
    /// The handle.
    pub(super) device: sys::CUdevice,
}

impl Card {
    /// The first card; none where there is no driver, or it sees no card.
    ///
    /// # Errors
    /// [`Error::Device`] if something is wrong with a driver that is there.
    pub fn first() -> Result<Option<Card>> {
        if driver::library().is_none() || !driver::sees_cards()? {
            return Ok(None);
        }
        Card::find(0).map(Some)
    }

    /// Card number `ordinal`.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no driver, or no such card.
    pub fn find(ordinal: u32) -> Result<Card> {
        probe()?;
        // SAFETY: here and below: the driver was found, and writes what it is asked for.
        let count = unsafe { out(|n| driver::cuDeviceGetCount(n)) }?;
        if i64::from(ordinal) >= i64::from(count) {
            let have = match count {
                0 => "there is none".to_owned(),
                1 => "there is one, cuda:0".to_owned(),
                n => format!("there are {n}, from cuda:0 on"),
            };
            return Err(Error::device(format!("there is no card cuda:{ordinal}: {have}")));
        }
        let driver = unsafe { out(|version| driver::cuDriverGetVersion(version)) }?;
        let device = unsafe { out(|device| driver::cuDeviceGet(device, ordinal as c_int)) }?;
        let attribute = |a: Attribute| unsafe { out(|value| driver::cuDeviceGetAttribute(value, a, device)) };
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let mut text = [0 as c_char; 256];
        let read = |text: &[c_char; 256]| {
            let bytes: Vec<u8> = text.iter().map(|&c| c as u8).chain([0]).collect();
            CStr::from_bytes_until_nul(&bytes).map_or(String::new(), |s| s.to_string_lossy().trim().to_owned())
        };
        unsafe { driver::cuDeviceGetName(text.as_mut_ptr(), text.len() as c_int, device) }?;
        let name = read(&text);
        unsafe { driver::cuDeviceGetPCIBusId(text.as_mut_ptr(), text.len() as c_int, device) }?;
        Ok(Card {
            ordinal,
            name,
            sm: (10 * major + minor) as u32,
            memory_bytes: unsafe { out(|bytes| driver::cuDeviceTotalMem_v2(bytes, device)) }? as u64,
            sms: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32,
            shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            pci: read(&text),
            driver,
            device,
        })
    }

    /// Bytes of its memory that nobody uses. Takes a context for a moment, which the card must have room for.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn free_bytes(&self) -> Result<u64> {
        // SAFETY: the driver was found, and writes what it is asked for.
        unsafe {
            let context = out(|context| driver::cuDevicePrimaryCtxRetain(context, self.device))?;
            let (mut free, mut total) = (0, 0);
            let told = driver::cuCtxSetCurrent(context).and_then(|()| driver::cuMemGetInfo_v2(&mut free, &mut total));
            told.and(driver::cuDevicePrimaryCtxRelease_v2(self.device))?;
            Ok(free as u64)
        }
    }

    /// How it is connected now, as far as the system tells.
    pub fn link(&self) -> Option<Link> {
        let folder = Path::new("/sys/bus/pci/devices").join(self.pci.to_lowercase());
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
        // Such as `32.0 GT/s PCIe`.
        let generation = |name| {
            let speed: f64 = read(name)?.split_whitespace().next()?.parse().ok()?;
            Some(GENERATIONS.iter().position(|&least| speed < least).unwrap_or(GENERATIONS.len()) as u32)
        };
        let width = |name| read(name)?.trim().parse::<u32>().ok();
        Some(Link {
            generation: generation("current_link_speed")?,
            width: width("current_link_width")?,
            most_generation: generation("max_link_speed")?,
            most_width: width("max_link_width")?,
        })
    }

    /// Whether the driver finds its assembler, without which it takes no PTX. A stand-in has its own.
    pub fn has_assembler(&self) -> bool {
        // SAFETY: loading NVIDIA's library runs its initialisers, which is what it is for.
        self.is_stand_in() || unsafe { libloading::Library::new("libnvidia-ptxjitcompiler.so.1") }.is_ok()
    }

    /// Whether it is no card but a stand-in, which has to be asked for by name.
    pub fn is_stand_in(&self) -> bool {
        self.name.ends_with(STAND_IN)
    }

    /// Whether it runs code of a target of this compute capability.
    pub fn runs(&self, sm: u32) -> bool {
        self.sm / 10 == sm / 10 && self.sm >= sm
    }
}

/// For people.
impl std::fmt::Display for Card {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cuda:{} ({}, sm_{})", self.ordinal, self.name, self.sm)
    }
}
