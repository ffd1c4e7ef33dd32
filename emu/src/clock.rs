//! What a thread knows to have happened. Agents are numbered between boundaries (`memory`); the host is the first, a
//! warp is an agent whose lanes count separately, and so is each source of asynchronous writes. An [`Epoch`] names an
//! access: agent, lane and time. A [`Clock`] says up to which time each agent's accesses happened before, or that the
//! agent is over; [`Knowledge`] is the clocks of a warp's lanes, which are mostly one and the same.

use crate::alu::FULL;
use std::ops::Range;
use std::sync::Arc;

/// Number of an agent.
pub(crate) type Agent = u32;

/// An access: agent, time, width, lane, source, strength; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Epoch(pub(crate) u64);

/// How far an access is ordered by itself: weak, or strong in a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Strength {
    Weak = 0,
    Cta = 1,
    Gpu = 2,
    Sys = 3,
}

/// How an access reaches memory: whether copies of the async proxy see it once it has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// A thread, by the generic proxy: after a proxy fence.
    Thread = 0,
    /// A `cp.async`, by the generic proxy too.
    CpAsync = 1,
    /// The async proxy itself.
    Bulk = 2,
}

/// How wide the scalar accesses are that an access is made of: two writes of one width at one place write the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Width(u8);

impl Width {
    /// Of bytes: 1 to 16, a power of two.
    pub(crate) fn of(bytes: u32) -> Width {
        Width(bytes.trailing_zeros().min(5) as u8)
    }

    /// Of a `cp.async`.
    pub(crate) const COPY: Width = Width(7);
    /// Of anything else, which never counts as a repetition.
    pub(crate) const OTHER: Width = Width(6);
}

/// Agents of a warp: its threads, its `cp.async`, reads and writes of its bulk stores, and its proxy fences.
pub(crate) const AGENTS_PER_WARP: u32 = 7;
pub(crate) const CP_ASYNC: u32 = 1;
pub(crate) const BULK_READ: u32 = 2;
pub(crate) const BULK_WRITE: u32 = 3;
/// An agent of fences stands for accesses of another one, at their times: who knows it knows that the async proxy sees
/// what a thread wrote to shared memory, to global memory, and what its `cp.async` wrote.
pub(crate) const FENCED_SHARED: u32 = 4;
pub(crate) const FENCED_GLOBAL: u32 = 5;
pub(crate) const FENCED_CP_ASYNC: u32 = 6;

/// The agent that is the host.
pub(crate) const HOST: Agent = 1;
/// Largest number of an agent.
pub(crate) const MAX_AGENT: Agent = (1 << 26) - 1;
/// Latest time.
pub(crate) const MAX_TIME: u32 = (1 << 25) - 1;

impl Epoch {
    pub(crate) fn new(agent: Agent, time: u32, lane: u32, strength: Strength) -> Epoch {
        Epoch(u64::from(agent) << 37 | u64::from(time) << 12 | u64::from(lane) << 4 | strength as u64)
    }

    /// The same access, of a width.
    #[inline]
    pub(crate) fn wide(self, width: Width) -> Epoch {
        Epoch(self.0 & !(7 << 9) | u64::from(width.0) << 9)
    }

    pub(crate) fn width(self) -> Width {
        Width((self.0 >> 9 & 7) as u8)
    }

    /// The same access from another source than a thread.
    pub(crate) fn by(self, source: Source) -> Epoch {
        Epoch(self.0 & !12 | (source as u64) << 2)
    }

    pub(crate) fn source(self) -> Source {
        match self.0 >> 2 & 3 {
            0 => Source::Thread,
            1 => Source::CpAsync,
            _ => Source::Bulk,
        }
    }

    pub(crate) fn agent(self) -> Agent {
        (self.0 >> 37) as u32
    }

    pub(crate) fn time(self) -> u32 {
        (self.0 >> 12) as u32 & MAX_TIME
    }

    pub(crate) fn lane(self) -> u32 {
        (self.0 >> 4) as u32 & 31
    }

    pub(crate) fn strength(self) -> Strength {
        match self.0 & 3 {
            0 => Strength::Weak,
            1 => Strength::Cta,
            2 => Strength::Gpu,
            _ => Strength::Sys,
        }
    }
}

/// Up to which time the accesses of an agent are known: of all lanes, and of single lanes beyond that.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    agent: Agent,
    all: u32,
    lanes: Option<Arc<[u32; 32]>>,
}

impl Entry {
    fn time(&self, lane: u32) -> u32 {
        self.lanes.as_ref().map_or(self.all, |l| l[lane as usize].max(self.all))
    }

    fn covers(&self, other: &Entry) -> bool {
        if other.all > self.all {
            return false;
        }
        match (&self.lanes, &other.lanes) {
            (_, None) => true,
            (Some(a), Some(b)) if Arc::ptr_eq(a, b) => true,
            (_, Some(b)) => (0..32).all(|l| b[l] <= self.time(l as u32)),
        }
    }

