//! What an [`crate::Engine`] can be asked to do, and how copies, fills and words of memory are done. Each is an agent of the
//! race model of its own, which knows what the operations before it did. Its next hop is [`crate::engine`], which says when.

use crate::clock::{Agent, AgentSet, Clock, Strength, join};
use crate::exec::state::{Grid, Order};
use crate::fault::{Bad, Done, FaultKind};
use crate::memory::Memory;
use crate::order::{self, touch};
use crate::race::PAGE;
use crate::store::HostMemory;
use crate::types::Scope;
use std::sync::Arc;

/// Bytes of a copy that are moved at once.
pub(crate) const CHUNK: u64 = 1 << 20;

/// A launch that is possible.
#[derive(Debug, Clone)]
pub struct Prepared(pub(crate) Arc<Grid>);

/// Where the bytes of a copy are.
pub enum Place {
    /// At an address that kernels reach: device memory, or pinned and mapped memory of the process.
    Device(u64),
    /// In memory of the process that kernels do not reach.
    Host(Box<dyn HostMemory>),
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Device(address) => write!(f, "Device({address:#x})"),
            Place::Host(memory) => write!(f, "Host({} bytes)", memory.len()),
        }
    }
}

/// Bytes from one row to the next, and from one slice to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pitch {
    /// From the start of a row to that of the next.
    pub row: u64,
    /// From the start of a slice to that of the next.
    pub slice: u64,
}

/// What is copied or filled: slices of rows of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes of a row.
    pub row_bytes: u64,
    /// Rows of a slice.
    pub rows: u64,
    /// Slices.
    pub slices: u64,
    /// Where rows and slices are at the source.
    pub from: Pitch,
    /// Where they are at the target.
    pub to: Pitch,
}

impl Extent {
    /// Bytes that lie together.
    pub fn linear(bytes: u64) -> Extent {
        Extent::rows(bytes, 1, bytes, bytes)
    }

    /// Rows, each at so many bytes from the one before.
    pub fn rows(row_bytes: u64, rows: u64, from_pitch: u64, to_pitch: u64) -> Extent {
        let pitch = |row| Pitch { row, slice: 0 };
        Extent { row_bytes, rows, slices: 1, from: pitch(from_pitch), to: pitch(to_pitch) }
    }

    /// As an extent of a fill, which has no source.
    pub(crate) fn of_fill(self, pattern: Pattern) -> Extent {
        let whole = self.row_bytes.is_multiple_of(pattern.bytes().1 as u64);
        // Rows that lie together are one only if the pattern goes on from each to the next.
        Extent { from: if whole { self.to } else { Pitch::default() }, ..self }
    }

    fn is_empty(&self) -> bool {
        self.row_bytes == 0 || self.rows == 0 || self.slices == 0
    }

    /// The same bytes in fewer rows, where rows lie together at both ends.
    fn joined(mut self) -> Extent {
        if self.from.row == self.row_bytes
            && self.to.row == self.row_bytes
            && let Some(bytes) = self.row_bytes.checked_mul(self.rows)
        {
            (self.row_bytes, self.rows) = (bytes, 1);
        }
        self
    }
}

/// What a fill writes over and over, from the start of each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// A byte.
    D8(u8),
    /// Two bytes, in the order of the machine.
    D16(u16),
    /// Four bytes.
    D32(u32),
}

impl Pattern {
    /// Four bytes of it, and how many it has.
    fn bytes(self) -> ([u8; 4], usize) {
        match self {
            Pattern::D8(v) => ([v; 4], 1),
            Pattern::D16(v) => ((u32::from(v) << 16 | u32::from(v)).to_le_bytes(), 2),
            Pattern::D32(v) => (v.to_le_bytes(), 4),
        }
    }
}

/// A word of memory that streams write and wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// 32 bits.
    B32(u32),
    /// 64 bits.
    B64(u64),
}

impl Word {
    fn bytes(self) -> u32 {
        match self {
            Word::B32(_) => 4,
            Word::B64(_) => 8,
        }
    }

