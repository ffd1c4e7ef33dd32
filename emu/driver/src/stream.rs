//! Streams: which one a call means, what comes before what, and the one door, [`enqueue`], through which every call goes that
//! is ordered by a stream.

use crate::call::Call;
use crate::dag::EdgeData;
use crate::error::{Answer, Error};
use crate::graph::{Node, What, kind};
use crate::operation::{Copy, Memory, Operation};
use crate::progress;
use crate::slots::Handle;
use crate::state::{Context, Driver, Order, Stream, Tail};
use crate::submit;
use crate::thread;
use crate::work::Then;
use emu::{After, Edge, Op};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The number of the default stream of a thread. Below it are 0, whose meaning depends, and 1, the one that all share.
const PER_THREAD: u64 = 2;

/// The stream that a number means, in the current context if it is a default stream.
///
/// # Errors
/// That there is no such stream, or no context.
pub(crate) fn resolve(call: &mut Call, number: u64) -> Answer<Handle<Stream>> {
    let own = number == PER_THREAD || number == 0 && call.export.per_thread;
    if number > PER_THREAD {
        return call.handle(|d| &d.streams, number);
    }
    let context = call.context()?;
    if own { Ok(per_thread(call, context)) } else { legacy(call, context) }
}

/// The default stream that all threads share.
pub(crate) fn legacy(driver: &Driver, context: Handle<Context>) -> Answer<Handle<Stream>> {
    driver.contexts.get(context).map(|c| c.legacy).ok_or(Error::INVALID_CONTEXT)
}

/// The default stream of this thread.
fn per_thread(driver: &mut Driver, context: Handle<Context>) -> Handle<Stream> {
    let thread = thread::number();
    if let Some(&stream) = driver.contexts.get(context).and_then(|c| c.own.get(&thread)) {
        return stream;
    }
    let stream = create(driver, context, Order::Blocking, 0, true);
    if let Some(c) = driver.contexts.get_mut(context) {
        c.own.insert(thread, stream);
    }
    stream
}

/// A new stream.
pub(crate) fn create(
    driver: &mut Driver,
    context: Handle<Context>,
    order: Order,
    priority: i32,
    default: bool,
) -> Handle<Stream> {
    let id = driver.next_stream();
    driver.streams.insert(Stream { context, order, priority, id, tail: None, default })
}

/// What has to happen before the next operation of a stream.
pub(crate) fn before(driver: &Driver, stream: Handle<Stream>) -> Answer<Vec<After>> {
    let this = driver.streams.get(stream).ok_or(Error::INVALID_HANDLE)?;
    let full = |tail: Option<Tail>| tail.map(|t| After { op: t.op, edge: Edge::Full });
    let mut after: Vec<After> = full(this.tail).into_iter().collect();
    match this.order {
        Order::Legacy => {
            let others = driver.streams.iter().map(|(_, s)| s);
            let others = others.filter(|s| s.context == this.context && s.order == Order::Blocking);
            after.extend(others.filter_map(|s| full(s.tail)));
        }
        Order::Blocking => {
            let legacy = legacy(driver, this.context)?;
            after.extend(driver.streams.get(legacy).and_then(|s| full(s.tail)));
        }
        Order::NonBlocking => {}
    }
    Ok(after)
}

/// Notes the last operation of a stream.
pub(crate) fn set_tail(driver: &mut Driver, stream: Handle<Stream>, op: Op, launch: bool) {
    if let Some(s) = driver.streams.get_mut(stream) {
        s.tail = Some(Tail { op, launch });
    }
}

/// How a stream is named in messages.
pub(crate) fn describe(driver: &Driver, stream: Handle<Stream>) -> String {
    match driver.streams.get(stream) {
        Some(s) if s.order == Order::Legacy => "the default stream".into(),
        Some(s) if s.default => format!("the default stream of a thread ({})", s.id),
        Some(s) => format!("stream {}", s.id),
        None => "a stream".into(),
    }
}

/// What a stream is asked for.
pub(crate) struct Request {
    pub(crate) operation: Operation,
    /// Whether a launch may overlap the one before it.
    pub(crate) edge: Edge,
    /// It comes after these as well.
    pub(crate) also: Vec<After>,
    pub(crate) then: Then,
    /// What it does, for messages, after the name of the call.
    pub(crate) label: String,
}

impl Request {
    pub(crate) fn new(operation: Operation) -> Request {
        Request { operation, edge: Edge::Full, also: Vec::new(), then: Then::Nothing, label: String::new() }
    }
}

