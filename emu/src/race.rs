//! The race detector's memory of a region: for each cell the last write and the reads since then, as epochs. A cell is a
//! page as long as all accesses are of whole pages, then a word, until an access is not made of whole words; then its page has
//! a cell for each byte. Pages exist where somebody touched the region, and are forgotten at a boundary, which orders
//! everything.
//!
//! The rule: two accesses to a cell, one of them a write, race unless one happens before the other (the later thread's
//! clock covers the earlier epoch), or both are strong in a scope that has both threads, or both are writes of one width that
//! write the same bytes: then it does not matter who was last. A copy of the async proxy needs more: of what threads wrote to its source and its target it must know that they fenced it after they wrote it.

use crate::clock::{
    AGENTS_PER_WARP, Agent, CP_ASYNC, Clock, Epoch, FENCED_CP_ASYNC, FENCED_GLOBAL, FENCED_SHARED, HOST, Knowledge,
    Source, Strength, Width,
};
use std::ops::Range;
use std::sync::Arc;

/// Bytes of a page.
pub(crate) const PAGE: usize = 1024;
/// The size of cells of whole pages, of words and of bytes, as powers of two.
const SHIFTS: [u32; 3] = [PAGE.trailing_zeros(), 2, 0];
/// Notes of a cell from which on old ones are looked for.
const CROWD: usize = 64;
/// Marks the index of a set of readers.
const SET: u64 = 1 << 63;

#[derive(Debug, Clone, Copy, Default)]
struct Cell {
    write: Epoch,
    /// None (0), the epoch of one, or a set.
    read: u64,
}

#[derive(Debug)]
struct Page {
    /// Cells are of `1 << shift` bytes: a page, 4 or 1.
    shift: u32,
    cells: Vec<Cell>,
}

impl Page {
    /// Makes its cells smaller.
    #[cold]
    fn split(&mut self, shift: u32, sets: &mut Vec<Vec<Note>>) {
        let mut cells = Vec::with_capacity(PAGE >> shift);
        for cell in &self.cells {
            cells.push(*cell);
            for _ in 1..1 << (self.shift - shift) {
                let mut copy = *cell;
                if copy.read & SET != 0 {
                    let notes = sets[(copy.read & !SET) as usize].clone();
                    sets.push(notes);
                    copy.read = SET | (sets.len() - 1) as u64;
                }
                cells.push(copy);
            }
        }
        *self = Page { shift, cells };
    }
}

/// Accesses of lanes of one agent at one time.
#[derive(Debug, Clone, Copy)]
struct Note {
    agent: Agent,
    time: u32,
    lanes: u32,
    strength: Strength,
    width: Width,
    source: Source,
    /// A write that the last one did not order: both were strong, or wrote the same.
    write: bool,
}

/// The access that another one races with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// Where, from the start of the region.
    pub(crate) offset: usize,
    pub(crate) agent: Agent,
    pub(crate) lane: u32,
    pub(crate) time: u32,
    pub(crate) write: bool,
}

/// Agents whose accesses a thread is known to come after, from its clock: a cache.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memo([(Agent, u32); 4]);

/// The warp that makes an access, or the host.
pub(crate) struct Who<'a> {
    pub(crate) agent: Agent,
    pub(crate) now: u32,
    pub(crate) knowledge: &'a Knowledge,
    pub(crate) memo: &'a mut Memo,
    /// Until when each lane knows its own accesses: those of the warp's agents, the thread's first.
    pub(crate) waited: &'a [[u32; 32]; AGENTS_PER_WARP as usize],
    /// Agents of its CTA.
    pub(crate) cta: Range<Agent>,
}

