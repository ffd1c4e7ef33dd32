//! Dots of the integer forms with int8 activations.
//!
//! Tokens stream the packed piece of a tile, as many at a time as registers hold; if that takes several passes, it is in L1
//! after the first. Where unpacking takes longer than that is worth, they unpack a panel of 16 rows and 256 columns to the
//! stack, and pass over it. Both compute, per row and token, the same float operations in the same order, so a token's
//! result does not depend on how many there are:
//! for each superblock `t = sum of isum(block) * scale(activations of block)` with exact integer sums that include the
//! integer scales, then `acc += t * d`, then `acc -= dmin * sum of min(block) * (scale * sum)(activations of block)`.

use crate::forms::{Form, Scales, unrolled};
use crate::simd::{Simd, prefetch, prefetch_lines};
use ir::abi::{Q8_BLOCK, Q8_BYTES, Q8_SCALE, Q8_SCALED_SUM, Q8_STARTS_AT, Q8_SUMS, TILE_ROWS};
use ir::tensor::PIECE_COLUMNS;
use std::mem::MaybeUninit;
use std::sync::atomic::{Ordering, compiler_fence};

/// Blocks of a panel.
const PANEL: usize = PIECE_COLUMNS / Q8_BLOCK;
/// Most blocks that are multiplied at once.
const MOST: usize = 4;

/// Rows of activations of `N` tokens from some block on.
#[derive(Clone, Copy)]
struct Rows<const N: usize> {
    rows: [*const u8; N],
    /// Byte of each where the block is.
    at: usize,
}

/// All methods but [`Rows::at`]: block `b` must be in the rows.
impl<const N: usize> Rows<N> {
    /// The rows of `tokens` from token `first` on, at block `block`.
    ///
    /// # Safety
    /// The tokens and the block exist.
    #[inline(always)]
    unsafe fn at(tokens: &Tokens, first: usize, block: usize) -> Self {
        let mut rows = [tokens.a; N];
        for (n, row) in rows.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *row = unsafe { tokens.a.add((first + n) * tokens.a_stride) };
        }
        Rows { rows, at: block * Q8_BYTES }
    }

    /// Byte `at` of block `b`.
    #[inline(always)]
    unsafe fn byte(&self, n: usize, b: usize, at: usize) -> *const u8 {
        // SAFETY: the caller's promise.
        unsafe { self.rows[n].add(self.at + b * Q8_BYTES + at) }
    }

    #[inline(always)]
    unsafe fn quad<S: Simd>(&self, s: S, n: usize, b: usize, q: usize) -> S::SplatWord {
        // SAFETY: the caller's promise.
        unsafe { s.load_splat(self.byte(n, b, q * 4)) }
    }

    #[inline(always)]
    unsafe fn scale(&self, n: usize, b: usize) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { self.byte(n, b, Q8_SCALE).cast::<f32>().read() }
    }

    #[inline(always)]
    unsafe fn sums<S: Simd>(&self, s: S, n: usize, b: usize) -> S::SplatWord {
        // SAFETY: the caller's promise.
        unsafe { s.load_splat(self.byte(n, b, Q8_SUMS)) }
    }

    /// What group `g` of the `groups` of block `b` begins with: its sum times that of [`ir::abi::Q8_STARTS`].
    #[inline(always)]
    unsafe fn start<S: Simd>(&self, s: S, n: usize, b: usize, g: usize, groups: usize) -> S::SplatWord {
        // SAFETY: the caller's promise.
        unsafe { s.load_splat(self.byte(n, b, Q8_STARTS_AT + if groups == 1 { 0 } else { 4 + 4 * g })) }
    }

    /// The sum of the activations of block `b`, scale included.
    #[inline(always)]
    unsafe fn scaled_sum(&self, n: usize, b: usize) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { self.byte(n, b, Q8_SCALED_SUM).cast::<f32>().read() }
    }
}

