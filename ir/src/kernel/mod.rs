//! Kernel IR: what one kernel does, as structured code over typed values.
//!
//! Values are 32-bit integers, floats and predicates, scalar or in four lanes. Control flow is loops and ifs; state that
//! survives an iteration lives in [`Var`]s. Memory operands are (buffer, 32-bit element index); raw addresses exist only
//! in backends. An index is unsigned, and the additions and multiplications that make it do not wrap, so backends may add
//! its constants to 64-bit addresses; a subtraction is written as one, or as the addition of a negative constant. A kernel runs on the workers of a CPU, which share work by `Parallel` loops, or, if it has a [`Grid`], in
//! every thread of a GPU's CTAs; each kind has statements of its own. Invariant: a [`Kernel`] is built by [`Builder`], and
//! only a [`Verified`](crate::Verified) one is emitted.

mod builder;
pub mod eval;
pub mod interp;
mod mma;
mod names;
mod parse;
mod text;
mod verify;

pub use crate::value::Value;
pub use builder::Builder;
pub use mma::{MMA_COLUMNS, MMA_DEPTH, MMA_ROWS, MMA_SHARING, Mma};

use crate::abi::Atom;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Most elements of a buffer: a 32-bit value holds their number, so also every index and the end of every loop.
pub const MOST_ELEMENTS: u64 = u32::MAX as u64;

/// A mutable local, an index into the kernel's variable table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Var(pub u32);

/// A buffer, an index into the kernel's buffer table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Buf(pub u32);

/// Type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Ty {
    Bool,
    I32,
    F32,
    Bool4,
    I32x4,
    F32x4,
}

impl Ty {
    /// Every type.
    pub const ALL: [Ty; 6] = [Ty::Bool, Ty::I32, Ty::F32, Ty::Bool4, Ty::I32x4, Ty::F32x4];

    /// Four lanes?
    pub fn is_vector(self) -> bool {
        matches!(self, Ty::Bool4 | Ty::I32x4 | Ty::F32x4)
    }

    /// The four-lane type of a scalar one.
    pub fn vector(self) -> Ty {
        match self {
            Ty::Bool | Ty::Bool4 => Ty::Bool4,
            Ty::I32 | Ty::I32x4 => Ty::I32x4,
            Ty::F32 | Ty::F32x4 => Ty::F32x4,
        }
    }

    /// The type of one lane.
    pub fn scalar(self) -> Ty {
        match self {
            Ty::Bool | Ty::Bool4 => Ty::Bool,
            Ty::I32 | Ty::I32x4 => Ty::I32,
            Ty::F32 | Ty::F32x4 => Ty::F32,
        }
    }
}

/// Type of an element in memory; narrow integers widen to i32 when loaded and are truncated when stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Mem {
    U8,
    I8,
    U16,
    I16,
    I32,
    F32,
}

impl Mem {
    /// Every type.
    pub const ALL: [Mem; 6] = [Mem::U8, Mem::I8, Mem::U16, Mem::I16, Mem::I32, Mem::F32];

    /// Size in bytes.
    pub fn bytes(self) -> u32 {
        match self {
            Mem::U8 | Mem::I8 => 1,
            Mem::U16 | Mem::I16 => 2,
            Mem::I32 | Mem::F32 => 4,
        }
    }

    /// Type of a loaded element.
    pub fn ty(self) -> Ty {
        if self == Mem::F32 { Ty::F32 } else { Ty::I32 }
    }
}

/// One-operand instructions, lane by lane. How exact those of floats are, and what their edges give, says [`crate::numerics`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unary {
    /// |x|, f32.
    Abs,
    /// Square root, f32.
    Sqrt,
    /// e^x, f32.
    Exp,
    /// f32 to the nearest i32, ties to even; of 2^22 and more, and of NaN, any i32.
    Round,
    /// i32 to f32.
    ToFloat,
    /// The f16 in the low 16 bits of an i32 (the rest zero) to f32.
    FromHalf,
    /// f32 to the nearest f16 (ties to even, overflow to infinity) in the low 16 bits of an i32, the rest zero.
    ToHalf,
    /// The bf16 in the low 16 bits of an i32 to f32.
    FromBf16,
    /// Sine of |x| <= pi, f32. GPU only.
    Sin,
    /// Cosine of |x| <= pi, f32. GPU only.
    Cos,
    /// Natural logarithm, f32.
    Log,
    /// The bits of an i32 as f32. GPU only.
    AsFloat,
    /// The number of bits that are set in an i32. On CPUs of scalars only.
    CountOnes,
    /// Each byte of an i32 with its top bit in all places.
    FillBytes,
}

/// Two-operand instructions, lane by lane; integers wrap, but not where they make an index (see the module); of floats
/// [`crate::numerics`] says how exact they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Binary {
    IAdd,
    ISub,
    IMul,
    /// Unsigned minimum.
    UMin,
    /// Unsigned quotient by a constant.
    UDiv,
    /// Unsigned remainder by a constant.
    URem,
    And,
    Or,
    Xor,
    /// Shift by a constant.
    Shl,
    /// Zero-filling shift by a constant.
    ShrU,
    /// Sign-filling shift by a constant.
    ShrS,
    /// Each of the four bytes of a word minus the other's, wrapping.
    SubBytes,
    FAdd,
    FSub,
    FMul,
    FDiv,
    /// The larger; NaN if one is.
    FMax,
}

