//! Asynchronous copies and the mbarriers that they signal.

use super::body::Body;
use super::memory::{exists, rmw};
use super::mods::Mods;
use crate::ast::{Arg, Instr};
use crate::counters::Class;
use crate::parse::ParseError;
use crate::program::{AsyncStore, Atomic, Bulk, BulkKind, CpAsync, Mbarrier, MbarrierOp, NOBODY, Op, Rmw, SINK};
use crate::types::{Order, Scope, Space, Ty};

type Result<T> = std::result::Result<T, ParseError>;

impl Body<'_, '_> {
    /// Decodes an instruction if it is one of these.
    pub(super) fn async_copy(&mut self, instr: &Instr, m: &mut Mods) -> Result<bool> {
        let a = instr.args.as_slice();
        match instr.op.as_str() {
            "cp" if m.take("async") => {
                if m.take("bulk") {
                    self.bulk(a, m)
                } else {
                    self.cp_async(a, m)
                }
            }
            "mbarrier" => self.mbarrier(a, m),
            "st" if m.take("async") => self.async_store(a, m, false),
            "red" if m.take("async") => self.async_store(a, m, true),
            _ => Ok(false),
        }
    }

    fn constant_operand(&self, a: &[Arg], m: &Mods) -> Result<u64> {
        match a {
            [Arg::Int(n)] => Ok(*n),
            _ => Err(m.error("one constant operand is wanted")),
        }
    }

    fn cp_async(&mut self, a: &[Arg], m: &mut Mods) -> Result<bool> {
        if m.take("commit_group") {
            self.emit(Op::CpCommit, Class::Sync);
            return Ok(true);
        }
        if m.take("wait_all") {
            self.emit(Op::CpWait { keep: None }, Class::Sync);
            return Ok(true);
        }
        if m.take("wait_group") {
            let keep = Some(self.constant_operand(a, m)?);
            self.emit(Op::CpWait { keep }, Class::Sync);
            return Ok(true);
        }
        if m.take("mbarrier") || m.take("mbarrier::arrive") {
            m.take("arrive");
            let noinc = m.take("noinc");
            let space = m.space();
            m.ty()?;
            let [address] = a else { return Err(m.unknown()) };
            let (address, space) = self.address_in(address, space)?;
            let op = MbarrierOp::CpAsyncArrive { noinc };
            let one = self.bits(1);
            let mbarrier = Mbarrier { op, space, address, d: SINK, p: NOBODY, value: one, relaxed: false };
            self.emit(Op::Mbarrier(Box::new(mbarrier)), Class::Sync);
            return Ok(true);
        }
        let all = m.take("cg");
        if !all && !m.take("ca") || m.space() != Space::Shared || m.space() != Space::Global {
            return Err(m.unknown());
        }
        let hint = m.cache();
        let mut operands = a.to_vec();
        if hint {
            operands.pop();
        }
        let (shared, global, size, extra) = match operands.as_slice() {
            [s, g, Arg::Int(n)] => (s, g, *n, None),
            [s, g, Arg::Int(n), extra] => (s, g, *n, Some(extra)),
            _ => return Err(m.unknown()),
        };
        if !matches!((size, all), (16, _) | (4 | 8, false)) {
            return Err(m.error(format!("{size} bytes cannot be copied at once")));
        }
        let (mut source, mut skip) = (None, None);
        match extra {
            Some(p @ (Arg::Not(_) | Arg::Name(_))) if self.pred_src(p).is_ok() => skip = Some(self.pred_src(p)?),
            Some(n) => source = Some(self.src(n, Ty::U(32))?),
            None => {}
        }
        let (shared, _) = self.address_in(shared, Space::Shared)?;
        let (global, _) = self.address_in(global, Space::Global)?;
        let copy = CpAsync { shared, global, bytes: size as u32, source, skip };
        self.emit(Op::CpAsync(Box::new(copy)), Class::GlobalLoad);
        Ok(true)
    }

