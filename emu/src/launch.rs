//! Launches: what can be asked for, whether it is possible, and the start of its CTAs.

use crate::agents::Owner;
use crate::alu::{FULL, Lanes, WARP};
use crate::clock::{AGENTS_PER_WARP, Agent};
use crate::exec::barrier::CtaBarrier;
use crate::exec::state::{Cta, Flight, Grid, Group, Order, State, Team, Warp, Window};
use crate::fault::{Done, Fault, Label, thread_of};
use crate::memory::{Memory, Region};
use crate::program::{Constant, Entry, Program, Special};
use crate::store::Store;
use std::collections::HashMap;
use std::sync::Arc;

/// Threads of a block, at most.
const MAX_THREADS: u64 = 1024;
/// What registers hold before they are written.
const STALE: u64 = 0xa5a5;
/// Shared memory of a block in KiB, by target.
const CARDS: &[(&str, u64)] = &[
    ("sm_75", 64),
    ("sm_80", 163),
    ("sm_86", 99),
    ("sm_87", 163),
    ("sm_89", 99),
    ("sm_90", 227),
    ("sm_100", 227),
    ("sm_101", 227),
    ("sm_103", 227),
    ("sm_110", 227),
    ("sm_120", 99),
    ("sm_121", 99),
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
    /// CTAs of a launch that fit on the card at once, so that they may wait for each other.
    pub resident_ctas: usize,
    /// Instructions of warps, at most.
    pub max_steps: u64,
    /// The error of approximate instructions (`ex2.approx`, `rcp.approx`, `div.full`): 0 for none, otherwise one that the
    /// ISA allows, a fixed function of the instruction, the bits of its operands and this number.
    pub approx_seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options { schedule: Schedule { seed: 0 }, resident_ctas: 192, max_steps: 1 << 34, approx_seed: 0 }
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

/// Bytes of shared memory that a block can have on a target.
fn shared_limit(target: &str) -> Option<u64> {
    let plain = target.trim_end_matches(['a', 'f']);
    CARDS.iter().find(|(name, _)| *name == plain).map(|(_, kib)| kib * 1024)
}

/// Checks a launch; the bytes of shared memory of a CTA.
fn check(entry: &Entry, launch: &Launch, target: &str) -> Result<u64, LaunchError> {
    let have = launch.params.len() as u64;
    if have != entry.param_bytes {
        return Err(LaunchError::Params { entry: entry.name.clone(), want: entry.param_bytes, have });
    }
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
    let limit = shared_limit(target).ok_or_else(|| LaunchError::Target(target.to_owned()))?;
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
    let entry = program.entries.iter().find(|e| e.name == launch.entry);
    let entry = entry.ok_or_else(|| LaunchError::UnknownEntry(launch.entry.clone()))?;
    let shared = check(entry, launch, target)?;
    let value = |c: &Constant| [constant(*c, entry, launch, shared, globals); WARP];
    Ok(Arc::new(Grid {
        label: Arc::new(Label { kernel: entry.name.clone(), block: launch.block }),
        program: Arc::clone(program),
        constants: program.constants.iter().map(value).collect::<Vec<Lanes>>(),
        params: launch.params.clone(),
        ctas: launch.grid,
        function: entry.code,
        shared,
        max_steps: options.max_steps,
        approx_seed: options.approx_seed,
    }))
}

/// A CTA at its first instruction.
pub(crate) fn start(flight: &mut Flight, memory: &mut Memory, linear: u32) -> Done<Cta> {
    let grid = &flight.grid;
    let code = &grid.program.functions[grid.function as usize];
    let threads: u32 = grid.label.block.iter().product();
    let warps = threads.div_ceil(32);
    let id = thread_of(grid.ctas, linear);
    let owner = Owner::Cta(id, Arc::clone(&grid.label));
    let first = memory.agents.start(warps * AGENTS_PER_WARP, owner, &mut flight.agents)?;
    let agents = first..first + warps * AGENTS_PER_WARP;
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
        published: HashMap::new(),
        sc_fences: Arc::default(),
        let_next: false,
    };
    Ok(Cta { flight: flight.id, team, warps })
}
