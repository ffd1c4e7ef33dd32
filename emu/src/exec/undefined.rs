//! Values that depend on memory nobody wrote. To load them is no fault, as programs copy padding and select away what they
//! loaded too much: it is one when a branch, an address or anything else that acts depends on them. What is stored of them
//! stays unwritten.
//!
//! From the first such load on a warp has copies of its registers, in each of which unwritten bytes have another value. What
//! only computes is executed in all of them; what differs between them is undefined, bit by bit.

use super::state::{Bad, Ctx, Done, State, Warp, Window, lanes};
use super::{Next, Stop};
use crate::alu::Lanes;
use crate::fault::{Fault, FaultKind, place};
use crate::program::{Address, CONSTANT, Callee, Instr, NOBODY, Op, PredRef, Reg, SINK};
use crate::store::POISON;
use std::sync::Arc;

/// Copies of the registers.
const COPIES: usize = 3;

/// The registers of a warp if unwritten bytes have other values.
#[derive(Debug, Clone)]
struct World {
    registers: Vec<Lanes>,
    predicates: Vec<u32>,
    carry: u32,
}

/// Where an undefined value comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) kind: FaultKind,
    pub(crate) address: u64,
    /// Of the load; 0 until it is known.
    pub(crate) line: u32,
}

/// What a warp knows of undefined values.
#[derive(Debug)]
pub(crate) struct Undefined {
    copies: [World; COPIES],
    /// The copy that is in the place of the registers, from 1; 0: none.
    current: usize,
    /// Of the last undefined value that was loaded.
    origin: Origin,
    /// Lanes and addresses of undefined values that the instruction stores to global memory.
    stored: Vec<(u32, u64)>,
}

