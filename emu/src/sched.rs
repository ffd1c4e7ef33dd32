//! Who runs when. Seed 0 is round robin with long slices; any other seed is an adversary: random CTAs, random subsets of
//! warps, random slices, one warp that runs only when it must, copies that land late. A kernel is correct only if it is
//! under all of them.

use crate::clock::{Epoch, Strength};
use crate::exec::Stop;
use crate::exec::state::{Bad, Cta, Ctx, Done, State, Team, World, thread_of};
use crate::fault::{Fault, FaultKind, ThreadId};

/// Instructions of a slice in round robin.
const SLICE: u32 = 4096;
/// CTAs that run at once as long as they do not wait for others.
const USUAL: usize = 16;
/// Rounds in which everybody polls and nothing changes, after which nothing will.
const PATIENCE: u32 = 1000;
/// Waits that give up one after another, all in vain.
const TIMEOUTS: u32 = 64;

/// A small random number generator (SplitMix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`.
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i + 1);
            items.swap(i, j);
        }
    }
}

/// A launch that runs.
pub(crate) struct Scheduler<'a> {
    pub(crate) world: World<'a>,
    pub(crate) kernel: &'a str,
    seed: u64,
    random: Random,
    /// CTAs that have not started, the next last.
    waiting: Vec<u32>,
    resident: Vec<Cta>,
    /// CTAs that fit.
    limit: usize,
    /// CTAs that run at once, which are more only when those wait for others.
    wanted: usize,
    make: &'a dyn Fn(&mut World<'a>, u32) -> Done<Cta>,
}

