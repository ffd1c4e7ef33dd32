//! What a thread knows to have happened. Agents are numbered from 1 within a launch; a warp is an agent whose lanes count
//! separately, and so is each source of asynchronous writes. An [`Epoch`] names an access: agent, lane and time. A
//! [`Clock`] says up to which time each agent's accesses happened before; [`Knowledge`] is the clocks of a warp's lanes,
//! which are mostly one and the same.

use crate::alu::FULL;
use std::rc::Rc;

/// Number of an agent.
pub(crate) type Agent = u32;

/// An access: agent, time, lane, strength; 0 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Epoch(pub(crate) u64);

/// How far an access is ordered by itself: weak, or strong in a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Strength {
    Weak = 0,
    Cta = 1,
    Gpu = 2,
}

/// Largest number of an agent.
pub(crate) const MAX_AGENT: Agent = (1 << 26) - 1;
/// Latest time.
pub(crate) const MAX_TIME: u32 = (1 << 28) - 1;

impl Epoch {
    pub(crate) fn new(agent: Agent, time: u32, lane: u32, strength: Strength) -> Epoch {
        Epoch(u64::from(agent) << 37 | u64::from(time) << 9 | u64::from(lane) << 4 | strength as u64)
    }

    pub(crate) fn agent(self) -> Agent {
        (self.0 >> 37) as u32
    }

    pub(crate) fn time(self) -> u32 {
        (self.0 >> 9) as u32 & MAX_TIME
    }

    pub(crate) fn lane(self) -> u32 {
        (self.0 >> 4) as u32 & 31
    }

    pub(crate) fn strength(self) -> Strength {
        match self.0 & 3 {
            0 => Strength::Weak,
            1 => Strength::Cta,
            _ => Strength::Gpu,
        }
    }
}

/// Up to which time the accesses of an agent are known: of all lanes, and of single lanes beyond that.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    agent: Agent,
    all: u32,
    lanes: Option<Rc<[u32; 32]>>,
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
            (Some(a), Some(b)) if Rc::ptr_eq(a, b) => true,
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
        self.lanes = if lanes.iter().all(|&t| t == self.all) { None } else { Some(Rc::new(lanes)) };
    }
}

/// What happened before, by agents in order of their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Clock {
    entries: Vec<Entry>,
}

impl Clock {
    /// Time up to which a lane of an agent is known.
    pub(crate) fn time(&self, agent: Agent, lane: u32) -> u32 {
        self.entries.binary_search_by_key(&agent, |e| e.agent).map_or(0, |i| self.entries[i].time(lane))
    }

    /// Time up to which all lanes of an agent are known.
    pub(crate) fn time_of_all(&self, agent: Agent) -> u32 {
        self.entries.binary_search_by_key(&agent, |e| e.agent).map_or(0, |i| self.entries[i].all)
    }

    fn covers(&self, other: &Clock) -> bool {
        let mut mine = self.entries.iter();
        other.entries.iter().all(|theirs| {
            mine.by_ref().find(|e| e.agent >= theirs.agent).is_some_and(|e| e.agent == theirs.agent && e.covers(theirs))
        })
    }

    /// Adds what another clock knows.
    fn add(&mut self, other: &Clock) {
        let mut at = 0;
        for theirs in &other.entries {
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
            Entry { agent, all: 0, lanes: Some(Rc::new(times)) }
        };
        match self.entries.binary_search_by_key(&agent, |e| e.agent) {
            Ok(i) => self.entries[i].join(&entry),
            Err(i) => self.entries.insert(i, entry),
        }
    }
}

/// Joins a clock into another; shares it where one has all that the other knows.
pub(crate) fn join(into: &mut Rc<Clock>, other: &Rc<Clock>) {
    if Rc::ptr_eq(into, other) || into.covers(other) {
        return;
    }
    if other.covers(into) {
        *into = Rc::clone(other);
        return;
    }
    Rc::make_mut(into).add(other);
}

/// A clock for each lane of a warp: disjoint sets of lanes, each with theirs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Knowledge {
    classes: Vec<(u32, Rc<Clock>)>,
}

impl Knowledge {
    /// All lanes with one clock.
    pub(crate) fn of(clock: Rc<Clock>) -> Knowledge {
        Knowledge { classes: vec![(FULL, clock)] }
    }

    /// The clock of all lanes, if they have one.
    pub(crate) fn common(&self) -> Option<&Rc<Clock>> {
        match self.classes.as_slice() {
            [(FULL, clock)] => Some(clock),
            _ => None,
        }
    }

    /// The clock of a lane.
    pub(crate) fn of_lane(&self, lane: u32) -> Option<&Rc<Clock>> {
        self.classes.iter().find(|(mask, _)| mask >> lane & 1 != 0).map(|(_, clock)| clock)
    }

    /// What some lanes know together.
    pub(crate) fn joined(&self, lanes: u32) -> Rc<Clock> {
        let mut all: Option<Rc<Clock>> = None;
        for (_, clock) in self.classes.iter().filter(|(mask, _)| mask & lanes != 0) {
            match &mut all {
                Some(all) => join(all, clock),
                None => all = Some(Rc::clone(clock)),
            }
        }
        all.unwrap_or_default()
    }

    /// The clocks of some lanes, by sets of lanes.
    pub(crate) fn parts(&self, lanes: u32) -> impl Iterator<Item = (u32, &Rc<Clock>)> {
        self.classes.iter().map(move |(mask, clock)| (mask & lanes, clock)).filter(|(mask, _)| *mask != 0)
    }

    /// Gives some lanes a clock instead of theirs.
    pub(crate) fn set(&mut self, lanes: u32, clock: Rc<Clock>) {
        self.classes.retain_mut(|(mask, _)| {
            *mask &= !lanes;
            *mask != 0
        });
        match self.classes.iter_mut().find(|(_, c)| Rc::ptr_eq(c, &clock)) {
            Some((mask, _)) => *mask |= lanes,
            None => self.classes.push((lanes, clock)),
        }
    }

    /// Adds a clock to those of some lanes. Whether anything changed.
    pub(crate) fn join(&mut self, lanes: u32, clock: &Rc<Clock>) -> bool {
        let parts: Vec<(u32, Rc<Clock>)> = self
            .parts(lanes)
            .filter(|(_, c)| !Rc::ptr_eq(c, clock) && !c.covers(clock))
            .map(|(mask, c)| (mask, Rc::clone(c)))
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
