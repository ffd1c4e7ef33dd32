//! Asynchronous copies. The memory model has them as agents of their own: what they read and write is ordered with a
//! thread only by a wait that covers them. Bulk copies go through the async proxy, which sees what a thread wrote only
//! after a proxy fence of that thread; other threads see what a copy wrote once they have waited. Bytes land as late as
//! is legal: those of a bulk load at a time that the scheduler chooses, those of `cp.async` and of a bulk store when
//! somebody waits for them.

use super::access::classify;
use super::state::{Bad, Ctx, Done, Group, lanes};
use crate::clock::{
    Agent, BULK_READ, BULK_WRITE, CP_ASYNC, Epoch, FENCED_CP_ASYNC, FENCED_GLOBAL, FENCED_SHARED, MAX_TIME, Source,
    Strength, Width,
};
use crate::fault::FaultKind;
use crate::memory::Region;
use crate::program::{AsyncStore, Bulk, BulkKind, CpAsync, Rmw};
use crate::race::Conflict;
use crate::types::Space;
use std::collections::VecDeque;
use std::ops::Range;

/// Bytes on their way to shared memory that signal an mbarrier.
#[derive(Debug)]
pub(crate) struct Landing {
    pub(crate) target: u64,
    pub(crate) data: Vec<u8>,
    pub(crate) mbarrier: u64,
    pub(crate) lane: u32,
    pub(crate) warp: u32,
    pub(crate) pc: u32,
    pub(crate) by: Source,
}

/// Bytes on their way to shared memory, from `cp.async`.
#[derive(Debug)]
struct Pending {
    group: u32,
    target: u64,
    data: [u8; 16],
    len: usize,
}

/// Bytes on their way to global memory.
#[derive(Debug)]
struct Storing {
    group: u32,
    target: u64,
    source: usize,
    len: usize,
    /// What was read from the source, once it had to be.
    data: Option<Vec<u8>>,
}

/// The copies of one thread.
#[derive(Debug, Default)]
pub(crate) struct CpAsyncState {
    /// The group that is being filled, from 1.
    group: u32,
    pending: VecDeque<Pending>,
    bulk_group: u32,
    storing: VecDeque<Storing>,
    /// Bulk groups whose sources were waited for.
    read: u32,
}

impl CpAsyncState {
    /// Whether shared memory is still needed.
    pub(crate) fn reads_shared(&self) -> bool {
        self.storing.iter().any(|s| s.group > self.read)
    }
}

