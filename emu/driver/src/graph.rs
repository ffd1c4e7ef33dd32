//! Graphs as data: nodes of operations, events and other graphs, and executable copies of them. A node is known by its handle
//! alone, an executable graph by the handles of the nodes that it was made of. Invariant: every node of a graph is in
//! [`Graphs::nodes`], and each graph within a node belongs to that node alone. `api/graph` is what programs call,
//! `replay.rs` hands an executable graph to the emulator.

use crate::capture::Captures;
use crate::dag::{Dag, Dependency, EdgeData};
use crate::objects::Event;
use crate::operation::{Kernel, Operation};
use crate::slots::{Handle, Kind, Slots};
use std::collections::BTreeMap;
use std::fmt::Write;

/// A graph.
#[derive(Debug)]
pub(crate) struct Graph {
    pub(crate) nodes: Dag<Node>,
    /// The node that it is part of.
    pub(crate) owner: Option<Handle<At>>,
    /// The node of the graph that this is a copy of, for each of its nodes.
    pub(crate) copies: BTreeMap<u64, u64>,
    pub(crate) objects: Objects,
    /// The call that made it.
    pub(crate) from: &'static str,
}

impl Kind for Graph {
    const TAG: u8 = 0x31;
    const NAME: &'static str = "graph";
}

/// Where a node is: what its handle stands for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At(pub(crate) Handle<Graph>);

impl Kind for At {
    const TAG: u8 = 0x32;
    const NAME: &'static str = "node of a graph";
}

/// An executable graph: what a graph was when it was instantiated, and what has been changed since.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) nodes: Dag<Step>,
    pub(crate) flags: u64,
    /// Where its last launch ends.
    pub(crate) last: Option<emu::Op>,
    pub(crate) objects: Objects,
}

impl Kind for Exec {
    const TAG: u8 = 0x33;
    const NAME: &'static str = "executable graph";
}

/// Something of the program that lives as long as it is referred to.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) address: usize,
    /// The function that destroys it.
    pub(crate) destroy: usize,
    pub(crate) references: u64,
}

impl Kind for Object {
    const TAG: u8 = 0x34;
    const NAME: &'static str = "user object";
}

/// References to objects, by their handles.
pub(crate) type Objects = BTreeMap<u64, u64>;

/// What a node does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum What {
    Operation(Operation),
    Graph(Handle<Graph>),
    Wait(Handle<Event>),
    Record(Handle<Event>),
}

/// A node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) what: What,
    /// Attributes of a kernel that have been set, by number.
    pub(crate) attributes: BTreeMap<u32, [u8; 64]>,
    /// What the program has been given pointers to.
    pub(crate) kept: Kept,
}

/// Memory that pointers given to the program point to, until the node changes.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    words: Vec<u64>,
    bytes: Vec<u8>,
}

impl Kept {
    /// Words, as an array.
    pub(crate) fn words(words: Vec<u64>) -> Kept {
        Kept { words, bytes: Vec::new() }
    }

    /// Bytes, as an array of pointers to some of them.
    pub(crate) fn pointers(bytes: Vec<u8>, offsets: impl Iterator<Item = u64>) -> Kept {
        let mut kept = Kept { words: Vec::new(), bytes };
        let base = kept.bytes.as_ptr().expose_provenance() as u64;
        kept.words = offsets.map(|offset| base + offset).collect();
        kept
    }

    /// Where the array is, which stays where it is when this moves.
    pub(crate) fn address(&self) -> u64 {
        self.words.as_ptr().expose_provenance() as u64
    }
}

impl Node {
    pub(crate) fn new(what: What) -> Node {
        Node { what, attributes: BTreeMap::new(), kept: Kept::default() }
    }

    /// The kernel that it launches.
    pub(crate) fn kernel(&self) -> Option<&Kernel> {
        match &self.what {
            What::Operation(Operation::Kernel(kernel)) => Some(kernel),
            _ => None,
        }
    }
}

/// A node of an executable graph.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) what: StepWhat,
    pub(crate) enabled: bool,
}

/// What a node of an executable graph does.
#[derive(Debug, Clone)]
pub(crate) enum StepWhat {
    /// Not a graph.
    Single(What),
    Graph(Dag<Step>),
}

/// Numbers of `CUgraphNodeType`.
pub(crate) mod kind {
    pub(crate) const KERNEL: u32 = 0;
    pub(crate) const COPY: u32 = 1;
    pub(crate) const FILL: u32 = 2;
    pub(crate) const HOST: u32 = 3;
    pub(crate) const GRAPH: u32 = 4;
    pub(crate) const EMPTY: u32 = 5;
    pub(crate) const WAIT: u32 = 6;
    pub(crate) const RECORD: u32 = 7;
    pub(crate) const ALLOCATE: u32 = 10;
    pub(crate) const FREE: u32 = 11;
    pub(crate) const VALUES: u32 = 12;
}

