//! Streams: made, asked, waited for; functions of the program in them.

use super::context::GREATEST_PRIORITY;
use crate::abi::{In, Out};
use crate::call::{Call, exports};
use crate::error::{Answer, Error};
use crate::operation::Operation;
use crate::progress;
use crate::state::{Order, Stream};
use crate::stream::{self, Request, enqueue};
use crate::submit;
use crate::thread;
use crate::work::{Pending, Then};
use emu::{After, Edge};
use std::ffi::c_void;

exports! {
    Context {
        cuStreamCreate @2000 (phStream: Out<u64>, Flags: u32) = create;
        cuStreamCreateWithPriority @5050 (phStream: Out<u64>, flags: u32, priority: i32) = create_with_priority;
        cuStreamGetPriority @5050 (hStream: u64, priority: Out<i32>) = priority, cuStreamGetPriority_ptsz;
        cuStreamGetFlags @5050 (hStream: u64, flags: Out<u32>) = flags, cuStreamGetFlags_ptsz;
        cuStreamGetId @12000 (hStream: u64, streamId: Out<u64>) = id, cuStreamGetId_ptsz;
        cuStreamGetCtx @9020 (hStream: u64, pctx: Out<u64>) = context, cuStreamGetCtx_ptsz;
        cuStreamGetCtx_v2 @12050 (hStream: u64, pCtx: Out<u64>, pGreenCtx: Out<u64>) = context_or_green, cuStreamGetCtx_v2_ptsz;
        cuStreamGetDevice @12080 (hStream: u64, device: Out<i32>) = device, cuStreamGetDevice_ptsz;
        cuStreamQuery @2000 (hStream: u64) = query, cuStreamQuery_ptsz;
        cuStreamSynchronize @2000 (hStream: u64) = synchronize, cuStreamSynchronize_ptsz;
        cuStreamAddCallback @5000 (hStream: u64, callback: usize, userData: usize, flags: u32) = add_callback, cuStreamAddCallback_ptsz;
        cuLaunchHostFunc @10000 (hStream: u64, func: usize, userData: usize) = host_function, cuLaunchHostFunc_ptsz;
        cuStreamAttachMemAsync @6000 (hStream: u64, dptr: u64, length: usize, flags: u32) = attach, cuStreamAttachMemAsync_ptsz;
        cuStreamCopyAttributes @11000 (dst: u64, src: u64) = copy_attributes, cuStreamCopyAttributes_ptsz;
        cuStreamGetAttribute @11000 (hStream: u64, attr: u32, value_out: Out<[u8; 64]>) = attribute, cuStreamGetAttribute_ptsz;
        cuStreamSetAttribute @11000 (hStream: u64, attr: u32, value: In<[u8; 64]>) = set_attribute, cuStreamSetAttribute_ptsz;
    }
    Release {
        cuStreamDestroy @2000 (hStream: u64) = destroy;
        cuStreamDestroy_v2 @4000 (hStream: u64) = destroy;
    }
}

/// The flag of a stream that the default stream does not wait for.
const NON_BLOCKING: u32 = 1;
/// Attributes of streams that are known here.
const PRIORITY: u32 = 8;

fn create(call: &mut Call, out: Out<u64>, flags: u32) -> Answer {
    create_with_priority(call, out, flags, 0)
}

fn create_with_priority(call: &mut Call, out: Out<u64>, flags: u32, priority: i32) -> Answer {
    if flags & !NON_BLOCKING != 0 || out.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    let context = call.context()?;
    let order = if flags & NON_BLOCKING != 0 { Order::NonBlocking } else { Order::Blocking };
    let stream = stream::create(call, context, order, priority.clamp(GREATEST_PRIORITY, 0), false);
    out.set(stream.number())
}

/// Work that it was asked for still happens, as with any driver.
fn destroy(call: &mut Call, number: u64) -> Answer {
    let stream = stream::resolve(call, number)?;
    let this = call.streams.get(stream).ok_or(Error::INVALID_HANDLE)?;
    if this.default {
        return Err(Error::INVALID_HANDLE);
    }
    let (context, blocking, tail) = (this.context, this.order == Order::Blocking, this.tail);
    if let Some(tail) = tail {
        // The default stream and the context wait for it all the same.
        if blocking && call.sticky().is_none() {
            let legacy = stream::legacy(call, context)?;
            let mut after = stream::before(call, legacy)?;
            after.push(After { op: tail.op, edge: Edge::Full });
            let label = "cuStreamDestroy";
            let op = submit::submit(call, context, &Operation::Nothing, &after, label, Then::Nothing)?;
            stream::set_tail(call, legacy, op, false);
        }
        if let Some(c) = call.contexts.get_mut(context) {
            c.orphans.push(tail.op);
        }
    }
    call.streams.remove(stream);
    call.graphs.forget_stream(stream.number());
    Ok(())
}