/// Codes and integer scales of blocks: packed ([`Packed`]) or unpacked ([`Panel`]). Block `b` must be in it, `q < 8`.
trait Source<S: Simd> {
    unsafe fn codes(&self, s: S, b: usize, q: usize) -> [S::Word; 2];
    unsafe fn scale(&self, s: S, group: usize) -> S::Scale;
    unsafe fn correction(&self, s: S, b: usize) -> S::Word;
}

/// A superblock of a tile.
struct Packed<F> {
    w: *const u8,
    scales: Scales,
    form: std::marker::PhantomData<F>,
}

impl<F: Form> Packed<F> {
    /// The superblock at `w`.
    ///
    /// # Safety
    /// It is readable for as long as this lives.
    #[inline(always)]
    unsafe fn new(w: *const u8) -> Self {
        // SAFETY: the caller's promise.
        Packed { w, scales: unsafe { F::scales(w) }, form: std::marker::PhantomData }
    }

    #[inline(always)]
    fn d<S: Simd>(&self, s: S) -> S::Float {
        // SAFETY: `w` is a superblock.
        let d = unsafe { F::d(s, self.w) };
        if raised::<S, F>() { s.mul_splat(d, s.splat_float(1.0 / 16.0)) } else { d }
    }

    /// What the mins are multiplied by; with one block, the negative min itself.
    #[inline(always)]
    fn dmin<S: Simd>(&self, s: S) -> S::Float {
        // SAFETY: `w` is a superblock.
        unsafe { s.load_f16(self.w.add(F::DMIN * TILE_ROWS)) }
    }

    #[inline(always)]
    fn min<S: Simd>(&self, s: S, b: usize) -> S::Float {
        s.load_i8(self.scales.min[b])
    }
}

impl<S: Simd, F: Form> Source<S> for Packed<F> {
    #[inline(always)]
    unsafe fn codes(&self, s: S, b: usize, q: usize) -> [S::Word; 2] {
        // SAFETY: `w` is a superblock; the caller vouches for b and q.
        unsafe { F::codes(s, self.w, b, q) }
    }
    #[inline(always)]
    unsafe fn scale(&self, s: S, group: usize) -> S::Scale {
        if F::BLOCKS == 1 {
            return s.unit_scale();
        }
        let scale = s.scale(self.scales.scale[group]);
        if raised::<S, F>() && (group / F::GROUPS).is_multiple_of(2) { s.scale16(scale) } else { scale }
    }
    #[inline(always)]
    unsafe fn correction(&self, s: S, b: usize) -> S::Word {
        if F::OFFSET == 0 {
            return s.zero();
        }
        // SAFETY: groups of block b.
        let (first, last) = unsafe {
            (Source::<S>::scale(self, s, b * F::GROUPS), Source::<S>::scale(self, s, (b + 1) * F::GROUPS - 1))
        };
        s.correction(F::OFFSET, first, last)
    }
}

/// A superblock of a tile, of which the codes of one block are unpacked.
struct Whole<'a, W, F> {
    codes: [W; 8],
    packed: &'a Packed<F>,
}

impl<S: Simd, F: Form> Source<S> for Whole<'_, S::Word, F> {
    #[inline(always)]
    unsafe fn codes(&self, s: S, _: usize, q: usize) -> [S::Word; 2] {
        [self.codes[q], s.zero()]
    }
    #[inline(always)]
    unsafe fn scale(&self, s: S, group: usize) -> S::Scale {
        // SAFETY: the caller's promise.
        unsafe { self.packed.scale(s, group) }
    }
    #[inline(always)]
    unsafe fn correction(&self, s: S, b: usize) -> S::Word {
        // SAFETY: the caller's promise.
        unsafe { self.packed.correction(s, b) }
    }
}

/// Words of a quad.
const fn planes<S: Simd, F: Form>() -> usize {
    if S::SPLIT8 && F::BITS == 8 { 2 } else { 1 }
}

/// Whether codes of odd blocks are times 16: then so are all sums, and the scale is divided by it.
const fn raised<S: Simd, F: Form>() -> bool {
    S::WIDE && F::RAISED
}

