//! Who runs when. Seed 0 is round robin with long slices; any other seed is an adversary: random CTAs, random subsets of
//! warps, random slices, one warp that runs only when it must, copies that land late. A kernel is correct only if it is
//! under all of them. Launches that have begun run beside each other; [`crate::engine`] says which may begin.

use crate::agents::{Owner, of_launch};
use crate::alu::FULL;
use crate::clock::{AgentSet, Clock, Epoch, Strength, join};
use crate::counters::{Counters, Tally};
use crate::exec::Stop;
use crate::exec::delay::Delayed;
use crate::exec::state::{Cta, Ctx, Flight, Grid, MOST_BYTES, State, Team, Waiting};
use crate::fault::{Bad, Fault, FaultKind, Label, place};
use crate::launch::start;
use crate::memory::Memory;
use std::sync::Arc;

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
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i + 1);
            items.swap(i, j);
        }
    }
}

/// What a turn came to.
#[derive(Debug)]
pub(crate) enum Turn {
    /// There is more to do.
    Ran,
    /// Nobody can go on unless others than these launches change something: the fault that it is otherwise, and whose.
    Stuck(u64, Box<Fault>),
}

/// A fault, and the number of the launch that it ends.
pub(crate) type Failure = (u64, Box<Fault>);

/// The launches that run.
#[derive(Debug)]
pub(crate) struct Scheduler {
    seed: u64,
    random: Random,
    /// In the order in which they began.
    flights: Vec<Flight>,
    resident: Vec<Cta>,
    /// Launches whose CTAs have all let the next ones begin, since somebody looked.
    pub(crate) let_go: Vec<u64>,
    /// Launches that have ended, and what their threads knew, since somebody looked.
    pub(crate) ended: Vec<(u64, Arc<Clock>)>,
    tally: Tally,
    /// That of memory at the end of the last turn.
    progress: u64,
    /// Turns in a row in which everybody only polled.
    idle: u32,
    timeouts: u32,
    /// All warps run in the next turn.
    everybody: bool,
}

impl Scheduler {
    pub(crate) fn new(seed: u64) -> Scheduler {
        Scheduler {
            seed,
            random: Random::new(seed),
            flights: Vec::new(),
            resident: Vec::new(),
            let_go: Vec::new(),
            ended: Vec::new(),
            tally: Tally::default(),
            progress: 0,
            idle: 0,
            timeouts: 0,
            everybody: true,
        }
    }

    /// What the launches have executed since the last time.
    pub(crate) fn take_counters(&mut self) -> Counters {
        std::mem::take(&mut self.tally).total()
    }

    /// How many launches run.
    pub(crate) fn flights(&self) -> usize {
        self.flights.len()
    }

    /// Whether everybody has only polled for some turns.
    pub(crate) fn polls(&self) -> bool {
        self.idle > 8
    }

    /// Ends all launches where they are.
    pub(crate) fn abort(&mut self) {
        (self.flights, self.resident) = Default::default();
        (self.let_go, self.ended) = Default::default();
    }

    /// A launch begins. Its threads know what `before` does; those that wait for the launches before it learn `previous`,
    /// which may come later.
    pub(crate) fn begin(
        &mut self,
        memory: &mut Memory,
        (id, operation): (u64, Arc<str>),
        grid: Arc<Grid>,
        before: Arc<Clock>,
        previous: Option<Arc<Clock>>,
    ) -> Result<(), Box<Fault>> {
        let label = Label { kernel: grid.kernel.clone(), grid: grid.ctas, block: grid.block, operation };
        let (label, mut agents) = (Arc::new(label), AgentSet::default());
        let first = memory.agents.start(of_launch(&label), Owner::Launch(Arc::clone(&label)), &mut agents);
        let first = first.map_err(|bad| place(&label, None, 0, *bad))?;
        let ctas = grid.ctas.iter().product();
        let taken: u64 = self.flights.iter().map(|f| f.wanted as u64 * f.grid.bytes).sum();
        let room = MOST_BYTES.saturating_sub(taken) / grid.bytes.max(1);
        let mut wanted = grid.resident.min(USUAL).min(room.max(1) as usize);
        if self.seed != 0 {
            wanted = 1 + self.random.below(wanted);
        }
        let waiting = Waiting::new(ctas, (self.seed != 0).then(|| self.random.next()));
        self.flights.push(Flight {
            grid,
            label,
            id,
            ctas,
            first,
            waiting,
            running: 0,
            wanted,
            let_next: 0,
            let_go: false,
            before,
            previous,
            non_coherent: None,
            knew: Arc::default(),
            agents,
            spare: 0..0,
            steps: 0,
            stack: 0,
            delays: if self.seed == 0 { 0 } else { self.random.next() | 1 },
            delayed: Vec::new(),
        });
        memory.agents.progress += 1;
        Ok(())
    }

