//! Video instructions: an operation on parts of two registers, sign- or zero-extended, whose results are clamped and
//! accumulated, or put in place of parts of a third register.

/// How two numbers compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// What is computed of each pair of parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Add,
    Sub,
    AbsDiff,
    Min,
    Max,
    Average,
    Set(Comparison),
    ShiftLeft {
        wrap: bool,
    },
    ShiftRight {
        wrap: bool,
    },
    /// The product, negated or not, plus the third operand, negated or not, plus one or not, shifted to the right.
    Mad {
        negate: [bool; 2],
        plus_one: bool,
        shift: u32,
    },
}

/// What becomes of the results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Secondary {
    /// They take the place of parts of the third operand.
    Merge,
    /// They are added to it.
    Add,
    Min,
    Max,
}

/// Bits of a register, or of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) at: u32,
    pub(crate) bits: u32,
}

impl Part {
    fn of(self, x: u64, signed: bool) -> i128 {
        let up = x << (64 - self.at - self.bits);
        if signed { i128::from(up as i64 >> (64 - self.bits)) } else { i128::from(up >> (64 - self.bits)) }
    }
}

/// A video instruction.
#[derive(Debug)]
pub(crate) struct Video {
    pub(crate) operation: Operation,
    pub(crate) secondary: Secondary,
    /// Whether the result and the two sources are signed.
    pub(crate) signed: [bool; 3],
    pub(crate) saturate: bool,
    /// The parts of the first two operands, which follow one another, and of the result.
    pub(crate) parts: Vec<[Part; 3]>,
}

impl Video {
    /// The result for three operands.
    pub(crate) fn apply(&self, a: u32, b: u32, c: u32) -> u32 {
        let both = u64::from(a) | u64::from(b) << 32;
        let c_value = if self.signed[0] { i128::from(c as i32) } else { i128::from(c) };
        let mut result = u64::from(c);
        let mut sum = c_value;
        for &[x, y, d] in &self.parts {
            let (x, y) = (x.of(both, self.signed[1]), y.of(both, self.signed[2]));
            let mut t = self.operation.of(x, y, c, self.signed[1] || self.signed[2]);
            if self.saturate {
                let signed = self.signed[0];
                let low = if signed { -(1i128 << (d.bits - 1)) } else { 0 };
                let high = (1i128 << (d.bits - u32::from(signed))) - 1;
                t = t.clamp(low, high);
            }
            match self.secondary {
                Secondary::Merge => {
                    let field = crate::types::mask_of(d.bits) << d.at;
                    result = result & !field | ((t as u64) << d.at) & field;
                    continue;
                }
                Secondary::Add => sum += t,
                Secondary::Min => sum = t.min(c_value),
                Secondary::Max => sum = t.max(c_value),
            }
            result = sum as u64;
        }
        result as u32
    }
}

impl Operation {
    fn of(self, x: i128, y: i128, c: u32, signed: bool) -> i128 {
        let by = |wrap: bool| if wrap { y & 31 } else { y.clamp(0, 32) };
        match self {
            Operation::Add => x + y,
            Operation::Sub => x - y,
            Operation::AbsDiff => (x - y).abs(),
            Operation::Min => x.min(y),
            Operation::Max => x.max(y),
            // Halves are rounded away from zero where they are positive, and towards it where they are not.
            Operation::Average => (x + y + i128::from(x + y >= 0)) >> 1,
            Operation::Set(comparison) => i128::from(match comparison {
                Comparison::Eq => x == y,
                Comparison::Ne => x != y,
                Comparison::Lt => x < y,
                Comparison::Le => x <= y,
                Comparison::Gt => x > y,
                Comparison::Ge => x >= y,
            }),
            Operation::ShiftLeft { wrap } => x << by(wrap),
            Operation::ShiftRight { wrap } => x >> by(wrap),
            Operation::Mad { negate, plus_one, shift } => {
                let signed = signed || negate != [false; 2];
                let c = if signed { i128::from(c as i32) } else { i128::from(c) };
                let [product, c] = [(x * y, negate[0]), (c, negate[1])].map(|(v, n)| if n { -v } else { v });
                (product + c + i128::from(plus_one)) >> shift
            }
        }
    }
}
