//! What a PTX module says, before names are resolved. Made by [`crate::parse`], read by [`crate::decode`].

use crate::types::{Space, Ty};

/// A module.
#[derive(Debug, Default)]
pub(crate) struct Ast {
    pub(crate) version: (u32, u32),
    pub(crate) target: String,
    /// Variables of the module.
    pub(crate) vars: Vec<Var>,
    pub(crate) functions: Vec<Function>,
    /// Other names of functions: the name, the function, the line.
    pub(crate) aliases: Vec<(String, String, u32)>,
}

/// A variable of a state space.
#[derive(Debug, Clone)]
pub(crate) struct Var {
    pub(crate) name: String,
    pub(crate) space: Space,
    pub(crate) ty: Ty,
    pub(crate) align: u64,
    /// Bytes of the whole variable; 0 for an array of unknown length.
    pub(crate) bytes: u64,
    /// Without a length: the dynamic shared memory.
    pub(crate) unsized_array: bool,
    /// Declared elsewhere.
    pub(crate) external: bool,
    pub(crate) init: Vec<Init>,
    pub(crate) line: u32,
}

/// An element of an initialiser.
#[derive(Debug, Clone)]
pub(crate) enum Init {
    Bits(u64),
    /// The address of a variable or a function plus an offset; in the generic space if so asked.
    Address {
        name: String,
        offset: i64,
        generic: bool,
        /// The bits that are taken, for an address that is given byte by byte: `0xff00(name)`.
        mask: u64,
    },
}

/// A parameter of a function or a kernel.
#[derive(Debug, Clone)]
pub(crate) struct Param {
    pub(crate) name: String,
    pub(crate) ty: Ty,
    /// A register instead of memory.
    pub(crate) register: bool,
    pub(crate) align: u64,
    pub(crate) bytes: u64,
}

/// A kernel or a function.
#[derive(Debug, Default)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) entry: bool,
    pub(crate) returns: Vec<Param>,
    pub(crate) params: Vec<Param>,
    pub(crate) max_threads: Option<[u32; 3]>,
    pub(crate) required_threads: Option<[u32; 3]>,
    /// It is launched in clusters, of one CTA.
    pub(crate) explicit_cluster: bool,
    /// `.maxnreg`.
    pub(crate) max_registers: Option<u32>,
    /// `None` for a declaration.
    pub(crate) body: Option<Vec<Stmt>>,
    pub(crate) line: u32,
}

/// A statement.
#[derive(Debug)]
pub(crate) enum Stmt {
    Block(Vec<Stmt>),
    /// Registers: a name, or a prefix and a count.
    Reg {
        ty: Ty,
        name: String,
        count: Option<u32>,
        line: u32,
    },
    Var(Var),
    Label(String),
    /// A label of a list of branch targets.
    Targets {
        name: String,
        labels: Vec<String>,
    },
    /// A label of a prototype of indirect calls.
    Prototype {
        name: String,
        returns: Vec<Param>,
        params: Vec<Param>,
    },
    /// A label of a list of functions that an indirect call may reach.
    CallTargets {
        name: String,
        functions: Vec<String>,
    },
    Instr(Instr),
}

/// An instruction.
#[derive(Debug)]
pub(crate) struct Instr {
    /// Predicate, and whether it is negated.
    pub(crate) guard: Option<(String, bool)>,
    pub(crate) op: String,
    pub(crate) mods: Vec<String>,
    pub(crate) args: Vec<Arg>,
    pub(crate) line: u32,
}

/// An operand.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Arg {
    /// A register, variable, label or function; components of special registers and parts of registers follow a dot.
    Name(String),
    /// `!p`.
    Not(String),
    /// `-a`.
    Negated(String),
    /// A variable and an offset.
    Sum(String, i64),
    Int(u64),
    Float {
        bits: u64,
        wide: bool,
    },
    /// `[base + offset]`; no base for an absolute address.
    Mem {
        base: Option<String>,
        offset: i64,
    },
    /// `[a, b]`: an address with coordinates, of a texture or a tensor.
    Coordinates(Vec<Arg>),
    /// `{a, b}`.
    Vector(Vec<Arg>),
    /// `a|b`.
    Pair(Box<Arg>, Box<Arg>),
    /// `(a, b)` of a call.
    List(Vec<Arg>),
}
