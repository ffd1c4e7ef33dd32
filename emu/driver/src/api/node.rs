//! Nodes of graphs: adding them, and asking for and changing what they do.

use super::copy::Copy3;
use super::graph::{dependencies, graph, node};
use super::params::{self, Batch, Fill1, Host, Kernel1, Kernel2};
use crate::abi::{In, Out, Raw};
use crate::call::{Call, exports};
use crate::error::{Answer, Error};
use crate::graph::{At, Kept, Node, What, kind};
use crate::operation::Operation;
use crate::slots::Handle;

exports! {
    Context {
        cuGraphAddNode @12020 (phGraphNode: Out<u64>, hGraph: u64, dependencies: In<u64>, numDependencies: usize, nodeParams: Raw) = any1;
        cuGraphAddNode_v2 @12030 (phGraphNode: Out<u64>, hGraph: u64, dependencies: In<u64>, dependencyData: In<[u8; 8]>, numDependencies: usize, nodeParams: Raw) = any;
        cuGraphAddKernelNode @10000 (phGraphNode: Out<u64>, hGraph: u64, dependencies: In<u64>, numDependencies: usize, nodeParams: In<Kernel1>) = kernel1;
        cuGraphAddKernelNode_v2 @12000 (phGraphNode: Out<u64>, hGraph: u64, dependencies: In<u64>, numDependencies: usize, nodeParams: In<Kernel2>) = kernel2;
        cuGraphAddMemcpyNode @10000 (phGraphNode: Out<u64>, hGraph: u64, dependencies: In<u64>, numDependencies: usize, copyParams: In<Copy3>, ctx: u64) = copy;
        cuGraphAddMemsetNode @10000 (phGraphNode: Out<u64>, hGraph: u64, dependencies: In<u64>, numDependencies: usize, memsetParams: In<Fill1>, ctx: u64) = fill;
        cuGraphAddHostNode @10000 (phGraphNode: Out<u64>, hGraph: u64, dependencies: In<u64>, numDependencies: usize, nodeParams: In<Host>) = host;
        cuGraphAddChildGraphNode @10000 (phGraphNode: Out<u64>, hGraph: u64, dependencies: In<u64>, numDependencies: usize, childGraph: u64) = child;
        cuGraphAddEmptyNode @10000 (phGraphNode: Out<u64>, hGraph: u64, dependencies: In<u64>, numDependencies: usize) = empty;
        cuGraphAddEventRecordNode @11010 (phGraphNode: Out<u64>, hGraph: u64, dependencies: In<u64>, numDependencies: usize, event: u64) = record;
        cuGraphAddEventWaitNode @11010 (phGraphNode: Out<u64>, hGraph: u64, dependencies: In<u64>, numDependencies: usize, event: u64) = wait;
        cuGraphAddBatchMemOpNode @11070 (phGraphNode: Out<u64>, hGraph: u64, dependencies: In<u64>, numDependencies: usize, nodeParams: In<Batch>) = batch;
        cuGraphNodeSetParams @12020 (hNode: u64, nodeParams: Raw) = set_any;
        cuGraphKernelNodeGetParams @10000 (hNode: u64, nodeParams: Out<Kernel1>) = get_kernel1;
        cuGraphKernelNodeGetParams_v2 @12000 (hNode: u64, nodeParams: Out<Kernel2>) = get_kernel2;
        cuGraphKernelNodeSetParams @10000 (hNode: u64, nodeParams: In<Kernel1>) = set_kernel1;
        cuGraphKernelNodeSetParams_v2 @12000 (hNode: u64, nodeParams: In<Kernel2>) = set_kernel2;
        cuGraphMemcpyNodeGetParams @10000 (hNode: u64, nodeParams: Out<Copy3>) = get_copy;
        cuGraphMemcpyNodeSetParams @10000 (hNode: u64, nodeParams: In<Copy3>) = set_copy;
        cuGraphMemsetNodeGetParams @10000 (hNode: u64, nodeParams: Out<Fill1>) = get_fill;
        cuGraphMemsetNodeSetParams @10000 (hNode: u64, nodeParams: In<Fill1>) = set_fill;
        cuGraphHostNodeGetParams @10000 (hNode: u64, nodeParams: Out<Host>) = get_host;
        cuGraphHostNodeSetParams @10000 (hNode: u64, nodeParams: In<Host>) = set_host;
        cuGraphEventRecordNodeGetEvent @11010 (hNode: u64, event_out: Out<u64>) = get_record;
        cuGraphEventRecordNodeSetEvent @11010 (hNode: u64, event: u64) = set_record;
        cuGraphEventWaitNodeGetEvent @11010 (hNode: u64, event_out: Out<u64>) = get_wait;
        cuGraphEventWaitNodeSetEvent @11010 (hNode: u64, event: u64) = set_wait;
        cuGraphBatchMemOpNodeGetParams @11070 (hNode: u64, nodeParams_out: Out<Batch>) = get_batch;
        cuGraphBatchMemOpNodeSetParams @11070 (hNode: u64, nodeParams: In<Batch>) = set_batch;
        cuGraphKernelNodeCopyAttributes @11000 (dst: u64, src: u64) = copy_attributes;
        cuGraphKernelNodeGetAttribute @11000 (hNode: u64, attr: u32, value_out: Out<[u8; 64]>) = get_attribute;
        cuGraphKernelNodeSetAttribute @11000 (hNode: u64, attr: u32, value: In<[u8; 64]>) = set_attribute;
    }
}