/// Comparisons, lane by lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Compare {
    ULt,
    IEq,
    FLt,
    FEq,
}

/// Values that the launch supplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Special {
    /// Position of the first token.
    Position,
    /// Tokens in this step.
    Tokens,
    /// Number of this CTA.
    Cta,
    /// Number of this thread in its CTA.
    Thread,
}

/// A pure or reading instruction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Inst {
    /// i32 constant.
    Int(i32),
    /// f32 constant, by its bits.
    Float(u32),
    /// From the frame.
    Special(Special),
    /// The value of a variable.
    Get(Var),
    /// The index of a loop (defined by the loop statement).
    Index,
    Unary(Unary, Value),
    Binary(Binary, Value, Value),
    Compare(Compare, Value, Value),
    /// (condition, if true, if false), lane by lane or by a scalar condition.
    Select(Value, Value, Value),
    /// a * b + c, rounded once where the target [fuses](crate::target::Target::fuses_fma) it, else twice.
    Fma(Value, Value, Value),
    /// A scalar in four lanes.
    Splat(Value),
    /// Four scalars as lanes.
    Pack([Value; 4]),
    /// One lane.
    Lane(Value, u8),
    /// Sum of the lanes, (0 + 1) + (2 + 3) or (0 + 2) + (1 + 3) as the target does.
    Sum(Value),
    /// Largest lane, f32; NaN if one is.
    Max(Value),
    /// (a, b, c): c plus, in each 32-bit lane, the dot product of the four signed bytes of a and of b. Scalar on GPUs,
    /// four lanes on CPUs.
    Dot4(Value, Value, Value),
    /// As `Dot4`, but the bytes of a are unsigned. GPU only.
    Dot4Unsigned(Value, Value, Value),
    /// A byte of an i32 by its number from the lowest, sign-extended if so said, else zero-extended.
    Byte(Value, u8, bool),
    /// Sixteen i32 as signed bytes, saturating, in the order of the operands' lanes.
    Narrow([Value; 4]),
    /// Each byte (below 16) of a vector of words replaced by its entry of a 16-byte table.
    Lut16(Value, [i8; 16]),
    /// The four nibbles of the low (0) or the high (1) half of an i32, lowest first, each replaced by its entry. GPU only.
    LutNibbles(Value, u8, [i8; 16]),
    /// An element, or four consecutive ones, at an element index of the buffer.
    Load {
        buf: Buf,
        index: Value,
        mem: Mem,
        vector: bool,
    },
    /// Whether this thread is the one of its warp that is chosen, all of which are here.
    Elected,
    /// The value of another lane of this warp: the one whose number differs by exclusive OR.
    ShuffleXor(Value, u32),
    /// The value of the lane of this number.
    Shuffle(Value, Value),
    /// The bitwise OR of an i32 over all lanes of the warp. It is equal in all lanes, and an assembler knows that, so that it
    /// can keep the value in a uniform register.
    WarpOr(Value),
    /// (a, b, c): c plus the product of two matrices of bytes, of which each lane of the warp has a part: see [`Mma`]. GPU only.
    Mma(Mma, Value, [Value; 2], Value),
    /// Adds an i32 to an element of the whole device's memory; gives what was there. Memory written before by this thread
    /// is visible to whoever sees the sum, and what others wrote before theirs to this thread.
    AtomicAdd {
        buf: Buf,
        index: Value,
        value: Value,
    },
}

impl Inst {
    /// Calls `f` for each value that it takes.
    pub fn operands(&self, f: &mut impl FnMut(Value)) {
        match self {
            Inst::Int(_) | Inst::Float(_) | Inst::Special(_) | Inst::Get(_) | Inst::Index | Inst::Elected => {}
            Inst::Unary(_, a)
            | Inst::Splat(a)
            | Inst::Lane(a, _)
            | Inst::Sum(a)
            | Inst::Max(a)
            | Inst::Lut16(a, _)
            | Inst::LutNibbles(a, ..)
            | Inst::Byte(a, ..)
            | Inst::WarpOr(a)
            | Inst::ShuffleXor(a, _) => f(*a),
            Inst::Binary(_, a, b) | Inst::Compare(_, a, b) | Inst::Shuffle(a, b) => {
                [a, b].into_iter().for_each(|v| f(*v))
            }
            Inst::Select(a, b, c) | Inst::Fma(a, b, c) | Inst::Dot4(a, b, c) | Inst::Dot4Unsigned(a, b, c) => {
                [a, b, c].into_iter().for_each(|v| f(*v));
            }
            Inst::Mma(_, a, b, c) => [a, &b[0], &b[1], c].into_iter().for_each(|v| f(*v)),
            Inst::Pack(all) | Inst::Narrow(all) => all.iter().for_each(|v| f(*v)),
            Inst::Load { index, .. } => f(*index),
            Inst::AtomicAdd { index, value, .. } => [index, value].into_iter().for_each(|v| f(*v)),
        }
    }
}