impl<'a> Scheduler<'a> {
    pub(crate) fn new(
        world: World<'a>,
        kernel: &'a str,
        seed: u64,
        ctas: u32,
        limit: usize,
        make: &'a dyn Fn(&mut World<'a>, u32) -> Done<Cta>,
    ) -> Self {
        let mut random = Random(seed);
        let mut waiting: Vec<u32> = (0..ctas).rev().collect();
        let limit = limit.max(1);
        let mut wanted = limit.min(USUAL);
        if seed != 0 {
            random.shuffle(&mut waiting);
            wanted = 1 + random.below(wanted);
        }
        Scheduler { world, kernel, seed, random, waiting, resident: Vec::new(), limit, wanted, make }
    }

    /// Runs all CTAs.
    pub(crate) fn run(&mut self) -> Result<(), Box<Fault>> {
        let mut idle = 0;
        let mut timeouts = 0;
        let mut everybody = true;
        loop {
            while self.resident.len() < self.wanted {
                let Some(cta) = self.waiting.pop() else { break };
                let cta = (self.make)(&mut self.world, cta).map_err(|bad| self.fault(None, 0, *bad))?;
                self.resident.push(cta);
            }
            if self.resident.is_empty() {
                return Ok(());
            }
            let (progress, steps) = (self.world.progress, self.world.steps);
            let all = everybody || self.seed == 0 || idle > 8;
            everybody = false;
            let polled = self.round(all)?;
            self.finish()?;
            if self.world.progress != progress {
                (idle, timeouts) = (0, 0);
            }
            if self.seed != 0 && self.random.below(2) == 0 {
                self.land(false);
            }
            if self.world.steps == steps {
                // Nobody ran: now copies land, then waits give up.
                if !all {
                    everybody = true;
                } else if self.land(self.seed == 0) || self.admit() {
                    timeouts = 0;
                } else if self.time_out() && timeouts < TIMEOUTS {
                    timeouts += 1;
                } else if !self.resident.is_empty() {
                    return Err(self.deadlock());
                }
            } else if self.world.progress == progress && polled {
                idle += 1;
                self.admit();
                if idle > PATIENCE {
                    if !self.land(true) {
                        return Err(self.deadlock());
                    }
                    idle = 0;
                } else if self.seed == 0 {
                    self.land(true);
                }
            } else if self.world.progress == progress {
                idle = 0;
            }
        }
    }

    /// Lets more CTAs run at once. Whether there are any that fit.
    fn admit(&mut self) -> bool {
        let more = !self.waiting.is_empty() && self.wanted < self.limit;
        if more {
            self.wanted = (2 * self.wanted).min(self.limit);
        }
        more
    }

    /// Lets warps run: all, or some. Whether they may all be polling only.
    fn round(&mut self, all: bool) -> Result<bool, Box<Fault>> {
        let mut picks: Vec<(usize, usize)> = Vec::new();
        for (c, cta) in self.resident.iter().enumerate() {
            picks.extend((0..cta.warps.len()).map(|w| (c, w)));
        }
        if self.seed != 0 {
            self.random.shuffle(&mut picks);
            if !all {
                // The victim is one of the warps of each CTA, the same for the whole launch.
                let victim = self.seed as usize;
                let of = [1, 2, 4][self.random.below(3)];
                picks.retain(|&(c, w)| w != victim % self.resident[c].warps.len() || self.resident[c].warps.len() == 1);
                picks.truncate(picks.len().div_ceil(of));
            }
        }
        let mut polled = true;
        for (c, w) in picks {
            let budget = match self.seed {
                0 => SLICE,
                _ => [1, 7, 50, 400, SLICE][self.random.below(5)],
            };
            polled &= self.slice(c, w, budget)?;
        }
        Ok(polled)
    }

    /// Lets one warp run. Whether it may be one that only polls.
    fn slice(&mut self, c: usize, w: usize, budget: u32) -> Result<bool, Box<Fault>> {
        let coin = self.seed != 0 && self.random.below(8) == 0;
        let cta = &mut self.resident[c];
        let warp = &mut cta.warps[w];
        let rotate = warp.groups.len() > 1 && (warp.rotate || coin);
        warp.rotate = false;
        let mut ctx = Ctx { world: &mut self.world, team: &mut cta.team, warp };
        let stop = match ctx.slice(budget, rotate) {
            Ok(stop) => stop,
            Err((bad, pc)) => {
                let line = self.world.program.code[pc as usize].line;
                return Err(self.fault(Some((c, w)), line, *bad));
            }
        };
        // A slice that ends by itself may be a loop that waits for lanes of its own warp: they take turns.
        cta.warps[w].rotate = !rotate && matches!(stop, Stop::Spent | Stop::Polled);
        if let Stop::Completed(completed) = stop {
            cta.complete(self.world.program, completed);
        }
        let warp = &mut cta.warps[w];
        warp.since_poll = if stop == Stop::Spent { warp.since_poll.saturating_add(budget) } else { 0 };
        let busy = warp.since_poll > SLICE || matches!(stop, Stop::Completed(_));
        if self.world.steps > self.world.max_steps {
            let line = warp.groups.first().map_or(0, |g| self.world.program.code[g.pc as usize].line);
            let what = format!("more than {} instructions of warps", self.world.max_steps);
            let bad = Bad { kind: FaultKind::StepLimit, lane: 0, address: None, detail: what };
            return Err(self.fault(Some((c, w)), line, bad));
        }
        Ok(!busy)
    }

    /// Removes CTAs that have ended, and looks at what they left.
    fn finish(&mut self) -> Result<(), Box<Fault>> {
        let mut c = 0;
        while c < self.resident.len() {
            let cta = &self.resident[c];
            if cta.warps.iter().any(|w| w.order.live != 0) {
                c += 1;
                continue;
            }
            if let Some(l) = cta.team.landings.first() {
                let line = self.world.program.code[l.pc as usize].line;
                let what = "the CTA ends before this copy has landed".to_owned();
                let bad = Bad { kind: FaultKind::AsyncCopy, lane: l.lane, address: Some(l.target), detail: what };
                return Err(self.fault(Some((c, l.warp as usize)), line, bad));
            }
            if let Some((&address, b)) = cta.team.mbarriers.iter().filter(|(_, b)| b.tx != 0).min_by_key(|(a, _)| **a) {
                let detail = format!("the CTA ends in {}", b.describe());
                let bad = Bad { kind: FaultKind::MbarrierTx, lane: 0, address: Some(address), detail };
                return Err(self.fault(Some((c, 0)), 0, bad));
            }
            self.resident.swap_remove(c);
        }
        Ok(())
    }

    /// Lands all copies, or a random one. Whether there was one.
    fn land(&mut self, all: bool) -> bool {
        let with: Vec<usize> =
            (0..self.resident.len()).filter(|&c| !self.resident[c].team.landings.is_empty()).collect();
        if with.is_empty() {
            return false;
        }
        if !all {
            let c = with[self.random.below(with.len())];
            let team = &mut self.resident[c].team;
            let i = self.random.below(team.landings.len());
            land(team, i);
        } else {
            for c in with {
                let team = &mut self.resident[c].team;
                while !team.landings.is_empty() {
                    land(team, 0);
                }
            }
        }
        self.world.progress += 1;
        true
    }

    /// Suspended waits give up. Whether there were any.
    fn time_out(&mut self) -> bool {
        let mut any = false;
        for warp in self.resident.iter_mut().flat_map(|c| &mut c.warps) {
            for group in warp.groups.iter_mut().filter(|g| matches!(g.state, State::Mbarrier { .. })) {
                group.timed_out = true;
                any = true;
            }
        }
        any
    }

    /// Who waits for what.
    fn deadlock(&self) -> Box<Fault> {
        let code = &self.world.program.code;
        let mut kind = FaultKind::Deadlock;
        let mut place = None;
        let mut stories = Vec::new();
        for (c, cta) in self.resident.iter().enumerate() {
            for (w, warp) in cta.warps.iter().enumerate() {
                for g in &warp.groups {
                    let line = code[g.pc as usize].line;
                    let (story, address) = waits_for(&cta.team, g.state);
                    let lane = g.mask.trailing_zeros();
                    place.get_or_insert((c, w, lane, line, address));
                    match g.state {
                        // Unless one of its other lanes may still come.
                        State::Aligned if warp.groups.iter().all(|o| !may_go_on(o.state)) => {
                            kind = FaultKind::Divergence;
                            place = Some((c, w, lane, line, None));
                        }
                        State::Mbarrier { address, .. }
                            if kind == FaultKind::Deadlock
                                && cta.team.mbarriers.get(&address).is_some_and(|b| b.unbalanced()) =>
                        {
                            kind = FaultKind::MbarrierTx;
                            place = Some((c, w, lane, line, Some(address)));
                        }
                        _ => {}
                    }
                    let lanes = g.mask.count_ones();
                    let id = cta.team.id;
                    stories.push(format!("CTA {id:?} warp {} ({lanes} lanes) in line {line} {story}", warp.index));
                }
            }
        }
        let more = stories.len().saturating_sub(6);
        stories.truncate(6);
        if more > 0 {
            stories.push(format!("{more} more"));
        }
        if !self.waiting.is_empty() {
            stories.push(format!("{} CTAs do not fit", self.waiting.len()));
        }
        let (c, w, lane, line, address) = place.unwrap_or((0, 0, 0, 0, None));
        let bad = Bad { kind, lane, address, detail: format!("nobody can go on: {}", stories.join("; ")) };
        self.fault(Some((c, w)), line, bad)
    }

    /// A fault with its place.
    fn fault(&self, warp: Option<(usize, usize)>, line: u32, bad: Bad) -> Box<Fault> {
        let thread = warp.and_then(|(c, w)| {
            let cta = self.resident.get(c)?;
            let linear = cta.warps.get(w)?.index * 32 + bad.lane;
            Some(ThreadId { cta: cta.team.id, tid: thread_of(self.world.block, linear) })
        });
        let Bad { kind, address, detail, .. } = bad;
        Box::new(Fault { kind, kernel: self.kernel.to_owned(), line, thread, address, detail })
    }
}

