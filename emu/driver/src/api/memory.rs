//! Memory: of the device, of the process where kernels reach it, and questions about addresses.

use super::context::synchronise;
use crate::abi::{In, Out, Raw};
use crate::call::{Call, exports};
use crate::error::{Answer, Error};
use crate::memory::{Place, What};
use crate::operation::Operation;
use crate::slots::Handle;
use crate::state::Context;
use crate::stream;
use crate::stream::{Request, enqueue};
use crate::work::Then;

exports! {
    Context {
        cuMemGetInfo_v2 @3020 (free: Out<usize>, total: Out<usize>) = info;
        cuMemAlloc_v2 @3020 (dptr: Out<u64>, bytesize: usize) = alloc;
        cuMemAllocPitch_v2 @3020 (dptr: Out<u64>, pPitch: Out<usize>, WidthInBytes: usize, Height: usize, ElementSizeBytes: u32) = alloc_pitch;
        cuMemAllocManaged @6000 (dptr: Out<u64>, bytesize: usize, flags: u32) = alloc_managed;
        cuMemAllocHost_v2 @3020 (pp: Out<u64>, bytesize: usize) = alloc_host;
        cuMemHostAlloc @2020 (pp: Out<u64>, bytesize: usize, Flags: u32) = host_alloc;
        cuMemHostRegister @4000 (p: u64, bytesize: usize, Flags: u32) = host_register;
        cuMemHostRegister_v2 @6050 (p: u64, bytesize: usize, Flags: u32) = host_register;
        cuMemHostGetDevicePointer_v2 @3020 (pdptr: Out<u64>, p: u64, Flags: u32) = device_pointer;
        cuMemHostGetFlags @2030 (pFlags: Out<u32>, p: u64) = host_flags;
        cuMemGetAddressRange_v2 @3020 (pbase: Out<u64>, psize: Out<usize>, dptr: u64) = address_range;
        cuPointerGetAttribute @4000 (data: Raw, attribute: u32, ptr: u64) = attribute;
        cuPointerGetAttributes @7000 (numAttributes: u32, attributes: In<u32>, data: In<usize>, ptr: u64) = attributes;
        cuPointerSetAttribute @6000 (value: Raw, attribute: u32, ptr: u64) = set_attribute;
        cuMemAdvise @8000 (devPtr: u64, count: usize, advice: u32, device: i32) = advise;
        cuMemAdvise_v2 @12020 (devPtr: u64, count: usize, advice: u32, location: u64) = advise_v2;
        cuMemPrefetchAsync @8000 (devPtr: u64, count: usize, dstDevice: i32, hStream: u64) = prefetch, cuMemPrefetchAsync_ptsz;
        cuMemPrefetchAsync_v2 @12020 (devPtr: u64, count: usize, location: u64, flags: u32, hStream: u64) = prefetch_v2, cuMemPrefetchAsync_v2_ptsz;
    }
    Release {
        cuMemFree_v2 @3020 (dptr: u64) = free;
        cuMemFreeHost @2000 (p: u64) = free_host;
        cuMemHostUnregister @4000 (p: u64) = host_unregister;
    }
}

/// Rows of pitched memory begin at multiples of this.
const PITCH: usize = 512;

fn info(call: &mut Call, free: Out<usize>, total: Out<usize>) -> Answer {
    free.set(call.memory.free() as usize)?;
    let bytes = call.settings()?.card.memory();
    total.set(bytes as usize)
}

fn alloc(call: &mut Call, out: Out<u64>, bytes: usize) -> Answer {
    if out.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    let (context, from) = (call.context()?, call.export.name);
    let base = call.allocate(bytes as u64, What::Device, context, from)?;
    out.set(base)
}

fn alloc_pitch(call: &mut Call, out: Out<u64>, pitch: Out<usize>, width: usize, height: usize, element: u32) -> Answer {
    if !matches!(element, 4 | 8 | 16) || pitch.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    let row = width.checked_next_multiple_of(PITCH).ok_or(Error::INVALID_VALUE)?;
    alloc(call, out, row.checked_mul(height).ok_or(Error::OUT_OF_MEMORY)?)?;
    pitch.set(row)
}

fn host(call: &mut Call, out: Out<u64>, bytes: usize, what: What) -> Answer {
    if out.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    let (context, from) = (call.context()?, call.export.name);
    let base = call.allocate_host(bytes as u64, what, context, from)?;
    out.set(base)
}