impl Who<'_> {
    /// An access of a lane.
    pub(crate) fn epoch(&self, lane: u32, strength: Strength, width: Width) -> Epoch {
        Epoch::new(self.agent, self.now, lane, strength).wide(width)
    }

    /// Whether an access of `lane` of another agent at `time` happened before those of all `lanes`.
    #[inline]
    fn after(&mut self, agent: Agent, lane: u32, time: u32, lanes: u32) -> bool {
        let slot = agent as usize & 3;
        let (known, until) = self.memo.0[slot];
        if known == agent && time <= until {
            return true;
        }
        self.after_slowly(agent, lane, time, lanes)
    }

    fn after_slowly(&mut self, agent: Agent, lane: u32, time: u32, lanes: u32) -> bool {
        let mut others = lanes;
        if let Some(own) = self.waited.get(agent.wrapping_sub(self.agent) as usize)
            && time <= own[lane as usize]
        {
            others &= !(1 << lane);
        }
        if others == 0 {
            return true;
        }
        if let Some(clock) = self.knowledge.common() {
            let all = clock.time_of_all(agent);
            if all > 0 {
                self.memo.0[agent as usize & 3] = (agent, all);
            }
            return all >= time || clock.time(agent, lane) >= time;
        }
        let knows = |clock: &Arc<Clock>| clock.time(agent, lane) >= time;
        (0..32).filter(|l| others >> l & 1 != 0).all(|l| self.knowledge.of_lane(l).is_some_and(knows))
    }

    fn after_epoch(&mut self, e: Epoch, lanes: u32) -> bool {
        self.after(e.agent(), e.lane(), e.time(), lanes)
    }

    /// The first lane of a note whose access did not happen before those of all `lanes`.
    fn unordered(&mut self, note: &Note, lanes: u32) -> Option<u32> {
        let mut rest = note.lanes;
        while rest != 0 {
            let lane = rest.trailing_zeros();
            rest &= rest - 1;
            if !self.after(note.agent, lane, note.time, lanes) {
                return Some(lane);
            }
        }
        None
    }

    /// Whether two accesses are both strong in a scope that has both threads.
    fn both_strong(&self, mine: Strength, agent: Agent, theirs: Strength) -> bool {
        let needed = if self.cta.contains(&agent) {
            Strength::Cta
        } else if self.agent == HOST || agent == HOST {
            Strength::Sys
        } else {
            Strength::Gpu
        };
        mine >= needed && theirs >= needed
    }
}

/// The races of a region.
#[derive(Debug)]
pub(crate) struct Races {
    /// Bytes of the region.
    bytes: usize,
    /// By page of the region the number of its page in `pages`, from 1; 0: none. Empty until somebody touches the region, and
    /// then of zeros that take no memory where nobody does.
    places: Vec<u32>,
    pages: Vec<Page>,
    sets: Vec<Vec<Note>>,
    free: Vec<u32>,
}

impl Races {
    /// Nobody has touched the region of so many bytes.
    pub(crate) fn new(bytes: usize) -> Races {
        Races { bytes, places: Vec::new(), pages: Vec::new(), sets: Vec::new(), free: Vec::new() }
    }

    /// Forgets everything: all that happened is ordered before all that comes.
    pub(crate) fn forget(&mut self) {
        if !self.places.is_empty() {
            *self = Races::new(self.bytes);
        }
    }

    /// The page of a range within one, whose cells are as small as the range asks for, and those of the range.
    #[inline]
    fn cells(&mut self, offset: usize, len: usize) -> (&mut Page, Sets<'_>, Range<usize>) {
        if self.places.is_empty() {
            self.places = vec![0; self.bytes.div_ceil(PAGE)];
        }
        let shift = SHIFTS[if len == PAGE { 0 } else { 1 + usize::from((offset | len) & 3 != 0) }];
        let place = &mut self.places[offset / PAGE];
        if *place == 0 {
            self.pages.push(Page { shift, cells: vec![Cell::default(); PAGE >> shift] });
            *place = self.pages.len() as u32;
        }
        let page = &mut self.pages[*place as usize - 1];
        if page.shift > shift {
            page.split(shift, &mut self.sets);
        }
        let (at, shift) = (offset % PAGE, page.shift);
        let sets = Sets { sets: &mut self.sets, free: &mut self.free, size: 1 << shift };
        (page, sets, at >> shift..(at + len).div_ceil(1 << shift))
    }

