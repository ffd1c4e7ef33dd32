//! The reader: brings pieces of files to memory at the disk's speed, and knows nothing of what they hold.
//!
//! Some threads each take a free slot of a ring, then the next piece, and read it past the page cache; what the page cache
//! holds already comes from there. The consumer gets the pieces in order, while others are being read, and a slot goes back
//! to the ring when the consumer drops it. Invariant: the ring is all the memory there is, a piece is taken only by who has
//! a slot, so the oldest never waits for a younger one, and no thread outlives [`read`]. Next hop: `file` reads files; the
//! loader repacks pieces from their slots.

mod file;

pub use file::{Embedded, OnDisk, Reading};

use crate::sys::cache::DIRECT_ALIGN;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Most reads at once: enough to keep a fast disk busy with pieces of some MiB.
const READS: usize = 8;

/// What bytes are read from.
pub trait Source: Sync {
    /// Its name in messages.
    fn path(&self) -> &Path;

    /// Whether all of these bytes are in memory already, as far as that can be known.
    fn cached(&self, offset: u64, bytes: usize) -> bool;

    /// These bytes where they are, if the consumer may have them so; asked for cached bytes only.
    fn lend(&self, offset: u64, bytes: usize) -> Option<&[u8]>;

    /// Reads some bytes from `offset` to the start of `to`, and returns how many; 0 at the end.
    ///
    /// # Errors
    /// That of the system.
    fn read(&self, offset: u64, to: &mut [u8]) -> io::Result<usize>;

    /// As [`Source::read`], past the page cache. Offset, address and length are multiples of [`DIRECT_ALIGN`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] or [`ErrorKind::Unsupported`] where that does not work at all, though `read` may; that
    /// of the system.
    fn read_direct(&self, offset: u64, to: &mut [u8]) -> io::Result<usize>;

    /// Is told that these bytes are no longer lent, or were read through the page cache, and whether they were in it before.
    fn done(&self, offset: u64, bytes: usize, cached: bool);
}

/// Consecutive bytes to read.
#[derive(Clone, Copy)]
pub struct Piece<'a> {
    /// Of what.
    pub source: &'a dyn Source,
    /// The first byte.
    pub offset: u64,
    /// How many; at most [`payload`] of a slot.
    pub bytes: usize,
}

/// The longest piece for a slot of this many bytes: a direct read begins and ends at multiples of [`DIRECT_ALIGN`].
pub const fn payload(slot: usize) -> usize {
    slot.saturating_sub(2 * DIRECT_ALIGN)
}

/// The bytes of a slot for pieces of up to this many.
pub const fn slot_for(bytes: usize) -> usize {
    bytes.saturating_add(2 * DIRECT_ALIGN).next_multiple_of(DIRECT_ALIGN)
}

/// Where a piece is.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// In its slot, from this byte.
    Slot(usize),
    /// In its source.
    Source,
}

/// What reading threads and consumer share.
struct State<S> {
    free: Vec<S>,
    /// The next piece to read.
    next: usize,
    /// Pieces that the consumer has not asked for yet.
    ready: BTreeMap<usize, (S, Place)>,
    /// The next piece for the consumer.
    delivered: usize,
    /// Nothing more is to be read.
    stopped: bool,
    failure: Option<Error>,
}

/// Pieces that are being read, for the consumer that [`read`] calls.
pub struct Reader<'a, S> {
    pieces: &'a [Piece<'a>],
    state: Mutex<State<S>>,
    /// A slot came back, or nothing more is to be read.
    freed: Condvar,
    /// A piece has come, or nothing more will.
    came: Condvar,
}

/// A piece in memory. Its slot goes back to the ring when this is dropped.
pub struct Filled<'r, S> {
    reader: &'r Reader<'r, S>,
    index: usize,
    place: Place,
    slot: Option<S>,
}

