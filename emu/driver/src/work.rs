//! What has been asked of the emulator and has not ended: its engine, and for each operation what the driver does about it.

use crate::cards::Card;
use crate::code::Module;
use crate::error::{Answer, Error};
use crate::objects::{Context, Event};
use crate::slots::Handle;
use std::collections::BTreeMap;
use std::ops::Range;

/// Where device memory begins: no memory of a process is there.
const DEVICE: u64 = 0x2000_0000_0000;
/// Instructions of warps of a launch, at most.
const STEPS: u64 = 1 << 40;

/// What happens when an operation has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Nothing,
    /// This event has happened.
    Event(Handle<Event>),
    /// The allocation with this address has been freed.
    Freed(u64),
}

/// An operation that has not ended.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) context: Handle<Context>,
    pub(crate) label: String,
    pub(crate) then: Then,
    /// Addresses that a copy, a fill or a word touches.
    pub(crate) touches: Vec<Range<u64>>,
    /// Of a launch: where its code is.
    pub(crate) module: Option<Handle<Module>>,
}

impl Pending {
    pub(crate) fn new(context: Handle<Context>, label: &str) -> Pending {
        Pending { context, label: label.to_owned(), then: Then::Nothing, touches: Vec::new(), module: None }
    }
}

/// All that has been asked.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) engine: emu::Engine,
    pub(crate) pending: BTreeMap<emu::Op, Pending>,
    /// The error that has stuck.
    pub(crate) failed: Option<Error>,
    /// How often it began again.
    pub(crate) age: u64,
    card: Option<&'static Card>,
    capacity: u64,
    seed: u64,
}

fn engine(card: Option<&Card>, capacity: u64, seed: u64) -> emu::Engine {
    let card = card.map(|card| emu::Card {
        block_shared: card.block_shared().into(),
        shared: card.shared().into(),
        threads: card.arch.threads.into(),
        blocks: card.arch.blocks.into(),
        multiprocessors: card.multiprocessors.into(),
    });
    let options = emu::Options { schedule: emu::Schedule { seed }, card, max_steps: STEPS, ..emu::Options::default() };
    emu::Engine::new(emu::Memory::starting_at(DEVICE, capacity), options)
}

impl Work {
    /// For a card, if there is one, with so many free bytes.
    pub(crate) fn new(card: Option<&'static Card>, capacity: u64, seed: u64) -> Work {
        let engine = engine(card, capacity, seed);
        Work { engine, pending: BTreeMap::new(), failed: None, age: 0, card, capacity, seed }
    }

    /// Begins again, after all contexts in which something has failed are gone.
    pub(crate) fn reset(&mut self) {
        *self = Work { age: self.age + 1, ..Work::new(self.card, self.capacity, self.seed) };
    }

    /// Hands over an operation.
    ///
    /// # Errors
    /// The one that has stuck.
    pub(crate) fn submit(
        &mut self,
        work: emu::Work,
        after: &[emu::After],
        label: &str,
        pending: Pending,
    ) -> Answer<emu::Op> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let op = self.engine.submit(label, work, after).map_err(|_| Error::LAUNCH_FAILED)?;
        self.pending.insert(op, pending);
        Ok(op)
    }

    /// Whether an operation has ended, and what is to happen then has happened.
    pub(crate) fn over(&self, op: emu::Op) -> bool {
        !self.pending.contains_key(&op)
    }

    /// Whether a range of addresses is touched by a copy, a fill or a word that has not ended: its label.
    pub(crate) fn toucher(&self, range: Range<u64>) -> Option<&str> {
        let hit = |r: &Range<u64>| r.start < range.end && range.start < r.end;
        self.pending.values().find(|p| p.touches.iter().any(hit)).map(|p| p.label.as_str())
    }

    /// Whether a launch of a module has not ended: its label.
    pub(crate) fn user(&self, module: Handle<Module>) -> Option<&str> {
        self.pending.values().find(|p| p.module == Some(module)).map(|p| p.label.as_str())
    }
}