    /// All launches before one have ended: what those know that wait for them.
    pub(crate) fn release(&mut self, id: u64, previous: Arc<Clock>) {
        let Some(flight) = self.flights.iter_mut().find(|f| f.id == id) else { return };
        flight.previous = Some(previous);
        // Who waits executes its instruction again.
        let waiting = self.resident.iter_mut().filter(|c| c.flight == id).flat_map(|c| &mut c.warps);
        for group in waiting.flat_map(|w| &mut w.groups).filter(|g| g.state == State::Previous) {
            group.state = State::Run;
        }
        self.idle = 0;
    }

    /// Lets everybody run for a while.
    pub(crate) fn turn(&mut self, memory: &mut Memory) -> Result<Turn, Failure> {
        self.fill();
        let (progress, steps) = (memory.agents.progress, self.steps());
        if self.progress != progress {
            (self.idle, self.timeouts) = (0, 0);
        }
        let all = self.everybody || self.seed == 0 || self.idle > 8;
        self.everybody = false;
        let polled = self.round(memory, all)?;
        let ran = self.steps() != steps;
        self.finish(memory)?;
        for flight in self.flights.iter_mut().filter(|f| !f.let_go && f.let_next == f.ctas) {
            flight.let_go = true;
            self.let_go.push(flight.id);
        }
        self.progress = memory.agents.progress;
        if memory.agents.progress != progress {
            (self.idle, self.timeouts) = (0, 0);
        }
        if self.seed != 0 && self.random.below(2) == 0 {
            self.land(memory, false);
        }
        // Rarely, so that there are stores which others do not see; but who polls must see them in the end.
        if self.seed != 0 && (self.idle > 16 || self.random.below(32) == 0) {
            self.reveal(memory, false);
        }
        if !ran {
            // Nobody ran: now copies land, then waits give up.
            if !all {
                self.everybody = true;
            } else if self.land(memory, self.seed == 0) || self.reveal(memory, true) || self.admit() {
                self.timeouts = 0;
            } else if self.time_out() && self.timeouts < TIMEOUTS {
                self.timeouts += 1;
            } else if !self.resident.is_empty() {
                return Ok(self.stuck());
            }
        } else if memory.agents.progress == progress && polled {
            self.idle += 1;
            self.admit();
            if self.idle > PATIENCE {
                if !(self.land(memory, true) | self.reveal(memory, true)) {
                    // Whoever changes something unseen lets them go on within some turns.
                    self.idle = PATIENCE - 16;
                    return Ok(self.stuck());
                }
                self.idle = 0;
            } else if self.seed == 0 {
                self.land(memory, true);
            }
        } else if memory.agents.progress == progress {
            self.idle = 0;
        }
        Ok(Turn::Ran)
    }

    /// Instructions of all that runs.
    fn steps(&self) -> u64 {
        self.flights.iter().map(|f| f.steps).sum()
    }

    /// Starts CTAs, as many as are to run at once.
    fn fill(&mut self) {
        for flight in &mut self.flights {
            while flight.running < flight.wanted {
                let Some(linear) = flight.waiting.pop() else { break };
                self.resident.push(start(flight, linear));
                flight.running += 1;
            }
        }
    }