/// Reads `pieces`, best in the order in which they lie, through `slots`, which are best aligned to [`DIRECT_ALIGN`], and
/// lets `consume` take them from the reader. The slots are back in the vector at the end, whatever the end.
///
/// # Errors
/// [`Error::Limit`] for a piece that is longer than the [`payload`] of a slot, before anything is read; [`Error::Io`] if a
/// file cannot be read, [`Error::Input`] if it ends too early, whatever `consume` returns then; what `consume` returns.
pub fn read<S: AsRef<[u8]> + AsMut<[u8]> + Send, R>(
    pieces: &[Piece],
    slots: &mut Vec<S>,
    consume: impl FnOnce(&Reader<S>) -> Result<R>,
) -> Result<R> {
    let most = slots.iter().map(|slot| payload(slot.as_ref().len())).min().unwrap_or(0);
    if let Some(piece) = pieces.iter().find(|p| p.bytes > most) {
        let what = format!("a piece of {} in a buffer for reading", piece.source.path().display());
        return Err(Error::Limit { what, need: piece.bytes as u64, have: most as u64 });
    }
    let threads = READS.min(slots.len()).min(pieces.len());
    let state = State {
        free: std::mem::take(slots),
        next: 0,
        ready: BTreeMap::new(),
        delivered: 0,
        stopped: false,
        failure: None,
    };
    let reader = Reader { pieces, state: Mutex::new(state), freed: Condvar::new(), came: Condvar::new() };
    let result = std::thread::scope(|scope| {
        let _stop = Stop(&reader);
        for _ in 0..threads {
            let spawned = std::thread::Builder::new().name("reader".into()).spawn_scoped(scope, || reader.work());
            spawned.map_err(|e| Error::device(format!("the system refuses threads for reading files: {e}")))?;
        }
        consume(&reader)
    });
    let state = reader.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    *slots = state.free;
    slots.extend(state.ready.into_values().map(|(slot, _)| slot));
    state.failure.map_or(result, Err)
}

/// Ends the reading when dropped, also by a panic, so that nobody waits for ever.
struct Stop<'r, S>(&'r Reader<'r, S>);

impl<S> Drop for Stop<'_, S> {
    fn drop(&mut self) {
        self.0.stop(&mut self.0.lock());
    }
}

impl<S> Reader<'_, S> {
    /// The next piece, in order, when it is there; `None` after the last, and when reading has failed, which [`read`]
    /// then returns. A consumer that asks while it holds every slot waits until another thread drops one.
    pub fn next(&self) -> Option<Filled<'_, S>> {
        let waits = |s: &mut State<S>| !self.is_over(s) && !s.ready.contains_key(&s.delivered);
        let mut state = self.came.wait_while(self.lock(), waits).unwrap_or_else(PoisonError::into_inner);
        if self.is_over(&state) {
            return None;
        }
        let index = state.delivered;
        let (slot, place) = state.ready.remove(&index)?;
        state.delivered += 1;
        Some(Filled { reader: self, index, place, slot: Some(slot) })
    }

    fn is_over(&self, state: &State<S>) -> bool {
        state.stopped || state.delivered == self.pieces.len()
    }

    fn lock(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self, state: &mut State<S>) {
        state.stopped = true;
        self.freed.notify_all();
        self.came.notify_all();
    }

    /// A free slot and the next piece, which is then this thread's to read.
    fn claim(&self) -> Option<(S, usize)> {
        let waits = |s: &mut State<S>| !s.stopped && s.next < self.pieces.len() && s.free.is_empty();
        let mut state = self.freed.wait_while(self.lock(), waits).unwrap_or_else(PoisonError::into_inner);
        if state.stopped || state.next == self.pieces.len() {
            return None;
        }
        let slot = state.free.pop()?;
        state.next += 1;
        Some((slot, state.next - 1))
    }
}

