//! Captures: streams whose calls become nodes of a graph until the capture ends.

use super::graph::{dependencies, graph};
use crate::abi::{In, Out, Raw};
use crate::call::{Call, exports};
use crate::capture::{Mode, Status};
use crate::error::{Answer, Error};
use crate::slots::Handle;
use crate::state::{Order, Stream};
use crate::stream;

exports! {
    Context {
        cuStreamBeginCapture @10000 (hStream: u64) = begin1, cuStreamBeginCapture_ptsz;
        cuStreamBeginCapture_v2 @10010 (hStream: u64, mode: u32) = begin, cuStreamBeginCapture_v2_ptsz;
        cuStreamBeginCaptureToGraph @12030 (hStream: u64, hGraph: u64, dependencies: In<u64>, dependencyData: In<[u8; 8]>, numDependencies: usize, mode: u32) = begin_to, cuStreamBeginCaptureToGraph_ptsz;
        cuStreamEndCapture @10000 (hStream: u64, phGraph: Out<u64>) = end, cuStreamEndCapture_ptsz;
        cuStreamIsCapturing @10000 (hStream: u64, captureStatus: Out<u32>) = is_capturing, cuStreamIsCapturing_ptsz;
        cuStreamGetCaptureInfo @10010 (hStream: u64, captureStatus_out: Out<u32>, id_out: Out<u64>) = info1, cuStreamGetCaptureInfo_ptsz;
        cuStreamGetCaptureInfo_v2 @11030 (hStream: u64, captureStatus_out: Out<u32>, id_out: Out<u64>, graph_out: Out<u64>, dependencies_out: Out<u64>, numDependencies_out: Out<usize>) = info2, cuStreamGetCaptureInfo_v2_ptsz;
        cuStreamGetCaptureInfo_v3 @12030 (hStream: u64, captureStatus_out: Out<u32>, id_out: Out<u64>, graph_out: Out<u64>, dependencies_out: Out<u64>, edgeData_out: Out<u64>, numDependencies_out: Out<usize>) = info3, cuStreamGetCaptureInfo_v3_ptsz;
        cuStreamUpdateCaptureDependencies @11030 (hStream: u64, dependencies: In<u64>, numDependencies: usize, flags: u32) = update1, cuStreamUpdateCaptureDependencies_ptsz;
        cuStreamUpdateCaptureDependencies_v2 @12030 (hStream: u64, dependencies: In<u64>, dependencyData: In<[u8; 8]>, numDependencies: usize, flags: u32) = update, cuStreamUpdateCaptureDependencies_v2_ptsz;
    }
    Device {
        cuThreadExchangeStreamCaptureMode @10010 (mode: Out<u32>) = exchange_mode;
    }
}

fn begin1(call: &mut Call, number: u64) -> Answer {
    begin(call, number, Mode::Global.raw())
}

/// A stream that can be captured: the default stream that all threads share cannot.
fn capturable(call: &mut Call, number: u64) -> Answer<Handle<Stream>> {
    let stream = stream::resolve(call, number)?;
    match call.streams.get(stream).map(|s| s.order) {
        Some(Order::Legacy) => Err(Error::STREAM_CAPTURE_UNSUPPORTED),
        _ => Ok(stream),
    }
}

fn begin(call: &mut Call, number: u64, mode: u32) -> Answer {
    let mode = Mode::from_raw(mode).ok_or(Error::INVALID_VALUE)?;
    let stream = capturable(call, number)?;
    if call.graphs.captures.of(stream.number()).is_some() {
        return Err(Error::ILLEGAL_STATE);
    }
    let graph = call.graphs.create("cuStreamEndCapture");
    call.graphs.captures.begin(stream.number(), graph.number(), false, mode, Vec::new())?;
    Ok(())
}

fn begin_to(
    call: &mut Call,
    number: u64,
    to: u64,
    nodes: In<u64>,
    data: In<[u8; 8]>,
    count: usize,
    mode: u32,
) -> Answer {
    let mode = Mode::from_raw(mode).ok_or(Error::INVALID_VALUE)?;
    let stream = capturable(call, number)?;
    let graph = graph(call, to)?;
    let after = dependencies(call, graph, nodes, data, count, None)?;
    if call.graphs.captures.fills(to) {
        return Err(Error::INVALID_VALUE);
    }
    call.graphs.captures.begin(stream.number(), to, true, mode, after)?;
    Ok(())
}

fn end(call: &mut Call, number: u64, out: Out<u64>) -> Answer {
    let stream = stream::resolve(call, number)?;
    out.set(0)?;
    let graphs = &mut call.graphs;
    let (slots, captures) = (&graphs.graphs, &mut graphs.captures);
    let (session, how) = captures.end(stream.number(), |graph, last| {
        let graph = slots.find(graph).ok().and_then(|h| slots.get(h));
        graph.map(|g| g.nodes.ancestors(last.iter().map(|d| d.0))).unwrap_or_default()
    })?;
    if let Err(error) = how {
        if !session.given
            && let Ok(graph) = call.graphs.graphs.find(session.graph)
        {
            let objects = call.graphs.destroy(graph);
            super::object::release(call, objects, None)?;
        }
        return Err(error);
    }
    out.set(session.graph)
}