/// Quads of a group that one accumulator holds.
const fn run<S: Simd, F: Form>() -> usize {
    let quads = 8 / F::GROUPS;
    if S::RUN[F::BITS] < quads { S::RUN[F::BITS] } else { quads }
}

/// Most tokens that are faster without a panel: few where unpacking takes many registers or instructions.
const fn streamed<S: Simd, F: Form>() -> usize {
    S::STREAMED[match (F::GROUPS == 1 && run::<S, F>() == 8, F::BLOCKS == 1 && planes::<S, F>() == 1) {
        _ if F::WHOLE => 0,
        (true, true) => 3,
        (true, false) => 2,
        _ => 1,
    }]
}

/// Tokens that the registers hold at once.
const fn at_once<S: Simd, F: Form>() -> usize {
    S::TOKENS[if planes::<S, F>() == 2 { 2 } else { F::GROUPS - 1 }]
}

/// Blocks that are multiplied at once with `tokens` tokens: those that share words, as far as registers go.
const fn together<S: Simd, F: Form>(tokens: usize) -> usize {
    let mut blocks = F::TOGETHER;
    while blocks > 1 && blocks * tokens * F::GROUPS > S::SUMS {
        blocks /= 2;
    }
    blocks
}

/// Up to [`PANEL`] blocks of a tile, unpacked. Corrections and mins are there only if the form has them.
struct Panel<S: Simd, F> {
    /// By block, quad and plane.
    codes: [MaybeUninit<S::Word>; PANEL * 8 * 2],
    scales: [MaybeUninit<S::Scale>; PANEL * 2],
    corrections: [MaybeUninit<S::Word>; PANEL],
    mins: [MaybeUninit<S::Float>; PANEL],
    /// By superblock.
    d: [MaybeUninit<S::Float>; PANEL],
    dmin: [MaybeUninit<S::Float>; PANEL],
    form: std::marker::PhantomData<F>,
}

impl<S: Simd, F: Form> Panel<S, F> {
    #[inline(always)]
    fn new() -> Self {
        Panel {
            codes: [MaybeUninit::uninit(); PANEL * 8 * 2],
            scales: [MaybeUninit::uninit(); PANEL * 2],
            corrections: [MaybeUninit::uninit(); PANEL],
            mins: [MaybeUninit::uninit(); PANEL],
            d: [MaybeUninit::uninit(); PANEL],
            dmin: [MaybeUninit::uninit(); PANEL],
            form: std::marker::PhantomData,
        }
    }

    /// Unpacks the superblock at `w` to the blocks from `first`.
    ///
    /// # Safety
    /// `w` is a superblock of 16 rows and `first + F::BLOCKS <= PANEL`.
    #[inline(always)]
    unsafe fn unpack(&mut self, s: S, w: *const u8, first: usize) {
        // SAFETY: the caller's promise.
        let packed = unsafe { Packed::<F>::new(w) };
        self.d[first / F::BLOCKS].write(packed.d(s));
        if F::MIN {
            self.dmin[first / F::BLOCKS].write(packed.dmin(s));
        }
        if F::WHOLE {
            for b in 0..F::BLOCKS {
                // SAFETY: b is in the superblock.
                let codes = unsafe { F::block(s, w, b) };
                for (to, word) in self.codes[(first + b) * 8..][..8].iter_mut().zip(codes) {
                    to.write(word);
                }
                self.unpack_scales(s, &packed, first, b);
            }
        } else {
            unrolled!(F::BLOCKS, b => {
                for q in 0..8 {
                    // SAFETY: b and q are in the superblock.
                    let codes = unsafe { Source::<S>::codes(&packed, s, b, q) };
                    for (p, &word) in codes.iter().enumerate().take(planes::<S, F>()) {
                        self.codes[((first + b) * 8 + q) * planes::<S, F>() + p].write(word);
                    }
                }
                self.unpack_scales(s, &packed, first, b);
            });
        }
    }

