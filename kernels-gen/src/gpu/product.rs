//! Matrix products over the grid: a static split of all tiles over the CTAs (stream-K; Osama et al. 2023).
//!
//! The rows of a product come in units, which an epilogue finishes as a whole: 32 rows, or as many as whole heads fill.
//! A unit is made of row groups, 32 rows of one matrix, and a row group of chunks of columns. CTA c takes the chunks from
//! c T / G on, of all T; its warps take turns. A unit that several CTAs share is summed up, in the order of the CTAs, by
//! the one that comes last, which then runs the epilogue: so results do not depend on which that is.

use super::dot::{chunk, dot};
use super::rows::{self, Row};
use super::{LANES, Place, for_threads, if_below};
use crate::body::{Linear, Matrix};
use crate::generator::Generator;
use ir::Result;
use ir::kernel::{Buf, Builder, Compare, Mem, Scope, Value};

/// Rows of a unit, one after the other, of each of its matrices.
#[derive(Debug, Clone)]
pub(crate) struct Product {
    pub matrices: Vec<Matrix>,
    /// Rows of a unit in each matrix, a multiple of 32.
    pub unit_rows: usize,
}

/// A whole kernel of one product; `epilogue(row, sum)` finishes each row, in one thread.
///
/// # Errors
/// As [`Product::run`].
pub(crate) fn single(
    g: &mut Generator<'_>,
    linear: Linear,
    epilogue: impl FnOnce(&mut Builder, Value, Value),
) -> Result<()> {
    let product = Product { matrices: vec![linear.matrix], unit_rows: LANES };
    let ctas = product.ctas(g)?;
    let at = super::begin(g, ctas)?;
    let row = rows::prepare(g, &at, &[linear])?;
    product.run(g, &at, &row, ctas, |g, unit, sums| {
        if_below(&mut g.b, at.thread, LANES, |b| {
            let to = b.imul_const(unit, LANES);
            let to = b.iadd(to, at.lane);
            if_below(b, to, linear.matrix.rows, |b| {
                let sum = b.load(sums, at.lane, Mem::F32);
                epilogue(b, to, sum);
            });
        });
        Ok(())
    })
}

/// The figures of a product on a grid.
#[derive(Debug, Clone, Copy)]
struct Split {
    /// Columns of a chunk, and chunks of a row group.
    columns: usize,
    chunks: usize,
    /// Row groups of a unit.
    groups: usize,
    units: usize,
    ctas: usize,
}

impl Split {
    fn items(&self) -> usize {
        self.units * self.groups * self.chunks
    }

    /// The first item of CTA `c`.
    fn first(&self, b: &mut Builder, c: Value) -> Value {
        let (items, ctas) = (b.size(self.items()), b.size(self.ctas));
        let scaled = b.imul(c, items);
        b.udiv(scaled, ctas)
    }

    /// The CTA that has item `i`.
    fn owner(&self, b: &mut Builder, i: Value) -> Value {
        let (items, ctas, one) = (b.size(self.items()), b.size(self.ctas), b.int(1));
        let next = b.iadd(i, one);
        let scaled = b.imul(next, ctas);
        let scaled = b.isub(scaled, one);
        b.udiv(scaled, items)
    }

    /// Most CTAs that share a unit.
    fn owners(&self) -> usize {
        (self.ctas / self.units + 2).min(self.ctas)
    }
}

impl Product {
    /// Units of all rows.
    fn units(&self) -> usize {
        self.matrices.iter().map(|m| m.rows.div_ceil(self.unit_rows)).max().unwrap_or(0)
    }

    fn split(&self, chunk_columns: usize, ctas: usize) -> Split {
        let columns = self.matrices.iter().map(|m| chunk(m, chunk_columns)).max().unwrap_or(chunk_columns);
        let chunks = self.matrices[0].columns / columns;
        let groups = self.matrices.len() * self.unit_rows / LANES;
        let units = self.units();
        // Each CTA has an item, so that every one between the first and the last of a unit has some of it.
        Split { columns, chunks, groups, units, ctas: ctas.min(units * groups * chunks) }
    }

    /// CTAs that have work, of at most what the schedule says.
    pub fn ctas(&self, g: &Generator<'_>) -> Result<usize> {
        let schedule = g.gpu()?;
        let split = self.split(schedule.chunk as usize, 1);
        Ok(split.items().div_ceil(schedule.warps as usize).clamp(1, schedule.ctas as usize))
    }

