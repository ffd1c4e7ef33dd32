//! The rules of kernel IR.

use super::{
    Access, Arg, Binary, Buf, BufDecl, Compare, Inst, Kernel, MOST_ELEMENTS, Mem, Space, Special, Stmt, Ty, Unary,
    Value, Var,
};
use crate::abi::{Atom, Meaning};
use crate::{Error, Result, Verified};

impl Kernel {
    /// Checks that every value is defined before it is used in its scope, that types agree, that buffers exist and are
    /// writable where written, that calls match their signatures, that scratch buffers do not overlap, that constants
    /// are declared as what they are, and that only what its kind of machine has is used. Where an access is certain,
    /// constant indices, and constants that are added to an index, stay inside of the buffer, and no loop index wraps. A kernel for a GPU waits for the
    /// launch before exactly once on every path, and uses what that may still write after it only. Parallel loops stand in
    /// no loop, and barriers in no parallel loop.
    ///
    /// # Errors
    /// [`Error::Verify`] naming the rule and the value.
    pub fn verify(self) -> Result<Verified<Kernel>> {
        let mut v = Verifier {
            kernel: &self,
            defined: vec![false; self.values.len()],
            tickets: 0,
            awaited: false,
            inside: Inside::Nothing,
            certain: true,
        };
        v.buffers()?;
        v.block(&self.body)?;
        v.ensure(self.grid.is_none() || v.awaited, || "it does not wait for the launch before".into())?;
        if v.tickets != self.tickets {
            return v.bad(format!("it has {} parallel loops for {} tickets", v.tickets, self.tickets));
        }
        Ok(Verified::assert(self))
    }
}

/// The loops around a statement.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Inside {
    Nothing,
    /// Loops that every worker runs.
    Loop,
    /// A parallel loop.
    Parallel,
}

struct Verifier<'a> {
    kernel: &'a Kernel,
    defined: Vec<bool>,
    tickets: u32,
    /// Whether the launch before has been waited for, on every path to here.
    awaited: bool,
    inside: Inside,
    /// Whether what comes now is executed whenever the kernel is.
    certain: bool,
}

