//! Matrix products: preparing the input rows (norm, int8 quantisation) and the dot products of weight tiles, through
//! a microkernel where the target has one, else as code over the format's `unpack`.

use crate::block::{Block, RowAt, UnpackFn, float_element, row_at};
use crate::body::{Linear, Matrix};
use crate::generator::Generator;
use crate::math::{inverse_root, scale_of};
use ir::abi::{Atom, Meaning, Q8_BLOCK, Q8_BYTES, Q8_SCALE, Q8_SUMS, TILE_ROWS, f32_row_bytes, q8_row_bytes};
use ir::kernel::{Arg, Buf, Builder, Mem, Value};
use ir::quant::{DotForm, FloatKind};
use ir::spec::Prologue;
use ir::tensor::Layout;
use ir::{Error, Result};

/// Bytes of one prepared row: the float row, then the int8 row, as far as the products want them.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowLayout {
    /// Byte offset of the float row.
    float: Option<usize>,
    /// Byte offset of the int8 row.
    int8: Option<usize>,
    float_stride: usize,
    int8_stride: usize,
}

impl RowLayout {
    pub fn new(columns: usize, matrices: &[Matrix], tokens: usize) -> RowLayout {
        let int8 = matrices.iter().any(Matrix::wants_int8);
        let float = matrices.iter().any(|m| !m.wants_int8());
        let (float_stride, int8_stride) = (f32_row_bytes(columns), q8_row_bytes(columns));
        RowLayout {
            float: float.then_some(0),
            int8: int8.then_some(if float { float_stride * tokens } else { 0 }),
            float_stride,
            int8_stride,
        }
    }

    /// Bytes for `tokens` rows.
    pub fn bytes(&self, tokens: usize) -> usize {
        let float = self.float.map_or(0, |_| self.float_stride * tokens);
        float + self.int8.map_or(0, |_| self.int8_stride * tokens)
    }

    /// Offset of the first row that `matrix` wants, and the stride of its rows.
    fn rows_for(&self, matrix: &Matrix) -> (usize, usize) {
        if matrix.wants_int8() {
            (self.int8.unwrap_or(0), self.int8_stride)
        } else {
            (self.float.unwrap_or(0), self.float_stride)
        }
    }
}

/// Input rows, prepared for the products of one kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows {
    pub(super) buf: Buf,
    pub(super) layout: RowLayout,
    /// The first that is meant; `None`: that of the buffer.
    pub(super) first: Option<Value>,
    /// How many there are in this step.
    pub count: Value,
}

impl Rows {
    /// So many of them.
    pub fn part(self, first: Value, count: Value) -> Rows {
        Rows { first: Some(first), count, ..self }
    }

    /// Byte of the first row that `matrix` wants, and the stride of its rows.
    fn rows_for(&self, b: &mut Builder, matrix: &Matrix) -> (Value, usize) {
        let (offset, stride) = self.layout.rows_for(matrix);
        let first = match self.first {
            Some(first) => b.imul_const(first, stride),
            None => b.int(0),
        };
        (b.iadd_const(first, offset), stride)
    }
}

/// Where the results of tiles go: those of the first tile to rows of `stride` floats in a buffer, from an element index on,
/// those of each following one `step` floats after.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TileOut {
    pub buf: Buf,
    pub index: Value,
    pub step: usize,
    pub stride: usize,
}

