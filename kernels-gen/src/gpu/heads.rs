//! The threads of a CTA, and the lanes of a warp, as [`Team`]s, and what a warp appends to KV caches.

use super::{LANES, Thread, cta_sum, for_threads, if_below, lanes_max, lanes_sum};
use crate::cache::CacheRow;
use crate::elements::{Head, Team};
use crate::generator::Generator;
use ir::Result;
use ir::abi::{KvEncoding, Q8_BLOCK};
use ir::graph::Ref;
use ir::kernel::{Buf, Builder, Mem, Scope, Value};

/// The lanes of a warp, an element each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Warp {
    pub at: Thread,
}

/// The threads of a CTA, an element each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cta {
    pub at: Thread,
    /// A float for each warp.
    pub sums: Buf,
}

/// Calls `f` for every i < `count`, spread over the lanes.
fn for_lanes(b: &mut Builder, at: &Thread, count: usize, f: impl FnOnce(&mut Builder, Value)) {
    let end = b.size(count);
    b.for_(at.lane, end, LANES as u32, f);
}

impl Team for Warp {
    const VECTOR: bool = false;

    fn each(&self, b: &mut Builder, count: usize, f: impl FnOnce(&mut Builder, Value) -> Result<()>) -> Result<()> {
        let mut result = Ok(());
        for_lanes(b, &self.at, count, |b, i| result = f(b, i));
        result
    }

    fn total(&self, b: &mut Builder, own: Value) -> Value {
        lanes_sum(b, own, LANES)
    }

    fn sync(&self, b: &mut Builder) {
        b.sync(Scope::Warp);
    }
}

impl Team for Cta {
    const VECTOR: bool = false;

    fn each(&self, b: &mut Builder, count: usize, f: impl FnOnce(&mut Builder, Value) -> Result<()>) -> Result<()> {
        let mut result = Ok(());
        for_threads(b, &self.at, count, |b, i| result = f(b, i));
        result
    }

    fn total(&self, b: &mut Builder, own: Value) -> Value {
        let total = cta_sum(b, &self.at, self.sums, own);
        // The next sum comes to the same place.
        b.sync(Scope::Cta);
        total
    }

    fn sync(&self, b: &mut Builder) {
        b.sync(Scope::Cta);
    }
}

/// Appends a head of a token, which is in its scratch memory, to the cache that is this body parameter, in one warp.
///
/// # Errors
/// If the format is none of a KV cache.
pub(crate) fn append(g: &mut Generator<'_>, at: &Thread, (cache, token): (Ref, Value), head: Head) -> Result<()> {
    let CacheRow { cache, encoding, tile: row, .. } = CacheRow::new(g, cache, token, head.number)?;
    let (b, (x, from)) = (&mut g.b, head.scratch);
    if encoding == KvEncoding::Codes {
        append_int8(b, at, (x, from), head.size, (cache, row));
        return Ok(());
    }
    for_lanes(b, at, head.size, |b, i| {
        let from = b.iadd(from, i);
        let v = b.load(x, from, Mem::F32);
        let bits = b.to_half(v);
        let to = b.imul_const(i, 2);
        let to = b.iadd(row, to);
        b.store(cache, to, Mem::U16, bits);
    });
    Ok(())
}

/// Writes a head as 8-bit codes and f16 scales, a lane for each element of a block; elements past the head count as zero.
fn append_int8(b: &mut Builder, at: &Thread, (x, from): (Buf, Value), head: usize, (cache, row): (Buf, Value)) {
    let padded = head.next_multiple_of(Q8_BLOCK);
    for block in 0..padded / Q8_BLOCK {
        let zero = b.float(0.0);
        let v = b.var(zero);
        let i = b.iadd_const(at.lane, block * Q8_BLOCK);
        if_below(b, i, head, |b| {
            let from = b.iadd(from, i);
            let element = b.load(x, from, Mem::F32);
            b.set(v, element);
        });
        let v = b.get(v);
        let magnitude = b.fabs(v);
        let largest = lanes_max(b, magnitude, LANES);
        let (scale, inverse) = crate::math::scale_of(b, largest);
        let v = b.fmul(v, inverse);
        let code = b.round(v);
        let to = b.iadd(row, i);
        b.store(cache, to, Mem::I8, code);
        if_below(b, at.lane, 1, |b| {
            let bits = b.to_half(scale);
            let to = b.iadd_const(row, padded + 2 * block);
            b.store(cache, to, Mem::U16, bits);
        });
    }
}
