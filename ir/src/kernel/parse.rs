//! Parses the text form of a kernel that `text` describes; `;` begins a comment.
//!
//! Invariant: parsing what was printed gives an equal kernel, if every value of its table is defined somewhere and its names
//! are words; no input panics. Values may have any numbers: they only have to differ, and are numbered anew in their order.

use super::{
    Access, Arg, Binary, Buf, BufDecl, BulkCopy, Compare, Grid, Inst, Kernel, Mem, Mma, Scope, Space, Special, Stmt,
    Ty, Unary, Value, Var,
};
use crate::abi::Atom;
use crate::cursor::Cursor;
use crate::{Error, Result};
use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;

/// Most blocks inside of each other.
const MOST_DEPTH: usize = 100;

impl std::str::FromStr for Kernel {
    type Err = Error;

    /// Parses the text form.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the line and what was expected. The rules of kernel IR are checked by [`Kernel::verify`].
    fn from_str(text: &str) -> Result<Kernel> {
        let lines = text.lines().enumerate();
        let lines = lines.map(|(at, line)| (at + 1, line.split(';').next().unwrap_or_default().trim()));
        let lines: Vec<_> = lines.filter(|(_, line)| !line.is_empty()).collect();
        let numbers: BTreeSet<u32> = lines.iter().filter_map(|(_, line)| defined(line)).collect();
        let ranks = numbers.into_iter().enumerate().map(|(rank, number)| (number, Value(rank as u32))).collect();
        Parser::new(&lines, ranks).kernel()
    }
}

/// The number of the value that a line defines.
fn defined(line: &str) -> Option<u32> {
    let (start, mark) = match line.split_once(char::is_whitespace) {
        Some(("for" | "parallel", rest)) => (rest.trim_start(), "in"),
        _ => (line, "="),
    };
    let mut c = Cursor { rest: start, line: 0, form: "" };
    let number = c.eat("%").then(|| c.number().ok()).flatten()?;
    c.eat(mark).then_some(number)
}

struct Parser<'a> {
    lines: std::slice::Iter<'a, (usize, &'a str)>,
    last: usize,
    ranks: HashMap<u32, Value>,
    kernel: Kernel,
    /// What the lines so far have defined.
    values: Vec<Option<(Inst, Ty)>>,
}

type C<'a> = Cursor<'a>;

