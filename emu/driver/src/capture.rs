//! Captures: streams whose calls become nodes of a graph instead of work. A [`Session`] is one capture with all streams that
//! have joined it; each stream has the nodes that its next one comes after. Pure state: the graph itself is changed by
//! `mod.rs`, and the doors of streams, events and unsafe calls ask here first. Invariant: a stream is in one session at most.

use crate::dag::Dependency;
use crate::error::{Answer, Error};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::thread::ThreadId;

/// Which calls that may synchronise a capture forbids, and to whom (`CUstreamCaptureMode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mode {
    /// To every thread, unless that thread has another mode of its own.
    #[default]
    Global,
    /// To the thread that began the capture.
    ThreadLocal,
    /// To nobody.
    Relaxed,
}

impl Mode {
    /// From the number in C.
    pub(crate) fn from_raw(raw: u32) -> Option<Mode> {
        [Mode::Global, Mode::ThreadLocal, Mode::Relaxed].get(raw as usize).copied()
    }

    /// The number in C.
    pub(crate) fn raw(self) -> u32 {
        self as u32
    }
}

/// Calls that may wait for all that was asked for, and what waits for no stream by name.
const MAY_SYNCHRONISE: &[&str] = &[
    "cuCtxCreate",
    "cuEventQuery",
    "cuEventSynchronize",
    "cuMemAlloc",
    "cuMemAllocHost",
    "cuMemAllocManaged",
    "cuMemAllocPitch",
    "cuMemFree",
    "cuMemFreeHost",
    "cuMemHostAlloc",
    "cuMemHostRegister",
    "cuMemHostUnregister",
    "cuModuleLoad",
    "cuModuleLoadData",
    "cuModuleLoadDataEx",
    "cuModuleLoadFatBinary",
    "cuModuleUnload",
    "cuStreamQuery",
    "cuStreamSynchronize",
];

/// Whether a call, without its version, may synchronise, which captures forbid.
pub(crate) fn may_synchronise(call: &str) -> bool {
    MAY_SYNCHRONISE.binary_search(&call).is_ok()
}

/// One capture.
#[derive(Debug)]
pub(crate) struct Session {
    /// What `cuStreamGetCaptureInfo` says; never reused.
    pub(crate) id: u64,
    /// The graph that it adds to.
    pub(crate) graph: u64,
    /// The graph was there before and stays when the capture fails.
    pub(crate) given: bool,
    mode: Mode,
    /// The stream that began it.
    origin: u64,
    /// The thread that began it.
    thread: ThreadId,
    invalid: bool,
    streams: BTreeMap<u64, Front>,
}

/// Where a captured stream is.
#[derive(Debug, Default)]
pub(crate) struct Front {
    /// What its next node comes after.
    pub(crate) after: Vec<Dependency>,
    /// Arrays that the program has been given pointers to.
    nodes: Vec<u64>,
    data: Vec<[u8; 8]>,
}

impl Front {
    fn new(after: Vec<Dependency>) -> Front {
        Front { after, ..Front::default() }
    }

    /// Makes the arrays of `after` that a program can be given: their addresses.
    pub(crate) fn show(&mut self) -> (usize, usize) {
        self.nodes = self.after.iter().map(|d| d.0).collect();
        self.data = self.after.iter().map(|d| d.1.bytes()).collect();
        (self.nodes.as_ptr().expose_provenance(), self.data.as_ptr().expose_provenance())
    }
}

impl Session {
    /// Where a stream of it is.
    pub(crate) fn front(&mut self, stream: u64) -> Option<&mut Front> {
        self.streams.get_mut(&stream)
    }
}

/// What is known of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It runs what it is given.
    None,
    /// It is captured.
    Active,
    /// Its capture has failed, and waits to be ended.
    Invalidated,
}

/// An event that was last recorded in a capture.
#[derive(Debug, Clone)]
struct Mark {
    session: u64,
    after: Vec<Dependency>,
}

