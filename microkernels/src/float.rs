//! Dots of the float forms with f32 activations.
//!
//! Columns are taken in panels, which a few tokens read where they lie and more tokens from the stack, as f32, where they
//! stay in L1. In each panel, a row and token sum into [`Simd::CHAINS`] partial sums, column `c` into sum
//! `c % CHAINS`, which are added up and then added to the result so far. That order holds for any number of tokens, so
//! a token's result does not depend on how many there are.

use crate::simd::{Simd, prefetch_lines};
use ir::abi::TILE_ROWS;
use ir::quant::FloatKind;
use ir::tensor::PIECE_COLUMNS;
use std::mem::MaybeUninit;

/// Columns of a panel.
const PANEL: usize = PIECE_COLUMNS;

/// A float form.
pub trait Element {
    /// The form.
    const KIND: FloatKind;
    /// Bytes of an element.
    const BYTES: usize;
    /// Loads the 16 elements of a column.
    ///
    /// # Safety
    /// `16 * BYTES` bytes must be readable.
    unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::Float;
}

macro_rules! elements {
    ($($(#[$doc:meta])* $name:ident, $bytes:literal, $load:ident;)*) => { $(
        $(#[$doc])*
        pub struct $name;
        impl Element for $name {
            const KIND: FloatKind = FloatKind::$name;
            const BYTES: usize = $bytes;
            #[inline(always)]
            unsafe fn load<S: Simd>(s: S, p: *const u8) -> S::Float {
                // SAFETY: the caller's promise.
                unsafe { s.$load(p) }
            }
        }
    )* };
}

elements! {
    /// IEEE single.
    F32, 4, load_f32;
    /// IEEE half.
    F16, 2, load_f16;
    /// bfloat16.
    Bf16, 2, load_bf16;
}

/// Columns of a piece of a tile: their weights, how many there are, the first of them, and whether there are sums so far.
#[derive(Clone, Copy)]
struct Panel {
    w: *const u8,
    columns: usize,
    first: usize,
    add: bool,
}

/// Where the tokens of a dot lie.
struct Tokens {
    a: *const u8,
    a_stride: usize,
    out: *mut f32,
    out_stride: usize,
}

/// Adds the panel's part for tokens `first..first + N` to `out`, which it initialises if there are no sums so far. `STREAM` for a
/// panel that comes from memory.
///
/// # Safety
/// The panel and the tokens exist, and its columns are a multiple of 4.
#[inline(always)]
unsafe fn pass<S: Simd, E: Element, const N: usize, const STREAM: bool>(
    s: S,
    panel: Panel,
    tokens: &Tokens,
    first: usize,
) {
    let mut acc = [[s.zero_float(); 4]; N];
    let column = TILE_ROWS * E::BYTES;
    for c in (0..panel.columns).step_by(4) {
        let ahead = S::AHEAD[usize::from(N > 1)];
        if STREAM && ahead > 0 {
            prefetch_lines(panel.w.wrapping_add(c * column + ahead), 4 * column);
        }
        for i in 0..4 {
            // SAFETY: a column of the panel.
            let w = unsafe { E::load(s, panel.w.add((c + i) * column)) };
            for (n, acc) in acc.iter_mut().enumerate() {
                // SAFETY: the caller vouches for the token; the column is in its row.
                let a = unsafe {
                    tokens.a.add((first + n) * tokens.a_stride).cast::<f32>().add(panel.first + c + i).read()
                };
                acc[i % S::CHAINS] = s.fma_splat(w, s.splat_float(a), acc[i % S::CHAINS]);
            }
        }
    }
    for (n, acc) in acc.into_iter().enumerate() {
        let mut sum = s.add(acc[0], acc[1]);
        if S::CHAINS == 4 {
            sum = s.add(sum, s.add(acc[2], acc[3]));
        }
        // SAFETY: the caller vouches for the token's 16 floats.
        unsafe {
            let out = tokens.out.add((first + n) * tokens.out_stride);
            if panel.add {
                sum = s.add(s.load_f32(out.cast()), sum);
            }
            s.store_f32(out, sum);
        }
    }
}

/// The panel's part for all of `count` tokens, at most `S::TOKENS[3]` at a time.
///
/// # Safety
/// That of [`pass`].
#[inline(always)]
unsafe fn passes<S: Simd, E: Element, const STREAM: bool>(s: S, panel: Panel, tokens: &Tokens, count: usize) {
    let mut t = 0;
    // SAFETY: tokens below `count`; the rest is the caller's promise.
    unsafe {
        while S::TOKENS[3] >= 4 && count - t >= 4 {
            pass::<S, E, 4, STREAM>(s, panel, tokens, t);
            t += 4;
        }
        while count - t >= 3 {
            pass::<S, E, 3, STREAM>(s, panel, tokens, t);
            t += 3;
        }
        match count - t {
            2 => pass::<S, E, 2, STREAM>(s, panel, tokens, t),
            1 => pass::<S, E, 1, STREAM>(s, panel, tokens, t),
            _ => {}
        }
    }
}

/// Memory for the weights of a panel as f32.
#[repr(align(64))]
struct Unpacked([MaybeUninit<f32>; PANEL * TILE_ROWS]);

/// [`ir::abi::DotFn`].
///
/// # Safety
/// `w` is a piece of a tile, of `columns` columns in the form's format, a multiple of 4; `a` has `tokens` rows of as many
/// floats, `a_stride` bytes apart and aligned to 4, and `out` 16 floats from each multiple of `out_stride`, which are there
/// if `add` is not 0.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the operands of DotFn")]
pub unsafe fn dot<S: Simd, E: Element>(
    s: S,
    w: *const u8,
    a: *const u8,
    out: *mut f32,
    columns: usize,
    tokens: usize,
    a_stride: usize,
    out_stride: usize,
    add: usize,
) {
    let all = Tokens { a, a_stride, out, out_stride };
    let column = TILE_ROWS * E::BYTES;
    let panel = |first: usize| Panel {
        w: w.wrapping_add(first * column),
        columns: PANEL.min(columns - first),
        first,
        add: add != 0 || first > 0,
    };
    if tokens <= S::TOKENS[3] {
        for first in (0..columns).step_by(PANEL) {
            // SAFETY: a panel of the piece.
            unsafe { passes::<S, E, true>(s, panel(first), &all, tokens) };
        }
        return;
    }
    let mut unpacked = Unpacked([MaybeUninit::uninit(); PANEL * TILE_ROWS]);
    for first in (0..columns).step_by(PANEL) {
        let packed = panel(first);
        for c in 0..packed.columns {
            let from = packed.w.wrapping_add(c * column);
            prefetch_lines(from.wrapping_add(PANEL * column), column);
            // SAFETY: a column of the piece, and of the panel.
            unsafe { s.store_f32(unpacked.0.as_mut_ptr().add(c * TILE_ROWS).cast(), E::load(s, from)) };
        }
        // SAFETY: the columns of the panel have been written.
        unsafe { passes::<S, F32, false>(s, Panel { w: unpacked.0.as_ptr().cast(), ..packed }, &all, tokens) };
    }
}
