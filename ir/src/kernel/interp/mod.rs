//! Executes kernels: the oracle of generators and backends. Values only, in one interleaving, without a model of races.
//!
//! A CPU's workers, or a CTA's threads, run in turn, each until it has to wait; CTAs run one after the other, each worker
//! takes its own share of a parallel loop, a bulk copy is done at once. `code` makes a list of steps of the statements,
//! `memory` checks accesses, `atoms` has a reference for each atom; what an instruction computes is in `eval`. Invariant: a
//! kernel that touches what it may not, waits for what never comes, or whose index wraps is a [`Fault`], never a panic.

mod atoms;
mod code;
mod memory;

use super::eval::{Data, WARP, eval, eval_warp, is_warp_wide};
use super::{Arg, Binary, Buf, BulkCopy, Inst, Kernel, Mem, Scope, Special, Stmt, Value};
use crate::Verified;
use crate::abi::Control;
use atoms::{Call, Operand};
use code::{Code, Op, Slot};
use memory::{Memory, Place};
use std::collections::HashMap;

/// What a kernel did that none may do; the text names it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

fn fault<T>(what: String) -> Result<T, Fault> {
    Err(Fault(what))
}

/// Runs a kernel over its parameters, on `workers` workers if it is for a CPU. A buffer may be shorter than declared: what it
/// lacks may not be touched.
///
/// # Errors
/// [`Fault`] for an access outside of a buffer, an index that wraps, a wait without end, a variable that is read before it is
/// set, lanes that take part in different instructions of their warp, and a number of buffers that is not the kernel's.
pub fn run(kernel: &Verified<Kernel>, params: &mut [Vec<u8>], control: Control, workers: usize) -> Result<(), Fault> {
    if params.len() != kernel.params() as usize {
        return fault(format!("{} buffers for {} parameters", params.len(), kernel.params()));
    }
    let code = Code::new(kernel);
    let mut machine =
        Machine { kernel, code: &code, memory: Memory::new(kernel, params), control, phases: HashMap::new() };
    match kernel.grid {
        None => {
            machine.memory.reset_scratch(workers);
            let threads = (0..workers).map(|number| Thread::new(kernel, &code, [0, number], number));
            machine.group(&mut threads.collect::<Vec<_>>())
        }
        Some(grid) => (0..grid.ctas as usize).try_for_each(|cta| {
            machine.memory.reset_scratch(1);
            machine.phases.clear();
            let threads = (0..grid.threads as usize).map(|number| Thread::new(kernel, &code, [cta, number], 0));
            machine.group(&mut threads.collect::<Vec<_>>())
        }),
    }
}

/// What a thread is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    /// Waits for its warp at its step.
    Warp,
    /// Waits for its CTA, or for all workers.
    All,
    /// Waits for the end of a phase of this parity of the mbarrier at this byte of shared memory.
    Phase(u64, u32),
    Done,
}

/// A thread of a CTA, or a worker.
struct Thread {
    /// Its CTA and its number there, or 0 and its number as a worker.
    id: [usize; 2],
    /// The owner of its scratch memory.
    owner: usize,
    /// Number of the next step.
    next: usize,
    state: State,
    slots: Vec<Data>,
    vars: Vec<Option<Data>>,
}

impl Thread {
    fn new(kernel: &Kernel, code: &Code<'_>, id: [usize; 2], owner: usize) -> Self {
        let (slots, vars) = (vec![Data::int(0); code.slots], vec![None; kernel.vars.len()]);
        Thread { id, owner, next: 0, state: State::Ready, slots, vars }
    }

    fn value(&self, v: Value) -> Data {
        self.slots[v.0 as usize]
    }

    fn slot(&self, slot: Slot) -> u32 {
        self.slots[slot].as_u32()
    }
}

struct Machine<'a> {
    kernel: &'a Kernel,
    code: &'a Code<'a>,
    memory: Memory<'a>,
    control: Control,
    /// Phases that have ended, of each mbarrier by its byte of shared memory.
    phases: HashMap<u64, u32>,
}

