//! Walks a verified kernel and writes its PTX.

mod lookup;

use super::divide::magic;
use super::live::live;
use ir::kernel::{
    Access, Binary, Buf, BulkCopy, Compare, Grid, Inst, Kernel, Mem, Mma, Scope, Space, Special, Stmt, Ty, Unary, Value,
};
use ir::target::Gpu;
use ir::{Error, Result, Verified};
use lookup::{Table, table_words};
use std::collections::HashMap;
use std::fmt::Write;

/// CTAs that a multiprocessor is to hold at once where launches may overlap, which bounds the registers of a thread: so that
/// one can begin while the one before ends.
const RESIDENT: u32 = 2;
/// The top bits of four bytes.
const TOPS: u32 = 0x8080_8080;

/// Register classes: their prefix and type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Pred,
    Half,
    Word,
    Float,
    Wide,
}

const CLASSES: [(&str, &str); 5] = [("%p", ".pred"), ("%h", ".b16"), ("%r", ".b32"), ("%f", ".f32"), ("%d", ".b64")];

/// Parameters after the buffers: the addresses of the control words and of the word that tells the launch that began last,
/// and the number of the launch.
const TRAILING: u32 = 3;

/// A register, or a constant that instructions take in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operand {
    Reg(Class, u32),
    Int(i32),
    Float(u32),
}

impl std::fmt::Display for Operand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Operand::Reg(class, n) => write!(f, "{}{n}", CLASSES[*class as usize].0),
            Operand::Int(i) => write!(f, "{i}"),
            Operand::Float(bits) => write!(f, "0f{bits:08X}"),
        }
    }
}

/// A scalar or four lanes.
#[derive(Debug, Clone, Copy)]
enum Operands {
    One(Operand),
    Four([Operand; 4]),
}

struct Emitter<'a> {
    kernel: &'a Kernel,
    gpu: &'a Gpu,
    live: Vec<bool>,
    text: String,
    registers: [u32; CLASSES.len()],
    labels: u32,
    values: HashMap<Value, Operands>,
    vars: Vec<Operands>,
    /// Address registers of param and constant buffers; the shared window for scratch ones.
    bases: Vec<Operand>,
    control: Operand,
    /// Addresses that open blocks have computed.
    addresses: Vec<HashMap<(Buf, Value), Operand>>,
    /// The words of each table, then what goes into each selector.
    tables: Vec<(Table, [Operand; 5])>,
}

/// The text of an entry and its constants.
pub(super) fn emit(kernel: &Verified<Kernel>, gpu: &Gpu) -> Result<String> {
    let Some(Grid { threads, .. }) = kernel.grid else {
        return Err(Error::verify("kernel", format!("{} has no grid", kernel.name)));
    };
    let mut e = Emitter {
        kernel,
        gpu,
        live: live(kernel),
        text: String::new(),
        registers: [0; CLASSES.len()],
        labels: 0,
        values: HashMap::new(),
        vars: Vec::new(),
        bases: Vec::new(),
        control: Operand::Int(0),
        addresses: vec![HashMap::new()],
        tables: Vec::new(),
    };
    e.prologue();
    e.block(&kernel.body)?;
    e.line(format_args!("ret;"));

    let mut out = String::new();
    for (number, b) in kernel.buffers.iter().enumerate() {
        if let Space::Constant(words) = &b.space {
            let list: Vec<String> = words.iter().map(u32::to_string).collect();
            _ = writeln!(
                out,
                "\n.global .align {} .b32 {}[{}] = {{{}}};",
                (words.len() * 4).next_power_of_two().max(16),
                e.constant(number),
                words.len(),
                list.join(", ")
            );
        }
    }
    for (number, (table, _)) in e.tables.iter().enumerate() {
        let list: Vec<String> = table_words(table).iter().map(u32::to_string).collect();
        _ = writeln!(out, "\n.global .align 16 .b32 {}[8] = {{{}}};", e.table(number), list.join(", "));
    }
    let resident = if gpu.overlaps() { RESIDENT } else { 1 };
    let params: Vec<String> = (0..kernel.params() + TRAILING).map(|n| format!("\t.param .u64 param{n}")).collect();
    _ = write!(
        out,
        "\n.visible .entry {}(\n{}\n)\n.maxntid {threads}, 1, 1\n.minnctapersm {resident}\n{{\n",
        kernel.name,
        params.join(",\n")
    );
    for ((prefix, ty), count) in CLASSES.iter().zip(e.registers).filter(|(_, count)| *count > 0) {
        _ = writeln!(out, "\t.reg {ty} {prefix}<{count}>;");
    }
    Ok(out + &e.text + "}\n")
}

