//! A card that runs queues of launches, each on a thread of its own, beside the host.
//!
//! All that can be touched is in one [`Card`] under one lock, which a queue holds while its warps run and gives up, between
//! turns of its scheduler, to whoever waits for it ([`Shared::enter`]). So accesses of queues and the host interleave by
//! turns, while the race detector orders them by what they synchronise with alone.
//!
//! A queue whose warps only poll gives way as long as somebody else may change what they poll. That is over when all other
//! queues are empty or poll as well and the host waits for a queue, or when nothing has changed for [`PATIENCE`].

use crate::clock::{Clock, Strength};
use crate::exec::state::{Grid, Order};
use crate::fault::Fault;
use crate::order::{HostError, order, release, touch};
use crate::sched::{Scheduler, Turn};
use crate::{Counters, Error, Launch, Loaded, Memory, MemoryError, Module, Options};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a queue polls in vain before that is a deadlock, while the host might still do something.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest sleep between two looks at what others do.
const NAP: Duration = Duration::from_micros(200);

/// A queue of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue(usize);

/// A point in a queue that other queues can wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event(usize);

/// What a queue is to do.
#[derive(Debug)]
enum Command {
    Launch { grid: Arc<Grid>, overlaps: bool, knows: Arc<Clock> },
    Record(usize),
    Wait(usize),
}

/// What a queue does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    /// It has nothing to do, or waits for another queue.
    Rests,
    Runs,
    /// Its warps poll; the progress of the memory since when they do.
    Polls(u64),
}

/// A queue as the others see it.
#[derive(Debug)]
struct Line {
    commands: VecDeque<Command>,
    scheduler: Scheduler,
    activity: Activity,
    /// Whether the last command was a launch, which the next one may overlap.
    chained: bool,
    /// The host does not know yet that its launches have ended.
    unsynced: bool,
    fault: Option<Box<Fault>>,
}

impl Line {
    fn idle(&self) -> bool {
        self.fault.is_some() || (self.commands.is_empty() && self.scheduler.idle())
    }
}

/// All that queues and the host share.
#[derive(Debug)]
pub(crate) struct Card {
    pub(crate) memory: Memory,
    /// What the host knows.
    pub(crate) host: Order,
    lines: Vec<Line>,
    /// What is known after each event, once it has happened.
    events: Vec<Option<Arc<Clock>>>,
    /// The queue that the host waits for.
    host_waits: Option<usize>,
    /// The machine is no more.
    closing: bool,
}

#[derive(Debug)]
struct Shared {
    card: Mutex<Card>,
    /// How many wait for the lock.
    knocks: AtomicU32,
}

impl Shared {
    /// Takes the lock, before a queue that holds it goes on.
    fn enter(&self) -> MutexGuard<'_, Card> {
        self.knocks.fetch_add(1, Ordering::Relaxed);
        let card = self.card.lock().unwrap_or_else(PoisonError::into_inner);
        self.knocks.fetch_sub(1, Ordering::Relaxed);
        card
    }
}

/// Waits a little, each time longer than before.
pub(crate) fn pause(turn: &mut u32) {
    *turn += 1;
    if *turn < 16 {
        std::thread::yield_now();
    } else {
        std::thread::sleep(NAP.min(Duration::from_micros(u64::from(*turn))));
    }
}

/// An emulated card with its queues, and its host: whoever has the machine. It is dropped only when its queues have
/// stopped, wherever they are.
#[derive(Debug)]
pub struct Machine {
    shared: Arc<Shared>,
    /// By queue; none where one has panicked.
    threads: Vec<Option<JoinHandle<()>>>,
    options: Options,
}

impl Machine {
    /// A card with this memory.
    pub fn new(memory: Memory, options: Options) -> Machine {
        let (lines, events) = (Vec::new(), Vec::new());
        let card = Card { memory, host: order(), lines, events, host_waits: None, closing: false };
        let shared = Shared { card: Mutex::new(card), knocks: AtomicU32::new(0) };
        Machine { shared: Arc::new(shared), threads: Vec::new(), options }
    }