/// Prepares the rows that the products want, which share their source.
pub(crate) fn prepare(g: &mut Generator<'_>, products: &[Linear]) -> Result<Rows> {
    let source = products[0].source;
    let matrices: Vec<Matrix> = products.iter().map(|p| p.matrix).collect();
    let capacity = if source.one_row { 1 } else { g.spec.tokens };
    let layout = RowLayout::new(source.columns, &matrices, capacity);
    let x = g.param(source.x);
    let tokens = g.b.tokens();
    let one = g.b.int(1);
    let first = if source.last_token { g.b.isub(tokens, one) } else { g.b.int(0) };
    let count = if capacity == 1 { one } else { tokens };
    let norm = source.norm.map(|(w, eps)| (g.param(w), eps));
    let quantize = g.target.atom(Meaning::Quantize);
    let input = Input { x, columns: source.columns, norm, quantize, layout };
    let row = |b: &mut Builder, buf: Buf, t: Value| -> Result<()> {
        let from = b.iadd(first, t);
        let base = b.imul_const(from, f32_row_bytes(source.columns) / 4);
        let figures = input.figures(b, base)?;
        input.prepare(b, (base, figures), buf, t);
        Ok(())
    };
    let buf = fill(g, layout.bytes(capacity), count, row)?;
    Ok(Rows { buf, layout, first: None, count })
}

/// Prepares a row of each token for a product in the worker's own memory: floats of `x` from one on, those of each token
/// `stride` after those of the one before.
pub(crate) fn prepare_own(g: &mut Generator<'_>, m: Matrix, (x, first, stride): (Buf, Value, usize)) -> Result<Rows> {
    let layout = RowLayout::new(m.columns, &[m], g.spec.tokens);
    let buf = g.b.scratch("prepared", Mem::U8, layout.bytes(g.spec.tokens) as u64);
    let input = Input { x, columns: m.columns, norm: None, quantize: g.target.atom(Meaning::Quantize), layout };
    let (zero, count) = (g.b.int(0), g.b.tokens());
    g.for_(zero, count, 1, |g, t| {
        let b = &mut g.b;
        let before = b.imul_const(t, stride);
        let base = b.iadd(first, before);
        input.prepare(b, (base, None), buf, t);
        Ok(())
    })?;
    Ok(Rows { buf, layout, first: None, count })
}

/// Memory for so many bytes of prepared rows, which `prepare` fills for each of `count` tokens: every worker its own, for the
/// first, or all together.
pub(super) fn fill(
    g: &mut Generator<'_>,
    bytes: usize,
    count: Value,
    prepare: impl FnOnce(&mut Builder, Buf, Value) -> Result<()>,
) -> Result<Buf> {
    Ok(match g.cpu()?.prologue {
        Prologue::PerWorker => {
            let buf = g.b.scratch("prepared", Mem::U8, bytes as u64);
            let zero = g.b.int(0);
            prepare(&mut g.b, buf, zero)?;
            buf
        }
        Prologue::Shared => {
            let buf = g.workspace("prepared", Mem::U8, bytes);
            g.parallel(count, |g, t| prepare(&mut g.b, buf, t))?;
            g.b.barrier();
            buf
        }
    })
}

/// Adds up `f(vector of four columns)` over a row.
pub(crate) fn sum_columns(
    b: &mut Builder,
    columns: usize,
    mut f: impl FnMut(&mut Builder, Value, Value) -> Result<Value>,
) -> Result<Value> {
    let unroll = if columns.is_multiple_of(16) { 4 } else { 1 };
    let zero = b.float(0.0);
    let zero = b.splat(zero);
    let sums: Vec<_> = (0..unroll).map(|_| b.var(zero)).collect();
    let (from, to, c) = (b.int(0), b.size(columns), b.open_loop());
    for (i, &sum) in sums.iter().enumerate() {
        let at = b.iadd_const(c, 4 * i);
        let acc = b.get(sum);
        let acc = f(b, at, acc)?;
        b.set(sum, acc);
    }
    b.close_for(c, from, to, 4 * unroll as u32);
    let parts: Vec<_> = sums.iter().map(|&s| b.get(s)).collect();
    let total = parts.into_iter().reduce(|x, y| b.fadd(x, y)).unwrap_or(zero);
    Ok(b.sum(total))
}