impl Ctx<'_> {
    /// The copies of a lane.
    fn copies(&mut self, lane: u32) -> &mut CpAsyncState {
        if self.warp.cp_async.is_empty() {
            self.warp.cp_async.resize_with(32, || CpAsyncState { group: 1, bulk_group: 1, ..CpAsyncState::default() });
        }
        &mut self.warp.cp_async[lane as usize]
    }

    /// Checks a range of shared memory.
    fn shared_range(&self, address: u64, len: u64, lane: u32) -> Done<usize> {
        let size = self.team.shared.store.len() as u64;
        if address > size || size - address < len {
            return Err(self.outside(lane, address, len));
        }
        Ok(address as usize)
    }

    /// Reads global memory for a copy: checked as a read of the thread, and noted as one of the copy.
    fn read_source(&mut self, address: u64, len: usize, lane: u32, copy: Option<Epoch>) -> Done<Vec<u8>> {
        self.reveal_range(address, len as u64);
        let Some((index, offset)) = self.memory.locate(address, len as u64) else {
            return Err(self.unmapped(lane, address, len as u64));
        };
        let (region, read_only) = self.memory.region(index);
        if !read_only && len > 0 {
            let mut who = self.warp.order.who();
            if let Err(c) = region.races.read(&mut who, 1 << lane, offset, len, Strength::Weak) {
                return Err(self.race(false, false, lane, address, offset, c));
            }
            if let Some(epoch) = copy {
                region.races.stamp_read(&mut who, epoch, offset, len);
                let bulk = epoch.source() == Source::Bulk;
                if let Some(c) = bulk.then(|| region.races.unfenced(&mut who, lane, offset, len, false)).flatten() {
                    return Err(self.unfenced(true, lane, address, offset, c));
                }
            }
        }
        let store = &self.memory.region(index).0.store;
        if let Some(at) = store.first_unwritten(offset, len) {
            let at = address + (at - offset) as u64;
            return Err(Bad::new(FaultKind::UninitGlobal, lane, Some(at), format!("copies {len} bytes")));
        }
        Ok(store.bytes(offset, len))
    }

    /// `fence.proxy.async`.
    pub(crate) fn proxy_fence(&mut self, mask: u32, shared: bool, global: bool) -> Done {
        let now = self.warp.order.now;
        for lane in lanes(mask) {
            let l = lane as u32;
            if shared {
                self.learn(FENCED_SHARED, l, now);
                self.learn(FENCED_CP_ASYNC, l, self.warp.order.waited[CP_ASYNC as usize][lane]);
            }
            if global {
                self.learn(FENCED_GLOBAL, l, now);
            }
        }
        if shared {
            self.announce(mask);
        }
        self.warp.order.tick(mask.trailing_zeros())
    }

    /// The fault of a bulk copy and a write by a thread without a proxy fence between them.
    #[cold]
    fn unfenced(&self, reads: bool, lane: u32, address: u64, offset: usize, c: Conflict) -> Box<Bad> {
        let (_, whose) = self.memory.agents.describe(c.agent, c.lane, Some(&self.flight.label));
        let verb = if reads { "reads" } else { "writes over" };
        let at = address + (c.offset as u64).saturating_sub(offset as u64);
        let what = format!(
            "the copy {verb} what {whose} wrote, and no fence.proxy.async of that thread came between the write and the \
             synchronisation with this one"
        );
        Bad::new(FaultKind::ProxyFence, lane, Some(at), what)
    }

    /// Writes shared memory for a copy: checked as a write of the thread, and from then on the copy's.
    /// Until it lands nobody can read it. `data` are its bytes, if it may repeat what another copy writes.
    fn claim_target(&mut self, offset: usize, len: usize, lane: u32, copy: Epoch, data: Option<&[u8]>) -> Done {
        let shared = &mut self.team.shared;
        let mut who = self.warp.order.who();
        let bulk = copy.source() == Source::Bulk;
        let unfenced = if bulk { shared.races.unfenced(&mut who, lane, offset, len, true) } else { None };
        let Region { store, races } = shared;
        let same = |at: Range<usize>| {
            data.is_some_and(|d| Some(&d[at.start - offset..at.end - offset]) == store.slice(at.start, at.len()))
        };
        if let Err(c) = races.write(&mut who, 1 << lane, (offset, len), copy, same) {
            return Err(self.race(true, true, lane, offset as u64, offset, c));
        }
        if let Some(c) = unfenced {
            return Err(self.unfenced(false, lane, offset as u64, offset, c));
        }
        store.set_unwritten(offset, len);
        if let Some(data) = data {
            // For the copies that repeat it.
            store.write(offset, data);
        }
        Ok(())
    }

    /// `cp.async`.
    pub(crate) fn cp_async(&mut self, g: usize, c: &CpAsync) -> Done {
        let Group { mask, window, .. } = self.warp.groups[g];
        let (shared, global) = (self.addresses(window, c.shared), self.addresses(window, c.global));
        let sizes = c.source.map(|r| *self.get(window, r));
        let skipped = c.skip.map_or(0, |p| self.warp.holds(window, p));
        self.aligned(&shared, mask, c.bytes)?;
        self.aligned(&global, mask, c.bytes)?;
        self.count_global(&global, mask, u64::from(c.bytes), false);
        for lane in lanes(mask) {
            let l = lane as u32;
            let mut len = sizes.map_or(c.bytes, |s| s[lane] as u32);
            if len > c.bytes {
                let what = format!("{len} bytes of a copy of {}", c.bytes);
                return Err(Bad::new(FaultKind::BadOperand, l, Some(shared[lane]), what));
            }
            if skipped >> lane & 1 != 0 {
                len = 0;
            }
            let target = self.shared_range(shared[lane], u64::from(c.bytes), l)?;
            let group = self.copies(l).group;
            let agent = self.warp.order.agent + CP_ASYNC;
            let epoch = Epoch::new(agent, group, l, Strength::Weak).by(Source::CpAsync).wide(Width::COPY);
            let mut data = [0; 16];
            if len > 0 {
                let bytes = self.read_source(global[lane], len as usize, l, Some(epoch))?;
                data[..bytes.len()].copy_from_slice(&bytes);
            }
            self.claim_target(target, c.bytes as usize, l, epoch, Some(&data[..c.bytes as usize]))?;
            let pending = Pending { group, target: target as u64, data, len: c.bytes as usize };
            self.copies(l).pending.push_back(pending);
        }
        self.memory.agents.progress += 1;
        Ok(())
    }

    /// `cp.async.commit_group`.
    pub(crate) fn cp_commit(&mut self, mask: u32) {
        for lane in lanes(mask) {
            self.copies(lane as u32).group += 1;
        }
    }

    /// `cp.async.wait_group` and `wait_all`.
    pub(crate) fn cp_wait(&mut self, mask: u32, keep: Option<u64>) {
        for lane in lanes(mask) {
            let until = self.cp_until(lane as u32, keep);
            if keep.is_none() {
                // What comes now belongs to a later group, so that this wait does not cover it.
                self.copies(lane as u32).group += 1;
            }
            self.land_pending(lane as u32, until);
            self.learn(CP_ASYNC, lane as u32, until);
        }
    }

    /// The last group that a wait covers.
    fn cp_until(&mut self, lane: u32, keep: Option<u64>) -> u32 {
        let group = self.copies(lane).group;
        match keep {
            None => group,
            Some(n) => (group - 1).saturating_sub(n.min(u64::from(MAX_TIME)) as u32),
        }
    }

    fn land_pending(&mut self, lane: u32, until: u32) {
        while self.copies(lane).pending.front().is_some_and(|p| p.group <= until) {
            let Some(p) = self.copies(lane).pending.pop_front() else { return };
            let target = p.target as usize;
            let store = &mut self.team.shared.store;
            store.write(target, &p.data[..p.len]);
            store.set_written(target, p.len);
        }
    }

    /// A lane learns of its own copies.
    fn learn(&mut self, which: u32, lane: u32, time: u32) {
        let waited = &mut self.warp.order.waited[which as usize][lane as usize];
        *waited = time.max(*waited);
    }

    /// `cp.async.bulk`.
    pub(crate) fn bulk(&mut self, g: usize, b: &Bulk) -> Done {
        let Group { mask, window, pc, .. } = self.warp.groups[g];
        let (target, source) = (self.addresses(window, b.target), self.addresses(window, b.source));
        let (bytes, mbarrier) = (*self.get(window, b.bytes), self.addresses(window, b.mbarrier));
        self.aligned(&target, mask, 16)?;
        self.aligned(&source, mask, 16)?;
        for lane in lanes(mask) {
            let (l, len) = (lane as u32, bytes[lane]);
            if len % 16 != 0 || len == 0 {
                let what = format!("a bulk copy of {len} bytes");
                return Err(Bad::new(FaultKind::Misaligned, l, Some(target[lane]), what));
            }
            if b.kind == BulkKind::Store {
                self.bulk_store(l, target[lane], shared(source[lane]), len)?;
                continue;
            }
            let mbarrier = self.mbarrier_address(Space::Shared, shared(mbarrier[lane]), l)?;
            let to = self.shared_range(shared(target[lane]), len, l)?;
            let (agent, phase) = self.signalled(mbarrier, l)?;
            let reading = Epoch::new(agent, phase, 0, Strength::Weak).by(Source::Bulk);
            let data = if b.kind == BulkKind::Load {
                self.count_bulk(source[lane], len, false);
                self.read_source(source[lane], len as usize, l, Some(reading))?
            } else {
                let from = self.read_shared(shared(source[lane]), len, l, reading)?;
                self.team.shared.store.bytes(from, len as usize)
            };
            self.land_later((l, pc), to, data, (mbarrier, agent), Source::Bulk)?;
        }
        self.memory.agents.progress += 1;
        Ok(())
    }

    /// Bytes are on their way to shared memory, and will signal an mbarrier.
    fn land_later(
        &mut self,
        (lane, pc): (u32, u32),
        target: usize,
        data: Vec<u8>,
        (mbarrier, agent): (u64, Agent),
        by: Source,
    ) -> Done {
        // Until it lands no wait covers it.
        let writing = Epoch::new(agent, MAX_TIME, 0, Strength::Weak).by(by).wide(Width::OTHER);
        self.claim_target(target, data.len(), lane, writing, None)?;
        let (warp, target) = (self.warp.index, target as u64);
        self.team.landings.push(Landing { target, data, mbarrier, lane, warp, pc, by });
        Ok(())
    }

    /// `st.async` and `red.async`. A store lands late; a reduction happens at once, which is legal as well.
    pub(crate) fn async_store(&mut self, g: usize, s: &AsyncStore) -> Done {
        let Group { mask, window, pc, .. } = self.warp.groups[g];
        let (target, mbarrier) = (self.addresses(window, s.atomic.address), self.addresses(window, s.mbarrier));
        let (target, mbarrier) = (target.map(shared), mbarrier.map(shared));
        let width = s.atomic.ty.bytes();
        let bytes = width * s.atomic.values.len() as u32;
        self.aligned(&target, mask, bytes)?;
        for lane in lanes(mask) {
            let l = lane as u32;
            let signalled = self.mbarrier_address(Space::Shared, mbarrier[lane], l)?;
            if s.atomic.op != Rmw::Exch {
                self.atomic_word(window, &s.atomic, 1 << lane, target[lane], true)?;
                self.complete_by(signalled, l, bytes.into())?;
                continue;
            }
            let to = self.shared_range(target[lane], bytes.into(), l)?;
            let agent = self.initialised(signalled, l)?.agent;
            let word = |r: &u32| self.get(window, *r)[lane].to_le_bytes().into_iter().take(width as usize);
            let data = s.atomic.values.iter().flat_map(word).collect();
            self.land_later((l, pc), to, data, (signalled, agent), Source::CpAsync)?;
        }
        self.memory.agents.progress += 1;
        Ok(())
    }

    /// Reads shared memory for a bulk copy: checked as a read of the thread, and noted as one of the copy.
    fn read_shared(&mut self, source: u64, len: u64, lane: u32, reading: Epoch) -> Done<usize> {
        let offset = self.shared_range(source, len, lane)?;
        let (n, shared) = (len as usize, &mut self.team.shared);
        let mut who = self.warp.order.who();
        if let Err(c) = shared.races.read(&mut who, 1 << lane, offset, n, Strength::Weak) {
            return Err(self.race(true, false, lane, source, offset, c));
        }
        if let Some(c) = shared.races.unfenced(&mut who, lane, offset, n, true) {
            return Err(self.unfenced(true, lane, source, offset, c));
        }
        shared.races.stamp_read(&mut who, reading, offset, n);
        if let Some(at) = shared.store.first_unwritten(offset, n) {
            return Err(Bad::new(FaultKind::UninitShared, lane, Some(at as u64), format!("copies {len} bytes")));
        }
        Ok(offset)
    }

    fn bulk_store(&mut self, lane: u32, target: u64, source: u64, len: u64) -> Done {
        let group = self.copies(lane).bulk_group;
        let agent = self.warp.order.agent;
        let reading = Epoch::new(agent + BULK_READ, group, lane, Strength::Weak).by(Source::Bulk);
        let writing = Epoch::new(agent + BULK_WRITE, group, lane, Strength::Weak).by(Source::Bulk);
        let (n, offset) = (len as usize, self.read_shared(source, len, lane, reading)?);
        self.count_bulk(target, len, true);
        self.reveal_range(target, len);
        let Some((index, to)) = self.memory.locate(target, len) else {
            return Err(self.unmapped(lane, target, len));
        };
        let (region, read_only) = self.memory.region(index);
        if read_only {
            let what = format!("copies {len} bytes to read-only memory");
            return Err(Bad::new(FaultKind::ReadOnly, lane, Some(target), what));
        }
        let mut who = self.warp.order.who();
        let unfenced = region.races.unfenced(&mut who, lane, to, n, false);
        let mine = who.epoch(lane, Strength::Weak, Width::OTHER);
        if let Err(c) = region.races.write(&mut who, 1 << lane, (to, n), mine, |_| false) {
            return Err(self.race(false, true, lane, target, to, c));
        }
        if let Some(c) = unfenced {
            return Err(self.unfenced(false, lane, target, to, c));
        }
        region.races.stamp_write(writing, to, n);
        self.copies(lane).storing.push_back(Storing { group, target, source: offset, len: n, data: None });
        Ok(())
    }

    fn count_bulk(&mut self, address: u64, len: u64, write: bool) {
        let sectors = address.saturating_add(len).div_ceil(32) - address / 32;
        let c = &mut self.tally.counters;
        let (count, bytes) = if write {
            (&mut c.sectors_written, &mut c.bytes_written)
        } else {
            (&mut c.sectors_read, &mut c.bytes_read)
        };
        *count += sectors;
        *bytes += len;
    }

    /// `cp.async.bulk.commit_group`.
    pub(crate) fn bulk_commit(&mut self, mask: u32) {
        for lane in lanes(mask) {
            self.copies(lane as u32).bulk_group += 1;
        }
    }

    /// `cp.async.bulk.wait_group`.
    pub(crate) fn bulk_wait(&mut self, mask: u32, keep: u64, read: bool) {
        for lane in lanes(mask) {
            let l = lane as u32;
            let committed = self.copies(l).bulk_group - 1;
            let until = committed.saturating_sub(keep.min(u64::from(MAX_TIME)) as u32);
            self.read_stores(l, until);
            self.learn(BULK_READ, l, until);
            if !read {
                self.land_stores(l, until);
                self.learn(BULK_WRITE, l, until);
            }
        }
    }

    /// The bulk stores of a lane have read their sources, up to a group.
    fn read_stores(&mut self, lane: u32, until: u32) {
        let copies = &mut self.warp.cp_async[lane as usize];
        copies.read = copies.read.max(until);
        for s in copies.storing.iter_mut().filter(|s| s.group <= until && s.data.is_none()) {
            s.data = Some(self.team.shared.store.bytes(s.source, s.len));
        }
    }

    /// The bulk stores of a lane land, up to a group.
    pub(crate) fn land_stores(&mut self, lane: u32, until: u32) {
        if self.warp.cp_async.is_empty() {
            return;
        }
        while self.copies(lane).storing.front().is_some_and(|s| s.group <= until) {
            let Some(s) = self.copies(lane).storing.pop_front() else { return };
            let Some((index, to)) = self.memory.locate(s.target, s.len as u64) else { continue };
            let data = s.data.unwrap_or_else(|| self.team.shared.store.bytes(s.source, s.len));
            let store = &mut self.memory.region(index).0.store;
            store.write(to, &data);
            store.set_written(to, s.len);
        }
        self.memory.agents.progress += 1;
    }
}

/// A shared address, given as such or as a generic one.
fn shared(address: u64) -> u64 {
    match classify(address) {
        (Space::Shared, inner) => inner,
        _ => address,
    }
}
