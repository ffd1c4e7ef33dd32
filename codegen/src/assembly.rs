//! Reads assembly of GPU kernels: our PTX, NVIDIA's disassembly, and what its assembler says of registers.
//!
//! Text in, figures out; whoever runs the tools has the text. Instructions that are counted are those of one lane.

/// Four products of one instruction, in PTX and in machine code.
const DOTS: [&str; 2] = ["dp4a.", "IDP.4A"];
/// Matrix products of bytes, of a warp, in both.
const MATRICES: [&str; 2] = ["mma.sync", "IMMA."];
/// One product of one instruction.
const PRODUCTS: [&str; 2] = ["fma.rn.f32", "FFMA"];
/// Weights that costs are given for.
const WEIGHTS: f64 = 32.0;

/// A line of code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'a> {
    /// A place to jump to.
    Label(&'a str),
    /// An instruction, with its predicate.
    Instruction(&'a str),
}

impl<'a> Line<'a> {
    /// The text of an instruction.
    pub fn instruction(&self) -> Option<&'a str> {
        match self {
            Line::Label(_) => None,
            Line::Instruction(text) => Some(text),
        }
    }

    /// The label that a jump goes to.
    fn target(&self) -> Option<&'a str> {
        let text = self.instruction()?;
        let (_, rest) = text.split_once("bra").or_else(|| text.split_once("BRA"))?;
        Some(rest.rsplit([' ', '\t', '(']).next()?.trim_end_matches(')'))
    }

    fn has(&self, names: &[&str]) -> bool {
        self.instruction().is_some_and(|text| names.iter().any(|name| text.contains(name)))
    }
}

/// The code of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code<'a> {
    /// Name of the kernel.
    pub kernel: &'a str,
    /// Its code.
    pub lines: Vec<Line<'a>>,
}

/// The kernels of a PTX module that this crate emitted.
pub fn ptx(module: &str) -> Vec<Code<'_>> {
    let mut kernels: Vec<Code> = Vec::new();
    for line in module.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix(".visible .entry ") {
            kernels.push(Code { kernel: rest.trim_end_matches('('), lines: Vec::new() });
        } else if let Some(Code { lines, .. }) = kernels.last_mut() {
            let label = line.strip_suffix(':').map(Line::Label);
            let code = !line.starts_with(['.', '/']) && line.ends_with(';');
            lines.extend(label.or(code.then(|| Line::Instruction(line.trim_end_matches(';')))));
        }
    }
    kernels
}

/// The kernels in what `nvdisasm -c` prints.
pub fn sass(disassembly: &str) -> Vec<Code<'_>> {
    let mut kernels: Vec<Code> = Vec::new();
    for line in disassembly.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix(".text.").and_then(|l| l.strip_suffix(':')) {
            kernels.push(Code { kernel: name, lines: Vec::new() });
        } else if let Some(Code { lines, .. }) = kernels.last_mut() {
            let label = line.starts_with(".L").then(|| Line::Label(line.trim_end_matches(':')));
            let instruction = || Some(Line::Instruction(line.split_once("*/")?.1.split_once(';')?.0.trim()));
            lines.extend(label.or_else(instruction));
        }
    }
    kernels
}

impl Code<'_> {
    /// Every loop, as the places of its label and of the jump back to it. Code that is kept apart and jumps back into the
    /// middle of a loop makes none.
    fn loops(&self) -> Vec<(usize, usize)> {
        let back = |at: usize| {
            let target = self.lines[at].target()?;
            let start = self.lines[..at].iter().position(|l| *l == Line::Label(target))?;
            Some((start, at))
        };
        let jumps: Vec<(usize, usize)> = (0..self.lines.len()).filter_map(back).collect();
        let into = |&(s, e): &(usize, usize)| jumps.iter().any(|&(start, end)| start < s && s <= end && end < e);
        jumps.iter().copied().filter(|jump| !into(jump)).collect()
    }

    /// The loops with instructions of these names, and how many of them; but for those around another.
    fn innermost(&self, names: &[&str]) -> Vec<(&[Line<'_>], usize)> {
        let count = |&(s, e): &(usize, usize)| self.lines[s..=e].iter().filter(|l| l.has(names)).count();
        let loops: Vec<(usize, usize)> = self.loops().into_iter().filter(|l| count(l) > 0).collect();
        let around = |&(s, e): &(usize, usize)| loops.iter().any(|&(a, b)| (a, b) != (s, e) && s <= a && b <= e);
        loops.iter().filter(|l| !around(l)).map(|l| (&self.lines[l.0..=l.1], count(l))).collect()
    }

    /// Instructions for 32 weights in the innermost loop that multiplies, with what it waits for: where several multiply
    /// integers, in the costliest of them; where none does, in the one with the most products.
    pub fn per_32_weights(&self) -> Option<f64> {
        let cost = |body: &[Line], weights: usize| {
            body.iter().filter_map(Line::instruction).count() as f64 * WEIGHTS / weights as f64
        };
        let dots = self.innermost(&DOTS).into_iter().map(|(body, n)| cost(body, 4 * n));
        dots.reduce(f64::max).or_else(|| {
            let products = self.innermost(&PRODUCTS).into_iter().max_by_key(|&(_, n)| n);
            products.map(|(body, n)| cost(body, n))
        })
    }

    /// Instructions for 32 weights in the costliest of the innermost loops with matrix products, each of which takes a chunk of
    /// so many columns of 32 rows.
    pub fn per_32_weights_of_chunks(&self, columns: usize) -> Option<f64> {
        let instructions = |body: &[Line]| body.iter().filter_map(Line::instruction).count();
        let costs = self.innermost(&MATRICES).into_iter().map(|(body, _)| instructions(body) as f64);
        costs.reduce(f64::max).map(|cost| cost * WEIGHTS / columns as f64)
    }
}

