//! A worker of a CPU as a [`Team`] of one, and what it appends to KV caches.

use super::matmul::{block_scale, codes, sum_columns};
use crate::cache::CacheRow;
use crate::elements::{Head, Team};
use crate::generator::Generator;
use ir::Result;
use ir::abi::{KvEncoding, Q8_BLOCK};
use ir::graph::Ref;
use ir::kernel::{Buf, Builder, Mem, Value};

/// One worker, four elements at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Worker;

impl Team for Worker {
    const VECTOR: bool = true;

    fn each(&self, b: &mut Builder, count: usize, f: impl FnOnce(&mut Builder, Value) -> Result<()>) -> Result<()> {
        counted(b, count, 4, f)
    }

    fn singly(&self, b: &mut Builder, count: usize, f: impl FnOnce(&mut Builder, Value) -> Result<()>) -> Result<()> {
        counted(b, count, 1, f)
    }

    fn sum(
        &self,
        b: &mut Builder,
        count: usize,
        f: impl FnMut(&mut Builder, Value, Value) -> Result<Value>,
    ) -> Result<Value> {
        sum_columns(b, count, f)
    }

    fn total(&self, _: &mut Builder, own: Value) -> Value {
        own
    }

    fn sync(&self, _: &mut Builder) {}
}

/// One worker, one element at a time, where rows are no multiples of four.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Single;

impl Team for Single {
    const VECTOR: bool = false;

    fn each(&self, b: &mut Builder, count: usize, f: impl FnOnce(&mut Builder, Value) -> Result<()>) -> Result<()> {
        counted(b, count, 1, f)
    }

    fn total(&self, _: &mut Builder, own: Value) -> Value {
        own
    }

    fn sync(&self, _: &mut Builder) {}
}

fn counted(b: &mut Builder, count: usize, step: u32, f: impl FnOnce(&mut Builder, Value) -> Result<()>) -> Result<()> {
    let (from, to) = (b.int(0), b.size(count));
    let index = b.open_loop();
    f(b, index)?;
    b.close_for(index, from, to, step);
    Ok(())
}

/// Appends token `t`'s head, which is in its scratch memory, to the cache that is this body parameter.
///
/// # Errors
/// If the format is none of a KV cache.
pub(crate) fn append(g: &mut Generator<'_>, cache: Ref, t: Value, head: Head) -> Result<()> {
    let row = CacheRow::new(g, cache, t, head.number)?;
    let append = match row.encoding {
        KvEncoding::Halves => append_half,
        KvEncoding::Codes => append_int8,
    };
    append(&mut g.b, head.scratch, head.size, &row);
    Ok(())
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
