//! Decoded code: names are slots, types are lane functions, labels are positions. Made by [`crate::decode`], executed by
//! [`crate::exec`]. All functions of a module stand in one list of instructions.

use crate::alu::approximate::Row;
use crate::alu::integer::Chain;
use crate::alu::video::Video;
use crate::alu::{MapFn, TestFn};
use crate::counters::Class;
use crate::matrix::Elem;
use crate::types::{Order, Round, Scope, Space, Ty};

/// A register of the current frame, or (from [`CONSTANT`] on) a constant of the launch.
pub(crate) type Reg = u32;
/// First slot of constants.
pub(crate) const CONSTANT: Reg = 1 << 31;
/// The register that takes results nobody wants.
pub(crate) const SINK: Reg = 0;

/// A predicate of the current frame.
pub(crate) type Pred = u16;
/// The predicate that is always true.
pub(crate) const TRUE: Pred = 0;
/// The predicate that takes results nobody wants.
pub(crate) const NOBODY: Pred = 1;

/// A predicate, perhaps negated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PredRef {
    pub(crate) index: Pred,
    pub(crate) negated: bool,
}

impl PredRef {
    pub(crate) const TRUE: PredRef = PredRef { index: TRUE, negated: false };
}

/// A value that is fixed for a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Constant {
    Bits(u64),
    /// Address of a module-scope variable of global or constant memory.
    Global {
        var: u32,
        offset: i64,
    },
    /// Address in dynamic shared memory.
    DynamicShared(i64),
    Special(Special),
}

/// Special registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Ntid(u8),
    Nctaid(u8),
    WarpsPerCta,
    DynamicShared,
    TotalShared,
    LaneId,
    WarpId,
    Tid(u8),
    Ctaid(u8),
    SmId,
    LaneMask(Mask),
    Clock32,
    Clock64,
}

impl Special {
    /// Whether it is the same for all threads of a launch.
    pub(crate) fn is_constant(self) -> bool {
        use Special::{DynamicShared, Nctaid, Ntid, TotalShared, WarpsPerCta};
        matches!(self, Ntid(_) | Nctaid(_) | WarpsPerCta | DynamicShared | TotalShared)
    }
}

/// Lanes relative to one's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Mask {
    Eq,
    Le,
    Lt,
    Ge,
    Gt,
}

/// Combines predicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Logic {
    And,
    Or,
    Xor,
}

impl Logic {
    pub(crate) fn apply(self, a: u32, b: u32) -> u32 {
        match self {
            Logic::And => a & b,
            Logic::Or => a | b,
            Logic::Xor => a ^ b,
        }
    }
}

/// An address operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) base: Reg,
    pub(crate) offset: i64,
}

/// A load or a store.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) store: bool,
    pub(crate) space: Space,
    pub(crate) address: Address,
    /// Bytes of an element.
    pub(crate) bytes: u32,
    /// Elements are sign-extended from so many bits; 0: they are not.
    pub(crate) extend: u32,
    /// Of each register.
    pub(crate) width: u32,
    pub(crate) regs: Vec<Reg>,
    pub(crate) order: Order,
    pub(crate) scope: Scope,
    /// Not weak: a poll, if it is a load.
    pub(crate) strong: bool,
    /// `ld.global.nc`: of memory that nobody writes while the kernel runs.
    pub(crate) non_coherent: bool,
    /// A weak load whose address a `cas` of the function has as well: the first value of a loop, which the `cas` checks.
    pub(crate) before_cas: bool,
}

/// What an atomic operation does with the old value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rmw {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Inc,
    Dec,
    Exch,
    Cas,
}

/// `atom` or `red`.
#[derive(Debug)]
pub(crate) struct Atomic {
    pub(crate) op: Rmw,
    pub(crate) ty: Ty,
    pub(crate) space: Space,
    pub(crate) address: Address,
    /// Where the old values go; empty for `red`.
    pub(crate) old: Vec<Reg>,
    /// Operands, one for each element.
    pub(crate) values: Vec<Reg>,
    /// The new value of `cas`.
    pub(crate) swap: Reg,
    pub(crate) order: Order,
    pub(crate) scope: Scope,
}

