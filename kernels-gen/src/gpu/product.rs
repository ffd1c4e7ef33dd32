//! Matrix products over the grid: a static split of all weights over warps (stream-K; Osama et al. 2023).
//!
//! The rows of a product come in units, which an epilogue finishes as a whole: 32 rows, or as many as whole heads fill.
//! A unit is made of row groups, 32 rows of one matrix, and a row group of chunks of columns, whose weights are
//! contiguous. The first warps of each CTA are streams: number s of S takes the chunks from s T / S on, of all T. A
//! unit that several streams share is summed up, in the order of the streams, by the one that comes last, which then
//! runs the epilogue: so results do not depend on which that is. Weights come through the [`ring`](super::ring) of the
//! warp, or are loaded from where they are.

use super::dot::{chunk, chunk_bytes, dot, lane_addresses};
use super::ring::Ring;
use super::rows::{self, Row};
use super::{LANES, Place, if_below, maybe};
use crate::body::{Linear, Matrix};
use crate::generator::Generator;
use ir::Result;
use ir::kernel::{Buf, Builder, Compare, Mem, Scope, Value, Var};

/// Units of one kind: rows, one after the other, of each of some matrices of one height.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub matrices: Vec<Matrix>,
    /// Rows of a unit in each matrix, a multiple of 32.
    pub unit_rows: usize,
}

impl Segment {
    /// Row groups of a unit, of one matrix.
    fn in_matrix(&self) -> usize {
        self.unit_rows / LANES
    }

    /// Row groups of a unit.
    fn groups(&self) -> usize {
        self.matrices.len() * self.in_matrix()
    }

    fn units(&self) -> usize {
        self.matrices.iter().map(|m| m.rows.div_ceil(self.unit_rows)).max().unwrap_or(0)
    }
}

/// The sums of a unit, in the order of its rows: 32 for each row group, from this element on of the shared memory of a
/// warp. A lane has those of its rows; those of others it has after a wait of the warp, which also comes before the
/// end.
pub(crate) type Sums = (Buf, Value);

/// A whole kernel of one product; `epilogue(row, sum)` finishes each row, in one thread.
///
/// # Errors
/// As [`run`].
pub(crate) fn single(
    g: &mut Generator<'_>,
    linear: Linear,
    epilogue: impl FnOnce(&mut Builder, Value, Value),
) -> Result<()> {
    let mut epilogue = Some(epilogue);
    let segment = Segment { matrices: vec![linear.matrix], unit_rows: LANES };
    run(g, &[linear], &[segment], |g, at, _, unit, (sums, from)| {
        let Some(epilogue) = epilogue.take() else { return Ok(()) };
        let b = &mut g.b;
        let to = b.imul_const(unit, LANES);
        let to = b.iadd(to, at.lane);
        if_below(b, to, linear.matrix.rows, |b| {
            let from = b.iadd(from, at.lane);
            let sum = b.load(sums, from, Mem::F32);
            epilogue(b, to, sum);
        });
        Ok(())
    })
}

