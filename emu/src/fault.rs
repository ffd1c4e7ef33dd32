//! What is wrong with a kernel: one typed fault with its place. A launch ends at its first.

use serde::Serialize;
use std::fmt;
use std::sync::Arc;

/// Kind of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// Outside of every allocation of global memory.
    OobGlobal,
    /// In global memory that was freed.
    Freed,
    /// Outside of the shared memory of the CTA.
    OobShared,
    /// Outside of the thread's local memory.
    OobLocal,
    /// Outside of the kernel's parameters.
    OobParam,
    /// An address that is no multiple of the size of the access.
    Misaligned,
    /// Reads global memory that nobody wrote.
    UninitGlobal,
    /// Reads shared memory that nobody wrote.
    UninitShared,
    /// Reads local memory that the thread did not write.
    UninitLocal,
    /// Two unordered accesses to global memory, one of them a write.
    RaceGlobal,
    /// Two unordered accesses to shared memory, one of them a write.
    RaceShared,
    /// Touches the memory of an asynchronous copy without having waited for it.
    AsyncCopy,
    /// A bulk copy touches what a thread wrote, or signals an mbarrier that a thread initialised, without a proxy fence in
    /// between.
    ProxyFence,
    /// Writes read-only memory.
    ReadOnly,
    /// An `.aligned` or `.sync` instruction that not all its threads execute together.
    Divergence,
    /// A barrier whose participants do not agree on it.
    Barrier,
    /// An mbarrier that is not initialised, or whose bytes are used as data.
    Mbarrier,
    /// More arrivals than an mbarrier expects.
    MbarrierArrival,
    /// The bytes that arrive at an mbarrier are not those it expects.
    MbarrierTx,
    /// No thread can go on.
    Deadlock,
    /// A value that the instruction does not allow.
    BadOperand,
    /// The kernel executed `trap`.
    Trap,
    /// An `assert` of the kernel does not hold.
    Assert,
    /// Calls a function that the module declares and does not define.
    Undefined,
    /// More steps than the limit.
    StepLimit,
    /// Calls nested too deeply.
    StackOverflow,
}

impl FaultKind {
    /// The name, as case files spell it.
    pub fn name(self) -> String {
        // `OobGlobal` to `oob_global`.
        let mut name = String::new();
        for c in format!("{self:?}").chars() {
            if c.is_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(c.to_ascii_lowercase());
        }
        name
    }
}

/// A thread of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ThreadId {
    /// Its CTA.
    pub cta: [u32; 3],
    /// Its place in the CTA.
    pub tid: [u32; 3],
}

/// A fault and where it happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize)]
pub struct Fault {
    /// What it is.
    pub kind: FaultKind,
    /// The kernel.
    pub kernel: String,
    /// Line of the PTX; 0 for a fault of the launch as a whole.
    pub line: u32,
    /// The thread, if it is that of one.
    pub thread: Option<ThreadId>,
    /// The address, in its state space, if there is one.
    pub address: Option<u64>,
    /// The rest of the story.
    pub detail: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.kind.name(), self.kernel)?;
        if self.line > 0 {
            write!(f, ", line {}", self.line)?;
        }
        if let Some(ThreadId { cta, tid }) = self.thread {
            write!(f, ", CTA {cta:?} thread {tid:?}")?;
        }
        if let Some(address) = self.address {
            write!(f, ", address {address:#x}")?;
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

/// A launch as messages name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) kernel: String,
    /// CTAs in each direction.
    pub(crate) grid: [u32; 3],
    /// Threads of a CTA in each direction.
    pub(crate) block: [u32; 3],
    /// Who launched it; may be empty.
    pub(crate) operation: Arc<str>,
}

impl Label {
    /// Warps of a CTA.
    pub(crate) fn warps(&self) -> u32 {
        self.block.iter().product::<u32>().div_ceil(32)
    }
}

/// A fault before its place is filled in.
#[derive(Debug)]
pub(crate) struct Bad {
    pub(crate) kind: FaultKind,
    pub(crate) lane: u32,
    pub(crate) address: Option<u64>,
    pub(crate) detail: String,
}

/// The result of executing something.
pub(crate) type Done<T = ()> = Result<T, Box<Bad>>;

impl Bad {
    #[cold]
    pub(crate) fn new(kind: FaultKind, lane: u32, address: Option<u64>, detail: impl Into<String>) -> Box<Bad> {
        Box::new(Bad { kind, lane, address, detail: detail.into() })
    }
}

/// Coordinates of a thread by its number in the block.
pub(crate) fn thread_of(block: [u32; 3], linear: u32) -> [u32; 3] {
    let (x, y) = (block[0].max(1), block[1].max(1));
    [linear % x, linear / x % y, linear / x / y]
}

/// A fault with its place: a warp of a CTA, if it is that of one.
pub(crate) fn place(label: &Label, who: Option<([u32; 3], u32)>, line: u32, bad: Bad) -> Box<Fault> {
    let Bad { kind, lane, address, detail } = bad;
    let thread = who.map(|(cta, warp)| ThreadId { cta, tid: thread_of(label.block, warp * 32 + lane) });
    Box::new(Fault { kind, kernel: label.kernel.clone(), line, thread, address, detail })
}