/// Whether a group may go on without other lanes of its warp.
fn may_go_on(state: State) -> bool {
    matches!(state, State::Run | State::Mbarrier { .. })
}

/// What a group waits for, and where that is.
fn waits_for(team: &Team, state: State) -> (String, Option<u64>) {
    let barrier = |b: &crate::exec::barrier::CtaBarrier| match b.status() {
        Some((arrived, expected)) => format!("({arrived} of {expected} threads)"),
        None => String::new(),
    };
    match state {
        State::Run => ("polls".into(), None),
        State::Barrier(id) => (format!("waits at barrier {id} {}", barrier(&team.barriers[id as usize])), None),
        State::Cluster => ("waits at the cluster barrier".into(), None),
        State::Collective { members } => (format!("waits for lanes {members:#010x} of its warp"), None),
        State::Aligned => ("waits for the other lanes of its warp".into(), None),
        State::Mbarrier { address, .. } => {
            let what = team.mbarriers.get(&address).map_or_else(String::new, |b| b.describe());
            (format!("waits for the mbarrier at {address:#x} ({what})"), Some(address))
        }
    }
}

/// The bytes of a copy arrive.
fn land(team: &mut Team, index: usize) {
    let l = team.landings.remove(index);
    let (at, len) = (l.target as usize, l.data.len());
    team.shared.store.data[at..at + len].copy_from_slice(&l.data);
    team.shared.store.set_written(at, len);
    if let Some(b) = team.mbarriers.get(&l.mbarrier) {
        let epoch = Epoch::new(b.agent, b.phase + 1, 0, Strength::Weak);
        team.shared.races.stamp_write(epoch, at, len);
    }
    team.complete_tx(l.mbarrier, len as u64);
}
