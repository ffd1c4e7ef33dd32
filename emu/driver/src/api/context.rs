//! Contexts: the primary one, those of the program, and which one is current.

use super::device::check;
use crate::abi::{In, Out, Raw};
use crate::call::{Call, exports};
use crate::error::{Answer, Error};
use crate::progress;
use crate::slots::Handle;
use crate::state::Context;
use crate::thread;
use std::collections::BTreeSet;

exports! {
    Device {
        cuDevicePrimaryCtxRetain @7000 (pctx: Out<u64>, dev: i32) = retain;
        cuDevicePrimaryCtxRelease @7000 (dev: i32) = release;
        cuDevicePrimaryCtxRelease_v2 @11000 (dev: i32) = release;
        cuDevicePrimaryCtxReset @7000 (dev: i32) = reset;
        cuDevicePrimaryCtxReset_v2 @11000 (dev: i32) = reset;
        cuDevicePrimaryCtxGetState @7000 (dev: i32, flags: Out<u32>, active: Out<i32>) = state;
        cuDevicePrimaryCtxSetFlags @7000 (dev: i32, flags: u32) = set_primary_flags;
        cuDevicePrimaryCtxSetFlags_v2 @11000 (dev: i32, flags: u32) = set_primary_flags;
        cuCtxCreate @2000 (pctx: Out<u64>, flags: u32, dev: i32) = create;
        cuCtxCreate_v2 @3020 (pctx: Out<u64>, flags: u32, dev: i32) = create;
        cuCtxCreate_v3 @11040 (pctx: Out<u64>, paramsArray: Raw, numParams: i32, flags: u32, dev: i32) = create_with_affinity;
        cuCtxCreate_v4 @12050 (pctx: Out<u64>, ctxCreateParams: In<[u64; 3]>, flags: u32, dev: i32) = create_with_params;
        cuCtxDestroy @2000 (ctx: u64) = destroy;
        cuCtxDestroy_v2 @4000 (ctx: u64) = destroy;
        cuCtxPushCurrent @2000 (ctx: u64) = push;
        cuCtxPushCurrent_v2 @4000 (ctx: u64) = push;
        cuCtxPopCurrent @2000 (pctx: Out<u64>) = pop;
        cuCtxPopCurrent_v2 @4000 (pctx: Out<u64>) = pop;
        cuCtxSetCurrent @4000 (ctx: u64) = set_current;
        cuCtxGetCurrent @4000 (pctx: Out<u64>) = current;
        cuCtxGetApiVersion @3020 (ctx: u64, version: Out<u32>) = api_version;
        cuCtxGetDevice_v2 @13000 (device: Out<i32>, ctx: u64) = device_of;
        cuCtxGetId @12000 (ctx: u64, ctxId: Out<u64>) = id;
        cuCtxGetFlags @7000 (flags: Out<u32>) = flags;
        cuCtxGetDevice @2000 (device: Out<i32>) = device;
    }
    Context {
        cuCtxSetFlags @12010 (flags: u32) = set_flags;
        cuCtxSynchronize @2000 () = synchronize;
        cuCtxSynchronize_v2 @13000 (ctx: u64) = synchronize_other;
        cuCtxSetLimit @3010 (limit: u32, value: usize) = set_limit;
        cuCtxGetLimit @3010 (pvalue: Out<usize>, limit: u32) = limit;
        cuCtxGetCacheConfig @3020 (pconfig: Out<u32>) = cache_config;
        cuCtxSetCacheConfig @3020 (config: u32) = set_cache_config;
        cuCtxGetSharedMemConfig @4020 (pConfig: Out<u32>) = shared_config;
        cuCtxSetSharedMemConfig @4020 (config: u32) = set_shared_config;
        cuCtxGetStreamPriorityRange @5050 (leastPriority: Out<i32>, greatestPriority: Out<i32>) = priorities;
        cuCtxResetPersistingL2Cache @11000 () = reset_cache;
        cuCtxEnablePeerAccess @4000 (peerContext: u64, flags: u32) = enable_peer;
        cuCtxDisablePeerAccess @4000 (peerContext: u64) = disable_peer;
    }
}

/// Flags of contexts that are known: how a call waits, mapped memory, local memory, dumps, and synchronous copies.
const FLAGS: u32 = 0xff;
/// The highest stream priority; the lowest is 0.
pub(super) const GREATEST_PRIORITY: i32 = -5;
/// What limits are before they are set.
const LIMITS: &[(u32, usize)] = &[(0, 1024), (1, 1 << 20), (2, 8 << 20), (3, 2), (4, 2048), (5, 64), (6, 0)];