    fn join(&mut self, other: &Entry) {
        if self.covers(other) {
            return;
        }
        if other.covers(self) {
            self.clone_from(other);
            return;
        }
        let lanes: [u32; 32] = std::array::from_fn(|l| self.time(l as u32).max(other.time(l as u32)));
        self.all = lanes.iter().copied().min().unwrap_or(0);
        self.lanes = if lanes.iter().all(|&t| t == self.all) { None } else { Some(Arc::new(lanes)) };
    }
}

/// Sets of agents: ranges in order, apart from each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AgentSet(Vec<Range<Agent>>);

impl AgentSet {
    #[inline]
    fn contains(&self, agent: Agent) -> bool {
        !self.0.is_empty()
            && self.0[self.0.partition_point(|r| r.end <= agent)..].first().is_some_and(|r| r.start <= agent)
    }

    /// Adds a range.
    pub(crate) fn insert(&mut self, range: Range<Agent>) {
        let from = self.0.partition_point(|r| r.end < range.start);
        let to = self.0.partition_point(|r| r.start <= range.end);
        let touched = &self.0[from..to];
        let start = touched.first().map_or(range.start, |r| r.start.min(range.start));
        let end = touched.last().map_or(range.end, |r| r.end.max(range.end));
        self.0.splice(from..to, std::iter::once(start..end));
    }

    fn covers(&self, other: &AgentSet) -> bool {
        let mut mine = self.0.iter().peekable();
        other.0.iter().all(|o| {
            while mine.next_if(|r| r.end < o.end).is_some() {}
            mine.peek().is_some_and(|r| r.start <= o.start)
        })
    }
}

/// What happened before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Clock {
    /// Agents of operations that have ended, whose accesses are all known.
    over: AgentSet,
    /// Other agents, in order of their numbers.
    entries: Vec<Entry>,
}

impl Clock {
    /// Time up to which a lane of an agent is known.
    pub(crate) fn time(&self, agent: Agent, lane: u32) -> u32 {
        self.entry(agent).map_or_else(|| self.time_if_over(agent), |e| e.time(lane))
    }

    /// Time up to which all lanes of an agent are known.
    pub(crate) fn time_of_all(&self, agent: Agent) -> u32 {
        self.entry(agent).map_or_else(|| self.time_if_over(agent), |e| e.all)
    }

    #[inline]
    fn entry(&self, agent: Agent) -> Option<&Entry> {
        self.entries.binary_search_by_key(&agent, |e| e.agent).ok().map(|i| &self.entries[i])
    }

    fn time_if_over(&self, agent: Agent) -> u32 {
        if self.over.contains(agent) { MAX_TIME } else { 0 }
    }

    fn covers(&self, other: &Clock) -> bool {
        let mut mine = self.entries.iter();
        self.over.covers(&other.over)
            && other.entries.iter().filter(|theirs| !self.over.contains(theirs.agent)).all(|theirs| {
                mine.by_ref()
                    .find(|e| e.agent >= theirs.agent)
                    .is_some_and(|e| e.agent == theirs.agent && e.covers(theirs))
            })
    }

    /// All accesses of these agents are known.
    pub(crate) fn end(&mut self, agents: &AgentSet) {
        for range in &agents.0 {
            self.over.insert(range.clone());
        }
        self.entries.retain(|e| !self.over.contains(e.agent));
    }

    /// Adds what another clock knows.
    fn add(&mut self, other: &Clock) {
        if !self.over.covers(&other.over) {
            self.end(&other.over);
        }
        let mut at = 0;
        for theirs in other.entries.iter().filter(|theirs| !self.over.contains(theirs.agent)) {
            while self.entries.get(at).is_some_and(|e| e.agent < theirs.agent) {
                at += 1;
            }
            match self.entries.get_mut(at) {
                Some(mine) if mine.agent == theirs.agent => mine.join(theirs),
                _ => self.entries.insert(at, theirs.clone()),
            }
        }
    }

    /// Adds the accesses of some lanes of an agent up to a time.
    pub(crate) fn see(&mut self, agent: Agent, lanes: u32, time: u32) {
        let entry = if lanes == FULL {
            Entry { agent, all: time, lanes: None }
        } else {
            let times = std::array::from_fn(|l| if lanes >> l & 1 != 0 { time } else { 0 });
            Entry { agent, all: 0, lanes: Some(Arc::new(times)) }
        };
        match self.entries.binary_search_by_key(&agent, |e| e.agent) {
            Ok(i) => self.entries[i].join(&entry),
            Err(i) => self.entries.insert(i, entry),
        }
    }
}

