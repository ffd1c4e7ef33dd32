//! Executable graphs: making them of graphs, changing and launching them.

use super::copy::Copy3;
use super::graph::{graph, node};
use super::params::{self, Batch, Fill1, Host, Instantiate, Kernel1, Kernel2, UpdateResult};
use crate::abi::{In, Out, Raw};
use crate::call::{Call, exports};
use crate::dag::Dag;
use crate::error::{Answer, Error};
use crate::graph::{self, Exec, Step, StepWhat, What, changeable, kind, step_mut};
use crate::operation::Operation;
use crate::replay;
use crate::slots::Handle;
use crate::stream;
use emu::Edge;

exports! {
    Context {
        cuGraphInstantiate @10000 (phGraphExec: Out<u64>, hGraph: u64, phErrorNode: Out<u64>, logBuffer: Out<u8>, bufferSize: usize) = instantiate1;
        cuGraphInstantiate_v2 @11000 (phGraphExec: Out<u64>, hGraph: u64, phErrorNode: Out<u64>, logBuffer: Out<u8>, bufferSize: usize) = instantiate1;
        cuGraphInstantiateWithFlags @11040 (phGraphExec: Out<u64>, hGraph: u64, flags: u64) = instantiate;
        cuGraphInstantiateWithParams @12000 (phGraphExec: Out<u64>, hGraph: u64, instantiateParams: Out<Instantiate>) = instantiate_with, cuGraphInstantiateWithParams_ptsz;
        cuGraphUpload @11010 (hGraphExec: u64, hStream: u64) = upload, cuGraphUpload_ptsz;
        cuGraphLaunch @10000 (hGraphExec: u64, hStream: u64) = launch, cuGraphLaunch_ptsz;
        cuGraphExecUpdate @10020 (hGraphExec: u64, hGraph: u64, hErrorNode_out: Out<u64>, updateResult_out: Out<u32>) = update1;
        cuGraphExecUpdate_v2 @12000 (hGraphExec: u64, hGraph: u64, resultInfo: Out<UpdateResult>) = update;
        cuGraphExecNodeSetParams @12020 (hGraphExec: u64, hNode: u64, nodeParams: Raw) = set_any;
        cuGraphExecKernelNodeSetParams @10010 (hGraphExec: u64, hNode: u64, nodeParams: In<Kernel1>) = set_kernel1;
        cuGraphExecKernelNodeSetParams_v2 @12000 (hGraphExec: u64, hNode: u64, nodeParams: In<Kernel2>) = set_kernel2;
        cuGraphExecMemcpyNodeSetParams @10020 (hGraphExec: u64, hNode: u64, copyParams: In<Copy3>, ctx: u64) = set_copy;
        cuGraphExecMemsetNodeSetParams @10020 (hGraphExec: u64, hNode: u64, memsetParams: In<Fill1>, ctx: u64) = set_fill;
        cuGraphExecHostNodeSetParams @10020 (hGraphExec: u64, hNode: u64, nodeParams: In<Host>) = set_host;
        cuGraphExecChildGraphNodeSetParams @11010 (hGraphExec: u64, hNode: u64, childGraph: u64) = set_child;
        cuGraphExecEventRecordNodeSetEvent @11010 (hGraphExec: u64, hNode: u64, event: u64) = set_record;
        cuGraphExecEventWaitNodeSetEvent @11010 (hGraphExec: u64, hNode: u64, event: u64) = set_wait;
        cuGraphExecBatchMemOpNodeSetParams @11070 (hGraphExec: u64, hNode: u64, nodeParams: In<Batch>) = set_batch;
        cuGraphNodeSetEnabled @11060 (hGraphExec: u64, hNode: u64, isEnabled: u32) = set_enabled;
        cuGraphNodeGetEnabled @11060 (hGraphExec: u64, hNode: u64, isEnabled: Out<u32>) = get_enabled;
    }
    Device {
        cuGraphExecDestroy @10000 (hGraphExec: u64) = destroy;
        cuGraphExecGetFlags @12000 (hGraphExec: u64, flags: Out<u64>) = flags;
    }
}

/// Flags of instantiation: frees on launch, uploads, launches from the device, uses the priorities of nodes.
const UPLOAD: u64 = 2;
const DEVICE_LAUNCH: u64 = 4;
const FLAGS: u64 = 1 | UPLOAD | DEVICE_LAUNCH | 8;

