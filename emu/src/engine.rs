//! What a card does, as a graph of operations: launches, copies, fills, words of memory, functions of the host. Each begins
//! when those that it comes after have ended, or, if it is a launch behind a programmatic edge, when they let it. The engine
//! has no thread, no lock and no clock: whoever has it calls [`Engine::turn`], and the same calls with the same seed do the
//! same. With seed 0 operations begin in the order of their submission as soon as they may; any other seed is an adversary,
//! which begins them late and in any order, and lets kernels and pieces of copies take turns.
//!
//! Each operation is an agent of the race model that knows what the host knew at its submission and what it comes after. The
//! host knows nothing of an operation before [`Engine::learn`], but for what was released in system scope to memory of the
//! process, which it is taken to have read, as its own loads and stores are not seen. Invariant: an operation is kept until the host knows its end;
//! when none is kept, all notes of accesses go.

use crate::clock::{Clock, MAX_TIME, Strength, join};
use crate::exec::state::Order;
use crate::fault::{Bad, Done, Fault};
use crate::operation::{
    Actor, Compare, Prepared, Source, Transfer, Word, Work, fingerprint, is_as_wanted, waits_in_vain,
};
use crate::order::{self, HostError, fault, release, touch};
use crate::sched::{self, Failure, Random, Scheduler};
use crate::{Counters, Error, Memory, MemoryError, Options};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Launches that run at once, as on cards.
const MOST_FLIGHTS: usize = 128;
/// Operations that begin in one turn.
const MOST_BEGUN: usize = 1024;
/// Operations that are over and that the host does not know of, from which on the engine forgets them as soon as nothing
/// runs: it then takes all that happened to be ordered before all that comes.
const CROWD: usize = 1024;
/// Turns by which a random schedule begins an operation late; the last is as late as possible.
const LATE: [u32; 4] = [0, 2, 20, u32::MAX];

/// An operation. None is named twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Op(u64);

/// How an operation comes after another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// It begins when that one has ended, and knows all that it did.
    Full,
    /// It may begin once every CTA of that launch has executed `griddepcontrol.launch_dependents` or has ended, and knows
    /// nothing of what that launch does until `griddepcontrol.wait`. Its own end comes after that launch's end. Between
    /// operations of which one is no launch this is [`Edge::Full`].
    Programmatic,
}

/// An operation that another one comes after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct After {
    /// That one.
    pub op: Op,
    /// How.
    pub edge: Edge,
}

impl After {
    /// After the end of an operation.
    pub fn end(op: Op) -> After {
        After { op, edge: Edge::Full }
    }
}

/// What a turn of the engine came to.
pub enum Turn {
    /// Somebody did something.
    Ran,
    /// An operation has ended.
    Ended(Op),
    /// This function is to be called, and [`Engine::called`] after it.
    Call(Op, Box<dyn FnOnce() + Send>),
    /// An operation failed. All others are dropped, and the engine takes no more.
    Failed(Op, Box<Fault>),
    /// Nothing can be done before the host submits something or a function has returned.
    Idle,
    /// All that is left polls, in vain unless the host changes something: what is wrong otherwise, and with which operation.
    /// Whoever knows that the host will not says so with [`Engine::fail`].
    Stuck(Op, Box<Fault>),
}

impl std::fmt::Debug for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Turn::Ran => f.write_str("Ran"),
            Turn::Ended(op) => write!(f, "Ended({})", op.0),
            Turn::Call(op, _) => write!(f, "Call({})", op.0),
            Turn::Failed(op, fault) => write!(f, "Failed({}, {fault})", op.0),
            Turn::Idle => f.write_str("Idle"),
            Turn::Stuck(op, fault) => write!(f, "Stuck({}, {fault})", op.0),
        }
    }
}

/// How far an operation is.
#[derive(Debug)]
enum Stage {
    /// It waits for others, or for its turn.
    Waits(Work),
    /// Its work is with the scheduler or in a list of the engine.
    Runs,
    /// Its function is with the host.
    Called,
    /// Its own work is done, but a launch that it overlapped runs.
    Done,
    /// What is known to have happened before whoever comes after it.
    Over(Arc<Clock>),
}

