//! Loads and stores: spaces, bounds, alignment, initialisation, races, traffic.

use super::delay::released;
use super::state::{self, Bad, Ctx, Done, Window, lanes};
use super::undefined::Origin;
use crate::agents::of_launch;
use crate::alu::{FULL, Lanes, WARP};
use crate::clock::{MAX_AGENT, Strength, Width, join};
use crate::fault::FaultKind;
use crate::memory::Region;
use crate::program::{Access, Reg};
use crate::race::{Conflict, Who};
use crate::store::Store;
use crate::types::{LOCAL_WINDOW, Order, PARAM_WINDOW, SHARED_WINDOW, Scope, Space, WINDOW, mask_of};
use std::ops::Range;
use std::sync::Arc;

/// The space of a generic address, and its address there.
pub(crate) fn classify(address: u64) -> (Space, u64) {
    for (window, space) in [(SHARED_WINDOW, Space::Shared), (LOCAL_WINDOW, Space::Local), (PARAM_WINDOW, Space::Param)]
    {
        if (window..window + WINDOW).contains(&address) {
            return (space, address - window);
        }
    }
    (Space::Global, address)
}

/// Splits lanes by the spaces of their generic addresses, which become addresses in those.
pub(crate) fn by_space(space: Space, addresses: &mut Lanes, mask: u32) -> [(Space, u32); 4] {
    let mut parts = [(Space::Global, 0), (Space::Shared, 0), (Space::Local, 0), (Space::Param, 0)];
    if space != Space::Generic {
        if space == Space::Shared {
            for x in addresses.iter_mut().filter(|x| **x >> 33 == 0) {
                *x &= 0xffff_ffff;
            }
        }
        parts[0] = (space, mask);
        return parts;
    }
    for lane in lanes(mask) {
        let (space, address) = classify(addresses[lane]);
        addresses[lane] = address;
        for part in parts.iter_mut().filter(|p| p.0 == space) {
            part.1 |= 1 << lane;
        }
    }
    parts
}

/// How an access is ordered by itself.
pub(crate) fn strength(strong: bool, scope: Scope) -> Strength {
    match (strong, scope) {
        (false, _) => Strength::Weak,
        (true, Scope::Cta) => Strength::Cta,
        (true, Scope::Gpu) => Strength::Gpu,
        (true, Scope::Sys) => Strength::Sys,
    }
}

