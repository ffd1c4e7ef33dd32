//! Scores and weighted sums over a block of KV positions: through a microkernel, or as code.

use super::matmul::sum_columns;
use crate::cache::Cache;
use crate::generator::Generator;
use ir::Result;
use ir::abi::{KV_BLOCK, KvEncoding, Meaning, Q8_BLOCK, TILE_ROWS};
use ir::kernel::{Arg, Buf, Builder, Mem, Value};
use ir::tensor::Layout;

impl Cache {
    /// Byte index of the block that begins with a position of a head.
    fn block(&self, b: &mut Builder, (h, p): (Value, Value)) -> Value {
        let first = b.imul_const(h, self.rows.head);
        // The positions of a block follow one another in a ring too, as it has whole blocks.
        let p = self.place(b, p);
        let block = b.imul_const(p, self.rows.block / KV_BLOCK);
        b.iadd(first, block)
    }

    /// Elements i.. i + 4 (i a multiple of 4) of the row at byte `row`.
    fn load4(&self, b: &mut Builder, row: Value, i: Value) -> Value {
        if self.encoding == KvEncoding::Halves {
            let at = b.imul_const(i, 2);
            let at = b.iadd(row, at);
            let lanes = [0, 1, 2, 3].map(|l| {
                let at = b.iadd_const(at, 2 * l);
                b.load(self.buf, at, Mem::U16)
            });
            let bits = b.pack(lanes);
            return b.from_half(bits);
        }
        let at = b.iadd(row, i);
        let lanes = [0, 1, 2, 3].map(|l| {
            let at = b.iadd_const(at, l);
            b.load(self.buf, at, Mem::I8)
        });
        let codes = b.pack(lanes);
        let codes = b.to_float(codes);
        let block = b.size(Q8_BLOCK);
        let block = b.udiv(i, block);
        let scale = self.scale(b, row, block);
        let scale = b.splat(scale);
        b.fmul(codes, scale)
    }
}

/// Positions of a block: how many there are, and the first that is wanted if it is not the first of all.
#[derive(Clone, Copy)]
pub(crate) struct Positions {
    pub first: Option<Value>,
    pub count: Value,
}

impl Positions {
    /// The first that is wanted, and how many are from there on. `whole`: from the first of its tile.
    fn range(self, b: &mut Builder, whole: bool) -> (Value, Value) {
        let Some(first) = self.first else { return (b.int(0), self.count) };
        let mask = b.int(-(TILE_ROWS as i32));
        let first = if whole { b.and(first, mask) } else { first };
        (first, b.isub(self.count, first))
    }
}

/// Calls the microkernel, if there is one for rows in this layout.
fn call(
    g: &mut Generator<'_>,
    (meaning, layouts): (Meaning, &[Layout]),
    cache: &Cache,
    operands: [Arg; 3],
    n: Value,
    rows: Value,
) -> bool {
    let Some(atom) = g.target.atom(meaning).filter(|_| layouts.contains(&cache.layout)) else { return false };
    let head = g.b.size(cache.head);
    let [x, y, z] = operands;
    g.b.call(atom, vec![x, y, z, Arg::Int(head), Arg::Int(n), Arg::Int(rows)]);
    true
}

/// s\[r * KV_BLOCK + i\] = q\[r\] . K\[p + i\] for `rows` rows and the positions that are wanted; those before and after
/// them in their tiles may be written too.
pub(crate) fn scores(
    g: &mut Generator<'_>,
    keys: &Cache,
    at: (Value, Value),
    q: Buf,
    s: Buf,
    positions: Positions,
    rows: Value,
) -> Result<()> {
    let zero = g.b.int(0);
    let base = keys.block(&mut g.b, at);
    let (first, n) = positions.range(&mut g.b, true);
    let skipped = g.b.imul_const(first, keys.rows.row);
    let from = g.b.iadd(base, skipped);
    let operands = [Arg::Address(q, zero), Arg::Address(keys.buf, from), Arg::Address(s, first)];
    if call(g, (Meaning::Scores(keys.encoding), &[Layout::Keys]), keys, operands, n, rows) {
        return Ok(());
    }
    if keys.layout != Layout::Rows {
        return Err(g.unsupported("keys in tiles"));
    }
    g.for_(positions.first.unwrap_or(zero), positions.count, 1, |g, i| {
        let row = g.b.imul_const(i, keys.rows.row);
        let row = g.b.iadd(base, row);
        g.for_(zero, rows, 1, |g, r| {
            let b = &mut g.b;
            let from = b.imul_const(r, keys.head);
            let score = sum_columns(b, keys.head, |b, c, acc| {
                let at = b.iadd(from, c);
                let x = b.load4(q, at, Mem::F32);
                let k = keys.load4(b, row, c);
                Ok(b.fma(x, k, acc))
            })?;
            let to = b.imul_const(r, KV_BLOCK);
            let to = b.iadd(to, i);
            b.store(s, to, Mem::F32, score);
            Ok(())
        })
    })
}

/// acc\[r\] += sum over the positions of s\[r * KV_BLOCK + i\] * V\[p + i\].
pub(crate) fn accumulate(
    g: &mut Generator<'_>,
    values: &Cache,
    at: (Value, Value),
    s: Buf,
    acc: Buf,
    positions: Positions,
    rows: Value,
) {
    let zero = g.b.int(0);
    let base = values.block(&mut g.b, at);
    let (first, n) = positions.range(&mut g.b, false);
    let skipped = g.b.imul_const(first, values.rows.row);
    let from = g.b.iadd(base, skipped);
    let operands = [Arg::Address(s, first), Arg::Address(values.buf, from), Arg::Address(acc, zero)];
    let layouts = &[Layout::Rows, Layout::Values];
    if call(g, (Meaning::Accumulate(values.encoding), layouts), values, operands, n, rows) {
        return;
    }
    let b = &mut g.b;
    b.for_(first, positions.count, 1, |b, i| {
        let row = b.imul_const(i, values.rows.row);
        let row = b.iadd(base, row);
        b.for_n(values.head, 4, |b, c| {
            let v = values.load4(b, row, c);
            b.for_(zero, rows, 1, |b, r| {
                let weight = b.imul_const(r, KV_BLOCK);
                let weight = b.iadd(weight, i);
                let weight = b.load(s, weight, Mem::F32);
                let weight = b.splat(weight);
                let at = b.imul_const(r, values.head);
                let at = b.iadd(at, c);
                let old = b.load4(acc, at, Mem::F32);
                let new = b.fma(v, weight, old);
                b.store(acc, at, Mem::F32, new);
            });
        });
    });
}
