//! The boundary between generated CPU kernels and the code they call: the [`Frame`] that a kernel receives, the
//! [`Atom`]s (microkernels) that it reaches through a function table, and the memory layouts that both sides agree on.
//!
//! A CPU kernel is position-independent code of the form [`KernelFn`]; everything it touches hangs off the frame, so it
//! has no relocations. Next hop: `microkernels` implements the atoms, `runtime` fills the frames, `codegen` emits the calls.

pub use crate::activation::{
    Q8_BLOCK, Q8_BYTES, Q8_SCALE, Q8_SCALED_SUM, Q8_STARTS, Q8_STARTS_AT, Q8_SUMS, Q8Step, ROW_ALIGN, STEP_PLANES,
    STEP_TOKENS, f32_row_bytes, kv_f16_row_bytes, kv_q8_row_bytes, q8_row_bytes, q8_scale,
};
use crate::quant::{DotForm, FloatKind, Scale};

/// Version of everything in this module and in what it re-exports; the manifest records it and the runtime refuses another.
pub const VERSION: u32 = 9;

/// Rows that [`crate::tensor::Layout::Rows16`] interleaves, and that a dot atom computes at once.
pub const TILE_ROWS: usize = 16;
/// Rows that [`crate::tensor::Layout::Rows32`] interleaves: the lanes of a warp.
pub const WARP_ROWS: usize = 32;
/// Bytes of the widest load of a lane.
pub const LANE_BYTES: usize = 16;
/// KV positions that an attention kernel handles between two rescalings of its running sums.
pub const KV_BLOCK: usize = 64;

/// Most scratch bytes of a kernel for each worker, and most zeroed bytes of a plan; far more than any needs.
pub const MAX_SCRATCH: u64 = 64 << 20;

/// Distance of work counters: each has a cache line of its own.
pub const TICKET_BYTES: usize = 64;

/// A CPU kernel. Every worker of the pool calls it with its own frame. One that is generated does not unwind; one that is
/// written in Rust may.
pub type KernelFn = unsafe extern "C-unwind" fn(*const Frame);

/// What a kernel receives. Field order is part of the ABI: generated code reads fields by their offsets.
#[repr(C)]
#[derive(Debug)]
pub struct Frame {
    /// Function table: the address of each [`Atom`], indexed by its discriminant.
    pub atoms: *const usize,
    /// Addresses of the kernel's buffers, in the order of its parameters.
    pub buffers: *const *mut u8,
    /// The dynamic values of this step.
    pub control: *const Control,
    /// Work counters of this launch, one for each stage of the kernel and worker (all of a stage's before those of the
    /// next), zero at launch, [`TICKET_BYTES`] apart. The low half of one counts the indices that the worker has taken from
    /// the front of its range, and goes on to count when none are left; the high half those that others have taken from
    /// the back.
    pub tickets: *const u64,
    /// This worker's scratch memory, aligned to 64 bytes, at least the kernel's `scratch_bytes`.
    pub scratch: *mut u8,
    /// Opaque argument of [`Atom::Barrier`].
    pub pool: *const u8,
    /// This worker's index, from 0.
    pub worker: u32,
    /// Number of workers.
    pub workers: u32,
}

/// The only values that change between two launches of the same plan.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Control {
    /// Position of the first token of this step; also the KV length before it.
    pub position: u32,
    /// Tokens in this step, 1 to the entry point's capacity.
    pub tokens: u32,
}

/// `out[t * out_stride + r] = sum over c < columns of w[r, c] * a[t, c]` for the 16 rows r of a piece of
/// [`crate::tensor::Layout::Rows16`] and `tokens` tokens; if `add` is not 0, added to what is there. `a` is int8 blocks of
/// [`Q8_BYTES`] or f32, as the form wants, `a_stride` bytes a token; `out_stride` is in floats. `columns` is a multiple of
/// the format's block. The result of a token does not depend on `tokens`; and adding the pieces of a row one by one, all but
/// the last of a multiple of [`crate::tensor::PIECE_COLUMNS`] columns, gives the bits of a single call.
pub type DotFn = unsafe extern "C" fn(
    w: *const u8,
    a: *const u8,
    out: *mut f32,
    columns: usize,
    tokens: usize,
    a_stride: usize,
    out_stride: usize,
    add: usize,
);
/// `out[r * KV_BLOCK + p] = q[r] . K[p]` for `rows` query rows of `head` floats and the first `positions <= KV_BLOCK` keys of a
/// block of [`crate::tensor::Layout::Keys`]. What is past them in the last tile's 16 is anything.
pub type ScoresFn =
    unsafe extern "C" fn(q: *const f32, keys: *const u8, out: *mut f32, head: usize, positions: usize, rows: usize);