    fn value(self) -> u64 {
        match self {
            Word::B32(v) => v.into(),
            Word::B64(v) => v,
        }
    }
}

/// When a word is as it was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// It minus the value, of so many bits and with a sign, is not negative: it is at or beyond the value, on a circle.
    Geq,
    /// It is the value.
    Eq,
    /// It has a bit in common with the value.
    And,
    /// Some bit is in neither.
    Nor,
}

impl Compare {
    fn holds(self, found: u64, wanted: Word) -> bool {
        let (mask, value) = (u64::MAX >> (64 - 8 * wanted.bytes()), wanted.value());
        match self {
            Compare::Geq => found.wrapping_sub(value) & mask <= mask >> 1,
            Compare::Eq => found == value,
            Compare::And => found & value != 0,
            Compare::Nor => !(found | value) & mask != 0,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Compare::Geq => "to be at least",
            Compare::Eq => "to be",
            Compare::And => "to have a bit of",
            Compare::Nor => "to lack a bit that is not in",
        }
    }
}

/// What an operation does.
pub enum Work {
    /// Runs a kernel.
    Launch(Prepared),
    /// Copies bytes. It reads them when it runs, and they are there at the latest when it has ended. Bytes of device memory
    /// that nobody wrote are unwritten where they come to; to copy them to the host is a fault.
    Copy {
        /// The source.
        from: Place,
        /// The target.
        to: Place,
        /// Which bytes.
        extent: Extent,
    },
    /// Fills memory; of the extent only the target's pitches matter.
    Fill {
        /// The first byte.
        to: u64,
        /// With what.
        pattern: Pattern,
        /// Which bytes.
        extent: Extent,
    },
    /// A function for whoever turns the engine to call: [`crate::Turn::Call`].
    Call(Box<dyn FnOnce() + Send>),
    /// Writes a word: releases, in system scope.
    Write {
        /// Where.
        address: u64,
        /// What.
        value: Word,
    },
    /// Waits for a word: acquires, in system scope.
    Wait {
        /// Where.
        address: u64,
        /// With what it is compared.
        value: Word,
        /// How.
        compare: Compare,
    },
    /// Hands out the allocation that starts at an address: a write of all of it that changes nothing, so that who uses it has
    /// to come afterwards.
    Allocate(u64),
    /// Frees the allocation that starts at an address: a write of all of it, after which it is no memory.
    Free(u64),
    /// Nothing: what comes after it comes after all that it comes after.
    Nothing,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Work::Launch(p) => write!(f, "Launch({})", p.0.kernel),
            Work::Copy { from, to, extent } => write!(f, "Copy({from:?} to {to:?}, {extent:?})"),
            Work::Fill { to, pattern, extent } => write!(f, "Fill({to:#x}, {pattern:?}, {extent:?})"),
            Work::Call(_) => f.write_str("Call"),
            Work::Write { address, value } => write!(f, "Write({address:#x}, {value:?})"),
            Work::Wait { address, value, compare } => write!(f, "Wait({address:#x}, {compare:?} {value:?})"),
            Work::Allocate(base) => write!(f, "Allocate({base:#x})"),
            Work::Free(base) => write!(f, "Free({base:#x})"),
            Work::Nothing => f.write_str("Nothing"),
        }
    }
}

/// An operation as an agent.
#[derive(Debug)]
pub(crate) struct Actor {
    order: Order,
    agents: AgentSet,
}

impl Actor {
    /// A new one that knows something.
    pub(crate) fn new(memory: &mut Memory, label: &Arc<str>, knows: &Arc<Clock>) -> Done<Actor> {
        let mut agents = AgentSet::default();
        let owner = crate::agents::Owner::Operation(Arc::clone(label));
        let agent: Agent = memory.agents.start(1, owner, &mut agents)?;
        Ok(Actor { order: order::of(agent, knows), agents })
    }

    /// What is known once it has ended.
    pub(crate) fn over(self) -> Arc<Clock> {
        let mut clock = self.order.knowledge.joined(1);
        Arc::make_mut(&mut clock).end(&self.agents);
        clock
    }

