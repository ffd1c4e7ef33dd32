//! What a launch is made of while it runs: CTAs of warps, warps of groups of lanes that stand at one instruction, and what
//! they know of each other.

use crate::agents::Published;
use crate::alu::{FULL, Lanes, WARP};
use crate::clock::{AGENTS_PER_WARP, Agent, AgentSet, CP_ASYNC, Clock, Epoch, Knowledge, MAX_TIME, join};
use crate::counters::Tally;
use crate::exec::barrier::CtaBarrier;
use crate::exec::copies::{CpAsyncState, Landing};
use crate::exec::delay::Delayed;
use crate::exec::mbarrier::MbarrierState;
use crate::exec::undefined::Undefined;
pub(crate) use crate::fault::{Bad, Done};
use crate::fault::{FaultKind, Label};
use crate::memory::{Memory, Region};
use crate::program::{CONSTANT, PredRef, Program, Reg};
use crate::race::{Memo, Who};
use crate::store::Store;
use crate::types::Scope;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Bytes that the threads of a launch may take at once: registers, local and shared memory; and as many by calls.
pub(crate) const MOST_BYTES: u64 = 1 << 28;

/// Lanes of a mask, in order.
pub(crate) fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        let lane = rest.trailing_zeros() as usize;
        let some = rest != 0;
        rest &= rest.wrapping_sub(1);
        some.then_some(lane)
    })
}

/// Why a group does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Run,
    /// At a CTA barrier.
    Barrier(u32),
    /// At a cluster barrier.
    Cluster,
    /// At an exchange with other lanes of the warp.
    Collective {
        members: u32,
    },
    /// At an `.aligned` instruction, until all lanes of the warp are there.
    Aligned,
    /// Until the launch before has ended.
    Previous,
    /// Suspended in `try_wait`; the count of phases that the CTA had seen.
    Mbarrier {
        seen: u64,
        address: u64,
    },
}

/// Where a function returns to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) call: u32,
    pub(crate) window: Window,
}

/// The registers, predicates and local memory of a running function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) registers: u32,
    pub(crate) predicates: u32,
    pub(crate) frame: u32,
    pub(crate) function: u32,
}

/// Lanes at one instruction, with one call stack.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) pc: u32,
    pub(crate) mask: u32,
    pub(crate) state: State,
    pub(crate) window: Window,
    pub(crate) calls: Vec<Frame>,
    /// Its next `try_wait` gives up.
    pub(crate) timed_out: bool,
    /// The last wait for an mbarrier (where, its address and phase), and at which step of the warp it was.
    pub(crate) asked: Option<((u32, u64, u64), u64)>,
}

/// A fence that a strong write may follow: what its lanes knew, and their time.
#[derive(Debug, Clone)]
pub(crate) struct Fenced {
    pub(crate) lanes: u32,
    pub(crate) clock: Arc<Clock>,
    pub(crate) time: u32,
    pub(crate) scope: Scope,
}

/// The order of a warp's accesses.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) agent: Agent,
    pub(crate) now: u32,
    pub(crate) knowledge: Knowledge,
    pub(crate) memo: Memo,
    pub(crate) fenced: Vec<Fenced>,
    /// What relaxed reads saw, until a fence.
    pub(crate) seen: Knowledge,
    pub(crate) cta: Range<Agent>,
    /// Which of its own accesses a lane knows, by kind of agent: all of the thread's, copies it has waited for, what it has
    /// fenced.
    pub(crate) waited: Box<[[u32; WARP]; AGENTS_PER_WARP as usize]>,
    /// Lanes that have a thread.
    pub(crate) exist: u32,
    /// Those that have not exited.
    pub(crate) live: u32,
}

impl Order {
    /// Of a warp, or something like it, that has done nothing yet.
    pub(crate) fn new(agent: Agent, cta: Range<Agent>, before: &Arc<Clock>, exist: u32) -> Order {
        Order {
            agent,
            now: 1,
            knowledge: Knowledge::of(Arc::clone(before)),
            memo: Memo::default(),
            fenced: Vec::new(),
            seen: Knowledge::default(),
            cta,
            waited: Box::new(std::array::from_fn(|kind| [if kind == 0 { u32::MAX } else { 0 }; WARP])),
            exist,
            live: exist,
        }
    }

