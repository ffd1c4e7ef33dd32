//! mbarriers. A phase completes when no arrival is pending and the bytes that were expected have landed; who waits for it
//! then knows all that its arrivals knew, and the copies that landed in it.

use super::access::classify;
use super::state::{Bad, Ctx, Done, Group, State, Team, lanes};
use super::{Next, Stop};
use crate::agents::Owner;
use crate::clock::{Agent, Clock, Epoch, MAX_AGENT, MAX_TIME, Strength, Width, join};
use crate::fault::FaultKind;
use crate::program::{Mbarrier, MbarrierOp};
use crate::types::Space;
use std::sync::Arc;

/// Bytes of an mbarrier.
const BYTES: usize = 8;
/// Instructions of a warp within which a wait is a repetition of the one before.
const SOON: u64 = 64;
/// Agents that a launch takes for mbarriers at once.
const SPARE: u32 = 64;
/// Largest count of arrivals, and of bytes.
const MAX_COUNT: u32 = (1 << 20) - 1;

/// An initialised mbarrier.
#[derive(Debug)]
pub(crate) struct MbarrierState {
    expected: u32,
    pending: u32,
    /// Bytes that are expected in this phase and have not landed.
    pub(crate) tx: i64,
    /// Completed phases.
    pub(crate) phase: u32,
    /// What the arrivals of this phase knew.
    arriving: Arc<Clock>,
    /// What those of the phase before knew.
    completed: Arc<Clock>,
    /// The copies that signal it.
    pub(crate) agent: Agent,
    /// Who initialised it, and when.
    init: Epoch,
    /// When that thread fenced the initialisation, so that copies see it.
    announced: Option<Epoch>,
}

impl MbarrierState {
    /// Completes the phase if nothing is missing. Whether it did.
    fn settle(&mut self) -> bool {
        let done = self.pending == 0 && self.tx == 0;
        if done {
            // Who waits learns of the completion itself, and of the copies that landed before it.
            Arc::make_mut(&mut self.arriving).see(self.agent, crate::alu::FULL, self.phase + 1);
            self.completed = std::mem::take(&mut self.arriving);
            self.pending = self.expected;
            self.phase += 1;
        }
        done
    }

    /// What is missing, for messages.
    pub(crate) fn describe(&self) -> String {
        format!("phase {}: {} arrivals and {} bytes are missing", self.phase, self.pending, self.tx)
    }

    /// Whether all threads have arrived and the bytes do not add up.
    pub(crate) fn unbalanced(&self) -> bool {
        self.pending == 0 && self.tx != 0
    }
}

impl Team {
    /// Bytes of a copy landed.
    pub(crate) fn complete_tx(&mut self, address: u64, bytes: u64) {
        let Some(b) = self.mbarriers.get_mut(&address) else { return };
        b.tx -= bytes as i64;
        if b.settle() {
            self.phases += 1;
        }
    }
}

