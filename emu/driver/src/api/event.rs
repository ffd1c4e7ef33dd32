//! Events: points in streams, with times.

use crate::abi::Out;
use crate::call::{Call, exports};
use crate::capture::Wait;
use crate::error::{Answer, Error};
use crate::operation::Operation;
use crate::progress;
use crate::slots::Handle;
use crate::state::{Event, Record, Stream};
use crate::stream::{self, Request, enqueue};
use crate::work::Then;
use emu::{After, Edge};

exports! {
    Context {
        cuEventCreate @2000 (phEvent: Out<u64>, Flags: u32) = create;
        cuEventRecord @2000 (hEvent: u64, hStream: u64) = record, cuEventRecord_ptsz;
        cuEventRecordWithFlags @11010 (hEvent: u64, hStream: u64, flags: u32) = record_with_flags, cuEventRecordWithFlags_ptsz;
        cuEventQuery @2000 (hEvent: u64) = query;
        cuEventSynchronize @2000 (hEvent: u64) = synchronize;
        cuEventElapsedTime @2000 (pMilliseconds: Out<f32>, hStart: u64, hEnd: u64) = elapsed;
        cuEventElapsedTime_v2 @12080 (pMilliseconds: Out<f32>, hStart: u64, hEnd: u64) = elapsed;
        cuStreamWaitEvent @3020 (hStream: u64, hEvent: u64, Flags: u32) = wait, cuStreamWaitEvent_ptsz;
        cuCtxRecordEvent @12050 (hCtx: u64, hEvent: u64) = record_context;
        cuCtxWaitEvent @12050 (hCtx: u64, hEvent: u64) = wait_context;
    }
    Release {
        cuEventDestroy @2000 (hEvent: u64) = destroy;
        cuEventDestroy_v2 @4000 (hEvent: u64) = destroy;
    }
}

/// The flag of recording and waiting that makes a node of it in a capture.
const EXTERNAL: u32 = 1;
/// Flags of events: blocking waits, no times, between processes.
const NO_TIMES: u32 = 2;
const BETWEEN_PROCESSES: u32 = 4;

fn event(call: &mut Call, number: u64) -> Answer<Handle<Event>> {
    call.handle(|d| &d.events, number)
}

fn create(call: &mut Call, out: Out<u64>, flags: u32) -> Answer {
    if flags & !7 != 0 || flags & (BETWEEN_PROCESSES | NO_TIMES) == BETWEEN_PROCESSES || out.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    let context = call.context()?;
    let event = call.events.insert(Event { context, flags, record: None });
    out.set(event.number())
}

fn record(call: &mut Call, number: u64, stream: u64) -> Answer {
    record_with_flags(call, number, stream, 0)
}

fn record_with_flags(call: &mut Call, number: u64, stream: u64, flags: u32) -> Answer {
    if flags & !1 != 0 {
        return Err(Error::INVALID_VALUE);
    }
    let event = event(call, number)?;
    let stream = stream::resolve(call, stream)?;
    record_in(call, event, stream, flags == EXTERNAL)
}

/// Records an event in a stream. One that is captured remembers it for those that join, or has a node that records it, if
/// that is said to be for others.
fn record_in(call: &mut Call, event: Handle<Event>, stream: Handle<Stream>, external: bool) -> Answer {
    let context = |call: &Call| Some((call.events.get(event)?.context, call.streams.get(stream)?.context));
    if context(call).is_none_or(|(a, b)| a != b) {
        return Err(Error::INVALID_HANDLE);
    }
    if external && call.graphs.captures.of(stream.number()).is_some() {
        return stream::capture(call, stream, crate::graph::What::Record(event), Edge::Full);
    }
    if call.graphs.captures.record(event.number(), stream.number())? {
        return Ok(());
    }
    let op = enqueue(call, stream, Request { then: Then::Event(event), ..Request::new(Operation::Nothing) })?;
    if let (Some(e), Some(op)) = (call.events.get_mut(event), op) {
        e.record = Some(Record { op, at: None });
    }
    Ok(())
}

