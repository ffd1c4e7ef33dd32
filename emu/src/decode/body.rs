//! A function body: scopes, registers, operands, labels. Instructions are decoded by the other files through
//! [`Body::instruction`].

use super::mods::Mods;
use super::{FRAME_ALIGN, Layout, Shared, Signature, code_address, declare_static, describe, signature};
use crate::ast::{Arg, Function, Instr, Stmt, Var};
use crate::counters::Class;
use crate::parse::{ParseError, float_bits};
use crate::program::{self, Address, Constant, Mask, Op, Place, Pred, PredRef, Reg, Special};
use crate::types::{Space, Ty, mask_of};
use std::collections::HashMap;

type Result<T> = std::result::Result<T, ParseError>;

/// Registers before this are for the emulator.
pub(super) const FIRST_REGISTER: Reg = 1;
/// Predicates before this are for the emulator.
const FIRST_PREDICATE: u32 = 2;
/// Registers of a function.
const MAX_REGISTERS: u32 = 1 << 16;

/// What a name stands for.
#[derive(Debug, Clone)]
pub(super) enum Symbol {
    Reg(Reg, Ty),
    Pred(Pred),
    Shared(u64),
    DynamicShared,
    /// A local variable or a parameter of a function, by its place in the frame.
    Frame(u64),
    /// A parameter of the kernel.
    Param(u64),
    Global(u32),
    /// A variable that another module defines.
    Elsewhere,
    Function(u32),
    Label(u32),
    Targets(Vec<String>),
    /// What an indirect call may reach: functions of a signature, which has that number.
    Prototype(Signature, u32),
}

/// Names of one block.
#[derive(Debug, Default)]
pub(super) struct Scope {
    names: HashMap<String, Symbol>,
    /// Numbered registers: first slot and count by prefix.
    families: HashMap<String, (u32, u32, Ty)>,
}

impl Scope {
    pub(super) fn insert(&mut self, name: &str, symbol: Symbol, line: u32) -> Result<()> {
        match self.names.insert(name.to_owned(), symbol) {
            None => Ok(()),
            Some(_) => Err(ParseError::new(line, format!("the name {name} is declared twice"))),
        }
    }