/// The number of `CUstreamCaptureStatus`, of a stream about which may be asked.
fn status(call: &mut Call, number: u64) -> Answer<(u64, Status)> {
    let stream = stream::resolve(call, number)?;
    let this = call.streams.get(stream).ok_or(Error::INVALID_HANDLE)?;
    if this.order == Order::Legacy {
        // It would wait for streams that are captured, if it were used.
        let context = this.context;
        let waits = |s: u64| {
            let other = call.streams.find(s).ok().and_then(|h| call.streams.get(h));
            other.is_some_and(|s| s.context == context && s.order == Order::Blocking)
        };
        if call.graphs.captures.streams().any(waits) {
            return Err(Error::STREAM_CAPTURE_IMPLICIT);
        }
    }
    Ok((stream.number(), call.graphs.captures.status(stream.number())))
}

fn is_capturing(call: &mut Call, number: u64, out: Out<u32>) -> Answer {
    let (_, status) = status(call, number)?;
    out.set(status as u32)
}

fn info1(call: &mut Call, number: u64, out: Out<u32>, id: Out<u64>) -> Answer {
    let none = Raw::null();
    info(call, number, out, id, none.output(), none.output(), none.output(), none.output(), false)
}

fn info2(
    call: &mut Call,
    number: u64,
    out: Out<u32>,
    id: Out<u64>,
    graph: Out<u64>,
    nodes: Out<u64>,
    count: Out<usize>,
) -> Answer {
    info(call, number, out, id, graph, nodes, Raw::null().output(), count, true)
}

#[expect(clippy::too_many_arguments, reason = "as many as in C")]
fn info3(
    call: &mut Call,
    number: u64,
    out: Out<u32>,
    id: Out<u64>,
    graph: Out<u64>,
    nodes: Out<u64>,
    data: Out<u64>,
    count: Out<usize>,
) -> Answer {
    info(call, number, out, id, graph, nodes, data, count, true)
}

/// What is known of a capture. Arrays live until the next call for the stream.
#[allow(clippy::too_many_arguments, reason = "as many as in C")]
fn info(
    call: &mut Call,
    number: u64,
    out: Out<u32>,
    id: Out<u64>,
    graph: Out<u64>,
    nodes: Out<u64>,
    data: Out<u64>,
    count: Out<usize>,
    edges: bool,
) -> Answer {
    let (stream, status) = status(call, number)?;
    out.set(status as u32)?;
    if status != Status::Active {
        return Ok(());
    }
    let Some(session) = call.graphs.captures.of_mut(stream) else { return Ok(()) };
    let (number, of) = (session.id, session.graph);
    let front = session.front(stream).ok_or(Error::INVALID_VALUE)?;
    if edges && data.is_null() && !nodes.is_null() && front.after.iter().any(|d| !d.1.is_default()) {
        return Err(Error::LOSSY_QUERY);
    }
    let (shown_nodes, shown_data) = front.show();
    id.set_if(number);
    graph.set_if(of);
    count.set_if(front.after.len());
    nodes.set_if(shown_nodes as u64);
    data.set_if(shown_data as u64);
    Ok(())
}

fn update1(call: &mut Call, number: u64, nodes: In<u64>, count: usize, flags: u32) -> Answer {
    update(call, number, nodes, Raw::null().input(), count, flags)
}

/// Flags of `cuStreamUpdateCaptureDependencies`.
const ADD: u32 = 0;
const SET: u32 = 1;

fn update(call: &mut Call, number: u64, nodes: In<u64>, data: In<[u8; 8]>, count: usize, flags: u32) -> Answer {
    let stream = stream::resolve(call, number)?;
    let target = call.graphs.captures.target(stream.number())?.map(|(graph, after)| (graph, after.to_vec()));
    let (number, mut after) = target.ok_or(Error::ILLEGAL_STATE)?;
    let graph = graph(call, number)?;
    let given = dependencies(call, graph, nodes, data, count, None)?;
    match flags {
        ADD => {
            for d in given {
                if !after.iter().any(|have| have.0 == d.0) {
                    after.push(d);
                }
            }
        }
        SET => after = given,
        _ => return Err(Error::INVALID_VALUE),
    }
    call.graphs.captures.advance(stream.number(), after);
    Ok(())
}

fn exchange_mode(call: &mut Call, mode: Out<u32>) -> Answer {
    let new = Mode::from_raw(mode.get()?).ok_or(Error::INVALID_VALUE)?;
    mode.set(call.graphs.captures.exchange_mode(new).raw())
}