/// A whole kernel of the products of one row, in segments. For each segment, `epilogue(place, segment, unit, sums)`
/// finishes a unit, in one warp.
///
/// # Errors
/// If the products have different inputs or a format has no `unpack`, or what the epilogue refuses.
pub(crate) fn run(
    g: &mut Generator<'_>,
    linears: &[Linear],
    segments: &[Segment],
    mut epilogue: impl FnMut(&mut Generator<'_>, &Place, usize, Value, Sums) -> Result<()>,
) -> Result<()> {
    let schedule = g.gpu()?;
    let streams = schedule.streams as usize;
    let split = Split::new(segments, schedule.chunk as usize, schedule.ctas as usize * streams);
    if (split.items() as u64 + 1) * split.streams as u64 > u64::from(u32::MAX) {
        return Err(g.unsupported(&format!("{} chunks of columns", split.items())));
    }
    let at = super::begin(g, split.streams.div_ceil(streams))?;
    let b = &mut g.b;
    let before = b.imul_const(at.cta, streams);
    let mut stream = b.iadd(before, at.warp);
    // A warp past the last stream has nothing to do.
    let past = b.size(split.streams);
    if streams < at.warps {
        let of_cta = b.size(streams);
        let multiplies = b.compare(Compare::ULt, at.warp, of_cta);
        stream = b.select(multiplies, stream, past);
    }
    let first = split.first(b, stream);
    let next = b.iadd_const(stream, 1);
    let end = split.first(b, next);
    let some = b.compare(Compare::ULt, stream, past);
    let end = b.select(some, end, first);
    let ring = (schedule.depth > 0).then(|| {
        let matrices = segments.iter().flat_map(|s| &s.matrices);
        let slot = matrices.map(|m| chunk_bytes(m, split.columns)).max().unwrap_or(0);
        Ring::new(b, &at, streams, schedule.depth as usize, slot)
    });
    let stream = Stream { segments, split: &split, at: &at, ring, stream, first, end };
    if let Some(ring) = ring {
        let ahead = stream.ahead(&mut g.b, first, ring.depth);
        stream.fill(g, &ring, (first, ahead));
    }
    g.b.await_previous();
    let row = rows::prepare(g, &at, linears)?;

    let most_groups = segments.iter().map(Segment::groups).max().unwrap_or(0);
    let sums = g.b.scratch("sums", Mem::F32, (streams * most_groups * LANES * 4) as u64);
    let own = g.b.imul_const(at.warp, most_groups * LANES);
    let slots = split.spans.iter().map(|s| s.units * s.owners * s.groups * LANES * 4).sum();
    let shared = Shared {
        sums: (sums, own),
        partials: g.workspace("partials", Mem::F32, slots),
        counters: g.counters("arrived", split.spans.iter().map(|s| s.units).sum()),
    };
    let b = &mut g.b;
    let chunks = b.size(split.chunks);
    let (from, to) = (b.udiv(first, chunks), b.iadd_const(end, split.chunks - 1));
    let to = b.udiv(to, chunks);
    let to = b.select(some, to, from);
    g.for_(from, to, 1, |g, group| {
        for number in 0..segments.len() {
            let own = split.within(&mut g.b, number, group);
            let mut body = |g: &mut Generator<'_>| {
                stream
                    .group(g, number, &row, (group, to), &shared, |g, unit| epilogue(g, &at, number, unit, shared.sums))
            };
            match own {
                Some(own) => g.if_(own, &mut body)?,
                None => body(g)?,
            }
        }
        Ok(())
    })
}

/// The place of a segment among all.
#[derive(Debug, Clone, Copy)]
struct Span {
    /// Row groups of a unit.
    groups: usize,
    units: usize,
    first_unit: usize,
    first_group: usize,
    /// Where its partial sums start.
    first_partial: usize,
    /// Most streams that share a unit.
    owners: usize,
}

/// The figures of a product on a grid.
#[derive(Debug, Clone)]
struct Split {
    /// Columns of a chunk, and chunks of a row group.
    columns: usize,
    chunks: usize,
    spans: Vec<Span>,
    streams: usize,
}

impl Split {
    /// On at most so many streams.
    fn new(segments: &[Segment], columns: usize, most: usize) -> Split {
        let matrices = || segments.iter().flat_map(|s| &s.matrices);
        let columns = matrices().map(|m| chunk(m, columns)).max().unwrap_or(columns);
        let chunks = segments[0].matrices[0].columns / columns;
        let groups: usize = segments.iter().map(|s| s.units() * s.groups()).sum();
        let items = groups * chunks;
        // Each stream has an item, so that every one between the first and the last of a unit has some of it.
        let streams = most.min(items);
        let (mut first_unit, mut first_group, mut first_partial) = (0, 0, 0);
        let spans = segments.iter().map(|s| {
            let (groups, units) = (s.groups(), s.units());
            let owners = (groups * chunks / (items / streams) + 2).min(streams);
            let span = Span { groups, units, first_unit, first_group, first_partial, owners };
            first_unit += units;
            first_group += units * groups;
            first_partial += units * owners * groups * LANES;
            span
        });
        Split { columns, chunks, spans: spans.collect(), streams }
    }

    fn items(&self) -> usize {
        self.spans.iter().map(|s| s.units * s.groups).sum::<usize>() * self.chunks
    }

    /// The first item of stream `s`.
    fn first(&self, b: &mut Builder, s: Value) -> Value {
        let (items, streams) = (b.size(self.items()), b.size(self.streams));
        let scaled = b.imul(s, items);
        b.udiv(scaled, streams)
    }

    /// The stream that has item `i`.
    fn owner(&self, b: &mut Builder, i: Value) -> Value {
        let (items, streams, one) = (b.size(self.items()), b.size(self.streams), b.int(1));
        let next = b.iadd(i, one);
        let scaled = b.imul(next, streams);
        let scaled = b.isub(scaled, one);
        b.udiv(scaled, items)
    }

