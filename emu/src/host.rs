//! The host as an agent of the race model. Its accesses are checked like those of a thread: a launch comes after all that
//! the host did before it, and the host comes after a launch once it has waited for it. In between only accesses in system
//! scope to host-shared memory order the two.

use crate::clock::{Clock, HOST, Strength, Width};
use crate::exec::state::{Bad, Order};
use crate::fault::{Fault, FaultKind};
use crate::memory::{Memory, MemoryError};
use crate::queue::{Card, Machine, pause};
use crate::race::Conflict;
use crate::types::Scope;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of a word.
const WORD: u32 = 4;

/// Why the host cannot touch memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// There is none, or nobody wrote it.
    #[error("{0}")]
    Memory(#[from] MemoryError),
    /// Kernels touch it as well, and nothing orders the two.
    #[error("{0}")]
    Fault(#[from] Box<Fault>),
    /// It is not host-shared, so that the host has to wait for the queues first.
    #[error("the word at {0:#x} is not in memory that the host shares with kernels; allocate it with `alloc_shared`")]
    NotShared(u64),
    /// Not a multiple of four.
    #[error("the address {0:#x} is not that of a word")]
    Misaligned(u64),
    /// What was waited for cannot happen.
    #[error("the word at {address:#x} is {value}, and no queue has anything left to do that could change it")]
    Ended {
        /// The word.
        address: u64,
        /// What it was at last.
        value: u32,
    },
    /// What was waited for did not happen.
    #[error("the word at {address:#x} was still {value} after {waited:?}")]
    Timeout {
        /// The word.
        address: u64,
        /// What it was at last.
        value: u32,
        /// How long.
        waited: Duration,
    },
}

/// What the host knows, as if it were a warp of one lane.
pub(crate) fn order() -> Order {
    Order::new(HOST, HOST..HOST + 1, &Arc::default(), 1)
}

/// Time goes on for the host: what it knows and did so far.
pub(crate) fn release(order: &mut Order) -> Result<Arc<Clock>, Box<Fault>> {
    order.release(1).map_err(|bad| fault(*bad))
}

fn fault(bad: Bad) -> Box<Fault> {
    let Bad { kind, address, detail, .. } = bad;
    Box::new(Fault { kind, kernel: "the host".into(), line: 0, thread: None, address, detail })
}

/// Checks and notes an access of the host; where it is.
pub(crate) fn touch(
    memory: &mut Memory,
    host: &mut Order,
    write: bool,
    address: u64,
    bytes: u64,
    strength: Strength,
) -> Result<(usize, usize), HostError> {
    let place = memory.locate(address, bytes).ok_or(MemoryError::Unmapped { address, bytes })?;
    let races = &mut memory.region(place.0).0.races;
    let checked = if write {
        let who = &mut host.who();
        let mine = who.epoch(0, strength, Width::OTHER);
        races.write(who, 1, (place.1, bytes as usize), mine, |_| false)
    } else {
        races.read(&mut host.who(), 1, place.1, bytes as usize, strength)
    };
    match checked {
        Ok(()) => Ok(place),
        Err(c) => Err(race(memory, write, address, place.1, c).into()),
    }
}

fn race(memory: &Memory, write: bool, address: u64, offset: usize, c: Conflict) -> Box<Fault> {
    let (_, whose) = memory.agents.describe(c.agent, c.lane, None);
    let verb = |write| if write { "write" } else { "read" };
    let detail = format!("this {} is not ordered with the {} of {whose}", verb(write), verb(c.write));
    let at = address + (c.offset as u64).saturating_sub(offset as u64);
    fault(Bad { kind: FaultKind::RaceGlobal, lane: 0, address: Some(at), detail })
}

/// Words of host-shared memory, as the host reads and writes them while kernels run.
#[derive(Debug)]
pub struct HostView<'a> {
    pub(crate) machine: &'a mut Machine,
}

impl HostView<'_> {
    /// A plain load.
    ///
    /// # Errors
    /// [`HostError`]: a race among others.
    pub fn load(&mut self, address: u64) -> Result<u32, HostError> {
        self.word(address, Strength::Weak, None)
    }

    /// A plain store.
    ///
    /// # Errors
    /// As [`HostView::load`].
    pub fn store(&mut self, address: u64, value: u32) -> Result<(), HostError> {
        self.word(address, Strength::Weak, Some((false, &|_| value))).map(|_| ())
    }

    /// A load that acquires, in system scope.
    ///
    /// # Errors
    /// As [`HostView::load`].
    pub fn load_acquire(&mut self, address: u64) -> Result<u32, HostError> {
        self.word(address, Strength::Sys, None)
    }

    /// A store that releases, in system scope.
    ///
    /// # Errors
    /// As [`HostView::load`].
    pub fn store_release(&mut self, address: u64, value: u32) -> Result<(), HostError> {
        self.word(address, Strength::Sys, Some((false, &|_| value))).map(|_| ())
    }

    /// Replaces a word by a function of it, at once, acquires and releases, in system scope; what it was.
    ///
    /// # Errors
    /// As [`HostView::load`].
    pub fn update(&mut self, address: u64, new: impl Fn(u32) -> u32) -> Result<u32, HostError> {
        self.word(address, Strength::Sys, Some((true, &new)))
    }

    /// Loads, acquiring, until the word is as wanted; what it is then.
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
        let mut turn = 0;
        loop {
            let ended = self.machine.enter().idle();
            let value = self.load_acquire(address)?;
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
            pause(&mut turn);
        }
    }

    /// Reads a word, writes one, or both; what it was. `write` says whether it also reads, and what it writes.
    fn word(&mut self, address: u64, strength: Strength, write: Option<Write<'_>>) -> Result<u32, HostError> {
        let mut card = self.machine.enter();
        let Card { memory, host, .. } = &mut *card;
        if !address.is_multiple_of(u64::from(WORD)) {
            return Err(HostError::Misaligned(address));
        }
        let (index, offset) = touch(memory, host, write.is_some(), address, u64::from(WORD), strength)?;
        if !memory.is_shared(index) {
            return Err(HostError::NotShared(address));
        }
        let store = &mut memory.region(index).0.store;
        let old = store.get(offset, WORD) as u32;
        if write.is_none_or(|(reads, _)| reads) {
            if let Some(at) = store.first_unwritten(offset, WORD as usize) {
                return Err(MemoryError::Unwritten(address + (at - offset) as u64).into());
            }
            if strength == Strength::Sys
                && let Some(released) = memory.agents.published.get(&address)
            {
                released.visible(HOST, Scope::Sys).for_each(|clock| host.acquire(1, clock));
            }
        }
        if let Some((reads, new)) = write {
            if strength == Strength::Sys {
                let clock = release(host)?;
                memory.agents.published.entry(address).or_default().publish(HOST, Scope::Sys, clock, !reads);
            }
            let store = &mut memory.region(index).0.store;
            store.put(offset, WORD, u64::from(new(old)));
            store.set_written(offset, WORD as usize);
            memory.agents.progress += 1;
        }
        Ok(old)
    }
}

/// Whether a write reads as well, and the new value by the old.
type Write<'a> = (bool, &'a dyn Fn(u32) -> u32);
