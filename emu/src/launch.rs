//! Launches: what can be asked for, whether it is possible, and the start of its CTAs.

use crate::agents::of_cta;
use crate::alu::{FULL, Lanes, WARP};
use crate::clock::{AGENTS_PER_WARP, Agent, MAX_AGENT};
use crate::exec::barrier::CtaBarrier;
use crate::exec::state::{Cta, Flight, Grid, Group, MOST_BYTES, Order, State, Team, Warp, Window};
use crate::fault::{Fault, thread_of};
use crate::memory::Region;
use crate::program::{Code, Constant, Entry, Program, Special};
use crate::store::Store;
use std::collections::HashMap;
use std::sync::Arc;

/// Threads of a block, at most.
const MAX_THREADS: u64 = 1024;
/// What registers hold before they are written.
const STALE: u64 = 0xa5a5;
/// Registers of a multiprocessor, of 32 bits.
const REGISTERS: u64 = 1 << 16;
/// Registers that a thread is taken to need at most, where `.maxnreg` does not say: PTX has as many as it likes, and how
/// many are in use at once only the assembler knows.
const USUAL_REGISTERS: u64 = 64;
/// Shared memory that each block takes beside its own.
const RESERVED: u64 = 1024;

/// What a card has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Card {
    /// Bytes of shared memory that a block can have.
    pub block_shared: u64,
    /// Bytes of shared memory of a multiprocessor.
    pub shared: u64,
    /// Threads of a multiprocessor.
    pub threads: u64,
    /// Blocks of a multiprocessor.
    pub blocks: u64,
    /// Multiprocessors.
    pub multiprocessors: u64,
}

/// A card with so many KiB of shared memory for a block and in a multiprocessor, and threads and blocks there.
const fn card(target: &'static str, shared: (u64, u64), (threads, blocks): (u64, u64), n: u64) -> (&'static str, Card) {
    let (block_shared, shared) = (1024 * shared.0, 1024 * shared.1);
    (target, Card { block_shared, shared, threads, blocks, multiprocessors: n })
}

impl Card {
    /// The best-known card of a target.
    ///
    /// # Errors
    /// If none is known.
    pub fn of(target: &str) -> Result<Card, LaunchError> {
        let plain = target.trim_end_matches(['a', 'f']);
        let found = CARDS.iter().find(|(name, _)| *name == plain);
        found.map(|(_, card)| *card).ok_or_else(|| LaunchError::Target(target.to_owned()))
    }
}

/// The best-known card of each target.
const CARDS: &[(&str, Card)] = &[
    card("sm_50", (48, 64), (2048, 32), 5),
    card("sm_52", (48, 96), (2048, 32), 16),
    card("sm_53", (48, 64), (2048, 32), 1),
    card("sm_60", (48, 64), (2048, 32), 56),
    card("sm_61", (48, 96), (2048, 32), 28),
    card("sm_62", (48, 64), (2048, 32), 2),
    card("sm_70", (96, 96), (2048, 32), 80),
    card("sm_72", (96, 96), (2048, 32), 8),
    card("sm_75", (64, 64), (1024, 16), 40),
    card("sm_80", (163, 164), (2048, 32), 108),
    card("sm_86", (99, 100), (1536, 16), 82),
    card("sm_87", (163, 164), (1536, 16), 16),
    card("sm_88", (163, 164), (1536, 16), 16),
    card("sm_89", (99, 100), (1536, 24), 128),
    card("sm_90", (227, 228), (2048, 32), 132),
    card("sm_100", (227, 228), (2048, 32), 148),
    card("sm_101", (227, 228), (1536, 24), 20),
    card("sm_103", (227, 228), (2048, 32), 148),
    card("sm_110", (227, 228), (1536, 24), 20),
    card("sm_120", (99, 100), (1536, 24), 170),
    card("sm_121", (99, 100), (1536, 24), 48),
];

