//! Reads assembly of GPU kernels: our PTX, NVIDIA's disassembly, and what its assembler says of registers.
//!
//! Text in, figures out; whoever runs the tools has the text. Instructions that are counted are those of one lane.

use std::collections::HashMap;

/// Four products of one instruction, in PTX and in machine code.
const DOTS: [&str; 2] = ["dp4a.", "IDP.4A"];
/// One product of one instruction.
const PRODUCTS: [&str; 2] = ["fma.rn.f32", "FFMA"];
/// Products of matrices, in PTX and in machine code.
const MATRICES: [&str; 4] = ["mma.sync", "HMMA", "IMMA", "QMMA"];
/// Loads of a lane from global memory, and copies of 16 bytes from there, in PTX and in machine code.
const LOADS: [&str; 4] = ["ld.global", "cp.async.c", "LDG.E", "LDGSTS.E"];
/// Words of registers that are stored to memory and loaded again, in machine code.
const SPILLS: [&str; 2] = ["LDL", "STL"];
/// What waits for the launch before, in PTX.
const WAIT: [&str; 1] = ["griddepcontrol.wait"];
/// What counts a CTA in, in PTX and in machine code.
const ARRIVAL: [&str; 2] = ["atom.", "ATOMG."];
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

    /// Bytes that a lane loads from global memory.
    fn loaded(&self) -> usize {
        let Some(text) = self.instruction().filter(|_| self.has(&LOADS)) else { return 0 };
        let name = text.split_whitespace().find(|word| !word.starts_with('@')).unwrap_or_default();
        if name.starts_with("cp.async.") || name.starts_with("LDGSTS") {
            return 16;
        }
        let machine = name.starts_with("LDG");
        let bits = |part: &str| part.trim_start_matches(|c: char| !c.is_ascii_digit()).parse::<usize>().ok();
        let bytes =
            name.split('.').skip(2).fold(None, |bytes, part| match part.strip_prefix('v').map(str::parse::<usize>) {
                Some(Ok(elements)) => Some(bytes.unwrap_or(1) * elements),
                _ => bits(part).map(|bits| bytes.unwrap_or(1) * bits / 8).or(bytes),
            });
        bytes.unwrap_or(if machine { 4 } else { 1 })
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

    /// How many instructions of these names are in a range.
    fn count(&self, (start, end): (usize, usize), names: &[&str]) -> usize {
        self.lines[start..=end].iter().filter(|l| l.has(names)).count()
    }

    /// The loops with instructions of these names; but for those around another.
    fn innermost(&self, names: &[&str]) -> Vec<(usize, usize)> {
        let loops: Vec<(usize, usize)> = self.loops().into_iter().filter(|l| self.count(*l, names) > 0).collect();
        let around = |&(s, e): &(usize, usize)| loops.iter().any(|&(a, b)| (a, b) != (s, e) && s <= a && b <= e);
        loops.iter().copied().filter(|l| !around(l)).collect()
    }

    /// The innermost loops that multiply weights, and the weights that each multiplies: those of integers, else the one of
    /// floats with the most.
    fn products(&self) -> Vec<((usize, usize), usize)> {
        let dots: Vec<_> = self.innermost(&DOTS).into_iter().map(|l| (l, 4 * self.count(l, &DOTS))).collect();
        if !dots.is_empty() {
            return dots;
        }
        let floats = self.innermost(&PRODUCTS).into_iter().map(|l| (l, self.count(l, &PRODUCTS)));
        floats.max_by_key(|&(_, n)| n).into_iter().collect()
    }

    /// The instructions of a range.
    fn instructions(&self, (start, end): (usize, usize)) -> usize {
        self.lines[start..=end].iter().filter_map(Line::instruction).count()
    }

    /// Instructions for 32 weights in the innermost loop that multiplies, with what it waits for: where several multiply
    /// integers, in the costliest of them; where none does, in the one with the most products.
    pub fn per_32_weights(&self) -> Option<f64> {
        let cost = |(body, weights): ((usize, usize), usize)| self.instructions(body) as f64 * WEIGHTS / weights as f64;
        self.products().into_iter().map(cost).reduce(f64::max)
    }

    /// Instructions for 32 weights in the costliest of the innermost loops with matrix products, each of which takes a chunk of
    /// so many columns of 32 rows.
    pub fn per_32_weights_of_chunks(&self, columns: usize) -> Option<f64> {
        let costs = self.innermost(&MATRICES).into_iter().map(|l| self.instructions(l) as f64);
        costs.reduce(f64::max).map(|cost| cost * WEIGHTS / columns as f64)
    }

    /// How many instructions it has.
    pub fn len(&self) -> usize {
        self.lines.iter().filter_map(Line::instruction).count()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The parts of a kernel; `streams`: its work is to go through a cache that it loads, not through weights.
    pub fn parts(&self, streams: bool) -> Parts {
        let weights: HashMap<_, _> = self.products().into_iter().collect();
        let body = |l: (usize, usize)| Loop {
            instructions: self.instructions(l) as f64,
            weights: weights.get(&l).copied().unwrap_or(0),
            loaded: self.lines[l.0..=l.1].iter().map(Line::loaded).sum(),
            wide: self.lines[l.0..=l.1].iter().filter(|l| l.loaded() == 16).count(),
            spilled: self.count(l, &SPILLS) as f64,
        };
        let inner: Vec<(usize, usize)> = if streams {
            // What comes after a CTA has counted itself in combines what others have left.
            let end = self.lines.iter().position(|l| l.has(&ARRIVAL)).unwrap_or(self.lines.len());
            let works = |&l: &(usize, usize)| l.1 < end && self.count(l, &PRODUCTS) + self.count(l, &MATRICES) > 0;
            self.innermost(&LOADS).into_iter().filter(works).collect()
        } else {
            self.products().into_iter().map(|(l, _)| l).collect()
        };
        let loops = self.loops();
        let outer = |&(s, e): &(usize, usize)| {
            let around = loops.iter().filter(|&&(a, b)| a <= s && e <= b);
            around.copied().min_by_key(|&(a, _)| a).unwrap_or((s, e))
        };
        let mut outers: Vec<(usize, usize)> = inner.iter().map(outer).collect();
        outers.dedup();
        let wait = self.lines.iter().position(|l| l.has(&WAIT)).unwrap_or(0);
        let start = outers.first().map_or(self.lines.len(), |&(start, _)| start);
        let row = |l: &&(usize, usize)| wait <= l.0 && l.1 < start && body(**l).loaded > 0;
        let rows: Vec<(usize, usize)> = loops.iter().filter(row).copied().collect();
        let sum = |list: &[(usize, usize)]| list.iter().map(|&l| self.instructions(l)).sum::<usize>() as f64;
        let before = self.lines[wait.min(start)..start].iter().filter_map(Line::instruction).count() as f64;
        let all = self.lines[wait.min(start)..].iter().filter_map(Line::instruction).count() as f64;
        Parts {
            before: before - sum(&rows),
            around: sum(&outers) - sum(&inner),
            after: all - before - sum(&outers),
            machine: false,
            rows: rows.into_iter().map(body).collect(),
            work: inner.into_iter().map(body).collect(),
        }
    }
}

/// A loop: what a lane does in a turn.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Loop {
    /// Instructions.
    pub instructions: f64,
    /// Weights that it multiplies.
    pub weights: usize,
    /// Bytes that it loads from global memory.
    pub loaded: usize,
    /// How many of these loads are of 16 bytes.
    pub wide: usize,
    /// Words of registers that it stores and loads, as far as is known.
    pub spilled: f64,
}

