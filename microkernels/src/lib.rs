//! The CPU atoms of [`ir::abi`]: dot products of weight tiles, attention inner loops, softmax,
//! SiLU, quantising, rotary angles.
//!
//! [`table`] gives the addresses of an instruction set's atoms, for [`ir::abi::Frame::atoms`]. Each dot is written once,
//! per [`ir::quant::DotForm`], over the vector operations of `simd`: `forms` unpacks, `int` and `float` multiply, and
//! `avx2` and `avx512` are the vector operations. `entry` instantiates them. Invariant: the result for a token does
//! not depend on the number of tokens, nor do scores and sums on the number of rows and positions; and the integer dots
//! of all instruction sets agree to the bit.
#![deny(missing_docs)]
// Kernels index several register arrays in step.
#![allow(clippy::needless_range_loop)]

#[cfg(target_arch = "x86_64")]
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod bytes;
#[cfg(all(test, target_arch = "x86_64"))]
mod emulated;
#[cfg(target_arch = "x86_64")]
mod entry;
#[cfg(target_arch = "x86_64")]
mod exp;
#[cfg(target_arch = "x86_64")]
mod float;
#[cfg(target_arch = "x86_64")]
mod forms;
#[cfg(target_arch = "x86_64")]
mod int;
pub mod measure;
#[cfg(target_arch = "x86_64")]
mod quantize;
mod rope;
#[cfg(target_arch = "x86_64")]
mod simd;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;

use ir::abi::{Atom, RopeAnglesFn};
use ir::target::Isa;

/// Addresses of functions of the types in [`ir::abi`], by [`Atom`] discriminant; 0 where there is none.
pub type Table = [usize; Atom::ALL.len()];

/// Whether this machine has the instruction set.
pub fn available(isa: Isa) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let v3 =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        match isa {
            Isa::X86_64 => is_x86_feature_detected!("sse4.1"),
            Isa::X86_64V3 => v3,
            Isa::X86_64V4Vnni => {
                v3 && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = isa;
        false
    }
}

/// The atoms of an instruction set, `None` unless this machine has it. [`Atom::Barrier`] is the caller's to fill in;
/// every other atom of the target is there.
///
/// To call an entry, transmute it to the function type of the atom's [`ir::abi::Meaning`] and keep that type's
/// contract: no function checks its operands.
pub fn table(isa: Isa) -> Option<Table> {
    if !available(isa) {
        return None;
    }
    let mut table = [0; Atom::ALL.len()];
    table[Atom::RopeAngles as usize] = rope::angles as RopeAnglesFn as usize;
    #[cfg(target_arch = "x86_64")]
    match isa {
        Isa::X86_64 => {}
        Isa::X86_64V3 => entry::v3::fill(&mut table),
        Isa::X86_64V4Vnni if is_x86_feature_detected!("avx512vbmi") => entry::vbmi::fill(&mut table),
        Isa::X86_64V4Vnni => entry::v4::fill(&mut table),
    }
    Some(table)
}