impl What {
    /// The number of `CUgraphNodeType`.
    pub(crate) fn kind(&self) -> u32 {
        match self {
            What::Operation(Operation::Kernel(_)) => kind::KERNEL,
            What::Operation(Operation::Copy(_)) => kind::COPY,
            What::Operation(Operation::Fill(_)) => kind::FILL,
            What::Operation(Operation::Host { .. }) => kind::HOST,
            What::Operation(Operation::Nothing) => kind::EMPTY,
            What::Operation(Operation::Values(_)) => kind::VALUES,
            What::Operation(Operation::Allocate(_)) => kind::ALLOCATE,
            What::Operation(Operation::Free(_)) => kind::FREE,
            What::Graph(_) => kind::GRAPH,
            What::Wait(_) => kind::WAIT,
            What::Record(_) => kind::RECORD,
        }
    }

    /// In messages and drawings.
    pub(crate) fn name(&self) -> &'static str {
        match self.kind() {
            kind::KERNEL => "kernel",
            kind::COPY => "copy",
            kind::FILL => "fill",
            kind::HOST => "host function",
            kind::GRAPH => "graph",
            kind::EMPTY => "empty",
            kind::WAIT => "event wait",
            kind::RECORD => "event record",
            _ => "values",
        }
    }
}

impl Step {
    /// The number of `CUgraphNodeType`.
    fn kind(&self) -> u32 {
        match &self.what {
            StepWhat::Single(what) => what.kind(),
            StepWhat::Graph(_) => kind::GRAPH,
        }
    }
}

/// All graphs, and what makes them.
#[derive(Debug, Default)]
pub(crate) struct Graphs {
    pub(crate) graphs: Slots<Graph>,
    pub(crate) nodes: Slots<At>,
    pub(crate) execs: Slots<Exec>,
    pub(crate) objects: Slots<Object>,
    pub(crate) captures: Captures,
}

impl Graphs {
    /// A graph without nodes.
    pub(crate) fn create(&mut self, from: &'static str) -> Handle<Graph> {
        let (nodes, copies, objects) = (Dag::default(), BTreeMap::new(), Objects::new());
        self.graphs.insert(Graph { nodes, owner: None, copies, objects, from })
    }

    /// The node of a handle.
    pub(crate) fn node(&self, handle: Handle<At>) -> Option<&Node> {
        self.graphs.get(self.nodes.get(handle)?.0)?.nodes.get(handle.number())
    }

    /// The node of a handle.
    pub(crate) fn node_mut(&mut self, handle: Handle<At>) -> Option<&mut Node> {
        let at = self.nodes.get(handle)?.0;
        self.graphs.get_mut(at)?.nodes.get_mut(handle.number())
    }

    /// A copy of a graph, with all within.
    pub(crate) fn copy(&mut self, graph: Handle<Graph>, from: &'static str) -> Option<Handle<Graph>> {
        let new = self.create(from);
        let nodes = std::mem::take(&mut self.graphs.get_mut(graph)?.nodes);
        let mut copies = BTreeMap::new();
        let made = nodes.map(|old, node| {
            let handle = self.nodes.insert(At(new));
            copies.insert(handle.number(), old);
            let what = match node.what {
                What::Graph(inner) => {
                    let copy = self.copy(inner, from).ok_or(())?;
                    self.own(copy, handle);
                    What::Graph(copy)
                }
                ref what => what.clone(),
            };
            let attributes = node.attributes.clone();
            Ok::<_, ()>((handle.number(), Node { what, attributes, kept: Kept::default() }))
        });
        let old = self.graphs.get_mut(graph)?;
        old.nodes = nodes;
        let objects = old.objects.clone();
        for (object, count) in &objects {
            self.refer(*object, *count);
        }
        let copy = self.graphs.get_mut(new)?;
        (copy.nodes, copy.copies, copy.objects) = (made.ok()?, copies, objects);
        Some(new)
    }

    fn own(&mut self, graph: Handle<Graph>, owner: Handle<At>) {
        if let Some(graph) = self.graphs.get_mut(graph) {
            graph.owner = Some(owner);
        }
    }