    /// The warp as the race detector sees it.
    #[inline]
    pub(crate) fn who(&mut self) -> Who<'_> {
        Who {
            agent: self.agent,
            now: self.now,
            knowledge: &self.knowledge,
            memo: &mut self.memo,
            waited: &self.waited,
            cta: self.cta.clone(),
        }
    }

    /// Time goes on, so that later accesses are not part of what was released.
    pub(crate) fn tick(&mut self, lane: u32) -> Done {
        self.now += 1;
        if self.now < MAX_TIME {
            return Ok(());
        }
        Err(Bad::new(FaultKind::StepLimit, lane, None, "too many synchronisations"))
    }

    /// What some lanes have done and know, up to a time.
    pub(crate) fn snapshot(&self, lanes: u32, time: u32) -> Arc<Clock> {
        let mut clock = self.knowledge.joined(lanes);
        let inner = Arc::make_mut(&mut clock);
        let mut see = |agent, part, time| inner.see(agent, if part == self.exist { FULL } else { part }, time);
        see(self.agent, lanes, time);
        for which in CP_ASYNC..AGENTS_PER_WARP {
            let waited = &self.waited[which as usize];
            let mut left = self::lanes(lanes).filter(|&l| waited[l] > 0).fold(0u32, |m, l| m | 1 << l);
            while left != 0 {
                let time = waited[left.trailing_zeros() as usize];
                let same = self::lanes(left).filter(|&l| waited[l] == time).fold(0, |m, l| m | 1 << l);
                see(self.agent + which, same, time);
                left &= !same;
            }
        }
        clock
    }

    /// Whether a lane knows an access.
    pub(crate) fn knows(&self, lane: u32, e: Epoch) -> bool {
        let own = e.agent() == self.agent && e.lane() == lane;
        own || self.knowledge.of_lane(lane).map_or(0, |c| c.time(e.agent(), e.lane())) >= e.time()
    }

    /// [`Order::snapshot`] of now; what follows is later.
    pub(crate) fn release(&mut self, lanes: u32) -> Done<Arc<Clock>> {
        let clock = self.snapshot(lanes, self.now);
        self.tick(lanes.trailing_zeros())?;
        Ok(clock)
    }

    /// Lanes, and with them those that nobody asks about any more.
    fn spread(&self, lanes: u32) -> u32 {
        if lanes & self.live == self.live { FULL } else { lanes }
    }

    /// Lanes learn what a clock knows.
    pub(crate) fn acquire(&mut self, lanes: u32, clock: &Arc<Clock>) {
        if self.knowledge.join(self.spread(lanes), clock) {
            self.memo = Memo::default();
        }
    }

    /// A strong read of a lane finds what a clock knows: known at once if it acquires, or after the next fence.
    pub(crate) fn read_strongly(&mut self, lane: u32, clock: &Arc<Clock>, acquires: bool) {
        if acquires {
            self.acquire(1 << lane, clock);
        } else if self.seen.of_lane(lane).is_none() {
            self.seen.set(1 << lane, Arc::clone(clock));
        } else {
            self.seen.join(1 << lane, clock);
        }
    }

    /// Lanes know what a clock knows, which has all that they know already.
    pub(crate) fn adopt(&mut self, lanes: u32, clock: Arc<Clock>) {
        self.knowledge.set(self.spread(lanes), clock);
        self.memo = Memo::default();
    }
}