/// 1 / sqrt(mean of squares + eps) of a row of floats at `base`.
fn inverse_rms(b: &mut Builder, buf: Buf, base: Value, columns: usize, eps: f32) -> Result<Value> {
    let squares = sum_columns(b, columns, |b, c, acc| {
        let at = b.iadd(base, c);
        let v = b.load4(buf, at, Mem::F32);
        Ok(b.fma(v, v, acc))
    })?;
    Ok(inverse_root(b, squares, columns, eps))
}

/// What prepared rows are made of.
pub(super) struct Input {
    /// Float rows.
    pub x: Buf,
    pub columns: usize,
    /// RMS norm: weights and epsilon.
    pub norm: Option<(Buf, f32)>,
    /// The microkernel that makes int8 rows, if there is one.
    pub quantize: Option<Atom>,
    pub layout: RowLayout,
}

impl Input {
    /// The norm of the row at float `base`: weights, and what elements are multiplied by.
    pub fn figures(&self, b: &mut Builder, base: Value) -> Result<Option<(Buf, Value)>> {
        let Some((w, eps)) = self.norm else { return Ok(None) };
        Ok(Some((w, inverse_rms(b, self.x, base, self.columns, eps)?)))
    }

    /// Prepares the row at float `base`, of these figures, as row `t` of `to`.
    pub fn prepare(&self, b: &mut Builder, (base, scale): (Value, Option<(Buf, Value)>), to: Buf, t: Value) {
        let (x, columns, layout) = (self.x, self.columns, &self.layout);
        let input = |b: &mut Builder, c: Value| {
            let at = b.iadd(base, c);
            let v = b.load4(x, at, Mem::F32);
            match scale {
                None => v,
                Some((w, r)) => {
                    let r = b.splat(r);
                    let v = b.fmul(v, r);
                    let w = b.load4(w, c, Mem::F32);
                    b.fmul(v, w)
                }
            }
        };
        if let Some(offset) = layout.float {
            let row = b.imul_const(t, layout.float_stride);
            let row = b.iadd_const(row, offset);
            b.for_n(columns, 4, |b, c| {
                let v = input(b, c);
                let at = b.imul_const(c, 4);
                let at = b.iadd(row, at);
                b.store(to, at, Mem::F32, v);
            });
        }
        let Some(offset) = layout.int8 else { return };
        let row = b.imul_const(t, layout.int8_stride);
        let row = b.iadd_const(row, offset);
        if let Some(atom) = self.quantize {
            let (factor, weights) = match scale {
                Some((w, r)) => (r, Arg::Address(w, b.int(0))),
                None => (b.float(1.0), Arg::Null),
            };
            let k = b.size(columns);
            let args = [Arg::Address(x, base), Arg::Address(to, row), Arg::Int(k), Arg::Float(factor), weights];
            b.call(atom, args.into());
            return;
        }
        b.for_n(columns, Q8_BLOCK as u32, |b, c| {
            let parts: Vec<Value> = (0..Q8_BLOCK / 4)
                .map(|i| {
                    let at = b.iadd_const(c, 4 * i);
                    input(b, at)
                })
                .collect();
            let at = b.imul_const(c, Q8_BYTES / Q8_BLOCK);
            let at = b.iadd(row, at);
            quantise_block(b, &parts, to, at);
        });
    }
}

/// max |x| / 127 over a block of vectors, and its reciprocal as [`scale_of`] gives it.
pub(crate) fn block_scale(b: &mut Builder, parts: &[Value]) -> (Value, Value) {
    let magnitudes: Vec<Value> = parts.iter().map(|&p| b.fabs(p)).collect();
    let largest = magnitudes.into_iter().reduce(|x, y| b.fmax(x, y)).expect("a block is not empty");
    let largest = b.max(largest);
    scale_of(b, largest)
}

/// round(x * inverse) of vectors, as bytes, four vectors a result.
pub(crate) fn codes(b: &mut Builder, parts: &[Value], inverse: Value) -> Vec<Value> {
    let inverse = b.splat(inverse);
    let rounded: Vec<Value> = parts
        .iter()
        .map(|&p| {
            let v = b.fmul(p, inverse);
            b.round(v)
        })
        .collect();
    rounded.chunks_exact(4).map(|c| b.narrow([c[0], c[1], c[2], c[3]])).collect()
}