impl<S: AsMut<[u8]>> Reader<'_, S> {
    /// What a reading thread does.
    fn work(&self) {
        /// Stops the others if this thread panics.
        struct Unwound<'r, S>(&'r Reader<'r, S>);
        impl<S> Drop for Unwound<'_, S> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.stop(&mut self.0.lock());
                }
            }
        }
        let _unwound = Unwound(self);
        while let Some((mut slot, index)) = self.claim() {
            let place = self.pieces[index].bring(slot.as_mut());
            let mut state = self.lock();
            match place {
                Ok(place) => {
                    state.ready.insert(index, (slot, place));
                    self.came.notify_all();
                }
                Err(e) => {
                    state.free.push(slot);
                    if !state.stopped {
                        state.failure = Some(e);
                    }
                    self.stop(&mut state);
                }
            }
        }
    }
}

impl Piece<'_> {
    /// Reads the piece to `slot`, unless its source lends it.
    fn bring(&self, slot: &mut [u8]) -> Result<Place> {
        let &Piece { source, offset, bytes } = self;
        let cached = source.cached(offset, bytes);
        if cached && source.lend(offset, bytes).is_some() {
            return Ok(Place::Source);
        }
        let start = (offset % DIRECT_ALIGN as u64) as usize;
        let first = offset - start as u64;
        let end = start + bytes;
        let mut direct = !cached && slot.as_ptr().addr().is_multiple_of(DIRECT_ALIGN);
        let mut through_cache = false;
        let mut done = if direct { 0 } else { start };
        while done < end {
            let at = first + done as u64;
            through_cache |= !direct;
            let read = match direct {
                true => source.read_direct(at, &mut slot[done..end.next_multiple_of(DIRECT_ALIGN)]),
                false => source.read(at, &mut slot[done..end]),
            };
            match read {
                Ok(0) => return Err(self.cut_short(at)),
                // A read that ends between multiples is the file's last, or cannot be gone on with.
                Ok(n) => {
                    done += n;
                    direct &= done.is_multiple_of(DIRECT_ALIGN);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if direct && matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
                    (direct, done) = (false, done.max(start));
                }
                Err(e) => return Err(self.failed(at, &e)),
            }
        }
        if through_cache {
            source.done(offset, bytes, cached);
        }
        Ok(Place::Slot(start))
    }

    fn cut_short(&self, at: u64) -> Error {
        Error::input(format!(
            "{} ends before byte {at}, where the data of a tensor should be: it was cut short after it was opened; download \
             or copy it again",
            self.source.path().display()
        ))
    }

    fn failed(&self, at: u64, e: &io::Error) -> Error {
        let left = self.offset + self.bytes as u64 - at;
        let what = format!("{left} bytes from byte {at} cannot be read: {e}; check the disk, or copy the file again");
        Error::io(self.source.path(), io::Error::new(e.kind(), what))
    }
}

impl<S> Filled<'_, S> {
    /// Its number in the list of pieces.
    pub fn index(&self) -> usize {
        self.index
    }
}

impl<S: AsRef<[u8]>> Filled<'_, S> {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        let Piece { source, offset, bytes } = self.reader.pieces[self.index];
        let slot = self.slot.as_ref().map_or(&[][..], S::as_ref);
        match self.place {
            Place::Slot(start) => &slot[start..][..bytes],
            Place::Source => source.lend(offset, bytes).unwrap_or_default(),
        }
    }

    /// The slot, and the first of its bytes that are the piece's; `None` if the source lends them.
    pub fn slot(&mut self) -> Option<(&mut S, usize)> {
        match self.place {
            Place::Slot(start) => self.slot.as_mut().map(|slot| (slot, start)),
            Place::Source => None,
        }
    }
}

impl<S> Drop for Filled<'_, S> {
    fn drop(&mut self) {
        if matches!(self.place, Place::Source) {
            let Piece { source, offset, bytes } = self.reader.pieces[self.index];
            source.done(offset, bytes, true);
        }
        self.reader.lock().free.extend(self.slot.take());
        self.reader.freed.notify_one();
    }
}

#[cfg(test)]
mod tests;