/// What a call asks of a stream.
fn ask<T>(call: &mut Call, number: u64, what: impl FnOnce(&Stream) -> T) -> Answer<T> {
    let stream = stream::resolve(call, number)?;
    call.streams.get(stream).map(what).ok_or(Error::INVALID_HANDLE)
}

fn priority(call: &mut Call, number: u64, out: Out<i32>) -> Answer {
    out.set(ask(call, number, |s| s.priority)?)
}

fn flags(call: &mut Call, number: u64, out: Out<u32>) -> Answer {
    out.set(ask(call, number, |s| u32::from(s.order == Order::NonBlocking))?)
}

fn id(call: &mut Call, number: u64, out: Out<u64>) -> Answer {
    out.set(ask(call, number, |s| s.id)?)
}

fn context(call: &mut Call, number: u64, out: Out<u64>) -> Answer {
    out.set(ask(call, number, |s| s.context.number())?)
}

fn context_or_green(call: &mut Call, number: u64, out: Out<u64>, green: Out<u64>) -> Answer {
    context(call, number, out)?;
    green.set_if(0);
    Ok(())
}

fn device(call: &mut Call, number: u64, out: Out<i32>) -> Answer {
    out.set(ask(call, number, |_| 0)?)
}

fn query(call: &mut Call, number: u64) -> Answer {
    let stream = stream::resolve(call, number)?;
    stream::forbid_captured(call, stream)?;
    for after in stream::before(call, stream)? {
        if !progress::look(call, after.op)? {
            return Err(Error::NOT_READY);
        }
    }
    Ok(())
}

fn synchronize(call: &mut Call, number: u64) -> Answer {
    let stream = stream::resolve(call, number)?;
    stream::forbid_captured(call, stream)?;
    for after in stream::before(call, stream)? {
        progress::wait_for(call, after.op)?;
    }
    Ok(())
}

/// A callback is a function of three arguments: the stream, how it went, and what it is given.
fn add_callback(call: &mut Call, number: u64, callback: usize, data: usize, flags: u32) -> Answer {
    if callback == 0 || flags != 0 {
        return Err(Error::INVALID_VALUE);
    }
    let stream = stream::resolve(call, number)?;
    let context = call.streams.get(stream).ok_or(Error::INVALID_HANDLE)?.context;
    // A callback cannot be part of a graph, with any driver.
    stream::forbid_captured(call, stream)?;
    let after = stream::before(call, stream)?;
    let function = Box::new(move || {
        // SAFETY: the program gave this address as that of such a function.
        let f: extern "C" fn(u64, u32, *mut c_void) = unsafe { std::mem::transmute::<usize, _>(callback) };
        thread::callback(|| f(number, 0, std::ptr::with_exposed_provenance_mut(data)));
    });
    let label = format!("cuStreamAddCallback on {}", stream::describe(call, stream));
    let pending = Pending::new(context, &label);
    let op = call.work.submit(emu::Work::Call(function), &after, &label, pending)?;
    stream::set_tail(call, stream, op, false);
    progress::relieve(call)
}

fn host_function(call: &mut Call, number: u64, function: usize, data: usize) -> Answer {
    if function == 0 {
        return Err(Error::INVALID_VALUE);
    }
    let stream = stream::resolve(call, number)?;
    enqueue(call, stream, Request::new(Operation::Host { function, data })).map(|_| ())
}

/// Memory that is shared is attached to all streams.
fn attach(call: &mut Call, number: u64, address: u64, _: usize, flags: u32) -> Answer {
    let managed = call.memory.around(address).is_some_and(|(_, a)| a.what == crate::memory::What::Managed);
    if !managed || !matches!(flags, 1 | 2 | 4) {
        return Err(Error::INVALID_VALUE);
    }
    let stream = stream::resolve(call, number)?;
    enqueue(call, stream, Request::new(Operation::Nothing)).map(|_| ())
}

fn copy_attributes(call: &mut Call, to: u64, from: u64) -> Answer {
    let priority = ask(call, from, |s| s.priority)?;
    let to = stream::resolve(call, to)?;
    if let Some(s) = call.streams.get_mut(to) {
        s.priority = priority;
    }
    Ok(())
}

fn attribute(call: &mut Call, number: u64, attribute: u32, out: Out<[u8; 64]>) -> Answer {
    let priority = ask(call, number, |s| s.priority)?;
    let mut value = [0; 64];
    if attribute == PRIORITY {
        value[..4].copy_from_slice(&priority.to_ne_bytes());
    }
    out.set(value)
}

/// A priority is kept; what caches and waits prefer changes nothing here.
fn set_attribute(call: &mut Call, number: u64, attribute: u32, value: In<[u8; 64]>) -> Answer {
    let stream = stream::resolve(call, number)?;
    let value = value.get()?;
    if attribute == PRIORITY
        && let Some(s) = call.streams.get_mut(stream)
    {
        s.priority = i32::from_ne_bytes([value[0], value[1], value[2], value[3]]).clamp(GREATEST_PRIORITY, 0);
    }
    Ok(())
}