    pub(crate) fn enter(&self) -> MutexGuard<'_, Card> {
        self.shared.enter()
    }

    /// Allocates bytes that nobody wrote.
    ///
    /// # Errors
    /// As [`Memory::alloc`].
    pub fn alloc(&mut self, bytes: u64, align: u64) -> Result<u64, MemoryError> {
        self.enter().memory.alloc(bytes, align)
    }

    /// [`Machine::alloc`] of memory that the host touches while kernels run: pinned and mapped.
    ///
    /// # Errors
    /// As [`Memory::alloc`].
    pub fn alloc_shared(&mut self, bytes: u64, align: u64) -> Result<u64, MemoryError> {
        let mut card = self.enter();
        let base = card.memory.alloc(bytes, align)?;
        card.memory.share(base)?;
        Ok(base)
    }

    /// [`Module::load`].
    ///
    /// # Errors
    /// As that.
    pub fn load(&mut self, module: &Module) -> Result<Loaded, MemoryError> {
        module.load(&mut self.enter().memory)
    }

    /// Writes, as the host.
    ///
    /// # Errors
    /// [`HostError`]: a race with a kernel among others.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), HostError> {
        let mut card = self.enter();
        card.touch(true, address, bytes.len() as u64)?;
        card.memory.write(address, bytes)?;
        card.memory.agents.progress += 1;
        Ok(())
    }

    /// Reads, as the host.
    ///
    /// # Errors
    /// [`HostError`]: a race with a kernel among others.
    pub fn read(&mut self, address: u64, out: &mut [u8]) -> Result<(), HostError> {
        let mut card = self.enter();
        card.touch(false, address, out.len() as u64)?;
        match card.memory.read(address, out.len() as u64) {
            Ok(bytes) => out.copy_from_slice(bytes),
            Err(e) => {
                let fault = card.memory.undefined(address, out.len() as u64).cloned().map(Box::new);
                return Err(fault.map_or(HostError::Memory(e), HostError::Fault));
            }
        }
        Ok(())
    }

    /// A new queue. Its launches run in order on a thread of its own.
    ///
    /// # Errors
    /// If the system has no more threads.
    pub fn queue(&mut self) -> std::io::Result<Queue> {
        let scheduler = Scheduler::new(self.options.schedule.seed);
        let line = Line {
            commands: VecDeque::new(),
            scheduler,
            activity: Activity::Rests,
            chained: false,
            unsynced: false,
            fault: None,
        };
        let index = self.threads.len();
        self.enter().lines.push(line);
        let shared = Arc::clone(&self.shared);
        let builder = std::thread::Builder::new().name(format!("queue {index}"));
        self.threads.push(Some(builder.spawn(move || work(&shared, index))?));
        Ok(Queue(index))
    }

    /// Adds a launch to a queue, which comes after all that the host has done. It begins when all before it in the queue
    /// have ended, or, if it `overlaps` the launch right before it, as [`crate::Step`] says.
    ///
    /// # Errors
    /// If the launch is not possible.
    pub fn launch(&mut self, queue: Queue, loaded: &Loaded, launch: &Launch, overlaps: bool) -> Result<(), Error> {
        let grid = loaded.prepare(launch, &self.options)?;
        let knows = release(&mut self.enter().host)?;
        self.push(queue, Command::Launch { grid, overlaps, knows });
        Ok(())
    }

    /// An event that happens when all that is in a queue has ended.
    pub fn record(&mut self, queue: Queue) -> Event {
        let mut card = self.enter();
        card.events.push(None);
        let event = card.events.len() - 1;
        drop(card);
        self.push(queue, Command::Record(event));
        Event(event)
    }

    /// What comes in a queue waits for an event.
    pub fn wait(&mut self, queue: Queue, event: Event) {
        self.push(queue, Command::Wait(event.0));
    }

    fn push(&mut self, queue: Queue, command: Command) {
        let mut card = self.enter();
        let line = &mut card.lines[queue.0];
        line.commands.push_back(command);
        line.unsynced = true;
        drop(card);
        if let Some(thread) = &self.threads[queue.0] {
            thread.thread().unpark();
        }
    }

    /// Waits until all that is in a queue has ended, and for what it executed since the last time.
    ///
    /// # Errors
    /// The first fault of the queue, which does nothing more.
    pub fn sync(&mut self, queue: Queue) -> Result<Counters, Box<Fault>> {
        let mut turn = 0;
        let mut card = self.enter();
        card.host_waits = Some(queue.0);
        while !card.lines[queue.0].idle() {
            drop(card);
            // A thread that ends before its machine has panicked.
            if let Some(thread) = self.threads[queue.0].take_if(|t| t.is_finished())
                && let Err(panic) = thread.join()
            {
                std::panic::resume_unwind(panic);
            }
            pause(&mut turn);
            card = self.enter();
        }
        card.host_waits = None;
        let Card { host, lines, .. } = &mut *card;
        let line = &mut lines[queue.0];
        if let Some(fault) = &line.fault {
            return Err(fault.clone());
        }
        line.unsynced = false;
        host.acquire(1, line.scheduler.ended());
        let counters = line.scheduler.take_counters();
        if card.quiet() {
            card.boundary();
        }
        Ok(counters)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.enter().closing = true;
        for thread in self.threads.drain(..).flatten() {
            thread.thread().unpark();
            // Its panic, if it has, was reported by its thread.
            _ = thread.join();
        }
    }
}