fn wait(call: &mut Call, stream: u64, number: u64, flags: u32) -> Answer {
    if flags & !1 != 0 {
        return Err(Error::INVALID_VALUE);
    }
    let stream = stream::resolve(call, stream)?;
    let event = event(call, number)?;
    wait_in(call, stream, event, flags == EXTERNAL)
}

/// Lets a stream wait for an event. One that was never recorded has happened; by one of a capture the stream joins that.
fn wait_in(call: &mut Call, stream: Handle<Stream>, event: Handle<Event>, external: bool) -> Answer {
    if external && call.graphs.captures.of(stream.number()).is_some() {
        return stream::capture(call, stream, crate::graph::What::Wait(event), Edge::Full);
    }
    let recorded = call.events.get(event).is_some_and(|e| e.record.is_some());
    if call.graphs.captures.wait(event.number(), stream.number(), recorded)? == Wait::Joined {
        return Ok(());
    }
    let Some(record) = call.events.get(event).and_then(|e| e.record) else { return Ok(()) };
    let also = vec![After { op: record.op, edge: Edge::Full }];
    enqueue(call, stream, Request { also, ..Request::new(Operation::Nothing) }).map(|_| ())
}

/// Records in the default stream, which comes after all streams of the context.
fn record_context(call: &mut Call, context: u64, number: u64) -> Answer {
    let context = call.handle(|d| &d.contexts, context)?;
    let event = event(call, number)?;
    let stream = stream::legacy(call, context)?;
    let also: Vec<_> = others(call, context).into_iter().filter_map(|s| call.streams.get(s)?.tail).collect();
    let also = also.into_iter().map(|t| After { op: t.op, edge: Edge::Full }).collect();
    let request = Request { then: Then::Event(event), also, ..Request::new(Operation::Nothing) };
    let op = enqueue(call, stream, request)?;
    if let (Some(e), Some(op)) = (call.events.get_mut(event), op) {
        e.record = Some(Record { op, at: None });
    }
    Ok(())
}

fn wait_context(call: &mut Call, context: u64, number: u64) -> Answer {
    let context = call.handle(|d| &d.contexts, context)?;
    let event = event(call, number)?;
    others(call, context).into_iter().try_for_each(|stream| wait_in(call, stream, event, false))
}

fn others(call: &Call, context: Handle<crate::state::Context>) -> Vec<Handle<Stream>> {
    call.streams.iter().filter(|(_, s)| s.context == context).map(|(h, _)| h).collect()
}

/// An event about which the host may ask: not one that was last recorded in a capture.
fn uncaptured(call: &mut Call, number: u64) -> Answer<Handle<Event>> {
    let event = event(call, number)?;
    if call.graphs.captures.is_captured(number) { Err(Error::CAPTURED_EVENT) } else { Ok(event) }
}

fn query(call: &mut Call, number: u64) -> Answer {
    let event = uncaptured(call, number)?;
    match call.events.get(event).and_then(|e| e.record) {
        Some(record) if !progress::look(call, record.op)? => Err(Error::NOT_READY),
        _ => Ok(()),
    }
}

fn synchronize(call: &mut Call, number: u64) -> Answer {
    let event = uncaptured(call, number)?;
    match call.events.get(event).and_then(|e| e.record) {
        Some(record) => progress::wait_for(call, record.op),
        None => Ok(()),
    }
}

fn elapsed(call: &mut Call, out: Out<f32>, start: u64, end: u64) -> Answer {
    let mut times = Vec::new();
    for number in [start, end] {
        let event = uncaptured(call, number)?;
        let Some(Event { record: Some(record), flags, .. }) = call.events.get(event) else {
            return Err(Error::INVALID_HANDLE);
        };
        if flags & NO_TIMES != 0 {
            return Err(Error::INVALID_HANDLE);
        }
        times.push(record.at.ok_or(Error::NOT_READY)?);
    }
    let ms = match times[1].checked_duration_since(times[0]) {
        Some(later) => later.as_secs_f32(),
        None => -times[0].duration_since(times[1]).as_secs_f32(),
    };
    out.set(ms * 1000.0)
}

/// One that has not happened yet still does; nobody is told.
fn destroy(call: &mut Call, number: u64) -> Answer {
    let event = event(call, number)?;
    call.events.remove(event);
    call.graphs.captures.forget_event(number);
    Ok(())
}