/// A launch of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The kernel.
    pub entry: String,
    /// CTAs in each direction.
    pub grid: [u32; 3],
    /// Threads of a CTA in each direction.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub dynamic_shared: u64,
    /// The parameters, laid out as the kernel declares them.
    pub params: Vec<u8>,
}

/// Who runs when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// 0: round robin; every other seed is an adversary.
    pub seed: u64,
}

/// How a launch is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Who runs when.
    pub schedule: Schedule,
    /// CTAs of a launch that fit on the card at once, so that they may wait for each other. `None`: as many as the
    /// card has room for, by threads, shared memory and registers: those of `.maxnreg`, else those
    /// that the PTX declares, up to 64 a thread.
    pub resident_ctas: Option<usize>,
    /// The card that launches have to fit. `None`: the best-known of the target.
    pub card: Option<Card>,
    /// Instructions of warps, at most.
    pub max_steps: u64,
    /// The error of approximate instructions (`ex2.approx`, `rcp.approx`, `div.full`): 0 for none, otherwise one that the
    /// ISA allows, a fixed function of the instruction, the bits of its operands and this number.
    pub approx_seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        let schedule = Schedule { seed: 0 };
        Options { schedule, resident_ctas: None, card: None, max_steps: 1 << 30, approx_seed: 0 }
    }
}

impl Options {
    fn card_of(&self, target: &str) -> Result<Card, LaunchError> {
        self.card.map_or_else(|| Card::of(target), Ok)
    }
}

/// Why a launch is not possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// No such kernel.
    #[error("the module has no kernel {0}")]
    UnknownEntry(String),
    /// Parameters of another size.
    #[error("{entry} has {want} bytes of parameters, {have} are given")]
    Params {
        /// The kernel.
        entry: String,
        /// Bytes that it declares.
        want: u64,
        /// Bytes that are given.
        have: u64,
    },
    /// A grid without CTAs, or with too many.
    #[error("a grid of {0:?} is not possible")]
    Grid([u32; 3]),
    /// A block without threads, or with too many.
    #[error("a block of {block:?} is not possible: {limit}")]
    Block {
        /// Threads in each direction.
        block: [u32; 3],
        /// What it breaks.
        limit: String,
    },
    /// More shared memory than a block can have.
    #[error("{bytes} bytes of shared memory are more than the {limit} that a block has on {target}")]
    Shared {
        /// Static and dynamic bytes.
        bytes: u64,
        /// Bytes that there are.
        limit: u64,
        /// The target.
        target: String,
    },
    /// More CTAs than can be told apart.
    #[error("a grid of {grid:?} has {warps} warps; at most {most} of a launch can be emulated")]
    Warps {
        /// CTAs in each direction.
        grid: [u32; 3],
        /// Warps of all of them.
        warps: u64,
        /// Those that there can be.
        most: u64,
    },
    /// A CTA that takes too much memory of the machine that emulates it.
    #[error(
        "the registers and the local memory of a block of {block:?} of {entry} take {bytes} bytes of the emulator; {most} is the limit"
    )]
    Memory {
        /// The kernel.
        entry: String,
        /// Threads in each direction.
        block: [u32; 3],
        /// Bytes of a CTA.
        bytes: u64,
        /// Bytes that it may have.
        most: u64,
    },
    /// A target whose cards are not known.
    #[error("the target {0} is unknown")]
    Target(String),
}

