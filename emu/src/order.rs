//! The host and operations as agents of the race model. Each is like a warp of one lane: what it touches is checked like an
//! access of a thread. An operation comes after all that the host did before it, and the host comes after an operation once
//! it has learnt of its end. In between only accesses in system scope order the two.

use crate::clock::{Agent, Clock, HOST, Strength, Width};
use crate::exec::state::Order;
use crate::fault::{Bad, Done, Fault, FaultKind};
use crate::memory::{Memory, MemoryError};
use crate::race::Conflict;
use std::sync::Arc;
use std::time::Duration;

/// Why the host cannot touch memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// There is none, or nobody wrote it.
    #[error("{0}")]
    Memory(#[from] MemoryError),
    /// Kernels or copies touch it as well, and nothing orders the two.
    #[error("{0}")]
    Fault(#[from] Box<Fault>),
    /// It is not host-shared, so that the host has to wait for what runs first.
    #[error("the word at {0:#x} is not in memory that the host shares with kernels; allocate it with `alloc_shared`")]
    NotShared(u64),
    /// Not a multiple of four.
    #[error("the address {0:#x} is not that of a word")]
    Misaligned(u64),
    /// What was waited for cannot happen.
    #[error("the word at {address:#x} is {value}, and nothing is left that could change it")]
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

/// What the host knows that has done nothing yet.
pub(crate) fn host() -> Order {
    of(HOST, &Arc::default())
}

/// An agent that is no thread, with what it knows.
pub(crate) fn of(agent: Agent, knows: &Arc<Clock>) -> Order {
    Order::new(agent, agent..agent + 1, knows, 1)
}

/// Time goes on for the host: what it knows and did so far.
pub(crate) fn release(host: &mut Order) -> Result<Arc<Clock>, Box<Fault>> {
    host.release(1).map_err(|bad| fault("the host", *bad))
}

/// A fault of the host or of an operation.
pub(crate) fn fault(who: &str, bad: Bad) -> Box<Fault> {
    let Bad { kind, address, detail, .. } = bad;
    Box::new(Fault { kind, kernel: who.into(), line: 0, thread: None, address, detail })
}

/// Checks and notes an access to bytes at an address, which are at an offset of a region.
pub(crate) fn touch(
    memory: &mut Memory,
    order: &mut Order,
    write: bool,
    (address, bytes): (u64, u64),
    (index, offset): (usize, usize),
    strength: Strength,
) -> Done {
    let races = &mut memory.region(index).0.races;
    let checked = if write {
        let who = &mut order.who();
        let mine = who.epoch(0, strength, Width::OTHER);
        races.write(who, 1, (offset, bytes as usize), mine, |_| false)
    } else {
        races.read(&mut order.who(), 1, offset, bytes as usize, strength)
    };
    checked.map_err(|c| race(memory, write, address, offset, c))
}

/// Checks a write of all of the region of an allocation at `base`.
pub(crate) fn touch_all(memory: &mut Memory, order: &mut Order, base: u64, index: usize) -> Done {
    let who = &mut order.who();
    let mine = who.epoch(0, Strength::Weak, Width::OTHER);
    let checked = memory.region(index).0.races.write_all(who, mine);
    checked.map_err(|c| race(memory, true, base, 0, c))
}

#[cold]
fn race(memory: &Memory, write: bool, address: u64, offset: usize, c: Conflict) -> Box<Bad> {
    let (_, whose) = memory.agents.describe(c.agent, c.lane, None);
    let verb = |write| if write { "write" } else { "read" };
    let detail = format!("this {} is not ordered with the {} of {whose}", verb(write), verb(c.write));
    // Of a cell part may be before the access.
    let at = address + (c.offset as u64).saturating_sub(offset as u64);
    Bad::new(FaultKind::RaceGlobal, 0, Some(at), detail)
}