    /// Checks and notes an access; where it is.
    fn touch(
        &mut self,
        memory: &mut Memory,
        write: bool,
        address: u64,
        bytes: u64,
        s: Strength,
    ) -> Done<(usize, usize)> {
        let Some(place) = memory.locate(address, bytes) else {
            let (kind, what) = memory.describe_missing(address, bytes);
            return Err(Bad::new(kind, 0, Some(address), what));
        };
        touch(memory, &mut self.order, write, (address, bytes), place, s)?;
        Ok(place)
    }

    /// Writes a word.
    pub(crate) fn write_word(&mut self, memory: &mut Memory, address: u64, value: Word) -> Done {
        aligned(address, value)?;
        let bytes = value.bytes();
        let (index, offset) = self.touch(memory, true, address, bytes.into(), Strength::Sys)?;
        let clock = self.order.release(1)?;
        let agent = self.order.agent;
        if memory.is_of_process(address) {
            join(&mut memory.agents.to_process, &clock);
        }
        memory.agents.published.entry(address).or_default().publish(agent, Scope::Sys, clock, true);
        let store = &mut memory.region(index).0.store;
        store.put(offset, bytes, value.value());
        store.set_written(offset, bytes as usize);
        memory.agents.progress += 1;
        Ok(())
    }

    /// The word was as waited for: what it tells.
    pub(crate) fn acquire_word(&mut self, memory: &mut Memory, address: u64, value: Word) -> Done {
        self.touch(memory, false, address, value.bytes().into(), Strength::Sys)?;
        if let Some(published) = memory.agents.published.get(&address) {
            published.visible(self.order.agent, Scope::Sys).for_each(|clock| self.order.acquire(1, clock));
        }
        if memory.is_of_process(address) {
            self.order.acquire(1, &memory.agents.of_process);
        }
        Ok(())
    }

    /// Hands out an allocation, unless it has been freed meanwhile.
    pub(crate) fn allocate(&mut self, memory: &mut Memory, base: u64) -> Done {
        let Some((index, 0)) = memory.locate(base, 0) else { return Ok(()) };
        let bytes = memory.region(index).0.store.len() as u64;
        touch(memory, &mut self.order, true, (base, bytes), (index, 0), Strength::Weak)
    }

    /// Frees an allocation.
    pub(crate) fn free(&mut self, memory: &mut Memory, base: u64) -> Done {
        let Some((index, 0)) = memory.locate(base, 0) else {
            let (kind, what) = memory.describe_missing(base, 0);
            return Err(Bad::new(kind, 0, Some(base), format!("frees {what}")));
        };
        order::touch_all(memory, &mut self.order, base, index)?;
        memory.free(base).map_err(|e| Bad::new(FaultKind::OobGlobal, 0, Some(base), e.to_string()))
    }
}

fn aligned(address: u64, value: Word) -> Done {
    if address.is_multiple_of(value.bytes().into()) {
        return Ok(());
    }
    Err(Bad::new(FaultKind::Misaligned, 0, Some(address), format!("a word of {} bytes", value.bytes())))
}

/// Whether a word is as waited for; a fault if it cannot be read.
pub(crate) fn is_as_wanted(memory: &mut Memory, address: u64, value: Word, compare: Compare) -> Done<bool> {
    aligned(address, value)?;
    Ok(compare.holds(peek(memory, address, value)?, value))
}

fn peek(memory: &mut Memory, address: u64, value: Word) -> Done<u64> {
    let bytes = value.bytes();
    let Some((index, offset)) = memory.locate(address, bytes.into()) else {
        let (kind, what) = memory.describe_missing(address, bytes.into());
        return Err(Bad::new(kind, 0, Some(address), what));
    };
    let store = &memory.region(index).0.store;
    if let Some(at) = store.first_unwritten(offset, bytes as usize) {
        let at = address + (at - offset) as u64;
        return Err(Bad::new(FaultKind::UninitGlobal, 0, Some(at), "waits for a word that nobody wrote"));
    }
    Ok(store.get(offset, bytes))
}

