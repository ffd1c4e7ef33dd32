//! Stream-ordered memory, of one pool: the default one.

use super::device::check;
use crate::abi::{In, Out, Raw};
use crate::call::{Call, exports};
use crate::error::{Answer, Error};
use crate::memory::What;
use crate::operation::Operation;
use crate::stream::{self, Request, enqueue};
use crate::work::Then;

exports! {
    Device {
        cuDeviceGetDefaultMemPool @11020 (pool_out: Out<u64>, dev: i32) = default_pool;
        cuDeviceGetMemPool @11020 (pool: Out<u64>, dev: i32) = default_pool;
        cuDeviceSetMemPool @11020 (dev: i32, pool: u64) = set_pool;
        cuMemPoolTrimTo @11020 (pool: u64, minBytesToKeep: usize) = trim;
        cuMemPoolSetAttribute @11020 (pool: u64, attr: u32, value: Raw) = set_attribute;
        cuMemPoolGetAttribute @11020 (pool: u64, attr: u32, value: Raw) = attribute;
        cuMemPoolSetAccess @11020 (pool: u64, map: In<[u8; 8]>, count: usize) = set_access;
        cuMemPoolGetAccess @11020 (flags: Out<u32>, memPool: u64, location: In<[u8; 8]>) = access;
    }
    Context {
        cuMemAllocAsync @11020 (dptr: Out<u64>, bytesize: usize, hStream: u64) = alloc, cuMemAllocAsync_ptsz;
        cuMemAllocFromPoolAsync @11020 (dptr: Out<u64>, bytesize: usize, pool: u64, hStream: u64) = alloc_from, cuMemAllocFromPoolAsync_ptsz;
    }
    Release {
        cuMemFreeAsync @11020 (dptr: u64, hStream: u64) = free, cuMemFreeAsync_ptsz;
    }
}

/// The handle of the pool.
pub(super) const POOL: u64 = 0x31 << 48 | 16;
/// Attributes: switches of reuse, the bytes that are kept, and what is in use.
const SWITCHES: std::ops::RangeInclusive<u32> = 1..=3;
const THRESHOLD: u32 = 4;
const USED: std::ops::RangeInclusive<u32> = 5..=8;

/// Refuses other pools.
fn the_pool(pool: u64) -> Answer {
    if pool == POOL { Ok(()) } else { Err(Error::INVALID_VALUE) }
}

fn default_pool(_: &mut Call, out: Out<u64>, device: i32) -> Answer {
    check(device)?;
    out.set(POOL)
}

fn set_pool(_: &mut Call, device: i32, pool: u64) -> Answer {
    check(device)?;
    the_pool(pool)
}

fn trim(_: &mut Call, pool: u64, _: usize) -> Answer {
    the_pool(pool)
}

/// Nothing depends on them here: memory of the pool goes back at once.
fn set_attribute(_: &mut Call, pool: u64, attribute: u32, value: Raw) -> Answer {
    the_pool(pool)?;
    match attribute {
        _ if value.is_null() => Err(Error::INVALID_VALUE),
        a if SWITCHES.contains(&a) || a == THRESHOLD || USED.contains(&a) => Ok(()),
        _ => Err(Error::INVALID_VALUE),
    }
}

fn attribute(call: &mut Call, pool: u64, attribute: u32, value: Raw) -> Answer {
    the_pool(pool)?;
    match attribute {
        a if SWITCHES.contains(&a) => value.output().set(1_u32),
        THRESHOLD => value.output().set(0_u64),
        a if USED.contains(&a) => {
            let used = call.memory.iter().filter(|(_, a)| a.what == What::Pool).map(|(_, a)| a.bytes).sum::<u64>();
            value.output().set(used)
        }
        _ => Err(Error::INVALID_VALUE),
    }
}

/// The device always has access.
fn set_access(_: &mut Call, pool: u64, _: In<[u8; 8]>, _: usize) -> Answer {
    the_pool(pool)
}

fn access(_: &mut Call, flags: Out<u32>, pool: u64, _: In<[u8; 8]>) -> Answer {
    the_pool(pool)?;
    flags.set(3)
}

fn alloc(call: &mut Call, out: Out<u64>, bytes: usize, number: u64) -> Answer {
    if out.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    let stream = stream::resolve(call, number)?;
    let context = call.streams.get(stream).ok_or(Error::INVALID_HANDLE)?.context;
    if call.graphs.captures.of(stream.number()).is_some() {
        return Err(stream::uncapturable(call, stream, "allocating from the pool in a capture"));
    }
    let from = call.export.name;
    let base = call.allocate(bytes as u64, What::Pool, context, from)?;
    enqueue(call, stream, Request::new(Operation::Allocate(base)))?;
    out.set(base)
}

fn alloc_from(call: &mut Call, out: Out<u64>, bytes: usize, pool: u64, number: u64) -> Answer {
    the_pool(pool)?;
    alloc(call, out, bytes, number)
}

/// Frees when the stream comes to it.
fn free(call: &mut Call, base: u64, number: u64) -> Answer {
    let stream = stream::resolve(call, number)?;
    super::memory::owned(call, base, |w| matches!(w, What::Pool | What::Device), Error::INVALID_VALUE)?;
    if call.sticky().is_some() {
        let by = call.export.name;
        call.release(base, by);
        return Ok(());
    }
    let by = call.export.name;
    enqueue(call, stream, Request { then: Then::Freed(base), ..Request::new(Operation::Free(base)) })?;
    if let Some(a) = call.memory.get_mut(base) {
        a.freeing = Some(by);
    }
    Ok(())
}
