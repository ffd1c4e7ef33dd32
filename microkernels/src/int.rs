//! Dots of the integer forms with int8 activations.
//!
//! One token, or a few, stream the packed tile. More unpack a panel of 16 rows and 256 columns to the stack, where it
//! stays in L1, and pass over it with as many tokens at a time as registers hold. Both compute, per row and token, the
//! same float operations in the same order, so a token's result does not depend on how many there are:
//! for each superblock `t = sum of isum(block) * scale(activations of block)` with exact integer sums that include the
//! integer scales, then `acc += t * d`, then `acc -= dmin * min(block) * (scale * sum)(activations of block)`.

use crate::forms::{Form, Scales, unrolled};
use crate::simd::{Simd, prefetch, prefetch_lines};
use ir::abi::{Q8_BLOCK, TILE_ROWS, q8_row_bytes};
use std::mem::MaybeUninit;
use std::sync::atomic::{Ordering, compiler_fence};

/// Blocks of a panel.
const PANEL: usize = 8;
/// Most blocks that are multiplied at once.
const MOST: usize = 4;

/// A row of activations from some block on.
#[derive(Clone, Copy)]
struct Activations {
    codes: *const u8,
    /// {scale: f32, sums: [i16; 2]} per block.
    blocks: *const u8,
}

