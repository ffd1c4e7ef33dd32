//! Barriers, exchanges between lanes, and matrix instructions.

use super::body::Body;
use super::memory::rmw;
use super::mods::Mods;
use crate::ast::{Arg, Instr};
use crate::counters::Class;
use crate::parse::ParseError;
use crate::program::{
    Barrier, Collective, Exchange, Matrices, Mma, MmaType, NOBODY, Op, PredRef, Reduce, Reduction, Rmw, SINK,
};
use crate::types::{Space, Ty};

type Result<T> = std::result::Result<T, ParseError>;

/// Shapes and types of `mma.sync`: depth, and how many registers the factors take.
const SHAPES: &[(&str, usize, &[MmaType], usize, usize)] = &[
    ("m16n8k8", 8, &[MmaType::F16, MmaType::Bf16], 2, 1),
    ("m16n8k16", 16, &[MmaType::F16, MmaType::Bf16], 4, 2),
    ("m16n8k16", 16, &[MmaType::U8, MmaType::S8], 2, 1),
    ("m16n8k32", 32, &[MmaType::U8, MmaType::S8], 4, 2),
];

impl Body<'_, '_> {
    /// Decodes an instruction if it is one of these.
    pub(super) fn sync(&mut self, instr: &Instr, m: &mut Mods) -> Result<bool> {
        let a = instr.args.as_slice();
        match instr.op.as_str() {
            "bar" | "barrier" => {
                if m.take("warp") {
                    let ([members], true) = (a, m.take("sync")) else { return Err(m.unknown()) };
                    return self.collective(Exchange::Sync, members, (SINK, NOBODY), [SINK; 3], PredRef::TRUE);
                }
                if m.take("cluster") {
                    let arrive = m.take("arrive");
                    if !arrive && !m.take("wait") {
                        return Err(m.unknown());
                    }
                    m.take("aligned");
                    m.take("acquire");
                    let relaxed = m.take("relaxed");
                    m.take("release");
                    self.emit(Op::ClusterBarrier { arrive, relaxed }, Class::Sync);
                    return Ok(true);
                }
                self.barrier(instr.op == "bar", a, m)
            }
            "shfl" => self.shuffle(a, m),
            "vote" => self.vote(a, m),
            "match" => {
                let (true, [d, s, members]) = (m.take("sync"), a) else { return Err(m.unknown()) };
                let all = m.take("all");
                if !all && !m.take("any") {
                    return Err(m.unknown());
                }
                let ty = m.ty()?;
                let bits = ty.bits();
                let (d, p) = match d {
                    Arg::Pair(d, p) if all => (self.dst(d, Ty::B(32))?, self.pred_dst(p)?),
                    d => (self.dst(d, Ty::B(32))?, NOBODY),
                };
                let s = self.src(s, ty)?;
                let kind = if all { Exchange::MatchAll { bits } } else { Exchange::MatchAny { bits } };
                self.collective(kind, members, (d, p), [s, SINK, SINK], PredRef::TRUE)
            }
            "redux" => {
                let (true, [d, s, members]) = (m.take("sync"), a) else { return Err(m.unknown()) };
                let op = m.find(rmw).ok_or_else(|| m.unknown())?;
                let ty = m.ty()?;
                let exists = match op {
                    Rmw::Add | Rmw::Min | Rmw::Max => matches!(ty, Ty::U(32) | Ty::S(32)),
                    Rmw::And | Rmw::Or | Rmw::Xor => ty == Ty::B(32),
                    _ => false,
                };
                if !exists {
                    return Err(m.unknown());
                }
                let (d, s) = (self.dst(d, ty)?, self.src(s, ty)?);
                let kind = Exchange::Reduce { op, signed: ty.is_signed() };
                self.collective(kind, members, (d, NOBODY), [s, SINK, SINK], PredRef::TRUE)
            }
            "elect" => {
                let (true, [d, members]) = (m.take("sync"), a) else { return Err(m.unknown()) };
                let (d, p) = match d {
                    Arg::Pair(d, p) => (self.dst(d, Ty::B(32))?, self.pred_dst(p)?),
                    _ => return Err(m.unknown()),
                };
                self.collective(Exchange::Elect, members, (d, p), [SINK; 3], PredRef::TRUE)
            }
            "activemask" => {
                let ([d], Ty::B(32)) = (a, m.ty()?) else { return Err(m.unknown()) };
                let d = self.dst(d, Ty::B(32))?;
                self.emit(Op::ActiveMask { d }, Class::Sync);
                Ok(true)
            }
            "ldmatrix" => self.matrices(a, m, false),
            "stmatrix" => self.matrices(a, m, true),
            "movmatrix" => {
                let named = ["sync", "aligned", "m8n8", "trans", "b16"].iter().all(|n| m.take(n));
                let ([d, s], true) = (a, named) else { return Err(m.unknown()) };
                let (d, s) = (self.dst(d, Ty::B(32))?, self.src(s, Ty::B(32))?);
                self.emit(Op::MoveMatrix { d, s }, Class::Mma);
                Ok(true)
            }
            "mma" => self.mma(a, m),
            _ => Ok(false),
        }
    }

