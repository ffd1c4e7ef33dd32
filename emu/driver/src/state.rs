//! All that the driver knows, under one lock: settings, contexts, streams, events, code, memory, and what has been asked of
//! the emulator. Handles are numbers of [`Slots`]; what owns what is in the things themselves.

use crate::code::{Function, Kernel, Library, Linker, Module};
use crate::error::{Answer, Error};
use crate::finding;
use crate::graph::{Exec, Graph, Graphs, Object};
use crate::memory::Allocations;
pub(crate) use crate::objects::{Context, Event, Order, Record, Stream, Tail};
use crate::settings::{Settings, VARIABLE};
use crate::slots::{Handle, Kind, Slots};
use crate::trace::Trace;
use crate::work::Work;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

/// The primary context of the device.
#[derive(Debug, Default)]
pub(crate) struct Primary {
    pub(crate) handle: Option<Handle<Context>>,
    pub(crate) retained: u32,
    pub(crate) flags: u32,
}

/// All that the driver knows.
#[derive(Debug)]
pub(crate) struct Driver {
    /// None without a device.
    pub(crate) settings: Option<Settings>,
    pub(crate) trace: Option<Trace>,
    process: u32,
    initialised: bool,
    over: bool,
    calls: u64,
    calls_by_name: BTreeMap<&'static str, u64>,
    last_stream: u64,
    /// When the last call returned.
    pub(crate) last_call: Instant,
    /// Names of functions that are not supported, which have been said.
    said: BTreeSet<&'static str>,
    pub(crate) primary: Primary,
    pub(crate) contexts: Slots<Context>,
    pub(crate) streams: Slots<Stream>,
    pub(crate) events: Slots<Event>,
    pub(crate) modules: Slots<Module>,
    pub(crate) functions: Slots<Function>,
    pub(crate) libraries: Slots<Library>,
    pub(crate) kernels: Slots<Kernel>,
    pub(crate) linkers: Slots<Linker>,
    pub(crate) graphs: Graphs,
    pub(crate) memory: Allocations,
    pub(crate) work: Work,
}

static DRIVER: OnceLock<Mutex<Driver>> = OnceLock::new();
/// How many wait for the lock.
static KNOCKS: AtomicU32 = AtomicU32::new(0);

