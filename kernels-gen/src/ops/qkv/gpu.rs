//! The GPU form: a unit of a product is whole heads that fill tiles; a warp finishes a head.

use super::{Branch, CacheRow, Sink, rotate};
use crate::body::Linear;
use crate::generator::Generator;
use crate::gpu::product::{self, Segment};
use crate::gpu::{self, LANES, Thread};
use ir::Result;
use ir::abi::Q8_BLOCK;
use ir::kernel::{Buf, Builder, Compare, Mem, Scope, Value};
use ir::quant::F16;
use ir::tensor::Elem;

pub(super) fn generate(g: &mut Generator<'_>, branches: &[Branch], products: &[Linear]) -> Result<()> {
    let of = |b: &Branch| {
        let heads = (1..=LANES).find(|n| (n * b.head).is_multiple_of(LANES)).unwrap_or(LANES);
        Segment { matrices: vec![b.product.matrix], unit_rows: heads * b.head }
    };
    let segments: Vec<Segment> = branches.iter().map(of).collect();
    product::run(g, products, &segments, |g, at, segment, unit, (sums, from)| {
        let branch = &branches[segment];
        let heads = segments[segment].unit_rows / branch.head;
        let b = &mut g.b;
        let first = b.imul_const(unit, heads);
        let (zero, heads, all) = (b.int(0), b.size(heads), b.size(branch.heads));
        b.sync(Scope::Warp);
        g.for_(zero, heads, 1, |g, i| {
            let b = &mut g.b;
            let h = b.iadd(first, i);
            let there = b.compare(Compare::ULt, h, all);
            let at_head = b.imul_const(i, branch.head);
            let from = b.iadd(from, at_head);
            g.if_(there, |g| finish(g, at, branch, (sums, from), h))
        })?;
        g.b.sync(Scope::Warp);
        Ok(())
    })
}

/// Calls `f` for every i < `count`, spread over the lanes.
fn for_lanes(b: &mut Builder, at: &Thread, count: usize, f: impl FnOnce(&mut Builder, Value)) {
    let end = b.size(count);
    b.for_(at.lane, end, LANES as u32, f);
}

/// Finishes head `h`, whose products are at element `from` of `x`, in one warp.
fn finish(g: &mut Generator<'_>, at: &Thread, branch: &Branch, (x, from): (Buf, Value), h: Value) -> Result<()> {
    let head = branch.head;
    if let Some(bias) = branch.bias.map(|p| g.param(p)) {
        let b = &mut g.b;
        let first = b.imul_const(h, head);
        for_lanes(b, at, head, |b, i| {
            let (to, bias_at) = (b.iadd(from, i), b.iadd(first, i));
            let (v, bias) = (b.load(x, to, Mem::F32), b.load(bias, bias_at, Mem::F32));
            let v = b.fadd(v, bias);
            b.store(x, to, Mem::F32, v);
        });
        b.sync(Scope::Warp);
    }
    if let Some((weight, eps)) = branch.norm.map(|(p, eps)| (g.param(p), eps)) {
        norm(&mut g.b, at, (x, from), head, (weight, eps));
    }
    if let Some((style, angles, dim)) = branch.rope.map(|(style, p, dim)| (style, g.param(p), dim)) {
        let b = &mut g.b;
        let zero = b.int(0);
        for_lanes(b, at, dim / 2, |b, i| rotate(b, style, dim, (x, from), (angles, zero), i));
        b.sync(Scope::Warp);
    }
    match &branch.sink {
        Sink::Query(n) => {
            let y = g.result(*n)?;
            let b = &mut g.b;
            let to = b.imul_const(h, head);
            for_lanes(b, at, head, |b, i| {
                let (from, to) = (b.iadd(from, i), b.iadd(to, i));
                let v = b.load(x, from, Mem::F32);
                b.store(y, to, Mem::F32, v);
            });
        }
        Sink::Cache(p, ty) => {
            let zero = g.b.int(0);
            let CacheRow { cache, tile: row, .. } = CacheRow::new(g, (*p, ty), zero, h)?;
            let b = &mut g.b;
            if ty.elem == Elem::Ggml(F16) {
                for_lanes(b, at, head, |b, i| {
                    let from = b.iadd(from, i);
                    let v = b.load(x, from, Mem::F32);
                    let bits = b.to_half(v);
                    let to = b.imul_const(i, 2);
                    let to = b.iadd(row, to);
                    b.store(cache, to, Mem::U16, bits);
                });
            } else {
                append_int8(b, at, (x, from), head, (cache, row));
            }
        }
    }
    Ok(())
}

/// RMS norm of a head in place.
fn norm(b: &mut Builder, at: &Thread, (x, from): (Buf, Value), head: usize, (weight, eps): (Buf, f32)) {
    let zero = b.float(0.0);
    let squares = b.var(zero);
    for_lanes(b, at, head, |b, i| {
        let from = b.iadd(from, i);
        let (v, old) = (b.load(x, from, Mem::F32), b.get(squares));
        let new = b.fma(v, v, old);
        b.set(squares, new);
    });
    let squares = b.get(squares);
    let squares = gpu::lanes_sum(b, squares, LANES);
    let r = crate::math::inverse_root(b, squares, head, eps);
    for_lanes(b, at, head, |b, i| {
        let to = b.iadd(from, i);
        let (v, w) = (b.load(x, to, Mem::F32), b.load(weight, i, Mem::F32));
        let v = b.fmul(v, r);
        let v = b.fmul(v, w);
        b.store(x, to, Mem::F32, v);
    });
    b.sync(Scope::Warp);
}

/// Writes a head as 8-bit codes and f16 scales, a lane for each element of a block; elements past the head count as zero.
fn append_int8(b: &mut Builder, at: &Thread, (x, from): (Buf, Value), head: usize, (cache, row): (Buf, Value)) {
    let padded = head.next_multiple_of(Q8_BLOCK);
    for block in 0..padded / Q8_BLOCK {
        let zero = b.float(0.0);
        let v = b.var(zero);
        let i = b.iadd_const(at.lane, block * Q8_BLOCK);
        gpu::if_below(b, i, head, |b| {
            let from = b.iadd(from, i);
            let element = b.load(x, from, Mem::F32);
            b.set(v, element);
        });
        let v = b.get(v);
        let magnitude = b.fabs(v);
        let largest = gpu::lanes_max(b, magnitude, LANES);
        let (scale, inverse) = crate::math::scale_of(b, largest);
        let v = b.fmul(v, inverse);
        let code = b.round(v);
        let to = b.iadd(row, i);
        b.store(cache, to, Mem::I8, code);
        gpu::if_below(b, at.lane, 1, |b| {
            let bits = b.to_half(scale);
            let to = b.iadd_const(row, padded + 2 * block);
            b.store(cache, to, Mem::U16, bits);
        });
    }
}