    fn bulk(&mut self, a: &[Arg], m: &mut Mods) -> Result<bool> {
        if m.take("commit_group") {
            self.emit(Op::BulkCommit, Class::Sync);
            return Ok(true);
        }
        if m.take("wait_group") {
            let read = m.take("read");
            let keep = self.constant_operand(a, m)?;
            self.emit(Op::BulkWait { keep, read }, Class::Sync);
            return Ok(true);
        }
        if m.take("prefetch") {
            while m.first().is_some() {}
            let [address, bytes, ..] = a else { return Err(m.unknown()) };
            self.address(address)?;
            self.src(bytes, Ty::U(32))?;
            self.emit(Op::Nop, Class::Other);
            return Ok(true);
        }
        let (target, source) = (m.space(), m.space());
        let signals = m.take("mbarrier::complete_tx::bytes");
        let kind = match (target, source) {
            (Space::Shared, Space::Global) if signals => BulkKind::Load,
            (Space::Shared, Space::Shared) if signals => BulkKind::Shared,
            (Space::Global, Space::Shared) if m.take("bulk_group") => BulkKind::Store,
            _ => return Err(m.unknown()),
        };
        let multicast = kind == BulkKind::Load && m.take("multicast::cluster");
        let hint = m.cache();
        let (to, from, bytes, rest) = match a {
            [to, from, bytes, rest @ ..] => (to, from, bytes, rest),
            _ => return Err(m.error(format!("{} operands", a.len()))),
        };
        let wanted = usize::from(signals) + usize::from(multicast) + usize::from(hint);
        if rest.len() != wanted {
            return Err(m.error(format!("{} operands", a.len())));
        }
        let (to, _) = self.address_in(to, target)?;
        let (from, _) = self.address_in(from, source)?;
        let bytes = self.src(bytes, Ty::U(32))?;
        let mbarrier = if signals { self.address_in(&rest[0], Space::Shared)?.0 } else { from };
        if multicast {
            let operand = self.src(&rest[1], Ty::U(16))?;
            self.emit(Op::OwnCta { operand, want: 1 }, Class::Control);
        }
        let class = if kind == BulkKind::Store { Class::GlobalStore } else { Class::GlobalLoad };
        self.emit(Op::Bulk(Box::new(Bulk { kind, target: to, source: from, bytes, mbarrier })), class);
        Ok(true)
    }

    /// `st.async` and `red.async`.
    fn async_store(&mut self, a: &[Arg], m: &mut Mods, reduces: bool) -> Result<bool> {
        let (order, scope) = (m.order(), m.scope());
        let space = m.space();
        let allowed = match order {
            None => true,
            Some(Order::Weak) => !reduces && scope.is_none(),
            Some(Order::Relaxed) => reduces && scope.is_some(),
            Some(_) => false,
        };
        let op = if reduces { m.find(rmw).ok_or_else(|| m.error("an operation is missing"))? } else { Rmw::Exch };
        let count = match m.one_of(&["v2", "v4"]) {
            None => 1,
            Some("v2") => 2,
            Some(_) => 4,
        };
        let signals = m.take("mbarrier::complete_tx::bytes");
        let ty = m.ty()?;
        let exists = match (reduces, ty) {
            (false, Ty::B(32 | 64) | Ty::U(32 | 64) | Ty::S(32 | 64) | Ty::F32 | Ty::F64) => true,
            (true, Ty::U(32) | Ty::S(32) | Ty::U(64)) => count == 1 && exists(op, ty),
            (true, Ty::B(32)) => count == 1 && matches!(op, Rmw::And | Rmw::Or | Rmw::Xor),
            _ => false,
        };
        // A store that signals no mbarrier is another instruction, for memory of the system.
        if ![allowed, signals, exists, matches!(space, Space::Shared | Space::Generic)].iter().all(|&holds| holds) {
            return Err(m.unknown());
        }
        let [target, value, mbarrier] = a else { return Err(m.error(format!("{} operands", a.len()))) };
        let (address, _) = self.address_in(target, Space::Shared)?;
        let values = self.regs(value, ty, false)?;
        if values.len() != count {
            return Err(m.error(format!("a vector of {}", values.len())));
        }
        let (mbarrier, _) = self.address_in(mbarrier, Space::Shared)?;
        let (space, order, scope) = (Space::Shared, Order::Relaxed, Scope::Cta);
        let atomic = Atomic { op, ty, space, address, old: Vec::new(), values, swap: SINK, order, scope };
        self.emit(Op::AsyncStore(Box::new(AsyncStore { atomic, mbarrier })), Class::SharedStore);
        Ok(true)
    }