/// `acc[r * head + d] += sum over p of weights[r * KV_BLOCK + p] * V[p, d]`, of values that lie row after row; `head` is a
/// multiple of 4.
pub type AccumulateFn = unsafe extern "C" fn(
    weights: *const f32,
    values: *const u8,
    acc: *mut f32,
    head: usize,
    positions: usize,
    rows: usize,
);
/// One row of the online softmax (Milakov and Gimelshein 2018) over [`KV_BLOCK`] scores, of which those from `first` to before
/// `end` count (`first <= end <= KV_BLOCK`). With a `cap` other than 0 they become `cap * tanh(score / cap)` first. `max`
/// becomes the largest of them and itself, each score `exp(score - max)`, 0 where it does not count; `sum` and the `head`
/// floats of `acc` are multiplied by `exp(old max - max)`, and the scores are added to `sum`.
pub type SoftmaxFn = unsafe extern "C" fn(
    scores: *mut f32,
    max: *mut f32,
    sum: *mut f32,
    acc: *mut f32,
    head: usize,
    first: usize,
    end: usize,
    cap: f32,
);
/// `y[t * y_stride + r] = silu(y[t * y_stride + r]) * up[t * TILE_ROWS + r]` for the 16 rows r of a tile and `tokens` tokens;
/// silu(x) = x / (1 + exp(-x)).
pub type SiluTimesFn = unsafe extern "C" fn(up: *const f32, y: *mut f32, tokens: usize, y_stride: usize);
/// One row of `k` int8 activations, of [`q8_row_bytes`], from floats: of `x[c] * factor * weights[c]`, of `x[c]` if `weights`
/// is null. `k` is a multiple of [`Q8_BLOCK`]. Scales and codes are those of
/// [`crate::graph::Op::Quantize`].
pub type QuantizeFn = unsafe extern "C" fn(x: *const f32, out: *mut u8, k: usize, factor: f32, weights: *const f32);
/// `out[t * dim + 2 i] = cos`, `out[t * dim + 2 i + 1] = sin` of `(position + t) * theta^(-2 i / dim) / factors[i]`
/// (factors null: 1), i < dim / 2. Computed in f64.
pub type RopeAnglesFn =
    unsafe extern "C" fn(out: *mut f32, position: usize, tokens: usize, dim: usize, theta: f32, factors: *const f32);
/// Returns when every worker of the pool has called it; memory written before is visible after. Once a worker has panicked
/// it returns at once: the job has failed, and the others leave it as they can.
pub type BarrierFn = unsafe extern "C" fn(pool: *const u8, worker: usize);

/// How the rows of a KV cache are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvEncoding {
    /// f16 elements: [`kv_f16_row_bytes`].
    Halves,
    /// 8-bit codes, then f16 scales: [`kv_q8_row_bytes`].
    Codes,
}

impl KvEncoding {
    /// Bytes of a row of `head` elements.
    pub fn row_bytes(self, head: usize) -> usize {
        match self {
            KvEncoding::Halves => kv_f16_row_bytes(head),
            KvEncoding::Codes => kv_q8_row_bytes(head),
        }
    }
}

/// What an atom computes, so that generators choose it by meaning; each meaning has one of the function types above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Dot products of a weight tile of this form: [`DotFn`].
    Dot(DotForm),
    /// Attention scores of keys so encoded: [`ScoresFn`].
    Scores(KvEncoding),
    /// Attention-weighted sum of values so encoded: [`AccumulateFn`].
    Accumulate(KvEncoding),
    /// A row of the online softmax: [`SoftmaxFn`].
    Softmax,
    /// silu(gate) * up: [`SiluTimesFn`].
    SiluTimes,
    /// A row of int8 activations: [`QuantizeFn`].
    Quantize,
    /// Rotary angles: [`RopeAnglesFn`].
    RopeAngles,
    /// Barrier of the worker pool: [`BarrierFn`].
    Barrier,
}