    /// Lets more CTAs run at once. Whether there are any that fit.
    fn admit(&mut self) -> bool {
        let mut any = false;
        for flight in self.flights.iter_mut().filter(|f| !f.waiting.is_empty() && f.wanted < f.grid.resident) {
            flight.wanted = (2 * flight.wanted).min(flight.grid.resident);
            any = true;
        }
        any
    }

    /// Lets warps run: all, or some. Whether they may all be polling only.
    fn round(&mut self, memory: &mut Memory, all: bool) -> Result<bool, Failure> {
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
            polled &= self.slice(memory, c, w, budget)?;
        }
        Ok(polled)
    }

    /// Lets one warp run. Whether it may be one that only polls.
    fn slice(&mut self, memory: &mut Memory, c: usize, w: usize, budget: u32) -> Result<bool, Failure> {
        let coin = self.seed != 0 && self.random.below(8) == 0;
        let Cta { flight, team, warps } = &mut self.resident[c];
        let Some(flight) = self.flights.iter_mut().find(|f| f.id == *flight) else { return Ok(true) };
        let (grid, label, id) = (&*Arc::clone(&flight.grid), Arc::clone(&flight.label), flight.id);
        let warp = &mut warps[w];
        let rotate = warp.groups.len() > 1 && (warp.rotate || coin);
        warp.rotate = false;
        let mut ctx = Ctx { memory, grid, flight, tally: &mut self.tally, team, warp };
        let stop = match ctx.slice(budget, rotate) {
            Ok(stop) => stop,
            Err((bad, pc)) => {
                let line = grid.program.code[pc as usize].line;
                return Err((id, place(&label, Some((team.id, warp.index)), line, *bad)));
            }
        };
        if flight.steps > grid.max_steps {
            let line = warp.groups.first().map_or(0, |g| grid.program.code[g.pc as usize].line);
            let what = format!("more than {} instructions of warps", grid.max_steps);
            let bad = Bad { kind: FaultKind::StepLimit, lane: 0, address: None, detail: what };
            return Err((id, place(&label, Some((team.id, warp.index)), line, bad)));
        }
        // A slice that ends by itself may be a loop that waits for lanes of its own warp: they take turns.
        warp.rotate = !rotate && matches!(stop, Stop::Spent | Stop::Polled);
        warp.since_poll = if stop == Stop::Spent { warp.since_poll.saturating_add(budget) } else { 0 };
        let busy = warp.since_poll > SLICE || matches!(stop, Stop::Completed(_));
        if let Stop::Completed(completed) = stop {
            self.resident[c].complete(&grid.program, completed);
        }
        Ok(!busy)
    }

    /// Removes CTAs and launches that have ended, and looks at what they left.
    fn finish(&mut self, memory: &mut Memory) -> Result<(), Failure> {
        let mut c = 0;
        while c < self.resident.len() {
            let Cta { flight, team, warps } = &mut self.resident[c];
            if warps.iter().any(|w| w.order.live != 0) {
                c += 1;
                continue;
            }
            let Some(flight) = self.flights.iter_mut().find(|f| f.id == *flight) else { return Ok(()) };
            let (grid, label) = (&flight.grid, &flight.label);
            if let Some(l) = team.landings.first() {
                let line = grid.program.code[l.pc as usize].line;
                let what = "the CTA ends before this copy has landed".to_owned();
                let bad = Bad { kind: FaultKind::AsyncCopy, lane: l.lane, address: Some(l.target), detail: what };
                return Err((flight.id, place(label, Some((team.id, l.warp)), line, bad)));
            }
            if let Some((&address, b)) = team.mbarriers.iter().filter(|(_, b)| b.tx != 0).min_by_key(|(a, _)| **a) {
                let detail = format!("the CTA ends in {}", b.describe());
                let bad = Bad { kind: FaultKind::MbarrierTx, lane: 0, address: Some(address), detail };
                return Err((flight.id, place(label, Some((team.id, 0)), 0, bad)));
            }
            for warp in warps {
                join(&mut flight.knew, &warp.order.knowledge.joined(FULL));
            }
            flight.delayed.append(&mut team.delayed);
            flight.running -= 1;
            flight.let_next += u32::from(!team.let_next);
            let over = flight.running == 0 && flight.waiting.is_empty();
            let id = flight.id;
            self.resident.swap_remove(c);
            if over {
                for d in flight.delayed.drain(..) {
                    d.reveal(memory);
                }
                self.end(id);
                memory.agents.progress += 1;
            }
        }
        Ok(())
    }

    /// A launch ends.
    fn end(&mut self, id: u64) {
        let Some(index) = self.flights.iter().position(|f| f.id == id) else { return };
        let flight = self.flights.remove(index);
        if !flight.let_go {
            self.let_go.push(id);
        }
        self.ended.push((id, flight.over()));
    }

    /// Lands all copies, or a random one. Whether there was one.
    fn land(&mut self, memory: &mut Memory, all: bool) -> bool {
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
        memory.agents.progress += 1;
        true
    }

    /// All CTAs see all stores that were delayed, or a random one. Whether there was one.
    fn reveal(&mut self, memory: &mut Memory, all: bool) -> bool {
        let teams = self.resident.iter_mut().map(|c| &mut c.team.delayed);
        let mut with: Vec<&mut Vec<Delayed>> = teams.chain(self.flights.iter_mut().map(|f| &mut f.delayed)).collect();
        with.retain(|delayed| !delayed.is_empty());
        if with.is_empty() {
            return false;
        }
        if all {
            with.into_iter().flat_map(|delayed| delayed.drain(..)).for_each(|d| d.reveal(memory));
        } else {
            let which = self.random.below(with.len());
            let i = self.random.below(with[which].len());
            with[which].remove(i).reveal(memory);
        }
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
    fn stuck(&self) -> Turn {
        let mut kind = FaultKind::Deadlock;
        let mut where_ = None;
        let mut stories = Vec::new();
        for cta in &self.resident {
            let Some(flight) = self.flights.iter().find(|f| f.id == cta.flight) else { continue };
            let grid = &flight.grid;
            for warp in &cta.warps {
                let who = (cta.team.id, warp.index);
                for g in &warp.groups {
                    let line = grid.program.code[g.pc as usize].line;
                    let (story, address) = waits_for(&cta.team, g.state);
                    let lane = g.mask.trailing_zeros();
                    where_.get_or_insert((flight, Some(who), lane, line, address));
                    match g.state {
                        // Unless one of its other lanes may still come.
                        State::Aligned if warp.groups.iter().all(|o| !may_go_on(o.state)) => {
                            kind = FaultKind::Divergence;
                            where_ = Some((flight, Some(who), lane, line, None));
                        }
                        State::Mbarrier { address, .. }
                            if kind == FaultKind::Deadlock
                                && cta.team.mbarriers.get(&address).is_some_and(|b| b.unbalanced()) =>
                        {
                            kind = FaultKind::MbarrierTx;
                            where_ = Some((flight, Some(who), lane, line, Some(address)));
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
        for f in self.flights.iter().filter(|f| !f.waiting.is_empty()) {
            stories.push(format!("{} CTAs of {} do not fit", f.waiting.len(), f.label.kernel));
        }
        let detail = format!("nobody can go on: {}", stories.join("; "));
        match where_ {
            Some((flight, who, lane, line, address)) => {
                Turn::Stuck(flight.id, place(&flight.label, who, line, Bad { kind, lane, address, detail }))
            }
            None => Turn::Ran,
        }
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
        State::Previous => ("waits for the launch before".into(), None),
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
    team.shared.store.write(at, &l.data);
    team.shared.store.set_written(at, len);
    if let Some(b) = team.mbarriers.get(&l.mbarrier) {
        let epoch = Epoch::new(b.agent, b.phase + 1, 0, Strength::Weak).by(l.by);
        team.shared.races.stamp_write(epoch, at, len);
    }
    team.complete_tx(l.mbarrier, len as u64);
}