/// All methods but [`Activations::at`]: block `b` must be in the row.
impl Activations {
    /// The row at `row`, of `k` elements, from block `block`.
    ///
    /// # Safety
    /// `row` is a row of [`q8_row_bytes`] bytes and the block is in it.
    #[inline(always)]
    unsafe fn at(row: *const u8, k: usize, block: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Activations { codes: row.add(block * Q8_BLOCK), blocks: row.add(k + block * 8) } }
    }

    #[inline(always)]
    unsafe fn quad<S: Simd>(self, s: S, b: usize, q: usize) -> S::SplatWord {
        // SAFETY: the caller's promise.
        unsafe { s.load_splat(self.codes.add(b * Q8_BLOCK + q * 4)) }
    }

    #[inline(always)]
    unsafe fn scale(self, b: usize) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { self.blocks.add(b * 8).cast::<f32>().read() }
    }

    #[inline(always)]
    unsafe fn sums<S: Simd>(self, s: S, b: usize) -> S::SplatWord {
        // SAFETY: the caller's promise.
        unsafe { s.load_splat(self.blocks.add(b * 8 + 4)) }
    }

    /// The sum of the activations of block `b`, scale included.
    #[inline(always)]
    unsafe fn scaled_sum(self, b: usize) -> f32 {
        // SAFETY: the caller's promise.
        let [first, last] = unsafe { self.blocks.add(b * 8 + 4).cast::<[i16; 2]>().read() };
        f32::from(first + last) * unsafe { self.scale(b) }
    }

    /// The sums of the activations of eight blocks, scale included.
    #[inline(always)]
    unsafe fn scaled_sums<S: Simd>(self, s: S) -> [f32; 8] {
        let (mut lanes, mut out) = ([0.0; TILE_ROWS], [0.0; 8]);
        // SAFETY: the caller's promise; `lanes` has the lanes.
        unsafe { s.store_f32(lanes.as_mut_ptr(), s.scaled_sums(self.blocks)) };
        for (b, out) in out.iter_mut().enumerate() {
            *out = lanes[2 * b + 1];
        }
        out
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
        unsafe { F::d(s, self.w) }
    }

    #[inline(always)]
    fn min<S: Simd>(&self, s: S, b: usize) -> S::Float {
        // SAFETY: `w` is a superblock.
        let d = unsafe { s.load_f16(self.w.add(F::DMIN * TILE_ROWS)) };
        if F::BLOCKS == 1 { s.mul_splat(d, s.splat_float(-1.0)) } else { s.mul(s.load_i8(self.scales.min[b]), d) }
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
        if F::BLOCKS == 1 { s.unit_scale() } else { s.scale(self.scales.scale[group]) }
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

/// Quads of a group that one accumulator holds.
const fn run<S: Simd, F: Form>() -> usize {
    let quads = 8 / F::GROUPS;
    if S::RUN[F::BITS] < quads { S::RUN[F::BITS] } else { quads }
}

/// Most tokens that are faster without a panel: few where unpacking takes many registers or instructions.
const fn streamed<S: Simd, F: Form>() -> usize {
    match (F::GROUPS == 1 && run::<S, F>() == 8, F::BLOCKS == 1 && planes::<S, F>() == 1) {
        (true, true) => S::STREAMED[2],
        (true, false) => S::STREAMED[1],
        _ => S::STREAMED[0],
    }
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
        if F::MIN {
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

/// Adds to `t`, in the first block of a superblock sets it to, the sums of `blocks` blocks from `first` times the
/// activation scales.
///
/// # Safety
/// The blocks are in the source and in the rows.
#[inline(always)]
unsafe fn add_blocks<S: Simd, F: Form, const N: usize>(
    s: S,
    source: &impl Source<S>,
    rows: &[Activations; N],
    first: usize,
    blocks: usize,
    t: &mut [S::Float; N],
) {
    let (quads, run, planes) = (8 / F::GROUPS, run::<S, F>(), planes::<S, F>());
    // SAFETY: here and below, the caller's promise.
    let sums = |n: usize, j: usize| unsafe { rows[n].sums(s, first + j) };
    let mut total = [[s.total_start(sums(0, 0), s.zero()); N]; MOST];
    for j in 0..blocks {
        let correction = unsafe { source.correction(s, first + j) };
        for n in 0..N {
            total[j][n] = s.total_start(sums(n, j), correction);
        }
    }
    for g in 0..F::GROUPS {
        for r in 0..quads / run {
            let mut acc = [[[s.zero(); 2]; N]; MOST];
            if r == 0 {
                for j in 0..blocks {
                    for n in 0..N {
                        acc[j][n][0] = s.group_start(F::OFFSET, sums(n, j), g, F::GROUPS);
                    }
                }
            }
            for i in 0..run {
                // Quads 0, 4, 1, 5, ... if there are eight: in many forms q and q + 4 lie in the same word.
                let q = if run == 8 { i / 2 + i % 2 * 4 } else { g * quads + r * run + i };
                // Keeps the compiler from interleaving quads, which would spill most of them.
                if run != 8 || i % 2 == 0 {
                    compiler_fence(Ordering::SeqCst);
                }
                for j in 0..blocks {
                    let codes = unsafe { source.codes(s, first + j, q) };
                    for n in 0..N {
                        let quad = unsafe { rows[n].quad(s, first + j, q) };
                        for p in 0..planes {
                            acc[j][n][p] = s.dot4(acc[j][n][p], codes[p], quad);
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
    for j in 0..blocks {
        for n in 0..N {
            let (sum, scale) = (s.total(total[j][n]), s.splat_float(unsafe { rows[n].scale(first + j) }));
            t[n] = s.settle(if (first + j).is_multiple_of(F::BLOCKS) {
                s.mul_splat(sum, scale)
            } else {
                s.fma_splat(sum, scale, t[n])
            });
        }
    }
}

/// Streams the tile for `N` tokens, and returns `N`.
///
/// # Safety
/// That of [`dot`], with `N` tokens.
#[inline(always)]
unsafe fn stream<S: Simd, F: Form, const N: usize>(
    s: S,
    w: *const u8,
    a: *const u8,
    out: *mut f32,
    k: usize,
    out_stride: usize,
) -> usize {
    let ahead = S::AHEAD[N.min(3) - 1];
    let mut acc = [s.zero_float(); N];
    for i in 0..k / (F::BLOCKS * Q8_BLOCK) {
        // SAFETY: superblock i of the tile, and the activations that it meets.
        unsafe {
            let packed = Packed::<F>::new(w.add(i * F::BYTES * TILE_ROWS));
            let mut rows = [Activations::at(a, k, i * F::BLOCKS); N];
            for n in 1..N {
                rows[n] = Activations::at(a.add(n * q8_row_bytes(k)), k, i * F::BLOCKS);
            }
            let mut t = [s.zero_float(); N];
            if F::WHOLE {
                for b in 0..F::BLOCKS {
                    prefetch_share::<F>(packed.w, b, ahead);
                    let whole = Whole { codes: F::block(s, packed.w, b), packed: &packed };
                    add_blocks::<S, F, N>(s, &whole, &rows, b, 1, &mut t);
                }
            } else {
                let together = together::<S, F>(N);
                unrolled!(F::BLOCKS / together, i => {
                    for b in i * together..(i + 1) * together {
                        prefetch_share::<F>(packed.w, b, ahead);
                    }
                    add_blocks::<S, F, N>(s, &packed, &rows, i * together, together, &mut t);
                });
            }
            for n in 0..N {
                acc[n] = s.fma(t[n], packed.d(s), acc[n]);
                if F::MIN && F::BLOCKS == 1 {
                    acc[n] = s.fnma_splat(packed.min(s, 0), s.splat_float(rows[n].scaled_sum(0)), acc[n]);
                } else if F::MIN {
                    let sums = rows[n].scaled_sums(s);
                    unrolled!(F::BLOCKS, b => {
                        acc[n] = s.fnma_splat(packed.min(s, b), s.splat_float(sums[b]), acc[n]);
                    });
                }
            }
        }
    }
    for n in 0..N {
        // SAFETY: the caller vouches for 16 floats a token.
        unsafe { s.store_f32(out.add(n * out_stride), acc[n]) };
    }
    N
}

/// Where the tokens of a dot lie.
struct Tokens {
    /// First block of the panel and number of blocks in it.
    blocks: (usize, usize),
    k: usize,
    a: *const u8,
    out: *mut f32,
    out_stride: usize,
}

/// Adds the panel's part for tokens `first..first + N` to `out`, which it initialises in the first panel.
///
/// # Safety
/// The panel holds the blocks and the tokens exist.
#[inline(always)]
unsafe fn pass<S: Simd, F: Form, const N: usize>(s: S, panel: &Panel<S, F>, tokens: &Tokens, first: usize) {
    let (first_block, blocks) = tokens.blocks;
    let row_bytes = q8_row_bytes(tokens.k);
    let mut rows = [Activations { codes: tokens.a, blocks: tokens.a }; N];
    let mut acc = [s.zero_float(); N];
    for i in 0..N {
        let row = tokens.a.wrapping_add((first + i) * row_bytes);
        // SAFETY: the caller vouches for the token.
        unsafe {
            rows[i] = Activations::at(row, tokens.k, first_block);
            if first_block > 0 {
                acc[i] = s.load_f32(tokens.out.add((first + i) * tokens.out_stride).cast());
            }
        }
        prefetch_lines(rows[i].codes.wrapping_add(N * row_bytes), PANEL * Q8_BLOCK);
        prefetch(rows[i].blocks.wrapping_add(N * row_bytes));
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
                    let min = panel.mins.get_unchecked(i).assume_init();
                    acc[n] = s.fnma_splat(min, s.splat_float(rows[n].scaled_sum(i)), acc[n]);
                }
            }
        }
    }
    if F::MIN && F::BLOCKS > 1 {
        for n in 0..N {
            // SAFETY: superblocks of eight blocks fill the panel.
            unsafe {
                let sums = rows[n].scaled_sums(s);
                for b in 0..PANEL {
                    acc[n] = s.fnma_splat(panel.mins[b].assume_init(), s.splat_float(sums[b]), acc[n]);
                }
            }
        }
    }
    for (i, acc) in acc.into_iter().enumerate() {
        // SAFETY: the caller vouches for the token.
        unsafe { s.store_f32(tokens.out.add((first + i) * tokens.out_stride), acc) };
    }
}

/// [`ir::abi::DotFn`].
///
/// # Safety
/// `w` is a tile of `k` columns in the form's format, `k` a multiple of the superblock; `a` has `tokens` rows of
/// [`q8_row_bytes`] bytes aligned to 4, and `out` 16 floats from each multiple of `out_stride`.
#[inline(always)]
pub unsafe fn dot<S: Simd, F: Form>(
    s: S,
    w: *const u8,
    a: *const u8,
    out: *mut f32,
    k: usize,
    tokens: usize,
    out_stride: usize,
) {
    let at_once = S::TOKENS[planes::<S, F>() - 1];
    let most = streamed::<S, F>();
    if tokens <= most {
        let mut t = 0;
        while t < tokens {
            // SAFETY: tokens below `tokens`; the rest is the caller's promise.
            unsafe {
                let (a, out) = (a.add(t * q8_row_bytes(k)), out.add(t * out_stride));
                t += match tokens - t {
                    8.. if most >= 8 => stream::<S, F, 8>(s, w, a, out, k, out_stride),
                    4.. if most >= 4 => stream::<S, F, 4>(s, w, a, out, k, out_stride),
                    2.. if most >= 2 => stream::<S, F, 2>(s, w, a, out, k, out_stride),
                    _ => stream::<S, F, 1>(s, w, a, out, k, out_stride),
                };
            }
        }
        return;
    }
    let mut panel = Panel::<S, F>::new();
    for first_block in (0..k / Q8_BLOCK).step_by(PANEL) {
        let blocks = PANEL.min(k / Q8_BLOCK - first_block);
        let here = Tokens { blocks: (first_block, blocks), k, a, out, out_stride };
        for b in (0..blocks).step_by(F::BLOCKS) {
            // SAFETY: superblocks of the tile, as many as a panel holds.
            unsafe { panel.unpack(s, w.add((first_block + b) / F::BLOCKS * F::BYTES * TILE_ROWS), b) };
        }
        let mut t = 0;
        // SAFETY: the blocks of the panel, and tokens below `tokens`.
        unsafe {
            while at_once >= 8 && tokens - t >= 8 {
                pass::<S, F, 8>(s, &panel, &here, t);
                t += 8;
            }
            while at_once >= 4 && tokens - t >= 4 {
                pass::<S, F, 4>(s, &panel, &here, t);
                t += 4;
            }
            while tokens - t >= 2 {
                pass::<S, F, 2>(s, &panel, &here, t);
                t += 2;
            }
            if tokens > t {
                pass::<S, F, 1>(s, &panel, &here, t);
            }
        }
    }
}