/// Where a new node goes: its handle, its graph, and what it comes after.
struct Place {
    out: Out<u64>,
    graph: u64,
    before: In<u64>,
    count: usize,
    data: In<[u8; 8]>,
}

fn place(out: Out<u64>, graph: u64, before: In<u64>, count: usize) -> Place {
    Place { out, graph, before, count, data: Raw::null().input() }
}

/// Adds a node.
fn add(call: &mut Call, place: Place, what: What) -> Answer {
    let Place { out, graph: number, before, count, data } = place;
    if out.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    let graph = graph(call, number)?;
    let before = dependencies(call, graph, before, data, count, Some(&what))?;
    let what = match what {
        // The graph within is a copy.
        What::Graph(inner) => {
            let from = call.export.name;
            What::Graph(call.graphs.copy(inner, from).ok_or(Error::INVALID_VALUE)?)
        }
        what => what,
    };
    let inner = if let What::Graph(inner) = what { Some(inner) } else { None };
    let added = call.graphs.add(graph, Node::new(what), &before);
    if added.is_err()
        && let Some(inner) = inner
    {
        let objects = call.graphs.destroy(inner);
        super::object::release(call, objects, None)?;
    }
    out.set(added.map_err(|_| Error::INVALID_VALUE)?.number())
}

fn any1(call: &mut Call, out: Out<u64>, graph: u64, before: In<u64>, count: usize, params: Raw) -> Answer {
    any(call, out, graph, before, Raw::null().input(), count, params)
}

fn any(
    call: &mut Call,
    out: Out<u64>,
    graph: u64,
    before: In<u64>,
    data: In<[u8; 8]>,
    count: usize,
    params: Raw,
) -> Answer {
    let what = params::any(call, params)?;
    add(call, Place { out, graph, before, count, data }, what)
}

fn kernel1(call: &mut Call, out: Out<u64>, graph: u64, before: In<u64>, count: usize, params: In<Kernel1>) -> Answer {
    let what = params::kernel1(call, params)?;
    add(call, place(out, graph, before, count), what)
}

fn kernel2(call: &mut Call, out: Out<u64>, graph: u64, before: In<u64>, count: usize, params: In<Kernel2>) -> Answer {
    let what = params::kernel2(call, params)?;
    add(call, place(out, graph, before, count), what)
}

