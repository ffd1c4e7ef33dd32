//! A card that runs queues of launches, and its host: whoever has the machine. There is no thread: the launches go on while
//! the host waits. Each queue is a chain of operations of an [`Engine`], so that the same calls with the same seed do the
//! same.

use crate::engine::{After, Edge, Engine, Op, Turn};
use crate::host::HostView;
use crate::operation::Work;
use crate::order::HostError;
use crate::{Counters, Error, Fault, Launch, Loaded, Memory, MemoryError, Module, Options};
use std::time::{Duration, Instant};

/// A queue of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue(usize);

/// A point in a queue that other queues can wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event(Option<Op>);

/// An emulated card with its queues, and its host.
#[derive(Debug)]
pub struct Machine {
    engine: Engine,
    /// The last operation of each queue.
    last: Vec<Option<Op>>,
}

impl Machine {
    /// A card with this memory.
    pub fn new(memory: Memory, options: Options) -> Machine {
        Machine { engine: Engine::new(memory, options), last: Vec::new() }
    }

    /// Allocates bytes that nobody wrote.
    ///
    /// # Errors
    /// As [`Memory::alloc`].
    pub fn alloc(&mut self, bytes: u64, align: u64) -> Result<u64, MemoryError> {
        self.engine.memory().alloc(bytes, align)
    }

    /// [`Machine::alloc`] of memory that the host touches while kernels run: pinned and mapped.
    ///
    /// # Errors
    /// As [`Memory::alloc`].
    pub fn alloc_shared(&mut self, bytes: u64, align: u64) -> Result<u64, MemoryError> {
        self.engine.alloc_shared(bytes, align)
    }

    /// [`Module::load`].
    ///
    /// # Errors
    /// As that.
    pub fn load(&mut self, module: &Module) -> Result<Loaded, MemoryError> {
        module.load(self.engine.memory())
    }

    /// [`Engine::write`].
    ///
    /// # Errors
    /// As that.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), HostError> {
        self.engine.write(address, bytes)
    }

    /// [`Engine::read`].
    ///
    /// # Errors
    /// As that.
    pub fn read(&mut self, address: u64, out: &mut [u8]) -> Result<(), HostError> {
        self.engine.read(address, out)
    }

    /// The words of host-shared memory.
    pub fn host(&mut self) -> HostView<'_> {
        self.engine.host()
    }

    /// A new queue, whose launches run in order.
    pub fn queue(&mut self) -> Queue {
        self.last.push(None);
        Queue(self.last.len() - 1)
    }

    /// Adds a launch to a queue, which comes after all that the host has done. It begins when all before it in the queue
    /// have ended, or, if it `overlaps` the launch right before it, as [`crate::Step`] says.
    ///
    /// # Errors
    /// If the launch is not possible, or the fault that ended the machine.
    pub fn launch(&mut self, queue: Queue, loaded: &Loaded, launch: &Launch, overlaps: bool) -> Result<(), Error> {
        let prepared = loaded.prepare(launch, self.engine.options())?;
        let edge = if overlaps { Edge::Programmatic } else { Edge::Full };
        self.push(queue, Work::Launch(prepared), edge, None)?;
        Ok(())
    }

    /// An event that happens when all that is in a queue has ended.
    ///
    /// # Errors
    /// The fault that ended the machine.
    pub fn record(&mut self, queue: Queue) -> Result<Event, Error> {
        self.push(queue, Work::Nothing, Edge::Full, None)?;
        Ok(Event(self.last[queue.0]))
    }

    /// What comes in a queue waits for an event.
    ///
    /// # Errors
    /// The fault that ended the machine.
    pub fn wait(&mut self, queue: Queue, event: Event) -> Result<(), Error> {
        self.push(queue, Work::Nothing, Edge::Full, event.0)
    }

    fn push(&mut self, queue: Queue, work: Work, edge: Edge, event: Option<Op>) -> Result<(), Error> {
        let last = self.last[queue.0].map(|op| After { op, edge });
        let after: Vec<After> = last.into_iter().chain(event.map(After::end)).collect();
        self.last[queue.0] = Some(self.engine.submit("", work, &after)?);
        Ok(())
    }

    /// Waits until all that is in a queue has ended, and for what all queues executed since the last time.
    ///
    /// # Errors
    /// The first fault of any queue, after which the machine does nothing more.
    pub fn sync(&mut self, queue: Queue) -> Result<Counters, Box<Fault>> {
        let Some(last) = self.last[queue.0] else { return Ok(self.engine.counters()) };
        while !self.engine.done(last) {
            match self.engine.turn() {
                // The host waits, so that nobody is left who could change anything.
                Turn::Stuck(op, fault) => self.engine.fail(op, fault),
                Turn::Idle => break,
                _ => {}
            }
        }
        if let Some(fault) = self.engine.error() {
            return Err(Box::new(fault.clone()));
        }
        self.engine.learn(last);
        Ok(self.engine.counters())
    }

    /// Loads a word, acquiring, until it is as wanted, while the queues go on; what it is then.
    ///
    /// # Errors
    /// [`HostError::Timeout`], [`HostError::Ended`], and as [`HostView::load`].
    pub fn wait_until(
        &mut self,
        address: u64,
        timeout: Duration,
        wanted: impl Fn(u32) -> bool,
    ) -> Result<u32, HostError> {
        let start = Instant::now();
        loop {
            let ended = self.engine.pending() == 0;
            let value = self.host().load_acquire(address)?;
            if wanted(value) {
                return Ok(value);
            }
            if ended {
                return Err(HostError::Ended { address, value });
            }
            let waited = start.elapsed();
            if waited > timeout {
                return Err(HostError::Timeout { address, value, waited });
            }
            self.engine.turn();
        }
    }
}
