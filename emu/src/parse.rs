//! Tokens to [`crate::ast`]: directives, declarations, statements and operands. Whatever it does not know it refuses by
//! name and line. Instructions keep their modifiers as text; [`crate::decode`] gives them meaning.

mod expression;

use crate::ast::{Arg, Ast, Function, Init, Instr, Param, Stmt, Var};
use crate::lex::{Tok, Token, tokens};
pub(crate) use crate::parse_error::ParseError;
use crate::types::{Space, Ty};

type Result<T> = std::result::Result<T, ParseError>;

/// Blocks within blocks.
const MAX_DEPTH: usize = 64;
/// Bytes of a variable, and of all of a module.
pub(crate) const MAX_VARIABLE: u64 = 1 << 28;
/// Registers of a declaration.
const MAX_REGISTERS: u64 = 1 << 16;

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

/// Parses a module.
pub(crate) fn parse(text: &str) -> Result<Ast> {
    let mut p = Parser { tokens: tokens(text)?, at: 0 };
    let mut ast = Ast::default();
    while p.peek() != Tok::End {
        p.item(&mut ast)?;
    }
    if ast.target.is_empty() {
        return Err(p.error("the module has no .target"));
    }
    Ok(ast)
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Tok<'a> {
        self.tokens[self.at].tok
    }

    fn line(&self) -> u32 {
        self.tokens[self.at].line
    }

    fn next(&mut self) -> Tok<'a> {
        let tok = self.peek();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        tok
    }

    fn error(&self, what: impl Into<String>) -> ParseError {
        ParseError::new(self.line(), what)
    }

    fn unexpected<T>(&self, wanted: &str) -> Result<T> {
        let found = match self.peek() {
            Tok::Word(w) => format!("'{w}'"),
            Tok::Dot(w) => format!("'.{w}'"),
            Tok::Int(n) => n.to_string(),
            Tok::Float { .. } => "a float".into(),
            Tok::Str(s) => format!("{s:?}"),
            Tok::Punct(c) => format!("'{}'", char::from(c)),
            Tok::End => "the end of the text".into(),
        };
        Err(self.error(format!("{wanted} is expected instead of {found}")))
    }

    fn eat(&mut self, c: u8) -> bool {
        let found = self.peek() == Tok::Punct(c);
        if found {
            self.next();
        }
        found
    }

    fn expect(&mut self, c: u8) -> Result<()> {
        if self.eat(c) { Ok(()) } else { self.unexpected(&format!("'{}'", char::from(c))) }
    }

    fn eat_dot(&mut self, name: &str) -> bool {
        let found = self.peek() == Tok::Dot(name);
        if found {
            self.next();
        }
        found
    }

    fn word(&mut self) -> Result<&'a str> {
        match self.peek() {
            Tok::Word(w) => {
                self.next();
                Ok(w)
            }
            _ => self.unexpected("a name"),
        }
    }

    fn int(&mut self) -> Result<u64> {
        match self.peek() {
            Tok::Int(n) => {
                self.next();
                Ok(n)
            }
            _ => self.unexpected("an integer"),
        }
    }

    fn small(&mut self, limit: u64) -> Result<u64> {
        let n = self.expression()?;
        if n <= limit { Ok(n) } else { Err(self.error(format!("{n} is above the limit of {limit}"))) }
    }

    fn ty(&mut self) -> Result<Ty> {
        if let Tok::Dot(name) = self.peek() {
            if let Some(ty) = Ty::parse(name) {
                self.next();
                return Ok(ty);
            }
            return Err(self.error(format!("the type .{name} is unknown")));
        }
        self.unexpected("a type")
    }

    /// Skips to after the next `;` or, if that comes first, the end of a `{...}`.
    fn skip_statement(&mut self) -> Result<()> {
        loop {
            match self.next() {
                Tok::Punct(b';') => return Ok(()),
                Tok::End => return self.unexpected("';'"),
                _ => {}
            }
        }
    }

    /// Directives that say nothing about meaning. Whether there was one.
    fn ignored(&mut self) -> Result<bool> {
        let Tok::Dot(name) = self.peek() else { return Ok(false) };
        match name {
            "file" | "loc" => {
                let line = self.line();
                while self.line() == line && self.peek() != Tok::End {
                    self.next();
                }
            }
            "pragma" => self.skip_statement()?,
            "section" => {
                while self.peek() != Tok::Punct(b'{') {
                    if self.next() == Tok::End {
                        return self.unexpected("'{'");
                    }
                }
                while self.next() != Tok::Punct(b'}') {
                    if self.peek() == Tok::End {
                        return self.unexpected("'}'");
                    }
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn item(&mut self, ast: &mut Ast) -> Result<()> {
        if self.ignored()? || self.eat(b';') {
            return Ok(());
        }
        let Tok::Dot(name) = self.peek() else { return self.unexpected("a directive") };
        match name {
            "version" => {
                self.next();
                // `9.0` is one float to the lexer.
                let text = match self.next() {
                    Tok::Float { bits, wide: true } => format!("{}", f64::from_bits(bits)),
                    Tok::Int(n) => n.to_string(),
                    _ => return Err(self.error("the version is malformed")),
                };
                let (major, minor) = text.split_once('.').unwrap_or((&text, "0"));
                let parts = (major.parse(), minor.parse());
                let (Ok(major), Ok(minor)) = parts else { return Err(self.error("the version is malformed")) };
                ast.version = (major, minor);
            }
            "target" => {
                self.next();
                ast.target = self.word()?.to_owned();
                if !ast.target.starts_with("sm_") {
                    return Err(self.error(format!("the target {} is unknown", ast.target)));
                }
                while self.eat(b',') {
                    self.word()?;
                }
            }
            "address_size" => {
                self.next();
                if self.int()? != 64 {
                    return Err(self.error("only 64-bit addresses are executed"));
                }
            }
            "alias" => {
                self.next();
                let line = self.line();
                let name = self.word()?.to_owned();
                self.expect(b',')?;
                ast.aliases.push((name, self.word()?.to_owned(), line));
                self.expect(b';')?;
            }
            _ => {
                let mut external = false;
                while let Tok::Dot(link @ ("visible" | "extern" | "weak" | "common")) = self.peek() {
                    external |= link == "extern";
                    self.next();
                }
                match self.peek() {
                    Tok::Dot("entry" | "func") => {
                        let function = self.function()?;
                        if function.body.is_some() || !function.entry {
                            ast.functions.push(function);
                        }
                    }
                    Tok::Dot("global" | "const" | "shared") => self.variables(external, &mut ast.vars)?,
                    Tok::Dot(other) => return Err(self.error(format!("the directive .{other} is unknown"))),
                    _ => return self.unexpected("a directive"),
                }
            }
        }
        Ok(())
    }

    fn function(&mut self) -> Result<Function> {
        let mut f = Function { entry: self.peek() == Tok::Dot("entry"), line: self.line(), ..Function::default() };
        self.next();
        if !f.entry && self.peek() == Tok::Punct(b'(') {
            f.returns = self.params()?;
        }
        f.name = self.word()?.to_owned();
        if self.peek() == Tok::Punct(b'(') {
            f.params = self.params()?;
        }
        loop {
            match self.peek() {
                Tok::Dot(name @ ("maxntid" | "reqntid")) => {
                    self.next();
                    let dims = self.dimensions()?;
                    *(if name == "maxntid" { &mut f.max_threads } else { &mut f.required_threads }) = Some(dims);
                }
                Tok::Dot("maxnreg") => {
                    self.next();
                    f.max_registers = Some(self.small(u64::from(u32::MAX))? as u32);
                }
                Tok::Dot("minnctapersm" | "maxnctapersm" | "maxclusterrank" | "abi_preserve") => {
                    self.next();
                    self.int()?;
                }
                Tok::Dot("noreturn" | "unified" | "blocksareclusters") => {
                    self.next();
                }
                Tok::Dot("explicitcluster") => {
                    self.next();
                    f.explicit_cluster = true;
                }
                Tok::Dot("reqnctapercluster") => {
                    self.next();
                    f.explicit_cluster = true;
                    if self.dimensions()? != [1; 3] {
                        return Err(
                            self.error(".reqnctapercluster: the emulator does not execute clusters of several CTAs")
                        );
                    }
                }
                Tok::Dot("pragma") => self.skip_statement()?,
                Tok::Dot(other) => return Err(self.error(format!("the directive .{other} is unknown"))),
                Tok::Punct(b';') => {
                    self.next();
                    return Ok(f);
                }
                Tok::Punct(b'{') => {
                    self.next();
                    f.body = Some(self.block(0)?);
                    return Ok(f);
                }
                _ => return self.unexpected("a function body"),
            }
        }
    }

    /// One to three numbers.
    fn dimensions(&mut self) -> Result<[u32; 3]> {
        let mut dims = [1; 3];
        for (i, dim) in dims.iter_mut().enumerate() {
            if i == 0 || self.eat(b',') {
                *dim = self.small(u64::from(u32::MAX))? as u32;
            }
        }
        Ok(dims)
    }

    fn params(&mut self) -> Result<Vec<Param>> {
        self.expect(b'(')?;
        let mut params = Vec::new();
        if self.eat(b')') {
            return Ok(params);
        }
        loop {
            let register = self.eat_dot("reg");
            if !register && !self.eat_dot("param") {
                return self.unexpected(".param");
            }
            let mut align = if self.eat_dot("align") { Some(self.alignment()?) } else { None };
            let ty = self.ty()?;
            if self.eat_dot("ptr") {
                if let Tok::Dot("global" | "shared" | "const" | "local") = self.peek() {
                    self.next();
                }
                if self.eat_dot("align") {
                    self.alignment()?;
                }
            }
            if align.is_none() && self.eat_dot("align") {
                align = Some(self.alignment()?);
            }
            let name = self.word()?.to_owned();
            let mut bytes = u64::from(ty.bytes());
            if self.eat(b'[') {
                bytes *= if self.peek() == Tok::Punct(b']') { 0 } else { self.small(1 << 20)? };
                self.expect(b']')?;
            }
            params.push(Param { name, ty, register, align: align.unwrap_or(u64::from(ty.bytes())), bytes });
            if !self.eat(b',') {
                self.expect(b')')?;
                return Ok(params);
            }
        }
    }

    fn alignment(&mut self) -> Result<u64> {
        let align = self.small(1 << 16)?;
        if align.is_power_of_two() { Ok(align) } else { Err(self.error("an alignment is no power of two")) }
    }

    /// `.space [.align n] .type a[n] = {...}, b;`
    fn variables(&mut self, external: bool, out: &mut Vec<Var>) -> Result<()> {
        let Tok::Dot(name) = self.next() else { return self.unexpected("a state space") };
        let space = Space::parse(name).ok_or_else(|| self.error(format!("the state space .{name} is unknown")))?;
        let mut align = None;
        let mut lanes = 1;
        loop {
            match self.peek() {
                Tok::Dot("align") => {
                    self.next();
                    align = Some(self.alignment()?);
                }
                Tok::Dot("v2") => {
                    self.next();
                    lanes = 2;
                }
                Tok::Dot("v4") => {
                    self.next();
                    lanes = 4;
                }
                Tok::Dot("attribute") => {
                    self.next();
                    self.expect(b'(')?;
                    while !self.eat(b')') {
                        if self.next() == Tok::End {
                            return self.unexpected("')'");
                        }
                    }
                }
                _ => break,
            }
        }
        let ty = self.ty()?;
        let width = u64::from(ty.bytes()) * lanes;
        loop {
            let line = self.line();
            let name = self.word()?.to_owned();
            let (mut bytes, mut open) = (width, false);
            while self.eat(b'[') {
                if self.eat(b']') {
                    open = true;
                    continue;
                }
                let n = self.small(MAX_VARIABLE)?;
                self.expect(b']')?;
                bytes = bytes.saturating_mul(n);
            }
            if bytes > MAX_VARIABLE {
                return Err(self.error(format!("the variable {name} is larger than {MAX_VARIABLE} bytes")));
            }
            let mut init = Vec::new();
            if self.eat(b'=') {
                self.initialiser(ty, &mut init, 0)?;
            }
            let given = init.len() as u64 * u64::from(ty.bytes());
            if open && !init.is_empty() {
                bytes = given;
            } else if !open && given > bytes {
                return Err(ParseError::new(line, format!("the initialiser of {name} is longer than it")));
            }
            out.push(Var {
                unsized_array: open && init.is_empty(),
                bytes: if open && init.is_empty() { 0 } else { bytes },
                name,
                space,
                ty,
                align: align.unwrap_or(width).next_power_of_two(),
                external,
                init,
                line,
            });
            if !self.eat(b',') {
                return self.expect(b';');
            }
        }
    }

    fn initialiser(&mut self, ty: Ty, out: &mut Vec<Init>, depth: usize) -> Result<()> {
        if depth > 8 {
            return Err(self.error("an initialiser is nested too deeply"));
        }
        if self.eat(b'{') {
            while !self.eat(b'}') {
                self.initialiser(ty, out, depth + 1)?;
                if !self.eat(b',') {
                    self.expect(b'}')?;
                    break;
                }
            }
            return Ok(());
        }
        let ahead = |n: usize| self.tokens.get(self.at + n).map(|t| t.tok);
        match self.peek() {
            Tok::Float { .. } => {}
            Tok::Punct(b'-') if matches!(ahead(1), Some(Tok::Float { .. })) => {}
            Tok::Word(name) if name != "WARP_SZ" => {
                out.push(self.initial_address(u64::MAX)?);
                return Ok(());
            }
            Tok::Int(mask) if ahead(1) == Some(Tok::Punct(b'(')) => {
                self.next();
                self.next();
                out.push(self.initial_address(mask)?);
                return self.expect(b')');
            }
            _ => {
                out.push(Init::Bits(self.expression()?));
                return Ok(());
            }
        }
        let negative = self.eat(b'-');
        let Tok::Float { bits, wide } = self.next() else { return self.unexpected("an initial value") };
        out.push(Init::Bits(float_bits(bits, wide, ty) ^ (u64::from(negative) << (ty.bits() - 1))));
        Ok(())
    }

    /// `name + n` or `generic(name) + n`.
    fn initial_address(&mut self, mask: u64) -> Result<Init> {
        let word = self.word()?;
        let generic = word == "generic" && self.eat(b'(');
        let name = if generic { self.word()? } else { word }.to_owned();
        if generic {
            self.expect(b')')?;
        }
        Ok(Init::Address { name, offset: self.offset()?, generic, mask })
    }

    fn block(&mut self, depth: usize) -> Result<Vec<Stmt>> {
        if depth > MAX_DEPTH {
            return Err(self.error("blocks are nested too deeply"));
        }
        let mut body = Vec::new();
        loop {
            if self.ignored()? || self.eat(b';') {
                continue;
            }
            match self.peek() {
                Tok::Punct(b'}') => {
                    self.next();
                    return Ok(body);
                }
                Tok::Punct(b'{') => {
                    self.next();
                    body.push(Stmt::Block(self.block(depth + 1)?));
                }
                Tok::Dot("reg") => self.registers(&mut body)?,
                Tok::Dot("local" | "shared" | "param" | "global" | "const") => {
                    let mut vars = Vec::new();
                    self.variables(false, &mut vars)?;
                    body.extend(vars.into_iter().map(Stmt::Var));
                }
                Tok::Dot(other) => return Err(self.error(format!("the directive .{other} is unknown"))),
                Tok::Word(w) if self.tokens.get(self.at + 1).is_some_and(|t| t.tok == Tok::Punct(b':')) => {
                    self.next();
                    self.next();
                    body.push(self.labelled(w.to_owned())?);
                }
                Tok::Word(_) | Tok::Punct(b'@') => body.push(Stmt::Instr(self.instruction()?)),
                _ => return self.unexpected("a statement"),
            }
        }
    }

    /// What stands behind a label: a directive that belongs to it, or nothing.
    fn labelled(&mut self, name: String) -> Result<Stmt> {
        let stmt = if self.eat_dot("branchtargets") {
            Stmt::Targets { name, labels: self.words()? }
        } else if self.eat_dot("calltargets") {
            Stmt::CallTargets { name, functions: self.words()? }
        } else if self.eat_dot("callprototype") {
            let returns = if self.peek() == Tok::Punct(b'(') { self.params()? } else { Vec::new() };
            self.word()?;
            let params = if self.peek() == Tok::Punct(b'(') { self.params()? } else { Vec::new() };
            if !self.eat_dot("noreturn") && self.eat_dot("abi_preserve") {
                self.int()?;
            }
            Stmt::Prototype { name, returns, params }
        } else {
            return Ok(Stmt::Label(name));
        };
        self.expect(b';')?;
        Ok(stmt)
    }

    /// Names, separated by commas.
    fn words(&mut self) -> Result<Vec<String>> {
        let mut words = vec![self.word()?.to_owned()];
        while self.eat(b',') {
            words.push(self.word()?.to_owned());
        }
        Ok(words)
    }

    fn registers(&mut self, body: &mut Vec<Stmt>) -> Result<()> {
        self.next();
        let ty = self.ty()?;
        loop {
            let line = self.line();
            let name = self.word()?.to_owned();
            let mut count = None;
            if self.eat(b'<') {
                let n = self.int()?;
                if n > MAX_REGISTERS {
                    return Err(self.error(format!("{n} is above the limit of {MAX_REGISTERS}")));
                }
                count = Some(n as u32);
                self.expect(b'>')?;
            }
            body.push(Stmt::Reg { ty, name, count, line });
            if !self.eat(b',') {
                return self.expect(b';');
            }
        }
    }

    fn instruction(&mut self) -> Result<Instr> {
        let line = self.line();
        let mut guard = None;
        if self.eat(b'@') {
            let negated = self.eat(b'!');
            guard = Some((self.word()?.to_owned(), negated));
        }
        let op = self.word()?.to_owned();
        let mut mods = Vec::new();
        while let Tok::Dot(m) = self.peek() {
            self.next();
            mods.push(m.to_owned());
        }
        let mut args = Vec::new();
        if !self.eat(b';') {
            loop {
                // Parentheses are lists of arguments in a call, and constant expressions elsewhere.
                let list = op == "call" && self.eat(b'(');
                args.push(if list { Arg::List(self.list(b')', 0)?) } else { self.arg(0)? });
                if !self.eat(b',') {
                    self.expect(b';')?;
                    break;
                }
            }
        }
        Ok(Instr { guard, op, mods, args, line })
    }

    fn list(&mut self, close: u8, depth: usize) -> Result<Vec<Arg>> {
        let mut parts = Vec::new();
        while !self.eat(close) {
            parts.push(self.arg(depth + 1)?);
            if !self.eat(b',') {
                self.expect(close)?;
                break;
            }
        }
        Ok(parts)
    }

    fn arg(&mut self, depth: usize) -> Result<Arg> {
        if depth > 4 {
            return Err(self.error("operands are nested too deeply"));
        }
        let after = self.tokens.get(self.at + 1).map(|t| t.tok);
        let arg = match self.peek() {
            Tok::Word(word) if word != "WARP_SZ" => {
                let name = self.name()?;
                match self.peek() {
                    Tok::Punct(b'+' | b'-') => Arg::Sum(name, self.offset()?),
                    _ => Arg::Name(name),
                }
            }
            Tok::Float { bits, wide } => {
                self.next();
                Arg::Float { bits, wide }
            }
            Tok::Punct(b'-') if matches!(after, Some(Tok::Float { .. } | Tok::Word(_))) => {
                self.next();
                match self.peek() {
                    Tok::Float { bits, wide } => {
                        self.next();
                        Arg::Float { bits: bits ^ (1 << if wide { 63 } else { 31 }), wide }
                    }
                    _ => Arg::Negated(self.name()?),
                }
            }
            Tok::Punct(b'!') if !matches!(after, Some(Tok::Word(_))) => Arg::Int(self.expression()?),
            Tok::Punct(b'!') => {
                self.next();
                Arg::Not(self.name()?)
            }
            Tok::Punct(b'{') => {
                self.next();
                Arg::Vector(self.list(b'}', depth)?)
            }
            Tok::Punct(b'[') => {
                self.next();
                self.memory(depth)?
            }
            Tok::Int(_) | Tok::Word(_) | Tok::Punct(b'-' | b'~' | b'+' | b'(') => Arg::Int(self.expression()?),
            _ => return self.unexpected("an operand"),
        };
        if self.eat(b'|') {
            return Ok(Arg::Pair(Box::new(arg), Box::new(self.arg(depth + 1)?)));
        }
        Ok(arg)
    }

    /// What follows the `[` of an address.
    fn memory(&mut self, depth: usize) -> Result<Arg> {
        let base = match self.peek() {
            Tok::Word(word) if word != "WARP_SZ" => Some(self.name()?),
            _ => None,
        };
        let offset = match base {
            Some(_) => self.offset()?,
            None => self.expression()? as i64,
        };
        let mem = Arg::Mem { base, offset };
        if !self.eat(b',') {
            self.expect(b']')?;
            return Ok(mem);
        }
        let mut parts = vec![mem];
        parts.extend(self.list(b']', depth)?);
        Ok(Arg::Coordinates(parts))
    }

    /// A name with its component, `%tid.x`, or with the part of it that is meant, `%r1.b0`.
    fn name(&mut self) -> Result<String> {
        let mut name = self.word()?.to_owned();
        if let Tok::Dot(part) = self.peek() {
            let digits = part.strip_prefix(['b', 'h']).unwrap_or_default();
            let selects = (1..=4).contains(&digits.len()) && digits.bytes().all(|c| matches!(c, b'0'..=b'7'));
            if selects || matches!(part, "x" | "y" | "z" | "w") {
                self.next();
                name = format!("{name}.{part}");
            }
        }
        Ok(name)
    }
}

/// The bits of a float literal as the type asks for.
pub(crate) fn float_bits(bits: u64, wide: bool, ty: Ty) -> u64 {
    match (ty, wide) {
        (Ty::F64 | Ty::B(64), false) => f64::from(f32::from_bits(bits as u32)).to_bits(),
        (Ty::F64 | Ty::B(64), true) | (_, false) => bits,
        (_, true) => u64::from((f64::from_bits(bits) as f32).to_bits()),
    }
}