fn copy(
    call: &mut Call,
    out: Out<u64>,
    graph: u64,
    before: In<u64>,
    count: usize,
    params: In<Copy3>,
    _: u64,
) -> Answer {
    let what = params::copy(call, params)?;
    add(call, place(out, graph, before, count), what)
}

fn fill(
    call: &mut Call,
    out: Out<u64>,
    graph: u64,
    before: In<u64>,
    count: usize,
    params: In<Fill1>,
    _: u64,
) -> Answer {
    let what = params::fill(call, params)?;
    add(call, place(out, graph, before, count), what)
}

fn host(call: &mut Call, out: Out<u64>, graph: u64, before: In<u64>, count: usize, params: In<Host>) -> Answer {
    let what = params::host(params)?;
    add(call, place(out, graph, before, count), what)
}

fn child(call: &mut Call, out: Out<u64>, number: u64, before: In<u64>, count: usize, inner: u64) -> Answer {
    let inner = graph(call, inner)?;
    add(call, place(out, number, before, count), What::Graph(inner))
}

fn empty(call: &mut Call, out: Out<u64>, graph: u64, before: In<u64>, count: usize) -> Answer {
    add(call, place(out, graph, before, count), What::Operation(Operation::Nothing))
}

fn record(call: &mut Call, out: Out<u64>, graph: u64, before: In<u64>, count: usize, event: u64) -> Answer {
    let event = call.handle(|d| &d.events, event)?;
    add(call, place(out, graph, before, count), What::Record(event))
}

fn wait(call: &mut Call, out: Out<u64>, graph: u64, before: In<u64>, count: usize, event: u64) -> Answer {
    let event = call.handle(|d| &d.events, event)?;
    add(call, place(out, graph, before, count), What::Wait(event))
}

fn batch(call: &mut Call, out: Out<u64>, graph: u64, before: In<u64>, count: usize, params: In<Batch>) -> Answer {
    let what = params::batch(call, params)?;
    add(call, place(out, graph, before, count), what)
}

/// The node of a handle, which has to be of a kind.
fn of_kind(call: &mut Call, number: u64, wanted: u32) -> Answer<Handle<At>> {
    let node = node(call, number)?;
    let right = call.graphs.node(node).is_some_and(|n| n.what.kind() == wanted);
    if right { Ok(node) } else { Err(Error::INVALID_VALUE) }
}

/// Lets a node do something else of its kind. What the attributes of a kernel say stays.
fn set(call: &mut Call, number: u64, what: What) -> Answer {
    let node = of_kind(call, number, what.kind())?;
    let node = call.graphs.node_mut(node).ok_or(Error::INVALID_VALUE)?;
    node.what = params::with_attributes(what, &node.attributes);
    node.kept = Kept::default();
    Ok(())
}

fn set_any(call: &mut Call, number: u64, params: Raw) -> Answer {
    match params::any(call, params)? {
        What::Graph(_) => Err(call.unsupported("changing the graph within a node")),
        what => set(call, number, what),
    }
}

fn set_kernel1(call: &mut Call, number: u64, params: In<Kernel1>) -> Answer {
    let what = params::kernel1(call, params)?;
    set(call, number, what)
}

fn set_kernel2(call: &mut Call, number: u64, params: In<Kernel2>) -> Answer {
    let what = params::kernel2(call, params)?;
    set(call, number, what)
}

fn set_copy(call: &mut Call, number: u64, params: In<Copy3>) -> Answer {
    let what = params::copy(call, params)?;
    set(call, number, what)
}

fn set_fill(call: &mut Call, number: u64, params: In<Fill1>) -> Answer {
    let what = params::fill(call, params)?;
    set(call, number, what)
}

fn set_host(call: &mut Call, number: u64, params: In<Host>) -> Answer {
    set(call, number, params::host(params)?)
}

fn set_record(call: &mut Call, number: u64, event: u64) -> Answer {
    let event = call.handle(|d| &d.events, event)?;
    set(call, number, What::Record(event))
}

