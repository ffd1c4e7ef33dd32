//! The names of instructions and statements in text: one table each, which printing, parsing and tests read.

use super::{Binary, Compare, Inst, Mma, Scope, Special, Stmt, Unary};

/// A `name` function and the list of all names; the compiler refuses a variant without a row.
macro_rules! names {
    ($ty:ident: $($pattern:pat => $name:literal),* $(,)?) => {
        impl $ty {
            /// The names in text of all variants.
            pub const NAMES: &[&str] = &[$($name),*];
            /// The name in text.
            pub fn name(&self) -> &'static str {
                match self { $($pattern => $name),* }
            }
        }
    };
}

/// The same for variants without fields, with the variant of each name.
macro_rules! unit_names {
    ($ty:ident: $($variant:ident => $name:literal),* $(,)?) => {
        names! { $ty: $($ty::$variant => $name),* }
        impl $ty {
            /// Every variant.
            pub const ALL: &[$ty] = &[$($ty::$variant),*];
            /// The variant of this name in text.
            pub fn by_name(name: &str) -> Option<$ty> {
                Self::ALL.iter().copied().find(|v| v.name() == name)
            }
        }
    };
}

unit_names! { Unary:
    Abs => "abs", Sqrt => "sqrt", Exp => "exp", Round => "round", ToFloat => "to_float", FromHalf => "from_half",
    ToHalf => "to_half", FromBf16 => "from_bf16", Sin => "sin", Cos => "cos", Log => "log", AsFloat => "as_float",
    CountOnes => "count_ones", FillBytes => "fill_bytes",
}

unit_names! { Binary:
    IAdd => "iadd", ISub => "isub", IMul => "imul", UMin => "umin", UDiv => "udiv", URem => "urem", And => "and",
    Or => "or", Xor => "xor", Shl => "shl", ShrU => "shr_u", ShrS => "shr_s", SubBytes => "sub_bytes", FAdd => "fadd",
    FSub => "fsub", FMul => "fmul", FDiv => "fdiv", FMax => "fmax",
}

unit_names! { Mma: S8 => "mma_s8", U8 => "mma_u8" }

unit_names! { Compare: ULt => "ult", IEq => "ieq", FLt => "flt", FEq => "feq" }

unit_names! { Special: Position => "position", Tokens => "tokens", Cta => "cta", Thread => "thread" }

unit_names! { Scope: Warp => "warp", Cta => "cta" }

names! { Inst:
    Inst::Int(_) => "int",
    Inst::Float(_) => "float",
    Inst::Special(_) => "special",
    Inst::Get(_) => "get",
    Inst::Index => "index",
    Inst::Unary(..) => "unary",
    Inst::Binary(..) => "binary",
    Inst::Compare(..) => "compare",
    Inst::Select(..) => "select",
    Inst::Fma(..) => "fma",
    Inst::Splat(_) => "splat",
    Inst::Pack(_) => "pack",
    Inst::Lane(..) => "lane",
    Inst::Sum(_) => "sum",
    Inst::Max(_) => "max",
    Inst::Dot4(..) => "dot4",
    Inst::Dot4Unsigned(..) => "dot4_unsigned",
    Inst::Byte(_, _, false) => "byte_u",
    Inst::Byte(_, _, true) => "byte_s",
    Inst::Narrow(_) => "narrow",
    Inst::Lut16(..) => "lut16",
    Inst::LutNibbles(..) => "lut_nibbles",
    Inst::Load { .. } => "load",
    Inst::Elected => "elected",
    Inst::ShuffleXor(..) => "shuffle_xor",
    Inst::Shuffle(..) => "shuffle",
    Inst::WarpOr(_) => "warp_or",
    Inst::Mma(..) => "mma",
    Inst::AtomicAdd { .. } => "atomic_add",
}

names! { Stmt:
    Stmt::Let(_) => "let",
    Stmt::Set(..) => "set",
    Stmt::Store { .. } => "store",
    Stmt::For { .. } => "for",
    Stmt::If { .. } => "if",
    Stmt::Parallel { .. } => "parallel",
    Stmt::Barrier => "barrier",
    Stmt::Call { .. } => "call",
    Stmt::Sync(_) => "sync",
    Stmt::AwaitPrevious => "await_previous",
    Stmt::MbarrierInit(..) => "mbarrier_init",
    Stmt::FenceAsync => "fence_async",
    Stmt::BulkCopy(_) => "bulk_copy",
    Stmt::MbarrierWait { .. } => "mbarrier_wait",
}

impl Inst {
    /// The name of what it does: of its operation, if it is one of many of a kind, else [`Inst::name`].
    pub fn mnemonic(&self) -> &'static str {
        match self {
            Inst::Special(special) => special.name(),
            Inst::Unary(op, _) => op.name(),
            Inst::Binary(op, ..) => op.name(),
            Inst::Compare(op, ..) => op.name(),
            Inst::Mma(kind, ..) => kind.name(),
            other => other.name(),
        }
    }

    /// Every mnemonic.
    pub fn mnemonics() -> impl Iterator<Item = &'static str> {
        let kinds = Inst::NAMES.iter().filter(|n| !["special", "unary", "binary", "compare", "mma"].contains(n));
        let operations = [Special::NAMES, Unary::NAMES, Binary::NAMES, Compare::NAMES, Mma::NAMES];
        kinds.chain(operations.into_iter().flatten()).copied()
    }
}
