//! The functions whose addresses are in the tables: generic kernels with the features enabled that they need.

use crate::{Table, attention, avx2::Avx2, avx512::Avx512, exp, float, forms, int, quantize};
use ir::abi::{AccumulateFn, Atom, DotFn, Meaning, QuantizeFn, ScoresFn, SiluTimesFn, SoftmaxFn};
use ir::quant::DotForm;

/// A module of dots over one [`crate::simd::Simd`], with a function that puts them into a table.
macro_rules! dots {
    ($(#[$doc:meta])* $module:ident, $simd:ty, $features:literal, then $then:path;
     $($function:ident = $atom:ident: $kernel:ident $form:ident;)*) => {
        $(#[$doc])*
        pub mod $module {
            use super::*;

            $(
                /// [`DotFn`].
                ///
                /// # Safety
                /// Its contract, and the CPU must have the features.
                #[target_feature(enable = $features)]
                unsafe extern "C" fn $function(
                    w: *const u8,
                    a: *const u8,
                    out: *mut f32,
                    columns: usize,
                    tokens: usize,
                    a_stride: usize,
                    out_stride: usize,
                    add: usize,
                ) {
                    let dot = dots!(@ $kernel $form $simd);
                    // SAFETY: the features are enabled; the caller keeps the contract.
                    unsafe { dot(<$simd>::new(), w, a, out, columns, tokens, a_stride, out_stride, add) }
                }
            )*

            /// Puts the atoms into the table.
            pub fn fill(table: &mut Table) {
                $then(table);
                $(
                    debug_assert_eq!(Atom::$atom.meaning(), Meaning::Dot(dots!(@ form $kernel $form)));
                    table[Atom::$atom as usize] = $function as DotFn as usize;
                )*
            }
        }
    };
    (@ form int $form:ident) => { <forms::$form as forms::Form>::DOT };
    (@ form float $form:ident) => { DotForm::Float(<float::$form as float::Element>::KIND) };
    (@ int $form:ident $simd:ty) => { int::dot::<$simd, forms::$form> };
    (@ float $form:ident $simd:ty) => { float::dot::<$simd, float::$form> };
}

macro_rules! all_dots {
    ($(#[$doc:meta])* $module:ident, $simd:ty, $features:literal) => {
        dots! {
            $(#[$doc])* $module, $simd, $features, then super::fill_vector;
            f32 = DotF32: float F32;
            f16 = DotF16: float F16;
            bf16 = DotBf16: float Bf16;
            u4_half = DotU4Half: int U4Half;
            s8_half = DotS8Half: int S8Half;
            u3_super6 = DotU3Super6: int U3Super6;
            u4_super6min = DotU4Super6Min: int U4Super6Min;
            u5_super6min = DotU5Super6Min: int U5Super6Min;
            u6_super8 = DotU6Super8: int U6Super8;
            lut4_split6 = DotLut4Split6: int Lut4Split6;
            grid8x4 = DotGrid8x4: int Grid8x4;
            grid9x4 = DotGrid9x4: int Grid9x4;
            u4_half_min = DotU4HalfMin: int U4HalfMin;
            u5_half = DotU5Half: int U5Half;
            u5_half_min = DotU5HalfMin: int U5HalfMin;
            lut4_half = DotLut4Half: int Lut4Half;
            e2m1_power = DotE2M1Power: int E2M1Power;
            grid8x8 = DotGrid8x8: int Grid8x8;
            grid9x8 = DotGrid9x8: int Grid9x8;
            grid10x8 = DotGrid10x8: int Grid10x8;
            grid11x8 = DotGrid11x8: int Grid11x8;
        }
    };
}

all_dots! {
    /// AVX2, FMA and F16C.
    v3, Avx2, "avx2,fma,f16c"
}
all_dots! {
    /// AVX-512 with VNNI.
    v4, Avx512<false>, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c"
}

dots! {
    /// What VBMI makes faster.
    vbmi, Avx512<true>, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c", then super::v4::fill;
    lut4_split6 = DotLut4Split6: int Lut4Split6;
    grid8x4 = DotGrid8x4: int Grid8x4;
    grid9x4 = DotGrid9x4: int Grid9x4;
    lut4_half = DotLut4Half: int Lut4Half;
    e2m1_power = DotE2M1Power: int E2M1Power;
}

/// Attention functions of one signature.
macro_rules! attention {
    ($($function:ident = $type:ident: $kernel:ident $row:ident($a:ident: $ta:ty, $b:ident: $tb:ty, $c:ident: $tc:ty);)*) => { $(
        #[doc = concat!("[`", stringify!($type), "`].")]
        ///
        /// # Safety
        /// Its contract, and the CPU must have the features.
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe extern "C" fn $function($a: $ta, $b: $tb, $c: $tc, head: usize, positions: usize, rows: usize) {
            // SAFETY: the features are enabled; the caller keeps the contract.
            unsafe { attention::$kernel::<attention::$row>($a, $b, $c, head, positions, rows) }
        }
    )* };
}

attention! {
    scores_f16 = ScoresFn: scores F16(q: *const f32, keys: *const u8, out: *mut f32);
    scores_q8 = ScoresFn: scores Q8(q: *const f32, keys: *const u8, out: *mut f32);
    accumulate_f16 = AccumulateFn: accumulate F16(weights: *const f32, values: *const u8, acc: *mut f32);
    accumulate_q8 = AccumulateFn: accumulate Q8(weights: *const f32, values: *const u8, acc: *mut f32);
}

/// Puts the atoms that are the same for both instruction sets into the table.
fn fill_vector(table: &mut Table) {
    table[Atom::ScoresF16 as usize] = scores_f16 as ScoresFn as usize;
    table[Atom::ScoresQ8 as usize] = scores_q8 as ScoresFn as usize;
    table[Atom::AccumulateF16 as usize] = accumulate_f16 as AccumulateFn as usize;
    table[Atom::AccumulateQ8 as usize] = accumulate_q8 as AccumulateFn as usize;
    table[Atom::Softmax as usize] = exp::softmax as SoftmaxFn as usize;
    table[Atom::SiluTimes as usize] = exp::silu_times as SiluTimesFn as usize;
    table[Atom::Quantize as usize] = quantize::row as QuantizeFn as usize;
}
