//! What each instruction computes: the reference that the interpreter executes and that tests hold backends to.
//!
//! [`eval`] is total: it gives a value for every operand, also where an instruction's documentation leaves the result open.
//! Floats are computed in f32 with one rounding; `exp`, `sin`, `cos` and `log` in f64, rounded to f32 once.

use super::{Binary, Compare, Inst, Ty, Unary};
use half::{bf16, f16};

/// Lanes of a warp.
pub const WARP: usize = 32;

/// A value: 32 bits for each lane. A scalar has one lane and the others are 0; a predicate is 0 or 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Data {
    /// Type.
    pub ty: Ty,
    /// Bits.
    pub lanes: [u32; 4],
}

impl Data {
    /// A scalar or a vector, lane by lane; lanes that the type lacks are 0.
    pub fn new(ty: Ty, lane: impl FnMut(usize) -> u32) -> Data {
        let count = if ty.is_vector() { 4 } else { 1 };
        let mut lanes = [0; 4];
        lanes[..count].iter_mut().zip((0..count).map(lane)).for_each(|(to, bits)| *to = bits);
        Data { ty, lanes }
    }

    /// An i32.
    pub fn int(v: u32) -> Data {
        Data::new(Ty::I32, |_| v)
    }

    /// An f32.
    pub fn float(v: f32) -> Data {
        Data::new(Ty::F32, |_| v.to_bits())
    }

    /// A predicate.
    pub fn bool(v: bool) -> Data {
        Data::new(Ty::Bool, |_| u32::from(v))
    }

    /// The first lane, unsigned.
    pub fn as_u32(self) -> u32 {
        self.lanes[0]
    }

    /// The first lane as a float.
    pub fn as_f32(self) -> f32 {
        f32::from_bits(self.lanes[0])
    }

    /// Whether the first lane is true.
    pub fn is_true(self) -> bool {
        self.lanes[0] != 0
    }

    /// The lane, or the only one.
    fn lane(self, n: usize) -> u32 {
        if self.ty.is_vector() { self.lanes[n] } else { self.lanes[0] }
    }
}

/// Scalar type of what a one-operand instruction gives.
fn unary_type(op: Unary) -> Ty {
    match op {
        Unary::Round | Unary::ToHalf | Unary::CountOnes | Unary::FillBytes => Ty::I32,
        Unary::Abs
        | Unary::Sqrt
        | Unary::Exp
        | Unary::ToFloat
        | Unary::FromHalf
        | Unary::FromBf16
        | Unary::Sin
        | Unary::Cos
        | Unary::Log
        | Unary::AsFloat => Ty::F32,
    }
}

/// A one-operand instruction on the bits of a lane.
pub fn unary(op: Unary, a: u32) -> u32 {
    let x = f32::from_bits(a);
    let double = |f: fn(f64) -> f64| (f(f64::from(x)) as f32).to_bits();
    match op {
        Unary::Abs => x.abs().to_bits(),
        Unary::Sqrt => x.sqrt().to_bits(),
        Unary::Exp => double(f64::exp),
        Unary::Sin => double(f64::sin),
        Unary::Cos => double(f64::cos),
        Unary::Log => double(f64::ln),
        Unary::Round => x.round_ties_even() as i32 as u32,
        Unary::ToFloat => (a as i32 as f32).to_bits(),
        Unary::FromHalf => f16::from_bits(a as u16).to_f32().to_bits(),
        Unary::ToHalf => u32::from(f16::from_f32(x).to_bits()),
        Unary::FromBf16 => bf16::from_bits(a as u16).to_f32().to_bits(),
        Unary::AsFloat => a,
        Unary::CountOnes => a.count_ones(),
        Unary::FillBytes => bytes(a, |byte| if byte & 0x80 == 0 { 0 } else { 0xff }),
    }
}

/// Each byte of a word replaced.
fn bytes(a: u32, f: impl Fn(u8) -> u8) -> u32 {
    u32::from_le_bytes(a.to_le_bytes().map(f))
}