impl Machine<'_> {
    /// Runs the threads of a CTA, or all workers, to their end.
    fn group(&mut self, threads: &mut [Thread]) -> Result<(), Fault> {
        while threads.iter().any(|t| t.state != State::Done) {
            let mut moved = false;
            for t in 0..threads.len() {
                if let State::Phase(at, parity) = threads[t].state
                    && self.phases.get(&at).is_some_and(|ended| ended % 2 != parity)
                {
                    threads[t].state = State::Ready;
                }
                if threads[t].state == State::Ready {
                    self.advance(threads, t)?;
                    moved = true;
                }
            }
            if self.kernel.grid.is_some() {
                for warp in threads.chunks_mut(WARP) {
                    moved |= self.warp(warp)?;
                }
            }
            if threads.iter().all(|t| t.state == State::All) {
                threads.iter_mut().for_each(|t| t.state = State::Ready);
                moved = true;
            }
            if !moved {
                let waiting = threads.iter().find(|t| t.state != State::Done);
                let (id, state) = waiting.map_or(([0, 0], State::Done), |t| (t.id, t.state));
                return fault(format!("{} waits without end: {state:?}", self.thread_name(id)));
            }
        }
        Ok(())
    }

    fn thread_name(&self, [cta, number]: [usize; 2]) -> String {
        match self.kernel.grid {
            None => format!("worker {number}"),
            Some(_) => format!("thread {number} of CTA {cta}"),
        }
    }

    /// Executes a step of a warp if all its lanes wait at the same one; whether they did.
    fn warp(&mut self, warp: &mut [Thread]) -> Result<bool, Fault> {
        if warp.len() != WARP || warp.iter().any(|t| t.state != State::Warp || t.next != warp[0].next) {
            return Ok(false);
        }
        if let Op::Stmt(Stmt::Let(v)) = self.code.ops[warp[0].next] {
            let inst = self.kernel.inst(*v);
            let operands: [Vec<Data>; WARP] = std::array::from_fn(|lane| {
                let mut all = Vec::new();
                inst.operands(&mut |v| all.push(warp[lane].value(v)));
                all
            });
            if let Some(results) = eval_warp(inst, &operands) {
                warp.iter_mut().zip(results).for_each(|(t, result)| t.slots[v.0 as usize] = result);
            }
        }
        for t in warp {
            t.next += 1;
            t.state = State::Ready;
        }
        Ok(true)
    }

    /// Runs a thread until it has to wait.
    fn advance(&mut self, threads: &mut [Thread], number: usize) -> Result<(), Fault> {
        let workers = threads.len();
        let t = &mut threads[number];
        while t.state == State::Ready {
            let Some(op) = self.code.ops.get(t.next) else {
                t.state = State::Done;
                return Ok(());
            };
            if matches!(op, Op::Stmt(Stmt::Let(v)) if is_warp_wide(self.kernel.inst(*v))) {
                t.state = State::Warp;
                return Ok(());
            }
            self.step(t, op, workers).map_err(|Fault(what)| {
                let at = if let Op::Stmt(Stmt::Let(v)) = op { format!(" at %{}", v.0) } else { String::new() };
                Fault(format!("kernel {}, {}{at}: {what}", self.kernel.name, self.thread_name(t.id)))
            })?;
        }
        Ok(())
    }

    /// Executes a step of one thread and goes to the next.
    fn step(&mut self, t: &mut Thread, op: &Op<'_>, workers: usize) -> Result<(), Fault> {
        let following = t.next + 1;
        t.next = match *op {
            Op::Stmt(Stmt::Sync(Scope::Warp)) => {
                t.state = State::Warp;
                return Ok(());
            }
            Op::Stmt(stmt) => {
                self.stmt(t, stmt)?;
                following
            }
            Op::Copy { to, from } => {
                t.slots[to] = t.value(from);
                following
            }
            Op::Share { first, end, count } => {
                let bound = |n: usize| (u64::from(t.value(count).as_u32()) * n as u64 / workers as u64) as u32;
                (t.slots[first], t.slots[end]) = (Data::int(bound(t.id[1])), Data::int(bound(t.id[1] + 1)));
                following
            }
            Op::While { index, end, exit } => {
                if t.slot(index) < t.slot(end) {
                    following
                } else {
                    exit
                }
            }
            Op::Next { index, step, head } => {
                let Some(next) = t.slot(index).checked_add(step) else {
                    return fault("the index of a loop wraps".into());
                };
                t.slots[index] = Data::int(next);
                head
            }
            Op::Unless { cond, to } => {
                if t.value(cond).is_true() {
                    following
                } else {
                    to
                }
            }
            Op::Jump { to } => to,
        };
        Ok(())
    }

    fn stmt(&mut self, t: &mut Thread, stmt: &Stmt) -> Result<(), Fault> {
        match stmt {
            Stmt::Let(v) => t.slots[v.0 as usize] = self.inst(t, self.kernel.inst(*v))?,
            Stmt::Set(var, v) => t.vars[var.0 as usize] = Some(t.value(*v)),
            Stmt::Store { buf, index, mem, value } => {
                let place = self.place(t, *buf, *index)?;
                self.memory.store(place, *mem, t.value(*value))?;
            }
            Stmt::Barrier | Stmt::Sync(Scope::Cta) => t.state = State::All,
            Stmt::Call { atom, args } => {
                let operands = args.iter().map(|arg| {
                    Ok(match *arg {
                        Arg::Address(buf, index) => Operand::Place(self.place(t, buf, index)?),
                        Arg::Int(v) => Operand::Int(t.value(v).as_u32()),
                        Arg::Float(v) => Operand::Float(t.value(v).as_f32()),
                        Arg::Null => Operand::Null,
                    })
                });
                let operands = operands.collect::<Result<_, Fault>>()?;
                atoms::execute(*atom, &mut Call { memory: &mut self.memory, operands })
                    .map_err(|Fault(what)| Fault(format!("{}: {what}", atom.name())))?;
            }
            Stmt::MbarrierInit(buf, index) => {
                let place = self.place(t, *buf, *index)?;
                self.memory.bytes(place, 8)?;
                self.phases.insert(self.shared(place), 0);
            }
            Stmt::BulkCopy(copy) => self.bulk_copy(t, copy)?,
            Stmt::MbarrierWait { buf, index, parity } => {
                let at = self.mbarrier(t, *buf, *index)?;
                t.state = State::Phase(at, t.value(*parity).as_u32());
            }
            // Nothing runs beside this launch, and a copy sees all that was written before.
            Stmt::AwaitPrevious | Stmt::FenceAsync => {}
            Stmt::For { .. } | Stmt::If { .. } | Stmt::Parallel { .. } | Stmt::Sync(Scope::Warp) => {
                return fault("a statement with steps of its own".into());
            }
        }
        Ok(())
    }

    fn inst(&mut self, t: &Thread, inst: &Inst) -> Result<Data, Fault> {
        match *inst {
            Inst::Special(special) => Ok(Data::int(match special {
                Special::Position => self.control.position,
                Special::Tokens => self.control.tokens,
                Special::Cta => t.id[0] as u32,
                Special::Thread => t.id[1] as u32,
            })),
            Inst::Get(var) => {
                t.vars[var.0 as usize].ok_or_else(|| Fault(format!("${} is read before it is set", var.0)))
            }
            Inst::Load { buf, index, mem, vector } => {
                let place = self.place(t, buf, index)?;
                let ty = if vector { mem.ty().vector() } else { mem.ty() };
                let mut lanes = [0; 4];
                for (n, lane) in lanes.iter_mut().enumerate().take(if vector { 4 } else { 1 }) {
                    let at = place.at + n as u64 * u64::from(mem.bytes());
                    *lane = self.memory.load(Place { at, ..place }, mem)?;
                }
                Ok(Data { ty, lanes })
            }
            Inst::AtomicAdd { buf, index, value } => {
                let place = self.place(t, buf, index)?;
                let before = self.memory.load(place, Mem::I32)?;
                self.memory.store(place, Mem::I32, Data::int(before.wrapping_add(t.value(value).as_u32())))?;
                Ok(Data::int(before))
            }
            _ => {
                let mut operands = Vec::new();
                inst.operands(&mut |v| operands.push(t.value(v)));
                eval(inst, &operands).ok_or_else(|| Fault(format!("{} outside of its place", inst.mnemonic())))
            }
        }
    }

    /// An element's first byte. Additions in its index may not wrap: backends add their constants to addresses.
    fn place(&self, t: &Thread, buf: Buf, index: Value) -> Result<Place, Fault> {
        let mut sums = vec![index];
        while let Some(v) = sums.pop() {
            if let Inst::Binary(Binary::IAdd, a, b) = *self.kernel.inst(v) {
                let (x, y) = (t.value(a).as_u32(), t.value(b).as_u32());
                if x.checked_add(y).is_none() {
                    return fault(format!("%{}, of an index, wraps: {x} + {y}", v.0));
                }
                sums.extend([a, b]);
            }
        }
        let element = u64::from(t.value(index).as_u32());
        let size = u64::from(self.kernel.buffers[buf.0 as usize].mem.bytes());
        Ok(Place { buf, owner: t.owner, at: element * size })
    }

    /// The byte of shared memory that a place is.
    fn shared(&self, place: Place) -> u64 {
        match self.kernel.buffers[place.buf.0 as usize].space {
            super::Space::Scratch(start) => u64::from(start) + place.at,
            _ => place.at,
        }
    }

    fn mbarrier(&self, t: &Thread, buf: Buf, index: Value) -> Result<u64, Fault> {
        let at = self.shared(self.place(t, buf, index)?);
        if self.phases.contains_key(&at) { Ok(at) } else { fault(format!("no mbarrier at byte {at} of shared memory")) }
    }

    fn bulk_copy(&mut self, t: &Thread, copy: &BulkCopy) -> Result<(), Fault> {
        let [to, from] = [copy.to, copy.from].map(|(buf, index)| self.place(t, buf, index));
        let (to, from, count) = (to?, from?, copy.bytes as usize);
        if to.at % 16 != 0 || from.at % 16 != 0 {
            return fault(format!("a bulk copy from byte {} to byte {}, no multiples of 16", from.at, to.at));
        }
        let bytes = self.memory.bytes(from, count)?.to_vec();
        self.memory.bytes(to, count)?.copy_from_slice(&bytes);
        let at = self.mbarrier(t, copy.mbarrier.0, copy.mbarrier.1)?;
        *self.phases.entry(at).or_default() += 1;
        Ok(())
    }
}