fn alloc_managed(call: &mut Call, out: Out<u64>, bytes: usize, flags: u32) -> Answer {
    // Attached to all streams, to the host, to one.
    if !matches!(flags, 1 | 2) {
        return Err(Error::INVALID_VALUE);
    }
    host(call, out, bytes, What::Managed)
}

fn alloc_host(call: &mut Call, out: Out<u64>, bytes: usize) -> Answer {
    host(call, out, bytes, What::Pinned(0))
}

/// Flags: portable, mapped, write-combined.
fn host_alloc(call: &mut Call, out: Out<u64>, bytes: usize, flags: u32) -> Answer {
    if flags & !7 != 0 {
        return Err(Error::INVALID_VALUE);
    }
    host(call, out, bytes, What::Pinned(flags))
}

/// Flags: portable, mapped, memory of a device, read-only.
fn host_register(call: &mut Call, address: u64, bytes: usize, flags: u32) -> Answer {
    if address == 0 || bytes == 0 || flags & !15 != 0 || address.checked_add(bytes as u64).is_none() {
        return Err(Error::INVALID_VALUE);
    }
    if flags & 4 != 0 {
        return Err(Error::NOT_SUPPORTED);
    }
    let (context, from) = (call.context()?, call.export.name);
    call.map((address, bytes as u64), What::Registered(flags), context, from, None)
}

/// The allocation that begins at an address, if it is of a kind; what is wrong is a finding unless a driver would say it.
pub(super) fn owned(call: &mut Call, base: u64, kind: fn(What) -> bool, otherwise: Error) -> Answer {
    if call.memory.get(base).is_some_and(|a| kind(a.what) && a.freeing.is_none()) {
        return Ok(());
    }
    let twice = |by: &str| format!("the memory at {base:#x} is freed twice: first by {by}");
    let freeing = call.memory.get(base).and_then(|a| a.freeing);
    let words = match call.memory.place(base, 1) {
        Place::In(_) if let Some(by) = freeing => twice(by),
        Place::Freed { base: start, by, .. } if start == base => twice(by),
        Place::In(start) | Place::Past { base: start, .. } if start != base => {
            format!("{base:#x} is within the allocation at {start:#x} and not where it begins")
        }
        Place::In(_) => {
            let from = call.memory.get(base).map_or("", |a| a.from);
            format!("the memory at {base:#x} was made by {from}, which this call does not free")
        }
        _ => return Err(otherwise),
    };
    Err(call.finding(&words, otherwise))
}

fn free(call: &mut Call, base: u64) -> Answer {
    if base == 0 {
        return Ok(());
    }
    owned(call, base, |w| matches!(w, What::Device | What::Pool | What::Managed), Error::INVALID_VALUE)?;
    let a = call.memory.get(base).ok_or(Error::INVALID_VALUE)?;
    let (context, pool) = (a.context, a.what == What::Pool);
    if pool {
        // A driver does not wait here.
        return free_at_once(call, base, context);
    }
    let waited = synchronise(call, context);
    let by = call.export.name;
    call.release(base, by);
    waited
}

/// Frees what no documentation says is waited for. A copy, a fill or a word that has not ended and touches it is a finding, and
/// a kernel that has not ended finds it gone.
fn free_at_once(call: &mut Call, base: u64, context: Handle<Context>) -> Answer {
    let by = call.export.name;
    let bytes = call.memory.get(base).map_or(0, |a| a.bytes);
    if let Some(label) = call.work.toucher(base..base + bytes).map(str::to_owned) {
        let words = format!("the memory at {base:#x} is still in use by {label}");
        return Err(call.finding(&words, Error::INVALID_VALUE));
    }
    call.withdraw(base, by);
    let waited = synchronise(call, context);
    call.release(base, by);
    waited
}

fn release_host(call: &mut Call, base: u64, kind: fn(What) -> bool, otherwise: Error) -> Answer {
    owned(call, base, kind, otherwise)?;
    let context = call.memory.get(base).ok_or(otherwise)?.context;
    free_at_once(call, base, context)
}

fn free_host(call: &mut Call, base: u64) -> Answer {
    if base == 0 {
        return Ok(());
    }
    release_host(call, base, |w| matches!(w, What::Pinned(_)), Error::INVALID_VALUE)
}

fn host_unregister(call: &mut Call, base: u64) -> Answer {
    if base == 0 {
        return Err(Error::INVALID_VALUE);
    }
    release_host(call, base, |w| matches!(w, What::Registered(_)), Error::HOST_MEMORY_NOT_REGISTERED)
}

