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
    ($(#[$doc:meta])* $module:ident, $simd:ty, $features:literal, then $then:path) => {
        dots! {
            $(#[$doc])* $module, $simd, $features, then $then;
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
    v3, Avx2, "avx2,fma,f16c", then super::others_v3::fill
}
all_dots! {
    /// AVX-512 with VNNI.
    v4, Avx512<false>, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c",
    then super::others_v4::fill
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

/// A module of what is not dots over one [`crate::simd::Simd`], with a function that puts it into a table.
macro_rules! others {
    ($(#[$doc:meta])* $module:ident, $simd:ty, $features:literal) => {
        $(#[$doc])*
        mod $module {
            use super::*;

            others! {
                @ $simd, $features;
                scores_f16 = ScoresFn: attention::scores::<$simd, attention::F16>
                    [q: *const f32, keys: *const u8, out: *mut f32, head: usize, positions: usize, rows: usize];
                scores_q8 = ScoresFn: attention::scores::<$simd, attention::Q8>
                    [q: *const f32, keys: *const u8, out: *mut f32, head: usize, positions: usize, rows: usize];
                accumulate_f16 = AccumulateFn: attention::accumulate::<$simd, attention::F16>
                    [weights: *const f32, values: *const u8, acc: *mut f32, head: usize, positions: usize, rows: usize];
                accumulate_q8 = AccumulateFn: attention::accumulate::<$simd, attention::Q8>
                    [weights: *const f32, values: *const u8, acc: *mut f32, head: usize, positions: usize, rows: usize];
                softmax = SoftmaxFn: exp::softmax::<$simd>
                    [scores: *mut f32, max: *mut f32, sum: *mut f32, acc: *mut f32, head: usize, first: usize, end: usize,
                     cap: f32];
                silu_times = SiluTimesFn: exp::silu_times::<$simd>
                    [up: *const f32, y: *mut f32, tokens: usize, y_stride: usize];
            }

            /// Puts the atoms into the table, and that which is the same for all instruction sets.
            pub fn fill(table: &mut Table) {
                table[Atom::ScoresF16 as usize] = scores_f16 as ScoresFn as usize;
                table[Atom::ScoresQ8 as usize] = scores_q8 as ScoresFn as usize;
                table[Atom::AccumulateF16 as usize] = accumulate_f16 as AccumulateFn as usize;
                table[Atom::AccumulateQ8 as usize] = accumulate_q8 as AccumulateFn as usize;
                table[Atom::Softmax as usize] = softmax as SoftmaxFn as usize;
                table[Atom::SiluTimes as usize] = silu_times as SiluTimesFn as usize;
                table[Atom::Quantize as usize] = quantize::row as QuantizeFn as usize;
            }
        }
    };
    (@ $simd:ty, $features:literal;
     $($function:ident = $type:ident: $kernel:path [$($operand:ident: $ty:ty),*];)*) => { $(
        #[doc = concat!("[`", stringify!($type), "`].")]
        ///
        /// # Safety
        /// Its contract, and the CPU must have the features.
        #[target_feature(enable = $features)]
        unsafe extern "C" fn $function($($operand: $ty),*) {
            // SAFETY: the features are enabled; the caller keeps the contract.
            unsafe { $kernel(<$simd>::new(), $($operand),*) }
        }
    )* };
}

others! {
    /// AVX2, FMA and F16C.
    others_v3, Avx2, "avx2,fma,f16c"
}
others! {
    /// AVX-512 with VNNI.
    others_v4, Avx512<false>, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c"
}