fn exec(call: &mut Call, number: u64) -> Answer<Handle<Exec>> {
    call.handle(|d| &d.graphs.execs, number)
}

fn instantiate1(call: &mut Call, out: Out<u64>, graph: u64, error: Out<u64>, log: Out<u8>, size: usize) -> Answer {
    error.set_if(0);
    if size > 0 {
        log.set_if(0);
    }
    instantiate(call, out, graph, 0)
}

fn instantiate(call: &mut Call, out: Out<u64>, number: u64, flags: u64) -> Answer {
    if out.is_null() || flags & !FLAGS != 0 {
        return Err(Error::INVALID_VALUE);
    }
    if flags & DEVICE_LAUNCH != 0 {
        return Err(call.unsupported("a graph that is launched from the device"));
    }
    let graph = graph(call, number)?;
    if call.graphs.captures.fills(number) {
        return Err(Error::INVALID_VALUE);
    }
    let nodes = call.graphs.steps(graph).ok_or(Error::INVALID_VALUE)?;
    all_fit(call, &nodes)?;
    let objects = call.graphs.graphs.get(graph).map(|g| g.objects.clone()).unwrap_or_default();
    for (object, count) in &objects {
        call.graphs.refer(*object, *count);
    }
    let exec = call.graphs.execs.insert(Exec { nodes, flags, last: None, objects });
    out.set(exec.number())
}

/// Checks that the card allows the kernels of a graph with the attributes that were set since they were added.
fn all_fit(call: &Call, nodes: &Dag<Step>) -> Answer {
    nodes.iter().try_for_each(|(_, step)| match &step.what {
        StepWhat::Single(What::Operation(Operation::Kernel(kernel))) => match call.functions.get(kernel.function) {
            // Whether it is still there shows when it is launched.
            None => Ok(()),
            Some(_) => super::launch::fits(call, kernel),
        },
        StepWhat::Single(_) => Ok(()),
        StepWhat::Graph(inner) => all_fit(call, inner),
    })
}

fn instantiate_with(call: &mut Call, out: Out<u64>, graph: u64, params: Out<Instantiate>) -> Answer {
    let mut given = params.get()?;
    let flags = given.flags;
    if flags & UPLOAD != 0 && given.upload > 0 {
        stream::resolve(call, given.upload)?;
    }
    (given.error_node, given.result) = (0, 0);
    let answer = instantiate(call, out, graph, flags);
    given.result = u32::from(answer.is_err());
    params.set(given)?;
    answer
}

/// An executable graph of ours is where it has to be at once.
fn upload(call: &mut Call, number: u64, stream: u64) -> Answer {
    exec(call, number)?;
    stream::resolve(call, stream).map(|_| ())
}

fn launch(call: &mut Call, number: u64, stream: u64) -> Answer {
    let exec = exec(call, number)?;
    let stream = stream::resolve(call, stream)?;
    if call.graphs.captures.of(stream.number()).is_some() {
        let from = call.export.name;
        let graph = call.graphs.of_exec(exec, from).ok_or(Error::INVALID_VALUE)?;
        return stream::capture(call, stream, What::Graph(graph), Edge::Full);
    }
    stream::implicit(call, stream)?;
    replay::launch(call, exec, stream)
}

fn destroy(call: &mut Call, number: u64) -> Answer {
    let exec = exec(call, number)?;
    let gone = call.graphs.execs.remove(exec).ok_or(Error::INVALID_VALUE)?;
    super::object::release(call, vec![gone.objects], gone.last)
}

fn flags(call: &mut Call, number: u64, out: Out<u64>) -> Answer {
    let exec = exec(call, number)?;
    out.set(call.graphs.execs.get(exec).ok_or(Error::INVALID_VALUE)?.flags)
}

fn update1(call: &mut Call, number: u64, graph: u64, node: Out<u64>, result: Out<u32>) -> Answer {
    let (info, answer) = updated(call, number, graph)?;
    node.set_if(info.node);
    result.set_if(info.result);
    answer
}

fn update(call: &mut Call, number: u64, graph: u64, out: Out<UpdateResult>) -> Answer {
    let (info, answer) = updated(call, number, graph)?;
    out.set(info)?;
    answer
}