fn set_wait(call: &mut Call, number: u64, event: u64) -> Answer {
    let event = call.handle(|d| &d.events, event)?;
    set(call, number, What::Wait(event))
}

fn set_batch(call: &mut Call, number: u64, params: In<Batch>) -> Answer {
    let what = params::batch(call, params)?;
    set(call, number, what)
}

fn get_kernel1(call: &mut Call, number: u64, out: Out<Kernel1>) -> Answer {
    let node = of_kind(call, number, kind::KERNEL)?;
    out.set(params::kernel_of(call, node)?.first)
}

fn get_kernel2(call: &mut Call, number: u64, out: Out<Kernel2>) -> Answer {
    let node = of_kind(call, number, kind::KERNEL)?;
    out.set(params::kernel_of(call, node)?)
}

fn get_copy(call: &mut Call, number: u64, out: Out<Copy3>) -> Answer {
    match what(call, number)? {
        What::Operation(Operation::Copy(copy)) => out.set(Copy3::of(copy)),
        _ => Err(Error::INVALID_VALUE),
    }
}

fn get_fill(call: &mut Call, number: u64, out: Out<Fill1>) -> Answer {
    match what(call, number)? {
        What::Operation(Operation::Fill(fill)) => out.set(Fill1::of(fill)),
        _ => Err(Error::INVALID_VALUE),
    }
}

fn get_host(call: &mut Call, number: u64, out: Out<Host>) -> Answer {
    match *what(call, number)? {
        What::Operation(Operation::Host { function, data }) => out.set(Host::of(function, data)),
        _ => Err(Error::INVALID_VALUE),
    }
}

fn get_record(call: &mut Call, number: u64, out: Out<u64>) -> Answer {
    match what(call, number)? {
        What::Record(event) => out.set(event.number()),
        _ => Err(Error::INVALID_VALUE),
    }
}

fn get_wait(call: &mut Call, number: u64, out: Out<u64>) -> Answer {
    match what(call, number)? {
        What::Wait(event) => out.set(event.number()),
        _ => Err(Error::INVALID_VALUE),
    }
}

fn get_batch(call: &mut Call, number: u64, out: Out<Batch>) -> Answer {
    let node = of_kind(call, number, kind::VALUES)?;
    out.set(params::batch_of(call, node)?)
}

/// What a node does.
fn what(call: &mut Call, number: u64) -> Answer<&What> {
    let node = node(call, number)?;
    call.graphs.node(node).map(|n| &n.what).ok_or(Error::INVALID_VALUE)
}

fn copy_attributes(call: &mut Call, to: u64, from: u64) -> Answer {
    let (to, from) = (of_kind(call, to, kind::KERNEL)?, of_kind(call, from, kind::KERNEL)?);
    let attributes = call.graphs.node(from).map(|n| n.attributes.clone()).unwrap_or_default();
    let node = call.graphs.node_mut(to).ok_or(Error::INVALID_VALUE)?;
    let what = std::mem::replace(&mut node.what, What::Operation(Operation::Nothing));
    node.what = params::with_attributes(what, &attributes);
    node.attributes = attributes;
    Ok(())
}

fn get_attribute(call: &mut Call, number: u64, attribute: u32, out: Out<[u8; 64]>) -> Answer {
    let node = of_kind(call, number, kind::KERNEL)?;
    let node = call.graphs.node(node).ok_or(Error::INVALID_VALUE)?;
    out.set(params::attribute(node, attribute)?)
}

fn set_attribute(call: &mut Call, number: u64, attribute: u32, value: In<[u8; 64]>) -> Answer {
    let node = of_kind(call, number, kind::KERNEL)?;
    let value = value.get()?;
    params::check_attribute(attribute, &value)?;
    let node = call.graphs.node_mut(node).ok_or(Error::INVALID_VALUE)?;
    node.attributes.insert(attribute, value);
    let what = std::mem::replace(&mut node.what, What::Operation(Operation::Nothing));
    node.what = params::with_attributes(what, &node.attributes);
    Ok(())
}