/// An operation in which named lanes of a warp take part.
#[derive(Debug)]
pub(crate) struct Collective {
    pub(crate) kind: Exchange,
    /// Register of the member mask.
    pub(crate) members: Reg,
    pub(crate) d: Reg,
    pub(crate) p: Pred,
    pub(crate) s: [Reg; 3],
    pub(crate) predicate: PredRef,
}

/// What lanes exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exchange {
    Sync,
    ShuffleUp,
    ShuffleDown,
    ShuffleXor,
    ShuffleIndex,
    VoteAll,
    VoteAny,
    VoteUniform,
    Ballot,
    MatchAny { bits: u32 },
    MatchAll { bits: u32 },
    Reduce { op: Rmw, signed: bool },
    Elect,
}

/// A CTA barrier operation.
#[derive(Debug)]
pub(crate) struct Barrier {
    pub(crate) id: Reg,
    pub(crate) count: Option<Reg>,
    /// All threads of the warp take part at once.
    pub(crate) aligned: bool,
    /// Does not wait.
    pub(crate) arrive: bool,
    pub(crate) reduce: Option<Reduce>,
}

/// The reduction of `bar.red`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reduce {
    pub(crate) op: Reduction,
    pub(crate) predicate: PredRef,
    pub(crate) d: Reg,
    pub(crate) p: Pred,
}

/// How `bar.red` reduces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reduction {
    Count,
    And,
    Or,
}

/// An mbarrier operation.
#[derive(Debug)]
pub(crate) struct Mbarrier {
    pub(crate) op: MbarrierOp,
    pub(crate) space: Space,
    pub(crate) address: Address,
    pub(crate) d: Reg,
    pub(crate) p: Pred,
    /// Count of `init` and `arrive`, bytes of `expect_tx`, state or parity of the waits.
    pub(crate) value: Reg,
    pub(crate) relaxed: bool,
}

/// What an mbarrier operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MbarrierOp {
    Init,
    Inval,
    Arrive {
        drop: bool,
    },
    ArriveExpect {
        drop: bool,
    },
    Expect,
    CompleteTx,
    /// Waits for a phase, by its state or its parity; `block` may suspend the thread.
    Wait {
        parity: bool,
        block: bool,
    },
    PendingCount,
    /// An arrival that earlier `cp.async` of the thread trigger.
    CpAsyncArrive {
        noinc: bool,
    },
}

/// `cp.async`.
#[derive(Debug)]
pub(crate) struct CpAsync {
    pub(crate) shared: Address,
    pub(crate) global: Address,
    pub(crate) bytes: u32,
    /// Bytes that are read; the rest are zeros.
    pub(crate) source: Option<Reg>,
    /// Reads nothing where it holds.
    pub(crate) skip: Option<PredRef>,
}

/// Between which memories a bulk copy goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BulkKind {
    /// From global to shared memory, signalling an mbarrier.
    Load,
    /// From shared to global memory, in a bulk group.
    Store,
    /// Within shared memory, signalling an mbarrier.
    Shared,
}

/// `st.async` or `red.async`: to shared memory, signalling an mbarrier.
#[derive(Debug)]
pub(crate) struct AsyncStore {
    /// Target, element type and values; the operation of `red.async`, for `st.async` an exchange.
    pub(crate) atomic: Atomic,
    pub(crate) mbarrier: Address,
}

/// `cp.async.bulk`.
#[derive(Debug)]
pub(crate) struct Bulk {
    pub(crate) kind: BulkKind,
    pub(crate) target: Address,
    pub(crate) source: Address,
    pub(crate) bytes: Reg,
    pub(crate) mbarrier: Address,
}

/// `ldmatrix` or `stmatrix`.
#[derive(Debug)]
pub(crate) struct Matrices {
    pub(crate) store: bool,
    pub(crate) transposed: bool,
    pub(crate) space: Space,
    pub(crate) address: Address,
    pub(crate) regs: Vec<Reg>,
}

/// What is summed over the depth of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Term {
    Product,
    /// Whether two bits differ.
    Xor,
    /// Whether two bits are both set.
    And,
}

