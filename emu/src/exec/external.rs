//! Whom a call reaches: functions by their addresses, and those that the CUDA runtime provides instead of the module.

use super::state::{Bad, Ctx, Done, lanes};
use crate::fault::FaultKind;
use crate::program::{Call, Callee, Place};
use crate::types::{CODE_STEP, CODE_WINDOW};

/// Bytes of a message of `__assertfail` that are shown.
const MAX_TEXT: u64 = 256;

impl Ctx<'_> {
    /// The function that a group calls. Lanes that call another one part from the group and call theirs later.
    pub(super) fn callee(&mut self, g: usize, call: &Call, pc: u32) -> Done<u32> {
        let (address, signature) = match call.callee {
            Callee::Function(f) => return Ok(f),
            Callee::Pointer { address, signature } => (address, signature),
        };
        let (mask, window) = (self.warp.groups[g].mask, self.warp.groups[g].window);
        let addresses = self.get(window, address);
        let first = mask.trailing_zeros();
        let target = addresses[first as usize];
        let others = lanes(mask).filter(|&l| addresses[l] != target).fold(0, |m, l| m | 1 << l);
        if others != 0 {
            self.split(g, others, pc);
        }
        let bad = |what: String| Err(Bad::new(FaultKind::BadOperand, first, Some(target), what));
        let distance = target.wrapping_sub(CODE_WINDOW);
        let functions = &self.grid.program.functions;
        let found = usize::try_from(distance / CODE_STEP).ok().and_then(|f| functions.get(f));
        match found.filter(|_| distance.is_multiple_of(CODE_STEP)) {
            None => bad("calls what is no function".into()),
            Some(f) if f.signature != signature => bad("calls a function that has other parameters".into()),
            Some(_) => Ok((distance / CODE_STEP) as u32),
        }
    }

    /// Calls a function that the module declares only.
    pub(super) fn provided(&mut self, g: usize, name: &str, call: &Call) -> Done {
        let mask = self.warp.groups[g].mask;
        let lane = mask.trailing_zeros();
        match name {
            "__assertfail" => {
                let what = self.assertion(g, call, lane as usize);
                Err(Bad::new(FaultKind::Assert, lane, None, what))
            }
            // Prints nothing.
            "vprintf" => {
                let window = self.warp.groups[g].window;
                for &(ours, _) in &call.results {
                    match ours {
                        Place::Reg(r) => self.warp.set(window, r, mask, &[0; 32]),
                        Place::Frame { offset, bytes } => {
                            let (at, len) = ((window.frame + offset) as usize, bytes as usize);
                            for lane in lanes(mask) {
                                let Some(store) = self.warp.local.get_mut(lane) else { continue };
                                store.write(at, &vec![0; len]);
                                store.set_written(at, len);
                            }
                        }
                    }
                }
                Ok(())
            }
            _ => {
                let what = format!("the function {name} has no body in this module");
                Err(Bad::new(FaultKind::Undefined, lane, None, what))
            }
        }
    }

    /// What a lane's call of `__assertfail` says: condition, file, line, function.
    fn assertion(&mut self, g: usize, call: &Call, lane: usize) -> String {
        let window = self.warp.groups[g].window;
        let argument = |i: usize| match call.args.get(i)?.0 {
            Place::Reg(r) => Some(self.get(window, r)[lane]),
            Place::Frame { offset, bytes: bytes @ (4 | 8) } => {
                let store = self.warp.local.get(lane)?;
                let at = (window.frame + offset) as usize;
                store.first_unwritten(at, bytes as usize).is_none().then(|| store.get(at, bytes))
            }
            Place::Frame { .. } => None,
        };
        let [condition, file, line, function] = std::array::from_fn(argument);
        let mut text = |address: Option<u64>| address.map_or_else(String::new, |a| self.text(a));
        let (condition, file, function) = (text(condition), text(file), text(function));
        format!("`{condition}` does not hold, {file} line {}, in `{function}`", line.unwrap_or(0))
    }

    /// The text of global memory that ends with a zero byte.
    fn text(&mut self, address: u64) -> String {
        let byte = |i| self.memory.read(address.wrapping_add(i), 1).ok()?.first().copied().filter(|&b| b != 0);
        let bytes: Vec<u8> = (0..MAX_TEXT).map_while(byte).collect();
        String::from_utf8_lossy(&bytes).escape_debug().to_string()
    }
}