    fn mbarrier(&mut self, a: &[Arg], m: &mut Mods) -> Result<bool> {
        let name = m.first().unwrap_or_default();
        let expect = m.take("expect_tx");
        let parity = m.take("parity");
        m.take("noComplete");
        let relaxed = m.order() == Some(Order::Relaxed);
        m.scope();
        let space = m.space();
        let ty = m.ty();
        let op = match name {
            "init" => MbarrierOp::Init,
            "inval" => MbarrierOp::Inval,
            "arrive" | "arrive_drop" => {
                let drop = name == "arrive_drop";
                if expect { MbarrierOp::ArriveExpect { drop } } else { MbarrierOp::Arrive { drop } }
            }
            "expect_tx" => MbarrierOp::Expect,
            "complete_tx" => MbarrierOp::CompleteTx,
            "test_wait" | "try_wait" => MbarrierOp::Wait { parity, block: name == "try_wait" },
            "pending_count" => MbarrierOp::PendingCount,
            _ => return Err(m.unknown()),
        };
        if op != MbarrierOp::Expect && op != MbarrierOp::CompleteTx {
            ty?;
        }
        let (b32, b64) = (Ty::B(32), Ty::B(64));
        let (mut d, mut p, mut value) = (SINK, NOBODY, self.bits(1));
        if op == MbarrierOp::PendingCount {
            let [result, state] = a else { return Err(m.unknown()) };
            (d, value) = (self.dst(result, b32)?, self.src(state, b64)?);
            let address = crate::program::Address { base: value, offset: 0 };
            let mbarrier = Mbarrier { op, space, address, d, p, value, relaxed };
            self.emit(Op::Mbarrier(Box::new(mbarrier)), Class::Sync);
            return Ok(true);
        }
        // Results come first: a state or a predicate.
        let has_result = !matches!(a.first(), Some(Arg::Mem { .. }));
        let rest = if has_result { &a[1..] } else { a };
        match op {
            MbarrierOp::Wait { .. } if has_result => p = self.pred_dst(&a[0])?,
            MbarrierOp::Arrive { .. } | MbarrierOp::ArriveExpect { .. } if has_result => d = self.dst(&a[0], b64)?,
            _ if has_result => return Err(m.unknown()),
            _ => {}
        }
        let Some(address) = rest.first() else { return Err(m.unknown()) };
        let (address, space) = self.address_in(address, space)?;
        let wanted = match op {
            MbarrierOp::Wait { parity: false, .. } => Some(b64),
            MbarrierOp::Inval => None,
            _ => Some(b32),
        };
        match (wanted, &rest[1..]) {
            (Some(ty), [v]) => value = self.src(v, ty)?,
            // A time limit for the wait means nothing here.
            (Some(ty), [v, _]) if matches!(op, MbarrierOp::Wait { .. }) => value = self.src(v, ty)?,
            (_, []) if matches!(op, MbarrierOp::Arrive { .. } | MbarrierOp::Inval) => {}
            _ => return Err(m.error(format!("{} operands", a.len()))),
        }
        let mbarrier = Mbarrier { op, space, address, d, p, value, relaxed };
        self.emit(Op::Mbarrier(Box::new(mbarrier)), Class::Sync);
        Ok(true)
    }
}