fn handle(call: &mut Call, number: u64) -> Answer<Handle<Context>> {
    call.handle(|d| &d.contexts, number).map_err(|_| Error::INVALID_CONTEXT)
}

fn retain(call: &mut Call, out: Out<u64>, device: i32) -> Answer {
    check(device)?;
    let context = match call.primary.handle {
        Some(context) => context,
        None => {
            let flags = call.primary.flags;
            call.create_context(true, flags)
        }
    };
    out.set(context.number())?;
    call.primary.handle = Some(context);
    call.primary.retained += 1;
    Ok(())
}

fn release(call: &mut Call, device: i32) -> Answer {
    check(device)?;
    if call.primary.retained == 0 {
        return Err(Error::INVALID_CONTEXT);
    }
    call.primary.retained -= 1;
    if call.primary.retained == 0 { reset(call, device) } else { Ok(()) }
}

fn reset(call: &mut Call, device: i32) -> Answer {
    check(device)?;
    let Some(context) = call.primary.handle else { return Ok(()) };
    end(call, context);
    call.primary.handle = None;
    Ok(())
}

/// Ends a context, after what it was asked for.
fn end(call: &mut Call, context: Handle<Context>) {
    // A failure does not keep a context.
    _ = synchronise(call, context);
    let by = call.export.name;
    call.destroy_context(context, by);
}

fn state(call: &mut Call, device: i32, flags: Out<u32>, active: Out<i32>) -> Answer {
    check(device)?;
    flags.set(call.primary.flags)?;
    active.set(i32::from(call.primary.handle.is_some()))
}

fn set_primary_flags(call: &mut Call, device: i32, flags: u32) -> Answer {
    check(device)?;
    if flags & !FLAGS != 0 {
        return Err(Error::INVALID_VALUE);
    }
    call.primary.flags = flags;
    let context = call.primary.handle;
    if let Some(c) = context.and_then(|h| call.contexts.get_mut(h)) {
        c.flags = flags;
    }
    Ok(())
}

fn create(call: &mut Call, out: Out<u64>, flags: u32, device: i32) -> Answer {
    check(device)?;
    if flags & !FLAGS != 0 {
        return Err(Error::INVALID_VALUE);
    }
    if let Some(error) = call.sticky() {
        return Err(error);
    }
    out.set(0)?;
    let context = call.create_context(false, flags);
    thread::push_context(context.number());
    out.set(context.number())
}

fn create_with_affinity(call: &mut Call, out: Out<u64>, _: Raw, count: i32, flags: u32, device: i32) -> Answer {
    if count != 0 {
        return Err(Error::UNSUPPORTED_EXEC_AFFINITY);
    }
    create(call, out, flags, device)
}

/// `CUctxCreateParams`: affinities, their number, graphics.
fn create_with_params(call: &mut Call, out: Out<u64>, params: In<[u64; 3]>, flags: u32, device: i32) -> Answer {
    let [_, count, graphics] = if params.is_null() { [0; 3] } else { params.get()? };
    match (count as u32, graphics) {
        (0, 0) => create(call, out, flags, device),
        (0, _) => Err(Error::NOT_SUPPORTED),
        _ => Err(Error::UNSUPPORTED_EXEC_AFFINITY),
    }
}

fn destroy(call: &mut Call, number: u64) -> Answer {
    let context = handle(call, number)?;
    if call.contexts.get(context).is_some_and(|c| c.primary) {
        return Err(Error::INVALID_CONTEXT);
    }
    end(call, context);
    if thread::current_context() == Some(number) {
        thread::pop_context();
    }
    Ok(())
}

fn push(call: &mut Call, number: u64) -> Answer {
    handle(call, number)?;
    thread::push_context(number);
    Ok(())
}

fn pop(_: &mut Call, out: Out<u64>) -> Answer {
    let context = thread::pop_context().ok_or(Error::INVALID_CONTEXT)?;
    out.set_if(context);
    Ok(())
}

fn set_current(call: &mut Call, number: u64) -> Answer {
    if number != 0 {
        handle(call, number)?;
    }
    thread::set_context(number);
    Ok(())
}

fn current(_: &mut Call, out: Out<u64>) -> Answer {
    out.set(thread::current_context().unwrap_or(0))
}

fn api_version(call: &mut Call, number: u64, version: Out<u32>) -> Answer {
    of(call, number)?;
    version.set(3020)
}

/// The context of a number, or the current one for null.
fn of(call: &mut Call, number: u64) -> Answer<Handle<Context>> {
    if number == 0 { call.context() } else { handle(call, number) }
}

fn device_of(call: &mut Call, device: Out<i32>, number: u64) -> Answer {
    of(call, number)?;
    device.set(0)
}