/// Why a launch did not end well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It was not possible.
    #[error("{0}")]
    Launch(#[from] LaunchError),
    /// The kernel did something wrong.
    #[error("{0}")]
    Fault(#[from] Box<Fault>),
}

/// CTAs that are on a multiprocessor at once.
fn on_one(entry: &Entry, code: &Code, threads: u64, shared: u64, card: &Card) -> u64 {
    let registers = entry.max_registers.map_or(u64::from(code.registers).min(USUAL_REGISTERS), u64::from).max(1);
    let threads = threads.next_multiple_of(32);
    let by_registers = REGISTERS / (registers.next_multiple_of(8) * threads);
    let by_shared = card.shared / (shared + RESERVED);
    (card.threads / threads).min(by_registers).min(by_shared).min(card.blocks)
}

/// [`crate::Loaded::occupancy`].
pub(crate) fn occupancy(
    program: &Program,
    target: &str,
    launch: &Launch,
    options: &Options,
) -> Result<u64, LaunchError> {
    let entry = find(program, launch)?;
    let card = options.card_of(target)?;
    let shared = check(entry, launch, target, &card)?;
    let threads = launch.block.iter().map(|&n| u64::from(n)).product();
    Ok(on_one(entry, &program.functions[entry.code as usize], threads, shared, &card))
}

fn find<'a>(program: &'a Program, launch: &Launch) -> Result<&'a Entry, LaunchError> {
    let entry = program.entries.iter().find(|e| e.name == launch.entry);
    entry.ok_or_else(|| LaunchError::UnknownEntry(launch.entry.clone()))
}

/// Bytes that the emulator keeps for the threads of a CTA.
fn cta_bytes(code: &Code, threads: u64, shared: u64) -> u64 {
    let registers = threads.div_ceil(32) * u64::from(code.registers) * size_of::<Lanes>() as u64;
    // Each byte has a bit that says whether it was written.
    registers + (threads * u64::from(code.frame) + shared) / 8 * 9
}

/// Checks a launch, but for its parameters; the bytes of shared memory of a CTA.
fn check(entry: &Entry, launch: &Launch, target: &str, card: &Card) -> Result<u64, LaunchError> {
    let count = |d: [u32; 3]| d.iter().map(|&n| u128::from(n)).product::<u128>();
    if !(1..=1 << 31).contains(&count(launch.grid)) {
        return Err(LaunchError::Grid(launch.grid));
    }
    let refuse = |limit: String| Err(LaunchError::Block { block: launch.block, limit });
    let threads = count(launch.block);
    if !(1..=u128::from(MAX_THREADS)).contains(&threads) || launch.block[2] > 64 {
        return refuse(format!("a block has 1 to {MAX_THREADS} threads"));
    }
    if let Some(max) = entry.max_threads
        && threads > count(max)
    {
        return refuse(format!("{} has .maxntid {max:?}", entry.name));
    }
    if let Some(required) = entry.required_threads
        && launch.block != required
    {
        return refuse(format!("{} has .reqntid {required:?}", entry.name));
    }
    let dynamic = entry.static_shared.next_multiple_of(entry.dynamic_shared_align);
    let bytes =
        if launch.dynamic_shared == 0 { entry.static_shared } else { dynamic.saturating_add(launch.dynamic_shared) };
    let limit = card.block_shared;
    if bytes > limit {
        return Err(LaunchError::Shared { bytes, limit, target: target.to_owned() });
    }
    Ok(bytes)
}

/// The value of a constant in a launch.
fn constant(c: Constant, entry: &Entry, launch: &Launch, shared: u64, globals: &[u64]) -> u64 {
    match c {
        Constant::Bits(bits) => bits,
        Constant::Global { var, offset } => globals[var as usize].wrapping_add_signed(offset),
        Constant::DynamicShared(offset) => {
            entry.static_shared.next_multiple_of(entry.dynamic_shared_align).wrapping_add_signed(offset)
        }
        Constant::Special(special) => match special {
            Special::Ntid(axis) => u64::from(launch.block[usize::from(axis)]),
            Special::Nctaid(axis) => u64::from(launch.grid[usize::from(axis)]),
            Special::WarpsPerCta => u64::from(launch.block.iter().product::<u32>().div_ceil(32)),
            Special::DynamicShared => launch.dynamic_shared,
            Special::TotalShared => shared,
            _ => 0,
        },
    }
}