impl Ctx<'_> {
    /// The address in shared memory of an mbarrier operand.
    pub(crate) fn mbarrier_address(&self, space: Space, address: u64, lane: u32) -> Done<u64> {
        let (space, address) = if space == Space::Generic { classify(address) } else { (space, address) };
        let end = address.checked_add(BYTES as u64);
        if space != Space::Shared || end.is_none_or(|end| end > self.team.shared.store.len() as u64) {
            return Err(self.outside(lane, address, BYTES as u64));
        }
        if address & (BYTES as u64 - 1) != 0 {
            return Err(Bad::new(FaultKind::Misaligned, lane, Some(address), "an mbarrier"));
        }
        Ok(address)
    }

    /// An mbarrier that the lane knows to be initialised.
    pub(crate) fn initialised(&mut self, address: u64, lane: u32) -> Done<&mut MbarrierState> {
        let Some(init) = self.team.mbarriers.get(&address).map(|b| b.init) else {
            return Err(Bad::new(FaultKind::Mbarrier, lane, Some(address), "the mbarrier is not initialised"));
        };
        if !self.warp.order.knows(lane, init) {
            let (_, whose) = self.memory.agents.describe(init.agent(), init.lane(), Some(&self.flight.label));
            let what = format!("its use is not ordered with its initialisation by {whose}");
            return Err(Bad::new(FaultKind::RaceShared, lane, Some(address), what));
        }
        match self.team.mbarriers.get_mut(&address) {
            Some(b) => Ok(b),
            None => Err(Bad::new(FaultKind::Mbarrier, lane, Some(address), "the mbarrier is not initialised")),
        }
    }

    /// An operation of a group of lanes.
    pub(crate) fn mbarrier(&mut self, g: usize, m: &Mbarrier) -> Done<Next> {
        let Group { mask, window, .. } = self.warp.groups[g];
        if m.op == MbarrierOp::PendingCount {
            let states = *self.get(window, m.value);
            self.warp.set(window, m.d, mask, &states.map(|s| s & u64::from(MAX_COUNT)));
            return Ok(Next::Step);
        }
        if let MbarrierOp::Wait { parity, block } = m.op {
            return self.wait(g, m, parity, block);
        }
        let (addresses, values) = (self.addresses(window, m.address), *self.get(window, m.value));
        for lane in lanes(mask) {
            let address = self.mbarrier_address(m.space, addresses[lane], lane as u32)?;
            let state = self.mbarrier_lane(m, address, lane as u32, values[lane] as u32)?;
            if m.d != crate::program::SINK {
                self.warp.registers[(window.registers + m.d) as usize][lane] = state;
            }
        }
        self.memory.agents.progress += 1;
        if m.relaxed || matches!(m.op, MbarrierOp::Expect) {
            return Ok(Next::Step);
        }
        self.warp.order.tick(mask.trailing_zeros())?;
        Ok(Next::Step)
    }

    /// One lane's operation; the state before it.
    fn mbarrier_lane(&mut self, m: &Mbarrier, address: u64, lane: u32, value: u32) -> Done<u64> {
        match m.op {
            MbarrierOp::Init => {
                self.init(address, lane, value)?;
                return Ok(0);
            }
            MbarrierOp::Inval => {
                self.initialised(address, lane)?;
                self.team.mbarriers.remove(&address);
                let order = &self.warp.order;
                let epoch = Epoch::new(order.agent, order.now, lane, Strength::Weak);
                self.team.shared.races.stamp_write(epoch, address as usize, BYTES);
                self.team.shared.store.set_unwritten(address as usize, BYTES);
                return Ok(0);
            }
            _ => {}
        }
        if let MbarrierOp::CpAsyncArrive { .. } = m.op {
            self.cp_wait(1 << lane, None);
        }
        let order = &self.warp.order;
        let clock = order.snapshot(1 << lane, order.now);
        let relaxed = m.relaxed;
        let b = self.initialised(address, lane)?;
        let state = u64::from(b.phase) << 32 | u64::from(b.pending);
        let too_many = |count: u32, of: u32| {
            let what = format!("{count} arrivals, {of} are pending");
            Err(Bad::new(FaultKind::MbarrierArrival, lane, Some(address), what))
        };
        let mut arrivals = 0;
        match m.op {
            MbarrierOp::Arrive { drop } => {
                if value == 0 || value > b.pending {
                    return too_many(value, b.pending);
                }
                arrivals = value;
                if drop {
                    b.expected -= value;
                }
            }
            MbarrierOp::ArriveExpect { drop } => {
                if b.pending == 0 {
                    return too_many(1, 0);
                }
                b.tx += i64::from(value);
                arrivals = 1;
                if drop {
                    b.expected -= 1;
                }
            }
            MbarrierOp::Expect => b.tx += i64::from(value),
            MbarrierOp::CompleteTx => b.tx -= i64::from(value),
            MbarrierOp::CpAsyncArrive { noinc } => {
                if noinc && b.pending == 0 {
                    return too_many(1, 0);
                }
                // Without `.noinc` the arrival was added to the pending ones by this very instruction.
                arrivals = u32::from(noinc);
            }
            _ => {}
        }
        if b.tx.unsigned_abs() > u64::from(MAX_COUNT) {
            let what = format!("{} bytes are expected at once, {MAX_COUNT} can be", b.tx);
            return Err(Bad::new(FaultKind::MbarrierTx, lane, Some(address), what));
        }
        b.pending -= arrivals;
        if !relaxed && m.op != MbarrierOp::Expect {
            join(&mut b.arriving, &clock);
        }
        if b.settle() {
            self.team.phases += 1;
        }
        Ok(state)
    }

    fn init(&mut self, address: u64, lane: u32, count: u32) -> Done {
        if count == 0 || count > MAX_COUNT {
            let what = format!("an mbarrier of {count} arrivals");
            return Err(Bad::new(FaultKind::BadOperand, lane, Some(address), what));
        }
        if self.team.mbarriers.contains_key(&address) {
            let what = "the mbarrier is initialised already, and was not invalidated";
            return Err(Bad::new(FaultKind::Mbarrier, lane, Some(address), what));
        }
        let (shared, order) = (&mut self.team.shared, &mut self.warp.order);
        let offset = address as usize;
        let who = &mut order.who();
        let mine = who.epoch(lane, Strength::Weak, Width::OTHER);
        if let Err(c) = shared.races.write(who, 1 << lane, (offset, BYTES), mine, |_| false) {
            return Err(self.race(true, true, lane, address, offset, c));
        }
        // From now on its bytes are no data: nobody's clock covers this.
        shared.races.stamp_write(Epoch::new(MAX_AGENT, MAX_TIME, 0, Strength::Weak), offset, BYTES);
        let init = Epoch::new(order.agent, order.now, lane, Strength::Weak);
        if self.flight.spare.is_empty() {
            // Many at once, so that the sets of agents of launches that run beside each other are of few ranges.
            let first = self.memory.agents.start(SPARE, Owner::Mbarriers, &mut self.flight.agents)?;
            self.flight.spare = first..first + SPARE;
        }
        let agent = self.flight.spare.start;
        self.flight.spare.start += 1;
        let state = MbarrierState {
            expected: count,
            pending: count,
            tx: 0,
            phase: 0,
            arriving: Arc::default(),
            completed: Arc::default(),
            agent,
            init,
            announced: None,
        };
        self.team.mbarriers.insert(address, state);
        Ok(())
    }

    /// `test_wait` and `try_wait`. That a phase is complete need not be seen at once: a thread sees it if it knows it
    /// already, or when it asks again. A `try_wait` that asks again and has to wait suspends the lanes.
    fn wait(&mut self, g: usize, m: &Mbarrier, parity: bool, block: bool) -> Done<Next> {
        let Group { mask, window, timed_out, pc, .. } = self.warp.groups[g];
        let (addresses, values) = (self.addresses(window, m.address), *self.get(window, m.value));
        let first = mask.trailing_zeros() as usize;
        let question = (pc, addresses[first], values[first]);
        let again = self.warp.groups[g].asked.is_some_and(|(q, when)| q == question && self.warp.steps - when <= SOON);
        self.warp.groups[g].asked = Some((question, self.warp.steps));
        let mut done = 0;
        let mut last = 0;
        for lane in lanes(mask) {
            let address = self.mbarrier_address(m.space, addresses[lane], lane as u32)?;
            last = address;
            let b = self.initialised(address, lane as u32)?;
            let (phase, agent) = (b.phase, b.agent);
            let complete =
                if parity { phase & 1 != values[lane] as u32 & 1 } else { phase != (values[lane] >> 32) as u32 };
            let knows = |c: &Arc<Clock>| c.time(agent, 0) >= phase;
            let seen = again || phase == 0 || self.warp.order.knowledge.of_lane(lane as u32).is_some_and(knows);
            done |= u32::from(complete && seen) << lane;
        }
        if done != 0 && !m.relaxed {
            let mut left = done;
            while left != 0 {
                let address = self.mbarrier_address(m.space, addresses[left.trailing_zeros() as usize], 0)?;
                let same = lanes(left)
                    .filter(|&l| addresses[l] == addresses[left.trailing_zeros() as usize])
                    .fold(0, |m, l| m | 1 << l);
                left &= !same;
                let Some(b) = self.team.mbarriers.get(&address) else { continue };
                self.warp.order.acquire(same, &b.completed);
            }
        }
        if done == 0 && block && again && !timed_out {
            let address = last;
            self.warp.groups[g].state = State::Mbarrier { seen: self.team.phases, address };
            return Ok(Next::Choose);
        }
        self.warp.groups[g].timed_out = false;
        self.warp.set_predicate(window, m.p, mask, done);
        if done == 0 {
            self.warp.groups[g].pc = pc + 1;
            return Ok(Next::Stop(Stop::Polled));
        }
        Ok(Next::Step)
    }

    /// Bytes of an asynchronous operation of a lane land at once; who waits for them knows what the lane has done.
    pub(crate) fn complete_by(&mut self, address: u64, lane: u32, bytes: u64) -> Done {
        let order = &self.warp.order;
        let clock = order.snapshot(1 << lane, order.now);
        join(&mut self.initialised(address, lane)?.arriving, &clock);
        self.team.complete_tx(address, bytes);
        self.warp.order.tick(lane)
    }

    /// The mbarrier that bulk copies signal, for a copy that a lane issues.
    pub(crate) fn signalled(&mut self, address: u64, lane: u32) -> Done<(Agent, u32)> {
        let b = self.initialised(address, lane)?;
        let (agent, phase, init, announced) = (b.agent, b.phase + 1, b.init, b.announced);
        // The copy of a thread follows its own initialisation without a fence.
        let own = init.agent() == self.warp.order.agent && init.lane() == lane;
        if own || announced.is_some_and(|fence| self.warp.order.knows(lane, fence)) {
            return Ok((agent, phase));
        }
        let (_, whose) = self.memory.agents.describe(init.agent(), init.lane(), Some(&self.flight.label));
        let what = format!(
            "the copy signals an mbarrier that it need not see: {whose} initialised it, and no fence.mbarrier_init or \
             fence.proxy.async of that thread came between"
        );
        Err(Bad::new(FaultKind::ProxyFence, lane, Some(address), what))
    }

    /// Copies see the mbarriers that some lanes have initialised.
    pub(crate) fn announce(&mut self, mask: u32) {
        let order = &self.warp.order;
        let theirs = |init: Epoch| init.agent() == order.agent && mask >> init.lane() & 1 != 0;
        for b in self.team.mbarriers.values_mut().filter(|b| theirs(b.init) && b.announced.is_none()) {
            b.announced = Some(Epoch::new(order.agent, order.now, b.init.lane(), Strength::Weak));
        }
    }
}
