//! Graphs: making, copying and destroying them, their edges, and what they consist of.

use crate::abi::{In, Out, Raw, Text};
use crate::call::{Call, exports};
use crate::dag::{Dependency, EdgeData};
use crate::error::{Answer, Error};
use crate::graph::{At, Graph, Node, Objects, What};
use crate::operation::Operation;
use crate::slots::Handle;

exports! {
    Device {
        cuGraphCreate @10000 (phGraph: Out<u64>, flags: u32) = create;
        cuGraphDestroy @10000 (hGraph: u64) = destroy;
        cuGraphClone @10000 (phGraphClone: Out<u64>, originalGraph: u64) = clone;
        cuGraphNodeFindInClone @10000 (phNode: Out<u64>, hOriginalNode: u64, hClonedGraph: u64) = find_in_clone;
        cuGraphDestroyNode @10000 (hNode: u64) = destroy_node;
        cuGraphNodeGetType @10000 (hNode: u64, kind: Out<u32>) = node_type;
        cuGraphGetNodes @10000 (hGraph: u64, nodes: Out<u64>, numNodes: Out<usize>) = nodes;
        cuGraphGetRootNodes @10000 (hGraph: u64, rootNodes: Out<u64>, numRootNodes: Out<usize>) = roots;
        cuGraphGetEdges @10000 (hGraph: u64, from: Out<u64>, to: Out<u64>, numEdges: Out<usize>) = edges1;
        cuGraphGetEdges_v2 @12030 (hGraph: u64, from: Out<u64>, to: Out<u64>, edgeData: Out<[u8; 8]>, numEdges: Out<usize>) = edges;
        cuGraphNodeGetDependencies @10000 (hNode: u64, dependencies: Out<u64>, numDependencies: Out<usize>) = before1;
        cuGraphNodeGetDependencies_v2 @12030 (hNode: u64, dependencies: Out<u64>, edgeData: Out<[u8; 8]>, numDependencies: Out<usize>) = before;
        cuGraphNodeGetDependentNodes @10000 (hNode: u64, dependentNodes: Out<u64>, numDependentNodes: Out<usize>) = after1;
        cuGraphNodeGetDependentNodes_v2 @12030 (hNode: u64, dependentNodes: Out<u64>, edgeData: Out<[u8; 8]>, numDependentNodes: Out<usize>) = after;
        cuGraphAddDependencies @10000 (hGraph: u64, from: In<u64>, to: In<u64>, numDependencies: usize) = connect1;
        cuGraphAddDependencies_v2 @12030 (hGraph: u64, from: In<u64>, to: In<u64>, edgeData: In<[u8; 8]>, numDependencies: usize) = connect;
        cuGraphRemoveDependencies @10000 (hGraph: u64, from: In<u64>, to: In<u64>, numDependencies: usize) = disconnect1;
        cuGraphRemoveDependencies_v2 @12030 (hGraph: u64, from: In<u64>, to: In<u64>, edgeData: In<[u8; 8]>, numDependencies: usize) = disconnect;
        cuGraphChildGraphNodeGetGraph @10000 (hNode: u64, phGraph: Out<u64>) = child_graph;
        cuGraphDebugDotPrint @11030 (hGraph: u64, path: Text, flags: u32) = draw;
    }
}

/// An edge as C passes it: two ports, a type, and what has to be zero.
type EdgeBytes = [u8; 8];

/// The graph of a handle.
pub(super) fn graph(call: &mut Call, number: u64) -> Answer<Handle<Graph>> {
    call.handle(|d| &d.graphs.graphs, number)
}

/// The node of a handle.
pub(super) fn node(call: &mut Call, number: u64) -> Answer<Handle<At>> {
    call.handle(|d| &d.graphs.nodes, number)
}

/// Nodes that something comes after, and how. Edges can be programmatic only where `to` is a kernel.
pub(super) fn dependencies(
    call: &mut Call,
    graph: Handle<Graph>,
    nodes: In<u64>,
    data: In<EdgeBytes>,
    count: usize,
    to: Option<&What>,
) -> Answer<Vec<Dependency>> {
    let mut found = Vec::new();
    for i in 0..count {
        let from = member(call, graph, nodes.at(i)?)?;
        let data = if data.is_null() { [0; 8] } else { data.at(i)? };
        found.push((
            from.number(),
            edge_data(call, from, data, to.is_none_or(|w| w.kind() == crate::graph::kind::KERNEL))?,
        ));
    }
    Ok(found)
}

/// A node that has to be in a graph.
fn member(call: &mut Call, graph: Handle<Graph>, number: u64) -> Answer<Handle<At>> {
    let node = node(call, number).map_err(|_| Error::INVALID_VALUE)?;
    match call.graphs.nodes.get(node) {
        Some(at) if at.0 == graph => Ok(node),
        _ => Err(Error::INVALID_VALUE),
    }
}