/// What a launch asks for, if it is possible.
pub(crate) fn prepare(
    program: &Arc<Program>,
    target: &str,
    globals: &[u64],
    launch: &Launch,
    options: &Options,
) -> Result<Arc<Grid>, LaunchError> {
    let entry = find(program, launch)?;
    let have = launch.params.len() as u64;
    if have != entry.param_bytes {
        return Err(LaunchError::Params { entry: entry.name.clone(), want: entry.param_bytes, have });
    }
    let card = options.card_of(target)?;
    let shared = check(entry, launch, target, &card)?;
    let code = &program.functions[entry.code as usize];
    let threads: u64 = launch.block.iter().map(|&n| u64::from(n)).product();
    let (bytes, most) = (cta_bytes(code, threads, shared), MOST_BYTES);
    if bytes > most {
        return Err(LaunchError::Memory { entry: entry.name.clone(), block: launch.block, bytes, most });
    }
    let ctas: u64 = launch.grid.iter().map(|&n| u64::from(n)).product();
    let (warps, most) = (ctas * threads.div_ceil(32), u64::from(MAX_AGENT / AGENTS_PER_WARP / 2));
    if warps > most {
        return Err(LaunchError::Warps { grid: launch.grid, warps, most });
    }
    let resident = match options.resident_ctas {
        Some(n) => n.max(1) as u64,
        None => on_one(entry, code, threads, shared, &card).max(1) * card.multiprocessors,
    };
    let value = |c: &Constant| [constant(*c, entry, launch, shared, globals); WARP];
    Ok(Arc::new(Grid {
        kernel: entry.name.clone(),
        program: Arc::clone(program),
        constants: program.constants.iter().map(value).collect::<Vec<Lanes>>(),
        params: launch.params.clone(),
        ctas: launch.grid,
        block: launch.block,
        function: entry.code,
        shared,
        max_steps: options.max_steps,
        approx_seed: options.approx_seed,
        resident: resident.min(MOST_BYTES / bytes.max(1)) as usize,
        bytes,
    }))
}

/// A CTA at its first instruction.
pub(crate) fn start(flight: &Flight, linear: u32) -> Cta {
    let grid = &flight.grid;
    let code = &grid.program.functions[grid.function as usize];
    let threads: u32 = grid.block.iter().product();
    let warps = threads.div_ceil(32);
    let id = thread_of(grid.ctas, linear);
    let first = flight.first + linear * of_cta(&flight.label);
    let agents = first..first + of_cta(&flight.label);
    let warps = (0..warps).map(|index| {
        let agent: Agent = first + index * AGENTS_PER_WARP;
        let left = threads - index * 32;
        let exist = if left >= 32 { FULL } else { (1 << left) - 1 };
        let order = Order::new(agent, agents.clone(), &flight.before, exist);
        let window = Window { registers: 0, predicates: 0, frame: 0, function: grid.function };
        let group = Group {
            pc: code.start,
            mask: exist,
            state: State::Run,
            window,
            calls: Vec::new(),
            timed_out: false,
            asked: None,
        };
        let mut predicates = vec![0; code.predicates as usize];
        predicates[0] = FULL;
        let local = if code.frame > 0 { WARP } else { 0 };
        Warp {
            index,
            groups: vec![group],
            registers: vec![[STALE; WARP]; code.registers as usize],
            predicates,
            carry: 0,
            order,
            local: (0..local).map(|_| Store::unwritten(code.frame as usize)).collect(),
            cp_async: Vec::new(),
            undefined: None,
            steps: 0,
            turn: 0,
            rotate: false,
            since_poll: 0,
        }
    });
    let warps = warps.collect();
    let team = Team {
        id,
        linear,
        threads,
        exited: 0,
        shared: Region::new(Store::unwritten(grid.shared as usize)),
        barriers: (0..16).map(|_| CtaBarrier::default()).collect(),
        cluster: CtaBarrier::default(),
        mbarriers: HashMap::new(),
        phases: 0,
        landings: Vec::new(),
        delayed: Vec::new(),
        published: HashMap::new(),
        sc_fences: Arc::default(),
        let_next: false,
    };
    Cta { flight: flight.id, team, warps }
}
