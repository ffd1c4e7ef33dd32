//! Executes instructions of one warp: [`Ctx::slice`] runs its converged groups of lanes, one at a time, the one with the
//! deepest call and the lowest position first, so that lanes that diverged meet again where their paths do. Instructions
//! with more to them are in the other files; `state` has the types; [`crate::sched`] chooses who runs.

pub(crate) mod access;
mod atomic;
pub(crate) mod barrier;
mod collective;
pub(crate) mod copies;
pub(crate) mod delay;
mod external;
mod matrix;
pub(crate) mod mbarrier;
mod product;
pub(crate) mod state;
pub(crate) mod undefined;

use crate::alu::integer::{chain, insert};
use crate::alu::{FULL, Lanes, TestFn, WARP};
use crate::fault::{FaultKind, thread_of};
use crate::program::{Call, Mask, Op, Place, Reg, Special};
use crate::types::{Space, mask_of};
use barrier::Completed;
use state::{Bad, Ctx, Done, Frame, Group, MOST_BYTES, State, Window, lanes};

/// Nested calls.
const MAX_CALLS: usize = 256;
/// Registers of all frames of a warp.
const MAX_REGISTERS: usize = 1 << 20;

/// Why a slice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Its instructions are used up.
    Spent,
    /// A group polls or sleeps; nothing will change before others run.
    Polled,
    /// No group of the warp can run.
    Blocked,
    /// A barrier completed.
    Completed(Completed),
    /// All threads of the warp have exited.
    Exited,
}

/// What the instruction leaves to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// The next instruction.
    Step,
    /// The position is set already.
    Stay,
    /// The group stopped, split, or met others.
    Choose,
    Stop(Stop),
}

