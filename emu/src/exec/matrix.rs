//! Matrix instructions: `ldmatrix`, `stmatrix`, `movmatrix`, `mma.sync`. All lanes of the warp take part.

use super::access::classify;
use super::state::{Bad, Ctx, Done, Window};
use crate::alu::soft::{BF16, F16, round_to};
use crate::alu::{FULL, Lanes, WARP};
use crate::clock::{Strength, Width};
use crate::fault::FaultKind;
use crate::memory::Region;
use crate::program::{Matrices, Mma, MmaType, Reg};
use crate::types::{Round, Space};
use std::ops::Range;

/// Bytes of a row of an 8x8 matrix of 16-bit elements.
const ROW: usize = 16;

impl Ctx<'_> {
    /// `ldmatrix` and `stmatrix`: lanes 8i to 8i+7 have the row addresses of matrix i.
    pub(crate) fn matrices(&mut self, window: Window, m: &Matrices) -> Done {
        let mut addresses = self.addresses(window, m.address);
        let used = 8 * m.regs.len();
        if m.space == Space::Generic {
            for (lane, x) in addresses.iter_mut().enumerate().take(used) {
                let (space, address) = classify(*x);
                if space != Space::Shared {
                    let what = "the address of a matrix row is not in shared memory";
                    return Err(Bad::new(FaultKind::OobShared, lane as u32, Some(*x), what));
                }
                *x = address;
            }
        }
        let mask = if used == WARP { FULL } else { (1 << used) - 1 };
        self.aligned(&addresses, mask, ROW as u32)?;
        self.count_shared(&addresses, mask, ROW as u32);
        for (i, r) in m.regs.iter().enumerate() {
            let rows = &addresses[8 * i..8 * i + 8];
            if m.store {
                let values = *self.get(window, *r);
                self.store_rows(rows, i, m.transposed, &values)?;
            } else {
                let values = self.load_rows(rows, i, m.transposed)?;
                self.warp.set(window, *r, FULL, &values);
            }
        }
        if m.store {
            self.memory.agents.progress += 1;
        }
        Ok(())
    }

    fn row(&self, address: u64, lane: u32) -> Done<usize> {
        let size = self.team.shared.store.len() as u64;
        if address >= size || size - address < ROW as u64 {
            return Err(self.outside(lane, address, ROW as u64));
        }
        Ok(address as usize)
    }

    fn load_rows(&mut self, rows: &[u64], matrix: usize, transposed: bool) -> Done<Lanes> {
        let mut elements = [[0u64; 8]; 8];
        for (i, &address) in rows.iter().enumerate() {
            let lane = (8 * matrix + i) as u32;
            let offset = self.row(address, lane)?;
            let shared = &mut self.team.shared;
            let who = &mut self.warp.order.who();
            if let Err(c) = shared.races.read(who, 1 << lane, offset, ROW, Strength::Weak) {
                return Err(self.race(true, false, lane, address, offset, c));
            }
            let store = &self.team.shared.store;
            if let Some(at) = store.first_unwritten(offset, ROW) {
                return Err(Bad::new(FaultKind::UninitShared, lane, Some(at as u64), "reads a matrix row"));
            }
            for (j, e) in elements[i].iter_mut().enumerate() {
                *e = store.get(offset + 2 * j, 2);
            }
        }
        Ok(gather(&elements, transposed))
    }

    fn store_rows(&mut self, rows: &[u64], matrix: usize, transposed: bool, values: &Lanes) -> Done {
        let elements = scatter(values, transposed);
        for (i, &address) in rows.iter().enumerate() {
            let lane = (8 * matrix + i) as u32;
            let offset = self.row(address, lane)?;
            let Region { store, races } = &mut self.team.shared;
            let who = &mut self.warp.order.who();
            let mine = who.epoch(lane, Strength::Weak, Width::of(2));
            let byte = |at: usize| (elements[i][at / 2] >> (8 * (at % 2))) as u8;
            let same = |at: Range<usize>| {
                store.first_unwritten(at.start, at.len()).is_none()
                    && at.into_iter().all(|i| store.data[i] == byte(i - offset))
            };
            if let Err(c) = races.write(who, 1 << lane, (offset, ROW), mine, same) {
                return Err(self.race(true, true, lane, address, offset, c));
            }
            for (j, e) in elements[i].iter().enumerate() {
                self.team.shared.store.put(offset + 2 * j, 2, *e);
            }
            self.team.shared.store.set_written(offset, ROW);
        }
        Ok(())
    }

    /// `movmatrix`: transposes.
    pub(crate) fn move_matrix(&mut self, window: Window, d: Reg, s: Reg) {
        let values = gather(&scatter(self.get(window, s), false), true);
        self.warp.set(window, d, FULL, &values);
    }

    /// `mma.sync`: sums are exact, or rounded to odd in f64, before the one rounding of the result.
    pub(crate) fn mma(&mut self, window: Window, m: &Mma) {
        let per = if matches!(m.a, MmaType::U8 | MmaType::S8) { 4 } else { 2 };
        let mut a = [[0f64; 32]; 16];
        let mut b = [[0f64; 8]; 32];
        // Registers hold `per` neighbours in k; register pairs are 8 rows apart in a, and k halves follow.
        for (i, r) in m.regs[1].iter().enumerate() {
            let values = self.get(window, *r);
            for (lane, &word) in values.iter().enumerate() {
                let (row, k) = ((lane >> 2) + 8 * (i & 1), per * (lane & 3) + 4 * per * (i >> 1));
                for e in 0..per {
                    a[row][k + e] = element(m.a, word, e);
                }
            }
        }
        for (i, r) in m.regs[2].iter().enumerate() {
            let values = self.get(window, *r);
            for (lane, &word) in values.iter().enumerate() {
                for e in 0..per {
                    b[per * (lane & 3) + 4 * per * i + e][lane >> 2] = element(m.b, word, e);
                }
            }
        }
        let mut sums = [[0f64; 8]; 16];
        for (row, sums) in a.iter().zip(&mut sums) {
            for (x, b) in row.iter().zip(&b).take(m.k) {
                for (sum, y) in sums.iter_mut().zip(b) {
                    *sum += x * y;
                }
            }
        }
        let registers = m.regs[0].len();
        for i in 0..registers {
            let c = *self.get(window, m.regs[3][i]);
            let mut d = [0; WARP];
            for (lane, d) in d.iter_mut().enumerate() {
                let (row, column) = (lane >> 2, 2 * (lane & 3));
                *d = if m.half {
                    let row = row + 8 * i;
                    let one = |e: usize| half(sums[row][column + e] + F16.value(c[lane] >> (16 * e) & 0xffff));
                    one(0) | one(1) << 16
                } else {
                    let sum = sums[row + 8 * (i >> 1)][column + (i & 1)];
                    if per == 4 { integer(sum, c[lane] as i32, m.saturate) } else { single(sum, c[lane]) }
                };
            }
            self.warp.set(window, m.regs[0][i], FULL, &d);
        }
    }
}