/// What the bytes of an edge mean.
fn edge_data(call: &mut Call, from: Handle<At>, bytes: EdgeBytes, to_kernel: bool) -> Answer<EdgeData> {
    let [from_port, to_port, kind, reserved @ ..] = bytes;
    let data = EdgeData { from_port, to_port, kind };
    let kernels = to_kernel && call.graphs.node(from).is_some_and(|n| n.kernel().is_some());
    match (from_port, to_port, kind) {
        _ if reserved != [0; 5] => Err(Error::INVALID_VALUE),
        (0, 0, 0) => Ok(data),
        (1, 0, 1) if kernels => Ok(data),
        // The port that opens when all blocks have begun.
        (2, 0, 1) if kernels => Err(call.unsupported("an edge from the port of the launch order")),
        _ => Err(Error::INVALID_VALUE),
    }
}

fn create(call: &mut Call, out: Out<u64>, flags: u32) -> Answer {
    if flags != 0 || out.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    let from = call.export.name;
    let graph = call.graphs.create(from);
    out.set(graph.number())
}

/// A graph that may be destroyed or changed as a whole: neither within a node nor of a capture.
fn whole(call: &mut Call, number: u64) -> Answer<Handle<Graph>> {
    let graph = graph(call, number)?;
    let within = call.graphs.graphs.get(graph).is_some_and(|g| g.owner.is_some());
    if within || call.graphs.captures.fills(number) {
        return Err(Error::INVALID_VALUE);
    }
    Ok(graph)
}

fn destroy(call: &mut Call, number: u64) -> Answer {
    let graph = whole(call, number)?;
    let objects = call.graphs.destroy(graph);
    super::object::release(call, objects, None)
}

fn clone(call: &mut Call, out: Out<u64>, original: u64) -> Answer {
    let original = graph(call, original)?;
    let from = call.export.name;
    let copy = call.graphs.copy(original, from).ok_or(Error::INVALID_VALUE)?;
    out.set(copy.number())
}

fn find_in_clone(call: &mut Call, out: Out<u64>, original: u64, clone: u64) -> Answer {
    let clone = graph(call, clone)?;
    let copies = call.graphs.graphs.get(clone).map(|g| &g.copies);
    let found = copies.and_then(|c| c.iter().find(|(_, old)| **old == original)).map(|(&new, _)| new);
    out.set(found.ok_or(Error::INVALID_VALUE)?)
}

fn destroy_node(call: &mut Call, number: u64) -> Answer {
    let node = node(call, number)?;
    let objects: Vec<Objects> = call.graphs.remove(node);
    super::object::release(call, objects, None)
}

fn node_type(call: &mut Call, number: u64, out: Out<u32>) -> Answer {
    let node = node(call, number)?;
    out.set(call.graphs.node(node).ok_or(Error::INVALID_VALUE)?.what.kind())
}

/// Fills arrays of `count` elements, as many as there are, and says how many; without arrays says how many there are.
fn list<const N: usize>(outs: [Out<u64>; N], count: Out<usize>, rows: &[[u64; N]]) -> Answer {
    if outs.iter().all(|out| out.is_null()) {
        return count.set(rows.len());
    }
    let room = count.get()?;
    for i in 0..room {
        // Elements beyond the last are null, but an array that is larger by far is not believed.
        if i >= rows.len().saturating_add(1 << 16) {
            break;
        }
        let row = rows.get(i).copied().unwrap_or([0; N]);
        outs.iter().zip(row).try_for_each(|(out, value)| out.at(i, value))?;
    }
    count.set(room.min(rows.len()))
}

/// Writes the data of edges; without a place for it, they all have to be plain.
fn list_data(out: Out<EdgeBytes>, room: usize, data: impl Iterator<Item = EdgeData>) -> Answer {
    for (i, data) in data.take(room).enumerate() {
        if !out.is_null() {
            out.at(i, data.bytes())?;
        } else if !data.is_default() {
            return Err(Error::LOSSY_QUERY);
        }
    }
    Ok(())
}

fn nodes(call: &mut Call, number: u64, out: Out<u64>, count: Out<usize>) -> Answer {
    let graph = graph(call, number)?;
    let graph = call.graphs.graphs.get(graph).ok_or(Error::INVALID_VALUE)?;
    list([out], count, &graph.nodes.ids().map(|id| [id]).collect::<Vec<_>>())
}

fn roots(call: &mut Call, number: u64, out: Out<u64>, count: Out<usize>) -> Answer {
    let graph = graph(call, number)?;
    let graph = call.graphs.graphs.get(graph).ok_or(Error::INVALID_VALUE)?;
    list([out], count, &graph.nodes.roots().map(|id| [id]).collect::<Vec<_>>())
}

fn edges1(call: &mut Call, number: u64, from: Out<u64>, to: Out<u64>, count: Out<usize>) -> Answer {
    edges(call, number, from, to, Raw::null().output(), count)
}

