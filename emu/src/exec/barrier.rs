//! CTA barriers: `bar`, `barrier`, and the cluster barrier of a cluster of one CTA.

use super::state::{Bad, Cta, Ctx, Done, Group, State, Team};
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

    /// Whether all have arrived: of a barrier of all threads, those that will not come do not count.
    fn is_complete(&self, absent: u32) -> bool {
        let absent = if self.everyone { absent } else { 0 };
        self.expected.is_some_and(|expected| self.arrived + absent >= expected)
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
        // Warps arrive at a barrier of a number of threads as a whole, even those of less than 32 threads.
        let whole = count.is_some() && mask == self.warp.order.live;
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
        let absent = self.team.absent();
        let barrier = &mut self.team.barriers[id as usize];
        if barrier.arrived > expected {
            let what = format!("{} threads arrive at barrier {id} of {expected}", barrier.arrived);
            return bad(FaultKind::Barrier, what);
        }
        let complete = barrier.is_complete(absent);
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
            return Ok(self.team.cluster_is_complete().then_some(Completed::Cluster));
        }
        if !relaxed {
            let clock = self.warp.order.release(mask)?;
            join(&mut self.team.cluster.clock, &clock);
        }
        self.warp.groups[g].pc += 1;
        Ok(None)
    }
}

impl Team {
    /// Threads that a barrier of all does not wait for: those that have exited, and those that the last warp lacks.
    fn absent(&self) -> u32 {
        self.exited + self.threads.next_multiple_of(32) - self.threads
    }

    fn cluster_is_complete(&self) -> bool {
        self.cluster.arrived > 0 && self.cluster.arrived + self.exited >= self.threads
    }

    /// The barrier that waited only for threads that have exited, if there is one.
    pub(crate) fn released(&self) -> Option<Completed> {
        let absent = self.absent();
        let barrier = self.barriers.iter().position(|b| b.everyone && b.is_complete(absent));
        let cluster = || self.cluster_is_complete().then_some(Completed::Cluster);
        barrier.map(|id| Completed::Barrier(id as u32)).or_else(cluster)
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