/// What is the matter if nothing changes a word any more.
pub(crate) fn waits_in_vain(memory: &mut Memory, address: u64, value: Word, compare: Compare) -> Bad {
    let found = peek(memory, address, value).unwrap_or(0);
    let detail = format!(
        "nobody can go on: the word at {address:#x} is {found}, and is waited for {} {}",
        compare.words(),
        value.value()
    );
    Bad { kind: FaultKind::Deadlock, lane: 0, address: Some(address), detail }
}

/// Where the bytes of a transfer come from.
#[derive(Debug)]
pub(crate) enum Source {
    Place(Place),
    Pattern(Pattern),
}

/// A copy or a fill that runs.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) id: u64,
    pub(crate) actor: Actor,
    from: Source,
    to: Place,
    extent: Extent,
    /// How far it is: slice, row, byte of the row.
    at: [u64; 3],
    /// What is on its way.
    data: Vec<u8>,
    /// The fingerprint of its source when it could begin.
    seen: Option<u64>,
}

/// A hash of the source of a copy, if it is memory of the process that kernels reach, and all there.
pub(crate) fn fingerprint(memory: &mut Memory, from: &Place, extent: &Extent) -> Option<u64> {
    let Place::Device(base) = *from else { return None };
    if extent.is_empty() || !memory.is_of_process(base) {
        return None;
    }
    let mut hash = 0_u64;
    let mut row = vec![0; usize::try_from(extent.row_bytes.min(CHUNK)).ok()?];
    for slice in 0..extent.slices {
        for line in 0..extent.rows {
            let offset = slice.checked_mul(extent.from.slice)?.checked_add(line.checked_mul(extent.from.row)?)?;
            let (index, offset) = memory.locate(base.checked_add(offset)?, extent.row_bytes)?;
            let store = &memory.region(index).0.store;
            let mut at = 0;
            while at < extent.row_bytes {
                let part = &mut row[..(extent.row_bytes - at).min(CHUNK) as usize];
                store.read(offset + at as usize, part);
                let mut words = part.chunks_exact(8);
                let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
                for eight in &mut words {
                    hash = (hash.rotate_left(5) ^ word(eight)).wrapping_mul(0x517c_c1b7_2722_0a95);
                }
                hash = (hash.rotate_left(5) ^ word(words.remainder())).wrapping_mul(0x517c_c1b7_2722_0a95);
                at += part.len() as u64;
            }
        }
    }
    Some(hash)
}

impl Transfer {
    pub(crate) fn new(id: u64, actor: Actor, from: Source, to: Place, extent: Extent) -> Transfer {
        Transfer { id, actor, from, to, extent: extent.joined(), at: [0; 3], data: Vec::new(), seen: None }
    }

    /// Its source has to be still at its end what had this fingerprint when it could begin.
    pub(crate) fn of_source(self, seen: Option<u64>) -> Transfer {
        Transfer { seen, ..self }
    }

    /// Checks that the process has left the source alone.
    fn is_unchanged(&self, memory: &mut Memory) -> Done {
        let Source::Place(from) = &self.from else { return Ok(()) };
        if self.seen.is_none() || fingerprint(memory, from, &self.extent) == self.seen {
            return Ok(());
        }
        let address = if let Place::Device(at) = from { Some(*at) } else { None };
        let what = "the process has changed the source since the copy could begin, and has not waited for its end";
        Err(Bad::new(FaultKind::RaceGlobal, 0, address, what))
    }

