//! What the kernels of a GPU share: where a thread stands, and sums over the threads of a warp and of a CTA.
//!
//! Every thread of a CTA runs the same code; branches around a `sync` depend on values that the whole CTA agrees on.
//! Results never depend on the order in which CTAs or warps run: partial sums are kept apart and added in a fixed order.
//! Next hop: `rows` prepares activations, `ring` brings weights, `dot` multiplies, `product` spreads the products over the grid.

pub(crate) mod dot;
pub(crate) mod heads;
pub(crate) mod product;
mod ring;
pub(crate) mod rows;

use crate::generator::Generator;
use ir::abi::WARP_ROWS;
use ir::kernel::{Buf, Builder, Compare, Grid, MMA_SHARING, Mem, Scope, Special, Value};
use ir::{Error, Result};

/// Lanes of a warp.
pub(crate) const LANES: usize = WARP_ROWS;

/// Where a thread stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Thread {
    pub cta: Value,
    /// Number in the CTA.
    pub thread: Value,
    pub warp: Value,
    /// Number in the warp.
    pub lane: Value,
    /// Warps of a CTA.
    pub warps: usize,
}

impl Thread {
    /// Threads of a CTA.
    pub fn threads(&self) -> usize {
        self.warps * LANES
    }
}

/// Gives the kernel its grid. What the launch before wrote may be read after [`Builder::await_previous`] only.
///
/// # Errors
/// For a schedule of another machine.
pub(crate) fn begin(g: &mut Generator<'_>, ctas: usize) -> Result<Thread> {
    let warps = g.gpu()?.warps;
    g.b.set_grid(Grid { ctas: ctas as u32, threads: warps * LANES as u32 });
    let b = &mut g.b;
    let (cta, thread) = (b.special(Special::Cta), b.special(Special::Thread));
    let lanes = b.size(LANES);
    let (warp, lane) = (b.udiv(thread, lanes), b.urem(thread, lanes));
    // Equal in all lanes, which an assembler learns from the OR: branches on it do not diverge.
    let warp = b.warp_or(warp);
    Ok(Thread { cta, thread, warp, lane, warps: warps as usize })
}

/// A kernel that works on `rows` rows apart, those of the tokens of a step or a single one: on `ctas` CTAs each, after the launch
/// before. `f` is given where a thread stands among the CTAs of its row, and the row; both are given back, for what is done
/// where the step has no such token.
///
/// # Errors
/// Those of `f` and [`begin`].
pub(crate) fn for_rows(
    g: &mut Generator<'_>,
    (rows, ctas): (usize, usize),
    f: impl FnOnce(&mut Generator<'_>, Thread, Value) -> Result<()>,
) -> Result<(Thread, Value)> {
    let at = begin(g, ctas * rows)?;
    g.b.await_previous();
    if rows == 1 {
        let row = g.b.int(0);
        f(g, at, row)?;
        return Ok((at, row));
    }
    let each = g.b.size(ctas);
    let (row, cta) = (g.b.udiv(at.cta, each), g.b.urem(at.cta, each));
    let tokens = g.b.tokens();
    let there = g.b.compare(Compare::ULt, row, tokens);
    let at = Thread { cta, ..at };
    g.if_(there, |g| f(g, at, row))?;
    Ok((at, row))
}

/// Warps of a CTA whose threads add up floats: which ones come together is no matter of a schedule.
pub(crate) const FIXED_WARPS: usize = 8;

/// Checks that the schedule has them.
///
/// # Errors
/// If it does not.
pub(crate) fn check_warps(g: &Generator<'_>) -> Result<()> {
    match g.gpu()?.warps as usize {
        FIXED_WARPS => Ok(()),
        _ => Err(Error::verify("schedule", format!("{} takes {FIXED_WARPS} warps", g.spec.kind))),
    }
}

/// Where a lane stands in matrix instructions: its group, which shares a row or a column, and its number there.
pub(crate) fn group_of(b: &mut Builder, lane: Value) -> (Value, Value) {
    let sharing = b.size(MMA_SHARING);
    (b.udiv(lane, sharing), b.urem(lane, sharing))
}

/// `if a < limit`.
pub(crate) fn if_below(b: &mut Builder, a: Value, limit: usize, f: impl FnOnce(&mut Builder)) {
    let limit = b.size(limit);
    let below = b.compare(Compare::ULt, a, limit);
    b.if_(below, f);
}

/// `f`, if there is a condition, where it holds.
pub(crate) fn maybe(b: &mut Builder, cond: Option<Value>, f: impl FnOnce(&mut Builder)) {
    match cond {
        Some(cond) => b.if_(cond, f),
        None => f(b),
    }
}

/// Calls `f` for every i < `count` of this thread's share.
pub(crate) fn for_threads(b: &mut Builder, at: &Thread, count: usize, f: impl FnOnce(&mut Builder, Value)) {
    if count == at.threads() {
        return f(b, at.thread);
    }
    if count < at.threads() {
        return if_below(b, at.thread, count, |b| f(b, at.thread));
    }
    let end = b.size(count);
    b.for_(at.thread, end, at.threads() as u32, f);
}

/// Counts this CTA in and gives every thread how many CTAs came before it. What those wrote before a wait of their CTA is
/// visible after. `flag` is a word of shared memory.
pub(crate) fn arrive(b: &mut Builder, at: &Thread, (counters, counter): (Buf, Value), flag: Buf) -> Value {
    let (zero, one) = (b.int(0), b.int(1));
    if_below(b, at.thread, 1, |b| {
        let before = b.atomic_add(counters, counter, one);
        b.store(flag, zero, Mem::I32, before);
    });
    b.sync(Scope::Cta);
    b.load(flag, zero, Mem::I32)
}

/// Combines the values of each `lanes` lanes that follow one another; every lane gets the result.
fn reduce(b: &mut Builder, v: Value, lanes: usize, op: impl Fn(&mut Builder, Value, Value) -> Value) -> Value {
    let mut v = v;
    let mut mask = lanes / 2;
    while mask > 0 {
        let other = b.shuffle_xor(v, mask as u32);
        v = op(b, v, other);
        mask /= 2;
    }
    v
}

/// The sum over each `lanes` lanes that follow one another.
pub(crate) fn lanes_sum(b: &mut Builder, v: Value, lanes: usize) -> Value {
    reduce(b, v, lanes, Builder::fadd)
}

/// The integer sum over each `lanes` lanes that follow one another.
pub(crate) fn lanes_isum(b: &mut Builder, v: Value, lanes: usize) -> Value {
    reduce(b, v, lanes, Builder::iadd)
}

/// The largest over each `lanes` lanes that follow one another.
pub(crate) fn lanes_max(b: &mut Builder, v: Value, lanes: usize) -> Value {
    reduce(b, v, lanes, Builder::fmax)
}

/// The sum over all threads of a CTA, for every thread; `buf` has a float for each warp.
pub(crate) fn cta_sum(b: &mut Builder, at: &Thread, buf: Buf, v: Value) -> Value {
    let v = lanes_sum(b, v, LANES);
    if_below(b, at.lane, 1, |b| b.store(buf, at.warp, Mem::F32, v));
    b.sync(Scope::Cta);
    let mut total = b.float(0.0);
    for w in 0..at.warps {
        let w = b.size(w);
        let part = b.load(buf, w, Mem::F32);
        total = b.fadd(total, part);
    }
    total
}