/// A warp.
#[derive(Debug)]
pub(crate) struct Warp {
    pub(crate) index: u32,
    pub(crate) groups: Vec<Group>,
    pub(crate) registers: Vec<Lanes>,
    pub(crate) predicates: Vec<u32>,
    /// The carry flag of each lane.
    pub(crate) carry: u32,
    pub(crate) order: Order,
    pub(crate) local: Vec<Store>,
    pub(crate) cp_async: Vec<CpAsyncState>,
    /// Nothing until a load finds memory that nobody wrote.
    pub(crate) undefined: Option<Box<Undefined>>,
    /// Instructions so far.
    pub(crate) steps: u64,
    /// Which group runs next if they take turns.
    pub(crate) turn: usize,
    /// They do, in the next slice.
    pub(crate) rotate: bool,
    /// Instructions of slices that were used up since it polled, at least.
    pub(crate) since_poll: u32,
}

impl Warp {
    /// The lanes where a predicate holds.
    #[inline]
    pub(crate) fn holds(&self, window: Window, p: PredRef) -> u32 {
        let bits = self.predicates[window.predicates as usize + usize::from(p.index)];
        if p.negated { !bits } else { bits }
    }

    /// Sets a predicate of some lanes.
    #[inline]
    pub(crate) fn set_predicate(&mut self, window: Window, p: u16, mask: u32, value: u32) {
        let slot = &mut self.predicates[window.predicates as usize + usize::from(p)];
        *slot = *slot & !mask | value & mask;
    }

    /// A register or a constant.
    #[inline]
    pub(crate) fn get<'a>(&'a self, constants: &'a [Lanes], window: Window, r: Reg) -> &'a Lanes {
        if r >= CONSTANT {
            &constants[(r - CONSTANT) as usize]
        } else {
            &self.registers[(window.registers + r) as usize]
        }
    }

    /// Writes a register of some lanes.
    #[inline]
    pub(crate) fn set(&mut self, window: Window, r: Reg, mask: u32, value: &Lanes) {
        let slot = &mut self.registers[(window.registers + r) as usize];
        if mask == FULL {
            *slot = *value;
            return;
        }
        for i in 0..WARP {
            slot[i] = if mask >> i & 1 != 0 { value[i] } else { slot[i] };
        }
    }
}

/// What the threads of a CTA share.
#[derive(Debug)]
pub(crate) struct Team {
    pub(crate) id: [u32; 3],
    pub(crate) linear: u32,
    pub(crate) threads: u32,
    pub(crate) exited: u32,
    pub(crate) shared: Region,
    pub(crate) barriers: Vec<CtaBarrier>,
    pub(crate) cluster: CtaBarrier,
    pub(crate) mbarriers: HashMap<u64, MbarrierState>,
    /// Phases of mbarriers that have completed.
    pub(crate) phases: u64,
    pub(crate) landings: Vec<Landing>,
    /// Stores that other CTAs do not see yet.
    pub(crate) delayed: Vec<Delayed>,
    pub(crate) published: HashMap<u64, Published>,
    /// What is known after the sequentially consistent fences of the CTA.
    pub(crate) sc_fences: Arc<Clock>,
    /// Whether a thread let the next launch begin.
    pub(crate) let_next: bool,
}

/// A CTA that runs.
#[derive(Debug)]
pub(crate) struct Cta {
    /// Its launch.
    pub(crate) flight: u64,
    pub(crate) team: Team,
    pub(crate) warps: Vec<Warp>,
}

/// What a launch asked for; the same while it runs.
#[derive(Debug)]
pub(crate) struct Grid {
    pub(crate) kernel: String,
    pub(crate) program: Arc<Program>,
    pub(crate) constants: Vec<Lanes>,
    pub(crate) params: Vec<u8>,
    pub(crate) ctas: [u32; 3],
    /// Threads of a CTA in each direction.
    pub(crate) block: [u32; 3],
    /// The function that it runs.
    pub(crate) function: u32,
    /// Bytes of shared memory of a CTA.
    pub(crate) shared: u64,
    pub(crate) max_steps: u64,
    /// Chooses the errors of approximate instructions; 0: none.
    pub(crate) approx_seed: u64,
    /// CTAs that fit on the card at once.
    pub(crate) resident: usize,
    /// Bytes that the emulator keeps for the threads of a CTA.
    pub(crate) bytes: u64,
}