fn edges(
    call: &mut Call,
    number: u64,
    from: Out<u64>,
    to: Out<u64>,
    data: Out<EdgeBytes>,
    count: Out<usize>,
) -> Answer {
    let graph = graph(call, number)?;
    let graph = call.graphs.graphs.get(graph).ok_or(Error::INVALID_VALUE)?;
    if from.is_null() != to.is_null() || from.is_null() && !data.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    if !from.is_null() {
        list_data(data, count.get()?, graph.nodes.edges().map(|e| e.2))?;
    }
    list([from, to], count, &graph.nodes.edges().map(|(from, to, _)| [from, to]).collect::<Vec<_>>())
}

/// Lists what a node is connected to.
fn neighbours(found: &[Dependency], out: Out<u64>, data: Out<EdgeBytes>, count: Out<usize>) -> Answer {
    if out.is_null() && !data.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    if !out.is_null() {
        list_data(data, count.get()?, found.iter().map(|d| d.1))?;
    }
    list([out], count, &found.iter().map(|d| [d.0]).collect::<Vec<_>>())
}

fn before1(call: &mut Call, number: u64, out: Out<u64>, count: Out<usize>) -> Answer {
    before(call, number, out, Raw::null().output(), count)
}

fn before(call: &mut Call, number: u64, out: Out<u64>, data: Out<EdgeBytes>, count: Out<usize>) -> Answer {
    let graph = graph_of(call, number)?;
    neighbours(graph.nodes.before(number), out, data, count)
}

fn after1(call: &mut Call, number: u64, out: Out<u64>, count: Out<usize>) -> Answer {
    after(call, number, out, Raw::null().output(), count)
}

fn after(call: &mut Call, number: u64, out: Out<u64>, data: Out<EdgeBytes>, count: Out<usize>) -> Answer {
    let graph = graph_of(call, number)?;
    neighbours(&graph.nodes.after(number), out, data, count)
}

/// The graph that has a node.
fn graph_of(call: &mut Call, number: u64) -> Answer<&Graph> {
    let node = node(call, number)?;
    let at = call.graphs.nodes.get(node).ok_or(Error::INVALID_VALUE)?.0;
    call.graphs.graphs.get(at).ok_or(Error::INVALID_VALUE)
}

/// Edges of two arrays of nodes and one of data.
fn pairs(
    call: &mut Call,
    graph: Handle<Graph>,
    from: In<u64>,
    to: In<u64>,
    data: In<EdgeBytes>,
    count: usize,
) -> Answer<Vec<(u64, u64, EdgeData)>> {
    let mut edges = Vec::new();
    for i in 0..count {
        let (from, to) = (member(call, graph, from.at(i)?)?, member(call, graph, to.at(i)?)?);
        let bytes = if data.is_null() { [0; 8] } else { data.at(i)? };
        let kernel = call.graphs.node(to).is_some_and(|n| n.kernel().is_some());
        edges.push((from.number(), to.number(), edge_data(call, from, bytes, kernel)?));
    }
    Ok(edges)
}

fn connect1(call: &mut Call, number: u64, from: In<u64>, to: In<u64>, count: usize) -> Answer {
    connect(call, number, from, to, Raw::null().input(), count)
}

fn connect(call: &mut Call, number: u64, from: In<u64>, to: In<u64>, data: In<EdgeBytes>, count: usize) -> Answer {
    let graph = graph(call, number)?;
    let edges = pairs(call, graph, from, to, data, count)?;
    let graph = call.graphs.graphs.get_mut(graph).ok_or(Error::INVALID_VALUE)?;
    graph.nodes.connect(&edges).map_err(|_| Error::INVALID_VALUE)
}

fn disconnect1(call: &mut Call, number: u64, from: In<u64>, to: In<u64>, count: usize) -> Answer {
    disconnect(call, number, from, to, Raw::null().input(), count)
}

fn disconnect(call: &mut Call, number: u64, from: In<u64>, to: In<u64>, data: In<EdgeBytes>, count: usize) -> Answer {
    let graph = graph(call, number)?;
    let edges = pairs(call, graph, from, to, data, count)?;
    let graph = call.graphs.graphs.get_mut(graph).ok_or(Error::INVALID_VALUE)?;
    graph.nodes.disconnect(&edges).map_err(|_| Error::INVALID_VALUE)
}

fn child_graph(call: &mut Call, number: u64, out: Out<u64>) -> Answer {
    let node = node(call, number)?;
    match call.graphs.node(node).map(|n| &n.what) {
        Some(What::Graph(inner)) => out.set(inner.number()),
        _ => Err(Error::INVALID_VALUE),
    }
}

fn draw(call: &mut Call, number: u64, path: Text, _flags: u32) -> Answer {
    let graph = graph(call, number)?;
    let name = |node: &Node| match &node.what {
        What::Operation(Operation::Kernel(kernel)) => {
            let function = call.functions.get(kernel.function).map(|f| f.name.to_string_lossy());
            format!("{} {:?} {:?}", function.as_deref().unwrap_or("unloaded"), kernel.grid, kernel.block)
        }
        what => what.name().to_owned(),
    };
    let text = call.graphs.draw(graph, name);
    std::fs::write(path.string()?, text).map_err(|_| Error::OPERATING_SYSTEM)
}
