//! Matrix products over the grid: a static split of all weights over warps (stream-K; Osama et al. 2023).
//!
//! A matrix is made of tiles of 32 rows, and a tile of chunks of columns, whose weights are contiguous. The chunks of all
//! matrices of a kernel, tile after tile, are its items. The first warps of each CTA are streams: number s of S takes the
//! items from s T / S to (s + 1) T / S, of all T. One matrix of four tiles of three chunks, cut for three streams s0, s1, s2:
//!
//! ```text
//!          chunk 0   chunk 1   chunk 2
//! tile 0    0: s0     1: s0     2: s0    s0 has all of it
//! tile 1    3: s0     4: s1     5: s1    s0 and s1 share it
//! tile 2    6: s1     7: s1     8: s2    s1 and s2 share it
//! tile 3    9: s2    10: s2    11: s2    s2 has all of it
//! ```
//!
//! An epilogue finishes units: single tiles, as here, or several where it needs whole heads, or rows of two matrices side
//! by side. Units of one kind are a [`Segment`]; the queries, keys and values of a layer are three. The streams that share
//! a unit are its owners. Each leaves its sums in a slot of its own in the workspace and counts itself in; the last to
//! arrive adds them up in the order of the streams and runs the epilogue, so that results do not depend on which that is.
//! Weights come through the [`ring`](super::ring) of the warp, or are loaded from where they are.

use super::dot::{chunk, chunk_bytes, dot, lane_addresses};
use super::ring::Ring;
use super::rows::{self, Row};
use super::{LANES, Thread, if_below, maybe};
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
    /// Tiles of a unit, of one matrix.
    fn in_matrix(&self) -> usize {
        self.unit_rows / LANES
    }

    /// Tiles of a unit.
    fn tiles(&self) -> usize {
        self.matrices.len() * self.in_matrix()
    }

    fn units(&self) -> usize {
        self.matrices.iter().map(|m| m.rows.div_ceil(self.unit_rows)).max().unwrap_or(0)
    }
}

/// The sums of a unit in shared memory, from this element on: 32 for each tile, in the order of its rows. A lane has stored
/// those of its own rows; those of other lanes it may read after a wait of the warp. The sums of the next unit come to the
/// same place, so an epilogue that reads other lanes' ends with a wait of the warp too.
pub(crate) type Sums = (Buf, Value);