    /// Unpacks what belongs to the codes of block `b` of a superblock whose blocks go to those from `first`, and
    /// prefetches the block's share of a later superblock.
    #[inline(always)]
    fn unpack_scales(&mut self, s: S, packed: &Packed<F>, first: usize, b: usize) {
        prefetch_share::<F>(packed.w, b, F::BYTES * TILE_ROWS * (PANEL / F::BLOCKS));
        for g in 0..F::GROUPS {
            // SAFETY: groups of block b.
            let scale = unsafe { Source::<S>::scale(packed, s, b * F::GROUPS + g) };
            self.scales[(first + b) * F::GROUPS + g].write(scale);
        }
        if F::OFFSET != 0 {
            // SAFETY: b is in the superblock.
            self.corrections[first + b].write(unsafe { packed.correction(s, b) });
        }
        if F::MIN && F::BLOCKS > 1 {
            self.mins[first + b].write(packed.min(s, b));
        }
    }
}

impl<S: Simd, F: Form> Source<S> for Panel<S, F> {
    #[inline(always)]
    unsafe fn codes(&self, s: S, b: usize, q: usize) -> [S::Word; 2] {
        let at = (b * 8 + q) * planes::<S, F>();
        // SAFETY: the caller vouches that block b is unpacked.
        unsafe {
            let low = self.codes.get_unchecked(at).assume_init();
            let high = if planes::<S, F>() == 2 { self.codes.get_unchecked(at + 1).assume_init() } else { s.zero() };
            [low, high]
        }
    }
    #[inline(always)]
    unsafe fn scale(&self, s: S, group: usize) -> S::Scale {
        if F::BLOCKS == 1 {
            return s.unit_scale();
        }
        // SAFETY: the caller vouches that the group's block is unpacked.
        unsafe { self.scales.get_unchecked(group).assume_init() }
    }
    #[inline(always)]
    unsafe fn correction(&self, s: S, b: usize) -> S::Word {
        if F::OFFSET == 0 {
            return s.zero();
        }
        // SAFETY: the caller vouches that block b is unpacked.
        unsafe { self.corrections.get_unchecked(b).assume_init() }
    }
}

/// Prefetches block `b`'s share of the lines of the superblock that lies `ahead` bytes after the one at `w`.
#[inline(always)]
fn prefetch_share<F: Form>(w: *const u8, b: usize, ahead: usize) {
    let bytes = F::BYTES * TILE_ROWS;
    for line in (bytes * b / F::BLOCKS).div_ceil(64)..(bytes * (b + 1) / F::BLOCKS).div_ceil(64) {
        prefetch(w.wrapping_add(ahead + line * 64));
    }
}

/// Adds to `total` the scaled sums of group `g` of `blocks` blocks from `first`.
///
/// # Safety
/// The blocks are in the source and in the rows.
#[inline(always)]
unsafe fn add_group<S: Simd, F: Form, const N: usize>(
    s: S,
    source: &impl Source<S>,
    rows: &Rows<N>,
    (first, blocks): (usize, usize),
    g: usize,
    total: &mut [[S::Total; N]; MOST],
) {
    let (quads, run, planes) = (8 / F::GROUPS, run::<S, F>(), planes::<S, F>());
    // SAFETY: in all of these, the caller's promise.
    for r in 0..quads / run {
        let mut acc = [[[s.zero(); 2]; N]; MOST];
        if r == 0 {
            for j in 0..blocks {
                for n in 0..N {
                    let b = first + j;
                    let (start, sums) = unsafe { (rows.start(s, n, b, g, F::GROUPS), rows.sums(s, n, b)) };
                    acc[j][n][0] = match s.kept_start(F::OFFSET, start, F::GROUPS) {
                        Some(start) => start,
                        None => s.group_start(F::OFFSET, sums, g, F::GROUPS),
                    };
                }
            }
        }
        for i in 0..run {
            let pairs = F::HALVES && run == 8;
            let q = if pairs { i / 2 + i % 2 * 4 } else { g * quads + r * run + i };
            // One of both keeps the compiler from interleaving quads, which would spill most of them: a fence, or, where it
            // then still runs out of registers, settled sums.
            let settled = F::GROUPS == 2 && N == 8;
            if !settled && (!pairs || i % 2 == 0) {
                compiler_fence(Ordering::SeqCst);
            }
            for j in 0..blocks {
                let codes = unsafe { source.codes(s, first + j, q) };
                for n in 0..N {
                    let quad = unsafe { rows.quad(s, n, first + j, q) };
                    for p in 0..planes {
                        let sum = s.dot4(acc[j][n][p], codes[p], quad);
                        acc[j][n][p] = if settled { s.settle_word(sum) } else { sum };
                    }
                }
            }
        }
        for j in 0..blocks {
            let scale = unsafe { source.scale(s, (first + j) * F::GROUPS + g) };
            for n in 0..N {
                total[j][n] = s.fold(total[j][n], acc[j][n][0], scale);
                if planes == 2 {
                    total[j][n] = s.fold(total[j][n], acc[j][n][1], s.scale16(scale));
                }
            }
        }
    }
}

