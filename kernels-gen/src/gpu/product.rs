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
//! a unit are its owners. Each leaves what it has of it in the workspace and counts itself in; the last to arrive runs the
//! epilogue, for one token after the other. Of a tile that several streams share each leaves the sums of its
//! [cuts](super::dot::cut), which the last adds up from the first to the last cut, as the stream of a whole tile does: so
//! results depend neither on who is last nor on how the columns are spread. Weights come through the [`ring`](super::ring) of the warp, or are loaded from where they are.

use super::dot::{Columns, Part, chunk, column_bytes, cut, dot, lane_addresses};
use super::ring::Ring;
use super::rows::{self, Activations};
use super::{LANES, Thread, if_below, maybe};
use crate::body::{Linear, Matrix};
use crate::generator::Generator;
use ir::Result;
use ir::abi::STEP_TOKENS;
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

    /// The matrix of each tile of a unit.
    fn parts(&self) -> impl Iterator<Item = &Matrix> {
        self.matrices.iter().flat_map(|m| std::iter::repeat_n(m, self.in_matrix()))
    }

    fn units(&self) -> usize {
        self.matrices.iter().map(|m| m.rows.div_ceil(self.unit_rows)).max().unwrap_or(0)
    }
}

/// The sums of a unit for a token, from this element on: 32 for each tile, in the order of its rows. A lane may read those of its
/// own rows; those of other lanes after a wait of the warp. The sums of the next unit may come to the same place, so an
/// epilogue that reads other lanes' ends with a wait of the warp too.
pub(crate) type Sums = (Buf, Value);

/// What an epilogue finishes, in one warp.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finish {
    pub at: Thread,
    /// Number of the segment.
    pub segment: usize,
    /// Number of the unit in it.
    pub unit: Value,
    pub token: Value,
    pub sums: Sums,
}

/// A whole kernel of products that share their source, in segments.
///
/// # Errors
/// If a format has no `unpack`, or what the epilogue refuses.
pub(crate) fn run(
    g: &mut Generator<'_>,
    linears: &[Linear],
    segments: &[Segment],
    mut epilogue: impl FnMut(&mut Generator<'_>, Finish) -> Result<()>,
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
        let slot = matrices.map(|m| column_bytes(m, split.columns)).max().unwrap_or(0);
        Ring::new(b, &at, streams, schedule.depth as usize, slot)
    });
    // Matrix instructions leave whole groups of tokens.
    let tokens = if linears[0].source.one_row { 1 } else { g.spec.tokens };
    let places = if tokens == 1 { 1 } else { tokens.next_multiple_of(STEP_TOKENS) };
    let stream = Stream { segments, split: &split, at: &at, ring, first, end, tokens, places };
    if let Some(ring) = ring {
        let ahead = stream.ahead(&mut g.b, first, ring.depth);
        stream.fill(g, &ring, (first, ahead));
    }
    g.b.await_previous();
    let x = rows::prepare(g, &at, linears)?;

    let most_tiles = segments.iter().map(Segment::tiles).max().unwrap_or(0);
    let alone = (tokens == 1).then(|| {
        let sums = g.b.scratch("sums", Mem::F32, (streams * most_tiles * LANES * 4) as u64);
        (sums, g.b.imul_const(at.warp, most_tiles * LANES))
    });
    let units: usize = split.spans.iter().map(|s| s.units * s.tiles).sum();
    let shared = Shared {
        alone,
        whole: g.workspace("whole", Mem::F32, units * places * LANES * 4),
        cuts: g.workspace("cuts", Mem::F32, split.streams * split.cuts * places * LANES * 4),
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
            let mut body = |g: &mut Generator<'_>| stream.tile(g, number, &x, (tile, to), &shared, &mut epilogue);
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
}

