//! `qkv`: norm, the three products, then head by head bias, QK norm, rotation, and the append to the KV cache.
//!
//! A worker takes a head at a time (two where a head is no multiple of the tile), so that a head's rows are all at hand
//! for its epilogue.

mod gpu;

use crate::body::{self, Linear};
use crate::cpu::matmul::{self, TileOut, block_scale, codes, inverse_rms};
use crate::generator::Generator;
use ir::Result;
use ir::abi::{KV_BLOCK, Q8_BLOCK, TILE_ROWS, f32_row_bytes};
use ir::graph::{Graph, Op, Ref, RopeStyle};
use ir::kernel::{Buf, Builder, Compare, Mem, Value};
use ir::quant::F16;
use ir::tensor::{Elem, Layout, TensorType, kv_rows};

/// What follows one of the three products.
struct Branch {
    product: Linear,
    bias: Option<u32>,
    /// Weight parameter and epsilon.
    norm: Option<(u32, f32)>,
    /// Style, angles parameter, rotated elements.
    rope: Option<(RopeStyle, u32, usize)>,
    heads: usize,
    head: usize,
    sink: Sink,
}

enum Sink {
    /// Result number.
    Query(usize),
    /// State parameter and its type.
    Cache(u32, TensorType),
}

/// The row that a token appends to a head of a cache.
struct CacheRow {
    cache: Buf,
    /// First byte of its tile, which is of one row unless rows are interleaved.
    tile: Value,
    tile_rows: usize,
    /// Which row of the tile it is, if there are several.
    lane: Option<Value>,
}

impl CacheRow {
    /// The row of token `t` in head `h` of the cache that is parameter `p`.
    fn new(g: &mut Generator<'_>, (p, ty): (u32, &TensorType), t: Value, h: Value) -> Result<CacheRow> {
        let rows = kv_rows(ty).ok_or_else(|| g.unsupported("this KV format"))?;
        let (cache, tile_rows) = (g.param(p), ty.layout.tile_rows());
        let b = &mut g.b;
        let position = b.position();
        let position = b.iadd(position, t);
        if ty.layout == Layout::Rows {
            let row = b.imul_const(position, rows.row);
            let first = b.imul_const(h, rows.head);
            return Ok(CacheRow { cache, tile: b.iadd(first, row), tile_rows, lane: None });
        }
        let (in_block, in_tile) = (b.size(KV_BLOCK), b.size(tile_rows));
        let (block, number) = (b.udiv(position, in_block), b.urem(position, in_block));
        let lane = (tile_rows > 1).then(|| b.urem(number, in_tile));
        let tile = b.udiv(number, in_tile);
        let (first, block) = (b.imul_const(h, rows.head), b.imul_const(block, rows.block));
        let (first, tile) = (b.iadd(first, block), b.imul_const(tile, tile_rows * rows.row));
        Ok(CacheRow { cache, tile: b.iadd(first, tile), tile_rows, lane })
    }

    /// Where the row's units of `bytes` bytes begin; the one at byte `n` of the row is `n * tile_rows` further on.
    fn units(&self, b: &mut Builder, bytes: usize) -> Value {
        let Some(lane) = self.lane else { return self.tile };
        let lane = b.imul_const(lane, bytes);
        b.iadd(self.tile, lane)
    }
}

/// Reads an output of the body back to its product: append, rotation, norm of each head, division into heads, bias. Each is
/// there once or, but for the division, not at all; anything else, also in another order, is not read.
fn branch(body: &Graph, index: usize) -> Option<Branch> {
    let mut value: Ref = body.outputs()[index].1;
    let mut sink = Sink::Query(index);
    if body::node(body, value).op == Op::KvAppend {
        let inputs = &body::node(body, value).inputs;
        sink = Sink::Cache(body::param(body, inputs[0])?, body.ty(inputs[0]).clone());
        value = inputs[1];
    }
    let &[_, heads, head] = body.ty(value).shape.as_slice() else { return None };
    let mut rope = None;
    if let Op::Rope { style } = body::node(body, value).op {
        let angles = body::node(body, value).inputs[1];
        rope = Some((style, body::param(body, angles)?, body.ty(angles).columns()));
        value = body::node(body, value).inputs[0];
    }
    let mut norm = None;
    if let Op::RmsNorm { eps } = body::node(body, value).op {
        norm = Some((body::param(body, body::node(body, value).inputs[1])?, eps.0));
        value = body::node(body, value).inputs[0];
    }
    let Op::Reshape(_) = body::node(body, value).op else { return None };
    value = body::node(body, value).inputs[0];
    let mut bias = None;
    if body::node(body, value).op == Op::Add {
        bias = Some(body::vector(body, body::node(body, value).inputs[1])?);
        value = body::node(body, value).inputs[0];
    }
    let product = body::linear(body, value)?;
    (product.matrix.rows == heads * head).then_some(Branch { product, bias, norm, rope, heads, head, sink })
}

