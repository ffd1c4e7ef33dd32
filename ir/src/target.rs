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

/// Shared memory that a GPU takes for itself beside that of each CTA, bytes.
pub const CTA_RESERVED: u32 = 1024;

/// A graphics card: what work is split over, and what predictions of times are made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Card {
    /// Name on the command line and in manifests.
    pub name: &'static str,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// Shared memory that a CTA may ask for, bytes.
    pub shared_bytes: u32,
    /// Shared memory of a multiprocessor, bytes, of which each CTA takes [`CTA_RESERVED`] more than it asks for.
    pub sm_shared_bytes: u32,
    /// Memory bandwidth, GB/s.
    pub bandwidth: u32,
    /// Boost clock, MHz.
    pub clock: u32,
    /// Memory, bytes, as the card is sold.
    pub memory_bytes: u64,
}

/// What PTX is generated for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gpu {
    /// Compute capability: major times 10 plus minor.
    pub sm: u32,
    /// Lowest PTX ISA version that has this target and what kernels for it use.
    pub ptx: (u32, u32),
    /// The cards of this instruction set, the best-known first.
    pub cards: &'static [Card],
    /// The one that is compiled for.
    pub card: &'static Card,
}

/// What executes the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// A CPU of this instruction set.
    Cpu(Isa),
    /// A GPU.
    Gpu(Gpu),
}

/// What code is generated for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Name on the command line and in manifests.
    pub name: &'static str,
    /// What executes it.
    pub machine: Machine,
    /// Microkernels that its kernels may call.
    pub atoms: &'static [Atom],
}

const fn cpu(name: &'static str, isa: Isa, atoms: &'static [Atom]) -> Target {
    Target { name, machine: Machine::Cpu(isa), atoms }
}

const fn gpu(name: &'static str, sm: u32, ptx: (u32, u32), cards: &'static [Card]) -> Target {
    let gpu = Gpu { sm, ptx, cards, card: &cards[0] };
    Target { name, machine: Machine::Gpu(gpu), atoms: &[] }
}

/// Cards of a compute capability, which says how many KiB of shared memory a CTA may have:
/// (name, multiprocessors, GB/s, MHz, GiB).
const fn cards<const N: usize>(shared: u32, rows: [(&'static str, u32, u32, u32, u64); N]) -> [Card; N] {
    let mut all = [Card {
        name: "",
        sms: 0,
        shared_bytes: shared << 10,
        sm_shared_bytes: (shared + 1) << 10,
        bandwidth: 0,
        clock: 0,
        memory_bytes: 0,
    }; N];
    let mut i = 0;
    while i < N {
        let (name, sms, bandwidth, clock, memory) = rows[i];
        all[i] = Card { name, sms, bandwidth, clock, memory_bytes: memory << 30, ..all[i] };
        i += 1;
    }
    all
}

static SM_80: &[Card] = &cards(163, [("a100", 108, 1555, 1410, 40), ("a100-80gb", 108, 2039, 1410, 80)]);
static SM_89: &[Card] =
    &cards(99, [("rtx4090", 128, 1008, 2520, 24), ("rtx4080", 76, 717, 2505, 16), ("l40s", 142, 864, 2520, 48)]);
static SM_90: &[Card] = &cards(227, [("h100", 132, 3350, 1980, 80), ("h200", 132, 4800, 1980, 141)]);
static SM_120: &[Card] = &cards(
    99,
    [
        ("rtx5090", 170, 1792, 2407, 32),
        ("rtx5080", 84, 960, 2617, 16),
        ("rtx5070ti", 70, 896, 2452, 16),
        ("rtxpro6000", 188, 1792, 2617, 96),
    ],
);

/// Every target; those of the CPU come first, best last.
pub static ALL: &[Target] = &[
    cpu("x86-64", Isa::X86_64, &[Atom::Barrier, Atom::RopeAngles]),
    cpu("x86-64-v3", Isa::X86_64V3, Atom::ALL),
    cpu("x86-64-v4-vnni", Isa::X86_64V4Vnni, Atom::ALL),
    gpu("sm_80", 80, (7, 4), SM_80),
    gpu("sm_89", 89, (7, 8), SM_89),
    gpu("sm_90", 90, (8, 6), SM_90),
    gpu("sm_120", 120, (8, 7), SM_120),
];

impl Gpu {
    /// Whether a launch may begin before the one before ends (programmatic dependent launch).
    pub fn overlaps(&self) -> bool {
        self.sm >= 90
    }

    /// Most tokens of a step: whose sums the lanes of a product have registers for. Without bulk copies weights on their way take
    /// some too.
    pub fn most_tokens(&self) -> usize {
        if self.bulk_copies() { 16 } else { 8 }
    }

    /// Most threads and CTAs of a multiprocessor: CUDA C++ Programming Guide, table of technical specifications; for 12.0 what the
    /// assembler takes.
    pub fn most_resident(&self) -> (u32, u32) {
        match self.sm {
            80 | 90 => (2048, 32),
            _ => (1536, 24),
        }
    }

    /// Whether it copies bytes in bulk to shared memory, for an mbarrier.
    pub fn bulk_copies(&self) -> bool {
        self.sm >= 90
    }
}

impl Target {
    /// Whether the rows of several tokens are quantised by a kernel of their own, for all that multiply them, where each CTA would
    /// do it for itself; and rows of floats normalised, also of one token, so that its bits are those of several.
    pub fn prepares_steps(&self) -> bool {
        self.gpu().is_some()
    }

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

    /// This target with the card of that name, which work is then split over.
    ///
    /// # Errors
    /// [`Error::Unsupported`] that says which target the card belongs to, or lists the cards.
    pub fn with_card(&self, name: &str) -> Result<Target> {
        let refusal = |hint: String| {
            Err(Error::Unsupported { feature: format!("card '{name}'"), target: Some(self.name.into()), hint })
        };
        if let Some(target) = Target::of_card(name) {
            if target.name == self.name {
                return Ok(target);
            }
            return refusal(format!("it is a card of {0}: compile with --target {0}", target.name));
        }
        let gpus = || ALL.iter().filter_map(|t| Some((t.name, t.gpu()?.cards)));
        let list = |cards: &[Card]| cards.iter().map(|c| c.name).collect::<Vec<_>>().join(", ");
        let all = gpus().map(|(target, cards)| format!("{target}: {}", list(cards)));
        refusal(format!("the cards are {}", all.collect::<Vec<_>>().join("; ")))
    }

    /// The target with the card of this name, whichever has it.
    pub fn of_card(name: &str) -> Option<Target> {
        ALL.iter().find_map(|target| {
            let gpu = target.gpu()?;
            let card = gpu.cards.iter().find(|c| c.name == name)?;
            Some(Target { machine: Machine::Gpu(Gpu { card, ..*gpu }), ..*target })
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

    /// Whether [`Fma`](crate::kernel::Inst::Fma) rounds once; else the product is rounded too.
    pub fn fuses_fma(&self) -> bool {
        self.cpu().is_none_or(|isa| isa >= Isa::X86_64V3)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_has_one_target() {
        let cards: Vec<_> = ALL.iter().filter_map(Target::gpu).flat_map(|gpu| gpu.cards).collect();
        for (i, card) in cards.iter().enumerate() {
            assert!(cards[..i].iter().all(|c| c.name != card.name), "{}", card.name);
            let owners = ALL.iter().filter_map(|t| t.with_card(card.name).ok());
            let chosen: Vec<_> = owners.filter_map(|t| t.gpu().map(|gpu| gpu.card)).collect();
            assert_eq!(chosen, [*card]);
        }
    }
}