/// An operation that has not ended, or of whose end the host does not know.
#[derive(Debug)]
struct Kept {
    label: Arc<str>,
    launch: bool,
    stage: Stage,
    /// Every CTA of this launch has let the next ones begin.
    let_go: bool,
    /// Edges that keep it from beginning.
    missing: usize,
    /// Launches behind programmatic edges that are not over.
    early: usize,
    /// What it knows when it begins.
    knows: Arc<Clock>,
    /// What its threads learn that wait for the launches that it overlaps.
    previous: Arc<Clock>,
    /// What else is known once it is over, as those launches are then.
    behind: Arc<Clock>,
    /// What its threads knew at their end.
    told: Arc<Clock>,
    /// What it comes after, but for what the host knew at its submission.
    parents: Vec<u64>,
    children: Vec<(u64, Edge)>,
    /// Of a copy that may begin: the fingerprint of its source.
    seen: Option<u64>,
}

/// A wait for a word.
#[derive(Debug)]
struct Wait {
    id: u64,
    address: u64,
    value: Word,
    compare: Compare,
}

/// A card: its memory and its operations.
#[derive(Debug)]
pub struct Engine {
    pub(crate) memory: Memory,
    /// What the host knows.
    pub(crate) host: Order,
    options: Options,
    random: Random,
    next: u64,
    /// By their numbers.
    kept: BTreeMap<u64, Kept>,
    /// How many of those are over.
    over: usize,
    /// Operations that may begin, and after how many turns.
    ready: BTreeMap<u64, u32>,
    scheduler: Scheduler,
    transfers: Vec<Transfer>,
    waits: Vec<Wait>,
    events: VecDeque<Turn>,
    error: Option<Box<Fault>>,
    /// In the last turn nothing that runs could go on by itself.
    stalled: bool,
}

impl Engine {
    /// A card with this memory.
    pub fn new(memory: Memory, options: Options) -> Engine {
        Engine {
            memory,
            host: order::host(),
            options,
            random: Random::new(options.schedule.seed),
            next: 1,
            kept: BTreeMap::new(),
            over: 0,
            ready: BTreeMap::new(),
            scheduler: Scheduler::new(options.schedule.seed),
            transfers: Vec::new(),
            waits: Vec::new(),
            events: VecDeque::new(),
            error: None,
            stalled: false,
        }
    }