/// The fragment of a matrix: lane l has two neighbours of row l / 4, or of column l / 4.
fn gather(elements: &[[u64; 8]; 8], transposed: bool) -> Lanes {
    std::array::from_fn(|lane| {
        let (row, column) = (lane >> 2, 2 * (lane & 3));
        if transposed {
            elements[column][row] | elements[column + 1][row] << 16
        } else {
            elements[row][column] | elements[row][column + 1] << 16
        }
    })
}

/// The matrix of a fragment.
fn scatter(values: &Lanes, transposed: bool) -> [[u64; 8]; 8] {
    let mut elements = [[0; 8]; 8];
    for (lane, &v) in values.iter().enumerate() {
        let (row, column) = (lane >> 2, 2 * (lane & 3));
        for e in 0..2 {
            let element = v >> (16 * e) & 0xffff;
            *(if transposed { &mut elements[column + e][row] } else { &mut elements[row][column + e] }) = element;
        }
    }
    elements
}

fn element(ty: MmaType, word: u64, index: usize) -> f64 {
    match ty {
        MmaType::F16 => F16.value(word >> (16 * index) & 0xffff),
        MmaType::Bf16 => BF16.value(word >> (16 * index) & 0xffff),
        MmaType::U8 => f64::from((word >> (8 * index)) as u8),
        MmaType::S8 => f64::from((word >> (8 * index)) as i8),
    }
}

fn half(x: f64) -> u64 {
    if x.is_nan() { F16.nan() } else { round_to(x, F16, Round::Near) }
}

fn single(sum: f64, c: u64) -> u64 {
    let x = (sum + f64::from(f32::from_bits(c as u32))) as f32;
    u64::from(if x.is_nan() { 0x7fff_ffff } else { x.to_bits() })
}

fn integer(sum: f64, c: i32, saturate: bool) -> u64 {
    let x = sum as i64 + i64::from(c);
    let x = if saturate { x.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) } else { x };
    u64::from(x as u32)
}