macro_rules! atoms {
    ($($(#[$doc:meta])* $id:ident = $name:literal, $meaning:expr;)*) => {
        /// A microkernel, as an index into the function table of [`Frame::atoms`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Atom { $($(#[$doc])* $id),* }
        impl Atom {
            /// Every atom, in table order.
            pub const ALL: &[Atom] = &[$(Atom::$id),*];
            /// The name in text forms.
            pub fn name(self) -> &'static str { match self { $(Atom::$id => $name),* } }
            /// What it computes.
            pub fn meaning(self) -> Meaning { match self { $(Atom::$id => $meaning),* } }
        }
    };
}

atoms! {
    /// Provided by the runtime's pool.
    Barrier = "barrier", Meaning::Barrier;
    /// Portable code, the same for every target.
    RopeAngles = "rope_angles", Meaning::RopeAngles;
    /// f32 weights.
    DotF32 = "dot_f32", Meaning::Dot(DotForm::Float(FloatKind::F32));
    /// f16 weights.
    DotF16 = "dot_f16", Meaning::Dot(DotForm::Float(FloatKind::F16));
    /// bf16 weights.
    DotBf16 = "dot_bf16", Meaning::Dot(DotForm::Float(FloatKind::Bf16));
    /// 4-bit codes, f16 scale per 32.
    DotU4Half = "dot_u4_half", Meaning::Dot(DotForm::Int { bits: 4, offset: 8, group: 32, scale: Scale::Half });
    /// 8-bit signed codes, f16 scale per 32.
    DotS8Half = "dot_s8_half", Meaning::Dot(DotForm::Int { bits: 8, offset: 0, group: 32, scale: Scale::Half });
    /// 3-bit codes, 6-bit scale per 16.
    DotU3Super6 = "dot_u3_super6", Meaning::Dot(DotForm::Int { bits: 3, offset: 4, group: 16, scale: Scale::Super6 });
    /// 4-bit codes, 6-bit scale and min per 32.
    DotU4Super6Min = "dot_u4_super6min", Meaning::Dot(DotForm::Int { bits: 4, offset: 0, group: 32, scale: Scale::Super6Min });
    /// 5-bit codes, 6-bit scale and min per 32.
    DotU5Super6Min = "dot_u5_super6min", Meaning::Dot(DotForm::Int { bits: 5, offset: 0, group: 32, scale: Scale::Super6Min });
    /// 6-bit codes, 8-bit scale per 16.
    DotU6Super8 = "dot_u6_super8", Meaning::Dot(DotForm::Int { bits: 6, offset: 32, group: 16, scale: Scale::Super8 });
    /// 4-bit indices into 16 values, split 6-bit scale per 32.
    DotLut4Split6 = "dot_lut4_split6", Meaning::Dot(DotForm::Codebook { bits: 4, group: 32, scale: Scale::Split6 });
    /// 8-bit indices of points of four, 4-bit scale per 32.
    DotGrid8x4 = "dot_grid8x4", Meaning::Dot(DotForm::Grid { bits: 8, vector: 4, group: 32, scale: Scale::Top4 });
    /// 9-bit indices of points of four, 4-bit scale per 32.
    DotGrid9x4 = "dot_grid9x4", Meaning::Dot(DotForm::Grid { bits: 9, vector: 4, group: 32, scale: Scale::Nibbles });
    /// 4-bit codes, f16 scale and min per 32.
    DotU4HalfMin = "dot_u4_half_min", Meaning::Dot(DotForm::Int { bits: 4, offset: 0, group: 32, scale: Scale::HalfMin });
    /// 5-bit codes, f16 scale per 32.
    DotU5Half = "dot_u5_half", Meaning::Dot(DotForm::Int { bits: 5, offset: 16, group: 32, scale: Scale::Half });
    /// 5-bit codes, f16 scale and min per 32.
    DotU5HalfMin = "dot_u5_half_min", Meaning::Dot(DotForm::Int { bits: 5, offset: 0, group: 32, scale: Scale::HalfMin });
    /// 4-bit indices into 16 values, f16 scale per 32.
    DotLut4Half = "dot_lut4_half", Meaning::Dot(DotForm::Codebook { bits: 4, group: 32, scale: Scale::Half });
    /// 4-bit floats, a power of two per 32.
    DotE2M1Power = "dot_e2m1_power", Meaning::Dot(DotForm::BlockScaled { bits: 4, group: 32 });
    /// 8-bit indices of points of eight, 4-bit scale per 32.
    DotGrid8x8 = "dot_grid8x8", Meaning::Dot(DotForm::Grid { bits: 8, vector: 8, group: 32, scale: Scale::Top4 });
    /// 9-bit indices of points of eight, 4-bit scale per 16.
    DotGrid9x8 = "dot_grid9x8", Meaning::Dot(DotForm::Grid { bits: 9, vector: 8, group: 16, scale: Scale::Nibbles });
    /// 10-bit indices of points of eight, 4-bit scale per 16.
    DotGrid10x8 = "dot_grid10x8", Meaning::Dot(DotForm::Grid { bits: 10, vector: 8, group: 16, scale: Scale::Nibbles });
    /// 11-bit indices of ternary points of eight, 3-bit scale per 32.
    DotGrid11x8 = "dot_grid11x8", Meaning::Dot(DotForm::Grid { bits: 11, vector: 8, group: 32, scale: Scale::Short3 });
    /// f16 KV.
    ScoresF16 = "scores_f16", Meaning::Scores(KvEncoding::Halves);
    /// 8-bit KV.
    ScoresQ8 = "scores_q8", Meaning::Scores(KvEncoding::Codes);
    /// f16 KV.
    AccumulateF16 = "accumulate_f16", Meaning::Accumulate(KvEncoding::Halves);
    /// 8-bit KV.
    AccumulateQ8 = "accumulate_q8", Meaning::Accumulate(KvEncoding::Codes);
    /// A block of scores of one row.
    Softmax = "softmax", Meaning::Softmax;
    /// A tile of both products.
    SiluTimes = "silu_times", Meaning::SiluTimes;
    /// A row, normalised or as it is.
    Quantize = "quantize", Meaning::Quantize;
}
