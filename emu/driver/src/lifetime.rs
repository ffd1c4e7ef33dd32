//! Contexts and memory come and go: what belongs to a context goes with it, memory is freed for the emulator and for the
//! program at once.

use crate::error::{Answer, Error};
use crate::finding;
use crate::memory::{Allocation, Pages, Process, What};
use crate::slots::Handle;
use crate::state::{Context, Driver, Order, Stream};
use std::collections::BTreeMap;

/// Alignment of device memory.
const ALIGN: u64 = 256;

impl Driver {
    /// A new context with its default stream.
    pub(crate) fn create_context(&mut self, primary: bool, flags: u32) -> Handle<Context> {
        let id = self.next_stream();
        // The stream and the context name each other, so that one of them is completed afterwards.
        self.contexts.insert_with(|context| {
            let tail = None;
            let stream = Stream { context, order: Order::Legacy, priority: 0, id, tail, default: true };
            let legacy = self.streams.insert(stream);
            let (limits, own, orphans) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
            Context { primary, flags, limits, cache_config: 0, legacy, own, orphans }
        })
    }

    /// Ends a context and all that belongs to it. What it was asked for has ended.
    pub(crate) fn destroy_context(&mut self, context: Handle<Context>, by: &'static str) {
        self.contexts.remove(context);
        for (stream, _) in self.streams.extract(|_, s| s.context == context) {
            self.graphs.forget_stream(stream.number());
        }
        for (event, _) in self.events.extract(|_, e| e.context == context) {
            self.graphs.captures.forget_event(event.number());
        }
        self.linkers.extract(|_, l| l.context == context);
        let modules = self.modules.extract(|_, m| m.context == context);
        for (module, _) in modules {
            self.functions.extract(|_, f| f.module == module);
        }
        for (_, library) in self.libraries.iter_mut() {
            library.modules.remove(&context);
        }
        let memory: Vec<u64> = self.memory.iter().filter(|(_, a)| a.context == context).map(|(base, _)| base).collect();
        for base in memory {
            self.release(base, by);
        }
        if self.contexts.iter().next().is_none() && self.sticky().is_some() {
            self.work.reset();
            self.graphs.forget_launches();
        }
    }

    /// Allocates device memory.
    ///
    /// # Errors
    /// If the card has no more.
    pub(crate) fn allocate(
        &mut self,
        bytes: u64,
        what: What,
        context: Handle<Context>,
        from: &'static str,
    ) -> Answer<u64> {
        if bytes == 0 {
            return Err(Error::INVALID_VALUE);
        }
        if !self.memory.fits(bytes) {
            return Err(Error::OUT_OF_MEMORY);
        }
        let base = self.work.engine.memory().alloc(bytes, ALIGN).map_err(|e| {
            // The card has room, so that it is the machine that has not.
            finding::remark(&format!("{from}: {e}"));
            Error::OUT_OF_MEMORY
        })?;
        self.memory.insert(base, bytes, what, context, from, None);
        Ok(base)
    }

    /// Lets kernels reach memory of the process.
    ///
    /// # Errors
    /// If they already do.
    pub(crate) fn map(
        &mut self,
        (base, bytes): (u64, u64),
        what: What,
        context: Handle<Context>,
        from: &'static str,
        pages: Option<Pages>,
    ) -> Answer {
        if self.memory.overlaps(base, bytes) {
            return Err(Error::HOST_MEMORY_ALREADY_REGISTERED);
        }
        let memory = Box::new(Process::new(base, bytes));
        self.work.engine.memory().alloc_host(base, memory).map_err(|_| Error::OUT_OF_MEMORY)?;
        self.memory.insert(base, bytes, what, context, from, pages);
        Ok(())
    }

    /// Pages of the process that kernels reach.
    ///
    /// # Errors
    /// If there are none.
    pub(crate) fn allocate_host(
        &mut self,
        bytes: u64,
        what: What,
        context: Handle<Context>,
        from: &'static str,
    ) -> Answer<u64> {
        if bytes == 0 {
            return Err(Error::INVALID_VALUE);
        }
        if what == What::Managed && !self.memory.fits(bytes) {
            return Err(Error::OUT_OF_MEMORY);
        }
        let size = usize::try_from(bytes).map_err(|_| Error::OUT_OF_MEMORY)?;
        let pages = Pages::new(size).ok_or(Error::OUT_OF_MEMORY)?;
        let base = pages.address();
        self.map((base, bytes), what, context, from, Some(pages))?;
        Ok(base)
    }

    /// Frees an allocation for kernels; the program's part stays until [`Driver::release`].
    pub(crate) fn withdraw(&mut self, base: u64, by: &'static str) {
        if let Some(a) = self.memory.get_mut(base) {
            a.freeing = Some(by);
            // It is there, so that this cannot fail.
            _ = self.work.engine.memory().free(base);
        }
    }

    /// Frees an allocation for kernels and the program; what it was.
    pub(crate) fn release(&mut self, base: u64, by: &'static str) -> Option<Allocation> {
        let allocation = self.memory.remove(base, by)?;
        // It is there, unless it was withdrawn.
        _ = self.work.engine.memory().free(base);
        Some(allocation)
    }
}