/// A matrix in the registers of a warp.
#[derive(Debug)]
pub(crate) struct Fragment {
    pub(crate) elem: Elem,
    pub(crate) regs: Vec<Reg>,
    /// Where its elements are in the matrix: for each element of the registers of a lane, for each lane.
    pub(crate) places: Vec<u16>,
}

/// `mma` or `wmma.mma`: d = a b + c.
#[derive(Debug)]
pub(crate) struct Product {
    /// Rows, columns, depth.
    pub(crate) size: [usize; 3],
    /// Matrices that are multiplied at once.
    pub(crate) matrices: usize,
    pub(crate) d: Fragment,
    pub(crate) a: Fragment,
    pub(crate) b: Fragment,
    pub(crate) c: Fragment,
    pub(crate) term: Term,
    pub(crate) saturate: bool,
    /// Of f64.
    pub(crate) round: Round,
}

/// `wmma.load` or `wmma.store`.
#[derive(Debug)]
pub(crate) struct Tile {
    /// How one unit is accessed, an element or a word of smaller ones, by way of a register.
    pub(crate) access: Access,
    /// Of an element.
    pub(crate) bits: u32,
    /// Elements from the start of a line of the matrix to that of the next.
    pub(crate) stride: Reg,
    pub(crate) regs: Vec<Reg>,
    /// Line and place in it of each unit of the registers, for each lane.
    pub(crate) places: Vec<[u32; 2]>,
}

/// Where a value of a call goes: a register, or bytes of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Reg(Reg),
    Frame { offset: u32, bytes: u32 },
}

/// Whom a call reaches.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Callee {
    Function(u32),
    /// The function whose address is in a register, which must have that signature.
    Pointer {
        address: Reg,
        signature: u32,
    },
}

/// A call. Sources are in the frame of the caller, targets in that of the callee, and the other way round for results.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) callee: Callee,
    pub(crate) args: Vec<(Place, Place)>,
    pub(crate) results: Vec<(Place, Place)>,
}

/// What an instruction does.
#[derive(Debug)]
pub(crate) enum Op {
    Map {
        f: MapFn,
        d: Reg,
        s: [Reg; 3],
        k: u32,
    },
    /// An approximate instruction on registers of a type.
    Approximate {
        row: &'static Row,
        ty: Ty,
        d: Reg,
        s: [Reg; 2],
        k: u32,
    },
    Chain {
        op: Chain,
        bits: u32,
        d: Reg,
        s: [Reg; 3],
        carry_in: bool,
        carry_out: bool,
    },
    Video {
        video: Box<Video>,
        d: Reg,
        s: [Reg; 3],
    },
    Insert {
        bits: u32,
        d: Reg,
        s: [Reg; 4],
    },
    /// A test; with `halves` the second predicate is that of the upper halves, otherwise the complement.
    Test {
        f: TestFn,
        k: u32,
        halves: bool,
        s: [Reg; 2],
        combine: Option<(Logic, PredRef)>,
        p: Pred,
        q: Pred,
    },
    /// A test to a register: `one` where it holds.
    TestTo {
        f: TestFn,
        k: u32,
        halves: bool,
        s: [Reg; 2],
        combine: Option<(Logic, PredRef)>,
        d: Reg,
        one: u64,
    },
    Select {
        d: Reg,
        s: [Reg; 2],
        p: PredRef,
    },
    Predicate {
        op: Logic,
        p: Pred,
        s: [PredRef; 2],
    },
    Pack {
        d: Reg,
        parts: Vec<Reg>,
        bits: u32,
    },
    Unpack {
        parts: Vec<Reg>,
        s: Reg,
        bits: u32,
    },
    Read {
        d: Reg,
        special: Special,
    },
    FrameAddress {
        d: Reg,
        offset: u64,
    },
    Branch {
        target: u32,
    },
    BranchTable {
        index: Reg,
        targets: Vec<u32>,
    },
    Call(Box<Call>),
    Return,
    Exit,
    Trap,
    Nop,
    Yield,
    /// Waits for the end of the launch before.
    AwaitPrevious,
    /// The next launch may begin, as far as this CTA is concerned.
    LetNext,
    Access(Box<Access>),
    Atomic(Box<Atomic>),
    Fence {
        scope: Scope,
        /// Sequentially consistent: ordered with all others.
        sc: bool,
    },
    /// What threads wrote becomes visible to the async proxy, and the mbarriers that they initialised.
    ProxyFence {
        shared: bool,
        global: bool,
    },
    /// The mbarriers do.
    MbarrierFence,
    CpAsync(Box<CpAsync>),
    CpCommit,
    /// Waits until at most so many groups are pending; `None`: for all copies.
    CpWait {
        keep: Option<u64>,
    },
    Bulk(Box<Bulk>),
    AsyncStore(Box<AsyncStore>),
    BulkCommit,
    BulkWait {
        keep: u64,
        read: bool,
    },
    Mbarrier(Box<Mbarrier>),
    Barrier(Box<Barrier>),
    ClusterBarrier {
        arrive: bool,
        relaxed: bool,
    },
    Collective(Box<Collective>),
    ActiveMask {
        d: Reg,
    },
    Matrices(Box<Matrices>),
    MoveMatrix {
        d: Reg,
        s: Reg,
    },
    Product(Box<Product>),
    Tile(Box<Tile>),
    /// What names CTAs of a cluster must name the only one.
    OwnCta {
        /// A rank, 0, or a mask of ranks, 1.
        operand: Reg,
        want: u32,
    },
    /// Whether a generic address is in a space.
    IsSpace {
        p: Pred,
        s: Reg,
        space: Space,
    },
}

