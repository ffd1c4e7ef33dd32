//! Stores that other CTAs see late. A relaxed or volatile store to global memory is ordered by nothing but fences and
//! releases of threads that know it; until one comes, a random schedule may keep it to the CTA, also beyond its end, so that
//! a kernel which lacks the fence reads old values.

use super::state::{Ctx, Order};
use crate::alu::Lanes;
use crate::clock::{Agent, Clock, Epoch};
use crate::memory::Memory;
use crate::program::Access;
use crate::types::{Order as MemoryOrder, Scope};
use std::sync::Arc;

/// Stores that a CTA keeps, at most.
const MOST: usize = 64;

/// A store that other CTAs do not see yet.
#[derive(Debug)]
pub(crate) struct Delayed {
    address: u64,
    bytes: u32,
    value: u64,
    by: Epoch,
    /// The first agent of its CTA.
    cta: Agent,
    /// What it releases, as it follows a fence; of the first element of a vector.
    release: Option<Release>,
}

/// What a store releases; nothing replaces what was released at its address before.
pub(crate) type Release = Option<(Arc<Clock>, Scope)>;

impl Delayed {
    fn meets(&self, address: u64, bytes: u64) -> bool {
        self.address < address.saturating_add(bytes) && address < self.address + u64::from(self.bytes)
    }

    /// Other CTAs see it from now on.
    pub(crate) fn reveal(self, memory: &mut Memory) {
        if let Some((index, offset)) = memory.locate(self.address, u64::from(self.bytes)) {
            let store = &mut memory.region(index).0.store;
            store.put(offset, self.bytes, self.value);
            store.set_written(offset, self.bytes as usize);
        }
        match self.release {
            Some(Some((clock, scope))) => {
                memory.agents.published.entry(self.address).or_default().publish(self.cta, scope, clock, true);
            }
            Some(None) => drop(memory.agents.published.remove(&self.address)),
            None => {}
        }
        memory.agents.progress += 1;
    }
}

impl Ctx<'_> {
    /// Whether other CTAs see a store late, by chance.
    pub(super) fn delays(&self, a: &Access, addresses: &Lanes) -> bool {
        let chance = self.flight.delays ^ self.flight.steps.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ addresses[0];
        let may = self.flight.delays != 0 && a.strong && !a.order.releases() && self.warp.undefined.is_none();
        may && chance.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 63 != 0
    }

    /// Keeps the store of a lane, which is checked, to its CTA.
    pub(super) fn delay(&mut self, a: &Access, lane: usize, address: u64, values: &[u64; 8]) {
        let order = &self.warp.order;
        let cta = order.cta.start;
        let by = Epoch::new(order.agent, order.now, lane as u32, super::access::strength(true, a.scope));
        let released = released(order, 1 << lane, MemoryOrder::Relaxed, a.scope);
        for (i, &value) in values[..a.regs.len()].iter().enumerate() {
            let release = (i == 0).then(|| released.clone());
            let address = address + i as u64 * u64::from(a.bytes);
            self.team.delayed.push(Delayed { address, bytes: a.bytes, value, by, cta, release });
        }
        while self.team.delayed.len() > MOST {
            self.team.delayed.remove(0).reveal(self.memory);
        }
    }

    /// The CTA touches memory: its own stores there come first.
    pub(super) fn reveal_range(&mut self, address: u64, bytes: u64) {
        if !self.team.delayed.is_empty() {
            for d in self.team.delayed.extract_if(.., |d| d.meets(address, bytes)) {
                d.reveal(self.memory);
            }
        }
    }

    /// Lanes fence or release for others than their CTA: these see what the lanes know.
    pub(super) fn reveal_known(&mut self, mask: u32, scope: Scope) {
        if scope >= Scope::Gpu && !self.team.delayed.is_empty() {
            let order = &self.warp.order;
            let knows = |d: &mut Delayed| super::state::lanes(mask).any(|l| order.knows(l as u32, d.by));
            for d in self.team.delayed.extract_if(.., knows) {
                d.reveal(self.memory);
            }
        }
    }
}

/// What a strong write of a lane releases: all so far if it says so, otherwise what was before the last fence.
pub(super) fn released(order: &Order, bit: u32, memory_order: MemoryOrder, scope: Scope) -> Release {
    if memory_order.releases() {
        return Some((order.snapshot(bit, order.now), scope));
    }
    let f = order.fenced.iter().find(|f| f.lanes & bit != 0)?;
    let mut clock = Arc::clone(&f.clock);
    Arc::make_mut(&mut clock).see(order.agent, bit, f.time);
    Some((clock, scope.min(f.scope)))
}