    /// Runs `f` over the cells of a range, with each cell's offset.
    fn each<E>(
        &mut self,
        offset: usize,
        len: usize,
        mut f: impl FnMut(&mut Cell, &mut Sets, usize) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let stop = end.min((at / PAGE + 1) * PAGE);
            let (page, mut sets, range) = self.cells(at, stop - at);
            let (shift, start) = (page.shift, at / PAGE * PAGE);
            for i in range {
                f(&mut page.cells[i], &mut sets, start + (i << shift))?;
            }
            at = stop;
        }
        Ok(())
    }

    /// Checks and notes a read by lanes that read the same bytes.
    #[inline]
    pub(crate) fn read(
        &mut self,
        who: &mut Who,
        lanes: u32,
        offset: usize,
        len: usize,
        strength: Strength,
    ) -> Result<(), Conflict> {
        let single = lanes & (lanes - 1) == 0;
        let mine = Epoch::new(who.agent, who.now, lanes.trailing_zeros(), strength);
        let note = Note { lanes, ..note_of(mine, false) };
        self.each(offset, len, |cell, sets, place| {
            let w = cell.write;
            if w.0 != 0 && !who.after_epoch(w, lanes) && !who.both_strong(strength, w.agent(), w.strength()) {
                return Err(conflict(place, w, true));
            }
            if single && (cell.read == mine.0 || cell.read == 0) {
                cell.read = mine.0;
                return Ok(());
            }
            if cell.read & SET == 0 {
                let old = Epoch(cell.read);
                if single && strength <= old.strength() && who.after_epoch(old, lanes) {
                    cell.read = mine.0;
                    return Ok(());
                }
                cell.read = sets.start(old);
            }
            let notes = sets.of(cell.read);
            for n in notes.iter().filter(|n| n.write) {
                if !who.both_strong(strength, n.agent, n.strength)
                    && let Some(lane) = who.unordered(n, lanes)
                {
                    return Err(Conflict { offset: place, agent: n.agent, lane, time: n.time, write: true });
                }
            }
            add_note(notes, who, note);
            Ok(())
        })
    }

    /// Checks and notes a write by the lanes of one, or by several that update the same bytes atomically. `mine` is its
    /// epoch, with its width; `same` says of the cell at an offset whether it holds what is to be written already.
    #[inline]
    pub(crate) fn write(
        &mut self,
        who: &mut Who,
        lanes: u32,
        (offset, len): (usize, usize),
        mine: Epoch,
        same: impl Fn(Range<usize>) -> bool,
    ) -> Result<(), Conflict> {
        let strength = mine.strength();
        let others = lanes & (lanes - 1);
        let others = (others != 0).then(|| Note { lanes: others, ..note_of(mine, true) });
        let end = offset + len;
        self.each(offset, len, |cell, sets, place| {
            let w = cell.write;
            let mut earlier = None;
            // Part of a cell may be that of the write before.
            let repeats = |width: Width, size: usize| {
                width == mine.width() && width != Width::OTHER && same(place.max(offset)..end.min(place + size))
            };
            if w.0 != 0 && w != mine && !who.after_epoch(w, lanes) {
                if !who.both_strong(strength, w.agent(), w.strength()) && !repeats(w.width(), sets.size) {
                    return Err(conflict(place, w, true));
                }
                earlier = Some(note_of(w, true));
            }
            if cell.read & SET != 0 {
                let size = sets.size;
                let notes = sets.of(cell.read);
                let mut race = None;
                let crowded = notes.len() > CROWD;
                notes.retain(|n| {
                    // Those that do not race stay until there are many.
                    let strong = who.both_strong(strength, n.agent, n.strength);
                    if strong && !crowded {
                        return true;
                    }
                    let Some(lane) = who.unordered(n, lanes) else { return false };
                    if !(strong || n.write && repeats(n.width, size)) {
                        race = Some(Conflict { offset: place, agent: n.agent, lane, time: n.time, write: n.write });
                    }
                    true
                });
                if let Some(race) = race {
                    return Err(race);
                }
                if notes.is_empty() && earlier.is_none() && others.is_none() {
                    sets.end(cell.read);
                    cell.read = 0;
                }
            } else if cell.read != 0 {
                let r = Epoch(cell.read);
                if who.after_epoch(r, lanes) {
                    cell.read = 0;
                } else if !who.both_strong(strength, r.agent(), r.strength()) {
                    return Err(conflict(place, r, false));
                }
            }
            for note in [earlier, others].into_iter().flatten() {
                if cell.read & SET == 0 {
                    cell.read = sets.start(Epoch(cell.read));
                }
                add_note(sets.of(cell.read), who, note);
            }
            cell.write = mine;
            Ok(())
        })
    }

    /// Checks and notes a write of all that was touched so far.
    pub(crate) fn write_all(&mut self, who: &mut Who, mine: Epoch) -> Result<(), Conflict> {
        for index in 0..self.places.len() {
            if self.places[index] != 0 {
                let len = PAGE.min(self.bytes - index * PAGE);
                self.write(who, 1, (index * PAGE, len), mine, |_| false)?;
            }
        }
        Ok(())
    }

    /// The first write of a range by the generic proxy of which a lane does not know that the async proxy sees it.
    pub(crate) fn unfenced(
        &mut self,
        who: &mut Who,
        lane: u32,
        offset: usize,
        len: usize,
        shared: bool,
    ) -> Option<Conflict> {
        let fenced = if shared { FENCED_SHARED } else { FENCED_GLOBAL };
        self.each(offset, len, |cell, sets, place| {
            let w = cell.write;
            // The host needs none.
            let fence = |source, agent| match source {
                _ if agent == HOST => None,
                Source::Thread => Some(fenced),
                Source::CpAsync => Some(FENCED_CP_ASYNC - CP_ASYNC),
                Source::Bulk => None,
            };
            if w.0 != 0
                && fence(w.source(), w.agent())
                    .is_some_and(|f| !who.after(w.agent() + f, w.lane(), w.time(), 1 << lane))
            {
                return Err(conflict(place, w, true));
            }
            if cell.read & SET != 0 {
                for n in sets.of(cell.read).iter().filter(|n| n.write) {
                    let Some(fence) = fence(n.source, n.agent) else { continue };
                    if let Some(lane) = who.unordered(&Note { agent: n.agent + fence, ..*n }, 1 << lane) {
                        return Err(Conflict { offset: place, agent: n.agent, lane, time: n.time, write: true });
                    }
                }
            }
            Ok(())
        })
        .err()
    }

    /// Notes a write that is checked already, or that happens later, in place of all before.
    pub(crate) fn stamp_write(&mut self, epoch: Epoch, offset: usize, len: usize) {
        let stamped: Result<(), ()> = self.each(offset, len, |cell, sets, _| {
            sets.end(cell.read);
            *cell = Cell { write: epoch, read: 0 };
            Ok(())
        });
        stamped.unwrap_or_default();
    }

    /// Notes a read by another agent than that of the access.
    pub(crate) fn stamp_read(&mut self, who: &mut Who, epoch: Epoch, offset: usize, len: usize) {
        let stamped: Result<(), ()> = self.each(offset, len, |cell, sets, _| {
            if cell.read & SET == 0 {
                cell.read = sets.start(Epoch(cell.read));
            }
            add_note(sets.of(cell.read), who, note_of(epoch, false));
            Ok(())
        });
        stamped.unwrap_or_default();
    }
}