    /// Whether a row group is of a segment; none if there is no other.
    fn within(&self, b: &mut Builder, segment: usize, group: Value) -> Option<Value> {
        if self.spans.len() == 1 {
            return None;
        }
        let span = &self.spans[segment];
        let local = self.local(b, segment, group);
        let limit = b.size(span.units * span.groups);
        // Wraps to a large number for groups before.
        Some(b.compare(Compare::ULt, local, limit))
    }

    /// A row group's number in its segment.
    fn local(&self, b: &mut Builder, segment: usize, group: Value) -> Value {
        let before = b.size(self.spans[segment].first_group);
        b.isub(group, before)
    }

    /// The unit in its segment of a row group, and the group's number in the unit.
    fn unit(&self, b: &mut Builder, segment: usize, group: Value) -> (Value, Value) {
        let (local, groups) = (self.local(b, segment, group), b.size(self.spans[segment].groups));
        (b.udiv(local, groups), b.urem(local, groups))
    }
}

/// What streams share about the units of a product.
#[derive(Debug, Clone, Copy)]
struct Shared {
    sums: Sums,
    /// For each unit, owner and row group, 32 floats.
    partials: Buf,
    counters: Buf,
}

/// A unit and the streams that share it.
#[derive(Debug, Clone, Copy)]
struct Unit {
    segment: usize,
    /// Its number in its segment.
    number: Value,
    /// The first stream that has items of it, and how many do.
    first: Value,
    count: Value,
}

/// The stream of a warp.
struct Stream<'a> {
    segments: &'a [Segment],
    split: &'a Split,
    at: &'a Place,
    ring: Option<Ring>,
    /// Its number, and its items.
    stream: Value,
    first: Value,
    end: Value,
}

