//! Recurrent states: at which position they stand, and checkpoints to go back to.
//!
//! Such a state is what all tokens so far have made of it, so going back takes a copy that was kept in time; at position 0
//! all are zero. Invariant: a checkpoint is that of the tokens which the executor has processed up to its position. All
//! memory is had when a model is loaded.

use super::bind::Bindings;
use crate::Result;
use crate::device::{Held, Region};
use ir::abi::ROW_ALIGN;
use ir::artifact::State;

/// Most checkpoints, beside that of position 0.
pub(super) const MOST: usize = 4;

/// The recurrent states of a model, if it has any.
pub(super) struct Recurrent {
    /// Where they are, on the device.
    states: Vec<Region>,
    /// Zeros, as many as the largest state has.
    zeros: Option<Region>,
    /// The newest last.
    checkpoints: Vec<Checkpoint>,
    /// The position that they are those of; `None` if they are of none.
    stands: Option<usize>,
    /// Where a prompt is to leave a checkpoint.
    wanted: Option<usize>,
}

struct Checkpoint {
    /// A copy of each state.
    copies: Vec<Region>,
    /// `None`: it holds nothing.
    position: Option<usize>,
}

/// Bytes of a state with what lies between it and the next.
fn spaced(state: &State) -> u64 {
    state.bytes.next_multiple_of(ROW_ALIGN as u64)
}

/// Bytes of all recurrent states and their checkpoints.
pub(super) fn bytes(states: &[State]) -> u64 {
    let all = states.iter().filter(|s| s.is_recurrent()).map(spaced).fold(0, u64::saturating_add);
    all.saturating_mul(1 + MOST as u64)
}

impl Recurrent {
    /// Those among the states of a manifest, at position 0.
    pub fn new(bindings: &mut Bindings, states: &[State]) -> Result<Recurrent> {
        let own: Vec<(usize, &State)> = states.iter().enumerate().filter(|(_, s)| s.is_recurrent()).collect();
        let places = own.iter().map(|&(n, _)| bindings.state(n)).collect::<Result<Vec<Region>>>()?;
        let mut recurrent =
            Recurrent { states: places, zeros: None, checkpoints: Vec::new(), stands: Some(0), wanted: None };
        let Some(largest) = own.iter().map(|(_, s)| s.bytes).max() else { return Ok(recurrent) };
        let held = &mut bindings.held;
        recurrent.zeros = Some(held.staging(largest, "the recurrent states' first values")?);
        for _ in 0..MOST {
            let all = held.alloc(own.iter().map(|(_, s)| spaced(s)).sum(), "a checkpoint of the recurrent states")?;
            let mut offset = all.offset;
            let place = |(_, s): &(usize, &State)| {
                let region = Region { offset, bytes: s.bytes, ..all };
                offset += spaced(s);
                region
            };
            recurrent.checkpoints.push(Checkpoint { copies: own.iter().map(place).collect(), position: None });
        }
        recurrent.stands = None;
        recurrent.go_back(held, 0)?;
        Ok(recurrent)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Whether a step may begin at `position`.
    pub fn stands_at(&self, position: usize) -> bool {
        self.is_empty() || self.stands == Some(position)
    }

    /// A step has brought them to `position`.
    pub fn advance(&mut self, position: usize) {
        self.stands = Some(position);
    }

    /// They are those of no position, until they go back to one.
    pub fn lose(&mut self) {
        self.stands = None;
    }

    /// Brings them to `position` or, if there is no copy of it, to the last one before of which there is; gives which.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device).
    pub fn go_back(&mut self, held: &Held, position: usize) -> Result<usize> {
        if self.stands_at(position) {
            return Ok(position);
        }
        // What follows from here on may be other tokens.
        for checkpoint in &mut self.checkpoints {
            checkpoint.position = checkpoint.position.filter(|&p| p <= position);
        }
        let last = self.checkpoints.iter().filter(|c| c.position.is_some()).max_by_key(|c| c.position);
        self.stands = None;
        match last {
            Some(checkpoint) => copy(held, checkpoint.copies.iter().copied().zip(self.states.iter().copied()))?,
            None => {
                let zeros = |to: &Region| self.zeros.map(|zeros| (Region { bytes: to.bytes, ..zeros }, *to));
                copy(held, self.states.iter().filter_map(zeros))?;
            }
        }
        let reached = last.and_then(|c| c.position).unwrap_or(0);
        self.stands = Some(reached);
        Ok(reached)
    }

    /// Keeps a copy of them as they are, in the place of the oldest if there is no room.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device).
    pub fn keep(&mut self, held: &Held) -> Result<()> {
        let known = |c: &Checkpoint| c.position.is_some() && c.position == self.stands;
        if self.stands.is_none_or(|p| p == 0) || self.checkpoints.iter().any(known) {
            return Ok(());
        }
        let Some(oldest) = self.checkpoints.iter_mut().min_by_key(|c| c.position) else { return Ok(()) };
        oldest.position = None;
        copy(held, self.states.iter().copied().zip(oldest.copies.iter().copied()))?;
        oldest.position = self.stands;
        Ok(())
    }

    /// Has the prompt that passes `position` leave a checkpoint there.
    pub fn want(&mut self, position: usize) {
        self.wanted = (!self.is_empty()).then_some(position);
    }

    /// Tokens of a prompt up to where it is to leave a checkpoint, if that is still to come.
    pub fn until_wanted(&self) -> Option<usize> {
        self.wanted?.checked_sub(self.stands?).filter(|&tokens| tokens > 0)
    }

    /// Keeps a copy if one is wanted of where they stand.
    ///
    /// # Errors
    /// As [`Recurrent::keep`].
    pub fn keep_if_wanted(&mut self, held: &Held) -> Result<()> {
        if self.wanted.is_none() || self.wanted != self.stands {
            return Ok(());
        }
        self.wanted = None;
        self.keep(held)
    }
}

/// Copies each first region to the second, and waits.
fn copy(held: &Held, pairs: impl Iterator<Item = (Region, Region)>) -> Result<()> {
    let mut device = held.device();
    let mut last = None;
    for (from, to) in pairs {
        last = Some(device.copy(from, to)?);
    }
    last.map_or(Ok(()), |ticket| device.wait(ticket))
}
