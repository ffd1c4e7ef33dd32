//! Targets: what code is generated for, as data. A target is never asked of the machine; the command line resolves
//! `native` once.

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

/// What code is generated for.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    /// Name on the command line and in manifests.
    pub name: &'static str,
    /// Instruction set.
    pub isa: Isa,
    /// Microkernels that its kernels may call.
    pub atoms: &'static [Atom],
    /// Whether quantised dots take int8 activations.
    pub int8_dot: bool,
}

/// Every target, best last.
pub static ALL: &[Target] = &[
    Target { name: "x86-64", isa: Isa::X86_64, atoms: &[Atom::Barrier, Atom::RopeAngles], int8_dot: true },
    Target { name: "x86-64-v3", isa: Isa::X86_64V3, atoms: Atom::ALL, int8_dot: true },
    Target { name: "x86-64-v4-vnni", isa: Isa::X86_64V4Vnni, atoms: Atom::ALL, int8_dot: true },
];

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

    /// The microkernel with this meaning, if the target has it.
    pub fn atom(&self, meaning: Meaning) -> Option<Atom> {
        self.atoms.iter().copied().find(|a| a.meaning() == meaning)
    }

    /// Whether it has a microkernel for dots of this form.
    pub fn has_dot(&self, form: DotForm) -> bool {
        self.atom(Meaning::Dot(form)).is_some()
    }
}
