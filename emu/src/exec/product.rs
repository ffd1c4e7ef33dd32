//! Products of matrices, `mma` and `wmma`. Sums are exact, or rounded in f64, before the one rounding of the result; those
//! of f64 are rounded after each product.

use super::state::{Bad, Ctx, Done, Window};
use crate::alu::soft::{F16, fma64, round_to};
use crate::alu::{FULL, WARP};
use crate::fault::FaultKind;
use crate::matrix::Elem;
use crate::program::{Fragment, Product, Term, Tile};
use crate::types::{Round, mask_of};

impl Ctx<'_> {
    /// The values of a matrix in registers.
    fn gathered(&self, window: Window, f: &Fragment, len: usize) -> Vec<f64> {
        let (value, bits, per) = (f.elem.value(), f.elem.bits(), f.elem.per_register());
        let mut out = vec![0.0; len];
        for (r, places) in f.regs.iter().zip(f.places.chunks_exact(per * WARP)) {
            let words = self.get(window, *r);
            for (e, places) in places.chunks_exact(WARP).enumerate() {
                for (word, &at) in words.iter().zip(places) {
                    out[usize::from(at)] = value(word >> (bits * e));
                }
            }
        }
        out
    }

    /// `mma` and `wmma.mma`.
    pub(crate) fn product(&mut self, window: Window, p: &Product) {
        let [m, n, k] = p.size;
        let (a, b) = (self.gathered(window, &p.a, p.matrices * m * k), self.gathered(window, &p.b, p.matrices * k * n));
        let mut sums = self.gathered(window, &p.c, p.matrices * m * n);
        let each: fn(&mut f64, f64, f64, Round) = match (p.term, p.d.elem) {
            (_, Elem::F64) => |sum, x, y, round| *sum = fma64(x, y, *sum, round),
            (Term::Xor, _) => |sum, x, y, _| *sum += (x - y).abs(),
            _ => |sum, x, y, _| *sum += x * y,
        };
        let mut products = vec![0.0; if p.d.elem == Elem::F64 { 0 } else { sums.len() }];
        for (i, row) in a.chunks_exact(k).enumerate() {
            // Matrix after matrix, each with its own columns.
            let b = &b[i / m * k * n..][..k * n];
            let target = if p.d.elem == Elem::F64 { &mut sums } else { &mut products };
            let target = &mut target[i * n..][..n];
            for (&x, b) in row.iter().zip(b.chunks_exact(n)) {
                target.iter_mut().zip(b).for_each(|(sum, &y)| each(sum, x, y, p.round));
            }
        }
        sums.iter_mut().zip(&products).for_each(|(sum, product)| *sum += product);
        let bits = p.d.elem.bits();
        let places = p.d.places.chunks_exact(p.d.elem.per_register() * WARP);
        for (r, places) in p.d.regs.iter().zip(places) {
            let mut out = [0; WARP];
            for (e, places) in places.chunks_exact(WARP).enumerate() {
                for (word, &at) in out.iter_mut().zip(places) {
                    *word |= rounded(p.d.elem, sums[usize::from(at)], p.saturate) << (bits * e);
                }
            }
            self.warp.set(window, *r, FULL, &out);
        }
    }

    /// `wmma.load` and `wmma.store`: the lanes access the elements of the matrix, one after another.
    pub(crate) fn tile(&mut self, window: Window, t: &Tile) -> Done {
        let bases = self.addresses(window, t.access.address);
        let strides = *self.get(window, t.stride);
        let Some(&scratch) = t.access.regs.first() else { return Ok(()) };
        for lane in 1..WARP {
            if bases[lane] != bases[0] || strides[lane] as u32 != strides[0] as u32 {
                let what = "the lanes of a matrix access name different addresses or strides";
                return Err(Bad::new(FaultKind::BadOperand, lane as u32, Some(bases[lane]), what));
            }
        }
        // A matrix begins at a multiple of the bytes of a lane's registers, and its lines do as far as those of all shapes can.
        let size = u64::from(t.access.width / 8) * t.regs.len() as u64;
        let line = u64::from(strides[0] as u32) * u64::from(t.bits) / 8;
        let step = size.min(16);
        if !bases[0].is_multiple_of(size) || !line.is_multiple_of(step) {
            let what =
                format!("a matrix with lines of {line} bytes; it must be at a multiple of {size}, lines of {step}");
            return Err(Bad::new(FaultKind::Misaligned, 0, Some(bases[0]), what));
        }
        let units = t.access.width / (8 * t.access.bytes);
        let bits = 8 * t.access.bytes;
        for (r, places) in t.regs.iter().zip(t.places.chunks_exact(units as usize * WARP)) {
            let mut words = if t.access.store { *self.get(window, *r) } else { [0; WARP] };
            for (unit, places) in (0..units).zip(places.chunks_exact(WARP)) {
                let at = |lane: usize| {
                    let [line_of, along] = places[lane].map(u64::from);
                    bases[lane].wrapping_add(line_of * line).wrapping_add(along * u64::from(t.bits) / 8)
                };
                let mut addresses = std::array::from_fn(at);
                if t.access.store {
                    let values = words.map(|w| w >> (bits * unit) & mask_of(bits));
                    self.warp.set(window, scratch, FULL, &values);
                    self.access_at(window, FULL, &t.access, &mut addresses)?;
                } else {
                    self.access_at(window, FULL, &t.access, &mut addresses)?;
                    let values = self.get(window, scratch);
                    words.iter_mut().zip(values).for_each(|(w, v)| *w |= v << (bits * unit));
                }
            }
            if !t.access.store {
                self.warp.set(window, *r, FULL, &words);
            }
        }
        Ok(())
    }
}

/// The bits of a sum.
fn rounded(elem: Elem, x: f64, saturate: bool) -> u64 {
    match elem {
        Elem::F16 if x.is_nan() => F16.nan(),
        Elem::F16 => round_to(x, F16, Round::Near),
        Elem::F64 => x.to_bits(),
        Elem::F32 => u64::from(crate::alu::float::canonical(x as f32)),
        // A sum of integers is exact in f64.
        _ if saturate => u64::from(x as i32 as u32),
        _ => u64::from(x as i64 as u32),
    }
}
