//! What the CPU can do at most: how fast it reads memory, and how many int8 products it adds up. No kernel is faster.
//!
//! Dots are written as assembly, as the compiler would move those of equal operands out of their loop.

use ir::target::Isa;

/// How far ahead of its loads a prefetched read hints, bytes.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 4096;

/// Measures an instruction set. Its existence proves that the CPU has it.
#[derive(Debug, Clone, Copy)]
pub struct Measure(#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] Isa);

impl Measure {
    /// `None` if the CPU does not have the instruction set.
    pub fn new(isa: Isa) -> Option<Measure> {
        #[cfg(target_arch = "x86_64")]
        let has = crate::available(isa) && (isa != Isa::X86_64 || is_x86_feature_detected!("ssse3"));
        #[cfg(not(target_arch = "x86_64"))]
        let has = false;
        has.then_some(Measure(isa))
    }

    /// Reads `bytes` once, front to back, but for a rest of less than 512 bytes, with the widest loads; `prefetched` with
    /// hints ahead of them. Gives the exclusive or of the 32-bit words that were read.
    pub fn read(self, bytes: &[u8], prefetched: bool) -> u32 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `self` proves the features.
        unsafe {
            match (self.0, prefetched) {
                (Isa::X86_64, false) => sse::read::<false>(bytes),
                (Isa::X86_64, true) => sse::read::<true>(bytes),
                (Isa::X86_64V3, false) => avx2::read::<false>(bytes),
                (Isa::X86_64V3, true) => avx2::read::<true>(bytes),
                (Isa::X86_64V4Vnni, false) => avx512::read::<false>(bytes),
                (Isa::X86_64V4Vnni, true) => avx512::read::<true>(bytes),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = (bytes, prefetched);
            0
        }
    }

    /// Runs `rounds` rounds of the widest int8 dot instructions on registers. Gives the number of products that they added
    /// up.
    pub fn dots(self, rounds: u64) -> u64 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `self` proves the features.
        unsafe {
            match self.0 {
                Isa::X86_64 => sse::dots(rounds),
                Isa::X86_64V3 => avx2::dots(rounds),
                Isa::X86_64V4Vnni => avx512::dots(rounds),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = rounds;
            0
        }
    }
}

/// A module for one width: `read` over eight independent vectors, and `dots`.
#[cfg(target_arch = "x86_64")]
macro_rules! width {
    ($module:ident, $features:literal, $vector:ident, $bytes:literal, $load:ident, $xor:ident, $zero:ident,
     $chains:literal, |$acc:ident, $a:ident, $b:ident, $ones:ident| $dot:expr) => {
        mod $module {
            use crate::simd::prefetch_lines;
            use std::arch::asm;
            use std::arch::x86_64::*;

            /// # Safety
            /// The CPU must have the features.
            #[target_feature(enable = $features)]
            pub unsafe fn read<const PREFETCHED: bool>(bytes: &[u8]) -> u32 {
                const STEP: usize = 8 * $bytes;
                let mut sums = [$zero(); 8];
                for step in bytes.chunks_exact(STEP) {
                    let p = step.as_ptr();
                    if PREFETCHED {
                        prefetch_lines(p.wrapping_add(super::AHEAD), STEP);
                    }
                    for (i, sum) in sums.iter_mut().enumerate() {
                        // SAFETY: vector `i` lies in the step.
                        *sum = $xor(*sum, unsafe { $load(p.add(i * $bytes).cast()) });
                    }
                }
                let mut words = [0u32; $bytes / 4];
                for sum in sums {
                    // SAFETY: vectors are plain bits.
                    let lanes: [u32; $bytes / 4] = unsafe { std::mem::transmute(sum) };
                    words.iter_mut().zip(lanes).for_each(|(w, l)| *w ^= l);
                }
                words.into_iter().fold(0, |a, b| a ^ b)
            }

            /// # Safety
            /// The CPU must have the features.
            #[target_feature(enable = $features)]
            pub unsafe fn dots(rounds: u64) -> u64 {
                // SAFETY: vectors are plain bits; the instructions are of the enabled features and touch no memory.
                unsafe {
                    let ($a, $b): ($vector, $vector) = (vector::<1>(), vector::<2>());
                    let $ones: $vector = std::mem::transmute([1u16; $bytes / 2]);
                    let mut accs = [$zero(); $chains];
                    for _ in 0..rounds {
                        for $acc in &mut accs {
                            $dot;
                        }
                    }
                    std::hint::black_box((accs, $ones));
                }
                rounds * $chains * $bytes
            }

            /// A vector of equal bytes.
            fn vector<const BYTE: u8>() -> $vector {
                // SAFETY: vectors are plain bits.
                unsafe { std::mem::transmute([BYTE; $bytes]) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
width!(sse, "ssse3", __m128i, 16, _mm_loadu_si128, _mm_xor_si128, _mm_setzero_si128, 8, |acc, a, b, ones| asm!(
    "movdqa {t}, {a}",
    "pmaddubsw {t}, {b}",
    "pmaddwd {t}, {ones}",
    "paddd {acc}, {t}",
    t = out(xmm_reg) _, a = in(xmm_reg) a, b = in(xmm_reg) b, ones = in(xmm_reg) ones, acc = inout(xmm_reg) *acc,
    options(nomem, nostack, preserves_flags)
));
#[cfg(target_arch = "x86_64")]
width!(
    avx2,
    "avx2",
    __m256i,
    32,
    _mm256_loadu_si256,
    _mm256_xor_si256,
    _mm256_setzero_si256,
    8,
    |acc, a, b, ones| asm!(
        "vpmaddubsw {t}, {a}, {b}",
        "vpmaddwd {t}, {t}, {ones}",
        "vpaddd {acc}, {acc}, {t}",
        t = out(ymm_reg) _, a = in(ymm_reg) a, b = in(ymm_reg) b, ones = in(ymm_reg) ones, acc = inout(ymm_reg) *acc,
        options(nomem, nostack, preserves_flags)
    )
);
#[cfg(target_arch = "x86_64")]
width!(
    avx512,
    "avx512f,avx512vnni",
    __m512i,
    64,
    _mm512_loadu_si512,
    _mm512_xor_si512,
    _mm512_setzero_si512,
    16,
    |acc, a, b, ones| asm!(
        "vpdpbusd {acc}, {a}, {b}",
        a = in(zmm_reg) a, b = in(zmm_reg) b, acc = inout(zmm_reg) *acc,
        options(nomem, nostack, preserves_flags)
    )
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_read_once() {
        let bytes: Vec<u8> = (0..8192 + 77u32).map(|i| ((i * i) >> 3) as u8).collect();
        let words = bytes[..8192].chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().unwrap()));
        let expected = words.fold(0, |a, b| a ^ b);
        for isa in [Isa::X86_64, Isa::X86_64V3, Isa::X86_64V4Vnni] {
            let Some(measure) = Measure::new(isa) else { continue };
            for prefetched in [false, true] {
                assert_eq!(measure.read(&bytes[..8192], prefetched), expected, "{isa:?}");
            }
        }
    }

    #[test]
    fn products_are_counted() {
        for isa in [Isa::X86_64, Isa::X86_64V3, Isa::X86_64V4Vnni] {
            let Some(measure) = Measure::new(isa) else { continue };
            let one = measure.dots(1);
            assert_eq!(one % 128, 0);
            assert_eq!(measure.dots(1000), 1000 * one);
        }
    }
}