impl<'a> Parser<'a> {
    fn new(lines: &'a [(usize, &'a str)], ranks: HashMap<u32, Value>) -> Self {
        let kernel = Kernel::empty(String::new());
        let values = vec![None; ranks.len()];
        Parser { lines: lines.iter(), last: 0, ranks, kernel, values }
    }

    /// The next line.
    fn line(&mut self) -> Option<C<'a>> {
        let &(line, rest) = self.lines.next()?;
        self.last = line;
        Some(Cursor { rest, line, form: "kernel" })
    }

    /// The next line, of which there has to be one.
    fn some_line(&mut self, expected: &str) -> Result<C<'a>> {
        let end = Cursor { rest: "", line: self.last + 1, form: "kernel" };
        self.line().ok_or_else(|| end.error(format!("{expected} expected at the end")))
    }

    fn kernel(mut self) -> Result<Kernel> {
        let mut c = self.some_line("'kernel'")?;
        self.header(&mut c)?;
        loop {
            let before = self.lines.clone();
            let Some(mut c) = self.line() else { break };
            if !self.declaration(&mut c)? {
                self.lines = before;
                break;
            }
        }
        let (body, end) = self.block(0)?;
        if let Some(c) = end {
            return Err(c.error("a '}' without a block"));
        }
        let values = std::mem::take(&mut self.values);
        // Every number was found on a line that has been parsed as its definition.
        self.kernel.values = values.into_iter().flatten().collect();
        Ok(Kernel { body, ..self.kernel })
    }

    fn header(&mut self, c: &mut C<'a>) -> Result<()> {
        c.expect("kernel")?;
        self.kernel.name = name(c)?;
        c.expect("(")?;
        let memory = if c.eat("tickets") {
            self.kernel.tickets = c.number()?;
            "scratch"
        } else {
            let ctas = c.number()?;
            c.expect("CTAs of")?;
            self.kernel.grid = Some(Grid { ctas, threads: c.number()? });
            "shared"
        };
        c.expect(",")?;
        c.expect(memory)?;
        self.kernel.scratch_bytes = c.number()?;
        c.expect("bytes")?;
        c.expect(")")?;
        c.finish()
    }

    /// A buffer or a variable; false if the line is no declaration.
    fn declaration(&mut self, c: &mut C<'a>) -> Result<bool> {
        if c.eat("$") {
            let number: usize = c.number()?;
            if c.peek(":=") {
                return Ok(false);
            }
            c.expect(":")?;
            if number != self.kernel.vars.len() {
                return Err(c.error(format!("${} expected", self.kernel.vars.len())));
            }
            let ty = ty(c)?;
            self.kernel.vars.push(ty);
            return c.finish().map(|()| true);
        }
        let word = c.word();
        if word.is_empty() || !c.eat(":") {
            return Ok(false);
        }
        if self.kernel.buffers.iter().any(|b| b.name == word) {
            return Err(c.error(format!("buffer {word} is declared twice")));
        }
        let mem = mem(c)?;
        let space = match c.word() {
            "param" => Space::Param(c.number()?),
            "scratch" => {
                c.expect("+")?;
                Space::Scratch(c.number()?)
            }
            "constant" => Space::Constant(Vec::new().into()),
            other => return Err(c.error(format!("'param', 'scratch+' or 'constant' expected, not '{other}'"))),
        };
        let access = c.word();
        let access = Access::NAMES.iter().find(|(_, name)| *name == access).map(|(access, _)| *access);
        let access = access.ok_or_else(|| c.error("'const', 'ro' or 'rw' expected"))?;
        c.expect(",")?;
        let bytes = c.number()?;
        c.expect("bytes")?;
        c.finish()?;
        let space = if matches!(space, Space::Constant(_)) { self.words(bytes)? } else { space };
        self.kernel.buffers.push(BufDecl { name: word.into(), mem, space, bytes, access });
        Ok(true)
    }

    /// The words of a constant of so many bytes.
    fn words(&mut self, bytes: u64) -> Result<Space> {
        let mut words = Vec::new();
        while (words.len() as u64) < bytes / 4 {
            let mut c = self.some_line("words of a constant")?;
            while !c.end() {
                let word = c.take(|ch| !ch.is_whitespace());
                let word = u32::from_str_radix(word, 16);
                words.push(word.map_err(|_| c.error("words of a constant in hexadecimal expected"))?);
            }
        }
        Ok(Space::Constant(words.into()))
    }

    /// Statements up to a line that begins with a brace, which is given, or the end.
    fn block(&mut self, depth: usize) -> Result<(Vec<Stmt>, Option<C<'a>>)> {
        let mut code = Vec::new();
        while let Some(mut c) = self.line() {
            if c.eat("}") {
                return Ok((code, Some(c)));
            }
            if depth > MOST_DEPTH {
                return Err(c.error(format!("more than {MOST_DEPTH} blocks inside of each other")));
            }
            code.push(self.stmt(&mut c, depth)?);
        }
        Ok((code, None))
    }

    /// A block after its opening brace, whose closing brace ends the line.
    fn body(&mut self, c: &mut C<'a>, depth: usize) -> Result<Vec<Stmt>> {
        let (code, mut end) = self.open(c, depth)?;
        end.finish()?;
        Ok(code)
    }

    /// A block after its opening brace, and the line of its closing brace.
    fn open(&mut self, c: &mut C<'a>, depth: usize) -> Result<(Vec<Stmt>, C<'a>)> {
        c.expect("{")?;
        c.finish()?;
        let (code, end) = self.block(depth + 1)?;
        Ok((code, end.ok_or_else(|| c.error("a block without '}'"))?))
    }

    fn stmt(&mut self, c: &mut C<'a>, depth: usize) -> Result<Stmt> {
        if c.eat("%") {
            let v = self.number(c)?;
            c.expect("=")?;
            let inst = self.inst(c)?;
            c.expect(":")?;
            let ty = ty(c)?;
            c.finish()?;
            self.define(c, v, inst, ty)?;
            return Ok(Stmt::Let(v));
        }
        if c.eat("$") {
            let var = Var(c.number()?);
            c.expect(":=")?;
            let v = self.value(c)?;
            c.finish()?;
            return Ok(Stmt::Set(var, v));
        }
        let word = c.word();
        let stmt = match word {
            "store" => {
                let mem = mem(c)?;
                let (buf, index) = self.element(c)?;
                c.expect(",")?;
                Stmt::Store { buf, index, mem, value: self.value(c)? }
            }
            "for" => {
                let index = self.value(c)?;
                c.expect("in")?;
                let from = self.value(c)?;
                c.expect("..")?;
                let to = self.value(c)?;
                c.expect("step")?;
                let step = c.number()?;
                self.define(c, index, Inst::Index, Ty::I32)?;
                return Ok(Stmt::For { index, from, to, step, body: self.body(c, depth)? });
            }
            "parallel" => {
                let index = self.value(c)?;
                c.expect("in")?;
                c.expect("0..")?;
                let count = self.value(c)?;
                c.expect("ticket")?;
                let ticket = c.number()?;
                self.define(c, index, Inst::Index, Ty::I32)?;
                return Ok(Stmt::Parallel { ticket, index, count, body: self.body(c, depth)? });
            }
            "if" => {
                let cond = self.value(c)?;
                let (then, mut end) = self.open(c, depth)?;
                let other = if end.eat("else") {
                    self.body(&mut end, depth)?
                } else {
                    end.finish()?;
                    Vec::new()
                };
                return Ok(Stmt::If { cond, then, other });
            }
            "barrier" => Stmt::Barrier,
            "call" => {
                let atom = c.word();
                let atom = Atom::ALL.iter().find(|a| a.name() == atom).copied();
                let atom = atom.ok_or_else(|| c.error("the name of an atom expected"))?;
                c.expect("(")?;
                let mut args = Vec::new();
                while !c.eat(")") {
                    if !args.is_empty() {
                        c.expect(",")?;
                    }
                    args.push(self.arg(c)?);
                }
                Stmt::Call { atom, args }
            }
            "sync" => {
                let scope = Scope::by_name(c.word());
                Stmt::Sync(scope.ok_or_else(|| c.error("'warp' or 'cta' expected"))?)
            }
            "await_previous" => Stmt::AwaitPrevious,
            "fence_async" => Stmt::FenceAsync,
            "mbarrier_init" => {
                let (buf, index) = self.element(c)?;
                Stmt::MbarrierInit(buf, index)
            }
            "mbarrier_wait" => {
                let (buf, index) = self.element(c)?;
                c.expect(",")?;
                Stmt::MbarrierWait { buf, index, parity: self.value(c)? }
            }
            "bulk_copy" => {
                let to = self.element(c)?;
                c.expect(",")?;
                let from = self.element(c)?;
                c.expect(",")?;
                let bytes = c.number()?;
                c.expect("bytes")?;
                c.expect(",")?;
                Stmt::BulkCopy(BulkCopy { to, from, bytes, mbarrier: self.element(c)? })
            }
            _ => return Err(c.error(format!("a statement expected, not '{word}{}'", c.rest))),
        };
        c.finish()?;
        Ok(stmt)
    }

    fn arg(&mut self, c: &mut C<'a>) -> Result<Arg> {
        if c.eat("null") {
            return Ok(Arg::Null);
        }
        if c.eat("&") {
            let (buf, index) = self.element(c)?;
            return Ok(Arg::Address(buf, index));
        }
        let v = self.value(c)?;
        let float = matches!(self.values[v.0 as usize], Some((_, Ty::F32)));
        Ok(if float { Arg::Float(v) } else { Arg::Int(v) })
    }

    fn inst(&mut self, c: &mut C<'a>) -> Result<Inst> {
        if c.eat("$") {
            return Ok(Inst::Get(Var(c.number()?)));
        }
        if c.peek("-") || c.peek("inf") || c.peek("NaN") || c.rest.starts_with(|ch: char| ch.is_ascii_digit()) {
            return literal(c);
        }
        let word = c.word();
        if let Some(special) = Special::by_name(word) {
            return Ok(Inst::Special(special));
        }
        if let Some(op) = Unary::by_name(word) {
            return Ok(Inst::Unary(op, self.value(c)?));
        }
        if let Some(op) = Binary::by_name(word) {
            let [a, b] = self.list(c)?;
            return Ok(Inst::Binary(op, a, b));
        }
        if let Some(op) = Compare::by_name(word) {
            let [a, b] = self.list(c)?;
            return Ok(Inst::Compare(op, a, b));
        }
        if let Some(kind) = Mma::by_name(word) {
            let [a, low, high, c] = self.list(c)?;
            return Ok(Inst::Mma(kind, a, [low, high], c));
        }
        Ok(match word {
            "select" => {
                let [cond, a, b] = self.list(c)?;
                Inst::Select(cond, a, b)
            }
            "fma" => {
                let [a, b, sum] = self.list(c)?;
                Inst::Fma(a, b, sum)
            }
            "dot4" => {
                let [a, b, sum] = self.list(c)?;
                Inst::Dot4(a, b, sum)
            }
            "dot4_unsigned" => {
                let [a, b, sum] = self.list(c)?;
                Inst::Dot4Unsigned(a, b, sum)
            }
            "splat" => Inst::Splat(self.value(c)?),
            "sum" => Inst::Sum(self.value(c)?),
            "max" => Inst::Max(self.value(c)?),
            "pack" => Inst::Pack(self.list(c)?),
            "narrow" => Inst::Narrow(self.list(c)?),
            "lane" => Inst::Lane(self.value(c)?, comma(c, Cursor::number)?),
            "byte_u" => Inst::Byte(self.value(c)?, comma(c, Cursor::number)?, false),
            "byte_s" => Inst::Byte(self.value(c)?, comma(c, Cursor::number)?, true),
            "lut16" => Inst::Lut16(self.value(c)?, comma(c, table)?),
            "lut_nibbles" => Inst::LutNibbles(self.value(c)?, comma(c, Cursor::number)?, comma(c, table)?),
            "elected" => Inst::Elected,
            "shuffle_xor" => Inst::ShuffleXor(self.value(c)?, comma(c, Cursor::number)?),
            "shuffle" => {
                let [a, lane] = self.list(c)?;
                Inst::Shuffle(a, lane)
            }
            "warp_or" => Inst::WarpOr(self.value(c)?),
            "load" => {
                let word = c.word();
                let (mem, vector) = word.strip_suffix("x4").map_or((word, false), |mem| (mem, true));
                let mem = by_debug(&Mem::ALL, mem).ok_or_else(|| c.error("an element type expected"))?;
                let (buf, index) = self.element(c)?;
                Inst::Load { buf, index, mem, vector }
            }
            "atomic_add" => {
                let (buf, index) = self.element(c)?;
                c.expect(",")?;
                Inst::AtomicAdd { buf, index, value: self.value(c)? }
            }
            _ => return Err(c.error(format!("an instruction expected, not '{word}{}'", c.rest))),
        })
    }

    fn define(&mut self, c: &C<'a>, v: Value, inst: Inst, ty: Ty) -> Result<()> {
        let slot = &mut self.values[v.0 as usize];
        if slot.is_some() {
            return Err(c.error("the value is defined twice"));
        }
        *slot = Some((inst, ty));
        Ok(())
    }

    /// A value by its number.
    fn number(&self, c: &mut C<'a>) -> Result<Value> {
        let number = c.number()?;
        self.ranks.get(&number).copied().ok_or_else(|| c.error(format!("%{number} is defined nowhere")))
    }

    fn value(&self, c: &mut C<'a>) -> Result<Value> {
        c.expect("%")?;
        self.number(c)
    }

    /// N values.
    fn list<const N: usize>(&self, c: &mut C<'a>) -> Result<[Value; N]> {
        let mut all = [Value(0); N];
        for (i, v) in all.iter_mut().enumerate() {
            if i > 0 {
                c.expect(",")?;
            }
            *v = self.value(c)?;
        }
        Ok(all)
    }

    /// `buffer[value]`.
    fn element(&self, c: &mut C<'a>) -> Result<(Buf, Value)> {
        let word = c.word();
        let buf = self.kernel.buffers.iter().position(|b| b.name == word);
        let buf = Buf(buf.ok_or_else(|| c.error(format!("there is no buffer '{word}'")))? as u32);
        c.expect("[")?;
        let index = self.value(c)?;
        c.expect("]")?;
        Ok((buf, index))
    }
}