/// Joins a clock into another; shares it where one has all that the other knows.
pub(crate) fn join(into: &mut Arc<Clock>, other: &Arc<Clock>) {
    if Arc::ptr_eq(into, other) || into.covers(other) {
        return;
    }
    if other.covers(into) {
        *into = Arc::clone(other);
        return;
    }
    Arc::make_mut(into).add(other);
}

/// A clock for each lane of a warp: disjoint sets of lanes, each with theirs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Knowledge {
    classes: Vec<(u32, Arc<Clock>)>,
}

impl Knowledge {
    /// All lanes with one clock.
    pub(crate) fn of(clock: Arc<Clock>) -> Knowledge {
        Knowledge { classes: vec![(FULL, clock)] }
    }

    /// The clock of all lanes, if they have one.
    pub(crate) fn common(&self) -> Option<&Arc<Clock>> {
        match self.classes.as_slice() {
            [(FULL, clock)] => Some(clock),
            _ => None,
        }
    }

    /// The clock of a lane.
    pub(crate) fn of_lane(&self, lane: u32) -> Option<&Arc<Clock>> {
        self.classes.iter().find(|(mask, _)| mask >> lane & 1 != 0).map(|(_, clock)| clock)
    }

    /// What some lanes know together.
    pub(crate) fn joined(&self, lanes: u32) -> Arc<Clock> {
        let mut all: Option<Arc<Clock>> = None;
        for (_, clock) in self.classes.iter().filter(|(mask, _)| mask & lanes != 0) {
            match &mut all {
                Some(all) => join(all, clock),
                None => all = Some(Arc::clone(clock)),
            }
        }
        all.unwrap_or_default()
    }

    /// The clocks of some lanes, by sets of lanes.
    pub(crate) fn parts(&self, lanes: u32) -> impl Iterator<Item = (u32, &Arc<Clock>)> {
        self.classes.iter().map(move |(mask, clock)| (mask & lanes, clock)).filter(|(mask, _)| *mask != 0)
    }

    /// Gives some lanes a clock instead of theirs.
    pub(crate) fn set(&mut self, lanes: u32, clock: Arc<Clock>) {
        self.classes.retain_mut(|(mask, _)| {
            *mask &= !lanes;
            *mask != 0
        });
        match self.classes.iter_mut().find(|(_, c)| Arc::ptr_eq(c, &clock)) {
            Some((mask, _)) => *mask |= lanes,
            None => self.classes.push((lanes, clock)),
        }
    }

    /// Adds a clock to those of some lanes. Whether anything changed.
    pub(crate) fn join(&mut self, lanes: u32, clock: &Arc<Clock>) -> bool {
        let parts: Vec<(u32, Arc<Clock>)> = self
            .parts(lanes)
            .filter(|(_, c)| !Arc::ptr_eq(c, clock) && !c.covers(clock))
            .map(|(mask, c)| (mask, Arc::clone(c)))
            .collect();
        for (mask, mut joined) in parts.iter().cloned() {
            join(&mut joined, clock);
            self.set(mask, joined);
        }
        !parts.is_empty()
    }

    /// Forgets the clocks of some lanes.
    pub(crate) fn clear(&mut self, lanes: u32) {
        self.classes.retain_mut(|(mask, _)| {
            *mask &= !lanes;
            *mask != 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_agents_are_sets() {
        let mut random = 1u64;
        let mut next = |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % n
        };
        for _ in 0..200 {
            let (mut set, mut plain, mut part) = (AgentSet::default(), [false; 64], AgentSet::default());
            for _ in 0..next(9) {
                let start = next(60) as u32;
                let range = start..start + 1 + next(u64::from(64 - start)) as u32 / 4;
                plain[range.start as usize..range.end as usize].fill(true);
                set.insert(range.clone());
                if next(2) == 0 {
                    part.insert(range);
                }
            }
            assert!((0..64).all(|a| set.contains(a) == plain[a as usize]), "{set:?}");
            assert!(set.0.windows(2).all(|w| w[0].end < w[1].start), "{set:?}");
            assert!(set.covers(&part));
            assert_eq!(part.covers(&set), part == set, "{set:?} {part:?}");
        }
    }

    #[test]
    fn what_is_over_is_known() {
        let mut early = Clock::default();
        early.see(5, FULL, 3);
        early.see(20, 1, 7);
        let mut late = Clock::default();
        let mut over = AgentSet::default();
        over.insert(4..9);
        late.end(&over);
        late.see(20, 2, 6);
        assert!(!late.covers(&early) && !early.covers(&late));
        let mut both = Arc::new(early.clone());
        join(&mut both, &Arc::new(late.clone()));
        assert!(both.covers(&early) && both.covers(&late));
        assert_eq!((both.time_of_all(5), both.time(8, 3), both.time(9, 3)), (MAX_TIME, MAX_TIME, 0));
        assert_eq!((both.time(20, 0), both.time(20, 1), both.time_of_all(20)), (7, 6, 0));
    }
}