/// Where a kernel's instructions are, each counted once for a lane.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parts {
    /// Between the wait for the launch before and the loops that do the work, outside of [`Parts::rows`].
    pub before: f64,
    /// The loops there that load.
    pub rows: Vec<Loop>,
    /// The innermost loops that do the work, in the order of the code.
    pub work: Vec<Loop>,
    /// In the loops around those.
    pub around: f64,
    /// After them.
    pub after: f64,
    /// Whether the loops that work are those of machine code.
    pub machine: bool,
}

impl Loop {
    /// Instructions for 32 weights.
    pub fn per_32_weights(&self) -> Option<f64> {
        (self.weights > 0).then(|| self.instructions * WEIGHTS / self.weights as f64)
    }
}

impl Parts {
    /// Instructions for 32 weights in the costliest loop.
    pub fn per_32_weights(&self) -> Option<f64> {
        self.work.iter().filter_map(Loop::per_32_weights).reduce(f64::max)
    }

    /// The same with the instructions of a kernel's machine code: as many more or fewer in all, and in the loops that work
    /// those that are there, if each of the loops is. Machine code alone does not tell the parts apart as well.
    pub fn in_machine_code(mut self, ptx: &Code<'_>, sass: &Code<'_>) -> Parts {
        let by = sass.len() as f64 / ptx.len().max(1) as f64;
        [&mut self.before, &mut self.around, &mut self.after].into_iter().for_each(|n| *n *= by);
        self.rows.iter_mut().chain(&mut self.work).for_each(|l| l.instructions *= by);
        let streams = self.work.iter().all(|l| l.weights == 0);
        let found = sass.parts(streams).work;
        if found.len() == self.work.len() {
            (self.work, self.machine) = (found, true);
        } else if let Some(most) = sass.per_32_weights() {
            for l in &mut self.work {
                l.instructions = most * l.weights as f64 / WEIGHTS;
            }
        }
        self
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
    fn parts_of_a_product() {
        let text = "
            .visible .entry k(
            )
            {
                mov.b32 %r0, 0;
                griddepcontrol.wait;
                mov.b32 %r1, 0;
            $L1:
                @%p0 bra $L2;
                ld.global.v4.f32 {%f0, %f1, %f2, %f3}, [%d0+0];
                bra $L1;
            $L2:
            $L3:
                @%p1 bra $L4;
                mov.b32 %r2, 0;
            $L5:
                @%p2 bra $L6;
                dp4a.s32.s32 %r3, %r4, %r5, %r3;
                bra $L5;
            $L6:
                bra $L3;
            $L4:
                ret;
            }";
        let [code] = &ptx(text)[..] else { panic!("one kernel") };
        let work = Loop { instructions: 3.0, weights: 4, ..Loop::default() };
        let rows = vec![Loop { instructions: 3.0, loaded: 16, wide: 1, ..Loop::default() }];
        let expected = Parts { before: 2.0, rows, work: vec![work], around: 3.0, after: 1.0, machine: false };
        let parts = code.parts(false);
        assert_eq!(parts, expected);
        // Machine code has half of the instructions, but as many in the loop.
        let sass = ".text.k:\n/*0*/ MOV R1, R2 ;\n.L_1:\n/*1*/ IDP.4A R1, R2, R3 ;\n/*2*/ NOP ;\n/*3*/ BRA `(.L_1) ;\n/*4*/ EXIT ;\n\
                    /*5*/ NOP ;\n";
        let parts = parts.in_machine_code(code, &super::sass(sass)[0]);
        assert_eq!((code.len(), parts.before, parts.work[0]), (13, 12.0 / 13.0, work));
    }

    #[test]
    fn parts_of_a_pass_over_a_cache() {
        let text = "
            .visible .entry k(
            )
            {
            $L1:
                @%p0 bra $L2;
            $L3:
                ld.global.nc.v4.b32 {%r1, %r2, %r3, %r4}, [%d0+0];
                fma.rn.f32 %f0, %f1, %f2, %f0;
                @%p1 bra $L3;
            $L5:
                ld.global.u16 %r5, [%d1+0];
                ld.global.b32 %r6, [%d1+4];
                fma.rn.f32 %f0, %f1, %f2, %f0;
                @%p2 bra $L5;
                bra $L1;
            $L2:
                atom.acq_rel.gpu.global.add.u32 %r7, [%d2+0], 1;
            $L7:
                ld.global.f32 %f1, [%d3+0];
                fma.rn.f32 %f0, %f1, %f2, %f0;
                @%p3 bra $L7;
                ret;
            }";
        let parts = ptx(text)[0].parts(true);
        assert_eq!(parts.work.iter().map(|l| (l.instructions, l.loaded)).collect::<Vec<_>>(), [(3.0, 16), (4.0, 6)]);
        assert_eq!((parts.before, parts.around, parts.after), (0.0, 2.0, 5.0));
        // In machine code the first loop is unrolled twice, and the second spills.
        let sass = ".text.k:\n.L_1:\n/*0*/ LDG.E.128 R1, desc[UR1][R2.64] ;\n/*1*/ @P0 LDG.E.128.CONSTANT R3, [R4] ;\n\
                    /*2*/ FFMA R1, R2, R3, R1 ;\n/*3*/ BRA.U UP1, `(.L_1) ;\n.L_2:\n/*4*/ LDG.E.U16 R1, desc[UR1][R2.64] ;\n\
                    /*5*/ LDG.E R1, desc[UR1][R2.64] ;\n/*6*/ LDL.LU R1, [R1+0x4] ;\n/*7*/ FFMA R1, R2, R3, R1 ;\n\
                    /*8*/ @P0 BRA `(.L_2) ;\n/*9*/ ATOMG.E.ADD R1, [R2] ;\n";
        let parts = parts.in_machine_code(&ptx(text)[0], &super::sass(sass)[0]);
        let found = parts.work.iter().map(|l| (l.instructions, l.loaded, l.spilled)).collect::<Vec<_>>();
        assert_eq!((found, parts.machine), (vec![(4.0, 32, 0.0), (5.0, 6, 1.0)], true));
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