/// Adds to `t`, in the first block of a superblock sets it to, the sums of `blocks` blocks from `first` times the
/// activation scales.
///
/// # Safety
/// The blocks are in the source and in the rows.
#[inline(always)]
unsafe fn add_blocks<S: Simd, F: Form, const N: usize>(
    s: S,
    source: &impl Source<S>,
    rows: &Rows<N>,
    first: usize,
    blocks: usize,
    t: &mut [S::Float; N],
) {
    // SAFETY: here and below, the caller's promise.
    let sums = |n: usize, j: usize| unsafe { rows.sums(s, n, first + j) };
    let mut total = [[s.total_start(sums(0, 0), s.zero()); N]; MOST];
    for j in 0..blocks {
        let correction = unsafe { source.correction(s, first + j) };
        for n in 0..N {
            total[j][n] = s.total_start(sums(n, j), correction);
        }
    }
    if N <= 2 {
        unrolled!(F::GROUPS, g => {
            // SAFETY: the caller's promise.
            unsafe { add_group::<S, F, N>(s, source, rows, (first, blocks), g, &mut total) };
        });
    } else {
        for g in 0..F::GROUPS {
            // SAFETY: the caller's promise.
            unsafe { add_group::<S, F, N>(s, source, rows, (first, blocks), g, &mut total) };
        }
    }
    for j in 0..blocks {
        for n in 0..N {
            let (sum, scale) = (s.total(total[j][n]), s.splat_float(unsafe { rows.scale(n, first + j) }));
            t[n] = s.settle(if (first + j).is_multiple_of(F::BLOCKS) {
                s.mul_splat(sum, scale)
            } else {
                s.fma_splat(sum, scale, t[n])
            });
        }
    }
}

/// The tokens of a dot, and the part of their rows that is multiplied.
#[derive(Clone, Copy)]
struct Tokens {
    /// First block and number of blocks.
    blocks: (usize, usize),
    /// Whether there are sums so far.
    add: bool,
    a: *const u8,
    a_stride: usize,
    out: *mut f32,
    out_stride: usize,
}

impl Tokens {
    /// The sums so far of `N` tokens from `first` on: zeros if there are none.
    ///
    /// # Safety
    /// The tokens exist.
    #[inline(always)]
    unsafe fn sums<S: Simd, const N: usize>(&self, s: S, first: usize) -> [S::Float; N] {
        let mut acc = [s.zero_float(); N];
        if self.add {
            for (n, acc) in acc.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                *acc = unsafe { s.load_f32(self.out.add((first + n) * self.out_stride).cast()) };
            }
        }
        acc
    }

    /// Writes them.
    ///
    /// # Safety
    /// The tokens exist.
    #[inline(always)]
    unsafe fn set_sums<S: Simd, const N: usize>(&self, s: S, first: usize, acc: [S::Float; N]) {
        for (n, acc) in acc.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { s.store_f32(self.out.add((first + n) * self.out_stride), acc) };
        }
    }
}

