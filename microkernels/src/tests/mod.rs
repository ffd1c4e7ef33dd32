//! Every atom of every available instruction set, and the dots over [`crate::emulated`], against f64 oracles.

mod attention;
mod dots;
mod rows;

use crate::table;
use ir::abi::{Atom, Q8_BLOCK, Q8_STARTS, RopeAnglesFn};
use ir::target::{self, Isa};

/// A xorshift generator.
struct Rng(u64);

impl Rng {
    fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn byte(&mut self) -> u8 {
        (self.next() >> 56) as u8
    }

    /// Up to `n`, not included.
    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }

    /// Of either sign, 0.25 to 1.25 in size.
    fn float(&mut self) -> f32 {
        let size = 0.25 + (self.next() >> 40) as f32 / (1u64 << 24) as f32;
        if self.next() >> 63 == 0 { size } else { -size }
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

/// A block of int8 activations, as far as it is written: codes, scale, sums of the halves, scaled sum, starts.
fn q8_block(codes: &[i8], scale: f32) -> Vec<u8> {
    let (first, last) = codes.split_at(Q8_BLOCK / 2);
    let [first, last] = [first, last].map(|half| half.iter().map(|&c| i32::from(c)).sum::<i32>());
    let starts = [Q8_STARTS[0] * (first + last), Q8_STARTS[1] * first, Q8_STARTS[1] * last];
    let mut block: Vec<u8> = codes.iter().map(|&c| c as u8).collect();
    block.extend(scale.to_le_bytes());
    block.extend([first as i16, last as i16].into_iter().flat_map(i16::to_le_bytes));
    block.extend(((first + last) as f32 * scale).to_le_bytes());
    block.extend(starts.into_iter().flat_map(i32::to_le_bytes));
    block
}

/// Bytes aligned to 64.
struct Aligned(Vec<[u64; 8]>);

impl Aligned {
    fn new(bytes: &[u8]) -> Self {
        let mut this = Aligned(vec![[0; 8]; bytes.len().div_ceil(64)]);
        // SAFETY: plain integers of at least as many bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), this.0.as_mut_ptr().cast(), bytes.len()) };
        this
    }

    fn ptr(&self) -> *const u8 {
        self.0.as_ptr().cast()
    }
}

/// The instruction sets of this machine that have dots, and a line for each that it lacks.
fn vector_isas() -> Vec<Isa> {
    let (here, missing): (Vec<_>, Vec<_>) =
        [Isa::X86_64V3, Isa::X86_64V4Vnni].into_iter().partition(|&isa| crate::available(isa));
    for isa in missing {
        println!("skipped: this CPU has no {isa:?}");
    }
    here
}

#[test]
fn tables_hold_the_atoms_of_the_targets() {
    for target in target::ALL {
        let Some(table) = target.cpu().and_then(table) else { continue };
        for &atom in Atom::ALL {
            let expected = atom != Atom::Barrier && target.atoms.contains(&atom);
            assert_eq!(table[atom as usize] != 0, expected, "{} of {}", atom.name(), target.name);
        }
    }
}

#[test]
fn rope_angles() {
    let Some(table) = table(Isa::X86_64) else { return };
    // SAFETY: the table's entry is of that type.
    let angles: RopeAnglesFn = unsafe { std::mem::transmute(table[Atom::RopeAngles as usize]) };
    let (position, tokens, dim, theta) = (100_003, 3, 10, 500_000.0f32);
    for factors in [None, Some([1.0f32, 2.0, 4.5, 8.0, 0.5])] {
        let mut out = vec![f32::NAN; tokens * dim];
        let pointer = factors.as_ref().map_or(std::ptr::null(), |f| f.as_ptr());
        // SAFETY: tokens * dim floats, dim / 2 factors.
        unsafe { angles(out.as_mut_ptr(), position, tokens, dim, theta, pointer) };
        for t in 0..tokens {
            for i in 0..dim / 2 {
                let factor = factors.map_or(1.0, |f| f64::from(f[i]));
                let angle = (position + t) as f64 * f64::from(theta).powf(-(2.0 * i as f64) / dim as f64) / factor;
                let [cos, sin] = [out[t * dim + 2 * i], out[t * dim + 2 * i + 1]].map(f64::from);
                assert!((cos - angle.cos()).abs() < 1e-6 && (sin - angle.sin()).abs() < 1e-6, "{t} {i}: {cos} {sin}");
            }
        }
    }
}