impl Ctx<'_> {
    /// Runs the warp for some instructions. On a fault: what it is, and where.
    pub(crate) fn slice(&mut self, budget: u32, rotate: bool) -> Result<Stop, (Box<Bad>, u32)> {
        let mut budget = budget;
        let mut rotate = rotate;
        loop {
            let choice = self.choose(rotate).map_err(|bad| (bad, self.some_pc()))?;
            let Some(g) = choice else {
                let stop = if self.warp.order.live == 0 { Stop::Exited } else { Stop::Blocked };
                return Ok(stop);
            };
            // Where others stand that this group may meet.
            let meet = if self.warp.groups.len() == 1 {
                u32::MAX
            } else {
                let pc = self.warp.groups[g].pc;
                let ahead = self.warp.groups.iter().map(|o| o.pc).filter(|&o| o > pc);
                if rotate { u32::MAX } else { ahead.min().unwrap_or(u32::MAX) }
            };
            rotate = false;
            loop {
                let pc = self.warp.groups[g].pc;
                if pc >= meet {
                    break;
                }
                if budget == 0 {
                    return Ok(Stop::Spent);
                }
                budget -= 1;
                match self.step(g, pc).map_err(|bad| (bad, pc))? {
                    Next::Step => self.warp.groups[g].pc = pc + 1,
                    Next::Stay => {}
                    Next::Choose => break,
                    Next::Stop(stop) => return Ok(stop),
                }
            }
        }
    }

    /// A position to name in messages about the warp as a whole.
    fn some_pc(&self) -> u32 {
        self.warp.groups.first().map_or(0, |g| g.pc)
    }

    /// Groups that stand at one place with one stack become one; the group to run.
    fn choose(&mut self, rotate: bool) -> Done<Option<usize>> {
        let phases = self.team.phases;
        for group in &mut self.warp.groups {
            if let State::Mbarrier { seen, .. } = group.state
                && (seen != phases || group.timed_out)
            {
                group.state = State::Run;
            }
        }
        if self.warp.groups.len() > 1 {
            self.merge();
        }
        // A group may be alone since the others that an exchange waited for have exited.
        let waiting = |g: &Group| matches!(g.state, State::Collective { .. });
        while let Some(i) = (0..self.warp.groups.len()).find(|&i| waiting(&self.warp.groups[i])) {
            if !self.settle_any(i)? {
                break;
            }
            self.merge();
        }
        let groups = &mut self.warp.groups;
        if let [only] = groups.as_mut_slice()
            && only.state == State::Aligned
        {
            only.state = State::Run;
        }
        let ready = |g: &Group| g.state == State::Run;
        if groups.len() > 1 && groups.iter().all(|g| g.state == State::Aligned) {
            let first = &groups[0];
            let line = self.grid.program.code[groups[1].pc as usize].line;
            let what = format!("lanes of the warp are at another .aligned instruction, in line {line}");
            return Err(Bad::new(FaultKind::Divergence, first.mask.trailing_zeros(), None, what));
        }
        if rotate {
            self.warp.turn += 1;
            let n = self.warp.groups.len().max(1);
            let turn = self.warp.turn;
            return Ok((0..n).map(|i| (turn + i) % n).find(|&i| self.warp.groups.get(i).is_some_and(ready)));
        }
        let order = |g: &Group| (std::cmp::Reverse(g.calls.len()), g.pc);
        let candidates = self.warp.groups.iter().enumerate().filter(|(_, g)| ready(g));
        Ok(candidates.min_by_key(|(_, g)| order(g)).map(|(i, _)| i))
    }

    /// Tries all exchanges that groups wait for, from one on.
    fn settle_any(&mut self, from: usize) -> Done<bool> {
        for i in from..self.warp.groups.len() {
            if self.settle_collective(i)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn merge(&mut self) {
        let groups = &mut self.warp.groups;
        let mut i = 0;
        while i < groups.len() {
            let mut j = i + 1;
            while j < groups.len() {
                let (a, b) = (&groups[i], &groups[j]);
                let met =
                    matches!(a.state, State::Run | State::Aligned) && matches!(b.state, State::Run | State::Aligned);
                if met && a.pc == b.pc && a.window == b.window && a.calls == b.calls {
                    let mask = groups.swap_remove(j).mask;
                    groups[i].mask |= mask;
                    groups[i].state = State::Run;
                } else {
                    j += 1;
                }
            }
            i += 1;
        }
    }

    /// Splits lanes off a group; they stand at `pc`.
    fn split(&mut self, g: usize, off: u32, pc: u32) {
        let mut other = self.warp.groups[g].clone();
        self.warp.groups[g].mask &= !off;
        (other.mask, other.pc) = (off, pc);
        self.warp.groups.push(other);
    }

    /// Executes one instruction of a group.
    fn step(&mut self, g: usize, pc: u32) -> Done<Next> {
        if self.warp.undefined.is_some() {
            return self.step_undefined(g, pc);
        }
        let next = self.execute(g, pc)?;
        if self.warp.undefined.is_some() {
            self.first_undefined(g, pc)?;
        }
        Ok(next)
    }

    /// [`Ctx::step`], whatever is undefined.
    fn execute(&mut self, g: usize, pc: u32) -> Done<Next> {
        let program = &self.grid.program;
        let instr = &program.code[pc as usize];
        let Group { mask, window, .. } = self.warp.groups[g];
        let active = self.warp.holds(window, instr.guard) & mask;
        self.flight.steps += 1;
        self.warp.steps += 1;
        self.tally.by_class[instr.class as usize] += u64::from(active.count_ones());
        if active == 0 {
            return Ok(Next::Step);
        }
        match &instr.op {
            Op::Map { f, d, s, k } => {
                let mut out = [0; WARP];
                f([self.get(window, s[0]), self.get(window, s[1]), self.get(window, s[2])], &mut out, *k);
                self.warp.set(window, *d, active, &out);
            }
            Op::Approximate { row, ty, d, s, k } => {
                let mut out = [0; WARP];
                row.lanes(*ty, s.map(|r| self.get(window, r)), &mut out, *k, self.grid.approx_seed);
                self.warp.set(window, *d, active, &out);
            }
            Op::Chain { op, bits, d, s, carry_in, carry_out } => {
                let x = s.map(|r| *self.get(window, r));
                let mut out = [0; WARP];
                for lane in lanes(active) {
                    let carry = *carry_in && self.warp.carry >> lane & 1 != 0;
                    let (value, carry) = chain(*op, *bits, [x[0][lane], x[1][lane], x[2][lane]], carry);
                    out[lane] = value;
                    if *carry_out {
                        self.warp.carry = self.warp.carry & !(1 << lane) | u32::from(carry) << lane;
                    }
                }
                self.warp.set(window, *d, active, &out);
            }
            Op::Video { video, d, s } => {
                let x = s.map(|r| *self.get(window, r));
                let out =
                    std::array::from_fn(|l| u64::from(video.apply(x[0][l] as u32, x[1][l] as u32, x[2][l] as u32)));
                self.warp.set(window, *d, active, &out);
            }
            Op::Insert { bits, d, s } => {
                let x = s.map(|r| *self.get(window, r));
                let out = std::array::from_fn(|l| insert(*bits, x[0][l], x[1][l], x[2][l] as u32, x[3][l] as u32));
                self.warp.set(window, *d, active, &out);
            }
            Op::Test { f, k, halves, s, combine, p, q } => {
                let (low, high) = self.test(window, *f, *k, *halves, *s);
                let combined = |c: &Self, x| match combine {
                    Some((op, with)) => op.apply(x, c.warp.holds(window, *with)),
                    None => x,
                };
                let values = (combined(self, low), combined(self, high));
                self.warp.set_predicate(window, *p, active, values.0);
                self.warp.set_predicate(window, *q, active, values.1);
            }
            Op::TestTo { f, k, halves, s, combine, d, one } => {
                let (mut low, mut high) = self.test(window, *f, *k, *halves, *s);
                if let Some((op, with)) = combine {
                    let with = self.warp.holds(window, *with);
                    (low, high) = (op.apply(low, with), op.apply(high, with));
                }
                let bit = |m: u32, l: usize| if m >> l & 1 != 0 { *one } else { 0 };
                let out = std::array::from_fn(|l| bit(low, l) | if *halves { bit(high, l) << 16 } else { 0 });
                self.warp.set(window, *d, active, &out);
            }
            Op::Select { d, s, p } => {
                let chosen = self.warp.holds(window, *p);
                let (a, b) = (self.get(window, s[0]), self.get(window, s[1]));
                let out = std::array::from_fn(|l| if chosen >> l & 1 != 0 { a[l] } else { b[l] });
                self.warp.set(window, *d, active, &out);
            }
            Op::Predicate { op, p, s } => {
                let value = op.apply(self.warp.holds(window, s[0]), self.warp.holds(window, s[1]));
                self.warp.set_predicate(window, *p, active, value);
            }
            Op::Pack { d, parts, bits } => {
                let mut out = [0; WARP];
                for (i, r) in parts.iter().enumerate() {
                    let part = self.get(window, *r);
                    for l in 0..WARP {
                        out[l] |= (part[l] & mask_of(*bits)) << (i as u32 * bits);
                    }
                }
                self.warp.set(window, *d, active, &out);
            }
            Op::Unpack { parts, s, bits } => {
                let whole = *self.get(window, *s);
                for (i, r) in parts.iter().enumerate() {
                    let out = whole.map(|x| x >> (i as u32 * bits) & mask_of(*bits));
                    self.warp.set(window, *r, active, &out);
                }
            }
            Op::Read { d, special } => {
                let out = self.special(*special);
                self.warp.set(window, *d, active, &out);
            }
            Op::FrameAddress { d, offset } => {
                let out = [u64::from(window.frame) + offset; WARP];
                self.warp.set(window, *d, active, &out);
            }
            Op::IsSpace { p, s, space } => {
                let s = self.get(window, *s);
                let is = |x| {
                    let found = access::classify(x).0;
                    found == *space || (*space == Space::Const && found == Space::Global)
                };
                let value = (0..WARP).fold(0, |m, l| m | u32::from(is(s[l])) << l);
                self.warp.set_predicate(window, *p, active, value);
            }
            Op::OwnCta { operand, want } => {
                let values = self.get(window, *operand);
                if let Some(lane) = lanes(active).find(|&l| values[l] as u32 != *want) {
                    let what = format!("{} names another CTA than the only one of the cluster", values[lane] as u32);
                    return Err(Bad::new(FaultKind::BadOperand, lane as u32, None, what));
                }
            }
            Op::ActiveMask { d } => self.warp.set(window, *d, active, &[u64::from(active); WARP]),
            Op::Nop => {}
            Op::LetNext => {
                if !self.team.let_next {
                    self.team.let_next = true;
                    self.flight.let_next += 1;
                    self.memory.agents.progress += 1;
                }
            }
            Op::Access(a) => {
                self.access(window, active, a)?;
                if a.strong && !a.store {
                    self.warp.groups[g].pc = pc + 1;
                    return Ok(Next::Stop(Stop::Polled));
                }
            }
            Op::Atomic(a) => {
                self.atomic(window, active, a)?;
                self.warp.groups[g].pc = pc + 1;
                return Ok(Next::Stop(if a.old.is_empty() { Stop::Spent } else { Stop::Polled }));
            }
            Op::Fence { scope, sc } => self.fence(active, *scope, *sc)?,
            Op::ProxyFence { shared, global } => self.proxy_fence(active, *shared, *global)?,
            Op::MbarrierFence => self.announce(active),
            Op::CpCommit => self.cp_commit(active),
            Op::CpWait { keep } => self.cp_wait(active, *keep),
            Op::BulkCommit => self.bulk_commit(active),
            Op::BulkWait { keep, read } => self.bulk_wait(active, *keep, *read),
            Op::Branch { target } => return Ok(self.branch(g, active, *target, pc)),
            Op::BranchTable { index, targets } => return self.branch_table(g, active, *index, targets, pc),
            Op::Return if self.warp.groups[g].calls.is_empty() => return self.exit(g, active, pc),
            Op::Exit => return self.exit(g, active, pc),
            Op::Trap => return Err(Bad::new(FaultKind::Trap, active.trailing_zeros(), None, "")),
            Op::Barrier(b) if b.aligned && active != mask => {
                let what = "an .aligned barrier whose predicate does not hold for all lanes";
                return Err(Bad::new(FaultKind::Divergence, active.trailing_zeros(), None, what));
            }
            // Where only some lanes execute one of these, they part from the others.
            _ if active != mask => {
                self.split(g, mask & !active, pc + 1);
                return Ok(Next::Choose);
            }
            Op::Return => self.leave(g),
            Op::AwaitPrevious => match &self.flight.previous {
                Some(clock) => self.warp.order.acquire(mask, clock),
                None => {
                    self.warp.groups[g].state = State::Previous;
                    return Ok(Next::Choose);
                }
            },
            Op::Call(call) => {
                self.call(g, call, pc)?;
                return Ok(Next::Choose);
            }
            Op::Yield => {
                self.warp.groups[g].pc = pc + 1;
                return Ok(Next::Stop(Stop::Polled));
            }
            Op::CpAsync(c) => self.cp_async(g, c)?,
            Op::Bulk(b) => self.bulk(g, b)?,
            Op::AsyncStore(s) => self.async_store(g, s)?,
            Op::Mbarrier(m) => return self.mbarrier(g, m),
            Op::Barrier(b) => {
                if b.aligned && !self.whole_warp(g)? {
                    return Ok(Next::Choose);
                }
                return Ok(self.barrier(g, b)?.map_or(Next::Choose, |c| Next::Stop(Stop::Completed(c))));
            }
            Op::ClusterBarrier { arrive, relaxed } => {
                let completed = self.cluster_barrier(g, *arrive, *relaxed)?;
                return Ok(completed.map_or(Next::Choose, |c| Next::Stop(Stop::Completed(c))));
            }
            Op::Collective(c) => {
                self.arrive_at_collective(g, c)?;
                // The position is the next if it happened.
                return Ok(if self.warp.groups.len() == 1 && self.warp.groups[g].state == State::Run {
                    Next::Stay
                } else {
                    Next::Choose
                });
            }
            Op::Matrices(m) => {
                if !self.full_warp(g)? {
                    return Ok(Next::Choose);
                }
                self.matrices(window, m)?;
            }
            Op::MoveMatrix { d, s } => {
                if !self.full_warp(g)? {
                    return Ok(Next::Choose);
                }
                self.move_matrix(window, *d, *s);
            }
            Op::Product(m) => {
                if !self.full_warp(g)? {
                    return Ok(Next::Choose);
                }
                self.product(window, m);
            }
            Op::Tile(t) => {
                if !self.full_warp(g)? {
                    return Ok(Next::Choose);
                }
                self.tile(window, t)?;
            }
        }
        if matches!(instr.op, Op::Return) { Ok(Next::Choose) } else { Ok(Next::Step) }
    }

    fn test(&self, window: Window, f: TestFn, k: u32, halves: bool, s: [Reg; 2]) -> (u32, u32) {
        let x = [self.get(window, s[0]), self.get(window, s[1])];
        let low = f(x, k);
        (low, if halves { f(x, k | crate::alu::compare::HIGH) } else { !low })
    }

    /// Whether all threads of the warp are here that have not exited; if not, the group waits for them.
    fn whole_warp(&mut self, g: usize) -> Done<bool> {
        let order = &self.warp.order;
        let group = &self.warp.groups[g];
        if group.mask == order.live {
            return Ok(true);
        }
        self.warp.groups[g].state = State::Aligned;
        Ok(false)
    }

    /// [`Ctx::whole_warp`], of 32 threads.
    fn full_warp(&mut self, g: usize) -> Done<bool> {
        if self.warp.order.live != FULL {
            let what = "a matrix instruction in a warp of less than 32 threads, or of which some have exited";
            return Err(Bad::new(FaultKind::Divergence, 0, None, what));
        }
        self.whole_warp(g)
    }

    fn branch(&mut self, g: usize, taken: u32, target: u32, pc: u32) -> Next {
        let mask = self.warp.groups[g].mask;
        if taken != mask {
            self.split(g, mask & !taken, pc + 1);
        }
        self.warp.groups[g].pc = target;
        if self.warp.groups.len() == 1 { Next::Stay } else { Next::Choose }
    }

    fn branch_table(&mut self, g: usize, active: u32, index: Reg, targets: &[u32], pc: u32) -> Done<Next> {
        let Group { mask, window, .. } = self.warp.groups[g];
        let indices = *self.get(window, index);
        if active != mask {
            self.split(g, mask & !active, pc + 1);
        }
        let mut left = active;
        loop {
            let first = left.trailing_zeros();
            let value = indices[first as usize] as u32;
            let same = lanes(left).filter(|&l| indices[l] as u32 == value).fold(0, |m, l| m | 1 << l);
            let Some(&target) = targets.get(value as usize) else {
                let what = format!("branch {value} of {}", targets.len());
                return Err(Bad::new(FaultKind::BadOperand, first, None, what));
            };
            left &= !same;
            if left == 0 {
                self.warp.groups[g].pc = target;
                return Ok(Next::Choose);
            }
            self.split(g, same, target);
        }
    }

    /// Threads end.
    fn exit(&mut self, g: usize, active: u32, pc: u32) -> Done<Next> {
        self.memory.agents.progress += 1;
        self.team.exited += active.count_ones();
        self.warp.order.live &= !active;
        for lane in lanes(active) {
            self.land_stores(lane as u32, u32::MAX);
            if self.warp.cp_async.get(lane).is_some_and(|c| c.reads_shared()) {
                let what = "the thread exits while a bulk copy still reads shared memory";
                return Err(Bad::new(FaultKind::AsyncCopy, lane as u32, None, what));
            }
        }
        let group = &mut self.warp.groups[g];
        group.mask &= !active;
        group.pc = pc + 1;
        if group.mask == 0 {
            self.warp.groups.remove(g);
        }
        Ok(self.team.released().map_or(Next::Choose, |c| Next::Stop(Stop::Completed(c))))
    }

    fn call(&mut self, g: usize, call: &Call, pc: u32) -> Done {
        let program = &self.grid.program;
        let (caller, depth) = (self.warp.groups[g].window, self.warp.groups[g].calls.len());
        let function = self.callee(g, call, pc)?;
        let mask = self.warp.groups[g].mask;
        let from = &program.functions[caller.function as usize];
        let to = &program.functions[function as usize];
        if let Some(name) = &to.missing {
            self.provided(g, name, call)?;
            self.warp.groups[g].pc = pc + 1;
            return Ok(());
        }
        let callee = Window {
            registers: caller.registers + from.registers,
            predicates: caller.predicates + from.predicates,
            frame: caller.frame + from.frame,
            function,
        };
        let registers = (callee.registers + to.registers) as usize;
        let frame = if to.frame > 0 { (callee.frame + to.frame) as usize } else { 0 };
        let local = |lane: usize| frame.saturating_sub(self.warp.local.get(lane).map_or(0, crate::store::Store::len));
        let added = registers.saturating_sub(self.warp.registers.len()) * size_of::<Lanes>();
        self.flight.stack += (added + lanes(mask).map(local).sum::<usize>()) as u64;
        if depth >= MAX_CALLS || registers > MAX_REGISTERS || self.flight.stack > MOST_BYTES {
            let what = format!("{depth} calls within each other");
            return Err(Bad::new(FaultKind::StackOverflow, mask.trailing_zeros(), None, what));
        }
        if self.warp.registers.len() < registers {
            self.warp.registers.resize(registers, [0; WARP]);
        }
        let predicates = (callee.predicates + to.predicates) as usize;
        if self.warp.predicates.len() < predicates {
            self.warp.predicates.resize(predicates, 0);
        }
        self.warp.grow_copies();
        self.warp.in_all(|w| w.predicates[callee.predicates as usize] = FULL);
        if to.frame > 0 {
            self.warp.local.resize_with(WARP, || crate::store::Store::unwritten(0));
            for lane in lanes(mask) {
                let store = &mut self.warp.local[lane];
                store.grow((callee.frame + to.frame) as usize);
                store.set_unwritten(callee.frame as usize, to.frame as usize);
            }
        }
        self.pass(mask, &call.args, (caller, callee), false);
        let group = &mut self.warp.groups[g];
        group.calls.push(Frame { call: pc, window: caller });
        group.window = callee;
        group.pc = to.start;
        Ok(())
    }

    /// Returns from a function.
    fn leave(&mut self, g: usize) {
        let Group { mask, window, .. } = self.warp.groups[g];
        let Some(frame) = self.warp.groups[g].calls.pop() else { return };
        let program = &self.grid.program;
        if let Op::Call(call) = &program.code[frame.call as usize].op {
            self.pass(mask, &call.results, (frame.window, window), true);
        }
        let group = &mut self.warp.groups[g];
        group.window = frame.window;
        group.pc = frame.call + 1;
    }

    /// Copies values between the frames of caller and callee; with `back` to the caller.
    fn pass(&mut self, mask: u32, places: &[(Place, Place)], windows: (Window, Window), back: bool) {
        for &(ours, theirs) in places {
            match (ours, theirs) {
                (Place::Reg(a), Place::Reg(b)) => {
                    let (a, b) = ((windows.0, a), (windows.1, b));
                    let (from, to) = if back { (b, a) } else { (a, b) };
                    self.pass_register(mask, from, to);
                }
                (Place::Frame { offset: a, bytes }, Place::Frame { offset: b, .. }) => {
                    let (a, b) = ((windows.0.frame + a) as usize, (windows.1.frame + b) as usize);
                    let (from, to) = if back { (b, a) } else { (a, b) };
                    for lane in lanes(mask) {
                        let Some(store) = self.warp.local.get_mut(lane) else { continue };
                        for i in 0..bytes as usize {
                            // Padding may be unwritten, and stays so.
                            if store.first_unwritten(from + i, 1).is_none() {
                                let byte = store.get(from + i, 1);
                                store.put(to + i, 1, byte);
                                store.set_written(to + i, 1);
                            }
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn special(&self, special: Special) -> Lanes {
        let first = self.warp.index * WARP as u32;
        let lane_mask = |f: fn(u32) -> u32| std::array::from_fn(|l| u64::from(f(l as u32)));
        match special {
            Special::LaneId => std::array::from_fn(|l| l as u64),
            Special::WarpId => [u64::from(self.warp.index); WARP],
            Special::Tid(axis) => std::array::from_fn(|l| {
                u64::from(thread_of(self.flight.label.block, first + l as u32)[usize::from(axis)])
            }),
            Special::Ctaid(axis) => [u64::from(self.team.id[usize::from(axis)]); WARP],
            Special::SmId => [u64::from(self.team.linear); WARP],
            Special::LaneMask(mask) => lane_mask(match mask {
                Mask::Eq => |l| 1 << l,
                Mask::Lt => |l| (1 << l) - 1,
                Mask::Le => |l| (1 << l) | ((1 << l) - 1),
                Mask::Ge => |l| FULL << l,
                Mask::Gt => |l| !((1 << l) | ((1 << l) - 1)),
            }),
            Special::Clock32 => [self.flight.steps & 0xffff_ffff; WARP],
            Special::Clock64 => [self.flight.steps; WARP],
            // Those are constants of the launch.
            _ => [0; WARP],
        }
    }
}