    /// Computes the product of `row` on `ctas` CTAs and calls `epilogue(unit, sums)` for each unit, in one CTA: its sums, 32
    /// floats for each row group, are in shared memory.
    ///
    /// # Errors
    /// For a format without an `unpack`, or matrices of more items than 32 bits can number.
    pub fn run(
        &self,
        g: &mut Generator<'_>,
        at: &Place,
        row: &Row,
        ctas: usize,
        epilogue: impl FnOnce(&mut Generator<'_>, Value, Buf) -> Result<()>,
    ) -> Result<()> {
        let split = self.split(g.gpu()?.chunk as usize, ctas);
        if (split.items() as u64 + 1) * ctas as u64 > u64::from(u32::MAX) {
            return Err(g.unsupported(&format!("{} chunks of columns", split.items())));
        }
        let sums = g.b.scratch("sums", Mem::F32, (split.groups * LANES * 4) as u64);
        let parts = g.b.scratch("parts", Mem::F32, (at.threads() * 4) as u64);
        let flag = g.b.scratch("last", Mem::I32, 4);
        let floats = split.units * split.owners() * split.groups * LANES;
        let partials = g.workspace("partials", Mem::F32, floats * 4);
        let counters = g.counters("arrived", split.units);
        let shared = Shared { split, sums, partials, counters, flag };

        let b = &mut g.b;
        let (groups, chunks, zero, one) = (b.size(split.groups), b.size(split.chunks), b.int(0), b.int(1));
        let first = split.first(b, at.cta);
        let next = b.iadd(at.cta, one);
        let end = split.first(b, next);
        let cursor = b.iadd(first, at.warp);
        let cursor = b.var(cursor);
        let (from, to) = (b.udiv(first, chunks), b.iadd_const(end, split.chunks - 1));
        let to = b.udiv(to, chunks);
        // A CTA without items has no row groups either.
        let ctas = b.size(split.ctas);
        let some = b.compare(Compare::ULt, at.cta, ctas);
        let to = b.select(some, to, from);
        g.for_(from, to, 1, |g, group| {
            let (unit, part) = (g.b.udiv(group, groups), g.b.urem(group, groups));
            let total = self.group(g, at, &split, row, (group, unit, part), cursor, end)?;
            g.b.store(parts, at.thread, Mem::F32, total);
            g.b.sync(Scope::Cta);
            let owners = shared.owners(&mut g.b, unit);
            let alone = g.b.compare(Compare::IEq, owners.1, one);
            let b = &mut g.b;
            if_below(b, at.thread, LANES, |b| {
                let mut total = b.float(0.0);
                for w in 0..at.warps {
                    let from = b.iadd_const(at.lane, w * LANES);
                    let v = b.load(parts, from, Mem::F32);
                    total = b.fadd(total, v);
                }
                let to = b.imul_const(part, LANES);
                let to = b.iadd(to, at.lane);
                b.if_else(
                    alone,
                    |b| b.store(sums, to, Mem::F32, total),
                    |b| {
                        let slot = b.isub(at.cta, owners.0);
                        let slot = shared.slot(b, unit, slot);
                        let to = b.iadd(slot, to);
                        b.store(partials, to, Mem::F32, total);
                    },
                );
            });
            b.sync(Scope::Cta);
            // The unit ends for this CTA with its last row group, or with the CTA's.
            let (following, limit) = (b.iadd(group, one), b.isub(groups, one));
            let whole = b.compare(Compare::IEq, part, limit);
            let last = b.compare(Compare::IEq, following, to);
            let (yes, no) = (b.int(1), zero);
            let last = b.select(last, yes, no);
            let ends = b.select(whole, yes, last);
            let ends = b.compare(Compare::IEq, ends, yes);
            let run = g.b.var(no);
            let b = &mut g.b;
            b.if_(ends, |b| {
                b.if_else(alone, |b| b.set(run, yes), |b| shared.arrive(b, at, unit, owners, run));
            });
            let run = g.b.get(run);
            let run = g.b.compare(Compare::IEq, run, yes);
            g.if_(run, |g| {
                epilogue(g, unit, sums)?;
                g.b.sync(Scope::Cta);
                Ok(())
            })
        })
    }

    /// This lane's sum over the chunks of row group `group` that are this warp's; moves the cursor past them.
    #[allow(clippy::too_many_arguments)]
    fn group(
        &self,
        g: &mut Generator<'_>,
        at: &Place,
        split: &Split,
        row: &Row,
        (group, unit, part): (Value, Value, Value),
        cursor: ir::kernel::Var,
        end: Value,
    ) -> Result<Value> {
        let b = &mut g.b;
        let first = b.imul_const(group, split.chunks);
        let stop = b.iadd_const(first, split.chunks);
        let stop = b.umin(stop, end);
        let start = b.get(cursor);
        let zero = b.float(0.0);
        let acc = b.var(zero);
        let in_matrix = self.unit_rows / LANES;
        for (number, m) in self.matrices.iter().enumerate() {
            let w = g.param(m.param);
            let b = &mut g.b;
            // The row group's place in this matrix; wraps to a large number if it is in one before.
            let own = b.size(number * in_matrix);
            let own = b.isub(part, own);
            let tiles = b.imul_const(unit, in_matrix);
            let tile = b.iadd(tiles, own);
            let limit = b.size(in_matrix);
            let mine = b.compare(Compare::ULt, own, limit);
            // Rows past the last tile belong to units that are not full.
            let limit = b.size(m.rows.div_ceil(LANES));
            let there = b.compare(Compare::ULt, tile, limit);
            let stop = b.select(mine, stop, start);
            let stop = b.select(there, stop, start);
            let tile = b.imul_const(tile, m.row_bytes() * LANES);
            g.for_(start, stop, at.warps as u32, |g, item| {
                let b = &mut g.b;
                let index = b.isub(item, first);
                let old = b.get(acc);
                let new = dot(b, m, (w, tile, at.lane), row, (index, split.columns), old)?;
                b.set(acc, new);
                Ok(())
            })?;
        }
        let b = &mut g.b;
        let more = b.compare(Compare::ULt, start, stop);
        b.if_(more, |b| {
            let left = b.isub(stop, start);
            let left = b.iadd_const(left, at.warps - 1);
            let warps = b.size(at.warps);
            let turns = b.udiv(left, warps);
            let taken = b.imul_const(turns, at.warps);
            let next = b.iadd(start, taken);
            b.set(cursor, next);
        });
        Ok(g.b.get(acc))
    }
}

/// What CTAs share about the units of a product.
#[derive(Debug, Clone, Copy)]
struct Shared {
    split: Split,
    sums: Buf,
    /// For each unit, owner and row group, 32 floats.
    partials: Buf,
    counters: Buf,
    flag: Buf,
}

impl Shared {
    /// The first CTA that has items of a unit, and how many do.
    fn owners(&self, b: &mut Builder, unit: Value) -> (Value, Value) {
        let per_unit = self.split.groups * self.split.chunks;
        let first = b.imul_const(unit, per_unit);
        let last = b.iadd_const(first, per_unit - 1);
        let (first, last) = (self.split.owner(b, first), self.split.owner(b, last));
        let count = b.isub(last, first);
        (first, b.iadd_const(count, 1))
    }