impl Card {
    /// Whether no queue has anything to do.
    pub(crate) fn idle(&self) -> bool {
        self.lines.iter().all(Line::idle)
    }

    /// Whether the host knows the end of all launches.
    fn quiet(&self) -> bool {
        self.lines.iter().all(|l| !l.unsynced)
    }

    /// All that happened is ordered before all that comes.
    fn boundary(&mut self) {
        self.memory.boundary();
        self.host = order();
        for line in &mut self.lines {
            line.scheduler.forget();
        }
        for event in self.events.iter_mut().flatten() {
            *event = Arc::default();
        }
    }

    /// Checks an access of the host to any memory. While no queue does anything, nothing needs to be noted.
    fn touch(&mut self, write: bool, address: u64, bytes: u64) -> Result<(), HostError> {
        if !self.quiet() {
            touch(&mut self.memory, &mut self.host, write, address, bytes, Strength::Weak)?;
        }
        Ok(())
    }

    /// Hands commands of a queue to its scheduler, or executes them. Whether it waits for another queue.
    fn feed(&mut self, index: usize) -> bool {
        let line = &mut self.lines[index];
        while let Some(command) = line.commands.pop_front() {
            match command {
                Command::Launch { grid, overlaps, knows } => {
                    line.scheduler.plan(grid, overlaps && line.chained, knows);
                    line.chained = true;
                    continue;
                }
                Command::Record(event) if line.scheduler.idle() => {
                    self.events[event] = Some(Arc::clone(line.scheduler.ended()));
                }
                Command::Wait(event) if line.scheduler.idle() => match &self.events[event] {
                    Some(clock) => line.scheduler.learn(clock),
                    None => {
                        line.commands.push_front(command);
                        return true;
                    }
                },
                _ => {
                    line.commands.push_front(command);
                    return false;
                }
            }
            line.chained = false;
        }
        false
    }

    /// A queue ends with a fault: who waits for its events goes on.
    fn fail(&mut self, index: usize, fault: Box<Fault>) {
        let line = &mut self.lines[index];
        line.fault = Some(fault);
        line.activity = Activity::Rests;
        for command in line.commands.drain(..) {
            if let Command::Record(event) = command {
                self.events[event] = Some(Arc::clone(line.scheduler.ended()));
            }
        }
    }

    /// Whether somebody else than a queue may change what it polls.
    fn others_act(&self, index: usize) -> bool {
        let waits = |c: &Command| matches!(c, Command::Wait(event) if self.events[*event].is_none());
        let still = |l: &Line| match l.activity {
            Activity::Rests => l.fault.is_some() || l.commands.front().is_none_or(waits),
            Activity::Runs => false,
            Activity::Polls(since) => since == self.memory.agents.progress,
        };
        self.host_waits.is_none_or(|q| self.lines[q].idle())
            || !self.lines.iter().enumerate().all(|(i, l)| i == index || still(l))
    }
}

/// The thread of a queue.
fn work(shared: &Shared, index: usize) {
    let mut card = shared.enter();
    let mut polling: Option<(Instant, u32)> = None;
    loop {
        if card.closing {
            return;
        }
        let mut rests = card.lines[index].fault.is_some() || card.feed(index);
        let line = &card.lines[index];
        rests |= line.scheduler.idle() && line.commands.is_empty();
        if rests {
            let waits = !card.lines[index].idle();
            card.lines[index].activity = Activity::Rests;
            drop(card);
            if waits {
                std::thread::park_timeout(NAP)
            } else {
                std::thread::park()
            }
            card = shared.enter();
            continue;
        }
        let Card { memory, lines, .. } = &mut *card;
        let line = &mut lines[index];
        let ended = match line.scheduler.turn(memory) {
            Ok(Turn::Ran) => {
                line.activity = Activity::Runs;
                polling = None;
                None
            }
            Ok(Turn::Ended) => None,
            Ok(Turn::Stuck(fault)) => {
                line.activity = Activity::Polls(memory.agents.progress);
                Some(fault)
            }
            Err(fault) => {
                card.fail(index, fault);
                None
            }
        };
        if let Some(fault) = ended {
            let (since, turn) = polling.get_or_insert_with(|| (Instant::now(), 0));
            if !card.others_act(index) || since.elapsed() > PATIENCE {
                card.fail(index, fault);
                continue;
            }
            drop(card);
            pause(turn);
            card = shared.enter();
        } else if shared.knocks.load(Ordering::Relaxed) > 0 {
            drop(card);
            while shared.knocks.load(Ordering::Relaxed) > 0 {
                std::thread::yield_now();
            }
            card = shared.enter();
        }
    }
}
