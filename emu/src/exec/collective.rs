//! Exchanges between the lanes of a warp: shuffles, votes, matches, reductions, elections, `bar.warp.sync`.
//!
//! The lanes that a member mask names may come by different ways: the exchange happens when all of them that have not
//! exited wait at one of the same kind with the same mask.

use super::atomic::integer;
use super::state::{Bad, Ctx, Done, Group, State, lanes};
use crate::alu::{FULL, Lanes};
use crate::fault::FaultKind;
use crate::program::{Collective, Exchange, Instr, Op};
use crate::types::{Ty, mask_of};

/// What a lane gets that reads from one that takes no part.
const NOTHING: u64 = 0xdead_beef;

/// The exchange at an instruction.
fn collective(code: &[Instr], pc: u32) -> Option<&Collective> {
    match &code[pc as usize].op {
        Op::Collective(c) => Some(c),
        _ => None,
    }
}

impl Ctx<'_> {
    /// A group comes to an exchange; whether it happens at once.
    pub(crate) fn arrive_at_collective(&mut self, g: usize, c: &Collective) -> Done<bool> {
        let Group { mask, window, pc, .. } = self.warp.groups[g];
        let masks = self.get(window, c.members);
        let members = masks[mask.trailing_zeros() as usize] as u32;
        // Lanes of other masks exchange among themselves.
        let others = lanes(mask).filter(|&l| masks[l] as u32 != members).fold(0, |m, l| m | 1 << l);
        if others != 0 {
            self.split(g, others, pc);
        }
        let mask = mask & !others;
        if mask & !members != 0 {
            let lane = (mask & !members).trailing_zeros();
            let what = format!("the lane is not in its member mask {members:#010x}");
            return Err(Bad::new(FaultKind::Divergence, lane, None, what));
        }
        self.warp.groups[g].state = State::Collective { members };
        self.settle_collective(g)
    }

    /// Executes the exchange that a group waits for, if all members are there.
    pub(crate) fn settle_collective(&mut self, g: usize) -> Done<bool> {
        let State::Collective { members } = self.warp.groups[g].state else { return Ok(false) };
        let program = &self.grid.program;
        let Some(mine) = collective(&program.code, self.warp.groups[g].pc) else { return Ok(false) };
        let same = |group: &Group| {
            group.state == State::Collective { members }
                && collective(&program.code, group.pc).is_some_and(|c| c.kind == mine.kind)
        };
        let there = self.warp.groups.iter().filter(|x| same(x)).fold(0, |m, x| m | x.mask);
        if members & self.warp.order.live & !there != 0 {
            return Ok(false);
        }
        let who: Vec<usize> = (0..self.warp.groups.len()).filter(|&i| same(&self.warp.groups[i])).collect();
        self.exchange(mine.kind, there, &who)?;
        for i in who {
            let group = &mut self.warp.groups[i];
            group.state = State::Run;
            group.pc += 1;
        }
        Ok(true)
    }

    /// Executes an exchange of lanes in several groups.
    fn exchange(&mut self, kind: Exchange, there: u32, who: &[usize]) -> Done {
        if kind == Exchange::Sync {
            let clock = self.warp.order.release(there)?;
            self.warp.order.adopt(there, clock);
            return Ok(());
        }
        let program = &self.grid.program;
        let (mut s, mut votes): ([Lanes; 3], u32) = ([[0; 32]; 3], 0);
        let groups: Vec<(Group, &Collective)> = who
            .iter()
            .filter_map(|&i| {
                let group = self.warp.groups[i].clone();
                collective(&program.code, group.pc).map(|c| (group, c))
            })
            .collect();
        for (group, c) in &groups {
            votes |= self.warp.holds(group.window, c.predicate) & group.mask;
            for (target, r) in s.iter_mut().zip(c.s) {
                let source = self.get(group.window, r);
                for lane in lanes(group.mask) {
                    target[lane] = source[lane];
                }
            }
        }
        let (values, predicate) = results(kind, there, &s, votes);
        for (group, c) in &groups {
            self.warp.set(group.window, c.d, group.mask, &values);
            self.warp.set_predicate(group.window, c.p, group.mask, predicate);
        }
        Ok(())
    }
}

/// What each lane gets: a value and a predicate.
fn results(kind: Exchange, there: u32, s: &[Lanes; 3], votes: u32) -> (Lanes, u32) {
    let mut d = [0; 32];
    let everyone = |holds: bool| if holds { FULL } else { 0 };
    match kind {
        Exchange::ShuffleUp | Exchange::ShuffleDown | Exchange::ShuffleXor | Exchange::ShuffleIndex => {
            return shuffle(kind, there, s);
        }
        Exchange::VoteAll => return (d, everyone(votes == there)),
        Exchange::VoteAny => return (d, everyone(votes != 0)),
        Exchange::VoteUniform => return (d, everyone(votes == there || votes == 0)),
        Exchange::Ballot => d = [u64::from(votes); 32],
        Exchange::MatchAny { bits } => {
            let mask = mask_of(bits);
            for lane in lanes(there) {
                let alike = lanes(there).filter(|&l| (s[0][l] ^ s[0][lane]) & mask == 0);
                d[lane] = alike.fold(0, |m, l| m | 1 << l);
            }
        }
        Exchange::MatchAll { bits } => {
            let first = s[0][there.trailing_zeros() as usize];
            let all = lanes(there).all(|l| (s[0][l] ^ first) & mask_of(bits) == 0);
            return ([if all { u64::from(there) } else { 0 }; 32], everyone(all));
        }
        Exchange::Reduce { op, signed } => {
            let ty = if signed { Ty::S(32) } else { Ty::U(32) };
            let total = lanes(there).map(|l| s[0][l]).reduce(|a, b| integer(op, ty, a, b));
            d = [total.unwrap_or(0); 32];
        }
        Exchange::Elect => {
            let leader = there.trailing_zeros();
            return ([u64::from(leader); 32], 1 << leader);
        }
        Exchange::Sync => {}
    }
    (d, 0)
}

fn shuffle(kind: Exchange, there: u32, s: &[Lanes; 3]) -> (Lanes, u32) {
    let (mut d, mut p) = ([0; 32], 0);
    for lane in lanes(there) {
        let me = lane as u32;
        let (by, control) = (s[1][lane] as u32 & 31, s[2][lane] as u32);
        let (clamp, segment) = (control & 31, control >> 8 & 31);
        let (low, high) = (me & segment, me & segment | clamp & !segment);
        let (source, inside) = match kind {
            Exchange::ShuffleUp => (me.wrapping_sub(by), me as i32 - by as i32 >= high as i32),
            Exchange::ShuffleDown => (me + by, me + by <= high),
            Exchange::ShuffleXor => (me ^ by, (me ^ by) <= high),
            _ => (low | by & !segment, (low | by & !segment) <= high),
        };
        let source = if inside { source as usize } else { lane };
        p |= u32::from(inside) << lane;
        d[lane] = if there >> source & 1 != 0 { s[0][source] } else { NOTHING };
    }
    (d, p)
}