fn class(ty: Ty) -> Class {
    match ty.scalar() {
        Ty::Bool => Class::Pred,
        Ty::F32 => Class::Float,
        _ => Class::Word,
    }
}

/// Suffix of a move between registers of a class.
fn move_type(class: Class) -> &'static str {
    match class {
        Class::Pred => "pred",
        Class::Half => "b16",
        Class::Word => "b32",
        Class::Float => "f32",
        Class::Wide => "b64",
    }
}

impl Emitter<'_> {
    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        _ = writeln!(self.text, "\t{text}");
    }

    fn reg(&mut self, class: Class) -> Operand {
        let n = &mut self.registers[class as usize];
        *n += 1;
        Operand::Reg(class, *n - 1)
    }

    /// A new register with the result of an instruction over `operands`.
    fn op(&mut self, class: Class, name: &str, operands: &[Operand]) -> Operand {
        let to = self.reg(class);
        self.op_to(to, name, operands);
        to
    }

    fn op_to(&mut self, to: Operand, name: &str, operands: &[Operand]) {
        let list: Vec<String> = operands.iter().map(Operand::to_string).collect();
        self.line(format_args!("{name} {to}, {};", list.join(", ")));
    }

    fn label(&mut self) -> u32 {
        self.labels += 1;
        self.labels
    }

    fn constant(&self, number: usize) -> String {
        format!("{}_{}", self.kernel.name, self.kernel.buffers[number].name)
    }

    fn prologue(&mut self) {
        let kernel = self.kernel;
        let mut shared = None;
        for (number, b) in kernel.buffers.iter().enumerate() {
            let base = match b.space {
                Space::Param(n) => self.param(n),
                Space::Constant(_) => {
                    let to = self.reg(Class::Wide);
                    let name = self.constant(number);
                    self.line(format_args!("mov.u64 {to}, {name};"));
                    to
                }
                Space::Scratch(_) => *shared.get_or_insert_with(|| {
                    let to = self.reg(Class::Word);
                    self.line(format_args!("mov.u32 {to}, shared;"));
                    to
                }),
            };
            self.bases.push(base);
        }
        self.control = self.param(kernel.params());
        for ty in &kernel.vars {
            let reg = |e: &mut Self| e.reg(class(*ty));
            let var = if ty.is_vector() {
                Operands::Four(std::array::from_fn(|_| reg(self)))
            } else {
                Operands::One(reg(self))
            };
            self.vars.push(var);
        }
        self.load_tables();
    }

    /// The first thread of the grid writes the number of the launch where the host finds it.
    fn tell_progress(&mut self) {
        let progress = self.param(self.kernel.params() + 1);
        let [thread, cta, number] = [(); 3].map(|()| self.reg(Class::Word));
        let first = self.reg(Class::Pred);
        self.line(format_args!("mov.u32 {thread}, %tid.x;"));
        self.line(format_args!("mov.u32 {cta}, %ctaid.x;"));
        self.line(format_args!("or.b32 {thread}, {thread}, {cta};"));
        self.line(format_args!("setp.eq.u32 {first}, {thread}, 0;"));
        self.line(format_args!("ld.param.u32 {number}, [param{}];", self.kernel.params() + 2));
        self.line(format_args!("@{first} st.relaxed.sys.global.u32 [{progress}], {number};"));
    }

    fn param(&mut self, n: u32) -> Operand {
        let (generic, to) = (self.reg(Class::Wide), self.reg(Class::Wide));
        self.line(format_args!("ld.param.u64 {generic}, [param{n}];"));
        self.line(format_args!("cvta.to.global.u64 {to}, {generic};"));
        to
    }

    fn block(&mut self, code: &[Stmt]) -> Result<()> {
        self.addresses.push(HashMap::new());
        code.iter().try_for_each(|stmt| self.stmt(stmt))?;
        self.addresses.pop();
        Ok(())
    }

    fn one(&self, v: Value) -> Operand {
        match self.values[&v] {
            Operands::One(o) => o,
            Operands::Four([o, ..]) => o,
        }
    }

    fn four(&self, v: Value) -> [Operand; 4] {
        match self.values[&v] {
            Operands::One(o) => [o; 4],
            Operands::Four(all) => all,
        }
    }

    /// An operand in a register.
    fn in_register(&mut self, o: Operand) -> Operand {
        match o {
            Operand::Reg(..) => o,
            Operand::Int(_) => self.op(Class::Word, "mov.b32", &[o]),
            Operand::Float(_) => self.op(Class::Float, "mov.f32", &[o]),
        }
    }

    fn stmt(&mut self, stmt: &Stmt) -> Result<()> {
        match stmt {
            Stmt::Let(v) => {
                if self.live[v.0 as usize] {
                    let operands = self.inst(*v)?;
                    self.values.insert(*v, operands);
                }
            }
            Stmt::Set(var, v) => match self.vars[var.0 as usize] {
                Operands::One(to) => {
                    let from = self.one(*v);
                    self.copy(to, from);
                }
                Operands::Four(to) => {
                    let from = self.four(*v);
                    to.into_iter().zip(from).for_each(|(to, from)| self.copy(to, from));
                }
            },
            Stmt::Store { buf, index, mem, value } => {
                let at = self.address(*buf, *index)?;
                let space = self.space(*buf);
                match self.values[value] {
                    Operands::One(v) => {
                        let v = self.in_register(v);
                        self.line(format_args!("st.{space}.{} {at}, {v};", memory_type(*mem)));
                    }
                    Operands::Four(all) => {
                        let [a, b, c, d] = all.map(|v| self.in_register(v));
                        self.line(format_args!("st.{space}.v4.{} {at}, {{{a}, {b}, {c}, {d}}};", memory_type(*mem)));
                    }
                }
            }
            Stmt::For { index, from, to, step, body } => {
                let (head, after) = (self.label(), self.label());
                let (from, to) = (self.one(*from), self.one(*to));
                let i = self.op(Class::Word, "mov.b32", &[from]);
                self.copies_of_loop(body)?;
                _ = writeln!(self.text, "$L{head}:");
                let done = self.op(Class::Pred, "setp.ge.u32", &[i, to]);
                self.line(format_args!("@{done} bra $L{after};"));
                self.values.insert(*index, Operands::One(i));
                self.block(body)?;
                self.op_to(i, "add.s32", &[i, Operand::Int(*step as i32)]);
                self.line(format_args!("bra $L{head};"));
                _ = writeln!(self.text, "$L{after}:");
            }
            Stmt::If { cond, then, other } => {
                let (otherwise, after) = (self.label(), self.label());
                let cond = self.one(*cond);
                self.line(format_args!("@!{cond} bra $L{otherwise};"));
                self.block(then)?;
                if !other.is_empty() {
                    self.line(format_args!("bra $L{after};"));
                }
                _ = writeln!(self.text, "$L{otherwise}:");
                if !other.is_empty() {
                    self.block(other)?;
                    _ = writeln!(self.text, "$L{after}:");
                }
            }
            Stmt::Sync(Scope::Warp) => self.line(format_args!("bar.warp.sync 0xffffffff;")),
            Stmt::Sync(Scope::Cta) => self.line(format_args!("bar.sync 0;")),
            Stmt::AwaitPrevious => {
                if self.gpu.overlaps() {
                    self.line(format_args!("griddepcontrol.launch_dependents;"));
                    self.line(format_args!("griddepcontrol.wait;"));
                }
                self.tell_progress();
            }
            Stmt::MbarrierInit(buf, index) => {
                let at = self.address(*buf, *index)?;
                self.line(format_args!("mbarrier.init.shared.b64 {at}, 1;"));
            }
            Stmt::FenceAsync => self.line(format_args!("fence.proxy.async.shared::cta;")),
            Stmt::BulkCopy(c) => {
                let (to, from) = (self.address(c.to.0, c.to.1)?, self.address(c.from.0, c.from.1)?);
                let mbarrier = self.address(c.mbarrier.0, c.mbarrier.1)?;
                let bytes = c.bytes;
                self.line(format_args!("mbarrier.arrive.expect_tx.shared.b64 _, {mbarrier}, {bytes};"));
                self.line(format_args!(
                    "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes {to}, {from}, {bytes}, {mbarrier};"
                ));
            }
            Stmt::MbarrierWait { buf, index, parity } => {
                let (at, parity, again) = (self.address(*buf, *index)?, self.one(*parity), self.label());
                let parity = self.in_register(parity);
                let done = self.reg(Class::Pred);
                _ = writeln!(self.text, "$L{again}:");
                self.line(format_args!("mbarrier.try_wait.parity.shared.b64 {done}, {at}, {parity};"));
                self.line(format_args!("@!{done} bra $L{again};"));
            }
            Stmt::Parallel { .. } | Stmt::Barrier | Stmt::Call { .. } => return Err(self.cpu_only("this statement")),
        }
        Ok(())
    }

    /// Computes, before a loop, where bulk copies in it write to if that is known by then: the assembler would not.
    fn copies_of_loop(&mut self, body: &[Stmt]) -> Result<()> {
        for stmt in body {
            match stmt {
                Stmt::If { then, other, .. } => {
                    [then, other].into_iter().try_for_each(|code| self.copies_of_loop(code))?
                }
                Stmt::BulkCopy(BulkCopy { to: (buf, index), .. }) if self.values.contains_key(index) => {
                    self.address(*buf, *index)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn cpu_only(&self, what: &str) -> Error {
        Error::unsupported(format!("{what} in kernel {} on a GPU", self.kernel.name), "it is of CPU kernels")
    }

    fn copy(&mut self, to: Operand, from: Operand) {
        if let Operand::Reg(class, _) = to {
            let name = format!("mov.{}", move_type(class));
            self.op_to(to, &name, &[from]);
        }
    }

    fn space(&self, buf: Buf) -> &'static str {
        match self.kernel.buffers[buf.0 as usize].space {
            Space::Scratch(_) => "shared",
            Space::Param(_) | Space::Constant(_) => "global",
        }
    }

    /// The address of an element, as an operand of a memory instruction: constants that are added to an index go into the
    /// instruction, as far as its offset, a signed 32-bit number, holds them.
    fn address(&mut self, buf: Buf, index: Value) -> Result<String> {
        let decl = &self.kernel.buffers[buf.0 as usize];
        let size = i64::from(decl.mem.bytes());
        let base = self.bases[buf.0 as usize];
        let mut offset = match decl.space {
            Space::Scratch(at) => i64::from(at),
            Space::Param(_) | Space::Constant(_) => 0,
        };
        let mut index = index;
        let index = loop {
            let plus = |c: i32| Some(offset + i64::from(c) * size).filter(|&sum| c >= 0 && sum <= i64::from(i32::MAX));
            match self.kernel.inst(index) {
                Inst::Int(i) => {
                    offset += i64::from(*i as u32) * size;
                    break None;
                }
                Inst::Binary(Binary::IAdd, x, y) => {
                    let constant = |v: Value| match self.kernel.inst(v) {
                        Inst::Int(c) => plus(*c),
                        _ => None,
                    };
                    match (constant(*x), constant(*y)) {
                        (_, Some(sum)) => (index, offset) = (*x, sum),
                        (Some(sum), None) => (index, offset) = (*y, sum),
                        (None, None) => break Some(index),
                    }
                }
                _ => break Some(index),
            }
        };
        let Some(index) = index else {
            let offset = i32::try_from(offset).map_err(|_| {
                let what = format!("byte {offset} of buffer {} of kernel {}", decl.name, self.kernel.name);
                Error::unsupported(what, "constant offsets have 31 bits on a GPU")
            })?;
            return Ok(format!("[{base}+{offset}]"));
        };
        let known = self.addresses.iter().rev().find_map(|open| open.get(&(buf, index)));
        let at = match known {
            Some(&at) => at,
            None => {
                let (i, size) = (self.one(index), Operand::Int(size as i32));
                let at = match decl.space {
                    Space::Scratch(_) => self.op(Class::Word, "mad.lo.u32", &[i, size, base]),
                    Space::Param(_) => self.op(Class::Wide, "mad.wide.u32", &[i, size, base]),
                    Space::Constant(_) => {
                        // Aligned to its size, so that the high half of all its addresses is the same.
                        let (low, high) = (self.reg(Class::Word), self.reg(Class::Word));
                        self.line(format_args!("mov.b64 {{{low}, {high}}}, {base};"));
                        let low = self.op(Class::Word, "mad.lo.u32", &[i, size, low]);
                        let at = self.reg(Class::Wide);
                        self.line(format_args!("mov.b64 {at}, {{{low}, {high}}};"));
                        at
                    }
                };
                if let Some(open) = self.addresses.last_mut() {
                    open.insert((buf, index), at);
                }
                at
            }
        };
        Ok(format!("[{at}+{offset}]"))
    }

    fn load(&mut self, buf: Buf, index: Value, mem: Mem, vector: bool) -> Result<Operands> {
        let at = self.address(buf, index)?;
        let class = class(mem.ty());
        let ty = memory_type(mem);
        // Weights are read once: what is loaded whole need not stay in the first cache.
        let decl = &self.kernel.buffers[buf.0 as usize];
        let space = match (self.space(buf), decl.access, &decl.space) {
            ("global", Access::Constant, Space::Param(_)) if vector => "global.nc.L1::no_allocate.L2::256B",
            ("global", Access::Constant, _) => "global.nc",
            (space, ..) => space,
        };
        if vector {
            let all = std::array::from_fn(|_| self.reg(class));
            let [a, b, c, d] = all;
            self.line(format_args!("ld.{space}.v4.{ty} {{{a}, {b}, {c}, {d}}}, {at};"));
            return Ok(Operands::Four(all));
        }
        let to = self.reg(class);
        self.line(format_args!("ld.{space}.{ty} {to}, {at};"));
        Ok(Operands::One(to))
    }

    /// The same for each lane of the operands.
    fn lanes<const N: usize>(
        &mut self,
        operands: [Value; N],
        mut f: impl FnMut(&mut Self, [Operand; N]) -> Result<Operand>,
    ) -> Result<Operands> {
        let vector = operands.iter().any(|v| matches!(self.values[v], Operands::Four(_)));
        if !vector {
            let operands = operands.map(|v| self.one(v));
            return Ok(Operands::One(f(self, operands)?));
        }
        let all = operands.map(|v| self.four(v));
        let mut out = [Operand::Int(0); 4];
        for (lane, out) in out.iter_mut().enumerate() {
            *out = f(self, all.map(|four| four[lane]))?;
        }
        Ok(Operands::Four(out))
    }

    fn inst(&mut self, v: Value) -> Result<Operands> {
        let kernel = self.kernel;
        Ok(match *kernel.inst(v) {
            Inst::Int(i) => Operands::One(Operand::Int(i)),
            Inst::Float(bits) => Operands::One(Operand::Float(bits)),
            Inst::Special(special) => Operands::One(self.special(special)),
            Inst::Get(var) => match self.vars[var.0 as usize] {
                Operands::One(from) => Operands::One(self.copied(from)),
                Operands::Four(from) => Operands::Four(from.map(|from| self.copied(from))),
            },
            Inst::Index => return Err(Error::verify("kernel", "a loop index outside of its loop")),
            Inst::Unary(op, a) => self.lanes([a], |e, [a]| Ok(e.unary(op, a)))?,
            Inst::Binary(op, a, b) => self.lanes([a, b], |e, [a, b]| Ok(e.binary(op, a, b)))?,
            Inst::Compare(op, a, b) => {
                let name = match op {
                    Compare::ULt => "setp.lt.u32",
                    Compare::IEq => "setp.eq.s32",
                    Compare::FLt => "setp.lt.f32",
                    Compare::FEq => "setp.eq.f32",
                };
                self.lanes([a, b], |e, [a, b]| {
                    let a = e.in_register(a);
                    Ok(e.op(Class::Pred, name, &[a, b]))
                })?
            }
            Inst::Select(c, a, b) => {
                let class = class(kernel.ty(a));
                if class == Class::Pred {
                    return Err(self.cpu_only("a selection of predicates"));
                }
                let name = if class == Class::Float { "selp.f32" } else { "selp.b32" };
                self.lanes([c, a, b], |e, [c, a, b]| Ok(e.op(class, name, &[a, b, c])))?
            }
            Inst::Fma(a, b, c) => {
                self.lanes([a, b, c], |e, operands| Ok(e.op(Class::Float, "fma.rn.f32", &operands)))?
            }
            Inst::Dot4(a, b, c) => {
                self.lanes([a, b, c], |e, operands| Ok(e.op(Class::Word, "dp4a.s32.s32", &operands)))?
            }
            Inst::Dot4Unsigned(a, b, c) => {
                self.lanes([a, b, c], |e, operands| Ok(e.op(Class::Word, "dp4a.u32.s32", &operands)))?
            }
            Inst::Byte(a, n, signed) => {
                // Byte 4 is one of the zero; a selector of 8 more gives copies of the byte's sign.
                let (a, n) = (self.one(a), i32::from(n));
                let fill = if signed { 8 + n } else { 4 };
                let selector = Operand::Int(n + fill * 0x1110);
                Operands::One(self.op(Class::Word, "prmt.b32", &[a, Operand::Int(0), selector]))
            }
            Inst::Splat(a) => Operands::Four([self.one(a); 4]),
            Inst::Pack(lanes) => Operands::Four(lanes.map(|v| self.one(v))),
            Inst::Lane(a, n) => Operands::One(self.four(a)[usize::from(n)]),
            Inst::Sum(a) => {
                let (class, name) =
                    if kernel.ty(v) == Ty::F32 { (Class::Float, "add.rn.f32") } else { (Class::Word, "add.s32") };
                Operands::One(self.reduce(a, class, name))
            }
            Inst::Max(a) => Operands::One(self.reduce(a, Class::Float, "max.NaN.f32")),
            Inst::Lut16(a, table) => self.lut16(a, &table)?,
            Inst::LutNibbles(a, half, table) => {
                let a = self.one(a);
                Operands::One(self.look_up(a, half, &table))
            }
            Inst::Narrow(_) => return Err(self.cpu_only("a narrowing of vectors")),
            Inst::Load { buf, index, mem, vector } => self.load(buf, index, mem, vector)?,
            Inst::Elected => {
                let to = self.reg(Class::Pred);
                self.line(format_args!("elect.sync _|{to}, 0xffffffff;"));
                Operands::One(to)
            }
            Inst::ShuffleXor(a, mask) => Operands::One(self.shuffle("bfly", a, Operand::Int(mask as i32))),
            Inst::WarpOr(a) => {
                let a = self.one(a);
                let (to, a) = (self.reg(Class::Word), self.in_register(a));
                self.line(format_args!("redux.sync.or.b32 {to}, {a}, 0xffffffff;"));
                Operands::One(to)
            }
            Inst::Shuffle(a, lane) => {
                let lane = self.one(lane);
                Operands::One(self.shuffle("idx", a, lane))
            }
            Inst::Mma(kind, a, b, c) => Operands::Four(self.mma(kind, a, b, c)),
            Inst::AtomicAdd { buf, index, value } => {
                let at = self.address(buf, index)?;
                let (to, v) = (self.reg(Class::Word), self.one(value));
                self.line(format_args!("atom.acq_rel.gpu.global.add.u32 {to}, {at}, {v};"));
                Operands::One(to)
            }
        })
    }

    fn copied(&mut self, from: Operand) -> Operand {
        let Operand::Reg(class, _) = from else { return from };
        let to = self.reg(class);
        self.copy(to, from);
        to
    }

    fn special(&mut self, special: Special) -> Operand {
        let to = self.reg(Class::Word);
        let control = self.control;
        match special {
            Special::Position => self.line(format_args!("ld.global.u32 {to}, [{control}];")),
            Special::Tokens => self.line(format_args!("ld.global.u32 {to}, [{control}+4];")),
            Special::Cta => self.line(format_args!("mov.u32 {to}, %ctaid.x;")),
            Special::Thread => self.line(format_args!("mov.u32 {to}, %tid.x;")),
        }
        to
    }

    fn shuffle(&mut self, kind: &str, a: Value, lane: Operand) -> Operand {
        let a = self.one(a);
        let a = self.in_register(a);
        let Operand::Reg(class, _) = a else { return a };
        let to = self.reg(class);
        self.line(format_args!("shfl.sync.{kind}.b32 {to}, {a}, {lane}, 31, 0xffffffff;"));
        to
    }

    fn mma(&mut self, kind: Mma, a: Value, b: [Value; 2], c: Value) -> [Operand; 4] {
        let ty = match kind {
            Mma::S8 => "s8",
            Mma::U8 => "u8",
        };
        let list = |e: &mut Self, operands: &[Operand]| {
            let names: Vec<String> = operands.iter().map(|&o| e.in_register(o).to_string()).collect();
            format!("{{{}}}", names.join(", "))
        };
        let (left, old) = (self.four(a), self.four(c));
        let right = b.map(|v| self.one(v));
        let (left, right, old) = (list(self, &left), list(self, &right), list(self, &old));
        let to = [(); 4].map(|()| self.reg(Class::Word));
        let results = list(self, &to);
        self.line(format_args!("mma.sync.aligned.m16n8k32.row.col.s32.{ty}.s8.s32 {results}, {left}, {right}, {old};"));
        to
    }

    /// (0 op 1) op (2 op 3) over the lanes.
    fn reduce(&mut self, a: Value, class: Class, name: &str) -> Operand {
        let [w, x, y, z] = self.four(a);
        let (low, high) = (self.op(class, name, &[w, x]), self.op(class, name, &[y, z]));
        self.op(class, name, &[low, high])
    }

    fn unary(&mut self, op: Unary, a: Operand) -> Operand {
        let a = self.in_register(a);
        match op {
            Unary::Abs => self.op(Class::Float, "abs.f32", &[a]),
            Unary::Sqrt => self.op(Class::Float, "sqrt.approx.f32", &[a]),
            Unary::Exp => {
                let scaled =
                    self.op(Class::Float, "mul.rn.f32", &[a, Operand::Float(std::f32::consts::LOG2_E.to_bits())]);
                self.op(Class::Float, "ex2.approx.ftz.f32", &[scaled])
            }
            Unary::Round => self.op(Class::Word, "cvt.rni.s32.f32", &[a]),
            Unary::ToFloat => self.op(Class::Float, "cvt.rn.f32.s32", &[a]),
            Unary::FromHalf => {
                let half = self.op(Class::Half, "cvt.u16.u32", &[a]);
                self.op(Class::Float, "cvt.f32.f16", &[half])
            }
            Unary::ToHalf => {
                let half = self.op(Class::Half, "cvt.rn.f16.f32", &[a]);
                self.op(Class::Word, "cvt.u32.u16", &[half])
            }
            Unary::FromBf16 => {
                let bits = self.op(Class::Word, "shl.b32", &[a, Operand::Int(16)]);
                self.op(Class::Float, "mov.b32", &[bits])
            }
            Unary::Sin => self.op(Class::Float, "sin.approx.f32", &[a]),
            Unary::Cos => self.op(Class::Float, "cos.approx.f32", &[a]),
            Unary::Log => {
                let log2 = self.op(Class::Float, "lg2.approx.f32", &[a]);
                self.op(Class::Float, "mul.rn.f32", &[log2, Operand::Float(std::f32::consts::LN_2.to_bits())])
            }
            Unary::AsFloat => self.op(Class::Float, "mov.b32", &[a]),
            Unary::CountOnes => self.op(Class::Word, "popc.b32", &[a]),
            Unary::FillBytes => self.op(Class::Word, "prmt.b32", &[a, a, Operand::Int(0xba98)]),
        }
    }

    fn binary(&mut self, op: Binary, a: Operand, b: Operand) -> Operand {
        let (class, name) = match op {
            Binary::UDiv => return self.divide(a, b),
            Binary::URem => return self.remainder(a, b),
            Binary::SubBytes => return self.sub_bytes(a, b),
            Binary::FDiv => return self.float_divide(a, b),
            Binary::IAdd => (Class::Word, "add.s32"),
            Binary::ISub => (Class::Word, "sub.s32"),
            Binary::IMul => (Class::Word, "mul.lo.s32"),
            Binary::UMin => (Class::Word, "min.u32"),
            Binary::And => (Class::Word, "and.b32"),
            Binary::Or => (Class::Word, "or.b32"),
            Binary::Xor => (Class::Word, "xor.b32"),
            Binary::Shl => (Class::Word, "shl.b32"),
            Binary::ShrU => (Class::Word, "shr.u32"),
            Binary::ShrS => (Class::Word, "shr.s32"),
            Binary::FAdd => (Class::Float, "add.rn.f32"),
            Binary::FSub => (Class::Float, "sub.rn.f32"),
            Binary::FMul => (Class::Float, "mul.rn.f32"),
            Binary::FMax => (Class::Float, "max.NaN.f32"),
        };
        self.op(class, name, &[a, b])
    }

    /// a / b, correctly rounded where all numbers are normal (Markstein 1990): the assembler's own rounded division is a
    /// call. Where zeros, infinities or an overflow leave the correction NaN, a times the reciprocal is exact or NaN.
    fn float_divide(&mut self, a: Operand, b: Operand) -> Operand {
        let one = Operand::Float(1f32.to_bits());
        let (a, b) = (self.in_register(a), self.in_register(b));
        let fma = |e: &mut Self, x, y, z| e.op(Class::Float, "fma.rn.f32", &[x, y, z]);
        let minus = self.op(Class::Float, "neg.f32", &[b]);
        let rough = self.op(Class::Float, "rcp.approx.f32", &[b]);
        let error = fma(self, minus, rough, one);
        let inverse = fma(self, rough, error, rough);
        let quotient = self.op(Class::Float, "mul.rn.f32", &[a, inverse]);
        let rest = fma(self, minus, quotient, a);
        let corrected = fma(self, rest, inverse, quotient);
        let special = self.op(Class::Float, "mul.rn.f32", &[a, rough]);
        let is_nan = self.op(Class::Pred, "setp.nan.f32", &[corrected, corrected]);
        self.op(Class::Float, "selp.f32", &[special, corrected, is_nan])
    }

    fn divide(&mut self, a: Operand, by: Operand) -> Operand {
        let Operand::Int(d) = by else { return self.op(Class::Word, "div.u32", &[a, by]) };
        let d = d as u32;
        if d.is_power_of_two() {
            return self.op(Class::Word, "shr.u32", &[a, Operand::Int(d.trailing_zeros() as i32)]);
        }
        let m = magic(d);
        let high = self.op(Class::Word, "mul.hi.u32", &[a, Operand::Int(m.multiplier as i32)]);
        if !m.add {
            return self.op(Class::Word, "shr.u32", &[high, Operand::Int(m.shift as i32)]);
        }
        let rest = self.op(Class::Word, "sub.s32", &[a, high]);
        let half = self.op(Class::Word, "shr.u32", &[rest, Operand::Int(1)]);
        let sum = self.op(Class::Word, "add.s32", &[half, high]);
        self.op(Class::Word, "shr.u32", &[sum, Operand::Int(m.shift as i32 - 1)])
    }

    fn remainder(&mut self, a: Operand, by: Operand) -> Operand {
        let Operand::Int(d) = by else { return self.op(Class::Word, "rem.u32", &[a, by]) };
        if (d as u32).is_power_of_two() {
            return self.op(Class::Word, "and.b32", &[a, Operand::Int(d.wrapping_sub(1))]);
        }
        let quotient = self.divide(a, by);
        self.op(Class::Word, "mad.lo.s32", &[quotient, Operand::Int(d.wrapping_neg()), a])
    }

    /// Bytes are subtracted below their top bits, which are then what they would be without a borrow.
    fn sub_bytes(&mut self, a: Operand, b: Operand) -> Operand {
        let constant = |x: u32| Operand::Int(x as i32);
        let tops = self.op(Class::Word, "or.b32", &[a, constant(TOPS)]);
        let low = self.op(Class::Word, "and.b32", &[b, constant(!TOPS)]);
        let differ = self.op(Class::Word, "xor.b32", &[a, b]);
        let flips = self.op(Class::Word, "not.b32", &[differ]);
        let difference = self.op(Class::Word, "sub.s32", &[tops, low]);
        let flips = self.op(Class::Word, "and.b32", &[flips, constant(TOPS)]);
        self.op(Class::Word, "xor.b32", &[difference, flips])
    }
}

/// Suffix of a memory access.
fn memory_type(mem: Mem) -> &'static str {
    match mem {
        Mem::U8 => "u8",
        Mem::I8 => "s8",
        Mem::U16 => "u16",
        Mem::I16 => "s16",
        Mem::I32 => "b32",
        Mem::F32 => "f32",
    }
}
