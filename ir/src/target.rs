//! Targets: what code is generated for, as data. A target is never asked of the machine; the command line resolves
//! `native` once. A work split over the processors of a card is a constant taken from here, so that results do not
//! depend on the card that they are computed on.

use crate::abi::{Atom, Meaning};
use crate::quant::DotForm;
use crate::{Error, Result};

/// Instruction sets of the CPU targets, narrowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// SSE4.1.
    X86_64,
    /// AVX2, FMA, F16C.
    X86_64V3,
    /// AVX-512 F, BW, DQ, VL and VNNI.
    X86_64V4Vnni,
}

/// A graphics card: what its work is split over.
#[derive(Debug, PartialEq, Eq)]
pub struct Card {
    /// Name on the command line.
    pub name: &'static str,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Shared memory that a CTA may ask for, bytes.
    pub shared_bytes: u32,
    /// Memory bandwidth, GB/s.
    pub bandwidth: u32,
}

/// What PTX is generated for.
#[derive(Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Compute capability: major times 10 plus minor.
    pub sm: u32,
    /// Lowest PTX ISA version that has this target and what kernels for it use.
    pub ptx: (u32, u32),
    /// The best-known card of this instruction set.
    pub card: Card,
}

/// What executes the code.
#[derive(Debug, PartialEq, Eq)]
pub enum Machine {
    /// A CPU of this instruction set.
    Cpu(Isa),
    /// A GPU.
    Gpu(Gpu),
}

/// What code is generated for.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    /// Name on the command line and in manifests.
    pub name: &'static str,
    /// What executes it.
    pub machine: Machine,
    /// Microkernels that its kernels may call.
    pub atoms: &'static [Atom],
    /// Whether quantised dots take int8 activations.
    pub int8_dot: bool,
}

const fn cpu(name: &'static str, isa: Isa, atoms: &'static [Atom]) -> Target {
    Target { name, machine: Machine::Cpu(isa), atoms, int8_dot: true }
}

const fn gpu(name: &'static str, sm: u32, ptx: (u32, u32), card: Card) -> Target {
    Target { name, machine: Machine::Gpu(Gpu { sm, ptx, card }), atoms: &[], int8_dot: true }
}

/// Every target; those of the CPU come first, best last.
pub static ALL: &[Target] = &[
    cpu("x86-64", Isa::X86_64, &[Atom::Barrier, Atom::RopeAngles]),
    cpu("x86-64-v3", Isa::X86_64V3, Atom::ALL),
    cpu("x86-64-v4-vnni", Isa::X86_64V4Vnni, Atom::ALL),
    gpu("sm_80", 80, (7, 4), Card { name: "a100", sms: 108, shared_bytes: 166_912, bandwidth: 1555 }),
    gpu("sm_89", 89, (7, 8), Card { name: "rtx4090", sms: 128, shared_bytes: 101_376, bandwidth: 1008 }),
    gpu("sm_90", 90, (8, 6), Card { name: "h200", sms: 132, shared_bytes: 232_448, bandwidth: 4800 }),
    gpu("sm_120", 120, (8, 7), Card { name: "rtx5090", sms: 170, shared_bytes: 101_376, bandwidth: 1792 }),
];

impl Gpu {
    /// Whether a launch may begin before the one before ends (programmatic dependent launch).
    pub fn overlaps(&self) -> bool {
        self.sm >= 90
    }

    /// Whether it copies bytes in bulk to shared memory, for an mbarrier.
    pub fn bulk_copies(&self) -> bool {
        self.sm >= 90
    }
}

impl Target {
    /// By name.
    ///
    /// # Errors
    /// [`Error::Unsupported`] that lists the names.
    pub fn by_name(name: &str) -> Result<&'static Target> {
        ALL.iter().find(|t| t.name == name).ok_or_else(|| {
            let names: Vec<_> = ALL.iter().map(|t| t.name).collect();
            Error::unsupported(format!("target '{name}'"), format!("the targets are {}", names.join(", ")))
        })
    }

    /// The instruction set, if it is a CPU.
    pub fn cpu(&self) -> Option<Isa> {
        match self.machine {
            Machine::Cpu(isa) => Some(isa),
            Machine::Gpu(_) => None,
        }
    }

    /// The GPU, if it is one.
    pub fn gpu(&self) -> Option<&Gpu> {
        match &self.machine {
            Machine::Cpu(_) => None,
            Machine::Gpu(gpu) => Some(gpu),
        }
    }

    /// The microkernel with this meaning, if the target has it.
    pub fn atom(&self, meaning: Meaning) -> Option<Atom> {
        self.atoms.iter().copied().find(|a| a.meaning() == meaning)
    }

    /// Whether it has a microkernel for dots of this form.
    pub fn has_dot(&self, form: DotForm) -> bool {
        self.atom(Meaning::Dot(form)).is_some()
    }
}