/// A two-operand instruction on the bits of a lane. A quotient by 0 is 0; a shift counts modulo 32.
pub fn binary(op: Binary, a: u32, b: u32) -> u32 {
    let (x, y) = (f32::from_bits(a), f32::from_bits(b));
    match op {
        Binary::IAdd => a.wrapping_add(b),
        Binary::ISub => a.wrapping_sub(b),
        Binary::IMul => a.wrapping_mul(b),
        Binary::UMin => a.min(b),
        Binary::UDiv => a.checked_div(b).unwrap_or(0),
        Binary::URem => a.checked_rem(b).unwrap_or(0),
        Binary::And => a & b,
        Binary::Or => a | b,
        Binary::Xor => a ^ b,
        Binary::Shl => a.wrapping_shl(b),
        Binary::ShrU => a.wrapping_shr(b),
        Binary::ShrS => (a as i32).wrapping_shr(b) as u32,
        Binary::SubBytes => {
            let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
            u32::from_le_bytes(std::array::from_fn(|i| a[i].wrapping_sub(b[i])))
        }
        Binary::FAdd => (x + y).to_bits(),
        Binary::FSub => (x - y).to_bits(),
        Binary::FMul => (x * y).to_bits(),
        Binary::FDiv => (x / y).to_bits(),
        Binary::FMax if x.is_nan() || y.is_nan() => f32::NAN.to_bits(),
        Binary::FMax => x.max(y).to_bits(),
    }
}

/// A comparison of the bits of a lane; of floats, false if one is NaN.
pub fn compare(op: Compare, a: u32, b: u32) -> bool {
    let (x, y) = (f32::from_bits(a), f32::from_bits(b));
    match op {
        Compare::ULt => a < b,
        Compare::IEq => a == b,
        Compare::FLt => x < y,
        Compare::FEq => x == y,
    }
}

/// The sum of `c` and the products of the bytes of `a` and `b`; those of `b`, and if `signed` those of `a`, are signed.
fn dot4(a: u32, b: u32, c: u32, signed: bool) -> u32 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    let product = |i: usize| {
        let a = if signed { i32::from(a[i] as i8) } else { i32::from(a[i]) };
        a * i32::from(b[i] as i8)
    };
    (0..4).fold(c as i32, |sum, i| sum.wrapping_add(product(i))) as u32
}

/// The bits of operand n in one lane.
type Lane<'a> = &'a dyn Fn(usize) -> u32;

