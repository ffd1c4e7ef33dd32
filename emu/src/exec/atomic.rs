//! Atomic operations.

use super::access::{by_space, strength};
use super::state::{Bad, Ctx, Done, Window, lanes};
use crate::alu::Lanes;
use crate::alu::float::{arithmetic, extreme};
use crate::clock::Width;
use crate::fault::FaultKind;
use crate::program::{Atomic, Rmw};
use crate::types::{Mode, Order, Space, Ty, mask_of};

/// The new value of an integer or of bits.
pub(crate) fn integer(op: Rmw, ty: Ty, old: u64, value: u64) -> u64 {
    let bits = ty.bits();
    let signed = |x: u64| (x << (64 - bits)) as i64 >> (64 - bits);
    let new = match op {
        Rmw::Add => old.wrapping_add(value),
        Rmw::Min if ty.is_signed() => signed(old).min(signed(value)) as u64,
        Rmw::Max if ty.is_signed() => signed(old).max(signed(value)) as u64,
        Rmw::Min => old.min(value),
        Rmw::Max => old.max(value),
        Rmw::And => old & value,
        Rmw::Or => old | value,
        Rmw::Xor => old ^ value,
        Rmw::Inc => {
            if old >= value {
                0
            } else {
                old + 1
            }
        }
        Rmw::Dec => {
            if old == 0 || old > value {
                value
            } else {
                old - 1
            }
        }
        Rmw::Exch | Rmw::Cas => value,
    };
    new & mask_of(bits)
}

/// The new value of a float or a pair.
fn float(op: Rmw, ty: Ty, old: u64, value: u64) -> u64 {
    let f = match op {
        Rmw::Min => extreme("min", ty, false),
        Rmw::Max => extreme("max", ty, false),
        _ => arithmetic("add", ty, Mode::NEAR),
    };
    let (mut a, mut b, mut d): (Lanes, Lanes, Lanes) = ([0; 32], [0; 32], [0; 32]);
    (a[0], b[0]) = (old, value);
    if let Some(f) = f {
        f([&a, &b, &b], &mut d, 0);
    }
    d[0]
}

impl Ctx<'_> {
    /// `atom` and `red`. The lanes of a warp take turns, in no order that a kernel may rely on.
    pub(crate) fn atomic(&mut self, window: Window, mask: u32, a: &Atomic) -> Done {
        let mut addresses = self.addresses(window, a.address);
        let width = a.ty.bytes();
        let bytes = width as usize * a.values.len();
        self.tally.counters.atomics += u64::from(mask.count_ones());
        for (space, part) in by_space(a.space, &mut addresses, mask) {
            if part == 0 {
                continue;
            }
            self.aligned(&addresses, part, bytes as u32)?;
            let shared = space == Space::Shared;
            match space {
                Space::Shared => self.count_shared(&addresses, part, bytes as u32),
                Space::Local | Space::Param => {
                    let lane = part.trailing_zeros();
                    let what = "an atomic operation on memory of one thread";
                    return Err(Bad::new(FaultKind::BadOperand, lane, Some(addresses[lane as usize]), what));
                }
                _ => self.count_global(&addresses, part, bytes as u64, true),
            }
            if a.order.releases() {
                self.reveal_known(part, a.scope);
            }
            self.observe(part, &addresses, shared, acquire_part(a.order), a.scope);
            let mut rest = part;
            while rest != 0 {
                let address = addresses[rest.trailing_zeros() as usize];
                let same = lanes(rest).filter(|&l| addresses[l] == address).fold(0, |m, l| m | 1 << l);
                rest &= !same;
                self.atomic_word(window, a, same, address, shared)?;
            }
            self.publish(part, &addresses, shared, release_part(a.order), a.scope, false)?;
        }
        Ok(())
    }

    /// The turns of lanes at one address.
    pub(super) fn atomic_word(&mut self, window: Window, a: &Atomic, mask: u32, address: u64, shared: bool) -> Done {
        let first = mask.trailing_zeros();
        let width = a.ty.bytes();
        let bytes = width as usize * a.values.len();
        let place = if shared {
            let size = self.team.shared.store.len() as u64;
            if address >= size || size - address < bytes as u64 {
                return Err(self.outside(first, address, bytes as u64));
            }
            (0, address as usize)
        } else {
            self.reveal_range(address, bytes as u64);
            match self.memory.locate(address, bytes as u64) {
                Some(place) => place,
                None => return Err(self.unmapped(first, address, bytes as u64)),
            }
        };
        let offset = place.1;
        let (region, read_only) = if shared { (&mut self.team.shared, false) } else { self.memory.region(place.0) };
        if read_only {
            let what = "an atomic operation on read-only memory";
            return Err(Bad::new(FaultKind::ReadOnly, first, Some(address), what));
        }
        let strength = strength(true, a.scope);
        let who = &mut self.warp.order.who();
        let mine = who.epoch(first, strength, Width::OTHER);
        if let Err(c) = region.races.write(who, mask, (offset, bytes), mine, |_| false) {
            // Of the lanes one that is not the other thread.
            let others = if c.agent == self.warp.order.agent { mask & !(1 << c.lane) } else { mask };
            let lane = if others == 0 { first } else { others.trailing_zeros() };
            return Err(self.race(shared, true, lane, address, offset, c));
        }
        if let Some(at) = region.store.first_unwritten(offset, bytes) {
            let kind = if shared { FaultKind::UninitShared } else { FaultKind::UninitGlobal };
            let at = address + (at - offset) as u64;
            return Err(Bad::new(kind, first, Some(at), "an atomic operation on unwritten memory"));
        }
        let mut changed = 0;
        for lane in lanes(mask) {
            let get = |r| self.warp.get(&self.grid.constants, window, r)[lane];
            let mut olds = [0; 8];
            for (i, &value) in a.values.iter().enumerate() {
                let value = get(value) & mask_of(8 * width);
                let at = offset + i * width as usize;
                let old = region.store.get(at, width);
                let new = match a.op {
                    Rmw::Cas if old == value => get(a.swap) & mask_of(8 * width),
                    Rmw::Cas => old,
                    op if a.ty.is_float() => float(op, a.ty, old, value),
                    op => integer(op, a.ty, old, value),
                };
                if new != old {
                    region.store.put(at, width, new);
                    changed += 1;
                }
                olds[i] = old;
            }
            for (r, old) in a.old.iter().zip(olds) {
                self.warp.registers[(window.registers + r) as usize][lane] = old;
            }
        }
        self.memory.agents.progress += changed;
        Ok(())
    }
}

/// What the read of a read-modify-write does.
fn acquire_part(order: Order) -> Order {
    if order.acquires() { Order::Acquire } else { Order::Relaxed }
}

/// What its write does.
fn release_part(order: Order) -> Order {
    if order.releases() { Order::Release } else { Order::Relaxed }
}