/// Asks a stream for an operation: the one door of all calls that are ordered by streams. None: the stream is captured, and
/// the operation has become a node.
///
/// # Errors
/// What is wrong with the operation.
pub(crate) fn enqueue(call: &mut Call, stream: Handle<Stream>, request: Request) -> Answer<Option<Op>> {
    let Request { mut operation, edge, also, then, label } = request;
    implicit(call, stream)?;
    let refused = submit::refuse(call, &operation);
    call.refuse(refused)?;
    if call.graphs.captures.of(stream.number()).is_some() {
        capture(call, stream, What::Operation(operation), edge)?;
        return Ok(None);
    }
    if let Operation::Copy(copy) = &mut operation {
        stage(call, copy)?;
    }
    let mut after = before(call, stream)?;
    let this = call.streams.get(stream).ok_or(Error::INVALID_HANDLE)?;
    let context = this.context;
    let launch = matches!(operation, Operation::Kernel(_));
    if launch && edge == Edge::Programmatic && this.tail.is_some_and(|t| t.launch) {
        after[0].edge = Edge::Programmatic;
    }
    after.extend(also);
    let label = format!("{}{label} on {}", call.export.name, describe(call, stream));
    let op = submit::submit(call, context, &operation, &after, &label, then)?;
    set_tail(call, stream, op, launch);
    progress::relieve(call)?;
    Ok(Some(op))
}

/// Makes what a captured stream is asked for a node of its graph.
///
/// # Errors
/// That the capture has failed, or fails by this.
pub(crate) fn capture(call: &mut Call, stream: Handle<Stream>, what: What, edge: Edge) -> Answer {
    let target = call.graphs.captures.target(stream.number())?.map(|(graph, after)| (graph, after.to_vec()));
    let (graph, mut after) = target.ok_or(Error::ILLEGAL_STATE)?;
    let graph = call.graphs.graphs.find(graph).map_err(|_| Error::STREAM_CAPTURE_INVALIDATED)?;
    if matches!(what, What::Operation(Operation::Free(_))) {
        return Err(uncapturable(call, stream, "freeing memory of the pool in a capture"));
    }
    // Only launches begin before what comes before them has ended.
    if what.kind() != kind::KERNEL {
        after.iter_mut().for_each(|d| d.1 = EdgeData::default());
    }
    // As in a stream, a launch overlaps only the launch right before it.
    if let [(before, data)] = &mut after[..]
        && edge == Edge::Programmatic
        && data.is_default()
        && call.graphs.graphs.get(graph).and_then(|g| g.nodes.get(*before)).is_some_and(|n| n.kernel().is_some())
    {
        *data = EdgeData::PROGRAMMATIC;
    }
    let node = call.graphs.add(graph, Node::new(what), &after).map_err(|_| Error::STREAM_CAPTURE_INVALIDATED)?;
    call.graphs.captures.advance(stream.number(), vec![(node.number(), EdgeData::default())]);
    Ok(())
}

/// Fails the capture of a stream by what cannot be a node here.
pub(crate) fn uncapturable(call: &mut Call, stream: Handle<Stream>, what: &'static str) -> Error {
    call.graphs.captures.invalidate(stream.number());
    call.unsupported(what)
}

/// Refuses the default stream that all threads share while a stream is captured that it would wait for, which fails the
/// capture.
pub(crate) fn implicit(call: &mut Call, stream: Handle<Stream>) -> Answer {
    let this = call.streams.get(stream).ok_or(Error::INVALID_HANDLE)?;
    if this.order != Order::Legacy {
        return Ok(());
    }
    let waits = blocking(call, this.context);
    call.graphs.captures.forbid_streams(Error::STREAM_CAPTURE_IMPLICIT, |s| waits.contains(&s))
}

/// The streams that the default stream of a context waits for.
pub(crate) fn blocking(driver: &Driver, context: Handle<Context>) -> BTreeSet<u64> {
    let these = driver.streams.iter().filter(|(_, s)| s.context == context && s.order == Order::Blocking);
    these.map(|(h, _)| h.number()).collect()
}

/// Refuses to wait for a stream, or to ask for it, while it or one that it waits for is captured.
///
/// # Errors
/// Those of captures, which fail by this.
pub(crate) fn forbid_captured(call: &mut Call, stream: Handle<Stream>) -> Answer {
    implicit(call, stream)?;
    call.graphs.captures.forbid_stream(stream.number())
}

/// Copies what is to be copied from memory of the process that is not pinned: a driver does so before it returns.
fn stage(driver: &Driver, copy: &mut Copy) -> Answer {
    let Memory::Host(address) = copy.from.at else { return Ok(()) };
    if driver.memory.around(address).is_some() || copy.empty() {
        return Ok(());
    }
    let span = copy.from.span(copy).ok_or(Error::INVALID_VALUE)?;
    let bytes = crate::abi::In::<u8>::new(address as usize).raw().bytes(span as usize)?;
    copy.from.at = Memory::Staged(Arc::new(bytes));
    Ok(())
}