/// Quantises 32 floats in eight vectors to the block at byte `at`, but for what atoms alone read.
fn quantise_block(b: &mut Builder, parts: &[Value], to: Buf, at: Value) {
    let (scale, inverse) = block_scale(b, parts);
    let scale_at = b.iadd_const(at, Q8_SCALE);
    b.store(to, scale_at, Mem::F32, scale);
    let (ones, zero) = (b.int(0x0101_0101), b.int(0));
    let (ones, zero) = (b.splat(ones), b.splat(zero));
    for (i, word) in codes(b, parts, inverse).into_iter().enumerate() {
        let codes_at = b.iadd_const(at, 16 * i);
        b.store(to, codes_at, Mem::I32, word);
        let sum = b.dot4(word, ones, zero);
        let sum = b.sum(sum);
        let sum_at = b.iadd_const(at, Q8_SUMS + 2 * i);
        b.store(to, sum_at, Mem::I16, sum);
    }
}

/// Computes tiles `first..end` of a product for all prepared rows: in the order of memory where they are whole bands.
pub(crate) fn tiles(
    g: &mut Generator<'_>,
    m: &Matrix,
    (first, end): (Value, Value),
    rows: &Rows,
    out: TileOut,
) -> Result<()> {
    let atom = g.target.atom(Meaning::Dot(m.format.dot)).filter(|_| m.layout == Layout::Rows16);
    let Some(atom) = atom else {
        return g.for_(first, end, 1, |g, tile| {
            let out = out.of(g, tile, first);
            tile_by_rows(g, m, tile, rows, out)
        });
    };
    let pieces = m.pieces();
    let (last, zero) = (g.b.size(pieces.count - 1), g.b.int(0));
    let last_columns = m.columns - (pieces.count - 1) * pieces.columns;
    let band = |g: &mut Generator<'_>, start: Value, stop: Value| {
        let of_piece = |g: &mut Generator<'_>, piece: Value, columns: usize| {
            g.for_(start, stop, 1, |g, tile| {
                let out = out.of(g, tile, first);
                dot_piece(g, atom, m, tile, (piece, columns), rows, out);
                Ok(())
            })
        };
        if pieces.count > 1 {
            g.for_(zero, last, 1, |g, piece| of_piece(g, piece, pieces.columns))?;
        }
        of_piece(g, last, last_columns)
    };
    if pieces.count == 1 {
        return band(g, first, end);
    }
    g.for_(first, end, pieces.tiles as u32, |g, start| {
        let stop = g.b.iadd_const(start, pieces.tiles);
        let stop = g.b.umin(stop, end);
        band(g, start, stop)
    })
}

impl TileOut {
    /// Rows of `columns` floats in a buffer of activations, tiles from `first` on. They are padded to whole tiles, so a last
    /// tile that is not full writes into the padding.
    pub fn in_rows(g: &mut Generator<'_>, buf: Buf, first: Value, columns: usize) -> TileOut {
        let index = g.b.imul_const(first, TILE_ROWS);
        TileOut { buf, index, step: TILE_ROWS, stride: f32_row_bytes(columns) / 4 }
    }

    /// Scratch memory of this name for the tiles of a unit, tile after tile.
    pub fn of_unit(g: &mut Generator<'_>, name: &str) -> Result<TileOut> {
        let (tiles, step) = (g.cpu()?.unit_tiles as usize, g.spec.tokens * TILE_ROWS);
        let buf = g.b.scratch(name, Mem::F32, (tiles * step * 4) as u64);
        Ok(TileOut { buf, index: g.b.int(0), step, stride: TILE_ROWS })
    }