/// Adds the part's sums for tokens `first..first + N`, straight from the piece at `w`, and returns `N`. The first tokens
/// prefetch what comes after it.
///
/// # Safety
/// That of [`dot`], and the tokens exist.
#[inline(always)]
unsafe fn stream<S: Simd, F: Form, const N: usize>(s: S, w: *const u8, tokens: &Tokens, first: usize) -> usize {
    let (first_block, blocks) = tokens.blocks;
    // Two tokens of forms of two groups still wait for memory, as one does.
    let ahead = S::AHEAD[usize::from(N > F::GROUPS)];
    // SAFETY: the caller's promise.
    let (mut acc, mut rows) = unsafe { (tokens.sums::<S, N>(s, first), Rows::<N>::at(tokens, first, first_block)) };
    for i in first_block / F::BLOCKS..(first_block + blocks) / F::BLOCKS {
        // SAFETY: superblock i of the tile, and the activations that it meets.
        unsafe {
            let packed = Packed::<F>::new(w.add(i * F::BYTES * TILE_ROWS));
            let fetch = |b: usize| {
                if ahead > 0 && first == 0 {
                    prefetch_share::<F>(packed.w, b, ahead);
                }
            };
            // With one token, which waits for memory, lines come in order and operations evenly between them: `d` first, and
            // mins after the codes of their blocks. Otherwise mins come last, where they take fewer registers.
            let mins = F::MIN && F::BLOCKS > 1;
            let even = mins && N == 1 && !F::WHOLE;
            let scales = || [packed.d(s), if F::MIN { packed.dmin(s) } else { s.zero_float() }];
            let early = even.then(|| scales().map(|x| s.settle(x)));
            let less_min = |less: S::Float, n: usize, b: usize| {
                s.fnma_splat(packed.min(s, b), s.splat_float(rows.scaled_sum(n, b)), less)
            };
            let (mut t, mut less) = ([s.zero_float(); N], [s.zero_float(); N]);
            if F::WHOLE {
                for b in 0..F::BLOCKS {
                    fetch(b);
                    let whole = Whole { codes: F::block(s, packed.w, b), packed: &packed };
                    add_blocks::<S, F, N>(s, &whole, &rows, b, 1, &mut t);
                }
            } else {
                let together = together::<S, F>(N);
                unrolled!(F::BLOCKS / together, i => {
                    (i * together..(i + 1) * together).for_each(fetch);
                    add_blocks::<S, F, N>(s, &packed, &rows, i * together, together, &mut t);
                    if even {
                        for b in i * together..(i + 1) * together {
                            less[0] = s.settle(less_min(less[0], 0, b));
                        }
                    }
                });
            }
            let [d, dmin] = early.unwrap_or_else(scales);
            for n in 0..N {
                acc[n] = s.fma(t[n], d, acc[n]);
                if mins {
                    if !even {
                        unrolled!(F::BLOCKS, b => { less[n] = less_min(less[n], n, b); });
                    }
                    acc[n] = s.fma(less[n], dmin, acc[n]);
                } else if F::MIN {
                    acc[n] = s.fma_splat(dmin, s.splat_float(rows.scaled_sum(n, 0)), acc[n]);
                }
            }
        }
        rows.at += F::BLOCKS * Q8_BYTES;
    }
    // SAFETY: the caller's promise.
    unsafe { tokens.set_sums(s, first, acc) };
    N
}

