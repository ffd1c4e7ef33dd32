//! CTA barriers: `bar`, `barrier`, and the cluster barrier of a cluster of one CTA.

use super::state::{Bad, Cta, Ctx, Done, Group, State};
use crate::alu::FULL;
use crate::clock::{Clock, join};
use crate::fault::FaultKind;
use crate::program::{Barrier, Op, Program, Reduction};
use std::sync::Arc;

/// A barrier of a CTA.
#[derive(Debug, Default)]
pub(crate) struct CtaBarrier {
    /// Threads that have arrived.
    arrived: u32,
    /// Threads that have to, once the first has.
    expected: Option<u32>,
    /// Whether they are all threads of the CTA, as no count was given.
    everyone: bool,
    clock: Arc<Clock>,
    /// Of `bar.red`: how many predicates hold, and of how many.
    hold: u32,
    voted: u32,
}

impl CtaBarrier {
    /// How far it is, if somebody waits.
    pub(crate) fn status(&self) -> Option<(u32, u32)> {
        self.expected.map(|e| (self.arrived, e))
    }
}

/// A barrier that has completed and whose waiting groups go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Completed {
    Barrier(u32),
    Cluster,
}

impl Ctx<'_> {
    /// A group arrives. The barrier that completes by it, if one does; the group waits unless it only arrives.
    pub(crate) fn barrier(&mut self, g: usize, b: &Barrier) -> Done<Option<Completed>> {
        let Group { mask, window, .. } = self.warp.groups[g];
        let first = mask.trailing_zeros();
        let bad = |kind, what: String| Err(Bad::new(kind, first, None, what));
        let uniform = |v: &[u64; 32]| super::state::lanes(mask).all(|l| v[l] == v[first as usize]);
        let ids = *self.get(window, b.id);
        let id = ids[first as usize] as u32;
        if !uniform(&ids) || id >= 16 {
            return bad(FaultKind::BadOperand, format!("barrier {id}: a warp has one barrier of 0..16 at a time"));
        }
        let count = match b.count {
            None => None,
            Some(r) => {
                let counts = *self.get(window, r);
                let count = counts[first as usize] as u32;
                if !uniform(&counts)
                    || count == 0
                    || !count.is_multiple_of(32)
                    || count > self.team.threads.next_multiple_of(32)
                {
                    return bad(FaultKind::BadOperand, format!("a barrier of {count} threads"));
                }
                Some(count)
            }
        };
        if count.is_none() && self.team.exited > 0 {
            let what = format!("barrier {id} waits for all threads, {} have exited", self.team.exited);
            return bad(FaultKind::Barrier, what);
        }
        // Warps arrive as a whole, even the last, which may have less than 32 threads.
        let whole = mask == self.warp.order.exist;
        let arrivals = if whole { 32 } else { mask.count_ones() };
        let expected = count.unwrap_or(self.team.threads.next_multiple_of(32));
        let votes = match &b.reduce {
            Some(r) => self.warp.holds(window, r.predicate) & mask,
            None => 0,
        };
        let clock = self.warp.order.release(mask)?;
        let barrier = &mut self.team.barriers[id as usize];
        if barrier.expected.is_some_and(|e| e != expected) {
            let what =
                format!("barrier {id} of {expected} threads is one of {} to others", barrier.expected.unwrap_or(0));
            return bad(FaultKind::Barrier, what);
        }
        barrier.expected = Some(expected);
        barrier.everyone = count.is_none();
        barrier.arrived += arrivals;
        if b.reduce.is_some() {
            barrier.hold += votes.count_ones();
            barrier.voted += mask.count_ones();
        }
        join(&mut barrier.clock, &clock);
        self.memory.agents.progress += 1;
        if barrier.arrived > expected {
            let what = format!("{} threads arrive at barrier {id} of {expected}", barrier.arrived);
            return bad(FaultKind::Barrier, what);
        }
        let complete = barrier.arrived == expected;
        let group = &mut self.warp.groups[g];
        if b.arrive {
            group.pc += 1;
        } else {
            group.state = State::Barrier(id);
        }
        Ok(complete.then_some(Completed::Barrier(id)))
    }

    /// Arrival at and waiting for the cluster barrier. It completes when all threads wait for it.
    pub(crate) fn cluster_barrier(&mut self, g: usize, arrive: bool, relaxed: bool) -> Done<Option<Completed>> {
        let mask = self.warp.groups[g].mask;
        self.memory.agents.progress += 1;
        if !arrive {
            self.team.cluster.arrived += mask.count_ones();
            self.warp.groups[g].state = State::Cluster;
            let all = self.team.threads - self.team.exited;
            return Ok((self.team.cluster.arrived >= all).then_some(Completed::Cluster));
        }
        if !relaxed {
            let clock = self.warp.order.release(mask)?;
            join(&mut self.team.cluster.clock, &clock);
        }
        self.warp.groups[g].pc += 1;
        Ok(None)
    }

    /// Threads exit: nobody may wait for them.
    pub(crate) fn exited(&self, lanes: u32) -> Done {
        let waiting = self.team.barriers.iter().position(|b| b.expected.is_some() && b.everyone);
        let Some(id) = waiting else { return Ok(()) };
        let what = format!("threads exit while others wait for them at barrier {id}");
        Err(Bad::new(FaultKind::Barrier, lanes.trailing_zeros(), None, what))
    }
}

impl Cta {
    /// Lets the groups at a completed barrier go on.
    pub(crate) fn complete(&mut self, program: &Program, completed: Completed) {
        let (barrier, state) = match completed {
            Completed::Barrier(id) => (&mut self.team.barriers[id as usize], State::Barrier(id)),
            Completed::Cluster => (&mut self.team.cluster, State::Cluster),
        };
        let done = std::mem::take(barrier);
        for warp in &mut self.warps {
            let mut released = 0;
            for g in 0..warp.groups.len() {
                if warp.groups[g].state != state {
                    continue;
                }
                let Group { mask, window, pc, .. } = warp.groups[g];
                released |= mask;
                if let Op::Barrier(b) = &program.code[pc as usize].op
                    && let Some(r) = &b.reduce
                {
                    match r.op {
                        Reduction::Count => warp.set(window, r.d, mask, &[u64::from(done.hold); 32]),
                        Reduction::And => {
                            let all = if done.hold == done.voted { FULL } else { 0 };
                            warp.set_predicate(window, r.p, mask, all);
                        }
                        Reduction::Or => {
                            let any = if done.hold > 0 { FULL } else { 0 };
                            warp.set_predicate(window, r.p, mask, any);
                        }
                    }
                }
                let group = &mut warp.groups[g];
                group.state = State::Run;
                group.pc += 1;
            }
            if released == 0 {
                continue;
            }
            match completed {
                // Who waits has arrived, so that the barrier knows all that it knows.
                Completed::Barrier(_) => warp.order.adopt(released, Arc::clone(&done.clock)),
                Completed::Cluster => warp.order.acquire(released, &done.clock),
            }
        }
    }
}