impl Ctx<'_> {
    /// `ld` and `st`.
    pub(crate) fn access(&mut self, window: Window, mask: u32, a: &Access) -> Done {
        // The base, if the load writes over it: the first load of undefined values is executed again.
        let over = !a.store && a.regs.contains(&a.address.base) && self.warp.undefined.is_none();
        let base = over.then(|| *self.get(window, a.address.base));
        self.access_all(window, mask, a)?;
        if let Some(base) = base {
            self.warp.restore(window, a.address.base, mask, &base);
        }
        Ok(())
    }

    fn access_all(&mut self, window: Window, mask: u32, a: &Access) -> Done {
        let mut addresses = self.addresses(window, a.address);
        self.access_at(window, mask, a, &mut addresses)
    }

    /// An access at addresses that are given.
    pub(crate) fn access_at(&mut self, window: Window, mask: u32, a: &Access, addresses: &mut Lanes) -> Done {
        let bytes = a.bytes * a.regs.len() as u32;
        for (space, part) in by_space(a.space, addresses, mask) {
            if part == 0 {
                continue;
            }
            self.aligned(addresses, part, bytes)?;
            match (space, a.store) {
                (Space::Global | Space::Const | Space::Generic, false) => {
                    self.load_global(window, part, a, addresses)?
                }
                (Space::Global | Space::Const | Space::Generic, true) => {
                    self.store_global(window, part, a, addresses)?
                }
                (Space::Shared, false) => self.load_shared(window, part, a, addresses)?,
                (Space::Shared, true) => self.store_shared(window, part, a, addresses)?,
                (Space::Local, _) => self.access_local(window, part, a, addresses)?,
                (Space::Param, false) => self.load_param(window, part, a, addresses)?,
                (Space::Param, true) => {
                    let lane = part.trailing_zeros();
                    let what = "writes a parameter of the kernel";
                    return Err(Bad::new(FaultKind::ReadOnly, lane, Some(addresses[lane as usize]), what));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn aligned(&self, addresses: &Lanes, mask: u32, bytes: u32) -> Done {
        let low = u64::from(bytes) - 1;
        let bad = lanes(mask).find(|&l| addresses[l] & low != 0);
        let Some(lane) = bad else { return Ok(()) };
        let what = format!("an access of {bytes} bytes");
        Err(Bad::new(FaultKind::Misaligned, lane as u32, Some(addresses[lane]), what))
    }

    /// All lanes' address, if they have one.
    fn broadcast(addresses: &Lanes, mask: u32) -> bool {
        let first = addresses[mask.trailing_zeros() as usize];
        lanes(mask).all(|l| addresses[l] == first)
    }

    fn load_global(&mut self, window: Window, mask: u32, a: &Access, addresses: &Lanes) -> Done {
        let bytes = (a.bytes * a.regs.len() as u32) as usize;
        self.count_global(addresses, mask, bytes as u64, false);
        let strength = strength(a.strong || a.before_cas, a.scope);
        if a.before_cas {
            self.tally.counters.plain_cas_loads += u64::from(mask.count_ones());
        }
        if a.non_coherent && self.flight.non_coherent.is_none() {
            let agent = self.flight.first + of_launch(&self.flight.label) - 1;
            self.flight.non_coherent =
                Some(Box::new(state::Order::new(agent, agent..agent + 1, &self.flight.before, 1)));
        }
        let (mut rest, same) = (mask, Self::broadcast(addresses, mask));
        while rest != 0 {
            let lane = rest.trailing_zeros();
            let address = addresses[lane as usize];
            let who = if same { mask } else { 1 << lane };
            rest &= !who;
            self.reveal_range(address, bytes as u64);
            let Some((index, offset)) = self.memory.locate(address, bytes as u64) else {
                return Err(self.unmapped(lane, address, bytes as u64));
            };
            let (region, read_only) = self.memory.region(index);
            let raced = if read_only {
                Ok(())
            } else if let Some(order) = self.flight.non_coherent.as_mut().filter(|_| a.non_coherent) {
                region.races.read(&mut order.who(), 1, offset, bytes, strength)
            } else {
                region.races.read(&mut self.warp.order.who(), who, offset, bytes, strength)
            };
            match raced {
                Ok(()) => {}
                Err(conflict) => return Err(self.race(false, false, lane, address, offset, conflict)),
            }
            let unwritten = self.memory.region(index).0.store.first_unwritten(offset, bytes);
            if let Some(at) = unwritten {
                let at = address + (at - offset) as u64;
                let stored = self.memory.undefined(address, bytes as u64).map(|f| (f.kind, f.line));
                let (kind, line) = stored.unwrap_or((FaultKind::UninitGlobal, 0));
                let undefined = self.warp.undefine(Origin { kind, address: at, line });
                let part = |at| undefined.byte(at);
                let loaded = load_partly(a, &self.memory.region(index).0.store, offset, part);
                assign(&mut self.warp.registers, window, who, a, &loaded);
                continue;
            }
            let store = &self.memory.region(index).0.store;
            fill(&mut self.warp.registers, window, who, a, store, offset);
        }
        if a.strong {
            self.observe(mask, addresses, false, a.order, a.scope);
        }
        Ok(())
    }

    fn store_global(&mut self, window: Window, mask: u32, a: &Access, addresses: &Lanes) -> Done {
        let bytes = (a.bytes * a.regs.len() as u32) as usize;
        self.count_global(addresses, mask, bytes as u64, true);
        self.memory.agents.progress += 1;
        let delays = self.delays(a, addresses);
        let mut delayed = 0;
        for lane in lanes(mask) {
            let address = addresses[lane];
            self.reveal_range(address, bytes as u64);
            let Some((index, offset)) = self.memory.locate(address, bytes as u64) else {
                return Err(self.unmapped(lane as u32, address, bytes as u64));
            };
            let values = self.values(window, a, lane);
            let delays = delays && !self.memory.is_shared(index);
            let (region, read_only) = self.memory.region(index);
            if read_only {
                let what = format!("writes {bytes} bytes of read-only memory");
                return Err(Bad::new(FaultKind::ReadOnly, lane as u32, Some(address), what));
            }
            if let Err(conflict) = check(region, &mut self.warp.order.who(), lane, offset, a, &values) {
                return Err(self.race(false, true, lane as u32, address, offset, conflict));
            }
            if delays {
                self.delay(a, lane, address, &values);
                delayed |= 1 << lane;
                continue;
            }
            store_values(&mut region.store, offset, a, &values);
            let undefined = self.undefined_part(window, a, lane);
            if undefined != 0 {
                self.warp.note_store(lane as u32, address + u64::from(undefined.trailing_zeros()));
                forget(&mut self.memory.region(index).0.store, offset, undefined);
            }
        }
        if a.strong {
            self.publish(mask & !delayed, addresses, false, a.order, a.scope, true)?;
        }
        Ok(())
    }

    fn load_shared(&mut self, window: Window, mask: u32, a: &Access, addresses: &Lanes) -> Done {
        let bytes = (a.bytes * a.regs.len() as u32) as usize;
        self.count_shared(addresses, mask, bytes as u32);
        let strength = strength(a.strong || a.before_cas, a.scope);
        if a.before_cas {
            self.tally.counters.plain_cas_loads += u64::from(mask.count_ones());
        }
        let size = self.team.shared.store.len() as u64;
        let (mut rest, same) = (mask, Self::broadcast(addresses, mask));
        while rest != 0 {
            let lane = rest.trailing_zeros();
            let address = addresses[lane as usize];
            let who = if same { mask } else { 1 << lane };
            rest &= !who;
            if address >= size || size - address < bytes as u64 {
                return Err(self.outside(lane, address, bytes as u64));
            }
            let offset = address as usize;
            let shared = &mut self.team.shared;
            if let Err(conflict) = shared.races.read(&mut self.warp.order.who(), who, offset, bytes, strength) {
                return Err(self.race(true, false, lane, address, offset, conflict));
            }
            let store = &self.team.shared.store;
            if let Some(at) = store.first_unwritten(offset, bytes) {
                let origin = Origin { kind: FaultKind::UninitShared, address: at as u64, line: 0 };
                let undefined = self.warp.undefine(origin);
                let loaded = load_partly(a, store, offset, |at| undefined.byte(at));
                assign(&mut self.warp.registers, window, who, a, &loaded);
                continue;
            }
            fill(&mut self.warp.registers, window, who, a, store, offset);
        }
        if a.strong {
            self.observe(mask, addresses, true, a.order, a.scope);
        }
        Ok(())
    }

    fn store_shared(&mut self, window: Window, mask: u32, a: &Access, addresses: &Lanes) -> Done {
        let bytes = (a.bytes * a.regs.len() as u32) as usize;
        self.count_shared(addresses, mask, bytes as u32);
        self.memory.agents.progress += 1;
        let size = self.team.shared.store.len() as u64;
        for lane in lanes(mask) {
            let address = addresses[lane];
            if address >= size || size - address < bytes as u64 {
                return Err(self.outside(lane as u32, address, bytes as u64));
            }
            let offset = address as usize;
            let values = self.values(window, a, lane);
            if let Err(conflict) = check(&mut self.team.shared, &mut self.warp.order.who(), lane, offset, a, &values) {
                return Err(self.race(true, true, lane as u32, address, offset, conflict));
            }
            store_values(&mut self.team.shared.store, offset, a, &values);
            let undefined = self.undefined_part(window, a, lane);
            forget(&mut self.team.shared.store, offset, undefined);
        }
        if a.strong {
            self.publish(mask, addresses, true, a.order, a.scope, true)?;
        }
        Ok(())
    }

    fn access_local(&mut self, window: Window, mask: u32, a: &Access, addresses: &Lanes) -> Done {
        let bytes = (a.bytes * a.regs.len() as u32) as usize;
        for lane in lanes(mask) {
            let address = addresses[lane];
            let size = self.warp.local.get(lane).map_or(0, Store::len) as u64;
            if address >= size || size - address < bytes as u64 {
                let what = format!("{bytes} bytes beyond the {size} of the thread");
                return Err(Bad::new(FaultKind::OobLocal, lane as u32, Some(address), what));
            }
            let offset = address as usize;
            if a.store {
                let values = self.values(window, a, lane);
                let undefined = self.undefined_part(window, a, lane);
                store_values(&mut self.warp.local[lane], offset, a, &values);
                forget(&mut self.warp.local[lane], offset, undefined);
                continue;
            }
            let unwritten = self.warp.local[lane].first_unwritten(offset, bytes);
            if let Some(at) = unwritten {
                let origin = Origin { kind: FaultKind::UninitLocal, address: at as u64, line: 0 };
                self.warp.undefine(origin);
                let Some(undefined) = &self.warp.undefined else { continue };
                let loaded = load_partly(a, &self.warp.local[lane], offset, |at| undefined.byte(at));
                assign(&mut self.warp.registers, window, 1 << lane, a, &loaded);
                continue;
            }
            let store = &self.warp.local[lane];
            fill(&mut self.warp.registers, window, 1 << lane, a, store, offset);
        }
        Ok(())
    }

    fn load_param(&mut self, window: Window, mask: u32, a: &Access, addresses: &Lanes) -> Done {
        let bytes = (a.bytes * a.regs.len() as u32) as usize;
        let params = &self.grid.params;
        for lane in lanes(mask) {
            let address = addresses[lane];
            let within = usize::try_from(address).ok().and_then(|at| params.get(at..at.checked_add(bytes)?));
            let Some(data) = within else {
                let what = format!("{bytes} bytes beyond the {} of the parameters", params.len());
                return Err(Bad::new(FaultKind::OobParam, lane as u32, Some(address), what));
            };
            for (r, element) in a.regs.iter().zip(data.chunks_exact(a.bytes as usize)) {
                let mut word = [0; 8];
                word[..element.len()].copy_from_slice(element);
                self.warp.registers[(window.registers + r) as usize][lane] = extend(u64::from_le_bytes(word), a);
            }
        }
        Ok(())
    }

    /// Bytes of what a lane stores that are undefined, as a mask of bits.
    fn undefined_part(&self, window: Window, a: &Access, lane: usize) -> u64 {
        if self.warp.undefined.is_none() {
            return 0;
        }
        let part = |r: Reg| u64::from(self.warp.undefined_bytes(window, r, lane)) & mask_of(a.bytes);
        a.regs.iter().enumerate().fold(0, |all, (i, &r)| all | part(r) << (i as u32 * a.bytes))
    }

    /// What a lane stores.
    fn values(&self, window: Window, a: &Access, lane: usize) -> [u64; 8] {
        let mut values = [0; 8];
        for (value, r) in values.iter_mut().zip(&a.regs) {
            *value = self.get(window, *r)[lane];
        }
        values
    }

    #[cold]
    pub(crate) fn unmapped(&self, lane: u32, address: u64, bytes: u64) -> Box<Bad> {
        let (kind, what) = self.memory.describe_missing(address, bytes);
        Bad::new(kind, lane, Some(address), what)
    }

    #[cold]
    pub(crate) fn outside(&self, lane: u32, address: u64, bytes: u64) -> Box<Bad> {
        let what = format!("{bytes} bytes beyond the {} of the CTA", self.team.shared.store.len());
        Bad::new(FaultKind::OobShared, lane, Some(address), what)
    }

    /// The fault of two unordered accesses. `address` stands for `offset`.
    #[cold]
    pub(crate) fn race(
        &self,
        shared: bool,
        write: bool,
        lane: u32,
        address: u64,
        offset: usize,
        c: Conflict,
    ) -> Box<Bad> {
        let at = address.wrapping_add(c.offset as u64).wrapping_sub(offset as u64).max(address & !3);
        if c.agent == MAX_AGENT {
            return Bad::new(FaultKind::Mbarrier, lane, Some(at), "the bytes of an mbarrier are used as data");
        }
        let (asynchronous, whose) = self.memory.agents.describe(c.agent, c.lane, Some(&self.flight.label));
        let kind = match (asynchronous, shared) {
            (true, _) => FaultKind::AsyncCopy,
            (false, true) => FaultKind::RaceShared,
            (false, false) => FaultKind::RaceGlobal,
        };
        let verb = |write| if write { "write" } else { "read" };
        Bad::new(
            kind,
            lane,
            Some(at),
            format!("this {} is not ordered with the {} of {whose}", verb(write), verb(c.write)),
        )
    }

    /// Counts sectors and bytes of global memory.
    pub(crate) fn count_global(&mut self, addresses: &Lanes, mask: u32, bytes: u64, write: bool) {
        let mut seen = [u64::MAX; 2 * WARP];
        let mut count = 0;
        for lane in lanes(mask) {
            for sector in addresses[lane] >> 5..=addresses[lane].saturating_add(bytes - 1) >> 5 {
                // Neighbours mostly share the sector before.
                let known = (count > 0 && seen[count - 1] == sector) || seen[..count].contains(&sector);
                if !known && count < seen.len() {
                    seen[count] = sector;
                    count += 1;
                }
            }
        }
        let total = bytes * u64::from(mask.count_ones());
        let c = &mut self.tally.counters;
        let (sectors, moved) = if write {
            (&mut c.sectors_written, &mut c.bytes_written)
        } else {
            (&mut c.sectors_read, &mut c.bytes_read)
        };
        *sectors += count as u64;
        *moved += total;
    }

    /// Counts bank conflicts: 32 banks of 4 bytes; accesses of 8 and 16 bytes take two and four turns.
    pub(crate) fn count_shared(&mut self, addresses: &Lanes, mask: u32, bytes: u32) {
        let words = bytes.div_ceil(4) as usize;
        if mask == FULL {
            let step = u64::from(bytes.max(4));
            let first = addresses[0];
            let contiguous = addresses.iter().enumerate().all(|(l, &x)| x == first.wrapping_add(l as u64 * step));
            if contiguous || addresses.iter().all(|&x| x == first) {
                return;
            }
        }
        let turn = WARP / words.clamp(1, 4);
        for start in (0..WARP).step_by(turn) {
            let mut banks = [[u64::MAX; 4]; 32];
            let mut depth = [0usize; 32];
            for lane in lanes(mask).filter(|l| (start..start + turn).contains(l)) {
                for word in 0..words {
                    let word = addresses[lane].wrapping_add(4 * word as u64) >> 2;
                    let bank = word as usize & 31;
                    let known = &mut banks[bank][..];
                    // Beyond four the words of a bank are taken for different ones.
                    if !known[..depth[bank].min(4)].contains(&word) {
                        if depth[bank] < 4 {
                            known[depth[bank]] = word;
                        }
                        depth[bank] += 1;
                    }
                }
            }
            let worst = depth.iter().copied().max().unwrap_or(0) as u64;
            self.tally.counters.bank_conflicts += worst.saturating_sub(1);
        }
    }

    /// A strong read synchronises with what was released at its address, or will at the next fence.
    pub(crate) fn observe(&mut self, mask: u32, addresses: &Lanes, shared: bool, order: Order, scope: Scope) {
        if !shared && scope == Scope::Sys {
            for lane in lanes(mask) {
                if !self.memory.is_of_process(addresses[lane]) {
                    continue;
                }
                self.warp.order.read_strongly(lane as u32, &self.memory.agents.of_process, order.acquires());
            }
        }
        let published = if shared { &self.team.published } else { &self.memory.agents.published };
        if published.is_empty() {
            return;
        }
        for lane in lanes(mask) {
            let Some(p) = published.get(&addresses[lane]) else { continue };
            for clock in p.visible(self.warp.order.cta.start, scope) {
                self.warp.order.read_strongly(lane as u32, clock, order.acquires());
            }
        }
    }

    /// A strong write releases: all so far if it says so, otherwise what was before the last fence.
    pub(crate) fn publish(
        &mut self,
        mask: u32,
        addresses: &Lanes,
        shared: bool,
        order: Order,
        scope: Scope,
        replace: bool,
    ) -> Done {
        if order.releases() {
            self.reveal_known(mask, scope);
        }
        let warp = &mut self.warp.order;
        let published = if shared { &mut self.team.published } else { &mut self.memory.agents.published };
        let cta = warp.cta.start;
        // All threads that reach shared memory are in one CTA.
        let widen = |s| if shared { Scope::Gpu } else { s };
        let mut to_system = Vec::new();
        for lane in lanes(mask) {
            let bit = 1 << lane;
            let released = released(warp, bit, order, scope);
            match released {
                Some((clock, scope)) => {
                    if !shared && scope == Scope::Sys {
                        to_system.push((addresses[lane], Arc::clone(&clock)));
                    }
                    published.entry(addresses[lane]).or_default().publish(cta, widen(scope), clock, replace);
                }
                None if replace => {
                    published.remove(&addresses[lane]);
                }
                None => {}
            }
        }
        if order.releases() {
            warp.tick(mask.trailing_zeros())?;
        }
        for (address, clock) in to_system {
            if self.memory.is_of_process(address) {
                join(&mut self.memory.agents.to_process, &clock);
            }
        }
        Ok(())
    }

    /// `fence`: relaxed reads before it become acquires, relaxed writes after it releases. Those that are sequentially
    /// consistent happen one after the other, and each knows what those before it knew that are in its scope.
    pub(crate) fn fence(&mut self, mask: u32, scope: Scope, sc: bool) -> Done {
        self.reveal_known(mask, scope);
        if sc {
            let clock = self.warp.order.snapshot(mask, self.warp.order.now);
            let all = (scope >= Scope::Gpu).then_some(&mut self.memory.agents.sc_fences);
            for fences in [Some(&mut self.team.sc_fences), all].into_iter().flatten() {
                self.warp.order.acquire(mask, fences);
                join(fences, &clock);
            }
        }
        let order = &mut self.warp.order;
        let seen: Vec<_> = order.seen.parts(mask).map(|(m, c)| (m, Arc::clone(c))).collect();
        for (part, clock) in seen {
            order.acquire(part, &clock);
        }
        order.seen.clear(mask);
        order.fenced.retain_mut(|f| {
            f.lanes &= !mask;
            f.lanes != 0
        });
        let (time, parts) = (order.now, order.knowledge.parts(mask).map(|(m, c)| (m, Arc::clone(c))));
        let parts: Vec<_> = parts.collect();
        order.fenced.extend(parts.into_iter().map(|(lanes, clock)| super::state::Fenced { lanes, clock, time, scope }));
        order.tick(mask.trailing_zeros())
    }
}

/// Checks and notes a store of one lane.
fn check(
    region: &mut Region,
    who: &mut Who,
    lane: usize,
    offset: usize,
    a: &Access,
    values: &[u64; 8],
) -> Result<(), Conflict> {
    let Region { store, races } = region;
    let mine = who.epoch(lane as u32, strength(a.strong, a.scope), Width::of(a.bytes));
    let byte = |at: usize| (values[at / a.bytes as usize] >> (8 * (at % a.bytes as usize))) as u8;
    let same = |at: Range<usize>| {
        store.first_unwritten(at.start, at.len()).is_none()
            && at.into_iter().all(|i| store.get(i, 1) == u64::from(byte(i - offset)))
    };
    races.write(who, 1 << lane, (offset, a.bytes as usize * a.regs.len()), mine, same)
}

fn store_values(store: &mut Store, offset: usize, a: &Access, values: &[u64; 8]) {
    for (i, v) in values[..a.regs.len()].iter().enumerate() {
        store.put(offset + i * a.bytes as usize, a.bytes, *v);
    }
    store.set_written(offset, a.bytes as usize * a.regs.len());
}

/// Bytes of a store that hold nothing.
fn forget(store: &mut Store, offset: usize, bytes: u64) {
    for i in (0..64).filter(|i| bytes >> i & 1 != 0) {
        store.set_unwritten(offset + i, 1);
    }
}

/// The elements at an offset, of which bytes are unwritten.
fn load_partly(a: &Access, store: &Store, offset: usize, undefined: impl Fn(usize) -> u8) -> [u64; 8] {
    let one = |i: usize| extend(store.get_partly(offset + i * a.bytes as usize, a.bytes, &undefined), a);
    std::array::from_fn(|i| if i < a.regs.len() { one(i) } else { 0 })
}

/// Gives some lanes what they have loaded.
fn assign(registers: &mut [Lanes], window: Window, who: u32, a: &Access, values: &[u64; 8]) {
    for (r, value) in a.regs.iter().zip(values) {
        let slot = &mut registers[(window.registers + r) as usize];
        for lane in lanes(who) {
            slot[lane] = *value;
        }
    }
}

#[inline]
fn extend(value: u64, a: &Access) -> u64 {
    if a.extend == 0 {
        return value;
    }
    let shift = 64 - a.extend;
    ((value << shift) as i64 >> shift) as u64 & mask_of(a.width)
}

/// Loads the elements at an offset into the registers of some lanes.
#[inline]
fn fill(registers: &mut [Lanes], window: Window, who: u32, a: &Access, store: &Store, offset: usize) {
    for (i, r) in a.regs.iter().enumerate() {
        let value = extend(store.get(offset + i * a.bytes as usize, a.bytes), a);
        let slot = &mut registers[(window.registers + r) as usize];
        for lane in lanes(who) {
            slot[lane] = value;
        }
    }
}