/// Operand of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arg {
    /// Address of an element of a buffer.
    Address(Buf, Value),
    /// A zero-extended i32.
    Int(Value),
    /// An f32.
    Float(Value),
    /// A null address.
    Null,
}

/// A statement.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Stmt {
    /// Defines a value.
    Let(Value),
    /// Changes a variable.
    Set(Var, Value),
    /// Writes an element, or four consecutive ones.
    Store { buf: Buf, index: Value, mem: Mem, value: Value },
    /// index = from, from + step, .. while index < to (unsigned).
    For { index: Value, from: Value, to: Value, step: u32, body: Vec<Stmt> },
    /// Runs one side.
    If { cond: Value, then: Vec<Stmt>, other: Vec<Stmt> },
    /// Runs the body once for each index below count, each on some worker; `ticket` numbers the work counters.
    Parallel { ticket: u32, index: Value, count: Value, body: Vec<Stmt> },
    /// All workers wait for each other; memory written before is visible after.
    Barrier,
    /// Calls a microkernel.
    Call { atom: Atom, args: Vec<Arg> },
    /// All threads of the CTA, or of the warp, wait for each other; memory written before is visible after.
    Sync(Scope),
    /// Lets the next launch begin, where launches may overlap, and waits for the end of the one before. Before it, of
    /// all memory outside of the CTA only constants are touched.
    AwaitPrevious,
    /// Makes an mbarrier of the 8 bytes at this index of a byte buffer in shared memory; one arrival ends each phase.
    MbarrierInit(Buf, Value),
    /// What this thread wrote to shared memory before is visible to the bulk copies after.
    FenceAsync,
    /// One thread arrives at an mbarrier and copies bytes from a constant parameter to shared memory. The barrier's
    /// phase ends when they are there. Indices and size are multiples of 16 bytes, the buffers byte buffers.
    BulkCopy(BulkCopy),
    /// Waits for the end of the phase of this parity (0 or 1) of an mbarrier; what was copied in it is visible after.
    MbarrierWait { buf: Buf, index: Value, parity: Value },
}

/// The operands of [`Stmt::BulkCopy`]: buffers with byte indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub struct BulkCopy {
    pub to: (Buf, Value),
    pub from: (Buf, Value),
    pub bytes: u32,
    pub mbarrier: (Buf, Value),
}

/// Threads that wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Scope {
    Warp,
    Cta,
}

/// The threads of a GPU that run a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Grid {
    /// CTAs.
    pub ctas: u32,
    /// Threads of each, a multiple of 32.
    pub threads: u32,
}

/// Where a buffer is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Space {
    /// Parameter number n.
    Param(u32),
    /// This worker's scratch memory, or this CTA's shared memory, at a byte offset.
    Scratch(u32),
    /// These words, part of the kernel itself.
    Constant(Cow<'static, [u32]>),
}

/// What happens to a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Nobody writes it while the model runs: weights.
    Constant,
    /// This kernel only reads it.
    Read,
    /// This kernel may write it.
    Write,
}

/// A buffer that a kernel uses; an index counts elements of `mem`, and byte buffers (u8) may be accessed as any type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BufDecl {
    /// Name in prints.
    pub name: String,
    /// Element type.
    pub mem: Mem,
    /// Where it is.
    pub space: Space,
    /// Size.
    pub bytes: u64,
    /// What happens to it.
    pub access: Access,
}

/// What one kernel does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// Unique name.
    pub name: String,
    /// Buffers; parameters in their order, scratch and constants between them.
    pub buffers: Vec<BufDecl>,
    /// Types of variables.
    pub vars: Vec<Ty>,
    /// Instruction and type of each value.
    pub values: Vec<(Inst, Ty)>,
    /// The code.
    pub body: Vec<Stmt>,
    /// Parallel loops, each with work counters.
    pub tickets: u32,
    /// Scratch bytes for each worker, or shared memory of each CTA.
    pub scratch_bytes: u64,
    /// The threads that run it, if it is for a GPU.
    pub grid: Option<Grid>,
}

impl Kernel {
    /// One that does nothing, for a CPU.
    fn empty(name: String) -> Kernel {
        Kernel {
            name,
            buffers: Vec::new(),
            vars: Vec::new(),
            values: Vec::new(),
            body: Vec::new(),
            tickets: 0,
            scratch_bytes: 0,
            grid: None,
        }
    }

    /// Type of a value.
    pub fn ty(&self, v: Value) -> Ty {
        self.values[v.0 as usize].1
    }

    /// Instruction of a value.
    pub fn inst(&self, v: Value) -> &Inst {
        &self.values[v.0 as usize].0
    }

    /// The buffers that are parameters, in order.
    pub fn param_buffers(&self) -> impl Iterator<Item = &BufDecl> {
        self.buffers.iter().filter(|b| matches!(b.space, Space::Param(_)))
    }

    /// Number of parameters.
    pub fn params(&self) -> u32 {
        self.param_buffers().count() as u32
    }
}