/// CTAs of a launch that have not started, in an order that a random number chooses.
#[derive(Debug)]
pub(crate) struct Waiting {
    ctas: u32,
    started: u32,
    first: u32,
    /// From one to the next; it has no divisor with the number of CTAs in common.
    step: u32,
}

impl Waiting {
    /// All of them: in order, or by a random number.
    pub(crate) fn new(ctas: u32, random: Option<u64>) -> Waiting {
        fn common_divisor(a: u32, b: u32) -> u32 {
            if b == 0 { a } else { common_divisor(b, a % b) }
        }
        let random = random.unwrap_or(0);
        let (first, wish) = ((random >> 32) as u32 % ctas, (random as u32 % ctas).max(1));
        let step = (wish..=ctas).find(|&s| common_divisor(s, ctas) == 1).unwrap_or(1);
        Waiting { ctas, started: 0, first, step }
    }

    /// How many they are.
    pub(crate) fn len(&self) -> u32 {
        self.ctas - self.started
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next one.
    pub(crate) fn pop(&mut self) -> Option<u32> {
        if self.is_empty() {
            return None;
        }
        let index = u64::from(self.first) + u64::from(self.started) * u64::from(self.step);
        self.started += 1;
        Some((index % u64::from(self.ctas)) as u32)
    }
}

/// A launch that runs.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) grid: Arc<Grid>,
    pub(crate) label: Arc<Label>,
    /// Its number among all operations.
    pub(crate) id: u64,
    pub(crate) ctas: u32,
    /// Its first agent.
    pub(crate) first: Agent,
    /// CTAs that have not started.
    pub(crate) waiting: Waiting,
    /// CTAs that run.
    pub(crate) running: usize,
    /// CTAs that run at once, which are more only when those wait for others.
    pub(crate) wanted: usize,
    /// CTAs of which a thread let the next launch begin, or that have ended.
    pub(crate) let_next: u32,
    /// What its threads know from the beginning.
    pub(crate) before: Arc<Clock>,
    /// Whether every CTA has let the next launches begin, and those have heard of it.
    pub(crate) let_go: bool,
    /// What those know that wait for the launches before; nothing while one of them runs.
    pub(crate) previous: Option<Arc<Clock>>,
    /// Its loads through the non-coherent cache, which see what happened before it began.
    pub(crate) non_coherent: Option<Box<Order>>,
    /// What the threads that have exited knew.
    pub(crate) knew: Arc<Clock>,
    pub(crate) agents: AgentSet,
    /// Agents for mbarriers that come.
    pub(crate) spare: Range<Agent>,
    /// Warp-instructions so far.
    pub(crate) steps: u64,
    /// Bytes of registers and local memory that calls have added.
    pub(crate) stack: u64,
    /// Chooses which stores other CTAs see late; 0: none.
    pub(crate) delays: u64,
    /// Those of CTAs that have ended.
    pub(crate) delayed: Vec<Delayed>,
}

impl Flight {
    /// It has ended: what those know that wait for it.
    pub(crate) fn over(mut self) -> Arc<Clock> {
        join(&mut self.knew, &self.before);
        Arc::make_mut(&mut self.knew).end(&self.agents);
        self.knew
    }
}

/// One warp with all that it can touch.
pub(crate) struct Ctx<'a> {
    pub(crate) memory: &'a mut Memory,
    pub(crate) grid: &'a Grid,
    pub(crate) flight: &'a mut Flight,
    pub(crate) tally: &'a mut Tally,
    pub(crate) team: &'a mut Team,
    pub(crate) warp: &'a mut Warp,
}

impl Ctx<'_> {
    /// A register of a window.
    #[inline]
    pub(crate) fn get(&self, window: Window, r: Reg) -> &Lanes {
        self.warp.get(&self.grid.constants, window, r)
    }

    /// The addresses of an operand, of all lanes.
    #[inline]
    pub(crate) fn addresses(&self, window: Window, a: crate::program::Address) -> Lanes {
        let mut out = *self.get(window, a.base);
        for x in &mut out {
            *x = x.wrapping_add_signed(a.offset);
        }
        out
    }
}