impl Undefined {
    /// The value of an unwritten byte in the current copy.
    pub(crate) fn byte(&self, at: usize) -> u8 {
        match self.current {
            0 => POISON,
            1 => 0,
            2 => 0xff,
            _ => ((at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8,
        }
    }
}

impl Warp {
    /// A load finds unwritten bytes.
    #[cold]
    pub(crate) fn undefine(&mut self, origin: Origin) -> &Undefined {
        if let Some(u) = &mut self.undefined
            && u.current == 0
        {
            u.origin = origin;
        }
        let copy =
            || World { registers: self.registers.clone(), predicates: self.predicates.clone(), carry: self.carry };
        self.undefined.get_or_insert_with(|| {
            Box::new(Undefined { copies: [copy(), copy(), copy()], current: 0, origin, stored: Vec::new() })
        })
    }

    /// Exchanges the registers for a copy, and back.
    fn exchange(&mut self, copy: usize) {
        let Some(u) = &mut self.undefined else { return };
        u.current = if u.current == 0 { copy } else { 0 };
        let c = &mut u.copies[copy - 1];
        std::mem::swap(&mut self.registers, &mut c.registers);
        std::mem::swap(&mut self.predicates, &mut c.predicates);
        std::mem::swap(&mut self.carry, &mut c.carry);
    }

    /// Runs `f` with the registers and with each copy.
    pub(crate) fn in_all(&mut self, mut f: impl FnMut(&mut Warp)) {
        f(self);
        if self.undefined.is_some() {
            for copy in 1..=COPIES {
                self.exchange(copy);
                f(self);
                self.exchange(copy);
            }
        }
    }

    /// The bits of a register that are undefined, of each lane.
    fn undefined_bits(&self, window: Window, r: Reg) -> Lanes {
        let mut bits = [0; 32];
        let index = (window.registers + r) as usize;
        if let Some(u) = self.undefined.as_ref().filter(|_| r < CONSTANT) {
            for copy in &u.copies {
                for (lane, bits) in bits.iter_mut().enumerate() {
                    *bits |= copy.registers[index][lane] ^ self.registers[index][lane];
                }
            }
        }
        bits
    }

    /// Bytes of a value of a register that are undefined, as a mask of bits.
    pub(crate) fn undefined_bytes(&self, window: Window, r: Reg, lane: usize) -> u32 {
        let bits = self.undefined_bits(window, r)[lane];
        (0..8).filter(|b| bits >> (8 * b) & 0xff != 0).fold(0, |m, b| m | 1 << b)
    }

    /// An undefined value goes to global memory.
    pub(crate) fn note_store(&mut self, lane: u32, address: u64) {
        if let Some(u) = &mut self.undefined {
            u.stored.push((lane, address));
        }
    }

    /// Sets a register of some lanes to what they had before, in the copies.
    pub(crate) fn restore(&mut self, window: Window, r: Reg, mask: u32, value: &Lanes) {
        if let Some(u) = &mut self.undefined {
            for copy in &mut u.copies {
                for lane in lanes(mask) {
                    copy.registers[(window.registers + r) as usize][lane] = value[lane];
                }
            }
        }
    }

    /// Gives new frames of calls room in the copies.
    pub(crate) fn grow_copies(&mut self) {
        let (registers, predicates) = (self.registers.len(), self.predicates.len());
        if let Some(u) = &mut self.undefined {
            for copy in &mut u.copies {
                copy.registers.resize(registers, [0; 32]);
                copy.predicates.resize(predicates, 0);
            }
        }
    }
}

/// What an instruction does beside computing.
struct Effect {
    /// It only computes or loads, so that it can be executed again.
    computes: bool,
    /// Registers that it acts on, which have to be defined.
    uses: Vec<Reg>,
    /// Registers that are defined afterwards.
    sets: Vec<Reg>,
    sets_predicate: u16,
}

fn effect(op: &Op) -> Effect {
    let mut e = Effect { computes: false, uses: Vec::new(), sets: Vec::new(), sets_predicate: NOBODY };
    let of = |all: &[Address]| all.iter().map(|a| a.base).collect::<Vec<_>>();
    match op {
        Op::Access(a) => {
            e.computes = !a.store;
            e.uses = of(&[a.address]);
        }
        Op::Matrices(m) => {
            e.computes = !m.store;
            e.uses = of(&[m.address]);
            if m.store {
                e.uses.extend(&m.regs);
            }
        }
        Op::Atomic(a) => {
            e.uses = of(&[a.address]);
            e.uses.extend(&a.values);
            e.uses.push(a.swap);
            e.sets.clone_from(&a.old);
        }
        Op::AsyncStore(a) => {
            e.uses = of(&[a.atomic.address, a.mbarrier]);
            e.uses.extend(&a.atomic.values);
        }
        Op::Tile(t) => {
            e.computes = !t.access.store;
            e.uses = of(&[t.access.address]);
            e.uses.push(t.stride);
            if t.access.store {
                e.uses.extend(&t.regs);
            }
        }
        Op::CpAsync(c) => {
            e.uses = of(&[c.shared, c.global]);
            e.uses.extend(c.source);
        }
        Op::Bulk(b) => {
            e.uses = of(&[b.target, b.source, b.mbarrier]);
            e.uses.push(b.bytes);
        }
        Op::Mbarrier(m) => {
            e.uses = of(&[m.address]);
            e.uses.push(m.value);
            e.sets.push(m.d);
            e.sets_predicate = m.p;
        }
        Op::Barrier(b) => {
            e.uses.push(b.id);
            e.uses.extend(b.count);
        }
        Op::Collective(c) => e.uses.push(c.members),
        Op::BranchTable { index, .. } => e.uses.push(*index),
        Op::OwnCta { operand, .. } => e.uses.push(*operand),
        Op::Call(call) => {
            if let Callee::Pointer { address, .. } = call.callee {
                e.uses.push(address);
            }
        }
        Op::Branch { .. }
        | Op::Return
        | Op::Exit
        | Op::Trap
        | Op::Nop
        | Op::Yield
        | Op::AwaitPrevious
        | Op::LetNext
        | Op::Fence { .. }
        | Op::ProxyFence { .. }
        | Op::MbarrierFence
        | Op::CpCommit
        | Op::CpWait { .. }
        | Op::BulkCommit
        | Op::BulkWait { .. }
        | Op::ClusterBarrier { .. } => {}
        // Every instruction is named, so that a new one says whether it acts.
        Op::Map { .. }
        | Op::Approximate { .. }
        | Op::Chain { .. }
        | Op::Video { .. }
        | Op::Insert { .. }
        | Op::Test { .. }
        | Op::TestTo { .. }
        | Op::Select { .. }
        | Op::Predicate { .. }
        | Op::Pack { .. }
        | Op::Unpack { .. }
        | Op::Read { .. }
        | Op::FrameAddress { .. }
        | Op::ActiveMask { .. }
        | Op::MoveMatrix { .. }
        | Op::Product(_)
        | Op::IsSpace { .. } => e.computes = true,
    }
    e.uses.retain(|&r| r != SINK);
    e.sets.retain(|&r| r != SINK);
    e
}

impl Ctx<'_> {
    /// The fault of an instruction that acts on an undefined value.
    #[cold]
    fn depends(&self, lane: u32, what: &str) -> Box<Bad> {
        let Some(Origin { kind, address, line }) = self.warp.undefined.as_ref().map(|u| u.origin) else {
            return Bad::new(FaultKind::UninitGlobal, lane, None, what);
        };
        let story = format!("{what} depends on what line {line} loaded, which nobody wrote");
        Bad::new(kind, lane, Some(address), story)
    }

    /// The instruction was a load that has found unwritten bytes, the first of the warp.
    #[cold]
    pub(super) fn first_undefined(&mut self, g: usize, pc: u32) -> Done {
        self.locate_origin(pc);
        self.in_copies(g, pc, self.flight.steps - 1)
    }

    fn locate_origin(&mut self, pc: u32) {
        let line = self.grid.program.code[pc as usize].line;
        if let Some(u) = self.warp.undefined.as_mut().filter(|u| u.origin.line == 0) {
            u.origin.line = line;
        }
    }

    /// Executes one instruction of a warp that has undefined values.
    #[cold]
    pub(super) fn step_undefined(&mut self, g: usize, pc: u32) -> Done<Next> {
        let program = &self.grid.program;
        let instr: &Instr = &program.code[pc as usize];
        let (mask, window, steps) = (self.warp.groups[g].mask, self.warp.groups[g].window, self.flight.steps);
        let mut holds = Vec::with_capacity(COPIES + 1);
        self.warp.in_all(|w| holds.push(w.holds(window, instr.guard)));
        let differ = holds.iter().fold(0, |m, h| m | (h ^ holds[0])) & mask;
        if differ != 0 {
            let what = if matches!(instr.op, Op::Branch { .. }) { "the branch" } else { "whether it is executed" };
            return Err(self.depends(differ.trailing_zeros(), what));
        }
        let active = holds[0] & mask;
        let effect = effect(&instr.op);
        for &r in &effect.uses {
            let bits = self.warp.undefined_bits(window, r);
            if let Some(lane) = lanes(active).find(|&l| bits[l] != 0) {
                return Err(self.depends(lane as u32, "an address or operand"));
            }
        }
        let vote = match &instr.op {
            Op::Barrier(b) => b.reduce.map(|r| r.predicate),
            Op::CpAsync(c) => c.skip,
            _ => None,
        };
        if let Some(p) = vote {
            let mut all = Vec::with_capacity(COPIES + 1);
            self.warp.in_all(|w| all.push(w.holds(window, p)));
            let differ = all.iter().fold(0, |m, h| m | (h ^ all[0])) & active;
            if differ != 0 {
                return Err(self.depends(differ.trailing_zeros(), "a predicate"));
            }
        }
        let next = self.execute(g, pc)?;
        self.locate_origin(pc);
        self.record_store(pc);
        for &r in &effect.sets {
            let value = *self.get(window, r);
            self.warp.restore(window, r, active, &value);
        }
        if effect.sets_predicate != NOBODY {
            let bits = self.warp.holds(window, PredRef { index: effect.sets_predicate, negated: false });
            self.warp.in_all(|w| w.set_predicate(window, effect.sets_predicate, active, bits));
        }
        if effect.computes && active != 0 && matches!(next, Next::Step | Next::Stop(Stop::Polled)) {
            self.in_copies(g, pc, steps)?;
            self.doubt(window, active, &instr.op);
        }
        Ok(next)
    }

    /// Executes an instruction that only computes, as after so many steps, in all copies.
    fn in_copies(&mut self, g: usize, pc: u32, steps: u64) -> Done {
        let (warp_steps, end, counts) = (self.warp.steps, self.flight.steps, self.tally.clone());
        let group = (self.warp.groups[g].pc, self.warp.groups[g].state == State::Run);
        for copy in 1..=COPIES {
            self.flight.steps = steps;
            self.warp.exchange(copy);
            let done = self.execute(g, pc);
            self.warp.exchange(copy);
            done?;
        }
        debug_assert_eq!(group, (self.warp.groups[g].pc, self.warp.groups[g].state == State::Run));
        (self.warp.steps, self.flight.steps) = (warp_steps, end);
        *self.tally = counts;
        Ok(())
    }

    /// The outcome of a comparison of undefined values is undefined, also where it is the same in all copies.
    fn doubt(&mut self, window: Window, active: u32, op: &Op) {
        let Op::Test { s, combine: None, p, q, .. } = op else { return };
        let bits = s.map(|r| self.warp.undefined_bits(window, r));
        let mask = lanes(active).filter(|&l| bits[0][l] | bits[1][l] != 0).fold(0, |m, l| m | 1 << l);
        let Some(u) = &mut self.warp.undefined else { return };
        for index in [*p, *q].into_iter().filter(|&i| i != NOBODY) {
            let slot = window.predicates as usize + usize::from(index);
            let [copy, ..] = &mut u.copies;
            copy.predicates[slot] = copy.predicates[slot] & !mask | !self.warp.predicates[slot] & mask;
        }
    }

    /// Remembers for whoever reads it who stored an undefined value to global memory.
    fn record_store(&mut self, pc: u32) {
        let Some(u) = &mut self.warp.undefined else { return };
        let stored = std::mem::take(&mut u.stored);
        let Some(&(lane, address)) = stored.first() else { return };
        let line = self.grid.program.code[pc as usize].line;
        let mut bad = *self.depends(lane, "the value that is stored");
        bad.address = Some(address);
        let fault = place(&self.flight.label, Some((self.team.id, self.warp.index)), line, bad);
        let fault: Arc<Fault> = Arc::from(fault);
        for (_, address) in stored {
            self.memory.undefined_stored(address, &fault);
        }
    }

    /// Copies a value of a call between frames, defined or not.
    pub(super) fn pass_register(&mut self, mask: u32, from: (Window, Reg), to: (Window, Reg)) {
        let constants = &self.grid.constants;
        self.warp.in_all(|w| {
            let value = *w.get(constants, from.0, from.1);
            w.set(to.0, to.1, mask, &value);
        });
    }
}