    /// That of one tile of those from `first` on.
    pub fn of(self, g: &mut Generator<'_>, tile: Value, first: Value) -> TileOut {
        let number = g.b.isub(tile, first);
        let step = g.b.imul_const(number, self.step);
        TileOut { index: g.b.iadd(self.index, step), ..self }
    }
}

/// Adds a piece of `columns` columns of a tile; the first piece of a tile begins.
fn dot_piece(
    g: &mut Generator<'_>,
    atom: Atom,
    m: &Matrix,
    tile: Value,
    (piece, columns): (Value, usize),
    rows: &Rows,
    out: TileOut,
) {
    let pieces = m.pieces();
    let tile_bytes = |columns: usize| TILE_ROWS * m.format.bytes_of(columns as u64) as usize;
    let b = &mut g.b;
    let (offset, stride) = rows.rows_for(b, m);
    let tiles = b.size(pieces.tiles);
    let (band, in_band) = (b.udiv(tile, tiles), b.urem(tile, tiles));
    let band = b.imul_const(band, pieces.tiles * tile_bytes(m.columns));
    let before = b.imul_const(piece, pieces.tiles * tile_bytes(pieces.columns));
    let tiles_before = b.imul_const(in_band, tile_bytes(columns));
    let at = b.iadd(band, before);
    let at = b.iadd(at, tiles_before);
    let at = m.base.map_or(at, |base| b.iadd(base, at));
    let from = b.imul_const(piece, m.format.dot.activation_bytes(pieces.columns));
    let from = b.iadd(from, offset);
    let w = g.param(m.param);
    let b = &mut g.b;
    let (columns, stride, out_stride) = (b.size(columns), b.size(stride), b.size(out.stride));
    b.call(
        atom,
        vec![
            Arg::Address(w, at),
            Arg::Address(rows.buf, from),
            Arg::Address(out.buf, out.index),
            Arg::Int(columns),
            Arg::Int(rows.count),
            Arg::Int(stride),
            Arg::Int(out_stride),
            Arg::Int(piece),
        ],
    );
}

/// Computes one tile row by row.
fn tile_by_rows(g: &mut Generator<'_>, m: &Matrix, index: Value, rows: &Rows, out: TileOut) -> Result<()> {
    let w = g.param(m.param);
    let b = &mut g.b;
    let (offset, stride) = rows.rows_for(b, m);
    let first = b.imul_const(index, TILE_ROWS);
    let (limit, tile_rows) = (b.size(m.rows), b.size(TILE_ROWS));
    let left = b.isub(limit, first);
    let count = b.umin(left, tile_rows);
    let zero = b.int(0);
    let mut result = Ok(());
    b.for_(zero, rows.count, 1, |b, t| {
        let from = b.imul_const(t, stride);
        let from = b.iadd(from, offset);
        let to = b.imul_const(t, out.stride);
        let to = b.iadd(out.index, to);
        b.for_(zero, count, 1, |b, r| {
            let row = b.iadd(first, r);
            match dot(b, w, m, row, rows.buf, from) {
                Ok(v) => {
                    let at = b.iadd(to, r);
                    b.store(out.buf, at, Mem::F32, v);
                }
                Err(e) => result = Err(e),
            }
        });
    });
    result
}

/// The dot product of one weight row with one prepared row at byte `from`.
fn dot(b: &mut Builder, w: Buf, m: &Matrix, row: Value, acts: Buf, from: Value) -> Result<Value> {
    let row = row_at(b, m, row);
    match (m.format.dot, m.format.unpack) {
        (DotForm::Float(kind), _) => float_dot(b, w, m, kind, row, acts, from),
        (_, Some(unpack)) => Ok(int_dot(b, w, m, unpack, row, acts, from)),
        (form, None) => Err(Error::unsupported(format!("{form:?} without an unpack"), "write the format's unpack")),
    }
}

