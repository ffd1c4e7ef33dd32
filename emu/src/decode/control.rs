//! Control flow: branches, calls, exits, and instructions that steer hardware only.

use super::body::{Body, Symbol};
use super::mods::Mods;
use crate::ast::{Arg, Instr};
use crate::counters::Class;
use crate::parse::ParseError;
use crate::program::{Call, Callee, Op, Place, SINK};
use crate::types::{Space, Ty};

type Result<T> = std::result::Result<T, ParseError>;

impl Body<'_, '_> {
    /// Decodes an instruction if it is one of these.
    pub(super) fn control(&mut self, instr: &Instr, m: &mut Mods) -> Result<bool> {
        let a = instr.args.as_slice();
        let op = match (instr.op.as_str(), a) {
            ("bra", [Arg::Name(label)]) => {
                m.take("uni");
                Op::Branch { target: self.label(label)? }
            }
            ("brx", [index, Arg::Name(list)]) if m.take("idx") => {
                m.take("uni");
                let Some(Symbol::Targets(labels)) = self.symbol(list) else {
                    return Err(m.error(format!("{list} is no list of branch targets")));
                };
                let targets = labels.iter().map(|l| self.label(l)).collect::<Result<Vec<_>>>()?;
                Op::BranchTable { index: self.src(index, Ty::U(32))?, targets }
            }
            ("call", _) => {
                m.take("uni");
                self.call(a, m)?
            }
            ("ret", []) => {
                m.take("uni");
                Op::Return
            }
            ("exit", []) => Op::Exit,
            ("trap" | "brkpt", []) => Op::Trap,
            ("nanosleep", [t]) => {
                m.ty()?;
                self.src(t, Ty::U(32))?;
                Op::Yield
            }
            ("griddepcontrol", []) if m.take("wait") => Op::AwaitPrevious,
            ("griddepcontrol", []) if m.take("launch_dependents") => Op::LetNext,
            ("setmaxnreg", [Arg::Int(_)]) if m.take("inc") || m.take("dec") => {
                m.take("sync");
                m.take("aligned");
                m.ty()?;
                Op::Nop
            }
            ("isspacep", [p, s]) => {
                let space = m.space();
                if space == Space::Generic {
                    return Err(m.unknown());
                }
                Op::IsSpace { p: self.pred_dst(p)?, s: self.src(s, Ty::U(64))?, space }
            }
            // A cluster is one CTA: every address in it is the CTA's own.
            ("mapa", [d, s, rank]) => {
                m.space();
                let ty = m.ty()?;
                let rank = self.src(rank, Ty::U(32))?;
                self.emit(Op::OwnCta { operand: rank, want: 0 }, Class::Control);
                let (d, s) = (self.dst(d, ty)?, self.src(s, ty)?);
                Op::Map { f: crate::alu::map!(u64, |a| a), d, s: [s, SINK, SINK], k: 0 }
            }
            ("getctarank", [d, s]) => {
                m.space();
                let ty = m.ty()?;
                self.src(s, ty)?;
                let (d, zero) = (self.dst(d, Ty::U(32))?, self.bits(0));
                Op::Map { f: crate::alu::map!(u64, |a| a), d, s: [zero, SINK, SINK], k: 0 }
            }
            ("pmevent", [Arg::Int(_)]) => {
                m.take("mask");
                Op::Nop
            }
            ("discard", [address, Arg::Int(128)]) => {
                let space = m.space();
                if !m.take("L2") || !matches!(space, Space::Global | Space::Generic) {
                    return Err(m.unknown());
                }
                self.address_in(address, space)?;
                Op::Nop
            }
            (
                "bra" | "brx" | "ret" | "exit" | "trap" | "nanosleep" | "griddepcontrol" | "isspacep" | "mapa"
                | "getctarank",
                _,
            ) => {
                return Err(m.unknown());
            }
            _ => return Ok(false),
        };
        self.emit(op, Class::Control);
        Ok(true)
    }

    fn label(&self, name: &str) -> Result<u32> {
        match self.symbol(name) {
            Some(Symbol::Label(id)) => Ok(id),
            Some(_) => Err(self.error(format!("{name} is no label"))),
            None => Err(self.error(format!("the label {name} does not exist"))),
        }
    }

    /// `call (results), function, (arguments)`, both lists optional; a function pointer is followed by its prototype.
    fn call(&mut self, a: &[Arg], m: &Mods) -> Result<Op> {
        let (results, rest) = match a {
            [Arg::List(results), rest @ ..] => (results.as_slice(), rest),
            rest => (&[][..], rest),
        };
        let (name, args, prototype) = match rest {
            [Arg::Name(name)] => (name, &[][..], None),
            [Arg::Name(name), Arg::List(args)] => (name, args.as_slice(), None),
            [Arg::Name(name), Arg::Name(prototype)] => (name, &[][..], Some(prototype)),
            [Arg::Name(name), Arg::List(args), Arg::Name(prototype)] => (name, args.as_slice(), Some(prototype)),
            _ => return Err(m.error(format!("{} operands", a.len()))),
        };
        let (callee, signature) = match (self.symbol(name), prototype) {
            (Some(Symbol::Function(f)), None) => (Callee::Function(f), self.shared.signatures[f as usize].clone()),
            (Some(Symbol::Reg(..)), Some(prototype)) => {
                let Some(Symbol::Prototype(signature, kind)) = self.symbol(prototype) else {
                    return Err(m.error(format!("{prototype} is no prototype of a call")));
                };
                let address = self.src(&Arg::Name(name.clone()), Ty::U(64))?;
                (Callee::Pointer { address, signature: kind }, signature)
            }
            (Some(Symbol::Reg(..)), None) => return Err(m.error("a call of a function pointer has no prototype")),
            _ => return Err(m.error(format!("the function {name} does not exist"))),
        };
        if args.len() != signature.params.len() || results.len() != signature.returns.len() {
            return Err(m.error(format!("{name} has other parameters")));
        }
        let mut pairs = |list: &[Arg], theirs: &[Place], result: bool| {
            list.iter()
                .zip(theirs)
                .map(|(arg, their)| Ok((self.place(arg, *their, result)?, *their)))
                .collect::<Result<Vec<_>>>()
        };
        let args = pairs(args, &signature.params, false)?;
        let results = pairs(results, &signature.returns, true)?;
        Ok(Op::Call(Box::new(Call { callee, args, results })))
    }

    /// The caller's side of a parameter: a register for a register, bytes for bytes.
    fn place(&mut self, arg: &Arg, theirs: Place, result: bool) -> Result<Place> {
        let name = match arg {
            Arg::Name(name) => self.symbol(name),
            _ => None,
        };
        match (name, theirs) {
            (Some(Symbol::Frame(offset)), Place::Frame { bytes, .. }) => {
                Ok(Place::Frame { offset: offset as u32, bytes })
            }
            (Some(Symbol::Reg(r, _)), Place::Reg(_)) => Ok(Place::Reg(r)),
            (None, Place::Reg(_)) if !result => Ok(Place::Reg(self.src(arg, Ty::B(32))?)),
            _ => Err(self.error("an argument of a call does not fit its parameter")),
        }
    }
}