/// A whole kernel of the products of one row, which share their source, in segments. For each segment, `epilogue(place, segment, unit, sums)`
/// finishes a unit, in one warp.
///
/// # Errors
/// If a format has no `unpack`, or what the epilogue refuses.
pub(crate) fn run(
    g: &mut Generator<'_>,
    linears: &[Linear],
    segments: &[Segment],
    mut epilogue: impl FnMut(&mut Generator<'_>, &Thread, usize, Value, Sums) -> Result<()>,
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
    let row = rows::prepare(g, &at, linears);

    let most_tiles = segments.iter().map(Segment::tiles).max().unwrap_or(0);
    let sums = g.b.scratch("sums", Mem::F32, (streams * most_tiles * LANES * 4) as u64);
    let own = g.b.imul_const(at.warp, most_tiles * LANES);
    let slots = split.spans.iter().map(|s| s.units * s.owners * s.tiles * LANES * 4).sum();
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
    g.for_(from, to, 1, |g, tile| {
        for number in 0..segments.len() {
            let own = split.within(&mut g.b, number, tile);
            let mut body = |g: &mut Generator<'_>| {
                stream.tile(g, number, &row, (tile, to), &shared, |g, unit| epilogue(g, &at, number, unit, shared.sums))
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
    /// Tiles of a unit.
    tiles: usize,
    units: usize,
    first_unit: usize,
    first_tile: usize,
    /// Where its partial sums start.
    first_partial: usize,
    /// Most streams that share a unit.
    owners: usize,
}

/// The figures of a product on a grid.
#[derive(Debug, Clone)]
struct Split {
    /// Columns of a chunk, and chunks of a tile.
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
        let tiles: usize = segments.iter().map(|s| s.units() * s.tiles()).sum();
        let items = tiles * chunks;
        // Each stream has an item, so that every one between the first and the last of a unit has some of it.
        let streams = most.min(items);
        let (mut first_unit, mut first_tile, mut first_partial) = (0, 0, 0);
        let spans = segments.iter().map(|s| {
            let (tiles, units) = (s.tiles(), s.units());
            let owners = (tiles * chunks / (items / streams) + 2).min(streams);
            let span = Span { tiles, units, first_unit, first_tile, first_partial, owners };
            first_unit += units;
            first_tile += units * tiles;
            first_partial += units * owners * tiles * LANES;
            span
        });
        Split { columns, chunks, spans: spans.collect(), streams }
    }

    fn items(&self) -> usize {
        self.spans.iter().map(|s| s.units * s.tiles).sum::<usize>() * self.chunks
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

    /// Whether a tile is of a segment; none if there is no other.
    fn within(&self, b: &mut Builder, segment: usize, tile: Value) -> Option<Value> {
        if self.spans.len() == 1 {
            return None;
        }
        let span = &self.spans[segment];
        let local = self.local(b, segment, tile);
        let limit = b.size(span.units * span.tiles);
        // Wraps to a large number for tiles before.
        Some(b.compare(Compare::ULt, local, limit))
    }

    /// A tile's number in its segment.
    fn local(&self, b: &mut Builder, segment: usize, tile: Value) -> Value {
        let before = b.size(self.spans[segment].first_tile);
        b.isub(tile, before)
    }

    /// The unit in its segment of a tile, and the tile's number in the unit.
    fn unit(&self, b: &mut Builder, segment: usize, tile: Value) -> (Value, Value) {
        let (local, tiles) = (self.local(b, segment, tile), b.size(self.spans[segment].tiles));
        (b.udiv(local, tiles), b.urem(local, tiles))
    }
}

/// What streams share about the units of a product.
#[derive(Debug, Clone, Copy)]
struct Shared {
    sums: Sums,
    /// For each unit, owner and tile, 32 floats.
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
    at: &'a Thread,
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

    /// Byte of the tile of a tile, which is number `part` of `unit`, in matrix number `m` of a segment; and
    /// whether it is in this matrix, unless there is no other. Where a unit is not full, the last tile stands in for
    /// those past it.
    fn tile_at(&self, b: &mut Builder, segment: usize, m: usize, unit: Value, part: Value) -> (Value, Option<Value>) {
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
            let (tile, index) = (b.udiv(item, chunks), b.urem(item, chunks));
            let n = b.isub(item, self.first);
            let slot = ring.slot(b, n);
            let chosen = b.elected();
            b.if_(chosen, |b| {
                for (number, segment) in self.segments.iter().enumerate() {
                    let within = self.split.within(b, number, tile);
                    maybe(b, within, |b| {
                        let (unit, part) = self.split.unit(b, number, tile);
                        for (m, matrix) in segment.matrices.iter().enumerate() {
                            let (tile_at, mine) = self.tile_at(b, number, m, unit, part);
                            maybe(b, mine, |b| {
                                let bytes = chunk_bytes(matrix, self.split.columns);
                                let from = b.imul_const(index, bytes);
                                let from = b.iadd(tile_at, from);
                                ring.copy(b, slot, (params[number][m], from), bytes);
                            });
                        }
                    });
                }
            });
        });
    }

    /// Multiplies this stream's items of a tile, and ends the unit if it is the last tile that the stream has of
    /// it. `to` is the stream's last tile and one.
    fn tile(
        &self,
        g: &mut Generator<'_>,
        segment: usize,
        row: &Row,
        (tile, to): (Value, Value),
        shared: &Shared,
        epilogue: impl FnOnce(&mut Generator<'_>, Value) -> Result<()>,
    ) -> Result<()> {
        let span = self.split.spans[segment];
        let (number, part) = self.split.unit(&mut g.b, segment, tile);
        let total = self.multiply(g, segment, row, (tile, number, part))?;

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
        let (next, last_part) = (b.iadd_const(tile, 1), b.size(span.tiles - 1));
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

    /// This lane's sum over the stream's items of a tile, number `part` of `unit`.
    fn multiply(
        &self,
        g: &mut Generator<'_>,
        segment: usize,
        row: &Row,
        (tile, unit, part): (Value, Value, Value),
    ) -> Result<Value> {
        let columns = self.split.columns;
        let b = &mut g.b;
        let (from, zero) = (b.imul_const(tile, self.split.chunks), b.float(0.0));
        let start = umax(b, from, self.first);
        let stop = b.iadd_const(from, self.split.chunks);
        let stop = b.umin(stop, self.end);
        let acc = b.var(zero);
        for (number, m) in self.segments[segment].matrices.iter().enumerate() {
            let weights = g.param(m.param);
            let bytes = chunk_bytes(m, columns);
            let (tile_at, mine) = self.tile_at(&mut g.b, segment, number, unit, part);
            let b = &mut g.b;
            let stop = mine.map_or(stop, |mine| b.select(mine, stop, start));
            let (begin, end) = (b.isub(start, from), b.isub(stop, from));
            // Before this chunk, what follows in its slot is of this tile; and where that is for the first.
            let depth = b.size(self.ring.map_or(0, |ring| ring.depth));
            let least = b.umin(end, depth);
            let followed = b.isub(end, least);
            let following = b.iadd_const(tile_at, self.ring.map_or(0, |ring| ring.depth * bytes));
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
                    let at = b.iadd(tile_at, at);
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
        let per_unit = span.tiles * self.split.chunks;
        let first = b.imul_const(number, per_unit);
        let first = b.iadd_const(first, span.first_tile * self.split.chunks);
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
        let at = b.imul_const(at, span.tiles * LANES);
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
            let first_tile = b.imul_const(unit.number, span.tiles);
            let first_tile = b.iadd_const(first_tile, span.first_tile);
            for part in 0..span.tiles {
                let tile = b.iadd_const(first_tile, part);
                let first = b.imul_const(tile, self.split.chunks);
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
