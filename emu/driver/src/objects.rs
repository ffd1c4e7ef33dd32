//! Contexts, streams and events: what the driver knows of each.

use crate::slots::{Handle, Kind};
use std::collections::BTreeMap;
use std::time::Instant;

/// A context.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) primary: bool,
    pub(crate) flags: u32,
    /// What `cuCtxSetLimit` was told, by limit.
    pub(crate) limits: BTreeMap<u32, usize>,
    pub(crate) cache_config: u32,
    /// The stream 0 that all threads share; one of each thread that has its own.
    pub(crate) legacy: Handle<Stream>,
    pub(crate) own: BTreeMap<u64, Handle<Stream>>,
    /// The last operations of streams that are gone.
    pub(crate) orphans: Vec<emu::Op>,
}

impl Kind for Context {
    const TAG: u8 = 0x11;
    const NAME: &'static str = "context";
}

/// How a stream is ordered with the legacy default stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// It is that stream.
    Legacy,
    /// Waits for it and is waited for.
    Blocking,
    NonBlocking,
}

/// A stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) context: Handle<Context>,
    pub(crate) order: Order,
    pub(crate) priority: i32,
    /// Numbers are given once in a process.
    pub(crate) id: u64,
    /// What was asked for last, if it may not have ended.
    pub(crate) tail: Option<Tail>,
    /// It is that of a context and can't be destroyed.
    pub(crate) default: bool,
}

/// The last operation of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) op: emu::Op,
    /// A launch, which the next one may overlap.
    pub(crate) launch: bool,
}

impl Kind for Stream {
    const TAG: u8 = 0x12;
    const NAME: &'static str = "stream";
}

/// An event.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) context: Handle<Context>,
    pub(crate) flags: u32,
    pub(crate) record: Option<Record>,
}

/// What an event was recorded as last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    pub(crate) op: emu::Op,
    /// When it happened.
    pub(crate) at: Option<Instant>,
}

impl Kind for Event {
    const TAG: u8 = 0x13;
    const NAME: &'static str = "event";
}
