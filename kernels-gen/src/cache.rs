//! Keys or values of a layer as attention reads them. How it loads elements is up to the machine: `cpu::attention` takes
//! four at a time, `ops/attention/gpu.rs` what a lane of a warp has.

use crate::body;
use crate::generator::Generator;
use ir::Result;
use ir::abi::{KV_BLOCK, KvEncoding, Q8_BLOCK};
use ir::graph::Ref;
use ir::kernel::{Buf, Builder, Mem, Value};
use ir::tensor::{KvRows, KvShape, Layout, TensorType, kv_rows, kv_shape};

/// Where the rows of a KV cache are, how they are encoded, and its figures, if the type is one's.
fn format(ty: &TensorType) -> Option<(KvRows, KvEncoding, KvShape)> {
    Some((kv_rows(ty)?, ty.elem.kv()?.encoding, kv_shape(ty)?))
}

/// Where a position lies among those that a cache holds.
fn place(b: &mut Builder, shape: KvShape, position: Value) -> Value {
    if !shape.ring {
        return position;
    }
    let positions = b.size(shape.positions);
    b.urem(position, positions)
}

/// A KV cache in its buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cache {
    pub buf: Buf,
    pub encoding: KvEncoding,
    /// Elements of a row.
    pub head: usize,
    pub rows: KvRows,
    pub layout: Layout,
    shape: KvShape,
}

impl Cache {
    /// The cache that is body parameter `param`.
    ///
    /// # Errors
    /// If its format is none of a KV cache.
    pub fn new(g: &Generator<'_>, param: u32, ty: &TensorType) -> Result<Cache> {
        let (rows, encoding, shape) = format(ty).ok_or_else(|| g.unsupported("this KV format"))?;
        Ok(Cache { buf: g.param(param), encoding, head: ty.columns(), rows, layout: ty.layout, shape })
    }

    /// Where a position lies among those that it holds.
    pub fn place(&self, b: &mut Builder, position: Value) -> Value {
        place(b, self.shape, position)
    }

    /// The scale of block number `block` of the row of codes at byte `row`.
    pub fn scale(&self, b: &mut Builder, row: Value, block: Value) -> Value {
        let at = b.imul_const(block, 2);
        let at = b.iadd(row, at);
        let at = b.iadd_const(at, self.head.next_multiple_of(Q8_BLOCK));
        let scale = b.load(self.buf, at, Mem::U16);
        b.from_half(scale)
    }
}

/// The row that a token appends to a head of a cache.
pub(crate) struct CacheRow {
    pub cache: Buf,
    pub encoding: KvEncoding,
    /// First byte of its tile, which is of one row unless rows are interleaved.
    pub tile: Value,
    pub tile_rows: usize,
    /// Which row of the tile it is, if there are several.
    pub lane: Option<Value>,
}

impl CacheRow {
    /// The row of token `t` in head `h` of the cache that is this body parameter.
    ///
    /// # Errors
    /// If it is none, or its format none of a KV cache.
    pub fn new(g: &mut Generator<'_>, cache: Ref, t: Value, h: Value) -> Result<CacheRow> {
        let body = g.body();
        let ty = body.ty(cache);
        let (Some(p), Some((rows, encoding, shape))) = (body::param(body, cache), format(ty)) else {
            return Err(g.unsupported("this KV format"));
        };
        let (cache, tile_rows) = (g.param(p), ty.layout.tile_rows());
        let b = &mut g.b;
        let position = b.position();
        let position = b.iadd(position, t);
        let position = place(b, shape, position);
        if ty.layout == Layout::Rows {
            let row = b.imul_const(position, rows.row);
            let first = b.imul_const(h, rows.head);
            return Ok(CacheRow { cache, encoding, tile: b.iadd(first, row), tile_rows, lane: None });
        }
        let (in_block, in_tile) = (b.size(KV_BLOCK), b.size(tile_rows));
        let (block, number) = (b.udiv(position, in_block), b.urem(position, in_block));
        let lane = (tile_rows > 1).then(|| b.urem(number, in_tile));
        let tile = b.udiv(number, in_tile);
        let (first, block) = (b.imul_const(h, rows.head), b.imul_const(block, rows.block));
        let (first, tile) = (b.iadd(first, block), b.imul_const(tile, tile_rows * rows.row));
        Ok(CacheRow { cache, encoding, tile: b.iadd(first, tile), tile_rows, lane })
    }

    /// Where the row's units of `bytes` bytes begin; the one at byte `n` of the row is `n * tile_rows` further on.
    pub fn units(&self, b: &mut Builder, bytes: usize) -> Value {
        let Some(lane) = self.lane else { return self.tile };
        let lane = b.imul_const(lane, bytes);
        b.iadd(self.tile, lane)
    }
}
