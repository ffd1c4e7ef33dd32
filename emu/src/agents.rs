//! Whose accesses the race detector notes, and what they have released to each other: the part of memory that is neither
//! bytes nor notes of accesses. Numbers of agents are never used again before a boundary ([`crate::memory`]).

use crate::clock::{AGENTS_PER_WARP, Agent, AgentSet, CP_ASYNC, Clock, HOST, MAX_AGENT, join};
use crate::fault::{Bad, Done, FaultKind, Label, thread_of};
use crate::types::Scope;
use std::collections::HashMap;
use std::sync::Arc;

/// What was released at an address.
#[derive(Debug, Default)]
pub(crate) struct Published {
    /// In a scope that has the host.
    system: Option<Arc<Clock>>,
    /// In a scope that has all CTAs, by one of them.
    wide: Option<Arc<Clock>>,
    /// In any scope, by CTA.
    narrow: Vec<(Agent, Arc<Clock>)>,
}

impl Published {
    /// Adds a release, or puts it in place of all before. `cta` is the first agent of the CTA, or the host.
    pub(crate) fn publish(&mut self, cta: Agent, scope: Scope, clock: Arc<Clock>, replace: bool) {
        if replace {
            *self = Published::default();
        }
        let levels = [(&mut self.system, scope == Scope::Sys), (&mut self.wide, scope >= Scope::Gpu && cta != HOST)];
        for (level, _) in levels.into_iter().filter(|(_, has)| *has) {
            match level {
                Some(all) => join(all, &clock),
                None => *level = Some(Arc::clone(&clock)),
            }
        }
        match self.narrow.iter_mut().find(|(c, _)| *c == cta) {
            Some((_, narrow)) => join(narrow, &clock),
            None => self.narrow.push((cta, clock)),
        }
    }

    /// What a reader of a CTA synchronises with.
    pub(crate) fn visible(&self, cta: Agent, scope: Scope) -> impl Iterator<Item = &Arc<Clock>> {
        let system = self.system.iter().filter(move |_| scope == Scope::Sys);
        let wide = self.wide.iter().filter(move |_| scope >= Scope::Gpu && cta != HOST);
        system.chain(wide).chain(self.narrow.iter().filter(move |(c, _)| *c == cta).map(|(_, clock)| clock))
    }
}

/// Whose agents start at a number.
#[derive(Debug, Clone)]
pub(crate) enum Owner {
    /// The warps of a launch, CTA by CTA, and after them one agent for loads through the non-coherent cache.
    Launch(Arc<Label>),
    /// Copies that signal mbarriers.
    Mbarriers,
    /// An operation that is no launch.
    Operation(Arc<str>),
}

/// Agents of a CTA.
pub(crate) fn of_cta(label: &Label) -> u32 {
    label.warps() * AGENTS_PER_WARP
}

/// Agents of a launch.
pub(crate) fn of_launch(label: &Label) -> u32 {
    label.grid.iter().product::<u32>() * of_cta(label) + 1
}

/// How many agents and owners are enough for a boundary.
const CROWD: usize = 1 << 25;

/// All agents since the last boundary.
#[derive(Debug)]
pub(crate) struct Agents {
    /// Owners by their first agent.
    owners: Vec<(Agent, Owner)>,
    /// The last number in use.
    last: Agent,
    pub(crate) published: HashMap<u64, Published>,
    /// What is known after the sequentially consistent fences of all CTAs.
    pub(crate) sc_fences: Arc<Clock>,
    /// Counts what other threads may see.
    pub(crate) progress: u64,
    /// What was released in system scope to memory of the process, whose own loads nobody sees.
    pub(crate) to_process: Arc<Clock>,
    /// What the process may have released to its memory: all that the host knows.
    pub(crate) of_process: Arc<Clock>,
}

impl Agents {
    /// None but the host.
    pub(crate) fn new() -> Agents {
        Agents {
            owners: Vec::new(),
            last: HOST,
            published: HashMap::new(),
            sc_fences: Arc::default(),
            progress: 0,
            to_process: Arc::default(),
            of_process: Arc::default(),
        }
    }

    /// Forgets all but the host.
    pub(crate) fn forget(&mut self) {
        *self = Agents { progress: self.progress + 1, ..Agents::new() };
    }

    /// Whether a boundary should come before there are too many.
    pub(crate) fn crowded(&self) -> bool {
        self.last as usize > CROWD
    }

    /// Fresh agents, noted in `among`.
    pub(crate) fn start(&mut self, count: u32, owner: Owner, among: &mut AgentSet) -> Done<Agent> {
        let first = self.last + 1;
        if count >= MAX_AGENT - first {
            return Err(Bad::new(FaultKind::StepLimit, 0, None, "too many sources of accesses"));
        }
        self.last += count;
        let more = matches!((self.owners.last(), &owner), (Some((_, Owner::Mbarriers)), Owner::Mbarriers));
        if !more {
            self.owners.push((first, owner));
        }
        among.insert(first..first + count);
        Ok(first)
    }

    /// Who an agent is, for a fault of a launch: a thread of a CTA, or an asynchronous copy.
    pub(crate) fn describe(&self, agent: Agent, lane: u32, here: Option<&Arc<Label>>) -> (bool, String) {
        let index = self.owners.partition_point(|(first, _)| *first <= agent);
        let Some((first, owner)) = self.owners.get(index.wrapping_sub(1)) else {
            return (false, "the host".into());
        };
        match owner {
            Owner::Mbarriers => (true, "an asynchronous copy that no wait on its mbarrier covers".into()),
            Owner::Operation(label) => (false, label.to_string()),
            Owner::Launch(label) => {
                let of = match here {
                    Some(here) if Arc::ptr_eq(label, here) => String::new(),
                    _ if label.operation.is_empty() => format!(" of another launch, of {}", label.kernel),
                    _ => format!(" of another launch, of {} ({})", label.kernel, label.operation),
                };
                let (cta, rest) = ((agent - first) / of_cta(label), (agent - first) % of_cta(label));
                if agent - first + 1 == of_launch(label) {
                    let what = format!("a load.nc{of}, which is for memory that nobody writes while the kernel runs");
                    return (false, what);
                }
                let cta = thread_of(label.grid, cta);
                let tid = thread_of(label.block, rest / AGENTS_PER_WARP * 32 + lane);
                let whose = format!("thread {tid:?} of CTA {cta:?}{of}");
                match rest % AGENTS_PER_WARP {
                    0 => (false, whose),
                    CP_ASYNC => (true, format!("a cp.async of {whose}")),
                    _ => (true, format!("a bulk copy of {whose}")),
                }
            }
        }
    }
}
