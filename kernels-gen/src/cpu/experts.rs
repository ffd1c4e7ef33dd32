//! Tokens and the experts that they use: which rows an expert multiplies, and where they are.
//!
//! A pair is a token and one of its experts; its slot is the expert's rank. Where there are several tokens, the prepared rows
//! and the products of pairs lie expert by expert, so that one call takes all rows of an expert and its weights are read
//! once. Every worker sorts the pairs for itself, which is less than a barrier. Invariant: what a pair computes does not
//! depend on the others.

use super::matmul::{Input, RowLayout, Rows, fill, span};
use crate::body::{Linear, Matrix};
use crate::generator::Generator;
use ir::Result;
use ir::abi::{Meaning, f32_row_bytes};
use ir::kernel::{Buf, Builder, Compare, Mem, Value};

/// The pairs of a step.
pub(crate) struct Pairs {
    /// Weights and numbers of experts, and the floats from a token's to the next.
    routing: (Buf, usize),
    /// Experts that a token uses.
    pub k: usize,
    /// The pairs by expert, where there are several tokens.
    sorted: Option<Sorted>,
    /// How many experts are used.
    used: Value,
}

/// Pairs by expert: their places are their numbers in that order.
#[derive(Debug, Clone, Copy)]
struct Sorted {
    /// The experts that are used.
    used: Buf,
    /// The first place of each expert, and the one after its last.
    first: Buf,
    end: Buf,
    /// The pair of each place, and the place of each pair: token * k + slot.
    pair: Buf,
    place: Buf,
}

/// The pairs of an expert.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    pub expert: Value,
    /// The first place, and how many there are.
    pub first: Value,
    pub count: Value,
}

impl Pairs {
    /// Reads the routing, body parameter `routing`, of a step over `experts` experts.
    pub fn new(g: &mut Generator<'_>, routing: u32, experts: usize) -> Pairs {
        let columns = g.param_type(routing).columns();
        let (k, tokens) = (columns / 2, g.spec.tokens);
        let routing = (g.param(routing), f32_row_bytes(columns) / 4);
        let mut pairs = Pairs { routing, k, sorted: None, used: g.b.size(k) };
        if tokens == 1 {
            return pairs;
        }
        let b = &mut g.b;
        let mut list = |name, count: usize| b.scratch(name, Mem::I32, count as u64 * 4);
        let sorted = Sorted {
            used: list("used", experts),
            first: list("first", experts),
            end: list("end", experts),
            pair: list("pair", tokens * k),
            place: list("place", tokens * k),
        };
        let (zero, one) = (b.int(0), b.int(1));
        b.for_n(experts, 1, |b, e| b.store(sorted.end, e, Mem::I32, zero));
        pairs.each(b, |b, _, expert| {
            let count = b.load(sorted.end, expert, Mem::I32);
            let count = b.iadd(count, one);
            b.store(sorted.end, expert, Mem::I32, count);
        });
        let (used, next) = (b.var(zero), b.var(zero));
        b.for_n(experts, 1, |b, e| {
            let (first, count, number) = (b.get(next), b.load(sorted.end, e, Mem::I32), b.get(used));
            b.store(sorted.first, e, Mem::I32, first);
            b.store(sorted.end, e, Mem::I32, first);
            // The next expert takes its place if it is not used.
            b.store(sorted.used, number, Mem::I32, e);
            let is_used = b.compare(Compare::ULt, zero, count);
            let more = b.select(is_used, one, zero);
            let (number, end) = (b.iadd(number, more), b.iadd(first, count));
            b.set(used, number);
            b.set(next, end);
        });
        pairs.used = b.get(used);
        pairs.each(b, |b, pair, expert| {
            let place = b.load(sorted.end, expert, Mem::I32);
            b.store(sorted.pair, place, Mem::I32, pair);
            b.store(sorted.place, pair, Mem::I32, place);
            let next = b.iadd(place, one);
            b.store(sorted.end, expert, Mem::I32, next);
        });
        pairs.sorted = Some(sorted);
        pairs
    }

    /// Calls `f` with each pair and its expert.
    fn each(&self, b: &mut Builder, f: impl FnOnce(&mut Builder, Value, Value)) {
        let (zero, tokens) = (b.int(0), b.tokens());
        b.for_(zero, tokens, 1, |b, t| {
            let first = b.imul_const(t, self.k);
            b.for_n(self.k, 1, |b, slot| {
                let (pair, expert) = (b.iadd(first, slot), self.expert(b, t, slot));
                f(b, pair, expert);
            });
        });
    }

    /// The expert of a pair.
    pub fn expert(&self, b: &mut Builder, token: Value, slot: Value) -> Value {
        let at = b.iadd_const(slot, self.k);
        let number = self.figure(b, token, at);
        b.round(number)
    }