    /// Adds a node; `inner` of a graph becomes its own.
    ///
    /// # Errors
    /// If a dependency is not possible.
    pub(crate) fn add(
        &mut self,
        graph: Handle<Graph>,
        node: Node,
        before: &[Dependency],
    ) -> Result<Handle<At>, crate::dag::EdgeError> {
        let handle = self.nodes.insert(At(graph));
        let inner = match node.what {
            What::Graph(inner) => Some(inner),
            _ => None,
        };
        let to = self.graphs.get_mut(graph).ok_or(crate::dag::EdgeError::Unknown);
        match to.and_then(|to| to.nodes.add(handle.number(), node, before)) {
            Ok(()) => {
                if let Some(inner) = inner {
                    self.own(inner, handle);
                }
                Ok(handle)
            }
            Err(e) => {
                self.nodes.remove(handle);
                Err(e)
            }
        }
    }

    /// Removes a node and what is within.
    pub(crate) fn remove(&mut self, handle: Handle<At>) -> Vec<Objects> {
        let Some(At(graph)) = self.nodes.remove(handle) else { return Vec::new() };
        let node = self.graphs.get_mut(graph).and_then(|g| g.nodes.remove(handle.number()));
        match node.map(|n| n.what) {
            Some(What::Graph(inner)) => self.destroy(inner),
            _ => Vec::new(),
        }
    }

    /// Removes a graph and what is within; what it referred to.
    pub(crate) fn destroy(&mut self, graph: Handle<Graph>) -> Vec<Objects> {
        let Some(gone) = self.graphs.remove(graph) else { return Vec::new() };
        let mut objects = vec![gone.objects];
        for (id, node) in gone.nodes.iter() {
            if let Ok(handle) = self.nodes.find(id) {
                self.nodes.remove(handle);
            }
            if let What::Graph(inner) = node.what {
                objects.extend(self.destroy(inner));
            }
        }
        objects
    }

    /// A stream is no more, nor is what it had captured.
    pub(crate) fn forget_stream(&mut self, stream: u64) {
        let left = self.captures.leave(stream).and_then(|graph| self.graphs.find(graph).ok());
        if let Some(graph) = left {
            // Nothing in a graph that only a capture has made refers to an object.
            self.destroy(graph);
        }
    }

    /// What was launched is no more, as the emulator has begun again.
    pub(crate) fn forget_launches(&mut self) {
        self.execs.iter_mut().for_each(|(_, exec)| exec.last = None);
    }

    /// Adds references to an object.
    pub(crate) fn refer(&mut self, object: u64, count: u64) {
        if let Some(object) = self.objects.find(object).ok().and_then(|h| self.objects.get_mut(h)) {
            object.references += count;
        }
    }

    /// What a graph does, as an executable graph keeps it.
    pub(crate) fn steps(&self, graph: Handle<Graph>) -> Option<Dag<Step>> {
        let step = |id, node: &Node| {
            let what = match &node.what {
                What::Graph(inner) => StepWhat::Graph(self.steps(*inner).ok_or(())?),
                what => StepWhat::Single(what.clone()),
            };
            Ok::<_, ()>((id, Step { what, enabled: true }))
        };
        self.graphs.get(graph)?.nodes.map(step).ok()
    }

    /// A new graph that does what an executable one does.
    pub(crate) fn of_exec(&mut self, exec: Handle<Exec>, from: &'static str) -> Option<Handle<Graph>> {
        let steps = self.execs.get(exec)?.nodes.clone();
        Some(self.graph_of(&steps, from))
    }

    fn graph_of(&mut self, steps: &Dag<Step>, from: &'static str) -> Handle<Graph> {
        let graph = self.create(from);
        let made = steps.map(|_, step| {
            let handle = self.nodes.insert(At(graph));
            let what = match &step.what {
                StepWhat::Graph(inner) => {
                    let inner = self.graph_of(inner, from);
                    self.own(inner, handle);
                    What::Graph(inner)
                }
                StepWhat::Single(_) if !step.enabled => What::Operation(Operation::Nothing),
                StepWhat::Single(what) => what.clone(),
            };
            Ok::<_, std::convert::Infallible>((handle.number(), Node::new(what)))
        });
        let Ok(nodes) = made;
        if let Some(graph) = self.graphs.get_mut(graph) {
            graph.nodes = nodes;
        }
        graph
    }

    /// A drawing in the language of Graphviz.
    pub(crate) fn draw(&self, graph: Handle<Graph>, name: impl Fn(&Node) -> String) -> String {
        let mut text = String::from("digraph dot {\n");
        self.draw_into(&mut text, graph, &name);
        text.push_str("}\n");
        text
    }

