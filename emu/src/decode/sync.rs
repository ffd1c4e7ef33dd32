//! Barriers and exchanges between lanes.

use super::body::Body;
use super::memory::rmw;
use super::mods::Mods;
use crate::ast::{Arg, Instr};
use crate::counters::Class;
use crate::parse::ParseError;
use crate::program::{Barrier, Collective, Exchange, NOBODY, Op, PredRef, Reduce, Reduction, Rmw, SINK};
use crate::types::Ty;

type Result<T> = std::result::Result<T, ParseError>;

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
        self.exchange(kind, members, (d, p), s, predicate)
    }

    fn exchange(
        &mut self,
        kind: Exchange,
        members: u32,
        (d, p): (u32, u16),
        s: [u32; 3],
        predicate: PredRef,
    ) -> Result<bool> {
        let c = Collective { kind, members, d, p, s, predicate };
        self.emit(Op::Collective(Box::new(c)), Class::Sync);
        Ok(true)
    }

    /// The member mask, the last operand. Forms without `.sync`, of before Volta, are of the lanes that are there.
    fn members(&mut self, operands: &[Arg], sync: bool, m: &Mods) -> Result<u32> {
        match (operands, sync) {
            ([members], true) => self.src(members, Ty::B(32)),
            ([], false) => {
                let d = self.temporary();
                self.emit(Op::ActiveMask { d }, Class::Sync);
                Ok(d)
            }
            _ => Err(m.unknown()),
        }
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
        let sync = m.take("sync");
        let kind = match m.one_of(&["up", "down", "bfly", "idx"]) {
            Some("up") => Exchange::ShuffleUp,
            Some("down") => Exchange::ShuffleDown,
            Some("bfly") => Exchange::ShuffleXor,
            Some(_) => Exchange::ShuffleIndex,
            None => return Err(m.unknown()),
        };
        let ([d, x, y, z, members @ ..], Ty::B(32)) = (a, m.ty()?) else { return Err(m.unknown()) };
        let (d, p) = match d {
            Arg::Pair(d, p) => (self.dst(d, b32)?, self.pred_dst(p)?),
            d => (self.dst(d, b32)?, NOBODY),
        };
        let s = [self.src(x, b32)?, self.src(y, b32)?, self.src(z, b32)?];
        let members = self.members(members, sync, m)?;
        self.exchange(kind, members, (d, p), s, PredRef::TRUE)
    }

    fn vote(&mut self, a: &[Arg], m: &mut Mods) -> Result<bool> {
        let sync = m.take("sync");
        let [d, s, members @ ..] = a else { return Err(m.unknown()) };
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
        let members = self.members(members, sync, m)?;
        self.exchange(kind, members, target, [SINK; 3], predicate)
    }
}
