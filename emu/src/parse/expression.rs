//! Constant expressions: 64-bit integers, signed unless a literal is too large for that, combined by the operators of C.

use super::{Parser, Result};
use crate::lex::{Tok, Token, tokens};

/// Operators within each other.
const MAX_DEPTH: usize = 32;

/// Binary operators and how tightly they bind. Longer ones come before those that they begin with.
const OPERATORS: &[(&[u8], u8)] = &[
    (b"||", 1),
    (b"&&", 2),
    (b"==", 6),
    (b"!=", 6),
    (b"<<", 8),
    (b">>", 8),
    (b"<=", 7),
    (b">=", 7),
    (b"|", 3),
    (b"^", 4),
    (b"&", 5),
    (b"<", 7),
    (b">", 7),
    (b"+", SUM),
    (b"-", SUM),
    (b"*", 10),
    (b"/", 10),
    (REMAINDER, 10),
];

/// The lexer takes it for the start of a name.
const REMAINDER: &[u8] = b"%";

/// How tightly sums bind.
pub(super) const SUM: u8 = 9;

/// A value and whether it is unsigned.
#[derive(Debug, Clone, Copy)]
struct Value {
    bits: u64,
    unsigned: bool,
}

impl Value {
    fn signed(bits: u64) -> Value {
        Value { bits, unsigned: false }
    }
}

/// The value of an operation; `None` for a division by zero.
fn apply(op: &[u8], a: Value, b: Value) -> Option<Value> {
    let unsigned = a.unsigned || b.unsigned;
    let (x, y) = (a.bits, b.bits);
    let (s, t) = (x as i64, y as i64);
    let value = |bits| Some(Value { bits, unsigned });
    let truth = |holds: bool| Some(Value::signed(holds.into()));
    let order = if unsigned { x.cmp(&y) } else { s.cmp(&t) };
    match op {
        b"||" => truth(x != 0 || y != 0),
        b"&&" => truth(x != 0 && y != 0),
        b"==" => truth(x == y),
        b"!=" => truth(x != y),
        b"<" => truth(order.is_lt()),
        b"<=" => truth(order.is_le()),
        b">" => truth(order.is_gt()),
        b">=" => truth(order.is_ge()),
        b"|" => value(x | y),
        b"^" => value(x ^ y),
        b"&" => value(x & y),
        b"+" => value(x.wrapping_add(y)),
        b"-" => value(x.wrapping_sub(y)),
        b"*" => value(x.wrapping_mul(y)),
        b"/" if unsigned => value(x.checked_div(y)?),
        b"%" if unsigned => value(x.checked_rem(y)?),
        b"/" if y != 0 => value(s.wrapping_div(t) as u64),
        b"%" if y != 0 => value(s.wrapping_rem(t) as u64),
        // The type of a shift is that of its left operand.
        b"<<" => Some(Value { bits: x.checked_shl(y.min(64) as u32).unwrap_or(0), ..a }),
        b">>" if a.unsigned => Some(Value { bits: x.checked_shr(y.min(64) as u32).unwrap_or(0), ..a }),
        b">>" => Some(Value { bits: (s >> y.min(63)) as u64, ..a }),
        _ => None,
    }
}

impl Parser<'_> {
    /// A constant expression.
    pub(super) fn expression(&mut self) -> Result<u64> {
        self.ternary(0).map(|v| v.bits)
    }

    /// `+ n` or `- n`, if there is one, where `n` may be a product of constants.
    pub(super) fn offset(&mut self) -> Result<i64> {
        self.binary(Value::signed(0), SUM, 0).map(|v| v.bits as i64)
    }

    fn ternary(&mut self, depth: usize) -> Result<Value> {
        let first = self.unary(depth)?;
        let condition = self.binary(first, 0, depth)?;
        if !self.eat(b'?') {
            return Ok(condition);
        }
        let yes = self.ternary(depth + 1)?;
        self.expect(b':')?;
        let no = self.ternary(depth + 1)?;
        Ok(if condition.bits != 0 { yes } else { no })
    }

    /// The operator that stands here, and how tightly it binds.
    fn operator(&self) -> Option<(&'static [u8], u8)> {
        let stands = |op: &[u8]| {
            if op == REMAINDER {
                return matches!(self.peek(), Tok::Word(w) if w.starts_with('%'));
            }
            let mut tokens = self.tokens[self.at..].iter();
            op.iter().all(|&c| tokens.next().is_some_and(|t| t.tok == Tok::Punct(c)))
        };
        OPERATORS.iter().copied().find(|(op, _)| stands(op))
    }

    fn skip_operator(&mut self, op: &[u8]) -> Result<()> {
        let (Tok::Word(word), line) = (self.peek(), self.line()) else {
            self.at += op.len();
            return Ok(());
        };
        // What the lexer took for a name goes on with a number.
        match tokens(word.trim_start_matches('%'))?.first() {
            Some(Token { tok: tok @ Tok::Int(_), .. }) => self.tokens[self.at] = Token { tok: *tok, line },
            _ => {
                self.next();
            }
        }
        Ok(())
    }

    /// What operators that bind at least so tightly make of a left operand.
    fn binary(&mut self, mut left: Value, least: u8, depth: usize) -> Result<Value> {
        while let Some((op, binds)) = self.operator().filter(|o| o.1 >= least) {
            self.skip_operator(op)?;
            let mut right = self.unary(depth + 1)?;
            while self.operator().is_some_and(|next| next.1 > binds) {
                right = self.binary(right, binds + 1, depth + 1)?;
            }
            left = apply(op, left, right).ok_or_else(|| self.error("a constant is divided by zero"))?;
        }
        Ok(left)
    }

    fn unary(&mut self, depth: usize) -> Result<Value> {
        if depth > MAX_DEPTH {
            return Err(self.error("a constant expression is nested too deeply"));
        }
        match self.peek() {
            Tok::Int(bits) => {
                self.next();
                Ok(Value { bits, unsigned: bits > i64::MAX as u64 })
            }
            Tok::Word("WARP_SZ") => {
                self.next();
                Ok(Value::signed(crate::alu::WARP as u64))
            }
            Tok::Punct(op @ (b'-' | b'+' | b'~' | b'!')) => {
                self.next();
                let v = self.unary(depth + 1)?;
                Ok(match op {
                    b'-' => Value { bits: v.bits.wrapping_neg(), ..v },
                    b'~' => Value { bits: !v.bits, ..v },
                    b'!' => Value::signed(u64::from(v.bits == 0)),
                    _ => v,
                })
            }
            Tok::Punct(b'(') => {
                self.next();
                let cast = [self.eat_dot("s64"), self.eat_dot("u64")];
                if cast != [false; 2] {
                    self.expect(b')')?;
                    return Ok(Value { unsigned: cast[1], ..self.unary(depth + 1)? });
                }
                let v = self.ternary(depth + 1)?;
                self.expect(b')')?;
                Ok(v)
            }
            _ => self.unexpected("a constant"),
        }
    }
}