/// The figures of a product on a grid.
#[derive(Debug, Clone)]
struct Split {
    /// Columns of a chunk, and chunks of a tile.
    columns: usize,
    chunks: usize,
    /// Most cuts of a tile, and chunks of the longest.
    cuts: usize,
    in_cut: usize,
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
        // Streams begin with cuts. Each has one, so that every stream between the first and the last of a unit has some of it.
        let in_cut = matrices().map(|m| (cut(m) / columns).max(1)).max().unwrap_or(1);
        let streams = most.min(tiles * chunks / in_cut);
        let (mut first_unit, mut first_tile) = (0, 0);
        let spans = segments.iter().map(|s| {
            let (tiles, units) = (s.tiles(), s.units());
            let span = Span { tiles, units, first_unit, first_tile };
            first_unit += units;
            first_tile += units * tiles;
            span
        });
        let cuts = matrices().map(|m| m.columns / cut(m)).max().unwrap_or(0);
        Split { columns, chunks, cuts, in_cut, spans: spans.collect(), streams }
    }

    fn items(&self) -> usize {
        self.spans.iter().map(|s| s.units * s.tiles).sum::<usize>() * self.chunks
    }

    /// Cuts of all tiles, of the longest.
    fn cuts_of_all(&self) -> usize {
        self.items() / self.in_cut
    }

    /// The first item of stream `s`.
    fn first(&self, b: &mut Builder, s: Value) -> Value {
        let (all, streams) = (b.size(self.cuts_of_all()), b.size(self.streams));
        let scaled = b.imul(s, all);
        let first = b.udiv(scaled, streams);
        b.imul_const(first, self.in_cut)
    }

    /// The stream that has item `i`.
    fn owner(&self, b: &mut Builder, i: Value) -> Value {
        let (all, streams, one, in_cut) =
            (b.size(self.cuts_of_all()), b.size(self.streams), b.int(1), b.size(self.in_cut));
        let i = b.udiv(i, in_cut);
        let next = b.iadd(i, one);
        let scaled = b.imul(next, streams);
        let scaled = b.isub(scaled, one);
        b.udiv(scaled, all)
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

/// Where the sums of a product are.
#[derive(Debug, Clone, Copy)]
struct Shared {
    /// Of one token, those of a unit that the stream has alone.
    alone: Option<Sums>,
    /// For each unit, token and tile of the unit, 32 floats: of tiles that one stream has.
    whole: Buf,
    /// For each stream, cut and token, 32 floats: of the tile that it begins and another stream goes on with.
    cuts: Buf,
    counters: Buf,
}

/// A unit and the streams that share it.
#[derive(Debug, Clone, Copy)]
struct Unit {
    segment: usize,
    /// Its number in its segment.
    number: Value,
    /// How many streams have items of it.
    count: Value,
}

/// The stream of a warp.
struct Stream<'a> {
    segments: &'a [Segment],
    split: &'a Split,
    at: &'a Thread,
    ring: Option<Ring>,
    /// Its items.
    first: Value,
    end: Value,
    /// Tokens of the step, and places for them in each sum.
    tokens: usize,
    places: usize,
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
                                let bytes = column_bytes(matrix, self.split.columns);
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
        x: &Activations,
        (tile, to): (Value, Value),
        shared: &Shared,
        epilogue: &mut impl FnMut(&mut Generator<'_>, Finish) -> Result<()>,
    ) -> Result<()> {
        let span = self.split.spans[segment];
        let (number, part) = self.split.unit(&mut g.b, segment, tile);
        let unit = self.owners(&mut g.b, segment, number);
        let one = g.b.int(1);
        let alone = g.b.compare(Compare::IEq, unit.count, one);
        self.multiply(g, unit, x, (tile, part, alone), shared)?;

        let b = &mut g.b;
        let zero = b.int(0);
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
        g.if_(run, |g| {
            let finish = |token, sums| Finish { at: *self.at, segment, unit: number, token, sums };
            if let Some(sums) = shared.alone {
                return epilogue(g, finish(zero, sums));
            }
            // Matrix instructions leave a row's sums to several lanes.
            g.b.sync(Scope::Warp);
            let (first, tokens) = (self.whole_at(&mut g.b, unit), g.b.tokens());
            g.for_(zero, tokens, 1, |g, token| {
                let of_token = g.b.imul_const(token, span.tiles * LANES);
                let from = g.b.iadd(first, of_token);
                epilogue(g, finish(token, (shared.whole, from)))
            })
        })
    }

    /// Multiplies this stream's items of a tile, number `part` of `unit`, and stores the sums.
    fn multiply(
        &self,
        g: &mut Generator<'_>,
        unit: Unit,
        x: &Activations,
        (tile, part, alone): (Value, Value, Value),
        shared: &Shared,
    ) -> Result<()> {
        let columns = self.split.columns;
        let b = &mut g.b;
        let from = b.imul_const(tile, self.split.chunks);
        let start = umax(b, from, self.first);
        let stop = b.iadd_const(from, self.split.chunks);
        let stop = b.umin(stop, self.end);
        let (own, all) = (b.isub(stop, start), b.size(self.split.chunks));
        let is_whole = b.compare(Compare::IEq, own, all);
        let is_cut = b.compare(Compare::ULt, own, all);
        // The stream that begins the tile has the place for its cuts.
        let begins = self.split.owner(b, from);
        let cuts_at = b.imul_const(begins, self.split.cuts * self.places * LANES);
        for (number, m) in self.segments[unit.segment].matrices.iter().enumerate() {
            let weights = g.param(m.param);
            let bytes = column_bytes(m, columns);
            let (tile_at, mine) = self.tile_at(&mut g.b, unit.segment, number, unit.number, part);
            let b = &mut g.b;
            let lanes = Part::new(b, self.at, m, if m.wants_int8() { self.places } else { self.tokens });
            let none = b.float(0.0);
            let [sums, totals] = [(); 2].map(|()| (0..lanes.count()).map(|_| b.var(none)).collect::<Vec<Var>>());
            // Adds the sums of a cut to those of the tile, and leaves them for others if the tile is shared.
            let end_cut = |b: &mut Builder, number: Value| {
                let of_cut: Vec<Value> = sums.iter().map(|&sum| b.get(sum)).collect();
                for ((&total, &sum), &own) in totals.iter().zip(&sums).zip(&of_cut) {
                    let old = b.get(total);
                    let new = b.fadd(old, own);
                    b.set(total, new);
                    b.set(sum, none);
                }
                b.if_(is_cut, |b| {
                    let first = b.imul_const(number, self.places * LANES);
                    let first = b.iadd(cuts_at, first);
                    for (n, &sum) in of_cut.iter().enumerate() {
                        let (row, token) = lanes.place(n);
                        let token = b.imul_const(token, LANES);
                        let to = b.iadd(first, token);
                        let to = b.iadd(to, row);
                        b.store(shared.cuts, to, Mem::F32, sum);
                    }
                });
            };
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
                lane_addresses(b, m, slot.at, &lanes);
                let parity = ring.parity(b, n);
                b.var(parity)
            });
            g.for_(begin, end, 1, |g, index| {
                let b = &mut g.b;
                let at = b.imul_const(index, bytes);
                let multiply = |b: &mut Builder, weights: (Buf, Value)| -> Result<()> {
                    let count = columns.min(cut(m));
                    for first in (0..columns).step_by(count) {
                        let at = Columns { chunk: index, of_chunk: columns, first, count };
                        let old = sums.iter().map(|&sum| b.get(sum)).collect();
                        let new = dot(b, m, weights, &lanes, x, at, old)?;
                        sums.iter().zip(new).for_each(|(&sum, new)| b.set(sum, new));
                        let chunks = cut(m) / count;
                        let number = if chunks > 1 {
                            let chunks = b.size(chunks);
                            b.udiv(index, chunks)
                        } else {
                            let number = b.imul_const(index, columns / count);
                            b.iadd_const(number, first / count)
                        };
                        let ends = (chunks > 1).then(|| {
                            let (all, last) = (b.size(chunks), b.size(chunks - 1));
                            let within = b.urem(index, all);
                            b.compare(Compare::IEq, within, last)
                        });
                        maybe(b, ends, |b| end_cut(b, number));
                    }
                    Ok(())
                };
                let Some(ring) = self.ring else {
                    let at = b.iadd(tile_at, at);
                    return multiply(b, (weights, at));
                };
                let n = b.iadd(before, index);
                let slot = ring.slot(b, n);
                let parity = match turn {
                    Some(turn) => b.get(turn),
                    None => ring.parity(b, n),
                };
                ring.wait(b, slot, parity);
                multiply(b, (ring.slots, slot.at))?;
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
            let b = &mut g.b;
            let is_whole = mine.map_or(is_whole, |mine| {
                let (zero, one) = (b.int(0), b.int(1));
                let yes = b.select(mine, one, zero);
                let yes = b.select(is_whole, yes, zero);
                b.compare(Compare::IEq, yes, one)
            });
            let totals: Vec<Value> = totals.into_iter().map(|total| b.get(total)).collect();
            b.if_(is_whole, |b| self.leave(b, unit, (part, alone), &lanes, &totals, shared));
        }
        if let Some(ring) = self.ring {
            let b = &mut g.b;
            let fetched = self.ahead(b, start, ring.depth);
            let fetched = umax(b, fetched, stop);
            let ahead = self.ahead(b, stop, ring.depth);
            self.fill(g, &ring, (fetched, ahead));
        }
        Ok(())
    }

    /// Stores the sums of a tile, number `part` of the unit, that this stream has from the first to the last column.
    fn leave(
        &self,
        b: &mut Builder,
        unit: Unit,
        (part, alone): (Value, Value),
        lanes: &Part,
        totals: &[Value],
        shared: &Shared,
    ) {
        let span = self.split.spans[unit.segment];
        let in_unit = b.imul_const(part, LANES);
        let store = |b: &mut Builder, (buf, first): Sums| {
            let first = b.iadd(first, in_unit);
            for (n, &total) in totals.iter().enumerate() {
                let (row, token) = lanes.place(n);
                let token = b.imul_const(token, span.tiles * LANES);
                let to = b.iadd(first, token);
                let to = b.iadd(to, row);
                b.store(buf, to, Mem::F32, total);
            }
        };
        let kept = |b: &mut Builder| {
            let first = self.whole_at(b, unit);
            store(b, (shared.whole, first));
        };
        match shared.alone {
            Some(sums) => b.if_else(alone, |b| store(b, sums), kept),
            None => kept(b),
        }
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
        Unit { segment, number, count: b.iadd_const(count, 1) }
    }

    /// Where the sums of the whole tiles of a unit are.
    fn whole_at(&self, b: &mut Builder, unit: Unit) -> Value {
        let span = self.split.spans[unit.segment];
        let each = self.places * LANES;
        let at = b.imul_const(unit.number, span.tiles * each);
        b.iadd_const(at, span.first_tile * each)
    }

    /// Counts this stream in. The last one adds up the cuts of tiles that streams share, and sets `run`.
    fn arrive(&self, b: &mut Builder, unit: Unit, shared: &Shared, run: Var) {
        let span = self.split.spans[unit.segment];
        let (zero, one) = (b.int(0), b.int(1));
        let counter = b.iadd_const(unit.number, span.first_unit);
        let before = b.var(zero);
        // The sums of all lanes are there before it counts, and others' after. A ring's warp has met since it left cuts.
        if span.tiles > 1 || self.ring.is_none() {
            b.sync(Scope::Warp);
        }
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
            for (part, m) in self.segments[unit.segment].parts().enumerate() {
                self.assemble(b, unit, (part, m.columns / cut(m)), shared);
            }
            if_below(b, self.at.lane, 1, |b| b.store(shared.counters, counter, Mem::I32, zero));
            b.set(run, one);
        });
    }

    /// Brings the sums of tile number `part` of a unit, of so many cuts, to where the epilogue finds them.
    fn assemble(&self, b: &mut Builder, unit: Unit, (part, cuts): (usize, usize), shared: &Shared) {
        let span = self.split.spans[unit.segment];
        let tile = b.imul_const(unit.number, span.tiles);
        let tile = b.iadd_const(tile, span.first_tile + part);
        let first = b.imul_const(tile, self.split.chunks);
        let end = b.iadd_const(first, self.split.chunks - 1);
        let (begins, ends) = (self.split.owner(b, first), self.split.owner(b, end));
        let is_cut = b.compare(Compare::ULt, begins, ends);
        let at = b.iadd_const(self.at.lane, part * LANES);
        let whole = self.whole_at(b, unit);
        let whole = b.iadd(whole, at);
        let to = shared.alone.map(|(buf, first)| (buf, b.iadd(first, at)));
        let sum = |b: &mut Builder| {
            let slot = b.imul_const(begins, self.split.cuts * self.places * LANES);
            let slot = b.iadd(slot, self.at.lane);
            let (places, steps) = (b.size(self.tokens), b.size(cuts));
            let zero = b.int(0);
            b.for_(zero, places, 1, |b, token| {
                let of_token = b.imul_const(token, LANES);
                let first = b.iadd(slot, of_token);
                let none = b.float(0.0);
                let total = b.var(none);
                b.for_(zero, steps, 1, |b, cut| {
                    let before = b.imul_const(cut, self.places * LANES);
                    let from = b.iadd(first, before);
                    let (v, old) = (b.load(shared.cuts, from, Mem::F32), b.get(total));
                    let new = b.fadd(old, v);
                    b.set(total, new);
                });
                let total = b.get(total);
                let of_token = b.imul_const(token, span.tiles * LANES);
                let (buf, first) = to.unwrap_or((shared.whole, whole));
                let to = b.iadd(first, of_token);
                b.store(buf, to, Mem::F32, total);
            });
        };
        match to {
            None => b.if_(is_cut, sum),
            Some((buf, to)) => b.if_else(is_cut, sum, |b| {
                let total = b.load(shared.whole, whole, Mem::F32);
                b.store(buf, to, Mem::F32, total);
            }),
        }
    }
}

/// The larger of two unsigned numbers.
fn umax(b: &mut Builder, x: Value, y: Value) -> Value {
    let less = b.compare(Compare::ULt, x, y);
    b.select(less, y, x)
}