    fn collective(
        &mut self,
        kind: Exchange,
        members: &Arg,
        (d, p): (u32, u16),
        s: [u32; 3],
        predicate: PredRef,
    ) -> Result<bool> {
        let members = self.src(members, Ty::B(32))?;
        let c = Collective { kind, members, d, p, s, predicate };
        self.emit(Op::Collective(Box::new(c)), Class::Sync);
        Ok(true)
    }

    fn barrier(&mut self, aligned: bool, a: &[Arg], m: &mut Mods) -> Result<bool> {
        m.take("cta");
        let kind = m.one_of(&["sync", "arrive", "red"]).ok_or_else(|| m.unknown())?;
        let aligned = m.take("aligned") || aligned;
        let b32 = Ty::U(32);
        if kind == "red" {
            let op = m.one_of(&["popc", "and", "or"]).ok_or_else(|| m.unknown())?;
            let ty = m.ty()?;
            let (d, rest) = a.split_first().ok_or_else(|| m.unknown())?;
            let (predicate, rest) = rest.split_last().ok_or_else(|| m.unknown())?;
            let (d, p, op) = match (op, ty) {
                ("popc", Ty::U(32)) => (self.dst(d, b32)?, NOBODY, Reduction::Count),
                ("and", Ty::Pred) => (SINK, self.pred_dst(d)?, Reduction::And),
                ("or", Ty::Pred) => (SINK, self.pred_dst(d)?, Reduction::Or),
                _ => return Err(m.unknown()),
            };
            let reduce = Some(Reduce { op, predicate: self.pred_src(predicate)?, d, p });
            return self.barrier_of(rest, m, aligned, false, reduce);
        }
        self.barrier_of(a, m, aligned, kind == "arrive", None)
    }

    fn barrier_of(&mut self, a: &[Arg], m: &Mods, aligned: bool, arrive: bool, reduce: Option<Reduce>) -> Result<bool> {
        let (id, count) = match a {
            [id] if !arrive => (id, None),
            [id, count] => (id, Some(count)),
            _ => return Err(m.unknown()),
        };
        let id = self.src(id, Ty::U(32))?;
        let count = count.map(|c| self.src(c, Ty::U(32))).transpose()?;
        self.emit(Op::Barrier(Box::new(Barrier { id, count, aligned, arrive, reduce })), Class::Sync);
        Ok(true)
    }

    fn shuffle(&mut self, a: &[Arg], m: &mut Mods) -> Result<bool> {
        let b32 = Ty::B(32);
        let mode = if m.take("sync") { m.one_of(&["up", "down", "bfly", "idx"]) } else { None };
        let kind = match mode {
            Some("up") => Exchange::ShuffleUp,
            Some("down") => Exchange::ShuffleDown,
            Some("bfly") => Exchange::ShuffleXor,
            Some(_) => Exchange::ShuffleIndex,
            None => return Err(m.unknown()),
        };
        let ([d, s @ .., members], 5, Ty::B(32)) = (a, a.len(), m.ty()?) else { return Err(m.unknown()) };
        let (d, p) = match d {
            Arg::Pair(d, p) => (self.dst(d, b32)?, self.pred_dst(p)?),
            d => (self.dst(d, b32)?, NOBODY),
        };
        let s = self.srcs(s, [b32; 3])?;
        self.collective(kind, members, (d, p), s, PredRef::TRUE)
    }