    /// Moves about so many bytes, [`CHUNK`] at most. Whether that was all.
    pub(crate) fn step(&mut self, memory: &mut Memory, most: u64) -> Done<bool> {
        let (e, mut left) = (self.extent, most.clamp(1, CHUNK));
        if e.is_empty() {
            return Ok(true);
        }
        memory.agents.progress += 1;
        loop {
            let [slice, row, at] = &mut self.at;
            // Cut at pages, which the race model can note as a whole.
            let rest = e.row_bytes - *at;
            let n = if left >= rest { rest } else { rest.min(left.next_multiple_of(PAGE as u64)) };
            let offset = |p: Pitch| {
                let rows = row.checked_mul(p.row)?;
                slice.checked_mul(p.slice)?.checked_add(rows)?.checked_add(*at)
            };
            let (Some(from), Some(to)) = (offset(e.from), offset(e.to)) else {
                let what = "rows of this extent are beyond all addresses";
                return Err(Bad::new(FaultKind::OobGlobal, 0, None, what));
            };
            let start = *at;
            *at += n;
            if *at == e.row_bytes {
                (*row, *at) = (*row + 1, 0);
            }
            if *row == e.rows {
                (*slice, *row) = (*slice + 1, 0);
            }
            let ended = *slice == e.slices;
            self.transfer(memory, from, to, (start, n))?;
            left = left.saturating_sub(n);
            if ended {
                self.is_unchanged(memory)?;
            }
            if ended || left == 0 {
                return Ok(ended);
            }
        }
    }

    /// Moves bytes that lie together, from and to offsets of the places, from a byte of their row on.
    fn transfer(&mut self, memory: &mut Memory, from: u64, to: u64, (start, n): (u64, u64)) -> Done {
        let len = n as usize;
        let mut gaps: Vec<(usize, usize)> = Vec::new();
        self.data.resize(len, 0);
        match &self.from {
            Source::Pattern(pattern) => {
                let mut pattern = pattern.bytes().0;
                pattern.rotate_left(start as usize % 4);
                for part in self.data.chunks_mut(4) {
                    part.copy_from_slice(&pattern[..part.len()]);
                }
            }
            Source::Place(Place::Host(source)) => source.read(within(&**source, from, n)?, &mut self.data),
            Source::Place(Place::Device(base)) => {
                let address = base.wrapping_add(from);
                let (index, offset) = self.actor.touch(memory, false, address, n, Strength::Weak)?;
                let store = &memory.region(index).0.store;
                gaps.extend(store.gaps(offset, len).map(|(at, len)| (at - offset, len)));
                store.read(offset, &mut self.data);
                self.leaves_card(memory, address, to, &gaps)?;
            }
        }
        match &mut self.to {
            Place::Host(target) => target.write(within(&**target, to, n)?, &self.data),
            Place::Device(base) => {
                let address = base.wrapping_add(to);
                let (index, offset) = self.actor.touch(memory, true, address, n, Strength::Weak)?;
                let store = &mut memory.region(index).0.store;
                store.write(offset, &self.data);
                store.set_written(offset, len);
                for (at, len) in gaps {
                    store.set_unwritten(offset + at, len);
                }
            }
        }
        Ok(())
    }

    /// A fault if bytes that nobody wrote come to the process.
    fn leaves_card(&self, memory: &mut Memory, address: u64, to: u64, gaps: &[(usize, usize)]) -> Done {
        let Some(&(at, len)) = gaps.first() else { return Ok(()) };
        let host = match &self.to {
            Place::Host(_) => true,
            Place::Device(base) => memory.is_of_process(base.wrapping_add(to)),
        };
        if !host {
            return Ok(());
        }
        let at = address + at as u64;
        let story = match memory.undefined(at, len as u64) {
            Some(fault) => format!("; a kernel stored it there: {fault}"),
            None => String::new(),
        };
        let what = format!("copies to the host what nobody wrote, {len} bytes{story}");
        Err(Bad::new(FaultKind::UninitGlobal, 0, Some(at), what))
    }
}

/// An offset in memory of the process, where so many bytes have to be.
fn within(memory: &dyn HostMemory, offset: u64, bytes: u64) -> Done<usize> {
    let len = memory.len() as u64;
    if offset > len || bytes > len - offset {
        let what = format!("{bytes} bytes at byte {offset} of the {len} that the host gave");
        return Err(Bad::new(FaultKind::OobGlobal, 0, None, what));
    }
    Ok(offset as usize)
}