/// What a kernel takes of a multiprocessor.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of registers that a thread stores to memory and loads again.
    pub spill_bytes: u32,
}

/// The kernels in what `ptxas -v` says.
pub fn resources(said: &str) -> Vec<(&str, Resources)> {
    let before = |line: &str, what: &str| -> Option<u32> {
        line.split_once(what)?.0.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let mut kernels: Vec<(&str, Resources)> = Vec::new();
    for line in said.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernels.extend(rest.split_once('\'').map(|(name, _)| (name, Resources::default())));
        } else if let Some((_, r)) = kernels.last_mut() {
            let spills = [" bytes spill stores", " bytes spill loads"].map(|what| before(line, what).unwrap_or(0));
            r.spill_bytes += spills[0] + spills[1];
            if let Some(registers) = line.split_once("Used ").and_then(|(_, rest)| before(rest, " registers")) {
                r.registers = registers;
            }
        }
    }
    kernels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_ptx() {
        let text = "
            // spec k: a comment;
            .visible .entry k(
                .param .u64 param0
            )
            .maxntid 64, 1, 1
            {
                .reg .b32 %r<9>;
                mov.b32 %r0, 0;
            $L1:
                @%p0 bra $L2;
            $L3:
            $L4:
                mbarrier.try_wait.parity.shared.b64 %p2, [%r5+0], %r6;
                @!%p2 bra $L4;
                dp4a.s32.s32 %r1, %r2, %r3, %r1;
                dp4a.s32.s32 %r1, %r2, %r3, %r1;
                @%p1 bra $L5;
                add.s32 %r4, %r4, 1;
            $L5:
                bra $L3;
                bra $L1;
            $L2:
                ret;
            }
            .visible .entry none(
            )
            {
                ret;
            }";
        let kernels = ptx(text);
        assert_eq!(kernels.iter().map(|k| k.kernel).collect::<Vec<_>>(), ["k", "none"]);
        // Seven instructions for eight weights, two of them in a loop that waits.
        assert_eq!(kernels[0].per_32_weights(), Some(28.0));
        assert_eq!(kernels[1].per_32_weights(), None);
        assert_eq!(kernels[1].lines, [Line::Instruction("ret")]);
    }

    #[test]
    fn of_machine_code() {
        let text = "
            .section .text.k
            .text.k:
                /*0000*/                   LDC R1, c[0x0][0x37c] ;
            .L_x_1:
                /*0010*/                   IDP.4A.S8.S8 R4, R5, R6, R4 ;
            .L_x_4:
                /*0020*/                   FFMA R7, R8, R9, R7 ;
                /*0030*/              @!P0 BRA `(.L_x_1) ;
            .L_x_2:
                /*0040*/                   FFMA R1, R2, R3, R1 ;
                /*0050*/               @P1 BRA `(.L_x_2) ;
                /*0060*/                   EXIT ;
            .L_x_3:
                /*0070*/                   BRA `(.L_x_4) ;";
        let [kernel] = &sass(text)[..] else { panic!("one kernel") };
        assert_eq!((kernel.kernel, kernel.lines.len()), ("k", 12));
        // The loop that multiplies integers: not the other one, nor that from its middle to the end.
        assert_eq!(kernel.per_32_weights(), Some(24.0));
    }

    #[test]
    fn of_the_assembler() {
        let said = "
            ptxas info    : 0 bytes gmem
            ptxas info    : Compiling entry function 'a_1' for 'sm_120'
            ptxas info    : Function properties for a_1
                8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
            ptxas info    : Used 128 registers, used 1 barriers, 8 bytes cumulative stack size
            ptxas info    : Compiling entry function 'b' for 'sm_120'
            ptxas info    : Used 40 registers";
        let expected = [
            ("a_1", Resources { registers: 128, spill_bytes: 16 }),
            ("b", Resources { registers: 40, spill_bytes: 0 }),
        ];
        assert_eq!(resources(said), expected);
    }
}
