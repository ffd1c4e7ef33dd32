//! Video instructions: `vadd` and its kin on one part of a register, on two halves, on four bytes.

use super::body::Body;
use super::mods::Mods;
use crate::alu::video::{Comparison, Operation, Part, Secondary, Video};
use crate::ast::{Arg, Instr};
use crate::counters::Class;
use crate::parse::ParseError;
use crate::program::{Op, SINK};
use crate::types::Ty;

type Result<T> = std::result::Result<T, ParseError>;

/// Instructions that work on any number of parts.
const OPERATIONS: &[(&str, Operation)] = &[
    ("vadd", Operation::Add),
    ("vsub", Operation::Sub),
    ("vabsdiff", Operation::AbsDiff),
    ("vmin", Operation::Min),
    ("vmax", Operation::Max),
    ("vavrg", Operation::Average),
    ("vset", Operation::Set(Comparison::Eq)),
];

const COMPARISONS: &[(&str, Comparison)] = &[
    ("eq", Comparison::Eq),
    ("ne", Comparison::Ne),
    ("lt", Comparison::Lt),
    ("le", Comparison::Le),
    ("gt", Comparison::Gt),
    ("ge", Comparison::Ge),
];

/// An operand and its selector, `r1.h0`.
fn selected(arg: &Arg) -> (Arg, Option<(char, Vec<u32>)>) {
    if let Arg::Name(name) = arg
        && let Some((name, selector)) = name.rsplit_once('.')
        && let Some(kind) = selector.chars().next().filter(|c| matches!(c, 'b' | 'h'))
    {
        return (
            Arg::Name(name.to_owned()),
            Some((kind, selector.chars().skip(1).filter_map(|c| c.to_digit(10)).collect())),
        );
    }
    (arg.clone(), None)
}

/// The part of a register that a selector of one digit names; all of it without.
fn scalar_part(selector: &Option<(char, Vec<u32>)>) -> Option<Part> {
    let Some((kind, digits)) = selector else { return Some(Part { at: 0, bits: 32 }) };
    let bits = if *kind == 'b' { 8 } else { 16 };
    match digits[..] {
        [n] if n * bits < 32 => Some(Part { at: n * bits, bits }),
        _ => None,
    }
}

impl Body<'_, '_> {
    /// Decodes an instruction if it is one of these.
    pub(super) fn video(&mut self, instr: &Instr, m: &mut Mods) -> Result<bool> {
        let (name, count) = match instr.op.strip_suffix(['2', '4']) {
            Some(name) if instr.op.ends_with('2') => (name, 2),
            Some(name) => (name, 4),
            None => (instr.op.as_str(), 1),
        };
        let operation = match (name, count) {
            ("vshl" | "vshr", 1) => {
                let wrap = m.take("wrap");
                if !wrap && !m.take("clamp") {
                    return Err(m.unknown());
                }
                if name == "vshl" { Operation::ShiftLeft { wrap } } else { Operation::ShiftRight { wrap } }
            }
            ("vmad", 1) => return self.video_mad(&instr.args, m),
            ("vavrg", 1) => return Ok(false),
            ("vset", _) => {
                let comparison = m.find(|n| COMPARISONS.iter().find(|c| c.0 == n).map(|c| c.1));
                Operation::Set(comparison.ok_or_else(|| m.error("a comparison is missing"))?)
            }
            _ => match OPERATIONS.iter().find(|o| o.0 == name) {
                Some(o) => o.1,
                None => return Ok(false),
            },
        };
        let saturate = m.take("sat");
        let secondary = match m.one_of(&["add", "min", "max"]) {
            None => Secondary::Merge,
            Some("add") => Secondary::Add,
            Some(_) if count > 1 => return Err(m.unknown()),
            Some("min") => Secondary::Min,
            Some(_) => Secondary::Max,
        };
        let signed = match operation {
            Operation::Set(_) => [false, Self::signed(m)?, Self::signed(m)?],
            _ => [Self::signed(m)?, Self::signed(m)?, Self::signed(m)?],
        };
        let a = &instr.args;
        if !(3..=4).contains(&a.len()) {
            return Err(m.error(format!("{} operands", a.len())));
        }
        let (target, target_selector) = selected(&a[0]);
        let parts = if count == 1 {
            let parts = [&a[0], &a[1], &a[2]].map(|arg| scalar_part(&selected(arg).1));
            let [Some(d), Some(x), Some(y)] = parts else { return Err(m.error("no such part of a register")) };
            // A third operand is what the result is merged into or accumulated with, one of them at a time.
            let third = usize::from(target_selector.is_some()) + usize::from(secondary != Secondary::Merge);
            if a.len() != 3 + third {
                return Err(m.error(format!("{} operands", a.len())));
            }
            vec![[x, Part { at: 32 + y.at, ..y }, d]]
        } else {
            if a.len() != 4 {
                return Err(m.error(format!("{} operands", a.len())));
            }
            self.simd_parts(a, count, m)?
        };
        let video = Video { operation, secondary, signed, saturate, parts };
        self.emit_video(video, &target, &a[1..])?;
        Ok(true)
    }