/// What a wait for an event means to a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Neither is captured.
    Plain,
    /// The stream has (now) joined the capture and comes after the event.
    Joined,
}

/// All captures of the process.
#[derive(Debug, Default)]
pub(crate) struct Captures {
    sessions: Vec<Session>,
    last: u64,
    events: HashMap<u64, Mark>,
    /// Threads that have said which mode they are in; all others are in `Global`.
    modes: HashMap<ThreadId, Mode>,
}

impl Captures {
    /// Whether nothing is captured, so that no rule of this module matters.
    pub(crate) fn none(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Streams that are captured.
    pub(crate) fn streams(&self) -> impl Iterator<Item = u64> {
        self.sessions.iter().flat_map(|s| s.streams.keys().copied())
    }

    /// The session of a stream.
    pub(crate) fn of(&self, stream: u64) -> Option<&Session> {
        self.sessions.iter().find(|s| s.streams.contains_key(&stream))
    }

    /// The session of a stream.
    pub(crate) fn of_mut(&mut self, stream: u64) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|s| s.streams.contains_key(&stream))
    }

    /// The status of a stream.
    pub(crate) fn status(&self, stream: u64) -> Status {
        match self.of(stream) {
            None => Status::None,
            Some(s) if s.invalid => Status::Invalidated,
            Some(_) => Status::Active,
        }
    }

    /// Begins a capture into a graph, after these nodes of it; its id.
    ///
    /// # Errors
    /// `ILLEGAL_STATE` if the stream is captured already.
    pub(crate) fn begin(
        &mut self,
        stream: u64,
        graph: u64,
        given: bool,
        mode: Mode,
        after: Vec<Dependency>,
    ) -> Answer<u64> {
        if self.of(stream).is_some() {
            return Err(Error::ILLEGAL_STATE);
        }
        self.last += 1;
        let (id, thread) = (self.last, std::thread::current().id());
        let streams = BTreeMap::from([(stream, Front::new(after))]);
        self.sessions.push(Session { id, graph, given, mode, origin: stream, thread, invalid: false, streams });
        Ok(id)
    }

    /// The graph and the nodes that the next node of a captured stream comes after; `None` for a stream that is not captured.
    ///
    /// # Errors
    /// `STREAM_CAPTURE_INVALIDATED`.
    pub(crate) fn target(&self, stream: u64) -> Answer<Option<(u64, &[Dependency])>> {
        match self.of(stream) {
            None => Ok(None),
            Some(s) if s.invalid => Err(Error::STREAM_CAPTURE_INVALIDATED),
            Some(s) => Ok(Some((s.graph, &s.streams[&stream].after))),
        }
    }

    /// What comes next in a captured stream comes after these.
    pub(crate) fn advance(&mut self, stream: u64, after: Vec<Dependency>) {
        if let Some(front) = self.of_mut(stream).and_then(|s| s.front(stream)) {
            front.after = after;
        }
    }

    /// An event is recorded in a stream. Whether that was captured.
    ///
    /// # Errors
    /// As [`Captures::target`].
    pub(crate) fn record(&mut self, event: u64, stream: u64) -> Answer<bool> {
        let Some((_, after)) = self.target(stream)? else {
            self.events.remove(&event);
            return Ok(false);
        };
        let after = after.to_vec();
        let session = self.of(stream).map_or(0, |s| s.id);
        self.events.insert(event, Mark { session, after });
        Ok(true)
    }

    /// A stream waits for an event; `recorded` says whether it was ever recorded.
    ///
    /// # Errors
    /// `STREAM_CAPTURE_ISOLATION` if the stream is captured and the event is not, `_MERGE` if two captures would meet,
    /// `_INVALIDATED`, `CAPTURED_EVENT` if the event's capture is over. All of them, but the last, invalidate.
    pub(crate) fn wait(&mut self, event: u64, stream: u64, recorded: bool) -> Answer<Wait> {
        let target = self.target(stream)?.is_some();
        let Some(mark) = self.events.get(&event).cloned() else {
            if target && recorded {
                self.invalidate(stream);
                return Err(Error::STREAM_CAPTURE_ISOLATION);
            }
            return Ok(Wait::Plain);
        };
        let Some(at) = self.sessions.iter().position(|s| s.id == mark.session) else {
            return Err(Error::CAPTURED_EVENT);
        };
        if self.sessions[at].invalid {
            return Err(Error::STREAM_CAPTURE_INVALIDATED);
        }
        if target && !self.sessions[at].streams.contains_key(&stream) {
            self.invalidate(stream);
            self.sessions[at].invalid = true;
            return Err(Error::STREAM_CAPTURE_MERGE);
        }
        let after = &mut self.sessions[at].streams.entry(stream).or_default().after;
        for (node, data) in mark.after {
            // A full edge says all that a programmatic one to the same node says.
            match after.iter_mut().find(|d| d.0 == node) {
                Some(have) if !have.1.is_default() => have.1 = data,
                Some(_) => {}
                None => after.push((node, data)),
            }
        }
        Ok(Wait::Joined)
    }

    /// Whether an event was last recorded in a capture; the host can neither ask for it nor wait for it then.
    pub(crate) fn is_captured(&self, event: u64) -> bool {
        self.events.contains_key(&event)
    }

    /// An event is no more.
    pub(crate) fn forget_event(&mut self, event: u64) {
        self.events.remove(&event);
    }

    /// The capture of a stream, if it has one, has failed.
    pub(crate) fn invalidate(&mut self, stream: u64) {
        if let Some(session) = self.of_mut(stream) {
            session.invalid = true;
        }
    }

    /// A stream is no more. Where it began a capture that ends with it, and the graph that is left over is given; one that had
    /// joined still has to have come back.
    pub(crate) fn leave(&mut self, stream: u64) -> Option<u64> {
        let at = self.sessions.iter().position(|s| s.origin == stream)?;
        let session = self.sessions.remove(at);
        (!session.given).then_some(session.graph)
    }

    /// The host may not wait for, ask for or destroy a stream that is captured: that fails the capture.
    ///
    /// # Errors
    /// `STREAM_CAPTURE_UNSUPPORTED`, `_INVALIDATED` where it had failed before.
    pub(crate) fn forbid_stream(&mut self, stream: u64) -> Answer {
        match self.of_mut(stream) {
            None => Ok(()),
            Some(session) if session.invalid => Err(Error::STREAM_CAPTURE_INVALIDATED),
            Some(session) => {
                session.invalid = true;
                Err(Error::STREAM_CAPTURE_UNSUPPORTED)
            }
        }
    }

    /// A call that waits for all streams that `waits` says: fails the captures of those.
    ///
    /// # Errors
    /// `STREAM_CAPTURE_UNSUPPORTED`, or `STREAM_CAPTURE_IMPLICIT` where the legacy stream waits for them.
    pub(crate) fn forbid_streams(&mut self, error: Error, waits: impl Fn(u64) -> bool) -> Answer {
        let mut found = false;
        for session in &mut self.sessions {
            if session.streams.keys().any(|&s| waits(s)) {
                session.invalid = true;
                found = true;
            }
        }
        if found { Err(error) } else { Ok(()) }
    }

    /// A call that may synchronise: forbidden by the captures that this thread's mode heeds, which then fail.
    ///
    /// # Errors
    /// `STREAM_CAPTURE_UNSUPPORTED`.
    pub(crate) fn forbid_unsafe(&mut self) -> Answer {
        let thread = std::thread::current().id();
        let mine = self.modes.get(&thread).copied().unwrap_or_default();
        let mut forbidden = false;
        for session in &mut self.sessions {
            let own = session.thread == thread && session.mode != Mode::Relaxed;
            let heeded = match mine {
                Mode::Global => own || session.mode == Mode::Global,
                Mode::ThreadLocal => own,
                Mode::Relaxed => false,
            };
            if heeded {
                session.invalid = true;
                forbidden = true;
            }
        }
        if forbidden { Err(Error::STREAM_CAPTURE_UNSUPPORTED) } else { Ok(()) }
    }

    /// Sets the mode of this thread; the one before.
    pub(crate) fn exchange_mode(&mut self, mode: Mode) -> Mode {
        self.modes.insert(std::thread::current().id(), mode).unwrap_or_default()
    }

    /// Ends the capture that a stream began: its session, and whether it ended well. The streams that joined are free.
    /// `ancestors` are the nodes given and all that they come after.
    ///
    /// # Errors
    /// `ILLEGAL_STATE` if the stream is not captured, `_UNMATCHED` if it did not begin its capture, `_WRONG_THREAD` if
    /// another thread did; the capture goes on then, failed but for the first.
    pub(crate) fn end(
        &mut self,
        stream: u64,
        ancestors: impl FnOnce(u64, &[Dependency]) -> BTreeSet<u64>,
    ) -> Answer<(Session, Answer)> {
        let at = self.sessions.iter().position(|s| s.streams.contains_key(&stream));
        let at = at.ok_or(Error::ILLEGAL_STATE)?;
        let session = &mut self.sessions[at];
        if session.origin != stream {
            session.invalid = true;
            return Err(Error::STREAM_CAPTURE_UNMATCHED);
        }
        if session.mode != Mode::Relaxed && session.thread != std::thread::current().id() {
            return Err(Error::STREAM_CAPTURE_WRONG_THREAD);
        }
        let session = self.sessions.remove(at);
        if session.invalid {
            return Ok((session, Err(Error::STREAM_CAPTURE_INVALIDATED)));
        }
        let joined = ancestors(session.graph, &session.streams[&stream].after);
        let all = session.streams.values().flat_map(|f| &f.after).all(|d| joined.contains(&d.0));
        let how = if all { Ok(()) } else { Err(Error::STREAM_CAPTURE_UNJOINED) };
        Ok((session, how))
    }

    /// Whether a capture adds to a graph.
    pub(crate) fn fills(&self, graph: u64) -> bool {
        self.sessions.iter().any(|s| s.graph == graph)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dag::EdgeData;

    const FULL: EdgeData = EdgeData { from_port: 0, to_port: 0, kind: 0 };

    fn begun(mode: Mode) -> Captures {
        let mut captures = Captures::default();
        captures.begin(1, 100, false, mode, Vec::new()).unwrap();
        captures.advance(1, vec![(10, FULL)]);
        captures
    }

    fn end(captures: &mut Captures, stream: u64, joined: &[u64]) -> Answer<Answer> {
        captures.end(stream, |_, _| joined.iter().copied().collect()).map(|(_, how)| how)
    }

    #[test]
    fn a_stream_joins_by_an_event_and_has_to_come_back() {
        let mut captures = begun(Mode::Global);
        assert_eq!(captures.record(7, 1), Ok(true));
        assert_eq!(captures.wait(7, 2, true), Ok(Wait::Joined));
        assert_eq!(captures.target(2), Ok(Some((100, &[(10, FULL)][..]))));
        captures.advance(2, vec![(11, FULL)]);
        assert_eq!(end(&mut captures, 2, &[]), Err(Error::STREAM_CAPTURE_UNMATCHED));
        let mut captures = begun(Mode::Global);
        captures.record(7, 1).unwrap();
        captures.wait(7, 2, true).unwrap();
        captures.advance(2, vec![(11, FULL)]);
        assert_eq!(end(&mut captures, 1, &[10]), Ok(Err(Error::STREAM_CAPTURE_UNJOINED)));
        assert_eq!(captures.status(2), Status::None);
        assert_eq!(captures.wait(7, 2, true), Err(Error::CAPTURED_EVENT));
    }

    #[test]
    fn uncaptured_events_and_other_captures_fail_it() {
        let mut captures = begun(Mode::Global);
        assert_eq!(captures.wait(8, 1, false), Ok(Wait::Plain), "an event that was never recorded is no work");
        assert_eq!(captures.wait(8, 1, true), Err(Error::STREAM_CAPTURE_ISOLATION));
        assert_eq!(captures.status(1), Status::Invalidated);
        assert_eq!(end(&mut captures, 1, &[]), Ok(Err(Error::STREAM_CAPTURE_INVALIDATED)));

        let mut captures = begun(Mode::Global);
        captures.begin(2, 101, false, Mode::Global, Vec::new()).unwrap();
        captures.record(7, 1).unwrap();
        assert_eq!(captures.wait(7, 2, true), Err(Error::STREAM_CAPTURE_MERGE));
        assert_eq!((captures.status(1), captures.status(2)), (Status::Invalidated, Status::Invalidated));
    }

    #[test]
    fn unsafe_calls_are_forbidden_by_mode_and_thread() {
        let forbidden = Err(Error::STREAM_CAPTURE_UNSUPPORTED);
        // The mode of the capture, the mode of the thread that calls, and whether it is the thread that captures.
        let cases = [
            (Mode::Global, Mode::Global, true, forbidden),
            (Mode::Global, Mode::Global, false, forbidden),
            (Mode::Global, Mode::ThreadLocal, false, Ok(())),
            (Mode::Global, Mode::ThreadLocal, true, forbidden),
            (Mode::Global, Mode::Relaxed, true, Ok(())),
            (Mode::ThreadLocal, Mode::Global, true, forbidden),
            (Mode::ThreadLocal, Mode::Global, false, Ok(())),
            (Mode::Relaxed, Mode::Global, true, Ok(())),
        ];
        for (capture, thread, same, want) in cases {
            let mut captures = begun(capture);
            let mut call = || {
                assert_eq!(captures.exchange_mode(thread), Mode::Global);
                let got = captures.forbid_unsafe();
                assert_eq!(captures.exchange_mode(Mode::Global), thread);
                got
            };
            let got = if same { call() } else { std::thread::scope(|s| s.spawn(call).join().unwrap()) };
            assert_eq!(got, want, "{capture:?} {thread:?} {same}");
            assert_eq!(captures.status(1) == Status::Invalidated, want.is_err());
        }
    }

    #[test]
    fn only_the_thread_that_began_ends_it_unless_relaxed() {
        for (mode, want) in [(Mode::ThreadLocal, Err(Error::STREAM_CAPTURE_WRONG_THREAD)), (Mode::Relaxed, Ok(Ok(())))]
        {
            let mut captures = begun(mode);
            let got = std::thread::scope(|s| s.spawn(|| end(&mut captures, 1, &[10])).join().unwrap());
            assert_eq!(got, want);
        }
    }

    #[test]
    fn calls_that_may_synchronise_are_sorted() {
        assert!(MAY_SYNCHRONISE.is_sorted());
    }

    #[test]
    fn a_full_edge_wins_over_a_programmatic_one() {
        let mut captures = begun(Mode::Global);
        captures.advance(1, vec![(10, EdgeData::PROGRAMMATIC)]);
        captures.record(7, 1).unwrap();
        captures.advance(1, vec![(10, FULL)]);
        captures.wait(7, 2, true).unwrap();
        assert_eq!(captures.target(2).unwrap().unwrap().1, [(10, EdgeData::PROGRAMMATIC)]);
        captures.record(8, 1).unwrap();
        captures.wait(8, 2, true).unwrap();
        assert_eq!(captures.target(2).unwrap().unwrap().1, [(10, FULL)]);
        captures.wait(7, 2, true).unwrap();
        assert_eq!(captures.target(2).unwrap().unwrap().1, [(10, FULL)]);
    }
}
