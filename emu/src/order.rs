//! The host as an agent of the race model. Its accesses are checked like those of a thread: a launch comes after all that
//! the host did before it, and the host comes after a launch once it has waited for it. In between only accesses in system
//! scope to host-shared memory order the two.

use crate::clock::{Clock, HOST, Strength, Width};
use crate::exec::state::{Bad, Order};
use crate::fault::{Fault, FaultKind};
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