    fn vote(&mut self, a: &[Arg], m: &mut Mods) -> Result<bool> {
        let (true, [d, s, members]) = (m.take("sync"), a) else { return Err(m.unknown()) };
        let kind = match m.one_of(&["all", "any", "uni", "ballot"]) {
            Some("all") => Exchange::VoteAll,
            Some("any") => Exchange::VoteAny,
            Some("uni") => Exchange::VoteUniform,
            Some(_) => Exchange::Ballot,
            None => return Err(m.unknown()),
        };
        let target = match (kind, m.ty()?) {
            (Exchange::Ballot, Ty::B(32)) => (self.dst(d, Ty::B(32))?, NOBODY),
            (Exchange::VoteAll | Exchange::VoteAny | Exchange::VoteUniform, Ty::Pred) => (SINK, self.pred_dst(d)?),
            _ => return Err(m.unknown()),
        };
        let predicate = self.pred_src(s)?;
        self.collective(kind, members, target, [SINK; 3], predicate)
    }

    fn matrices(&mut self, a: &[Arg], m: &mut Mods, store: bool) -> Result<bool> {
        let named = ["sync", "aligned", "m8n8"].iter().all(|n| m.take(n));
        let count = match m.one_of(&["x1", "x2", "x4"]) {
            Some("x1") => 1,
            Some("x2") => 2,
            Some(_) if named => 4,
            _ => return Err(m.unknown()),
        };
        let transposed = m.take("trans");
        let space = m.space();
        let (Ty::B(16), [first, second]) = (m.ty()?, a) else { return Err(m.unknown()) };
        let (operand, address) = if store { (second, first) } else { (first, second) };
        let (address, space) = self.address_in(address, space)?;
        let regs = self.regs(operand, Ty::B(32), !store)?;
        if regs.len() != count || !matches!(space, Space::Shared | Space::Generic) {
            return Err(m.unknown());
        }
        let class = if store { Class::SharedStore } else { Class::SharedLoad };
        self.emit(Op::Matrices(Box::new(Matrices { store, transposed, space, address, regs })), class);
        Ok(true)
    }

    fn mma(&mut self, a: &[Arg], m: &mut Mods) -> Result<bool> {
        if !m.take("sync") || !m.take("aligned") {
            return Err(m.unknown());
        }
        let shape = m.find(|n| SHAPES.iter().find(|s| s.0 == n).map(|s| s.0)).ok_or_else(|| m.unknown())?;
        if !m.take("row") || !m.take("col") {
            return Err(m.unknown());
        }
        let saturate = m.take("satfinite");
        let (d_ty, a_ty, b_ty, c_ty) = (m.ty()?, m.ty()?, m.ty()?, m.ty()?);
        let factor = |ty| {
            Some(match ty {
                Ty::F16 => MmaType::F16,
                Ty::Bf16 => MmaType::Bf16,
                Ty::U(8) => MmaType::U8,
                Ty::S(8) => MmaType::S8,
                _ => return None,
            })
        };
        let (Some(x), Some(y)) = (factor(a_ty), factor(b_ty)) else { return Err(m.unknown()) };
        let fits = |s: &&(&str, usize, &[MmaType], usize, usize)| s.0 == shape && s.2.contains(&x) && s.2.contains(&y);
        let &(_, k, _, a_regs, b_regs) = SHAPES.iter().find(fits).ok_or_else(|| m.unknown())?;
        let integer = matches!(x, MmaType::U8 | MmaType::S8);
        let half = d_ty == Ty::F16;
        let accumulator = match (integer, d_ty, x) {
            (true, Ty::S(32), _) => Ty::B(32),
            (false, Ty::F32, _) => Ty::F32,
            (false, Ty::F16, MmaType::F16) => Ty::B(32),
            _ => return Err(m.unknown()),
        };
        let same = integer || x == y;
        let ([d, a, b, c], true, true) = (a, c_ty == d_ty && same, integer || !saturate) else {
            return Err(m.unknown());
        };
        let regs = [
            self.regs(d, accumulator, true)?,
            self.regs(a, Ty::B(32), false)?,
            self.regs(b, Ty::B(32), false)?,
            self.regs(c, accumulator, false)?,
        ];
        let sums = if half { 2 } else { 4 };
        if [regs[0].len(), regs[1].len(), regs[2].len(), regs[3].len()] != [sums, a_regs, b_regs, sums] {
            return Err(m.error("a fragment has the wrong number of registers"));
        }
        self.emit(Op::Mma(Box::new(Mma { k, a: x, b: y, half, saturate, regs })), Class::Mma);
        Ok(true)
    }
}