fn float_dot(
    b: &mut Builder,
    w: Buf,
    m: &Matrix,
    kind: FloatKind,
    row: RowAt,
    acts: Buf,
    from: Value,
) -> Result<Value> {
    sum_columns(b, m.columns, |b, c, acc| {
        let lanes = [0, 1, 2, 3].map(|i| {
            let c = b.iadd_const(c, i);
            float_element(b, w, m, kind, row, c)
        });
        let weights = b.pack(lanes);
        let at = b.imul_const(c, 4);
        let at = b.iadd(from, at);
        let x = b.load4(acts, at, Mem::F32);
        Ok(b.fma(weights, x, acc))
    })
}

fn int_dot(b: &mut Builder, w: Buf, m: &Matrix, unpack: UnpackFn, row: RowAt, acts: Buf, from: Value) -> Value {
    let zero = b.float(0.0);
    let zeros = b.splat(zero);
    let (total, rest) = (b.var(zeros), b.var(zero));
    let block = m.format.block as usize;
    b.for_n(m.columns / block, 1, |b, i| {
        let blocks_at = b.imul_const(i, block / Q8_BLOCK * Q8_BYTES);
        let blocks_at = b.iadd(from, blocks_at);
        let mut source = Block::new(b, w, m, row, i);
        let mut view = source.view(b);
        for e in (0..block).step_by(16) {
            let part = unpack(&mut view, e as u32);
            let (scale, plus) = (view.scale(part.scale), part.plus.map(|plus| view.scale(plus)));
            let weights = view.vector(part.codes);
            let b = view.builder();
            let block_at = b.iadd_const(blocks_at, e / Q8_BLOCK * Q8_BYTES);
            let at = b.iadd_const(block_at, e % Q8_BLOCK);
            let x = b.load4(acts, at, Mem::I32);
            let sum_at = b.iadd_const(block_at, Q8_SUMS + e % Q8_BLOCK / 16 * 2);
            let zero = b.int(0);
            let start = match m.format.dot.offset() {
                0 => b.splat(zero),
                offset => {
                    let sum = b.load(acts, sum_at, Mem::I16);
                    let offset = b.int(-i32::from(offset));
                    let less = b.imul(sum, offset);
                    b.pack([less, zero, zero, zero])
                }
            };
            let d = b.dot4(weights, x, start);
            let d = b.to_float(d);
            let at = b.iadd_const(block_at, Q8_SCALE);
            let x_scale = b.load(acts, at, Mem::F32);
            let scale = b.fmul(scale, x_scale);
            let scale = b.splat(scale);
            let acc = b.get(total);
            let acc = b.fma(d, scale, acc);
            b.set(total, acc);
            if let Some(plus) = plus {
                let sum = b.load(acts, sum_at, Mem::I16);
                let sum = b.to_float(sum);
                let sum = b.fmul(sum, x_scale);
                let acc = b.get(rest);
                let acc = b.fma(sum, plus, acc);
                b.set(rest, acc);
            }
        }
    });
    let (total, rest) = (b.get(total), b.get(rest));
    let total = b.sum(total);
    b.fadd(total, rest)
}

/// Calls `f` with the first tile and the end of each unit of tiles of `count`, spread over the workers.
pub(crate) fn for_units(
    g: &mut Generator<'_>,
    count: usize,
    f: impl FnOnce(&mut Generator<'_>, Value, Value) -> Result<()>,
) -> Result<()> {
    let unit = g.cpu()?.unit_tiles as usize;
    let units = g.b.size(count.div_ceil(unit));
    g.parallel(units, |g, u| {
        let (first, end) = span(&mut g.b, u, unit, count);
        f(g, first, end)
    })
}

/// The first and the end of unit `number` of so many of `count`.
pub(crate) fn span(b: &mut Builder, number: Value, unit: usize, count: usize) -> (Value, Value) {
    let first = b.imul_const(number, unit);
    let (end, limit) = (b.iadd_const(first, unit), b.size(count));
    (first, b.umin(end, limit))
}
