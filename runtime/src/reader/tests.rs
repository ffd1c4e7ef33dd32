//! Contents against plain reads, and what fails.

use super::*;
use crate::sys::{Arena, Mapping, cache};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A file in memory whose reads go as a test wants.
struct Tape {
    bytes: Vec<u8>,
    direct: bool,
    /// What is in the page cache, and whether it is lent.
    cached: Range<u64>,
    lends: bool,
    /// Most bytes of a read.
    most: usize,
    /// Reads of this byte fail, or panic.
    fails: Option<(u64, ErrorKind)>,
    panics: Option<u64>,
    slow: Duration,
    reads: AtomicUsize,
    directs: AtomicUsize,
    now: AtomicUsize,
    most_at_once: AtomicUsize,
    done: Mutex<Vec<(u64, usize, bool)>>,
}

impl Tape {
    fn new(bytes: usize) -> Tape {
        Tape {
            bytes: noise(bytes),
            direct: true,
            cached: 0..0,
            lends: false,
            most: usize::MAX,
            fails: None,
            panics: None,
            slow: Duration::ZERO,
            reads: AtomicUsize::new(0),
            directs: AtomicUsize::new(0),
            now: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
            done: Mutex::default(),
        }
    }

    fn get(&self, offset: u64, to: &mut [u8]) -> io::Result<usize> {
        // Every third is interrupted.
        if self.reads.fetch_add(1, Ordering::Relaxed) % 3 == 2 {
            return Err(ErrorKind::Interrupted.into());
        }
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_at_once.fetch_max(now, Ordering::Relaxed);
        std::thread::sleep(self.slow);
        self.now.fetch_sub(1, Ordering::Relaxed);
        let from = self.bytes.get(offset as usize..).unwrap_or_default();
        let n = from.len().min(to.len()).min(self.most);
        let touched = offset..offset + n as u64;
        assert!(self.panics.is_none_or(|at| !touched.contains(&at)), "the tape tears");
        match self.fails {
            Some((at, kind)) if touched.contains(&at) => Err(kind.into()),
            _ => {
                to[..n].copy_from_slice(&from[..n]);
                Ok(n)
            }
        }
    }
}

impl Source for Tape {
    fn path(&self) -> &Path {
        Path::new("tape")
    }
    fn cached(&self, offset: u64, bytes: usize) -> bool {
        self.cached.start <= offset && offset + bytes as u64 <= self.cached.end
    }
    fn lend(&self, offset: u64, bytes: usize) -> Option<&[u8]> {
        self.bytes[offset as usize..].get(..bytes).filter(|_| self.lends)
    }
    fn read(&self, offset: u64, to: &mut [u8]) -> io::Result<usize> {
        self.get(offset, to)
    }
    fn read_direct(&self, offset: u64, to: &mut [u8]) -> io::Result<usize> {
        self.directs.fetch_add(1, Ordering::Relaxed);
        if !self.direct {
            return Err(ErrorKind::InvalidInput.into());
        }
        let aligned = [offset as usize, to.as_ptr().addr(), to.len()].iter().all(|n| n.is_multiple_of(DIRECT_ALIGN));
        assert!(aligned, "{offset}, {:p}, {}", to.as_ptr(), to.len());
        self.get(offset, to)
    }
    fn done(&self, offset: u64, bytes: usize, cached: bool) {
        self.done.lock().unwrap().push((offset, bytes, cached));
    }
}

/// A sequence of numbers that look random.
fn numbers(mut state: u64) -> impl FnMut(usize) -> usize {
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 8) as usize % below.max(1)
    }
}

fn noise(n: usize) -> Vec<u8> {
    let mut next = numbers(0x9e37_79b9_7f4a_7c15);
    (0..n).map(|_| next(256) as u8).collect()
}

/// All of a source in pieces of up to `most` bytes, with some left out.
fn pieces<'a>(
    source: &'a dyn Source,
    bytes: usize,
    most: usize,
    next: &mut impl FnMut(usize) -> usize,
) -> Vec<Piece<'a>> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < bytes {
        let n = (1 + next(most)).min(bytes - at);
        if next(5) > 0 {
            pieces.push(Piece { source, offset: at as u64, bytes: n });
        }
        at += n;
    }
    pieces
}

const DIRECT: Reading = Reading { lends: false, keeps: false };

/// The payload of a slot of a tiny ring.
const TINY: usize = 5000;