pub(super) fn covers(body: &Graph) -> bool {
    body.nodes().iter().any(|n| n.op == Op::KvAppend)
}

pub(super) fn generate(g: &mut Generator<'_>) -> Result<()> {
    let body = g.body();
    let branches: Option<Vec<Branch>> = (0..body.outputs().len()).map(|i| branch(body, i)).collect();
    let Some(branches) = branches else {
        return Err(g.unsupported("a result that is no projection"));
    };
    let products: Vec<Linear> = branches.iter().map(|b| b.product).collect();
    if g.target.gpu().is_some() {
        return gpu::generate(g, &branches, &products);
    }
    let rows = matmul::prepare(g, &products)?;
    let unit_rows = |b: &Branch| b.head * if b.head.is_multiple_of(TILE_ROWS) { 1 } else { 2 };
    let widest = branches.iter().map(unit_rows).max().unwrap_or(TILE_ROWS);
    let out = g.b.scratch("heads", Mem::F32, (g.spec.tokens * widest * 4) as u64);
    for branch in &branches {
        let stride = unit_rows(branch);
        let units = (branch.heads * branch.head).div_ceil(stride);
        let count = g.b.size(units);
        g.parallel(count, |g, unit| {
            let tiles = stride / TILE_ROWS;
            let first = g.b.imul_const(unit, tiles);
            let end = g.b.iadd_const(first, tiles);
            let limit = g.b.size(branch.product.matrix.tiles());
            let end = g.b.umin(end, limit);
            let zero = g.b.int(0);
            let to = TileOut { buf: out, index: zero, step: TILE_ROWS, stride };
            matmul::tiles(g, &branch.product.matrix, (first, end), &rows, to)?;
            g.for_(zero, rows.count, 1, |g, t| {
                for k in 0..stride / branch.head {
                    let h = g.b.imul_const(unit, stride / branch.head);
                    let h = g.b.iadd_const(h, k);
                    let at = g.b.imul_const(t, stride);
                    let at = g.b.iadd_const(at, k * branch.head);
                    let heads = g.b.size(branch.heads);
                    let there = g.b.compare(Compare::ULt, h, heads);
                    epilogue(g, branch, there, out, at, t, h)?;
                }
                Ok(())
            })
        })?;
    }
    Ok(())
}

/// Finishes head `h` of token `t`, whose products are at element `at` of `out`, if it is `there`.
fn epilogue(
    g: &mut Generator<'_>,
    branch: &Branch,
    there: Value,
    out: Buf,
    at: Value,
    t: Value,
    h: Value,
) -> Result<()> {
    let head = branch.head;
    let bias = branch.bias.map(|p| g.param(p));
    let norm = branch.norm.map(|(p, eps)| (g.param(p), eps));
    let rope = branch.rope.map(|(style, p, dim)| (style, g.param(p), dim));
    g.if_(there, |g| {
        let b = &mut g.b;
        if let Some(bias) = bias {
            let first = b.imul_const(h, head);
            b.for_n(head, 4, |b, i| {
                let (at, from) = (b.iadd(at, i), b.iadd(first, i));
                let (x, y) = (b.load4(out, at, Mem::F32), b.load4(bias, from, Mem::F32));
                let v = b.fadd(x, y);
                b.store(out, at, Mem::F32, v);
            });
        }
        if let Some((w, eps)) = norm {
            let r = inverse_rms(b, out, at, head, eps);
            let r = b.splat(r);
            b.for_n(head, 4, |b, i| {
                let at = b.iadd(at, i);
                let (x, w) = (b.load4(out, at, Mem::F32), b.load4(w, i, Mem::F32));
                let v = b.fmul(x, r);
                let v = b.fmul(v, w);
                b.store(out, at, Mem::F32, v);
            });
        }
        if let Some((style, angles, dim)) = rope {
            let angles_at = b.imul_const(t, f32_row_bytes(dim) / 4);
            b.for_n(dim / 2, 1, |b, i| rotate(b, style, dim, (out, at), (angles, angles_at), i));
        }
        match &branch.sink {
            Sink::Query(n) => {
                let y = g.result(*n)?;
                let b = &mut g.b;
                let row = b.imul_const(t, f32_row_bytes(branch.heads * head) / 4);
                let first = b.imul_const(h, head);
                let row = b.iadd(row, first);
                b.for_n(head, 4, |b, i| {
                    let (from, to) = (b.iadd(at, i), b.iadd(row, i));
                    let v = b.load4(out, from, Mem::F32);
                    b.store(y, to, Mem::F32, v);
                });
            }
            Sink::Cache(p, ty) => {
                let row = CacheRow::new(g, (*p, ty), t, h)?;
                let append = if ty.elem == Elem::Ggml(F16) { append_half } else { append_int8 };
                append(&mut g.b, (out, at), head, &row);
            }
        }
        Ok(())
    })
}