    /// Where the sums of a unit's owner number `slot` are.
    fn slot(&self, b: &mut Builder, unit: Value, slot: Value) -> Value {
        let at = b.imul_const(unit, self.split.owners());
        let at = b.iadd(at, slot);
        b.imul_const(at, self.split.groups * LANES)
    }

    /// Counts this CTA in. The last one sums up what all have left, in their order, and sets `run`.
    fn arrive(&self, b: &mut Builder, at: &Place, unit: Value, owners: (Value, Value), run: ir::kernel::Var) {
        let (zero, one) = (b.int(0), b.int(1));
        if_below(b, at.thread, 1, |b| {
            let before = b.atomic_add(self.counters, unit, one);
            b.store(self.flag, zero, Mem::I32, before);
        });
        b.sync(Scope::Cta);
        let before = b.load(self.flag, zero, Mem::I32);
        let count = b.iadd(before, one);
        let last = b.compare(Compare::IEq, count, owners.1);
        b.if_(last, |b| {
            for_threads(b, at, self.split.groups * LANES, |b, i| {
                let lanes = b.size(LANES);
                let part = b.udiv(i, lanes);
                let group = b.imul_const(unit, self.split.groups);
                let group = b.iadd(group, part);
                let first = b.imul_const(group, self.split.chunks);
                let end = b.iadd_const(first, self.split.chunks - 1);
                let (from, to) = (self.split.owner(b, first), self.split.owner(b, end));
                let (from, to) = (b.isub(from, owners.0), b.isub(to, owners.0));
                let to = b.iadd(to, one);
                let nothing = b.float(0.0);
                let total = b.var(nothing);
                b.for_(from, to, 1, |b, slot| {
                    let from = self.slot(b, unit, slot);
                    let from = b.iadd(from, i);
                    let v = b.load(self.partials, from, Mem::F32);
                    let old = b.get(total);
                    let new = b.fadd(old, v);
                    b.set(total, new);
                });
                let total = b.get(total);
                b.store(self.sums, i, Mem::F32, total);
            });
            if_below(b, at.thread, 1, |b| b.store(self.counters, unit, Mem::I32, zero));
            b.set(run, one);
        });
        b.sync(Scope::Cta);
    }
}