    /// The weight of a pair.
    pub fn weight(&self, b: &mut Builder, token: Value, slot: Value) -> Value {
        self.figure(b, token, slot)
    }

    fn figure(&self, b: &mut Builder, token: Value, at: Value) -> Value {
        let row = b.imul_const(token, self.routing.1);
        let at = b.iadd(row, at);
        b.load(self.routing.0, at, Mem::F32)
    }

    /// The place of a pair.
    pub fn place(&self, b: &mut Builder, token: Value, slot: Value) -> Value {
        let Some(sorted) = self.sorted else { return slot };
        let pair = b.imul_const(token, self.k);
        let pair = b.iadd(pair, slot);
        b.load(sorted.place, pair, Mem::I32)
    }

    /// Token and slot of the pair at a place.
    pub fn pair(&self, b: &mut Builder, place: Value) -> (Value, Value) {
        let Some(sorted) = self.sorted else { return (b.int(0), place) };
        let (pair, k) = (b.load(sorted.pair, place, Mem::I32), b.size(self.k));
        (b.udiv(pair, k), b.urem(pair, k))
    }

    /// The pairs of the expert that is number `number` of those used.
    fn share(&self, b: &mut Builder, number: Value) -> Share {
        let Some(sorted) = self.sorted else {
            let (token, count) = (b.int(0), b.int(1));
            return Share { expert: self.expert(b, token, number), first: number, count };
        };
        let expert = b.load(sorted.used, number, Mem::I32);
        let (first, end) = (b.load(sorted.first, expert, Mem::I32), b.load(sorted.end, expert, Mem::I32));
        Share { expert, first, count: b.isub(end, first) }
    }

    /// Calls `f` with the first tile and the end of each unit of tiles of the matrices of each expert that is used, spread
    /// over the workers.
    pub fn for_units(
        &self,
        g: &mut Generator<'_>,
        tiles: usize,
        f: impl FnOnce(&mut Generator<'_>, Share, (Value, Value)) -> Result<()>,
    ) -> Result<()> {
        let unit = g.cpu()?.unit_tiles as usize;
        let units = tiles.div_ceil(unit);
        let all = g.b.imul_const(self.used, units);
        g.parallel(all, |g, number| {
            let b = &mut g.b;
            let each = b.size(units);
            let (number, u) = (b.udiv(number, each), b.urem(number, each));
            let share = self.share(b, number);
            let span = span(b, u, unit, tiles);
            f(g, share, span)
        })
    }

    /// Prepares the rows that the products of experts want, which share their source: those of pairs, by place; where there is
    /// one token, and one row for all of its experts, that row.
    pub fn prepare(&self, g: &mut Generator<'_>, products: &[Linear]) -> Result<Rows> {
        let source = products[0].source;
        let matrices: Vec<Matrix> = products.iter().map(|p| p.matrix).collect();
        let own_rows = g.param_type(source.x).shape.len() == 3;
        let tokens = g.spec.tokens;
        let capacity = if tokens == 1 && !own_rows { 1 } else { tokens * self.k };
        let layout = RowLayout::new(source.columns, &matrices, capacity);
        let norm = source.norm.map(|(w, eps)| (g.param(w), eps));
        let quantize = g.target.atom(Meaning::Quantize);
        let input = Input { x: g.param(source.x), columns: source.columns, norm, quantize, layout };
        let row = if own_rows { self.k * source.columns } else { source.columns };
        let of_token = |b: &mut Builder, buf: Buf, t: Value| -> Result<()> {
            let first = b.imul_const(t, f32_row_bytes(row) / 4);
            let zero = b.int(0);
            if capacity == 1 {
                let figures = input.figures(b, first)?;
                input.prepare(b, (first, figures), buf, zero);
                return Ok(());
            }
            let shared = if own_rows { None } else { input.figures(b, first)? };
            b.for_n(self.k, 1, |b, slot| {
                let base = if own_rows {
                    let before = b.imul_const(slot, source.columns);
                    b.iadd(first, before)
                } else {
                    first
                };
                let place = self.place(b, t, slot);
                input.prepare(b, (base, shared), buf, place);
            });
            Ok(())
        };
        let (count, one) = (g.b.tokens(), g.b.int(1));
        let buf = fill(g, layout.bytes(capacity), count, of_token)?;
        Ok(Rows { buf, layout, first: None, count: one })
    }

    /// The prepared rows of a share.
    pub fn rows(&self, g: &mut Generator<'_>, rows: Rows, products: &[Linear], share: Share) -> Rows {
        let shared = self.sorted.is_none() && g.param_type(products[0].source.x).shape.len() == 2;
        let first = if shared { g.b.int(0) } else { share.first };
        rows.part(first, share.count)
    }
}