fn name(c: &mut C<'_>) -> Result<String> {
    let word = c.word();
    if word.is_empty() { Err(c.error(format!("a name expected, not '{}'", c.rest))) } else { Ok(word.into()) }
}

/// The one of `all` that prints so.
fn by_debug<T: Debug + Copy>(all: &[T], name: &str) -> Option<T> {
    all.iter().copied().find(|t| format!("{t:?}") == name)
}

fn ty(c: &mut C<'_>) -> Result<Ty> {
    let word = c.word();
    by_debug(&Ty::ALL, word).ok_or_else(|| c.error(format!("a type expected, not '{word}'")))
}

fn mem(c: &mut C<'_>) -> Result<Mem> {
    let word = c.word();
    by_debug(&Mem::ALL, word).ok_or_else(|| c.error(format!("an element type expected, not '{word}'")))
}

/// What follows a comma.
fn comma<'a, T>(c: &mut C<'a>, f: impl FnOnce(&mut C<'a>) -> Result<T>) -> Result<T> {
    c.expect(",")?;
    f(c)
}

/// An i32, or an f32 with or without its bits, which then count.
fn literal(c: &mut C<'_>) -> Result<Inst> {
    let token = c.take(|ch| !ch.is_whitespace());
    if token.trim_start_matches('-').bytes().all(|b| b.is_ascii_digit()) {
        let int = token.parse().map(Inst::Int);
        return int.map_err(|_| c.error(format!("a number of 32 bits expected, not '{token}'")));
    }
    let value: f32 = token.parse().map_err(|_| c.error(format!("a number expected, not '{token}'")))?;
    if !c.eat("(0x") {
        return Ok(Inst::Float(value.to_bits()));
    }
    let hex = c.take(|ch| ch.is_ascii_hexdigit());
    let bits = u32::from_str_radix(hex, 16).map_err(|_| c.error(format!("32 bits expected, not '{hex}'")))?;
    c.expect(")")?;
    if f32::from_bits(bits).to_bits() != value.to_bits() && !f32::from_bits(bits).is_nan() {
        return Err(c.error(format!("{token} has the bits {:#010x}", value.to_bits())));
    }
    Ok(Inst::Float(bits))
}

/// A table of sixteen bytes.
fn table(c: &mut C<'_>) -> Result<[i8; 16]> {
    c.expect("[")?;
    let mut all = [0; 16];
    for (i, entry) in all.iter_mut().enumerate() {
        if i > 0 {
            c.expect(",")?;
        }
        let token = c.take(|ch| ch == '-' || ch.is_ascii_digit());
        *entry = token.parse().map_err(|_| c.error(format!("a signed byte expected, not '{token}'")))?;
    }
    c.expect("]")?;
    Ok(all)
}