/// `count` slots for pieces of `bytes` in an arena.
fn ring(count: usize, bytes: usize) -> (Arena, usize) {
    let slot = slot_for(bytes);
    assert!(payload(slot) >= bytes);
    (Arena::new((count * slot) as u64, "the ring").unwrap(), slot)
}

/// Reads all into copies, and checks that the slots come back.
fn collect(pieces: &[Piece], count: usize, bytes: usize) -> Result<Vec<Vec<u8>>> {
    let (mut arena, slot) = ring(count, bytes);
    let mut slots: Vec<&mut [u8]> = arena.bytes_mut().chunks_exact_mut(slot).collect();
    let copies = read(pieces, &mut slots, |reader| {
        let mut copies = Vec::new();
        while let Some(mut filled) = reader.next() {
            assert_eq!(filled.index(), copies.len(), "pieces come in order");
            let bytes = filled.bytes().to_vec();
            if let Some((slot, start)) = filled.slot() {
                assert_eq!(&slot[start..][..bytes.len()], bytes);
            }
            copies.push(bytes);
        }
        Ok(copies)
    });
    assert_eq!(slots.len(), count);
    copies
}

#[track_caller]
fn check(pieces: &[Piece], contents: &[(&dyn Source, &[u8])], copies: &[Vec<u8>]) {
    assert_eq!(pieces.len(), copies.len());
    for (piece, copy) in pieces.iter().zip(copies) {
        let (_, bytes) = contents.iter().find(|(source, _)| std::ptr::addr_eq(*source, piece.source)).unwrap();
        assert!(&bytes[piece.offset as usize..][..piece.bytes] == copy, "{} + {}", piece.offset, piece.bytes);
    }
}

#[test]
fn contents_are_those_of_the_files() {
    let mut next = numbers(77);
    for round in 0..60 {
        let mut tapes: Vec<Tape> = (0..1 + round % 3).map(|_| Tape::new(1 + next(200_000))).collect();
        for tape in &mut tapes {
            let (a, b) = (next(tape.bytes.len()) as u64, next(tape.bytes.len()) as u64);
            (tape.direct, tape.lends, tape.cached) = (next(3) > 0, next(2) > 0, a.min(b)..a.max(b));
            tape.most = [usize::MAX, 3000, 4096, 8192][next(4)];
        }
        let bytes = [1, TINY, 30_000][next(3)];
        let all: Vec<Piece> =
            tapes.iter().flat_map(|t| pieces(t, t.bytes.len().min(bytes * 300), bytes, &mut next)).collect();
        let contents: Vec<(&dyn Source, &[u8])> = tapes.iter().map(|t| (t as &dyn Source, &t.bytes[..])).collect();
        let copies = collect(&all, 1 + next(12), bytes).unwrap();
        check(&all, &contents, &copies);
    }
    assert!(collect(&[], 0, TINY).unwrap().is_empty());
    assert!(collect(&[], 3, TINY).unwrap().is_empty());
}

#[test]
fn files_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut next = numbers(5);
    for bytes in [1, 4095, 4096, 4097, 300_001] {
        let (path, contents) = (dir.path().join("file"), noise(bytes));
        std::fs::write(&path, &contents).unwrap();
        std::fs::File::open(&path).unwrap().sync_all().unwrap();
        for case in 0..8 {
            let [cold, lends, keeps] = [1, 2, 4].map(|bit| case & bit != 0);
            let mapping = Mapping::open(&path).unwrap();
            let source = OnDisk::new(&path, &mapping, Reading { lends, keeps });
            let mut all = pieces(&source, bytes, 20_000, &mut next);
            all.push(Piece { source: &source, offset: 0, bytes: 1 });
            if cold {
                cache::drop_cached(mapping.file(), 0, bytes);
            }
            let was_cached = source.cached(0, bytes);
            let copies = collect(&all, 4, 20_000).unwrap();
            check(&all, &[(&source, &contents)], &copies);
            // The other way only on a file system in memory, where all is always cached.
            assert!(source.cached(0, 1) == keeps || was_cached, "{bytes}, {cold}");
        }
    }
    let embedded = Embedded(Path::new("demo"), b"embedded");
    let all = pieces(&embedded, 8, 3, &mut next);
    check(&all, &[(&embedded, b"embedded")], &collect(&all, 2, 3).unwrap());
}