    fn draw_into(&self, text: &mut String, graph: Handle<Graph>, name: &impl Fn(&Node) -> String) {
        let Some(Graph { nodes, .. }) = self.graphs.get(graph) else { return };
        _ = writeln!(text, "subgraph cluster_{:x} {{\nlabel=\"graph {:#x}\"", graph.number(), graph.number());
        for (id, node) in nodes.iter() {
            let label = name(node).replace(['"', '\\'], "'");
            _ = writeln!(text, "n{id:x} [label=\"{id:#x}\\n{label}\" shape=box]");
            if let What::Graph(inner) = node.what {
                self.draw_into(text, inner, name);
            }
        }
        for (from, to, data) in nodes.edges() {
            let style = if data.is_default() { "" } else { " [style=dashed]" };
            _ = writeln!(text, "n{from:x} -> n{to:x}{style}");
        }
        text.push_str("}\n");
    }
}

/// The node of an executable graph, or of a graph within it, that was made of a node.
pub(crate) fn step_mut(steps: &mut Dag<Step>, node: u64) -> Option<&mut Step> {
    if steps.get(node).is_some() {
        return steps.get_mut(node);
    }
    steps.payloads_mut().find_map(|step| match &mut step.what {
        StepWhat::Graph(inner) => step_mut(inner, node),
        StepWhat::Single(_) => None,
    })
}

/// Why an executable graph cannot become another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// The number of `CUgraphExecUpdateResult`.
    pub(crate) result: u32,
    /// The node of the new graph, 0 for none, and the one that its edge comes from.
    pub(crate) node: u64,
    pub(crate) from: u64,
}

const TOPOLOGY_CHANGED: u32 = 2;
const TYPE_CHANGED: u32 = 3;
const PARAMETERS_CHANGED: u32 = 5;

/// Makes an executable graph do what another does, whose nodes were made in the same order with the same edges. Where it
/// fails nothing is changed.
pub(crate) fn update(steps: &Dag<Step>, new: &Dag<Step>) -> Result<Dag<Step>, Mismatch> {
    let wrong = |result, node, from| Mismatch { result, node, from };
    let twin: BTreeMap<u64, u64> = new.ids().zip(steps.ids()).collect();
    if new.len() != steps.len() {
        let extra = new.ids().nth(steps.len()).unwrap_or(0);
        return Err(wrong(TOPOLOGY_CHANGED, extra, 0));
    }
    for (&node, &old) in &twin {
        let renamed = |d: &Dependency| (twin[&d.0], d.1);
        let mut have: Vec<(u64, EdgeData)> = steps.before(old).to_vec();
        let mut want: Vec<(u64, EdgeData)> = new.before(node).iter().map(renamed).collect();
        have.sort_unstable();
        want.sort_unstable();
        if have != want {
            let from = new.before(node).iter().find(|d| !have.contains(&renamed(d))).map_or(0, |d| d.0);
            return Err(wrong(TOPOLOGY_CHANGED, node, from));
        }
    }
    let mut pairs = new.iter();
    steps.map(|old, have| {
        // Both are in the order of creation.
        let (node, want) = pairs.next().ok_or(wrong(TOPOLOGY_CHANGED, 0, 0))?;
        if have.kind() != want.kind() {
            return Err(wrong(TYPE_CHANGED, node, 0));
        }
        let what = match (&have.what, &want.what) {
            (StepWhat::Graph(have), StepWhat::Graph(want)) => StepWhat::Graph(update(have, want)?),
            (StepWhat::Single(have), StepWhat::Single(want)) if changeable(have, want) => {
                StepWhat::Single(want.clone())
            }
            _ => return Err(wrong(PARAMETERS_CHANGED, node, 0)),
        };
        Ok((old, Step { what, enabled: have.enabled }))
    })
}

/// Whether a node of an executable graph may do something else of the same kind: copies and fills have to be of one
/// dimension, not empty, and between the same kinds of memory.
pub(crate) fn changeable(have: &What, want: &What) -> bool {
    use crate::operation::Memory;
    match (have, want) {
        (What::Operation(Operation::Copy(a)), What::Operation(Operation::Copy(b))) => {
            let host = |m: &Memory| !matches!(m, Memory::Device(_));
            let flat = |c: &crate::operation::Copy| c.rows == 1 && c.slices == 1 && c.width > 0;
            a == b || (flat(a) && flat(b) && host(&a.from.at) == host(&b.from.at) && host(&a.to.at) == host(&b.to.at))
        }
        (What::Operation(Operation::Fill(a)), What::Operation(Operation::Fill(b))) => {
            a == b || (a.rows == 1 && b.rows == 1 && a.count > 0 && b.count > 0)
        }
        (a, b) => a.kind() == b.kind(),
    }
}