/// An instruction.
#[derive(Debug)]
pub(crate) struct Instr {
    pub(crate) op: Op,
    pub(crate) guard: PredRef,
    pub(crate) line: u32,
    pub(crate) class: Class,
}

/// A function or a kernel.
#[derive(Debug)]
pub(crate) struct Code {
    pub(crate) start: u32,
    pub(crate) registers: u32,
    pub(crate) predicates: u32,
    /// Bytes of local memory and parameters of calls.
    pub(crate) frame: u32,
    /// Number of its signature; equal signatures have equal numbers.
    pub(crate) signature: u32,
    /// Its name if the module has no body of it.
    pub(crate) missing: Option<String>,
}

/// A parameter of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamLayout {
    /// As the PTX names it.
    pub name: String,
    /// Where it starts among the parameter bytes.
    pub offset: u64,
    /// Its size.
    pub bytes: u64,
}

/// A kernel of a module.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its parameters, in order.
    pub params: Vec<ParamLayout>,
    /// Bytes of all parameters together.
    pub param_bytes: u64,
    /// Bytes of static shared memory.
    pub static_shared: u64,
    /// What `.maxntid` or `.reqntid` says.
    pub max_threads: Option<[u32; 3]>,
    /// What `.reqntid` says.
    pub required_threads: Option<[u32; 3]>,
    /// What `.maxnreg` says.
    pub max_registers: Option<u32>,
    /// Registers that the PTX declares, of which the assembler needs fewer at a time.
    pub registers: u32,
    /// Bytes of local memory of a thread, without those of functions that it calls.
    pub local_bytes: u64,
    pub(crate) dynamic_shared_align: u64,
    pub(crate) code: u32,
}

/// An initialised variable of global or constant memory.
#[derive(Debug)]
pub(crate) struct GlobalVar {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) align: u64,
    pub(crate) constant: bool,
    /// Addresses in it.
    pub(crate) addresses: Vec<Patch>,
}

/// An address in the initial value of a variable.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patch {
    /// From the start of the variable.
    pub(crate) at: u64,
    pub(crate) bytes: usize,
    /// The variable that it points to.
    pub(crate) target: u32,
    pub(crate) offset: i64,
    /// The lowest bit that is kept.
    pub(crate) shift: u32,
}

/// A decoded module.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) code: Vec<Instr>,
    pub(crate) functions: Vec<Code>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) constants: Vec<Constant>,
    pub(crate) globals: Vec<GlobalVar>,
}
