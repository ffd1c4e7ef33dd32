//! Codes replaced by entries of a table of sixteen bytes, which stays in registers: permutations of its two halves.

use super::{Class, Emitter, Operand, Operands};
use ir::Result;
use ir::kernel::{Inst, Value};

/// Sixteen bytes that codes are replaced by.
pub(super) type Table = [i8; 16];

impl Emitter<'_> {
    /// Name of the memory of a table.
    pub(super) fn table(&self, number: usize) -> String {
        format!("{}_lut{number}", self.kernel.name)
    }

    /// Loads the tables of all look-ups: from memory, as the assembler would move constants to registers again for each.
    pub(super) fn load_tables(&mut self) {
        let kernel = self.kernel;
        for (v, (inst, _)) in kernel.values.iter().enumerate() {
            let (Inst::Lut16(_, table) | Inst::LutNibbles(_, _, table)) = inst else { continue };
            if !self.live[v] || self.tables.iter().any(|(known, _)| known == table) {
                continue;
            }
            let (at, words) = (self.reg(Class::Wide), std::array::from_fn(|_| self.reg(Class::Word)));
            let [a, b, c, d, e] = words;
            let name = self.table(self.tables.len());
            self.line(format_args!("mov.u64 {at}, {name};"));
            self.line(format_args!("ld.global.v4.b32 {{{a}, {b}, {c}, {d}}}, [{at}];"));
            self.line(format_args!("ld.global.b32 {e}, [{at}+16];"));
            self.tables.push((*table, words));
        }
    }

    /// Each byte of a word (below 16) replaced by its entry.
    pub(super) fn lut16(&mut self, a: Value, table: &Table) -> Result<Operands> {
        self.lanes([a], |e, [a]| {
            let next = e.op(Class::Word, "shr.u32", &[a, Operand::Int(4)]);
            let pairs = e.op(Class::Word, "or.b32", &[a, next]);
            let nibbles = e.op(Class::Word, "prmt.b32", &[pairs, pairs, Operand::Int(0x20)]);
            Ok(e.look_up(nibbles, 0, table))
        })
    }

    /// The entries of the four nibbles of a half of a word: from each half of the table by the low bits of each nibble, then
    /// one of the two by its top bit. What both halves of a word share the assembler computes once.
    pub(super) fn look_up(&mut self, nibbles: Operand, half: u8, table: &Table) -> Operand {
        let int = |x: u32| Operand::Int(x as i32);
        let words = self.tables.iter().find_map(|(known, words)| (known == table).then_some(*words));
        let [w, x, y, z, order] = words.expect("the tables of all live look-ups are loaded first");
        let low = self.op(Class::Word, "and.b32", &[nibbles, int(0x7777_7777)]);
        let top = self.op(Class::Word, "shr.u32", &[nibbles, int(1)]);
        let top = self.op(Class::Word, "and.b32", &[top, int(0x4444_4444)]);
        let either = self.op(Class::Word, "or.b32", &[top, order]);
        // The permutation reads the low halves of its selectors.
        let [low, either] = [low, either].map(|s| match half {
            0 => s,
            _ => self.op(Class::Word, "shr.u32", &[s, int(16)]),
        });
        let first = self.op(Class::Word, "prmt.b32", &[w, x, low]);
        let second = self.op(Class::Word, "prmt.b32", &[y, z, low]);
        self.op(Class::Word, "prmt.b32", &[first, second, either])
    }
}

/// The words of a table, and the selector of a permutation that takes the bytes of its first operand in their order; zeros.
pub(super) fn table_words(table: &Table) -> [u32; 8] {
    let word = |i: usize| u32::from_le_bytes(std::array::from_fn(|j| table[4 * i + j] as u8));
    [word(0), word(1), word(2), word(3), 0x3210_3210, 0, 0, 0]
}