impl Driver {
    /// Takes the lock, before whoever holds it for long takes it again.
    pub(crate) fn enter() -> MutexGuard<'static, Driver> {
        let driver = DRIVER.get_or_init(|| Mutex::new(Driver::new()));
        KNOCKS.fetch_add(1, Ordering::Relaxed);
        // A panic is answered with an error, and what it left is no worse than what a real driver would leave.
        let guard = driver.lock().unwrap_or_else(PoisonError::into_inner);
        KNOCKS.fetch_sub(1, Ordering::Relaxed);
        guard
    }

    /// Whether somebody waits for the lock.
    pub(crate) fn wanted() -> bool {
        KNOCKS.load(Ordering::Relaxed) > 0
    }

    fn new() -> Driver {
        let settings = std::env::var_os(VARIABLE).map(|text| match Settings::parse(&text.to_string_lossy()) {
            Ok(settings) => settings,
            Err(what) => {
                finding::say(&what);
                finding::end()
            }
        });
        let path = settings.as_ref().and_then(|s| s.trace.as_deref());
        let trace = path.and_then(|path| match Trace::create(path) {
            Ok(trace) => Some(trace),
            Err(e) => {
                finding::say(&format!("the trace {} cannot be written: {e}", path.display()));
                finding::end()
            }
        });
        let (memory, seed) = settings.as_ref().map_or((0, 0), |s| (s.memory, s.seed));
        let card = settings.as_ref().map(|s| s.card);
        Driver {
            settings,
            trace,
            process: std::process::id(),
            initialised: false,
            over: false,
            calls: 0,
            calls_by_name: BTreeMap::new(),
            last_stream: 0,
            last_call: Instant::now(),
            said: BTreeSet::new(),
            primary: Primary::default(),
            contexts: Slots::default(),
            streams: Slots::default(),
            events: Slots::default(),
            modules: Slots::default(),
            functions: Slots::default(),
            libraries: Slots::default(),
            kernels: Slots::default(),
            linkers: Slots::default(),
            graphs: Graphs::default(),
            memory: Allocations::new(memory),
            work: Work::new(card, memory, seed),
        }
    }

    /// Makes the device usable.
    pub(crate) fn init(&mut self) -> Answer {
        if self.settings.is_none() {
            return Err(Error::NO_DEVICE);
        }
        self.initialised = true;
        Ok(())
    }

    /// Whether the device is usable.
    pub(crate) fn usable(&self) -> Answer {
        match () {
            () if self.over => Err(Error::DEINITIALIZED),
            // A child of the process that has initialised the driver cannot use it, as with any driver.
            () if !self.initialised || self.process != std::process::id() => Err(Error::NOT_INITIALIZED),
            () => Ok(()),
        }
    }

    /// What the settings say, for what needs the device.
    pub(crate) fn settings(&self) -> Answer<&Settings> {
        self.settings.as_ref().ok_or(Error::NOT_INITIALIZED)
    }

    /// Counts a call; its number.
    pub(crate) fn count(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }

    /// The number of a new stream.
    pub(crate) fn next_stream(&mut self) -> u64 {
        self.last_stream += 1;
        self.last_stream
    }

    /// A call has returned.
    pub(crate) fn made_call(&mut self) {
        self.last_call = Instant::now();
    }

    /// The error that the settings want of the call with this number.
    pub(crate) fn injected(&mut self, n: u64, name: &'static str) -> Option<Error> {
        let nth = self.calls_by_name.entry(name).or_default();
        *nth += 1;
        let failures = &self.settings.as_ref()?.failures;
        let hit = failures.iter().find(|f| match &f.call {
            Some(call) => call == name && f.nth == *nth,
            None => f.nth == n,
        });
        hit.map(|f| Error(f.code))
    }

    /// The error that has stuck.
    pub(crate) fn sticky(&self) -> Option<Error> {
        self.work.failed
    }

    /// Reports what is wrong with the program, and ends it if the settings are strict.
    pub(crate) fn finding(&mut self, what: &str) {
        if self.over {
            return;
        }
        finding::say(what);
        if self.settings.as_ref().is_none_or(|s| s.strict) {
            self.finish();
            finding::end();
        }
    }

    /// Says once that a function is not supported.
    pub(crate) fn unsupported(&mut self, name: &'static str) -> Error {
        if self.said.insert(name) {
            finding::remark(&format!("{name} is not supported"));
        }
        Error::NOT_SUPPORTED
    }

    /// What is held that no primary context owns.
    fn held(&self) -> Vec<Value> {
        let owned = |context: Handle<Context>| self.contexts.get(context).is_none_or(|c| c.primary);
        let mut held = Vec::new();
        let mut hold = |kind: &str, number: u64, from: &str| {
            held.push(json!({"kind": kind, "handle": format!("{number:#x}"), "from": from}));
        };
        for (h, c) in self.contexts.iter().filter(|(_, c)| !c.primary) {
            hold(Context::NAME, h.number(), if c.primary { "cuDevicePrimaryCtxRetain" } else { "cuCtxCreate" });
        }
        for (h, s) in self.streams.iter().filter(|(_, s)| !s.default && !owned(s.context)) {
            hold(Stream::NAME, h.number(), &format!("stream {}", s.id));
        }
        for (h, _) in self.events.iter().filter(|(_, e)| !owned(e.context)) {
            hold(Event::NAME, h.number(), "cuEventCreate");
        }
        for (h, m) in self.modules.iter().filter(|(_, m)| m.library.is_none() && !owned(m.context)) {
            hold(Module::NAME, h.number(), m.from);
        }
        for (h, l) in self.libraries.iter() {
            hold(Library::NAME, h.number(), l.from);
        }
        for (h, _) in self.linkers.iter().filter(|(_, l)| !owned(l.context)) {
            hold(Linker::NAME, h.number(), "cuLinkCreate");
        }
        for (base, a) in self.memory.iter().filter(|(_, a)| !owned(a.context)) {
            hold("memory", base, &format!("{} of {} bytes", a.from, a.bytes));
        }
        let whole = |(h, g): &(Handle<Graph>, &Graph)| g.owner.is_none() && !self.graphs.captures.fills(h.number());
        for (h, g) in self.graphs.graphs.iter().filter(whole) {
            hold(Graph::NAME, h.number(), g.from);
        }
        for (h, _) in self.graphs.execs.iter() {
            hold(Exec::NAME, h.number(), "cuGraphInstantiate");
        }
        for (h, _) in self.graphs.objects.iter() {
            hold(Object::NAME, h.number(), "cuUserObjectCreate");
        }
        held
    }

    /// The process ends: the trace ends with what is held.
    fn finish(&mut self) -> Vec<Value> {
        if std::mem::replace(&mut self.over, true) || self.process != std::process::id() {
            return Vec::new();
        }
        let held = self.held();
        if let Some(trace) = &mut self.trace {
            trace.finish(&held);
        }
        held
    }

    /// The process ends by itself. What is held is a finding where the settings say so; whether the process failed by that.
    fn leave(&mut self) -> bool {
        let held = self.finish();
        let Some(settings) = self.settings.as_ref().filter(|s| s.leaks && !held.is_empty()) else { return false };
        let words = |h: &Value| Some(format!("{} ({})", h["kind"].as_str()?, h["from"].as_str()?));
        let list: Vec<_> = held.iter().filter_map(words).collect();
        finding::say(&format!("held at exit: {}", list.join(", ")));
        settings.strict
    }
}

/// Runs when the process ends, after the clean-up of the program.
extern "C" fn at_exit() {
    let Some(driver) = DRIVER.get() else { return };
    KNOCKS.fetch_add(1, Ordering::Relaxed);
    // Another thread may hold the lock for ever; it is not waited for.
    let mut patience = 1000;
    let mut guard = loop {
        match driver.try_lock() {
            Ok(guard) => break guard,
            Err(std::sync::TryLockError::Poisoned(p)) => break p.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) if patience > 0 => patience -= 1,
            Err(std::sync::TryLockError::WouldBlock) => return,
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    };
    if guard.leave() {
        finding::end();
    }
}

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = at_exit;