    /// A variable of a module. It may be declared again where it has no size or is defined elsewhere, as texts that are
    /// linked do.
    pub(super) fn declare(&mut self, name: &str, symbol: Symbol, line: u32) -> Result<()> {
        use Symbol::{DynamicShared, Elsewhere, Global};
        match (self.names.get_mut(name), symbol) {
            (Some(DynamicShared), DynamicShared) | (Some(Elsewhere | Global(_)), Elsewhere) => Ok(()),
            (Some(known @ Elsewhere), defined @ Global(_)) => {
                *known = defined;
                Ok(())
            }
            (_, symbol) => self.insert(name, symbol, line),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<Symbol> {
        if let Some(symbol) = self.names.get(name) {
            return Some(symbol.clone());
        }
        let digits = name.len() - name.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (prefix, number) = name.split_at(digits);
        let &(first, count, ty) = self.families.get(prefix)?;
        if number.len() > 1 && number.starts_with('0') {
            return None;
        }
        let index: u32 = number.parse().ok().filter(|n| *n < count)?;
        Some(if ty == Ty::Pred { Symbol::Pred((first + index) as Pred) } else { Symbol::Reg(first + index, ty) })
    }
}

/// A function that is being decoded.
pub(super) struct Body<'a, 'm> {
    pub(super) shared: &'a mut Shared<'m>,
    module: &'a Scope,
    scopes: Vec<Scope>,
    pub(super) entry: bool,
    layout: &'a mut Layout,
    dynamic_align: &'a mut u64,
    frame: Layout,
    registers: u32,
    predicates: u32,
    labels: Vec<Option<u32>>,
    guard: PredRef,
    /// What `%is_explicit_cluster` is.
    explicit_cluster: bool,
    pub(super) line: u32,
}

impl<'a, 'm> Body<'a, 'm> {
    pub(super) fn new(
        shared: &'a mut Shared<'m>,
        module: &'a Scope,
        f: &Function,
        layout: &'a mut Layout,
        dynamic_align: &'a mut u64,
    ) -> Self {
        Body {
            shared,
            module,
            scopes: vec![Scope::default()],
            entry: f.entry,
            layout,
            dynamic_align,
            frame: Layout::default(),
            registers: FIRST_REGISTER,
            predicates: FIRST_PREDICATE,
            labels: Vec::new(),
            guard: PredRef::TRUE,
            explicit_cluster: f.explicit_cluster,
            line: f.line,
        }
    }

    /// Names the parameters, in the order of the function's signature.
    pub(super) fn declare_params(&mut self, f: &Function) -> Result<()> {
        if f.entry {
            let (params, _) = super::kernel_params(f);
            for (p, place) in f.params.iter().zip(params) {
                if p.register {
                    return Err(ParseError::new(f.line, format!("{} is a register of a kernel", p.name)));
                }
                self.scopes[0].insert(&p.name, Symbol::Param(place.offset), f.line)?;
            }
            return Ok(());
        }
        let signature = signature(&f.params, &f.returns);
        let places = signature.params.iter().chain(&signature.returns);
        for (p, place) in f.params.iter().chain(&f.returns).zip(places) {
            let symbol = match *place {
                Place::Reg(r) => {
                    self.registers = self.registers.max(r + 1);
                    Symbol::Reg(r, p.ty)
                }
                Place::Frame { offset, bytes } => {
                    self.frame.0 = self.frame.0.max(u64::from(offset) + u64::from(bytes));
                    Symbol::Frame(u64::from(offset))
                }
            };
            self.scopes[0].insert(&p.name, symbol, f.line)?;
        }
        Ok(())
    }

    pub(super) fn error(&self, what: impl Into<String>) -> ParseError {
        ParseError::new(self.line, what)
    }

    pub(super) fn symbol(&self, name: &str) -> Option<Symbol> {
        self.scopes.iter().rev().find_map(|s| s.get(name)).or_else(|| self.module.get(name))
    }

    fn insert(&mut self, name: &str, symbol: Symbol, line: u32) -> Result<()> {
        match self.scopes.last_mut() {
            Some(scope) => scope.insert(name, symbol, line),
            None => Ok(()),
        }
    }

    /// Decodes the statements of a block.
    pub(super) fn block(&mut self, stmts: &'m [Stmt]) -> Result<()> {
        for s in stmts {
            match s {
                Stmt::Label(name) => {
                    let id = self.labels.len() as u32;
                    self.labels.push(None);
                    self.insert(name, Symbol::Label(id), self.line)?;
                }
                Stmt::Targets { name, labels } => {
                    self.insert(name, Symbol::Targets(labels.clone()), self.line)?;
                }
                Stmt::Prototype { name, returns, params } => {
                    let signature = signature(params, returns);
                    let kind = self.shared.kind(&signature);
                    self.insert(name, Symbol::Prototype(signature, kind), self.line)?;
                }
                Stmt::CallTargets { name, functions } => {
                    let first = functions.first().and_then(|f| self.shared.names.get(f.as_str()));
                    let Some(&first) = first else {
                        return Err(self.error(format!("the functions of {name} do not exist")));
                    };
                    let signature = self.shared.signatures[first as usize].clone();
                    let kind = self.shared.kind(&signature);
                    self.insert(name, Symbol::Prototype(signature, kind), self.line)?;
                }
                _ => {}
            }
        }
        for s in stmts {
            match s {
                Stmt::Block(inner) => {
                    self.scopes.push(Scope::default());
                    self.block(inner)?;
                    self.scopes.pop();
                }
                Stmt::Reg { ty, name, count, line } => self.register(*ty, name, *count, *line)?,
                Stmt::Var(var) => self.variable(var)?,
                Stmt::Label(name) => {
                    let here = self.here();
                    if let Some(Symbol::Label(id)) = self.symbol(name) {
                        self.labels[id as usize] = Some(here);
                    }
                }
                Stmt::Targets { .. } | Stmt::Prototype { .. } | Stmt::CallTargets { .. } => {}
                Stmt::Instr(instr) => {
                    self.line = instr.line;
                    self.guard = match &instr.guard {
                        Some((name, negated)) => PredRef { index: self.pred(name)?, negated: *negated },
                        None => PredRef::TRUE,
                    };
                    self.instruction(instr)?;
                }
            }
        }
        Ok(())
    }

    fn here(&self) -> u32 {
        self.shared.program.code.len() as u32
    }

    /// Ends the code and puts positions in place of labels. Registers, predicates and bytes of the frame.
    pub(super) fn finish(mut self, start: u32) -> Result<(u32, u32, u32)> {
        self.guard = PredRef::TRUE;
        self.emit(Op::Return, Class::Control);
        let labels = self.labels;
        let at = |label: &mut u32| *label = labels[*label as usize].unwrap_or(start);
        for instr in &mut self.shared.program.code[start as usize..] {
            match &mut instr.op {
                Op::Branch { target } => at(target),
                Op::BranchTable { targets, .. } => targets.iter_mut().for_each(at),
                _ => {}
            }
        }
        let frame = self.frame.0.next_multiple_of(FRAME_ALIGN);
        Ok((self.registers, self.predicates, frame as u32))
    }

    fn register(&mut self, ty: Ty, name: &str, count: Option<u32>, line: u32) -> Result<()> {
        let n = count.unwrap_or(1);
        let pool = if ty == Ty::Pred { &mut self.predicates } else { &mut self.registers };
        let first = *pool;
        *pool += n;
        let limit = if ty == Ty::Pred { u32::from(Pred::MAX) } else { MAX_REGISTERS };
        if *pool > limit {
            return Err(ParseError::new(line, format!("the function has more than {limit} registers")));
        }
        let Some(scope) = self.scopes.last_mut() else { return Ok(()) };
        if count.is_some() {
            return match scope.families.insert(name.to_owned(), (first, n, ty)) {
                None => Ok(()),
                Some(_) => Err(ParseError::new(line, format!("the registers {name} are declared twice"))),
            };
        }
        let symbol = if ty == Ty::Pred { Symbol::Pred(first as Pred) } else { Symbol::Reg(first, ty) };
        scope.insert(name, symbol, line)
    }

    fn variable(&mut self, var: &'m Var) -> Result<()> {
        match var.space {
            Space::Local | Space::Param => {
                if var.unsized_array || var.align > FRAME_ALIGN {
                    return Err(ParseError::new(var.line, format!("the variable {} has no place", var.name)));
                }
                let offset = self.frame.add(var.bytes, var.align);
                if self.frame.0 > 1 << 19 {
                    return Err(ParseError::new(var.line, "the function has more than 512 KiB of local memory"));
                }
                self.insert(&var.name, Symbol::Frame(offset), var.line)
            }
            _ => {
                let Some(scope) = self.scopes.last_mut() else { return Ok(()) };
                declare_static(var, scope, self.layout, self.dynamic_align, self.shared)
            }
        }
    }

    /// A fresh register.
    pub(super) fn temporary(&mut self) -> Reg {
        self.registers += 1;
        self.registers - 1
    }

    pub(super) fn constant(&mut self, c: Constant) -> Reg {
        self.shared.constant(c)
    }

    pub(super) fn bits(&mut self, bits: u64) -> Reg {
        self.constant(Constant::Bits(bits))
    }

    /// Emits under the instruction's guard.
    pub(super) fn emit(&mut self, op: Op, class: Class) {
        let instr = program::Instr { op, guard: self.guard, line: self.line, class };
        self.shared.program.code.push(instr);
    }

    /// Emits for all lanes.
    fn emit_always(&mut self, op: Op) {
        let instr = program::Instr { op, guard: PredRef::TRUE, line: self.line, class: Class::Other };
        self.shared.program.code.push(instr);
    }

    fn pred(&self, name: &str) -> Result<Pred> {
        match self.symbol(name) {
            Some(Symbol::Pred(p)) => Ok(p),
            Some(_) => Err(self.error(format!("{name} is no predicate"))),
            None => Err(self.error(format!("the predicate {name} is not declared"))),
        }
    }

    /// A predicate as an operand.
    pub(super) fn pred_src(&self, arg: &Arg) -> Result<PredRef> {
        match arg {
            // A constant of the kernel; false in functions.
            Arg::Name(name) if name == "%is_explicit_cluster" => {
                Ok(PredRef { index: program::TRUE, negated: !self.explicit_cluster })
            }
            Arg::Name(name) => Ok(PredRef { index: self.pred(name)?, negated: false }),
            Arg::Not(name) => Ok(PredRef { index: self.pred(name)?, negated: true }),
            Arg::Int(n) => Ok(PredRef { index: program::TRUE, negated: *n == 0 }),
            _ => Err(self.error("an operand is no predicate")),
        }
    }

    /// A predicate as a result.
    pub(super) fn pred_dst(&self, arg: &Arg) -> Result<Pred> {
        match arg {
            Arg::Name(name) if name == "_" => Ok(program::NOBODY),
            Arg::Name(name) => self.pred(name),
            _ => Err(self.error("a result is no predicate")),
        }
    }

    /// A register as a result, of exactly (or, if `wider`, at least) the bits of a type. And its own bits.
    fn result(&self, arg: &Arg, ty: Ty, wider: bool) -> Result<(Reg, u32)> {
        match arg {
            Arg::Name(name) if name == "_" => Ok((program::SINK, ty.bits())),
            Arg::Name(name) => match self.symbol(name) {
                Some(Symbol::Reg(r, have)) => {
                    self.fits(name, have, ty, wider)?;
                    Ok((r, have.bits()))
                }
                Some(_) => Err(self.error(format!("{name} is no register"))),
                None => Err(self.error(format!("the register {name} is not declared"))),
            },
            _ => Err(self.error("a result is no register")),
        }
    }

    fn fits(&self, name: &str, have: Ty, want: Ty, wider: bool) -> Result<()> {
        let ok = if wider { have.bits() >= want.bits() } else { have.bits() == want.bits() };
        if ok {
            return Ok(());
        }
        Err(self.error(format!("{name} is of type {}, {} is wanted", describe(have), describe(want))))
    }

    pub(super) fn dst(&self, arg: &Arg, ty: Ty) -> Result<Reg> {
        self.result(arg, ty, false).map(|(r, _)| r)
    }

    /// A result that may be wider than the type, and its bits.
    pub(super) fn dst_wider(&self, arg: &Arg, ty: Ty) -> Result<(Reg, u32)> {
        self.result(arg, ty, true)
    }

    /// A register or a constant.
    pub(super) fn src(&mut self, arg: &Arg, ty: Ty) -> Result<Reg> {
        self.operand(arg, ty, false)
    }

    /// A register that may be wider than the type, or a constant.
    pub(super) fn src_wider(&mut self, arg: &Arg, ty: Ty) -> Result<Reg> {
        self.operand(arg, ty, true)
    }

    fn operand(&mut self, arg: &Arg, ty: Ty, wider: bool) -> Result<Reg> {
        match arg {
            Arg::Int(n) if ty.is_float() && !matches!(ty, Ty::F16x2 | Ty::Bf16x2) && *n != 0 => {
                Err(self.error(format!("the integer {n} is an operand of type {}", describe(ty))))
            }
            Arg::Int(n) => Ok(self.bits(n & mask_of(ty.bits()))),
            Arg::Float { bits, wide } if ty.bits() >= 32 => Ok(self.bits(float_bits(*bits, *wide, ty))),
            Arg::Float { .. } => Err(self.error("a float stands for less than 32 bits")),
            Arg::Name(name) => match self.symbol(name) {
                Some(Symbol::Reg(r, have)) => {
                    self.fits(name, have, ty, wider)?;
                    Ok(r)
                }
                Some(Symbol::Pred(_)) => Err(self.error(format!("{name} is a predicate"))),
                Some(symbol) => self.address_of(name, &symbol, 0),
                None if name.starts_with('%') => self.special(name),
                None => Err(self.error(format!("the name {name} is not declared"))),
            },
            Arg::Sum(name, offset) => match self.symbol(name) {
                Some(Symbol::Reg(..)) | None => Err(self.error(format!("{name} is no variable"))),
                Some(symbol) => self.address_of(name, &symbol, *offset),
            },
            _ => Err(self.error("an operand is no register and no constant")),
        }
    }

    /// The address of a variable in its own space.
    fn address_of(&mut self, name: &str, symbol: &Symbol, offset: i64) -> Result<Reg> {
        Ok(match *symbol {
            Symbol::Shared(at) | Symbol::Param(at) => self.bits(at.wrapping_add_signed(offset)),
            Symbol::DynamicShared => self.constant(Constant::DynamicShared(offset)),
            Symbol::Global(var) => self.constant(Constant::Global { var, offset }),
            Symbol::Function(f) => self.bits(code_address(f).wrapping_add_signed(offset)),
            // A kernel is called by nobody, so that its frame is at 0.
            Symbol::Frame(at) if self.entry => self.bits(at.wrapping_add_signed(offset)),
            Symbol::Frame(at) => {
                let d = self.temporary();
                self.emit_always(Op::FrameAddress { d, offset: at.wrapping_add_signed(offset) });
                d
            }
            Symbol::Elsewhere => return Err(self.error(format!("the variable {name} is defined in another module"))),
            _ => return Err(self.error(format!("{name} has no address"))),
        })
    }

    /// Sources of one type.
    pub(super) fn srcs<const N: usize>(&mut self, args: &[Arg], types: [Ty; N]) -> Result<[Reg; N]> {
        if args.len() < N {
            return Err(self.error("operands are missing"));
        }
        let mut regs = [program::SINK; N];
        for ((reg, arg), ty) in regs.iter_mut().zip(args).zip(types) {
            *reg = self.src(arg, ty)?;
        }
        Ok(regs)
    }

    /// The registers of a vector operand, or of a single one.
    pub(super) fn regs(&mut self, arg: &Arg, ty: Ty, result: bool) -> Result<Vec<Reg>> {
        let parts = match arg {
            Arg::Vector(parts) => parts.as_slice(),
            single => std::slice::from_ref(single),
        };
        parts.iter().map(|p| if result { self.dst(p, ty) } else { self.src(p, ty) }).collect()
    }

    /// `[base + offset]`. The space it names by itself, if it does.
    pub(super) fn address(&mut self, arg: &Arg) -> Result<(Address, Option<Space>)> {
        let Arg::Mem { base, offset } = arg else { return Err(self.error("an operand is no address")) };
        let offset = *offset;
        let Some(name) = base else { return Ok((Address { base: self.bits(0), offset }, None)) };
        match self.symbol(name) {
            Some(Symbol::Reg(base, ty)) if ty.bits() >= 32 => Ok((Address { base, offset }, None)),
            Some(Symbol::Reg(..) | Symbol::Pred(_)) => Err(self.error(format!("{name} is too narrow for an address"))),
            Some(symbol) => {
                let base = self.address_of(name, &symbol, offset)?;
                let space = match symbol {
                    Symbol::Shared(_) | Symbol::DynamicShared => Space::Shared,
                    Symbol::Frame(_) => Space::Local,
                    Symbol::Param(_) => Space::Param,
                    _ => Space::Global,
                };
                Ok((Address { base, offset: 0 }, Some(space)))
            }
            None => Err(self.error(format!("the name {name} is not declared"))),
        }
    }

    /// An address in a space; a parameter of a function is in its frame.
    pub(super) fn address_in(&mut self, arg: &Arg, space: Space) -> Result<(Address, Space)> {
        let (address, own) = self.address(arg)?;
        let space = match (space, own) {
            (Space::Param, Some(Space::Local)) => Space::Local,
            (Space::Generic, Some(Space::Global)) => Space::Global,
            (Space::Const, Some(Space::Global)) => Space::Const,
            (Space::Generic, Some(own)) => own,
            (space, Some(own)) if space != own => {
                return Err(self.error("the variable is in another state space"));
            }
            (space, _) => space,
        };
        Ok((address, space))
    }

    /// A special register: a constant of the launch, or read into a register.
    fn special(&mut self, name: &str) -> Result<Reg> {
        let special = match special(name) {
            Some(Read::Bits(bits)) => return Ok(self.bits(bits)),
            Some(Read::Special(s)) => s,
            None => return Err(self.error(format!("the register {name} is not declared"))),
        };
        if special.is_constant() {
            return Ok(self.constant(Constant::Special(special)));
        }
        let d = self.temporary();
        self.emit_always(Op::Read { d, special });
        Ok(d)
    }

    /// Decodes an instruction.
    fn instruction(&mut self, instr: &Instr) -> Result<()> {
        let mut m = Mods::new(instr);
        super::refused::check(&instr.op, &instr.mods, &m)?;
        let known = self.arithmetic(instr, &mut m)?
            || self.control(instr, &mut m)?
            || self.async_copy(instr, &mut m)?
            || self.memory(instr, &mut m)?
            || self.matrix(instr, &mut m)?
            || self.video(instr, &mut m)?
            || self.sync(instr, &mut m)?;
        if known { m.finish() } else { Err(self.error(format!("the instruction {} is unknown", m.spelling()))) }
    }
}

/// What a special register gives.
enum Read {
    Bits(u64),
    Special(Special),
}

/// Special registers that are vectors.
const VECTORS: &[&str] =
    &["%tid", "%ntid", "%ctaid", "%nctaid", "%clusterid", "%nclusterid", "%cluster_ctaid", "%cluster_nctaid"];

/// Special registers that are zero here, and how many there are of each; 0: one without a number.
const UNSET: &[(&str, u32)] = &[
    ("%envreg", 32),
    ("%pm", 8),
    ("%reserved_smem_offset_begin", 0),
    ("%reserved_smem_offset_end", 0),
    ("%reserved_smem_offset_cap", 0),
    ("%reserved_smem_offset_", 2),
    ("%current_graph_exec", 0),
];

fn special(name: &str) -> Option<Read> {
    let (base, part) = name.split_once('.').unwrap_or((name, "x"));
    let axis = match part {
        "x" => 0,
        "y" => 1,
        "z" => 2,
        // Vectors have a fourth element, which is zero.
        "w" if VECTORS.contains(&base) => return Some(Read::Bits(0)),
        _ => return None,
    };
    // What a driver, a profiler or a device graph would set.
    if let Some((_, count)) = UNSET.iter().find(|(prefix, _)| base.starts_with(prefix)) {
        let number = base.trim_start_matches(|c: char| !c.is_ascii_digit());
        let number = number.strip_suffix("_64").unwrap_or(number);
        let exists = if *count == 0 { number.is_empty() } else { number.parse().is_ok_and(|n: u32| n < *count) };
        return exists.then_some(Read::Bits(0));
    }
    Some(Read::Special(match base {
        "%tid" => Special::Tid(axis),
        "%ntid" => Special::Ntid(axis),
        // A cluster is one CTA.
        "%ctaid" | "%clusterid" => Special::Ctaid(axis),
        "%nctaid" | "%nclusterid" => Special::Nctaid(axis),
        "%cluster_nctaid" | "%cluster_nctarank" => return Some(Read::Bits(1)),
        "%cluster_ctaid" | "%cluster_ctarank" | "%gridid" => return Some(Read::Bits(0)),
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::WarpsPerCta,
        "%smid" => Special::SmId,
        "%nsmid" => Special::Nctaid(0),
        "%lanemask_eq" => Special::LaneMask(Mask::Eq),
        "%lanemask_le" => Special::LaneMask(Mask::Le),
        "%lanemask_lt" => Special::LaneMask(Mask::Lt),
        "%lanemask_ge" => Special::LaneMask(Mask::Ge),
        "%lanemask_gt" => Special::LaneMask(Mask::Gt),
        "%clock" | "%globaltimer_lo" => Special::Clock32,
        "%clock64" | "%globaltimer" => Special::Clock64,
        "%clock_hi" | "%globaltimer_hi" => return Some(Read::Bits(0)),
        "%dynamic_smem_size" => Special::DynamicShared,
        "%total_smem_size" | "%aggr_smem_size" => Special::TotalShared,
        _ => return None,
    }))
}
