//! Matrices of 8 by 8 that move: `ldmatrix`, `stmatrix`, `movmatrix`. All lanes of the warp take part.

use super::access::classify;
use super::state::{Bad, Ctx, Done, Window};
use super::undefined::Origin;
use crate::alu::{FULL, Lanes, WARP};
use crate::clock::{Strength, Width};
use crate::fault::FaultKind;
use crate::memory::Region;
use crate::program::{Matrices, Reg};
use crate::types::Space;
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
                let origin = Origin { kind: FaultKind::UninitShared, address: at as u64, line: 0 };
                let undefined = self.warp.undefine(origin);
                for (j, e) in elements[i].iter_mut().enumerate() {
                    *e = store.get_partly(offset + 2 * j, 2, |at| undefined.byte(at));
                }
                continue;
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
                    && at.into_iter().all(|i| store.get(i, 1) == u64::from(byte(i - offset)))
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