/// Makes an executable graph do what a graph does now: what is said of that, and what the call answers.
fn updated(call: &mut Call, number: u64, from: u64) -> Answer<(UpdateResult, Answer)> {
    let exec = exec(call, number)?;
    let graph = graph(call, from)?;
    let new = call.graphs.steps(graph).ok_or(Error::INVALID_VALUE)?;
    let exec = call.graphs.execs.get_mut(exec).ok_or(Error::INVALID_VALUE)?;
    Ok(match graph::update(&exec.nodes, &new) {
        Ok(nodes) => {
            exec.nodes = nodes;
            (UpdateResult::default(), Ok(()))
        }
        Err(graph::Mismatch { result, node, from }) => {
            (UpdateResult { result, node, from, ..UpdateResult::default() }, Err(Error::GRAPH_EXEC_UPDATE_FAILURE))
        }
    })
}

/// The node of an executable graph that was made of a node.
fn step(call: &mut Call, number: u64, of: u64) -> Answer<&mut Step> {
    let exec = exec(call, number)?;
    node(call, of)?;
    let exec = call.graphs.execs.get_mut(exec).ok_or(Error::INVALID_VALUE)?;
    step_mut(&mut exec.nodes, of).ok_or(Error::INVALID_VALUE)
}

/// Lets a node do something else from the next launch on.
fn set(call: &mut Call, number: u64, of: u64, what: What) -> Answer {
    let step = step(call, number, of)?;
    match &mut step.what {
        StepWhat::Single(have) if have.kind() == what.kind() && changeable(have, &what) => {
            *have = params::keep_attributes(what, have);
            Ok(())
        }
        _ => Err(Error::INVALID_VALUE),
    }
}

fn set_any(call: &mut Call, number: u64, of: u64, params: Raw) -> Answer {
    match params::any(call, params)? {
        What::Graph(inner) => set_child(call, number, of, inner.number()),
        what => set(call, number, of, what),
    }
}

fn set_kernel1(call: &mut Call, number: u64, of: u64, params: In<Kernel1>) -> Answer {
    let what = params::kernel1(call, params)?;
    set(call, number, of, what)
}

fn set_kernel2(call: &mut Call, number: u64, of: u64, params: In<Kernel2>) -> Answer {
    let what = params::kernel2(call, params)?;
    set(call, number, of, what)
}

fn set_copy(call: &mut Call, number: u64, of: u64, params: In<Copy3>, _: u64) -> Answer {
    let what = params::copy(call, params)?;
    set(call, number, of, what)
}

fn set_fill(call: &mut Call, number: u64, of: u64, params: In<Fill1>, _: u64) -> Answer {
    let what = params::fill(call, params)?;
    set(call, number, of, what)
}

fn set_host(call: &mut Call, number: u64, of: u64, params: In<Host>) -> Answer {
    set(call, number, of, params::host(params)?)
}

fn set_child(call: &mut Call, number: u64, of: u64, inner: u64) -> Answer {
    let inner = graph(call, inner)?;
    let new = call.graphs.steps(inner).ok_or(Error::INVALID_VALUE)?;
    match &mut step(call, number, of)?.what {
        StepWhat::Graph(have) => {
            *have = graph::update(have, &new).map_err(|_| Error::INVALID_VALUE)?;
            Ok(())
        }
        StepWhat::Single(_) => Err(Error::INVALID_VALUE),
    }
}

fn set_record(call: &mut Call, number: u64, of: u64, event: u64) -> Answer {
    let event = call.handle(|d| &d.events, event)?;
    set(call, number, of, What::Record(event))
}

fn set_wait(call: &mut Call, number: u64, of: u64, event: u64) -> Answer {
    let event = call.handle(|d| &d.events, event)?;
    set(call, number, of, What::Wait(event))
}

fn set_batch(call: &mut Call, number: u64, of: u64, params: In<Batch>) -> Answer {
    let what = params::batch(call, params)?;
    set(call, number, of, what)
}

/// Nodes that can be switched off: kernels, copies and fills.
fn switchable(call: &mut Call, number: u64, of: u64) -> Answer<&mut Step> {
    let step = step(call, number, of)?;
    let StepWhat::Single(what) = &step.what else { return Err(Error::INVALID_VALUE) };
    if [kind::KERNEL, kind::COPY, kind::FILL].contains(&what.kind()) { Ok(step) } else { Err(Error::INVALID_VALUE) }
}

fn set_enabled(call: &mut Call, number: u64, of: u64, enabled: u32) -> Answer {
    switchable(call, number, of)?.enabled = enabled != 0;
    Ok(())
}

fn get_enabled(call: &mut Call, number: u64, of: u64, out: Out<u32>) -> Answer {
    out.set(u32::from(switchable(call, number, of)?.enabled))
}