    /// Its memory, to allocate and free. What is read and written here is not checked for races.
    pub fn memory(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// Its memory, at the end.
    pub fn into_memory(self) -> Memory {
        self.memory
    }

    /// How it runs launches.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The fault that ended it.
    pub fn error(&self) -> Option<&Fault> {
        self.error.as_deref()
    }

    /// What kernels have executed since the last time.
    pub fn counters(&mut self) -> Counters {
        self.scheduler.take_counters()
    }

    /// How many operations have not ended.
    pub fn pending(&self) -> usize {
        self.kept.len() - self.over
    }

    /// Adds an operation, which comes after others and after all that the host did. `label` names it in messages.
    ///
    /// # Errors
    /// The fault that ended the engine.
    pub fn submit(&mut self, label: &str, work: Work, after: &[After]) -> Result<Op, Error> {
        if let Some(fault) = &self.error {
            return Err(fault.clone().into());
        }
        self.hear_process();
        let id = self.next;
        let launch = matches!(work, Work::Launch(_));
        let mut new = Kept {
            label: label.into(),
            launch,
            stage: Stage::Waits(work),
            let_go: false,
            missing: 0,
            early: 0,
            knows: self.tell_process()?,
            previous: Arc::default(),
            behind: Arc::default(),
            told: Arc::default(),
            parents: Vec::new(),
            children: Vec::new(),
            seen: None,
        };
        for After { op, edge } in after {
            // What is not kept is known to the host.
            let Some(before) = self.kept.get_mut(&op.0) else { continue };
            let edge = if launch && before.launch { *edge } else { Edge::Full };
            new.parents.push(op.0);
            if let Stage::Over(end) = &before.stage {
                match edge {
                    Edge::Full => join(&mut new.knows, end),
                    Edge::Programmatic => {
                        join(&mut new.knows, &before.knows);
                        join(&mut new.previous, &before.told);
                        join(&mut new.behind, end);
                    }
                }
                continue;
            }
            before.children.push((id, edge));
            new.early += usize::from(edge == Edge::Programmatic);
            if edge == Edge::Programmatic && before.let_go {
                join(&mut new.knows, &before.knows);
            } else {
                new.missing += 1;
            }
        }
        self.next += 1;
        let ready = new.missing == 0;
        self.kept.insert(id, new);
        if ready {
            self.make_ready(id);
        }
        Ok(Op(id))
    }

    /// The process may have read what was released to its memory.
    fn hear_process(&mut self) {
        self.host.acquire(1, &self.memory.agents.to_process);
    }

    /// The process may release what the host knows to its memory; that.
    fn tell_process(&mut self) -> Result<Arc<Clock>, Box<Fault>> {
        let clock = release(&mut self.host)?;
        self.memory.agents.of_process = Arc::clone(&clock);
        Ok(clock)
    }

    fn make_ready(&mut self, id: u64) {
        if let Some(Kept { stage: Stage::Waits(Work::Copy { from, extent, .. }), seen, .. }) = self.kept.get_mut(&id) {
            *seen = fingerprint(&mut self.memory, from, extent);
        }
        let late = if self.options.schedule.seed == 0 { 0 } else { LATE[self.random.below(LATE.len())] };
        self.ready.insert(id, late);
    }

    /// Whether an operation has ended, or was dropped as one failed.
    pub fn done(&self, op: Op) -> bool {
        self.kept.get(&op.0).is_none_or(|k| matches!(k.stage, Stage::Over(_)))
    }

    /// The host has seen that an operation has ended: it knows what that one and those before it did. Nothing happens if it
    /// has not.
    pub fn learn(&mut self, op: Op) {
        let Some(Kept { stage: Stage::Over(end), .. }) = self.kept.get(&op.0) else { return };
        self.host.acquire(1, end);
        let mut known = vec![op.0];
        while let Some(id) = known.pop() {
            if let Some(kept) = self.kept.remove(&id) {
                self.over -= 1;
                known.extend(kept.parents);
            }
        }
        if self.kept.is_empty() {
            self.boundary();
        } else {
            // It fails after too many calls, and so will the next submission, which says so.
            _ = self.tell_process();
        }
    }

    /// All that happened is ordered before all that comes.
    fn boundary(&mut self) {
        self.kept.retain(|_, k| !matches!(k.stage, Stage::Over(_)));
        self.over = 0;
        for kept in self.kept.values_mut() {
            (kept.knows, kept.previous, kept.behind) = Default::default();
        }
        self.memory.boundary();
        self.host = order::host();
    }

    /// The function of an operation has returned.
    pub fn called(&mut self, op: Op) {
        if let Some(kept) = self.kept.get(&op.0)
            && matches!(kept.stage, Stage::Called)
        {
            let knows = Arc::clone(&kept.knows);
            self.finish(op.0, knows);
        }
    }

    /// An operation fails, for a reason that the caller knows: all are dropped, and the engine takes no more.
    pub fn fail(&mut self, op: Op, fault: Box<Fault>) {
        if self.error.is_some() {
            return;
        }
        self.error = Some(fault.clone());
        self.kept.clear();
        self.over = 0;
        self.ready.clear();
        self.scheduler.abort();
        (self.transfers, self.waits) = Default::default();
        self.boundary();
        self.events.push_back(Turn::Failed(op, fault));
    }

    /// Lets somebody go on for a while.
    pub fn turn(&mut self) -> Turn {
        if let Some(event) = self.events.pop_front() {
            return event;
        }
        match self.advance() {
            Ok(turn) => self.events.pop_front().unwrap_or(turn),
            Err((id, fault)) => {
                self.fail(Op(id), fault);
                self.events.pop_front().unwrap_or(Turn::Idle)
            }
        }
    }

    fn advance(&mut self) -> Result<Turn, Failure> {
        if self.kept.is_empty() {
            return Ok(Turn::Idle);
        }
        let began = self.begin_some()?;
        let moved = self.move_some()?;
        let waited = self.wait_some()?;
        let stuck = self.run()?;
        if began || moved || waited || !self.events.is_empty() {
            return Ok(Turn::Ran);
        }
        match stuck {
            _ if self.may_begin() => Ok(Turn::Ran),
            Some(sched::Turn::Ran) => Ok(Turn::Ran),
            Some(sched::Turn::Stuck(id, fault)) => Ok(Turn::Stuck(Op(id), fault)),
            None => Ok(self.waits_in_vain()),
        }
    }

    /// Whether somebody works.
    fn busy(&self) -> bool {
        self.scheduler.flights() > 0 || !self.transfers.is_empty()
    }

    /// Whether an operation that waits for its turn may have it.
    fn may_begin(&self) -> bool {
        self.ready.keys().any(|id| self.has_room(*id))
    }

    fn has_room(&self, id: u64) -> bool {
        self.scheduler.flights() < MOST_FLIGHTS || self.kept.get(&id).is_none_or(|k| !k.launch)
    }

    /// Begins operations that may. Whether there was one.
    fn begin_some(&mut self) -> Result<bool, Failure> {
        let busy = self.busy();
        let crowded = self.over > CROWD || self.memory.agents.crowded() || self.host.now > MAX_TIME / 2;
        if crowded && !busy {
            self.boundary();
        } else if crowded && !self.stalled {
            return Ok(false);
        }
        let mut begun = 0;
        let mut next = 0;
        // Those that become ready by the end of another one come after it.
        while let Some((&id, late)) = self.ready.range_mut(next..).next()
            && begun < MOST_BEGUN
        {
            next = id + 1;
            if *late > 0 {
                *late -= u32::from(*late != u32::MAX);
            } else if self.has_room(id) {
                self.begin(id)?;
                begun += 1;
            }
        }
        let waits = begun == 0 && (!self.busy() || self.stalled);
        let candidates: Vec<u64> = match waits {
            true => self.ready.keys().copied().filter(|id| self.has_room(*id)).collect(),
            false => Vec::new(),
        };
        if !candidates.is_empty() {
            let which = self.random.below(candidates.len());
            self.begin(candidates[which])?;
            begun += 1;
        }
        Ok(begun > 0)
    }

    /// Begins an operation.
    fn begin(&mut self, id: u64) -> Result<(), Failure> {
        self.ready.remove(&id);
        let Some(kept) = self.kept.get_mut(&id) else { return Ok(()) };
        let Stage::Waits(work) = std::mem::replace(&mut kept.stage, Stage::Runs) else { return Ok(()) };
        let (label, knows) = (Arc::clone(&kept.label), Arc::clone(&kept.knows));
        let failed = |bad: Box<Bad>| (id, fault(&label, *bad));
        let memory = &mut self.memory;
        let mut at_once = |act: &mut dyn FnMut(&mut Actor, &mut Memory) -> Done| {
            let mut actor = Actor::new(memory, &label, &knows)?;
            act(&mut actor, memory)?;
            Ok(actor.over())
        };
        let end = match work {
            Work::Launch(Prepared(grid)) => {
                let previous = (kept.early == 0).then(|| Arc::clone(&kept.previous));
                let begun = self.scheduler.begin(memory, (id, label), grid, knows, previous);
                return begun.map_err(|fault| (id, fault));
            }
            Work::Copy { from, to, extent } => {
                let actor = Actor::new(memory, &label, &knows).map_err(failed)?;
                let transfer = Transfer::new(id, actor, Source::Place(from), to, extent).of_source(kept.seen);
                self.transfers.push(transfer);
                return Ok(());
            }
            Work::Fill { to, pattern, extent } => {
                let actor = Actor::new(memory, &label, &knows).map_err(failed)?;
                let (to, extent) = (crate::operation::Place::Device(to), extent.of_fill(pattern));
                self.transfers.push(Transfer::new(id, actor, Source::Pattern(pattern), to, extent));
                return Ok(());
            }
            Work::Call(function) => {
                kept.stage = Stage::Called;
                self.events.push_back(Turn::Call(Op(id), function));
                return Ok(());
            }
            Work::Wait { address, value, compare } => {
                self.waits.push(Wait { id, address, value, compare });
                return Ok(());
            }
            Work::Write { address, value } => at_once(&mut |actor, memory| actor.write_word(memory, address, value)),
            Work::Allocate(base) => at_once(&mut |actor, memory| actor.allocate(memory, base)),
            Work::Free(base) => at_once(&mut |actor, memory| actor.free(memory, base)),
            Work::Nothing => Ok(knows),
        };
        let end = end.map_err(failed)?;
        self.finish(id, end);
        Ok(())
    }

    /// Lets copies and fills go on. Whether there are any.
    fn move_some(&mut self) -> Result<bool, Failure> {
        let any = !self.transfers.is_empty();
        let adversary = self.options.schedule.seed != 0;
        let mut i = 0;
        while i < self.transfers.len() {
            let most = match adversary {
                // Some rest, some move a little.
                true if self.random.below(2) == 0 => {
                    i += 1;
                    continue;
                }
                true => 1 << (10 + self.random.below(11)),
                false => u64::MAX,
            };
            let transfer = &mut self.transfers[i];
            let id = transfer.id;
            let ended = transfer.step(&mut self.memory, most).map_err(|bad| self.failed(id, *bad))?;
            if ended {
                let transfer = self.transfers.remove(i);
                self.finish(id, transfer.actor.over());
            } else {
                i += 1;
            }
        }
        Ok(any)
    }

    fn failed(&self, id: u64, bad: Bad) -> Failure {
        (id, fault(self.kept.get(&id).map_or("an operation", |k| &k.label), bad))
    }

    /// Looks whether words are as waited for. Whether one was.
    fn wait_some(&mut self) -> Result<bool, Failure> {
        let mut any = false;
        let mut i = 0;
        while i < self.waits.len() {
            let Wait { id, address, value, compare } = self.waits[i];
            let holds = is_as_wanted(&mut self.memory, address, value, compare);
            if !holds.map_err(|bad| self.failed(id, *bad))? {
                i += 1;
                continue;
            }
            self.waits.remove(i);
            any = true;
            let Some(kept) = self.kept.get(&id) else { continue };
            let actor = Actor::new(&mut self.memory, &kept.label, &kept.knows).and_then(|mut actor| {
                actor.acquire_word(&mut self.memory, address, value)?;
                Ok(actor)
            });
            let actor = actor.map_err(|bad| self.failed(id, *bad))?;
            self.finish(id, actor.over());
        }
        Ok(any)
    }

    /// Lets launches go on, if there are any.
    fn run(&mut self) -> Result<Option<sched::Turn>, Failure> {
        if self.scheduler.flights() == 0 {
            self.stalled = false;
            return Ok(None);
        }
        let turn = self.scheduler.turn(&mut self.memory)?;
        self.stalled = self.scheduler.polls() || matches!(turn, sched::Turn::Stuck(..));
        for id in std::mem::take(&mut self.scheduler.let_go) {
            self.let_go(id);
        }
        for (id, told) in std::mem::take(&mut self.scheduler.ended) {
            self.finish(id, told);
        }
        Ok(Some(turn))
    }

    /// What is wrong if nothing but waits for words is left.
    fn waits_in_vain(&mut self) -> Turn {
        let Some(&Wait { id, address, value, compare }) = self.waits.first() else { return Turn::Idle };
        let bad = waits_in_vain(&mut self.memory, address, value, compare);
        let (id, fault) = self.failed(id, bad);
        Turn::Stuck(Op(id), fault)
    }

    /// Every CTA of a launch has let the next ones begin.
    fn let_go(&mut self, id: u64) {
        let Some(kept) = self.kept.get_mut(&id) else { return };
        kept.let_go = true;
        let knows = Arc::clone(&kept.knows);
        let children: Vec<u64> =
            kept.children.iter().filter(|(_, edge)| *edge == Edge::Programmatic).map(|(child, _)| *child).collect();
        for child in children {
            self.met(child, |kept| join(&mut kept.knows, &knows));
        }
    }

    /// One less edge keeps an operation from beginning.
    fn met(&mut self, id: u64, learn: impl FnOnce(&mut Kept)) {
        let Some(kept) = self.kept.get_mut(&id) else { return };
        learn(kept);
        kept.missing -= 1;
        if kept.missing == 0 {
            self.make_ready(id);
        }
    }

    /// An operation has done its work; what is known after that.
    fn finish(&mut self, id: u64, told: Arc<Clock>) {
        let Some(kept) = self.kept.get_mut(&id) else { return };
        (kept.stage, kept.told) = (Stage::Done, told);
        let mut ended = vec![id];
        while let Some(id) = ended.pop() {
            let Some(kept) = self.kept.get_mut(&id).filter(|k| k.early == 0 && matches!(k.stage, Stage::Done)) else {
                continue;
            };
            let (told, mut end) = (Arc::clone(&kept.told), Arc::clone(&kept.told));
            join(&mut end, &kept.behind);
            kept.stage = Stage::Over(Arc::clone(&end));
            self.over += 1;
            self.events.push_back(Turn::Ended(Op(id)));
            for (child, edge) in std::mem::take(&mut kept.children) {
                if edge == Edge::Full {
                    self.met(child, |kept| join(&mut kept.knows, &end));
                    continue;
                }
                let Some(kept) = self.kept.get_mut(&child) else { continue };
                join(&mut kept.previous, &told);
                join(&mut kept.behind, &end);
                kept.early -= 1;
                if kept.early == 0 {
                    self.scheduler.release(child, Arc::clone(&kept.previous));
                    ended.push(child);
                }
            }
        }
    }

    /// Checks and notes an access of the host. While nothing else does anything, nothing needs to be noted.
    fn touch_as_host(&mut self, write: bool, address: u64, bytes: u64) -> Result<(), HostError> {
        if self.kept.is_empty() {
            return Ok(());
        }
        self.hear_process();
        let place = self.memory.locate(address, bytes).ok_or_else(|| self.memory.missing(address, bytes))?;
        let touched = touch(&mut self.memory, &mut self.host, write, (address, bytes), place, Strength::Weak);
        touched.map_err(|bad| HostError::Fault(fault("the host", *bad)))?;
        self.tell_process()?;
        Ok(())
    }

    /// Writes, as the host.
    ///
    /// # Errors
    /// [`HostError`]: a race with an operation among others.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), HostError> {
        self.touch_as_host(true, address, bytes.len() as u64)?;
        self.memory.write(address, bytes)?;
        self.memory.agents.progress += 1;
        Ok(())
    }

    /// Reads, as the host.
    ///
    /// # Errors
    /// [`HostError`]: a race with an operation among others.
    pub fn read(&mut self, address: u64, out: &mut [u8]) -> Result<(), HostError> {
        let bytes = out.len() as u64;
        self.touch_as_host(false, address, bytes)?;
        match self.memory.read(address, bytes) {
            Ok(bytes) => out.copy_from_slice(bytes),
            Err(e) => {
                let fault = self.memory.undefined(address, bytes).cloned().map(Box::new);
                return Err(fault.map_or(HostError::Memory(e), HostError::Fault));
            }
        }
        Ok(())
    }

    /// Allocates memory that the host touches while kernels run, by [`Engine::host`]: pinned and mapped.
    ///
    /// # Errors
    /// As [`Memory::alloc`].
    pub fn alloc_shared(&mut self, bytes: u64, align: u64) -> Result<u64, MemoryError> {
        let base = self.memory.alloc(bytes, align)?;
        self.memory.share(base)?;
        Ok(base)
    }
}