/// What an instruction gives for operands in the order of [`Inst::operands`], of the types that the verifier wants. `None`
/// for what needs more than its operands: memory, variables, the launch, other threads.
pub fn eval(inst: &Inst, operands: &[Data]) -> Option<Data> {
    let of = |n: usize| operands[n];
    // The same for each lane, in the shape of the widest operand.
    let lanes = |scalar: Ty, f: &dyn Fn(Lane<'_>) -> u32| {
        let vector = operands.iter().any(|o| o.ty.is_vector());
        Data::new(if vector { scalar.vector() } else { scalar }, |lane| f(&|n| operands[n].lane(lane)))
    };
    Some(match *inst {
        Inst::Int(i) => Data::int(i as u32),
        Inst::Float(bits) => Data::new(Ty::F32, |_| bits),
        Inst::Unary(op, _) => lanes(unary_type(op), &|x| unary(op, x(0))),
        Inst::Binary(op, ..) => lanes(of(0).ty.scalar(), &|x| binary(op, x(0), x(1))),
        Inst::Compare(op, ..) => lanes(Ty::Bool, &|x| u32::from(compare(op, x(0), x(1)))),
        Inst::Select(..) => lanes(of(1).ty.scalar(), &|x| if x(0) != 0 { x(1) } else { x(2) }),
        Inst::Fma(..) => lanes(Ty::F32, &|x| {
            let [a, b, c] = [0, 1, 2].map(|n| f32::from_bits(x(n)));
            a.mul_add(b, c).to_bits()
        }),
        Inst::Dot4(..) => lanes(Ty::I32, &|x| dot4(x(0), x(1), x(2), true)),
        Inst::Dot4Unsigned(..) => lanes(Ty::I32, &|x| dot4(x(0), x(1), x(2), false)),
        Inst::Lut16(_, table) => lanes(Ty::I32, &|x| bytes(x(0), |byte| table[usize::from(byte & 15)] as u8)),
        Inst::Byte(_, n, signed) => {
            let byte = of(0).as_u32().to_le_bytes()[usize::from(n)];
            Data::int(if signed { i32::from(byte as i8) as u32 } else { u32::from(byte) })
        }
        Inst::LutNibbles(_, half, table) => {
            let codes = of(0).as_u32() >> (16 * half);
            let entry = |i: usize| table[(codes >> (4 * i)) as usize & 15] as u8;
            Data::int(u32::from_le_bytes(std::array::from_fn(entry)))
        }
        Inst::Splat(_) => Data::new(of(0).ty.vector(), |_| of(0).lanes[0]),
        Inst::Pack(_) => Data::new(of(0).ty.vector(), |lane| of(lane).lanes[0]),
        Inst::Lane(_, n) => Data::new(of(0).ty.scalar(), |_| of(0).lanes[usize::from(n)]),
        Inst::Sum(_) => {
            let op = if of(0).ty == Ty::F32x4 { Binary::FAdd } else { Binary::IAdd };
            reduce(of(0), op)
        }
        Inst::Max(_) => reduce(of(0), Binary::FMax),
        Inst::Narrow(_) => Data::new(Ty::I32x4, |part| {
            let byte = |v: u32| (v as i32).clamp(i32::from(i8::MIN), i32::from(i8::MAX)) as u8;
            u32::from_le_bytes(of(part).lanes.map(byte))
        }),
        Inst::Special(_)
        | Inst::Get(_)
        | Inst::Index
        | Inst::Load { .. }
        | Inst::Elected
        | Inst::ShuffleXor(..)
        | Inst::Shuffle(..)
        | Inst::WarpOr(_)
        | Inst::Mma(..)
        | Inst::AtomicAdd { .. } => return None,
    })
}

/// (0 op 1) op (2 op 3).
fn reduce(a: Data, op: Binary) -> Data {
    let [w, x, y, z] = a.lanes;
    Data::new(a.ty.scalar(), |_| binary(op, binary(op, w, x), binary(op, y, z)))
}

/// Whether all lanes of a warp execute it together.
pub fn is_warp_wide(inst: &Inst) -> bool {
    matches!(inst, Inst::Elected | Inst::ShuffleXor(..) | Inst::Shuffle(..) | Inst::WarpOr(_) | Inst::Mma(..))
}

/// What a warp-wide instruction gives each lane, from the operands of all. The elected lane is the first. `None` for
/// other instructions.
pub fn eval_warp(inst: &Inst, operands: &[Vec<Data>; WARP]) -> Option<[Data; WARP]> {
    let of = |lane: usize, n: usize| operands[lane][n];
    Some(match *inst {
        Inst::Elected => std::array::from_fn(|lane| Data::bool(lane == 0)),
        Inst::ShuffleXor(_, mask) => std::array::from_fn(|lane| of((lane ^ mask as usize) % WARP, 0)),
        Inst::Shuffle(..) => std::array::from_fn(|lane| of(of(lane, 1).as_u32() as usize % WARP, 0)),
        Inst::WarpOr(_) => {
            let all = (0..WARP).fold(0, |bits, lane| bits | of(lane, 0).as_u32());
            [Data::int(all); WARP]
        }
        Inst::Mma(kind, ..) => {
            let word = |lane, n| of(lane, n).as_u32();
            let sums =
                kind.eval(|lane| of(lane, 0).lanes, |lane| [word(lane, 1), word(lane, 2)], |lane| of(lane, 3).lanes);
            sums.map(|own| Data::new(Ty::I32x4, |n| own[n]))
        }
        _ => return None,
    })
}