impl Verifier<'_> {
    fn bad<T>(&self, what: impl std::fmt::Display) -> Result<T> {
        Err(Error::verify("kernel", format!("{}: {what}", self.kernel.name)))
    }

    fn ensure(&self, ok: bool, what: impl FnOnce() -> String) -> Result<()> {
        if ok { Ok(()) } else { self.bad(what()) }
    }

    fn on_gpu(&self, gpu: bool, what: &str) -> Result<()> {
        self.ensure(self.kernel.grid.is_some() == gpu, || format!("{what} is not of its kind of machine"))
    }

    fn buffers(&self) -> Result<()> {
        let (mut params, mut scratch) = (0, 0);
        for b in &self.kernel.buffers {
            match &b.space {
                &Space::Param(n) => {
                    self.ensure(n == params, || format!("buffer {} is out of order", b.name))?;
                    params += 1;
                }
                Space::Scratch(offset) => {
                    let offset = u64::from(*offset);
                    let end = offset.checked_add(b.bytes).filter(|&end| end <= self.kernel.scratch_bytes);
                    let end = end.filter(|_| offset >= scratch && offset % 64 == 0);
                    self.ensure(end.is_some(), || {
                        format!("scratch buffer {} overlaps or exceeds the scratch memory", b.name)
                    })?;
                    scratch = end.unwrap_or(scratch);
                }
                Space::Constant(words) => {
                    let ok = b.access == Access::Constant
                        && matches!(b.mem, Mem::I32 | Mem::F32)
                        && b.bytes == size_of_val::<[u32]>(words) as u64;
                    self.ensure(ok, || format!("constant {} is not what its words are", b.name))?;
                }
            }
            self.ensure(b.bytes.div_ceil(u64::from(b.mem.bytes())) <= MOST_ELEMENTS, || {
                format!("buffer {} has more elements than a 32-bit index reaches", b.name)
            })?;
        }
        Ok(())
    }

    fn ty(&self, v: Value) -> Result<Ty> {
        match self.defined.get(v.0 as usize) {
            Some(true) => Ok(self.kernel.ty(v)),
            _ => self.bad(format!("%{} is used where it is not defined", v.0)),
        }
    }

    fn want(&self, v: Value, ty: Ty) -> Result<()> {
        let have = self.ty(v)?;
        self.ensure(have == ty, || format!("%{} is {have:?}, expected {ty:?}", v.0))
    }

    fn buf(&self, b: Buf) -> Result<&BufDecl> {
        match self.kernel.buffers.get(b.0 as usize) {
            Some(decl) => Ok(decl),
            None => self.bad(format!("buffer {} does not exist", b.0)),
        }
    }

    fn var(&self, v: Var) -> Result<Ty> {
        match self.kernel.vars.get(v.0 as usize) {
            Some(ty) => Ok(*ty),
            None => self.bad(format!("variable {} does not exist", v.0)),
        }
    }

    /// Whether the launch before may still run.
    fn early(&self) -> bool {
        self.kernel.grid.is_some() && !self.awaited
    }

    fn access(&self, b: Buf, index: Value, mem: Mem, vector: bool) -> Result<()> {
        self.want(index, Ty::I32)?;
        let decl = self.buf(b)?;
        let changes = matches!(decl.space, Space::Param(_)) && decl.access != Access::Constant;
        let early = self.early() && changes;
        self.ensure(!early, || format!("buffer {} is used before the launch before ends", decl.name))?;
        self.ensure(decl.mem == mem || decl.mem == Mem::U8, || format!("buffer {} is not of {mem:?}", decl.name))?;
        self.ensure(!vector || mem.bytes() == 4, || "vector accesses are of four-byte elements".into())?;
        self.within(decl, index, u64::from(mem.bytes()) * if vector { 4 } else { 1 })
    }

    /// An access of so many bytes at an index, as far as constants show where that is: as additions do not wrap, an index
    /// is at least each constant that is added to it. What a condition guards may never be executed.
    fn within(&self, decl: &BufDecl, index: Value, bytes: u64) -> Result<()> {
        let Some(least) = self.least(index).filter(|_| self.certain) else { return Ok(()) };
        let end = least * u64::from(decl.mem.bytes()) + bytes;
        self.ensure(end <= decl.bytes, || {
            format!("%{} is {least} or more, outside of the {} bytes of buffer {}", index.0, decl.bytes, decl.name)
        })
    }

    /// A lower bound of an index; `None` if nothing is known.
    fn least(&self, index: Value) -> Option<u64> {
        match self.kernel.inst(index) {
            Inst::Int(i) => Some(u64::from(*i as u32)),
            Inst::Binary(Binary::IAdd, a, b) => {
                let negative = |v: Value| matches!(self.kernel.inst(v), Inst::Int(i) if *i < 0);
                let parts = [self.least(*a), self.least(*b)];
                let known = parts.iter().any(Option::is_some) && !negative(*a) && !negative(*b);
                known.then(|| parts.into_iter().flatten().sum())
            }
            _ => None,
        }
    }

    /// Checks a block; what it defines goes out of scope at its end.
    fn block(&mut self, code: &[Stmt]) -> Result<()> {
        let mut scope = Vec::new();
        for stmt in code {
            self.stmt(stmt, &mut scope)?;
        }
        for v in scope {
            self.define(v, false)?;
        }
        Ok(())
    }

    fn define(&mut self, v: Value, defined: bool) -> Result<()> {
        match self.defined.get_mut(v.0 as usize) {
            Some(d) if *d != defined => {
                *d = defined;
                Ok(())
            }
            _ => self.bad(format!("%{} is defined twice or does not exist", v.0)),
        }
    }

    /// The body of a loop, which may run any number of times; `runs` says whether once at least.
    fn indexed(&mut self, index: Value, body: &[Stmt], inside: Inside, runs: bool) -> Result<()> {
        self.define(index, true)?;
        let is_index = self.kernel.values[index.0 as usize] == (Inst::Index, Ty::I32);
        self.ensure(is_index, || format!("%{} is no loop index", index.0))?;
        let (around, awaited, certain) = (self.inside, self.awaited, self.certain);
        self.inside = if around < inside { inside } else { around };
        self.certain &= runs;
        self.block(body)?;
        (self.inside, self.certain) = (around, certain);
        self.ensure(self.awaited == awaited, || "a loop waits for the launch before".into())?;
        self.define(index, false)
    }

    fn stmt(&mut self, stmt: &Stmt, scope: &mut Vec<Value>) -> Result<()> {
        match stmt {
            Stmt::Let(v) => {
                let Some((inst, ty)) = self.kernel.values.get(v.0 as usize) else {
                    return self.bad(format!("%{} does not exist", v.0));
                };
                let have = self.inst(inst)?;
                self.ensure(have == *ty, || format!("%{} is declared {ty:?} but gives {have:?}", v.0))?;
                self.define(*v, true)?;
                scope.push(*v);
            }
            Stmt::Set(var, v) => self.want(*v, self.var(*var)?)?,
            Stmt::Store { buf, index, mem, value } => {
                let ty = self.ty(*value)?;
                self.access(*buf, *index, *mem, ty.is_vector())?;
                self.ensure(ty.scalar() == mem.ty(), || format!("%{} is stored as {mem:?}", value.0))?;
                let decl = self.buf(*buf)?;
                self.ensure(decl.access == Access::Write, || format!("buffer {} is read-only", decl.name))?;
            }
            Stmt::For { index, from, to, step, body } => {
                self.want(*from, Ty::I32)?;
                self.want(*to, Ty::I32)?;
                self.ensure(*step > 0, || "a loop has step 0".into())?;
                if let Inst::Int(end) = self.kernel.inst(*to) {
                    let (end, last) = (*end as u32, u32::MAX - (step - 1));
                    self.ensure(end <= last, || format!("%{} wraps: a loop to {end} in steps of {step}", index.0))?;
                }
                let runs = matches!(
                    (self.kernel.inst(*from), self.kernel.inst(*to)),
                    (Inst::Int(from), Inst::Int(to)) if (*from as u32) < *to as u32
                );
                self.indexed(*index, body, Inside::Loop, runs)?;
            }
            Stmt::If { cond, then, other } => {
                self.want(*cond, Ty::Bool)?;
                let (before, certain) = (self.awaited, std::mem::replace(&mut self.certain, false));
                self.block(then)?;
                let awaited = std::mem::replace(&mut self.awaited, before);
                self.block(other)?;
                self.certain = certain;
                self.ensure(self.awaited == awaited, || {
                    "one side of a branch waits for the launch before, the other does not".into()
                })?;
            }
            Stmt::Parallel { ticket, index, count, body } => {
                self.on_gpu(false, "a parallel loop")?;
                self.ensure(self.inside == Inside::Nothing, || "a parallel loop is in a loop".into())?;
                self.want(*count, Ty::I32)?;
                self.ensure(*ticket == self.tickets, || format!("ticket {ticket} is out of order"))?;
                self.tickets += 1;
                self.indexed(*index, body, Inside::Parallel, false)?;
            }
            Stmt::Barrier => {
                self.on_gpu(false, "a barrier of workers")?;
                self.ensure(self.inside < Inside::Parallel, || "a barrier is in a parallel loop".into())?;
            }
            Stmt::Call { atom, args } => {
                self.on_gpu(false, "a call")?;
                self.call(*atom, args)?;
            }
            Stmt::Sync(_) => self.on_gpu(true, "a wait of threads")?,
            Stmt::AwaitPrevious => {
                self.on_gpu(true, "a wait for a launch")?;
                self.ensure(!self.awaited, || "it waits for the launch before twice".into())?;
                self.awaited = true;
            }
            Stmt::MbarrierInit(buf, index) => self.shared(*buf, *index)?,
            Stmt::FenceAsync => self.on_gpu(true, "a fence")?,
            Stmt::BulkCopy(copy) => {
                let (from, index) = copy.from;
                self.access(from, index, Mem::U8, false)?;
                let decl = self.buf(from)?;
                let ok = decl.access == Access::Constant && matches!(decl.space, Space::Param(_));
                self.ensure(ok, || format!("a bulk copy from {}", decl.name))?;
                self.ensure(copy.bytes > 0 && copy.bytes % 16 == 0, || format!("a bulk copy of {} bytes", copy.bytes))?;
                self.within(decl, index, copy.bytes.into())?;
                self.within(self.buf(copy.to.0)?, copy.to.1, copy.bytes.into())?;
                self.shared(copy.to.0, copy.to.1)?;
                self.shared(copy.mbarrier.0, copy.mbarrier.1)?;
            }
            Stmt::MbarrierWait { buf, index, parity } => {
                self.shared(*buf, *index)?;
                self.want(*parity, Ty::I32)?;
            }
        }
        Ok(())
    }

    fn call(&self, atom: Atom, args: &[Arg]) -> Result<()> {
        // r: address that is read, w: that is written, n: that is read, or null, i: integer, f: float.
        let pattern = match atom.meaning() {
            Meaning::Dot(_) => "rrwiiiii",
            Meaning::Scores { .. } | Meaning::Accumulate { .. } => "rrwiii",
            Meaning::Softmax => "wwwwiiif",
            Meaning::SiluTimes => "rwii",
            Meaning::Quantize => "rwifn",
            Meaning::RopeAngles => "wiiifn",
            Meaning::Barrier => return self.bad("the barrier is a statement, not a call"),
        };
        self.ensure(args.len() == pattern.len(), || format!("a call has {} arguments", args.len()))?;
        for (arg, want) in args.iter().zip(pattern.chars()) {
            let ok = match *arg {
                Arg::Address(b, index) => {
                    self.want(index, Ty::I32)?;
                    let decl = self.buf(b)?;
                    self.within(decl, index, 1)?;
                    let writable = decl.access == Access::Write;
                    self.ensure(want != 'w' || writable, || format!("buffer {} is read-only", decl.name))?;
                    matches!(want, 'r' | 'w' | 'n')
                }
                Arg::Int(v) => {
                    self.want(v, Ty::I32)?;
                    want == 'i'
                }
                Arg::Float(v) => {
                    self.want(v, Ty::F32)?;
                    want == 'f'
                }
                Arg::Null => want == 'n',
            };
            self.ensure(ok, || format!("argument {arg:?} does not fit {:?}", atom.meaning()))?;
        }
        Ok(())
    }

    /// A byte of shared memory.
    fn shared(&self, buf: Buf, index: Value) -> Result<()> {
        self.on_gpu(true, "shared memory of CTAs")?;
        self.access(buf, index, Mem::U8, false)?;
        let decl = self.buf(buf)?;
        self.ensure(matches!(decl.space, Space::Scratch(_)), || format!("buffer {} is not in shared memory", decl.name))
    }

    fn shuffled(&self, v: Value) -> Result<Ty> {
        let ty = self.ty(v)?;
        self.ensure(matches!(ty, Ty::I32 | Ty::F32), || format!("a shuffle of {ty:?}"))?;
        Ok(ty)
    }

    fn constant(&self, v: Value) -> Result<u32> {
        self.want(v, Ty::I32)?;
        match self.kernel.inst(v) {
            Inst::Int(i) => Ok(*i as u32),
            _ => self.bad(format!("%{} must be a constant", v.0)),
        }
    }

    /// The type that an instruction gives.
    fn inst(&self, inst: &Inst) -> Result<Ty> {
        let like = |scalar: Ty, vector: bool| if vector { scalar.vector() } else { scalar };
        Ok(match inst {
            Inst::Int(_) => Ty::I32,
            Inst::Special(Special::Position | Special::Tokens) => {
                self.ensure(!self.early(), || "control memory is read before the launch before ends".into())?;
                Ty::I32
            }
            Inst::Special(Special::Cta | Special::Thread) => {
                self.on_gpu(true, "a thread's number")?;
                Ty::I32
            }
            Inst::Index => return self.bad("a loop index is defined by its loop"),
            Inst::Float(_) => Ty::F32,
            Inst::Get(var) => self.var(*var)?,
            Inst::Unary(op, a) => {
                let vector = self.ty(*a)?.is_vector();
                let (from, to) = match op {
                    Unary::Abs | Unary::Sqrt | Unary::Exp | Unary::Log => (Ty::F32, Ty::F32),
                    Unary::Sin | Unary::Cos => {
                        self.on_gpu(true, "a sine or cosine")?;
                        (Ty::F32, Ty::F32)
                    }
                    Unary::AsFloat => {
                        self.on_gpu(true, "a view of bits")?;
                        (Ty::I32, Ty::F32)
                    }
                    Unary::Round | Unary::ToHalf => (Ty::F32, Ty::I32),
                    Unary::CountOnes => {
                        self.ensure(!vector || self.kernel.grid.is_some(), || {
                            "a CPU counts the ones of a scalar".into()
                        })?;
                        (Ty::I32, Ty::I32)
                    }
                    Unary::FillBytes => (Ty::I32, Ty::I32),
                    Unary::ToFloat | Unary::FromHalf | Unary::FromBf16 => (Ty::I32, Ty::F32),
                };
                self.want(*a, like(from, vector))?;
                like(to, vector)
            }
            Inst::Binary(op, a, b) => {
                let ty = self.ty(*a)?;
                match op {
                    Binary::UDiv | Binary::URem => {
                        self.want(*a, Ty::I32)?;
                        let by = self.constant(*b)?;
                        self.ensure(by != 0, || "a division by zero".into())?;
                    }
                    Binary::Shl | Binary::ShrU | Binary::ShrS => {
                        self.ensure(ty.scalar() == Ty::I32, || format!("a shift of {ty:?}"))?;
                        let by = self.constant(*b)?;
                        self.ensure(by < 32, || format!("a shift by {by}"))?;
                    }
                    Binary::FAdd | Binary::FSub | Binary::FMul | Binary::FDiv | Binary::FMax => {
                        self.ensure(ty.scalar() == Ty::F32, || format!("{op:?} of {ty:?}"))?;
                        self.want(*b, ty)?;
                    }
                    _ => {
                        self.ensure(ty.scalar() == Ty::I32, || format!("{op:?} of {ty:?}"))?;
                        self.want(*b, ty)?;
                    }
                }
                ty
            }
            Inst::Compare(op, a, b) => {
                let ty = self.ty(*a)?;
                let float = matches!(op, Compare::FLt | Compare::FEq);
                self.ensure(ty.scalar() == if float { Ty::F32 } else { Ty::I32 }, || format!("{op:?} of {ty:?}"))?;
                self.want(*b, ty)?;
                like(Ty::Bool, ty.is_vector())
            }
            Inst::Select(c, a, b) => {
                let (cond, ty) = (self.ty(*c)?, self.ty(*a)?);
                let ok = cond == Ty::Bool || (cond == Ty::Bool4 && ty.is_vector());
                self.ensure(ok, || format!("a select by {cond:?} of {ty:?}"))?;
                self.want(*b, ty)?;
                ty
            }
            Inst::Fma(a, b, c) => {
                let ty = self.ty(*a)?;
                self.ensure(ty.scalar() == Ty::F32, || format!("fma of {ty:?}"))?;
                self.want(*b, ty)?;
                self.want(*c, ty)?;
                ty
            }
            Inst::Splat(a) => {
                let ty = self.ty(*a)?;
                self.ensure(!ty.is_vector() && ty != Ty::Bool, || format!("a splat of {ty:?}"))?;
                ty.vector()
            }
            Inst::Pack(lanes) => {
                let ty = self.ty(lanes[0])?;
                self.ensure(!ty.is_vector() && ty != Ty::Bool, || format!("a pack of {ty:?}"))?;
                for l in lanes {
                    self.want(*l, ty)?;
                }
                ty.vector()
            }
            Inst::Lane(a, n) => {
                let ty = self.ty(*a)?;
                self.ensure(ty.is_vector() && ty != Ty::Bool4 && *n < 4, || format!("lane {n} of {ty:?}"))?;
                ty.scalar()
            }
            Inst::Sum(a) => {
                let ty = self.ty(*a)?;
                self.ensure(matches!(ty, Ty::I32x4 | Ty::F32x4), || format!("a sum of {ty:?}"))?;
                ty.scalar()
            }
            Inst::Max(a) => {
                self.want(*a, Ty::F32x4)?;
                Ty::F32
            }
            Inst::Dot4(a, b, c) => {
                let ty = self.ty(*c)?;
                let want = if self.kernel.grid.is_some() { Ty::I32 } else { Ty::I32x4 };
                self.ensure(ty == want, || format!("dot4 of {ty:?}"))?;
                self.want(*a, ty)?;
                self.want(*b, ty)?;
                ty
            }
            Inst::Dot4Unsigned(a, b, c) => {
                self.on_gpu(true, "a dot product of unsigned bytes")?;
                for v in [a, b, c] {
                    self.want(*v, Ty::I32)?;
                }
                Ty::I32
            }
            Inst::Byte(a, n, _) => {
                self.want(*a, Ty::I32)?;
                self.ensure(*n < 4, || format!("byte {n} of a word"))?;
                Ty::I32
            }
            Inst::Narrow(parts) => {
                for p in parts {
                    self.want(*p, Ty::I32x4)?;
                }
                Ty::I32x4
            }
            Inst::Lut16(a, _) => {
                self.want(*a, Ty::I32x4)?;
                Ty::I32x4
            }
            Inst::LutNibbles(a, half, _) => {
                self.want(*a, Ty::I32)?;
                self.ensure(*half < 2, || format!("half {half} of a word"))?;
                Ty::I32
            }
            Inst::Load { buf, index, mem, vector } => {
                self.access(*buf, *index, *mem, *vector)?;
                like(mem.ty(), *vector)
            }
            Inst::Elected => {
                self.on_gpu(true, "an election")?;
                Ty::Bool
            }
            Inst::ShuffleXor(a, mask) => {
                self.on_gpu(true, "a shuffle")?;
                self.ensure(*mask < 32, || format!("a shuffle over {mask} lanes"))?;
                self.shuffled(*a)?
            }
            Inst::WarpOr(a) => {
                self.on_gpu(true, "what lanes have together")?;
                self.want(*a, Ty::I32)?;
                Ty::I32
            }
            Inst::Shuffle(a, lane) => {
                self.on_gpu(true, "a shuffle")?;
                self.want(*lane, Ty::I32)?;
                self.shuffled(*a)?
            }
            Inst::Mma(_, a, b, c) => {
                self.on_gpu(true, "a matrix product of a warp")?;
                for v in [a, c] {
                    self.want(*v, Ty::I32x4)?;
                }
                for v in b {
                    self.want(*v, Ty::I32)?;
                }
                Ty::I32x4
            }
            Inst::AtomicAdd { buf, index, value } => {
                self.on_gpu(true, "an atomic addition")?;
                self.access(*buf, *index, Mem::I32, false)?;
                let decl = self.buf(*buf)?;
                let ok = decl.access == Access::Write && matches!(decl.space, Space::Param(_));
                self.ensure(ok, || format!("an atomic addition to {}", decl.name))?;
                self.want(*value, Ty::I32)?;
                Ty::I32
            }
        })
    }
}