impl Stream<'_> {
    /// `by` items after `item`, but not past the end.
    fn ahead(&self, b: &mut Builder, item: Value, by: usize) -> Value {
        let ahead = b.iadd_const(item, by);
        b.umin(ahead, self.end)
    }

    /// Byte of the tile of a row group, which is number `part` of `unit`, in matrix number `m` of a segment; and
    /// whether it is in this matrix, unless there is no other. Where a unit is not full, the last tile stands in for
    /// those past it.
    fn tile(&self, b: &mut Builder, segment: usize, m: usize, unit: Value, part: Value) -> (Value, Option<Value>) {
        let s = &self.segments[segment];
        let matrix = &s.matrices[m];
        let before = b.size(m * s.in_matrix());
        let own = b.isub(part, before);
        let tiles = b.imul_const(unit, s.in_matrix());
        let mut tile = b.iadd(tiles, own);
        let exist = matrix.rows.div_ceil(LANES);
        if s.units() * s.in_matrix() > exist {
            let last = b.size(exist - 1);
            tile = b.umin(tile, last);
        }
        let mine = (s.matrices.len() > 1).then(|| {
            let limit = b.size(s.in_matrix());
            b.compare(Compare::ULt, own, limit)
        });
        (b.imul_const(tile, matrix.row_bytes() * LANES), mine)
    }

    /// Starts to copy items from.. to, wherever they are.
    fn fill(&self, g: &mut Generator<'_>, ring: &Ring, (from, to): (Value, Value)) {
        let params: Vec<Vec<Buf>> =
            self.segments.iter().map(|s| s.matrices.iter().map(|m| g.param(m.param)).collect()).collect();
        g.b.for_(from, to, 1, |b, item| {
            let chunks = b.size(self.split.chunks);
            let (group, index) = (b.udiv(item, chunks), b.urem(item, chunks));
            let n = b.isub(item, self.first);
            let slot = ring.slot(b, n);
            let chosen = b.elected();
            b.if_(chosen, |b| {
                for (number, segment) in self.segments.iter().enumerate() {
                    let within = self.split.within(b, number, group);
                    maybe(b, within, |b| {
                        let (unit, part) = self.split.unit(b, number, group);
                        for (m, matrix) in segment.matrices.iter().enumerate() {
                            let (tile, mine) = self.tile(b, number, m, unit, part);
                            maybe(b, mine, |b| {
                                let bytes = chunk_bytes(matrix, self.split.columns);
                                let from = b.imul_const(index, bytes);
                                let from = b.iadd(tile, from);
                                ring.copy(b, slot, (params[number][m], from), bytes);
                            });
                        }
                    });
                }
            });
        });
    }

    /// Multiplies this stream's items of a row group, and ends the unit if it is the last group that the stream has of
    /// it. `to` is the stream's last row group and one.
    fn group(
        &self,
        g: &mut Generator<'_>,
        segment: usize,
        row: &Row,
        (group, to): (Value, Value),
        shared: &Shared,
        epilogue: impl FnOnce(&mut Generator<'_>, Value) -> Result<()>,
    ) -> Result<()> {
        let span = self.split.spans[segment];
        let (number, part) = self.split.unit(&mut g.b, segment, group);
        let total = self.multiply(g, segment, row, (group, number, part))?;

        let b = &mut g.b;
        let unit = self.owners(b, segment, number);
        let (zero, one) = (b.int(0), b.int(1));
        let alone = b.compare(Compare::IEq, unit.count, one);
        let in_unit = b.imul_const(part, LANES);
        let in_unit = b.iadd(in_unit, self.at.lane);
        b.if_else(
            alone,
            |b| {
                let to = b.iadd(shared.sums.1, in_unit);
                b.store(shared.sums.0, to, Mem::F32, total);
            },
            |b| {
                let slot = b.isub(self.stream, unit.first);
                let slot = self.slot(b, unit, slot);
                let to = b.iadd(slot, in_unit);
                b.store(shared.partials, to, Mem::F32, total);
            },
        );
        let (next, last_part) = (b.iadd_const(group, 1), b.size(span.groups - 1));
        let whole = b.compare(Compare::IEq, part, last_part);
        let last = b.compare(Compare::IEq, next, to);
        let last = b.select(last, one, zero);
        let ends = b.select(whole, one, last);
        let ends = b.compare(Compare::IEq, ends, one);
        let run = b.var(zero);
        b.if_(ends, |b| {
            b.if_else(alone, |b| b.set(run, one), |b| self.arrive(b, unit, shared, run));
        });
        let run = g.b.get(run);
        let run = g.b.compare(Compare::IEq, run, one);
        g.if_(run, |g| epilogue(g, number))
    }

    /// This lane's sum over the stream's items of a row group, number `part` of `unit`.
    fn multiply(
        &self,
        g: &mut Generator<'_>,
        segment: usize,
        row: &Row,
        (group, unit, part): (Value, Value, Value),
    ) -> Result<Value> {
        let columns = self.split.columns;
        let b = &mut g.b;
        let (from, zero) = (b.imul_const(group, self.split.chunks), b.float(0.0));
        let start = umax(b, from, self.first);
        let stop = b.iadd_const(from, self.split.chunks);
        let stop = b.umin(stop, self.end);
        let acc = b.var(zero);
        for (number, m) in self.segments[segment].matrices.iter().enumerate() {
            let weights = g.param(m.param);
            let bytes = chunk_bytes(m, columns);
            let (tile, mine) = self.tile(&mut g.b, segment, number, unit, part);
            let b = &mut g.b;
            let stop = mine.map_or(stop, |mine| b.select(mine, stop, start));
            let (begin, end) = (b.isub(start, from), b.isub(stop, from));
            // Before this chunk, what follows in its slot is of this row group; and where that is for the first.
            let depth = b.size(self.ring.map_or(0, |ring| ring.depth));
            let least = b.umin(end, depth);
            let followed = b.isub(end, least);
            let following = b.iadd_const(tile, self.ring.map_or(0, |ring| ring.depth * bytes));
            let before = b.isub(from, self.first);
            // All chunks are in one slot, with the other parity in turn: addresses are those of the first.
            let turn = self.ring.filter(|ring| ring.depth == 1).map(|ring| {
                let n = b.iadd(before, begin);
                let slot = ring.slot(b, n);
                lane_addresses(b, m, slot.at, self.at.lane);
                let parity = ring.parity(b, n);
                b.var(parity)
            });
            g.for_(begin, end, 1, |g, index| {
                let b = &mut g.b;
                let at = b.imul_const(index, bytes);
                let old = b.get(acc);
                let Some(ring) = self.ring else {
                    let at = b.iadd(tile, at);
                    let new = dot(b, m, (weights, at, self.at.lane), row, (index, columns), old)?;
                    b.set(acc, new);
                    return Ok(());
                };
                let n = b.iadd(before, index);
                let slot = ring.slot(b, n);
                let parity = match turn {
                    Some(turn) => b.get(turn),
                    None => ring.parity(b, n),
                };
                ring.wait(b, slot, parity);
                let new = dot(b, m, (ring.slots, slot.at, self.at.lane), row, (index, columns), old)?;
                b.set(acc, new);
                if let Some(turn) = turn {
                    let one = b.int(1);
                    let other = b.xor(parity, one);
                    b.set(turn, other);
                }
                b.sync(Scope::Warp);
                let there = b.compare(Compare::ULt, index, followed);
                b.if_(there, |b| {
                    let chosen = b.elected();
                    b.if_(chosen, |b| {
                        let from = b.iadd(following, at);
                        ring.copy(b, slot, (weights, from), bytes);
                    });
                });
                Ok(())
            })?;
        }
        if let Some(ring) = self.ring {
            let b = &mut g.b;
            let fetched = self.ahead(b, start, ring.depth);
            let fetched = umax(b, fetched, stop);
            let ahead = self.ahead(b, stop, ring.depth);
            self.fill(g, &ring, (fetched, ahead));
        }
        Ok(g.b.get(acc))
    }

    /// A unit of a segment.
    fn owners(&self, b: &mut Builder, segment: usize, number: Value) -> Unit {
        let span = self.split.spans[segment];
        let per_unit = span.groups * self.split.chunks;
        let first = b.imul_const(number, per_unit);
        let first = b.iadd_const(first, span.first_group * self.split.chunks);
        let last = b.iadd_const(first, per_unit - 1);
        let (first, last) = (self.split.owner(b, first), self.split.owner(b, last));
        let count = b.isub(last, first);
        Unit { segment, number, first, count: b.iadd_const(count, 1) }
    }

    /// Where the partial sums of a unit's owner number `slot` are.
    fn slot(&self, b: &mut Builder, unit: Unit, slot: Value) -> Value {
        let span = self.split.spans[unit.segment];
        let at = b.imul_const(unit.number, span.owners);
        let at = b.iadd(at, slot);
        let at = b.imul_const(at, span.groups * LANES);
        b.iadd_const(at, span.first_partial)
    }

    /// Counts this stream in. The last one sums up what all have left, in their order, and sets `run`.
    fn arrive(&self, b: &mut Builder, unit: Unit, shared: &Shared, run: Var) {
        let span = self.split.spans[unit.segment];
        let (zero, one) = (b.int(0), b.int(1));
        let counter = b.iadd_const(unit.number, span.first_unit);
        let before = b.var(zero);
        // The sums of all lanes are there before it counts, and others' after.
        b.sync(Scope::Warp);
        if_below(b, self.at.lane, 1, |b| {
            let arrived = b.atomic_add(shared.counters, counter, one);
            b.set(before, arrived);
        });
        b.sync(Scope::Warp);
        let before = b.get(before);
        let before = b.warp_or(before);
        let count = b.iadd(before, one);
        let last = b.compare(Compare::IEq, count, unit.count);
        b.if_(last, |b| {
            let first_group = b.imul_const(unit.number, span.groups);
            let first_group = b.iadd_const(first_group, span.first_group);
            for part in 0..span.groups {
                let group = b.iadd_const(first_group, part);
                let first = b.imul_const(group, self.split.chunks);
                let end = b.iadd_const(first, self.split.chunks - 1);
                let (from, to) = (self.split.owner(b, first), self.split.owner(b, end));
                let (from, to) = (b.isub(from, unit.first), b.isub(to, unit.first));
                let to = b.iadd(to, one);
                let in_unit = b.iadd_const(self.at.lane, part * LANES);
                let nothing = b.float(0.0);
                let total = b.var(nothing);
                b.for_(from, to, 1, |b, slot| {
                    let from = self.slot(b, unit, slot);
                    let from = b.iadd(from, in_unit);
                    let v = b.load(shared.partials, from, Mem::F32);
                    let old = b.get(total);
                    let new = b.fadd(old, v);
                    b.set(total, new);
                });
                let (total, to) = (b.get(total), b.iadd(shared.sums.1, in_unit));
                b.store(shared.sums.0, to, Mem::F32, total);
            }
            if_below(b, self.at.lane, 1, |b| b.store(shared.counters, counter, Mem::I32, zero));
            b.set(run, one);
        });
    }
}

/// The larger of two unsigned numbers.
fn umax(b: &mut Builder, x: Value, y: Value) -> Value {
    let less = b.compare(Compare::ULt, x, y);
    b.select(less, y, x)
}