fn conflict(offset: usize, e: Epoch, write: bool) -> Conflict {
    Conflict { offset, agent: e.agent(), lane: e.lane(), time: e.time(), write }
}

fn note_of(e: Epoch, write: bool) -> Note {
    let (agent, time, lanes) = (e.agent(), e.time(), 1 << e.lane());
    Note { agent, time, lanes, strength: e.strength(), width: e.width(), source: e.source(), write }
}

/// Adds a note; those of the same agent that it makes superfluous go.
fn add_note(notes: &mut Vec<Note>, who: &mut Who, new: Note) {
    let alike = |n: &Note| (n.agent, n.strength, n.width, n.write) == (new.agent, new.strength, new.width, new.write);
    for n in notes.iter_mut().filter(|n| alike(n)) {
        if n.time == new.time {
            n.lanes |= new.lanes;
            return;
        }
        if n.lanes & !new.lanes == 0 && n.time < new.time {
            *n = new;
            return;
        }
    }
    if notes.len() >= 4 && new.agent == who.agent {
        notes.retain(|n| n.write || n.strength < new.strength || who.unordered(n, new.lanes).is_some());
    }
    notes.push(new);
}

/// The sets of a region.
struct Sets<'a> {
    sets: &'a mut Vec<Vec<Note>>,
    free: &'a mut Vec<u32>,
    /// Bytes of a cell.
    size: usize,
}

impl Sets<'_> {
    fn of(&mut self, read: u64) -> &mut Vec<Note> {
        &mut self.sets[(read & !SET) as usize]
    }

    /// A new set with the one read there was, if any.
    fn start(&mut self, first: Epoch) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.sets.push(Vec::new());
            (self.sets.len() - 1) as u32
        });
        let notes = &mut self.sets[index as usize];
        notes.clear();
        if first.0 != 0 {
            notes.push(note_of(first, false));
        }
        SET | u64::from(index)
    }

    fn end(&mut self, read: u64) {
        if read & SET != 0 {
            self.free.push((read & !SET) as u32);
        }
    }
}
