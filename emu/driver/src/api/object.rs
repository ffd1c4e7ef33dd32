//! User objects: what of the program lives as long as graphs refer to it. The function that destroys one runs when the last
//! reference is gone, outside of any call.

use super::graph::graph;
use crate::abi::Out;
use crate::call::{Call, exports};
use crate::error::{Answer, Error};
use crate::graph::{Object, Objects};
use crate::operation::Operation;
use crate::slots::Handle;
use crate::submit;
use crate::work::Then;

exports! {
    Device {
        cuUserObjectCreate @11030 (object_out: Out<u64>, ptr: u64, destroy: u64, initialRefcount: u32, flags: u32) = create;
        cuUserObjectRetain @11030 (object: u64, count: u32) = retain;
        cuUserObjectRelease @11030 (object: u64, count: u32) = release_own;
        cuGraphRetainUserObject @11030 (graph: u64, object: u64, count: u32, flags: u32) = graph_retain;
        cuGraphReleaseUserObject @11030 (graph: u64, object: u64, count: u32) = graph_release;
    }
}

/// The only flag of an object, which has to be given: its destruction is not waited for.
const NO_DESTRUCTOR_SYNC: u32 = 1;
/// A graph takes over references of the program.
const MOVE: u32 = 1;
/// References, at most.
const MOST: u32 = i32::MAX as u32;

fn object(call: &mut Call, number: u64, count: u32) -> Answer<Handle<Object>> {
    if count == 0 || count > MOST {
        return Err(Error::INVALID_VALUE);
    }
    call.handle(|d| &d.graphs.objects, number)
}

fn create(call: &mut Call, out: Out<u64>, address: u64, destroy: u64, count: u32, flags: u32) -> Answer {
    if out.is_null() || destroy == 0 || count == 0 || count > MOST || flags != NO_DESTRUCTOR_SYNC {
        return Err(Error::INVALID_VALUE);
    }
    let (address, destroy) = (address as usize, destroy as usize);
    let object = call.graphs.objects.insert(Object { address, destroy, references: u64::from(count) });
    out.set(object.number())
}

fn retain(call: &mut Call, number: u64, count: u32) -> Answer {
    object(call, number, count)?;
    call.graphs.refer(number, u64::from(count));
    Ok(())
}

fn release_own(call: &mut Call, number: u64, count: u32) -> Answer {
    object(call, number, count)?;
    release(call, vec![Objects::from([(number, u64::from(count))])], None)
}

fn graph_retain(call: &mut Call, number: u64, of: u64, count: u32, flags: u32) -> Answer {
    let graph = graph(call, number)?;
    object(call, of, count)?;
    match flags {
        0 => call.graphs.refer(of, u64::from(count)),
        MOVE => {}
        _ => return Err(Error::INVALID_VALUE),
    }
    let graph = call.graphs.graphs.get_mut(graph).ok_or(Error::INVALID_VALUE)?;
    *graph.objects.entry(of).or_default() += u64::from(count);
    Ok(())
}

fn graph_release(call: &mut Call, number: u64, of: u64, count: u32) -> Answer {
    let graph = graph(call, number)?;
    object(call, of, count)?;
    let count = u64::from(count);
    let graph = call.graphs.graphs.get_mut(graph).ok_or(Error::INVALID_VALUE)?;
    let have = graph.objects.get_mut(&of).filter(|have| **have >= count).ok_or(Error::INVALID_VALUE)?;
    *have -= count;
    graph.objects.retain(|_, have| *have > 0);
    release(call, vec![Objects::from([(of, count)])], None)
}

/// Gives up references, once an operation has ended.
pub(super) fn release(call: &mut Call, objects: Vec<Objects>, after: Option<emu::Op>) -> Answer {
    for (number, count) in objects.into_iter().flatten() {
        let Ok(handle) = call.graphs.objects.find(number) else { continue };
        let Some(object) = call.graphs.objects.get_mut(handle) else { continue };
        if object.references < count {
            let words = format!("{count} references of {handle:?} are released, and there are {}", object.references);
            return Err(call.finding(&words, Error::INVALID_VALUE));
        }
        object.references -= count;
        if object.references > 0 {
            continue;
        }
        let Some(Object { address, destroy, .. }) = call.graphs.objects.remove(handle) else { continue };
        // Without a context nothing can have been launched that uses it, but somebody has to run the function.
        let context = call.contexts.iter().map(|(handle, _)| handle).next().ok_or(Error::INVALID_CONTEXT)?;
        let after: Vec<emu::After> = after.map(|op| emu::After { op, edge: emu::Edge::Full }).into_iter().collect();
        let function = Operation::Host { function: destroy, data: address };
        let label = format!("the destruction of {handle:?}");
        submit::submit(call, context, &function, &after, &label, Then::Nothing)?;
        crate::progress::relieve(call)?;
    }
    Ok(())
}