#[test]
fn several_reads_are_under_way_but_no_more_than_slots() {
    let mut tape = Tape::new(400_000);
    tape.slow = Duration::from_millis(1);
    let all = pieces(&tape, 400_000, TINY, &mut numbers(3));
    for (slots, most) in [(1, 1), (3, 3), (40, READS)] {
        tape.most_at_once.store(0, Ordering::Relaxed);
        check(&all, &[(&tape, &tape.bytes)], &collect(&all, slots, TINY).unwrap());
        assert_eq!(tape.most_at_once.load(Ordering::Relaxed), most);
    }
}

/// Pieces are given back late, by other threads and out of order.
#[test]
fn slow_consumers_hold_slots() {
    let tape = Tape::new(300_000);
    let all = pieces(&tape, 300_000, TINY, &mut numbers(9));
    let (mut arena, slot) = ring(6, TINY);
    let mut slots: Vec<&mut [u8]> = arena.bytes_mut().chunks_exact_mut(slot).collect();
    let copies = read(&all, &mut slots, |reader| {
        let copies = Mutex::new(vec![Vec::new(); all.len()]);
        std::thread::scope(|scope| {
            while let Some(filled) = reader.next() {
                let copies = &copies;
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_micros(300 * (filled.index() % 7) as u64));
                    copies.lock().unwrap()[filled.index()] = filled.bytes().to_vec();
                });
            }
        });
        Ok(copies.into_inner().unwrap())
    });
    check(&all, &[(&tape, &tape.bytes)], &copies.unwrap());
}

#[test]
fn what_was_read_through_the_page_cache_is_told() {
    let mut tape = Tape::new(100_000);
    tape.cached = 0..50_000;
    let halves = [(0, 50_000), (50_000, 50_000)];
    for (direct, lends, told) in [
        (true, false, &[(0, 50_000, true)][..]),
        (true, true, &[(0, 50_000, true)]),
        (false, false, &[(0, 50_000, true), (50_000, 50_000, false)]),
    ] {
        (tape.direct, tape.lends) = (direct, lends);
        let all = halves.map(|(offset, bytes)| Piece { source: &tape, offset, bytes });
        check(&all, &[(&tape, &tape.bytes)], &collect(&all, 2, 50_000).unwrap());
        let mut done = std::mem::take(&mut *tape.done.lock().unwrap());
        done.sort_unstable();
        assert_eq!(done, told);
        tape.directs.store(0, Ordering::Relaxed);
        collect(&[Piece { source: &tape, offset: 0, bytes: 50_000 }], 1, 50_000).unwrap();
        assert_eq!(tape.directs.load(Ordering::Relaxed), 0, "what is cached is not read past the page cache");
        tape.done = Mutex::default();
    }
}

#[track_caller]
fn check_error<T>(result: Result<T>, parts: &[&str]) {
    let e = result.err().expect("an error").to_string();
    assert!(parts.iter().all(|p| e.contains(p)), "\n  want {parts:?}\n  got  {e}");
}

#[test]
fn a_failing_disk_is_named() {
    for slots in [1, 5] {
        for direct in [true, false] {
            let mut tape = Tape::new(300_000);
            (tape.direct, tape.fails) = (direct, Some((150_000, ErrorKind::Other)));
            let all = pieces(&tape, 300_000, TINY, &mut numbers(4));
            let covers = |p: &&Piece| p.offset <= 150_000 && 150_000 < p.offset + p.bytes as u64;
            let Some(bad) = all.iter().find(covers) else { panic!("the bad byte is read") };
            // A direct read of the piece before may reach the bad byte.
            let from = if direct { " bytes from byte 1".into() } else { format!(" bytes from byte {} ", bad.offset) };
            check_error(collect(&all, slots, TINY), &["tape: ", &from, "cannot be read: ", "; check the disk"]);
            assert!(tape.reads.load(Ordering::Relaxed) < all.len(), "nothing is read after it");
        }
    }
}