    fn signed(m: &mut Mods) -> Result<bool> {
        match m.ty()? {
            Ty::S(32) => Ok(true),
            Ty::U(32) => Ok(false),
            _ => Err(m.unknown()),
        }
    }

    /// The parts of halves or bytes: their numbers in selectors stand from the highest to the lowest.
    fn simd_parts(&self, a: &[Arg], count: u32, m: &Mods) -> Result<Vec<[Part; 3]>> {
        let (bits, kind) = (32 / count, if count == 2 { 'h' } else { 'b' });
        let wrong = || m.error("no such parts of a register");
        let numbers = |arg: &Arg, default: u32| match selected(arg).1 {
            None => Ok((default..default + count).collect()),
            Some((k, digits)) if k == kind => Ok(digits.into_iter().rev().collect::<Vec<u32>>()),
            Some(_) => Err(wrong()),
        };
        let (targets, x, y) = (numbers(&a[0], 0)?, numbers(&a[1], 0)?, numbers(&a[2], count)?);
        let whole = [&x, &y].iter().all(|v| v.len() == count as usize && v.iter().all(|&n| n < 2 * count));
        if !whole || !targets.is_sorted_by(|p, q| p < q) || targets.iter().any(|&n| n >= count) {
            return Err(wrong());
        }
        let part = |n: u32| Part { at: n * bits, bits };
        Ok(targets.iter().map(|&i| [part(x[i as usize]), part(y[i as usize]), part(i)]).collect())
    }

    /// `vmad`, whose operands may be negated.
    fn video_mad(&mut self, a: &[Arg], m: &mut Mods) -> Result<bool> {
        let (saturate, plus_one) = (m.take("sat"), m.take("po"));
        let shift = match m.one_of(&["shr7", "shr15"]) {
            None => 0,
            Some("shr7") => 7,
            Some(_) => 15,
        };
        let signed = [Self::signed(m)?, Self::signed(m)?, Self::signed(m)?];
        let [d, sources @ ..] = a else { return Err(m.unknown()) };
        let negated: Vec<bool> = sources.iter().map(|s| matches!(s, Arg::Negated(_))).collect();
        let plain: Vec<Arg> = sources
            .iter()
            .map(|s| if let Arg::Negated(name) = s { Arg::Name(name.clone()) } else { s.clone() })
            .collect();
        let ([x, y, _], [nx, ny, nc]) = (plain.as_slice(), negated.as_slice()) else {
            return Err(m.error(format!("{} operands", a.len())));
        };
        let negate = [nx != ny, *nc];
        if negate == [true; 2] || (plus_one && negated.contains(&true)) {
            return Err(m.unknown());
        }
        let parts = [x, y].map(|arg| scalar_part(&selected(arg).1));
        let [Some(x), Some(y)] = parts else { return Err(m.error("no such part of a register")) };
        // The result is signed if an operand is or is negated, whatever its own type says.
        let signed = [signed[1] || signed[2] || negate != [false; 2], signed[1], signed[2]];
        let parts = vec![[x, Part { at: 32 + y.at, ..y }, Part { at: 0, bits: 32 }]];
        let operation = Operation::Mad { negate, plus_one, shift };
        let video = Video { operation, secondary: Secondary::Merge, signed, saturate, parts };
        self.emit_video(video, d, &plain)?;
        Ok(true)
    }

    fn emit_video(&mut self, video: Video, d: &Arg, sources: &[Arg]) -> Result<()> {
        let b32 = Ty::B(32);
        let d = self.dst(d, b32)?;
        let mut s = [SINK; 3];
        for (slot, source) in s.iter_mut().zip(sources) {
            *slot = self.src(&selected(source).0, b32)?;
        }
        self.emit(Op::Video { video: Box::new(video), d, s }, Class::Integer);
        Ok(())
    }
}