/// Memory of the process has one address for all.
fn device_pointer(call: &mut Call, out: Out<u64>, address: u64, flags: u32) -> Answer {
    if flags != 0 || !call.memory.around(address).is_some_and(|(_, a)| a.what.host()) {
        return Err(Error::INVALID_VALUE);
    }
    out.set(address)
}

fn host_flags(call: &mut Call, flags: Out<u32>, address: u64) -> Answer {
    match call.memory.around(address).map(|(_, a)| a.what) {
        // All of it is mapped.
        Some(What::Pinned(set) | What::Registered(set)) => flags.set(set | 2),
        _ => Err(Error::INVALID_VALUE),
    }
}

fn address_range(call: &mut Call, base: Out<u64>, size: Out<usize>, address: u64) -> Answer {
    let (start, a) = call.memory.around(address).ok_or(Error::NOT_FOUND)?;
    let bytes = a.bytes as usize;
    base.set_if(start);
    size.set_if(bytes);
    Ok(())
}

/// An attribute of a pointer: a number of so many bytes.
fn ask(call: &mut Call, attribute: u32, address: u64) -> Answer<(u64, usize)> {
    let Some((base, a)) = call.memory.around(address) else { return Err(Error::INVALID_VALUE) };
    let device = !a.what.host();
    let managed = a.what == What::Managed;
    Ok(match attribute {
        1 => (a.context.number(), 8),
        2 => (if device || managed { 2 } else { 1 }, 4),
        3 => (address, 8),
        4 if device => return Err(Error::INVALID_VALUE),
        4 => (address, 8),
        6 => (0, 4),
        7 => (a.id, 8),
        8 => (u64::from(managed), 4),
        9 => (0, 4),
        10 => (0, 4),
        11 => (base, 8),
        12 => (a.bytes, 8),
        13 => (1, 4),
        14 => (0, 8),
        15 => (0, 4),
        16 => (3, 4),
        17 => (if a.what == What::Pool { super::pool::POOL } else { 0 }, 8),
        _ => return Err(Error::INVALID_VALUE),
    })
}

fn put(to: Raw, (value, bytes): (u64, usize)) -> Answer {
    if bytes == 8 { to.output().set(value) } else { to.output().set(value as u32) }
}

fn attribute(call: &mut Call, data: Raw, attribute: u32, address: u64) -> Answer {
    let value = ask(call, attribute, address)?;
    put(data, value)
}

/// What is no memory of ours answers zeroes here.
fn attributes(call: &mut Call, count: u32, attributes: In<u32>, data: In<usize>, address: u64) -> Answer {
    for i in 0..count as usize {
        let attribute = attributes.at(i)?;
        let wide = matches!(attribute, 1 | 3 | 4 | 7 | 11 | 12 | 14 | 17);
        // An ordinal of no device is -2.
        let none = if attribute == 9 { (-2_i64 as u64, 4) } else { (0, if wide { 8 } else { 4 }) };
        put(In::<u8>::new(data.at(i)?).raw(), ask(call, attribute, address).unwrap_or(none))?;
    }
    Ok(())
}

/// Only how copies wait can be set, and that copies do not wait is not what is emulated.
fn set_attribute(call: &mut Call, _: Raw, attribute: u32, address: u64) -> Answer {
    let known = attribute == 6 && call.memory.around(address).is_some();
    if known { Ok(()) } else { Err(Error::INVALID_VALUE) }
}

fn managed(call: &mut Call, address: u64, bytes: usize) -> Answer {
    let inside = matches!(call.memory.place(address, bytes as u64), Place::In(base)
        if call.memory.get(base).is_some_and(|a| a.what == What::Managed));
    if inside { Ok(()) } else { Err(Error::INVALID_VALUE) }
}

fn advise(call: &mut Call, address: u64, bytes: usize, advice: u32, _: i32) -> Answer {
    if !(1..=6).contains(&advice) {
        return Err(Error::INVALID_VALUE);
    }
    managed(call, address, bytes)
}

fn advise_v2(call: &mut Call, address: u64, bytes: usize, advice: u32, _: u64) -> Answer {
    advise(call, address, bytes, advice, 0)
}

/// Memory that is shared is where both are.
fn prefetch(call: &mut Call, address: u64, bytes: usize, _: i32, number: u64) -> Answer {
    managed(call, address, bytes)?;
    let stream = stream::resolve(call, number)?;
    let request = Request { then: Then::Nothing, ..Request::new(Operation::Nothing) };
    enqueue(call, stream, request).map(|_| ())
}

fn prefetch_v2(call: &mut Call, address: u64, bytes: usize, _: u64, _: u32, number: u64) -> Answer {
    prefetch(call, address, bytes, 0, number)
}