/// Rotates pair `i` of the head in place.
fn rotate(b: &mut Builder, style: RopeStyle, dim: usize, (out, at): (Buf, Value), angles: (Buf, Value), i: Value) {
    let (first, second) = match style {
        RopeStyle::Adjacent => {
            let even = b.imul_const(i, 2);
            (even, b.iadd_const(even, 1))
        }
        RopeStyle::Halves => (i, b.iadd_const(i, dim / 2)),
    };
    let (first, second) = (b.iadd(at, first), b.iadd(at, second));
    let angle = b.imul_const(i, 2);
    let cos_at = b.iadd(angles.1, angle);
    let sin_at = b.iadd_const(cos_at, 1);
    let (cos, sin) = (b.load(angles.0, cos_at, Mem::F32), b.load(angles.0, sin_at, Mem::F32));
    let (x, y) = (b.load(out, first, Mem::F32), b.load(out, second, Mem::F32));
    let (xc, ys, xs, yc) = (b.fmul(x, cos), b.fmul(y, sin), b.fmul(x, sin), b.fmul(y, cos));
    let (x, y) = (b.fsub(xc, ys), b.fadd(xs, yc));
    b.store(out, first, Mem::F32, x);
    b.store(out, second, Mem::F32, y);
}

/// Writes a head as f16.
fn append_half(b: &mut Builder, (out, at): (Buf, Value), head: usize, row: &CacheRow) {
    let units = row.units(b, 2);
    b.for_n(head, 4, |b, i| {
        let from = b.iadd(at, i);
        let v = b.load4(out, from, Mem::F32);
        let bits = b.to_half(v);
        let to = b.imul_const(i, 2 * row.tile_rows);
        let to = b.iadd(units, to);
        for lane in 0..4 {
            let bits = b.lane(bits, lane);
            let to = b.iadd_const(to, 2 * row.tile_rows * usize::from(lane));
            b.store(row.cache, to, Mem::U16, bits);
        }
    });
}

/// Writes a head as 8-bit codes and f16 scales; elements past the head count as zero.
fn append_int8(b: &mut Builder, (out, at): (Buf, Value), head: usize, row: &CacheRow) {
    let (code_at, scale_at) = (row.units(b, 1), row.units(b, 2));
    let zero = b.float(0.0);
    let zero = b.splat(zero);
    let padded = head.next_multiple_of(Q8_BLOCK);
    for block in 0..padded / Q8_BLOCK {
        let parts: Vec<Value> = (0..Q8_BLOCK / 4)
            .map(|i| {
                let i = block * Q8_BLOCK + 4 * i;
                if i >= head {
                    return zero;
                }
                let from = b.iadd_const(at, i);
                b.load4(out, from, Mem::F32)
            })
            .collect();
        let (scale, inverse) = block_scale(b, &parts);
        for (i, word) in codes(b, &parts, inverse).into_iter().enumerate() {
            let first = block * Q8_BLOCK + 16 * i;
            if row.lane.is_none() {
                let to = b.iadd_const(code_at, first);
                b.store(row.cache, to, Mem::I32, word);
                continue;
            }
            for n in 0..16u8 {
                let four = b.lane(word, n / 4);
                let code = b.byte(four, n % 4, true);
                let to = b.iadd_const(code_at, (first + usize::from(n)) * row.tile_rows);
                b.store(row.cache, to, Mem::I8, code);
            }
        }
        let bits = b.to_half(scale);
        let to = b.iadd_const(scale_at, (padded + 2 * block) * row.tile_rows);
        b.store(row.cache, to, Mem::U16, bits);
    }
}
