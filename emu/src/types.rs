//! The closed vocabularies of PTX that several stages share: element types, state spaces, memory orders. Parsing of their
//! names stands here and nowhere else; what they mean is in `decode` and `exec`.

/// Element type of an instruction or a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Ty {
    /// Untyped bits, of so many.
    B(u8),
    /// Unsigned.
    U(u8),
    /// Signed.
    S(u8),
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    /// f32 with 10 mantissa bits.
    Tf32,
    F32,
    F32x2,
    F64,
    U16x2,
    S16x2,
    /// Two 8-bit floats.
    E4m3x2,
    E5m2x2,
    /// Two floats of 6 or 4 bits: in bytes, and in one byte.
    E2m3x2,
    E3m2x2,
    E2m1x2,
    /// Two powers of two, as bytes.
    Ue8m0x2,
    Pred,
}

impl Ty {
    pub(crate) fn parse(name: &str) -> Option<Ty> {
        Some(match name {
            "pred" => Ty::Pred,
            "f16" => Ty::F16,
            "f16x2" => Ty::F16x2,
            "bf16" => Ty::Bf16,
            "bf16x2" => Ty::Bf16x2,
            "tf32" => Ty::Tf32,
            "f32" => Ty::F32,
            "f32x2" => Ty::F32x2,
            "f64" => Ty::F64,
            "u16x2" => Ty::U16x2,
            "s16x2" => Ty::S16x2,
            "e4m3x2" => Ty::E4m3x2,
            "e5m2x2" => Ty::E5m2x2,
            "e2m3x2" => Ty::E2m3x2,
            "e3m2x2" => Ty::E3m2x2,
            "e2m1x2" => Ty::E2m1x2,
            "ue8m0x2" => Ty::Ue8m0x2,
            _ => {
                let (kind, bits) = name.split_at_checked(1)?;
                let bits = match bits {
                    "8" => 8,
                    "16" => 16,
                    "32" => 32,
                    "64" => 64,
                    _ => return None,
                };
                match kind {
                    "b" => Ty::B(bits),
                    "u" => Ty::U(bits),
                    "s" => Ty::S(bits),
                    _ => return None,
                }
            }
        })
    }

    /// Width in bits; a predicate has one.
    pub(crate) fn bits(self) -> u32 {
        match self {
            Ty::B(n) | Ty::U(n) | Ty::S(n) => u32::from(n),
            Ty::E2m1x2 => 8,
            Ty::F16 | Ty::Bf16 | Ty::E4m3x2 | Ty::E5m2x2 | Ty::E2m3x2 | Ty::E3m2x2 | Ty::Ue8m0x2 => 16,
            Ty::F16x2 | Ty::Bf16x2 | Ty::Tf32 | Ty::F32 | Ty::U16x2 | Ty::S16x2 => 32,
            Ty::F32x2 | Ty::F64 => 64,
            Ty::Pred => 1,
        }
    }

    pub(crate) fn bytes(self) -> u32 {
        self.bits().div_ceil(8)
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(self, Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2 | Ty::Tf32 | Ty::F32 | Ty::F32x2 | Ty::F64)
    }

    pub(crate) fn is_signed(self) -> bool {
        matches!(self, Ty::S(_) | Ty::S16x2)
    }

    /// As PTX spells it.
    pub(crate) fn name(self) -> String {
        match self {
            Ty::B(n) => format!("b{n}"),
            Ty::U(n) => format!("u{n}"),
            Ty::S(n) => format!("s{n}"),
            other => format!("{other:?}").to_lowercase(),
        }
    }
}

/// The lowest `bits` bits set.
pub(crate) fn mask_of(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// State space of an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    Local,
    /// The parameters of the kernel.
    Param,
    Const,
}

impl Space {
    /// The space that a modifier names, `shared::cta` and the like included.
    pub(crate) fn parse(name: &str) -> Option<Space> {
        Some(match name {
            "global" => Space::Global,
            "shared" | "shared::cta" | "shared::cluster" => Space::Shared,
            "local" => Space::Local,
            "param" | "param::entry" | "param::func" => Space::Param,
            "const" => Space::Const,
            _ => return None,
        })
    }
}

/// The windows of the generic address space; an address outside of them is global. No process has memory there.
pub(crate) const SHARED_WINDOW: u64 = 0x100_0000_0000_0000;
pub(crate) const LOCAL_WINDOW: u64 = 0x110_0000_0000_0000;
pub(crate) const PARAM_WINDOW: u64 = 0x120_0000_0000_0000;
/// Where the addresses of functions are; nothing can be loaded from there.
pub(crate) const CODE_WINDOW: u64 = 0x130_0000_0000_0000;
/// Bytes from the address of a function to that of the next.
pub(crate) const CODE_STEP: u64 = 16;
/// Size of each window.
pub(crate) const WINDOW: u64 = 0x10_0000_0000;

/// Memory order of an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Weak,
    Relaxed,
    Acquire,
    Release,
    AcqRel,
}

impl Order {
    pub(crate) fn acquires(self) -> bool {
        matches!(self, Order::Acquire | Order::AcqRel)
    }

    pub(crate) fn releases(self) -> bool {
        matches!(self, Order::Release | Order::AcqRel)
    }
}

/// Who is in the scope of an operation besides its CTA: the threads of other CTAs, and the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    Cta,
    Gpu,
    Sys,
}

/// Rounding of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    /// To nearest, ties to even.
    Near,
    Zero,
    Down,
    Up,
    /// To nearest, ties away from zero.
    Away,
}

/// How a float operation treats its operands and its result; packed into the constant of a lane function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode {
    pub(crate) round: Round,
    /// Subnormal operands and results become zeros.
    pub(crate) ftz: bool,
    /// The result is clamped to 0..=1.
    pub(crate) sat: bool,
    /// A negative result becomes zero.
    pub(crate) relu: bool,
}

impl Mode {
    pub(crate) const NEAR: Mode = Mode { round: Round::Near, ftz: false, sat: false, relu: false };

    pub(crate) fn pack(self) -> u32 {
        self.round as u32 | u32::from(self.ftz) << 3 | u32::from(self.sat) << 4 | u32::from(self.relu) << 5
    }

    pub(crate) fn unpack(k: u32) -> Mode {
        let round = match k & 7 {
            0 => Round::Near,
            1 => Round::Zero,
            2 => Round::Down,
            3 => Round::Up,
            _ => Round::Away,
        };
        Mode { round, ftz: k & 8 != 0, sat: k & 16 != 0, relu: k & 32 != 0 }
    }
}