fn device(call: &mut Call, device: Out<i32>) -> Answer {
    call.context()?;
    device.set(0)
}

fn id(call: &mut Call, number: u64, id: Out<u64>) -> Answer {
    let context = of(call, number)?;
    id.set(context.number() >> 4 & 0xffff_ffff)
}

fn flags(call: &mut Call, flags: Out<u32>) -> Answer {
    let context = call.context()?;
    flags.set(call.contexts.get(context).ok_or(Error::INVALID_CONTEXT)?.flags)
}

fn set_flags(call: &mut Call, flags: u32) -> Answer {
    if flags & !FLAGS != 0 {
        return Err(Error::INVALID_VALUE);
    }
    let context = call.context()?;
    call.contexts.get_mut(context).ok_or(Error::INVALID_CONTEXT)?.flags = flags;
    Ok(())
}

/// Waits for all that a context was asked for; then the program knows of it.
pub(super) fn synchronise(call: &mut Call, context: Handle<Context>) -> Answer {
    let of = |p: &crate::work::Pending| p.context == context;
    progress::wait(call, |driver| !driver.work.pending.values().any(of))?;
    let streams = call.streams.iter().filter(|(_, s)| s.context == context);
    let mut tails: Vec<_> = streams.filter_map(|(_, s)| Some(s.tail?.op)).collect();
    tails.extend(call.contexts.get_mut(context).map(|c| std::mem::take(&mut c.orphans)).unwrap_or_default());
    for op in tails {
        call.work.engine.learn(op);
    }
    Ok(())
}

/// What [`synchronise`] does for a program that asks for it, which fails captures.
fn synchronize_all(call: &mut Call, context: Handle<Context>) -> Answer {
    let these: BTreeSet<u64> =
        call.streams.iter().filter(|(_, s)| s.context == context).map(|(h, _)| h.number()).collect();
    call.graphs.captures.forbid_streams(Error::STREAM_CAPTURE_UNSUPPORTED, |s| these.contains(&s))?;
    synchronise(call, context)
}

fn synchronize(call: &mut Call) -> Answer {
    let context = call.context()?;
    synchronize_all(call, context)
}

fn synchronize_other(call: &mut Call, number: u64) -> Answer {
    let context = of(call, number)?;
    synchronize_all(call, context)
}

fn set_limit(call: &mut Call, limit: u32, value: usize) -> Answer {
    if !LIMITS.iter().any(|(l, _)| *l == limit) {
        return Err(Error::UNSUPPORTED_LIMIT);
    }
    let context = call.context()?;
    call.contexts.get_mut(context).ok_or(Error::INVALID_CONTEXT)?.limits.insert(limit, value);
    Ok(())
}

fn limit(call: &mut Call, value: Out<usize>, limit: u32) -> Answer {
    let initial = LIMITS.iter().find(|(l, _)| *l == limit).ok_or(Error::UNSUPPORTED_LIMIT)?.1;
    let context = call.context()?;
    let limits = &call.contexts.get(context).ok_or(Error::INVALID_CONTEXT)?.limits;
    value.set(limits.get(&limit).copied().unwrap_or(initial))
}

fn cache_config(call: &mut Call, config: Out<u32>) -> Answer {
    let context = call.context()?;
    config.set(call.contexts.get(context).ok_or(Error::INVALID_CONTEXT)?.cache_config)
}

fn set_cache_config(call: &mut Call, config: u32) -> Answer {
    if config > 3 {
        return Err(Error::INVALID_VALUE);
    }
    let context = call.context()?;
    call.contexts.get_mut(context).ok_or(Error::INVALID_CONTEXT)?.cache_config = config;
    Ok(())
}

/// Banks have four bytes on all cards.
fn shared_config(_: &mut Call, config: Out<u32>) -> Answer {
    config.set(1)
}

fn set_shared_config(_: &mut Call, config: u32) -> Answer {
    if config > 2 { Err(Error::INVALID_VALUE) } else { Ok(()) }
}

fn priorities(_: &mut Call, least: Out<i32>, greatest: Out<i32>) -> Answer {
    least.set_if(0);
    greatest.set_if(GREATEST_PRIORITY);
    Ok(())
}

fn reset_cache(_: &mut Call) -> Answer {
    Ok(())
}

fn enable_peer(call: &mut Call, number: u64, _: u32) -> Answer {
    handle(call, number)?;
    // A device is no peer of itself.
    Err(Error::PEER_ACCESS_UNSUPPORTED)
}

fn disable_peer(call: &mut Call, number: u64) -> Answer {
    handle(call, number)?;
    Err(Error::PEER_ACCESS_NOT_ENABLED)
}