#[test]
fn a_file_that_was_cut_short_is_named() {
    let mut tape = Tape::new(300_000);
    let bytes = std::mem::take(&mut tape.bytes);
    let all = pieces(&tape, 300_000, TINY, &mut numbers(4));
    let all: Vec<(u64, usize)> = all.iter().map(|p| (p.offset, p.bytes)).collect();
    tape.bytes = bytes[..100_001].to_vec();
    let all: Vec<Piece> = all.iter().map(|&(offset, bytes)| Piece { source: &tape, offset, bytes }).collect();
    check_error(collect(&all, 4, TINY), &["tape ends before byte ", "cut short after it was opened", "again"]);

    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(300_000).unwrap();
    let mapping = Mapping::open(file.path()).unwrap();
    let source = OnDisk::new(file.path(), &mapping, DIRECT);
    let all = pieces(&source, 300_000, TINY, &mut numbers(4));
    file.as_file().set_len(100_001).unwrap();
    let name = file.path().file_name().unwrap().to_str().unwrap();
    check_error(collect(&all, 4, TINY), &[name, " ends before byte ", "cut short after it was opened"]);
}

#[test]
fn a_file_that_is_cut_short_meanwhile() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(40 << 20).unwrap();
    let mapping = Mapping::open(file.path()).unwrap();
    let source = OnDisk::new(file.path(), &mapping, DIRECT);
    let all: Vec<Piece> = (0..40).map(|i| Piece { source: &source, offset: i << 20, bytes: 1 << 20 }).collect();
    let (mut arena, slot) = ring(2, 1 << 20);
    let mut slots: Vec<&mut [u8]> = arena.bytes_mut().chunks_exact_mut(slot).collect();
    let mut seen = 0;
    let result = read(&all, &mut slots, |reader| {
        while let Some(filled) = reader.next() {
            seen += 1;
            if filled.index() == 9 {
                file.as_file().set_len(1).unwrap();
            }
        }
        Ok(())
    });
    check_error(result, &[" ends before byte ", "cut short"]);
    assert!((10..=12).contains(&seen), "{seen}");
    assert!(!mapping.unchanged());
}

#[test]
fn a_consumer_that_gives_up_ends_the_reading() {
    let mut tape = Tape::new(2_000_000);
    let all = pieces(&tape, 2_000_000, TINY, &mut numbers(8));
    let (mut arena, slot) = ring(4, TINY);
    let mut slots: Vec<&mut [u8]> = arena.bytes_mut().chunks_exact_mut(slot).collect();
    let result = read(&all, &mut slots, |reader| {
        let held = [reader.next(), reader.next()];
        assert!(held.iter().all(Option::is_some));
        Err::<(), _>(Error::device("enough"))
    });
    check_error(result, &["enough"]);
    assert_eq!(slots.len(), 4);
    assert!(tape.reads.load(Ordering::Relaxed) < 20);
    // Without taking anything.
    let result = read(&all, &mut slots, |_| Ok(5));
    assert_eq!((result.unwrap(), slots.len()), (5, 4));
    // By a panic.
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        read(&all, &mut slots, |reader| -> Result<()> {
            let _held = reader.next();
            panic!("the consumer")
        })
    }));
    assert!(unwound.is_err());
    let all: Vec<(u64, usize)> = all.iter().map(|p| (p.offset, p.bytes)).collect();
    tape.panics = Some(all[20].0);
    let all: Vec<Piece> = all.iter().map(|&(offset, bytes)| Piece { source: &tape, offset, bytes }).collect();
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| collect(&all, 3, TINY)));
    assert!(unwound.is_err(), "a panic of a reading thread is not lost");
}

#[test]
fn pieces_that_fit_no_slot_are_refused() {
    let tape = Tape::new(50_000);
    let all = [Piece { source: &tape, offset: 0, bytes: payload(slot_for(TINY)) + 1 }];
    check_error(collect(&all, 2, TINY), &["a piece of tape in a buffer for reading needs 8193, but 8192 is the limit"]);
    check_error(collect(&all, 0, TINY), &["0 is the limit"]);
    assert_eq!(tape.reads.load(Ordering::Relaxed), 0);
}

/// Slots need no alignment; reads go through the page cache then.
#[test]
fn slots_that_are_not_aligned() {
    let tape = Tape::new(90_000);
    let all = pieces(&tape, 90_000, TINY, &mut numbers(2));
    let (mut arena, slot) = ring(4, TINY);
    let mut slots: Vec<&mut [u8]> = arena.bytes_mut().chunks_exact_mut(slot).map(|s| &mut s[1..]).collect();
    let copies = read(&all, &mut slots, |reader| {
        Ok(std::iter::from_fn(|| reader.next()).map(|filled| filled.bytes().to_vec()).collect::<Vec<_>>())
    });
    check(&all, &[(&tape, &tape.bytes)], &copies.unwrap());
}