/// Adds the panel's part for tokens `first..first + N`, and returns `N`.
///
/// # Safety
/// The panel holds the blocks and the tokens exist.
#[inline(always)]
unsafe fn pass<S: Simd, F: Form, const N: usize>(s: S, panel: &Panel<S, F>, tokens: &Tokens, first: usize) -> usize {
    let (first_block, blocks) = tokens.blocks;
    // SAFETY: the caller's promise.
    let (mut acc, rows) = unsafe { (tokens.sums::<S, N>(s, first), Rows::<N>::at(tokens, first, first_block)) };
    for row in rows.rows {
        prefetch_lines(row.wrapping_add(N * tokens.a_stride + rows.at), PANEL * Q8_BYTES);
    }
    for i in 0..blocks / F::BLOCKS {
        let mut t = [s.zero_float(); N];
        for b in 0..F::BLOCKS {
            // SAFETY: the caller vouches for the block.
            unsafe { add_blocks::<S, F, N>(s, panel, &rows, i * F::BLOCKS + b, 1, &mut t) };
        }
        // SAFETY: the superblock is unpacked.
        let d = unsafe { panel.d.get_unchecked(i).assume_init() };
        for n in 0..N {
            acc[n] = s.fma(t[n], d, acc[n]);
            if F::MIN && F::BLOCKS == 1 {
                // SAFETY: the block is unpacked and in the rows.
                unsafe {
                    let min = panel.dmin.get_unchecked(i).assume_init();
                    acc[n] = s.fma_splat(min, s.splat_float(rows.scaled_sum(n, i)), acc[n]);
                }
            }
        }
    }
    if F::MIN && F::BLOCKS > 1 {
        for n in 0..N {
            // SAFETY: superblocks of eight blocks fill the panel.
            unsafe {
                let mut less = s.zero_float();
                for b in 0..PANEL {
                    less = s.fnma_splat(panel.mins[b].assume_init(), s.splat_float(rows.scaled_sum(n, b)), less);
                }
                acc[n] = s.fma(less, panel.dmin[0].assume_init(), acc[n]);
            }
        }
    }
    // SAFETY: the caller's promise.
    unsafe { tokens.set_sums(s, first, acc) };
    N
}

/// Calls `$f::<S, F, N>` with the largest N for the tokens that are left, up to `$most`, until none are.
macro_rules! by_tokens {
    ($most:expr, $count:expr, $t:ident => $f:ident($($arg:expr),*)) => {{
        let mut $t = 0;
        while $t < $count {
            $t += match $count - $t {
                8.. if $most >= 8 => $f::<S, F, 8>($($arg),*),
                4.. if $most >= 4 => $f::<S, F, 4>($($arg),*),
                2.. if $most >= 2 => $f::<S, F, 2>($($arg),*),
                _ => $f::<S, F, 1>($($arg),*),
            };
        }
    }};
}

/// [`ir::abi::DotFn`].
///
/// # Safety
/// `w` is a piece of a tile, of `columns` columns in the form's format, a multiple of the superblock; `a` has `tokens` rows
/// of as many blocks, `a_stride` bytes apart and aligned to 4, and `out` 16 floats from each multiple of `out_stride`, which
/// are there if `add` is not 0.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the operands of DotFn")]
pub unsafe fn dot<S: Simd, F: Form>(
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
    let (at_once, all) = (at_once::<S, F>(), columns / Q8_BLOCK);
    let mut here = Tokens { blocks: (0, all), add: add != 0, a, a_stride, out, out_stride };
    if tokens <= streamed::<S, F>() {
        // SAFETY: all of the piece; tokens below `tokens`.
        unsafe { by_tokens!(at_once, tokens, t => stream(s, w, &here, t)) };
        return;
    }
    let mut panel = Panel::<S, F>::new();
    for first in (0..all).step_by(PANEL) {
        let blocks = PANEL.min(all - first);
        here = Tokens { blocks: (first, blocks), add: here.add || first > 0, ..here };
        // SAFETY: superblocks of the piece, as many as a panel holds; tokens below `tokens`.
        unsafe {
            for b in (0..blocks).step_by(F::BLOCKS) {
                panel.unpack(s, w.add((first + b) / F::BLOCKS * F::BYTES * TILE_ROWS), b);
            }
            by_tokens!(at_once, tokens, t => pass(s, &panel, &here, t));
        }
    }
}
