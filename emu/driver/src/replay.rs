//! Executable graphs become operations of the emulator: each launch asks for every node anew, after what its edges say, and
//! ends with one operation that comes after all of them. Invariant: launches of one executable graph do not overlap.

use crate::call::Call;
use crate::dag::{Dag, EdgeData};
use crate::error::{Answer, Error};
use crate::graph::{Exec, Step, StepWhat, What};
use crate::operation::Operation;
use crate::progress;
use crate::slots::Handle;
use crate::state::{Context, Record, Stream};
use crate::stream;
use crate::submit;
use crate::work::Then;
use emu::{After, Edge, Op};
use std::collections::BTreeMap;

/// Launches an executable graph in a stream.
///
/// # Errors
/// What is wrong with a node; those before it are launched then.
pub(crate) fn launch(call: &mut Call, exec: Handle<Exec>, stream: Handle<Stream>) -> Answer {
    let context = call.streams.get(stream).ok_or(Error::INVALID_HANDLE)?.context;
    let mut entry = stream::before(call, stream)?;
    let this = call.graphs.execs.get_mut(exec).ok_or(Error::INVALID_HANDLE)?;
    entry.extend(this.last.map(|op| After { op, edge: Edge::Full }));
    let steps = std::mem::take(&mut this.nodes);
    let place = stream::describe(call, stream);
    let mut replay = Replay { call, context, place };
    let end = replay.all(&steps, &entry).and_then(|ends| replay.join(&ends));
    let this = call.graphs.execs.get_mut(exec).ok_or(Error::INVALID_HANDLE)?;
    this.nodes = steps;
    this.last = Some(end?);
    stream::set_tail(call, stream, end?, false);
    progress::relieve(call)
}

struct Replay<'a> {
    call: &'a mut Call,
    context: Handle<Context>,
    /// The stream, for messages.
    place: String,
}

impl Replay<'_> {
    /// Asks for all nodes of a graph, whose first come after `entry`; what comes after the graph comes after these.
    fn all(&mut self, steps: &Dag<Step>, entry: &[After]) -> Answer<Vec<After>> {
        let mut ops: BTreeMap<u64, Op> = BTreeMap::new();
        let mut ends = Vec::new();
        for id in steps.sorted() {
            let Some(step) = steps.get(id) else { continue };
            let after = |&(from, data): &(u64, EdgeData)| {
                let edge = if data.is_default() { Edge::Full } else { Edge::Programmatic };
                ops.get(&from).map(|&op| After { op, edge })
            };
            let before = steps.before(id);
            let after: Vec<After> =
                if before.is_empty() { entry.to_vec() } else { before.iter().filter_map(after).collect() };
            let op = self.step(id, step, after)?;
            ops.insert(id, op);
            if steps.is_leaf(id) {
                ends.push(After { op, edge: Edge::Full });
            }
        }
        Ok(if ends.is_empty() { entry.to_vec() } else { ends })
    }

    /// Asks for one node.
    fn step(&mut self, id: u64, step: &Step, mut after: Vec<After>) -> Answer<Op> {
        let what = match &step.what {
            StepWhat::Graph(inner) => {
                let ends = self.all(inner, &after)?;
                return self.join(&ends);
            }
            StepWhat::Single(what) => what,
        };
        let label = format!("{}, {} node {id:#x}, on {}", self.call.export.name, what.name(), self.place);
        match what {
            _ if !step.enabled => self.submit(&Operation::Nothing, &after, &label, Then::Nothing),
            What::Operation(operation) => {
                if let Operation::Kernel(kernel) = operation {
                    self.call.handle(|d| &d.functions, kernel.function.number())?;
                }
                let refused = submit::refuse(self.call, operation);
                let named = refused.map_err(|(error, words)| (error, words.map(|w| format!("node {id:#x}: {w}"))));
                self.call.refuse(named)?;
                self.submit(operation, &after, &label, Then::Nothing)
            }
            &What::Wait(event) => {
                let event = self.call.handle(|d| &d.events, event.number())?;
                let record = self.call.events.get(event).and_then(|e| e.record);
                after.extend(record.map(|r| After { op: r.op, edge: Edge::Full }));
                self.submit(&Operation::Nothing, &after, &label, Then::Nothing)
            }
            &What::Record(event) => {
                let event = self.call.handle(|d| &d.events, event.number())?;
                let op = self.submit(&Operation::Nothing, &after, &label, Then::Event(event))?;
                self.call.graphs.captures.forget_event(event.number());
                if let Some(event) = self.call.events.get_mut(event) {
                    event.record = Some(Record { op, at: None });
                }
                Ok(op)
            }
            // Executable graphs keep what is within a node, not its handle.
            What::Graph(_) => Err(Error::INVALID_VALUE),
        }
    }

    /// One operation after all of these.
    fn join(&mut self, ends: &[After]) -> Answer<Op> {
        let label = format!("{} on {}", self.call.export.name, self.place);
        self.submit(&Operation::Nothing, ends, &label, Then::Nothing)
    }

    fn submit(&mut self, operation: &Operation, after: &[After], label: &str, then: Then) -> Answer<Op> {
        submit::submit(self.call, self.context, operation, after, label, then)
    }
}
