//! Instructions that compute: integer, float, comparison, conversion, moves.

use super::body::Body;
use super::mods::Mods;
use crate::alu::integer::Chain;
use crate::alu::{MapFn, TestFn, approximate, compare, convert, float, integer, map};
use crate::ast::{Arg, Instr};
use crate::counters::Class;
use crate::parse::ParseError;
use crate::program::{Logic, NOBODY, Op, PredRef, Reg, SINK};
use crate::types::{Mode, Space, Ty};

type Result<T> = std::result::Result<T, ParseError>;

/// The type with twice the bits.
fn double(ty: Ty) -> Ty {
    match ty {
        Ty::U(n) => Ty::U(n * 2),
        Ty::S(n) => Ty::S(n * 2),
        other => other,
    }
}

fn logic(m: &mut Mods) -> Option<Logic> {
    m.find(|name| {
        Some(match name {
            "and" => Logic::And,
            "or" => Logic::Or,
            "xor" => Logic::Xor,
            _ => return None,
        })
    })
}

const COMPARISONS: &[&str] = &[
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan",
];

impl Body<'_, '_> {
    /// Emits a lane function; a function that does not exist is an error.
    fn map(
        &mut self,
        m: &Mods,
        f: Option<MapFn>,
        d: (&Arg, Ty),
        sources: &[(&Arg, Ty)],
        k: u32,
        class: Class,
    ) -> Result<bool> {
        let f = f.ok_or_else(|| m.unknown())?;
        let d = self.dst(d.0, d.1)?;
        let mut s = [SINK; 3];
        for (slot, (arg, ty)) in s.iter_mut().zip(sources) {
            *slot = self.src(arg, *ty)?;
        }
        self.emit(Op::Map { f, d, s, k }, class);
        Ok(true)
    }

    /// Decodes an instruction if it is one of these.
    pub(super) fn arithmetic(&mut self, instr: &Instr, m: &mut Mods) -> Result<bool> {
        let op = instr.op.as_str();
        let operands = match op {
            "add" | "sub" | "mul" | "div" | "rem" | "min" | "max" | "and" | "or" | "xor" | "shl" | "shr" | "mul24"
            | "copysign" | "addc" | "subc" | "bmsk" | "szext" => 3..=4,
            "abs" | "neg" | "not" | "cnot" | "popc" | "clz" | "brev" | "bfind" | "rcp" | "sqrt" | "rsqrt" | "ex2"
            | "lg2" | "sin" | "cos" | "tanh" | "cvta" | "mov" | "testp" => 2..=2,
            "mad" | "fma" | "sad" | "bfe" | "prmt" | "shf" | "dp4a" | "dp2a" | "selp" | "slct" | "mad24" | "madc" => {
                4..=4
            }
            "lop3" | "bfi" => 5..=6,
            "cvt" => 2..=4,
            "setp" | "set" => 3..=4,
            _ => return Ok(false),
        };
        if !operands.contains(&instr.args.len()) {
            return Err(m.error(format!("{} operands", instr.args.len())));
        }
        let a = &instr.args;
        match op {
            "mov" => self.mov(a, m),
            "cvt" => self.cvt(a, m),
            "cvta" => self.cvta(a, m),
            "setp" | "set" => self.set(op, a, m),
            "testp" => {
                let name = m.first().unwrap_or_default();
                let ty = m.ty()?;
                let f = compare::classify(name, ty).ok_or_else(|| m.unknown())?;
                let (p, s) = (self.pred_dst(&a[0])?, self.src(&a[1], ty)?);
                self.test(f, 0, [s, s], p);
                Ok(true)
            }
            "selp" => {
                let ty = m.ty()?;
                let (d, s) = (self.dst(&a[0], ty)?, self.srcs(&a[1..], [ty, ty])?);
                let p = self.pred_src(&a[3])?;
                self.emit(Op::Select { d, s, p }, Class::Integer);
                Ok(true)
            }
            "slct" => {
                let (ftz, ty, by) = (m.take("ftz"), m.ty()?, m.ty()?);
                let f = match by {
                    Ty::S(32) => map!(u64, |a, b, c| if c as i32 >= 0 { a } else { b }),
                    Ty::F32 => map!(u64, |a, b, c, k| {
                        let c = f32::from_bits(c as u32);
                        if c >= 0.0 || (k != 0 && c.is_subnormal()) { a } else { b }
                    }),
                    _ => return Err(m.unknown()),
                };
                let sources = [(&a[1], ty), (&a[2], ty), (&a[3], by)];
                self.map(m, Some(f), (&a[0], ty), &sources, u32::from(ftz), Class::Integer)
            }
            "lop3" => self.lop3(a, m),
            "bfi" => {
                let ty = m.ty()?;
                if !matches!(ty, Ty::B(32 | 64)) {
                    return Err(m.unknown());
                }
                let (d, s) = (self.dst(&a[0], ty)?, self.srcs(&a[1..], [ty, ty, Ty::B(32), Ty::B(32)])?);
                self.emit(Op::Insert { bits: ty.bits(), d, s }, Class::Integer);
                Ok(true)
            }
            "prmt" => {
                let ty = m.ty()?;
                let mode = m.one_of(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]);
                let sources = [(&a[1], ty), (&a[2], ty), (&a[3], ty)];
                let f = integer::prmt(mode).filter(|_| ty == Ty::B(32));
                self.map(m, f, (&a[0], ty), &sources, 0, Class::Integer)
            }
            "shf" => {
                let (left, wrap) = (m.take("l"), m.take("wrap"));
                if !left && !m.take("r") || !wrap && !m.take("clamp") || m.ty()? != Ty::B(32) {
                    return Err(m.unknown());
                }
                let ty = Ty::B(32);
                let sources = [(&a[1], ty), (&a[2], ty), (&a[3], ty)];
                self.map(m, Some(integer::funnel(left, wrap)), (&a[0], ty), &sources, 0, Class::Integer)
            }
            "dp4a" | "dp2a" => {
                let high = m.take("hi");
                if op == "dp2a" && !high && !m.take("lo") {
                    return Err(m.unknown());
                }
                let (x, y) = (m.ty()?, m.ty()?);
                if !matches!((x, y), (Ty::S(32) | Ty::U(32), Ty::S(32) | Ty::U(32))) || (op == "dp4a" && high) {
                    return Err(m.unknown());
                }
                let k = u32::from(high) | u32::from(x.is_signed()) << 1 | u32::from(y.is_signed()) << 2;
                let f = if op == "dp4a" { integer::dp4a(x.is_signed(), y.is_signed()) } else { integer::dp2a() };
                let sources = [(&a[1], x), (&a[2], y), (&a[3], Ty::B(32))];
                self.map(m, Some(f), (&a[0], Ty::B(32)), &sources, k, Class::Integer)
            }
            "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" => self.function(op, a, m),
            "abs" | "neg" | "copysign" => self.sign(op, a, m),
            "and" | "or" | "xor" | "not" if m.take("pred") => {
                let p = self.pred_dst(&a[0])?;
                let x = self.pred_src(&a[1])?;
                let (op, y) = match op {
                    "not" => (Logic::Xor, PredRef::TRUE),
                    "and" => (Logic::And, self.pred_src(&a[2])?),
                    "or" => (Logic::Or, self.pred_src(&a[2])?),
                    _ => (Logic::Xor, self.pred_src(&a[2])?),
                };
                self.emit(Op::Predicate { op, p, s: [x, y] }, Class::Integer);
                Ok(true)
            }
            "addc" | "subc" | "madc" => self.chain(op, a, m),
            "add" | "sub" | "mad" if instr.mods.iter().any(|x| x == "cc") => self.chain(op, a, m),
            _ => self.plain(op, a, m),
        }
    }

    /// Arithmetic that has one name and one type, for integers or floats.
    fn plain(&mut self, op: &str, a: &[Arg], m: &mut Mods) -> Result<bool> {
        let part = m.one_of(&["lo", "hi", "wide", "shiftamt", "clamp", "wrap"]);
        let approximate = m.one_of(&["approx", "full"]);
        let nan = m.take("NaN");
        let xor_sign = m.take("xorsign") && m.take("abs");
        let mode = m.mode();
        let ty = m.ty()?;
        if ty.is_float() {
            if let Some(source) = m.other_ty() {
                let f = float::mixed(op, source).filter(|_| ty == Ty::F32);
                let second = if op == "fma" { source } else { ty };
                let all = [(&a[1], source), (&a[2], second)];
                let mut sources = all.to_vec();
                sources.extend(a.get(3).map(|c| (c, ty)));
                return self.map(m, f, (&a[0], ty), &sources, mode.pack(), Class::Float);
            }
            let sources: Vec<_> = a[1..].iter().map(|x| (x, ty)).collect();
            let mut k = mode.pack();
            let f = match op {
                "min" | "max" => {
                    k |= if nan { float::KEEP_NAN } else { 0 } | if xor_sign { float::XOR_SIGN } else { 0 };
                    float::extreme(op, ty, sources.len() == 3)
                }
                "div" if approximate.is_some() => {
                    let name = if approximate == Some("full") { "div.full" } else { "div.approx" };
                    return self.approximate(name, ty, mode, a, m);
                }
                _ if sources.len() == 3 && !matches!(op, "fma" | "mad") => None,
                _ => float::arithmetic(op, ty, mode),
            };
            return self.map(m, f.filter(|_| part.is_none()), (&a[0], ty), &sources, k, Class::Float);
        }
        // Integers have none of the modifiers of floats but `.sat`.
        let as_integer = Mode { sat: mode.sat, ..Mode::NEAR };
        if mode != as_integer || nan || xor_sign || approximate.is_some() {
            return Err(m.unknown());
        }
        let mut name = op.to_owned();
        if op == "szext" {
            name.push_str(if ty.is_signed() { ".s" } else { ".u" });
        }
        if let Some(part) = part {
            name = format!("{name}.{part}");
        }
        if mode.sat {
            name.push_str(".sat");
        }
        let ty = if name.starts_with("szext") { Ty::B(32) } else { ty };
        let wide = part == Some("wide");
        let b32 = Ty::B(32);
        let types = match op {
            "shl" | "shr" => vec![ty, b32],
            "bfe" => vec![ty, b32, b32],
            "bmsk" | "szext" => vec![b32, b32],
            "mad" if wide => vec![ty, ty, double(ty)],
            _ => vec![ty; a.len() - 1],
        };
        if types.len() != a.len() - 1 {
            return Err(m.error(format!("{} operands", a.len())));
        }
        let d = match op {
            _ if wide => double(ty),
            "popc" | "clz" | "bfind" => b32,
            _ => ty,
        };
        // `shr.b32` shifts zeros in, as `.u32` does.
        let by = match (op, ty) {
            ("shr", Ty::B(n)) => Ty::U(n),
            _ => ty,
        };
        let bitwise = matches!(op, "and" | "or" | "xor" | "not" | "cnot" | "shl" | "popc" | "clz" | "brev");
        let allowed = !bitwise || matches!(ty, Ty::B(_));
        let sources: Vec<_> = a[1..].iter().zip(types).collect();
        self.map(m, integer::integer(&name, by).filter(|_| allowed), (&a[0], d), &sources, 0, Class::Integer)
    }

    /// `rcp`, `sqrt` and the functions that are approximate only.
    fn function(&mut self, op: &str, a: &[Arg], m: &mut Mods) -> Result<bool> {
        let approximate = m.take("approx");
        let mode = m.mode();
        let ty = m.ty()?;
        let f = if approximate && (ty != Ty::F64 || mode.ftz) {
            return self.approximate(op, ty, mode, a, m);
        } else if approximate {
            float::approximate(op, ty)
        } else if matches!(op, "rcp" | "sqrt") {
            float::arithmetic(op, ty, mode)
        } else {
            None
        };
        self.map(m, f, (&a[0], ty), &[(&a[1], ty)], mode.pack(), Class::Float)
    }

    /// An approximate instruction of one or two operands.
    fn approximate(&mut self, op: &str, ty: Ty, mode: Mode, a: &[Arg], m: &Mods) -> Result<bool> {
        let row = approximate::approximate(op, ty).ok_or_else(|| m.unknown())?;
        let d = self.dst(&a[0], ty)?;
        let mut s = [SINK; 2];
        for (slot, arg) in s.iter_mut().zip(&a[1..]) {
            *slot = self.src(arg, ty)?;
        }
        self.emit(Op::Approximate { row, ty, d, s, k: mode.pack() }, Class::Float);
        Ok(true)
    }

    fn sign(&mut self, op: &str, a: &[Arg], m: &mut Mods) -> Result<bool> {
        let ftz = m.take("ftz");
        let ty = m.ty()?;
        if !ty.is_float() {
            return self.map(m, integer::integer(op, ty), (&a[0], ty), &[(&a[1], ty)], 0, Class::Integer);
        }
        let sources: Vec<_> = a[1..].iter().map(|x| (x, ty)).collect();
        let k = if ftz { float::FLUSH } else { 0 };
        self.map(m, float::sign(op, ty), (&a[0], ty), &sources, k, Class::Float)
    }

    /// Carry chains.
    fn chain(&mut self, op: &str, a: &[Arg], m: &mut Mods) -> Result<bool> {
        let (carry_out, part) = (m.take("cc"), m.one_of(&["lo", "hi"]));
        let ty = m.ty()?;
        let chain = match (op, part) {
            ("add" | "addc", None) => Chain::Add,
            ("sub" | "subc", None) => Chain::Sub,
            ("mad" | "madc", Some("lo")) => Chain::MadLo,
            ("mad" | "madc", Some("hi")) => Chain::MadHi { signed: ty.is_signed() },
            _ => return Err(m.unknown()),
        };
        if !matches!(ty, Ty::U(32 | 64) | Ty::S(32 | 64)) {
            return Err(m.unknown());
        }
        let d = self.dst(&a[0], ty)?;
        let mut s = [SINK; 3];
        for (slot, arg) in s.iter_mut().zip(&a[1..]) {
            *slot = self.src(arg, ty)?;
        }
        let carry_in = op.ends_with('c');
        self.emit(Op::Chain { op: chain, bits: ty.bits(), d, s, carry_in, carry_out }, Class::Integer);
        Ok(true)
    }

    fn lop3(&mut self, a: &[Arg], m: &mut Mods) -> Result<bool> {
        let b32 = Ty::B(32);
        let combine = logic(m);
        if m.ty()? != b32 {
            return Err(m.unknown());
        }
        let (result, p) = match &a[0] {
            Arg::Pair(d, p) => (&**d, Some(self.pred_dst(p)?)),
            d => (d, None),
        };
        let Arg::Int(table @ 0..=255) = a[4] else { return Err(m.error("the table is no constant below 256")) };
        // With a predicate the result is needed even if nobody keeps it.
        let d = match (self.dst(result, b32)?, p) {
            (SINK, Some(_)) => self.temporary(),
            (d, _) => d,
        };
        let s = self.srcs(&a[1..], [b32; 3])?;
        self.emit(Op::Map { f: integer::lop3(), d, s, k: table as u32 }, Class::Integer);
        if let Some(p) = p {
            let (Some(op), Some(q)) = (combine, a.get(5)) else { return Err(m.unknown()) };
            let zero = self.bits(0);
            let f = compare::compare("ne", b32).ok_or_else(|| m.unknown())?;
            let combine = Some((op, self.pred_src(q)?));
            self.emit(Op::Test { f, k: 0, halves: false, s: [d, zero], combine, p, q: NOBODY }, Class::Integer);
        }
        Ok(true)
    }

    fn test(&mut self, f: TestFn, k: u32, s: [Reg; 2], p: u16) {
        self.emit(Op::Test { f, k, halves: false, s, combine: None, p, q: NOBODY }, Class::Integer);
    }

    /// `setp` and `set`.
    fn set(&mut self, op: &str, a: &[Arg], m: &mut Mods) -> Result<bool> {
        let name = m.one_of(COMPARISONS).ok_or_else(|| m.error("a comparison is missing"))?;
        let combine = logic(m);
        let ftz = m.take("ftz");
        let d_ty = if op == "set" { Some(m.ty()?) } else { None };
        let ty = m.ty()?;
        let halves = matches!(ty, Ty::F16x2 | Ty::Bf16x2);
        let f = compare::compare(name, ty).ok_or_else(|| m.unknown())?;
        let s = self.srcs(&a[1..], [ty, ty])?;
        let combine = match (combine, a.get(3)) {
            (Some(op), Some(c)) => Some((op, self.pred_src(c)?)),
            (None, None) => None,
            _ => return Err(m.error(format!("{} operands", a.len()))),
        };
        let k = if ftz { compare::FLUSH } else { 0 };
        let class = if ty.is_float() { Class::Float } else { Class::Integer };
        let Some(d_ty) = d_ty else {
            let (p, q) = match &a[0] {
                Arg::Pair(p, q) => (self.pred_dst(p)?, self.pred_dst(q)?),
                p => (self.pred_dst(p)?, NOBODY),
            };
            self.emit(Op::Test { f, k, halves, s, combine, p, q }, class);
            return Ok(true);
        };
        let one = match d_ty {
            Ty::U(32) | Ty::S(32) if halves => 0xffff,
            Ty::U(32) | Ty::S(32) => 0xffff_ffff,
            Ty::U(16) | Ty::S(16) => 0xffff,
            Ty::F32 => u64::from(1f32.to_bits()),
            Ty::F16 | Ty::F16x2 => 0x3c00,
            Ty::Bf16 | Ty::Bf16x2 => 0x3f80,
            _ => return Err(m.unknown()),
        };
        let d = self.dst(&a[0], d_ty)?;
        self.emit(Op::TestTo { f, k, halves, s, combine, d, one }, class);
        Ok(true)
    }

    fn mov(&mut self, a: &[Arg], m: &mut Mods) -> Result<bool> {
        let ty = m.ty()?;
        let class = Class::Integer;
        match (&a[0], &a[1]) {
            (d, s) if ty == Ty::Pred => {
                let (p, s) = (self.pred_dst(d)?, self.pred_src(s)?);
                self.emit(Op::Predicate { op: Logic::And, p, s: [s, PredRef::TRUE] }, class);
            }
            (Arg::Vector(parts), s) => {
                let bits = ty.bits() / parts.len().max(1) as u32;
                let part = Ty::B(bits as u8);
                let s = self.src(s, ty)?;
                let parts = parts.iter().map(|p| self.dst(p, part)).collect::<Result<Vec<_>>>()?;
                if !matches!((parts.len(), bits), (2 | 4, 8..=32)) {
                    return Err(m.unknown());
                }
                self.emit(Op::Unpack { parts, s, bits }, class);
            }
            (d, Arg::Vector(parts)) => {
                let bits = ty.bits() / parts.len().max(1) as u32;
                let part = Ty::B(bits as u8);
                let parts = parts.iter().map(|p| self.src(p, part)).collect::<Result<Vec<_>>>()?;
                if !matches!((parts.len(), bits), (2 | 4, 8..=32)) {
                    return Err(m.unknown());
                }
                let d = self.dst(d, ty)?;
                self.emit(Op::Pack { d, parts, bits }, class);
            }
            (d, s) => {
                let d = self.dst(d, ty)?;
                // Addresses and special registers may be narrower than the register.
                let s = self.src(s, ty)?;
                self.emit(Op::Map { f: map!(u64, |a| a), d, s: [s, SINK, SINK], k: 0 }, class);
            }
        }
        Ok(true)
    }

    fn cvt(&mut self, a: &[Arg], m: &mut Mods) -> Result<bool> {
        if m.take("pack") {
            return self.cvt_pack(a, m);
        }
        let integral = m.find(|name| {
            Some(match name {
                "rni" => "rn",
                "rzi" => "rz",
                "rmi" => "rm",
                "rpi" => "rp",
                _ => return None,
            })
        });
        let mut mode = m.mode();
        if let Some(name) = integral {
            mode.round = match name {
                "rn" => crate::types::Round::Near,
                "rz" => crate::types::Round::Zero,
                "rm" => crate::types::Round::Down,
                _ => crate::types::Round::Up,
            };
        }
        let finite = m.take("satfinite");
        let (target, source) = (m.ty()?, m.ty()?);
        let k = mode.pack() | if finite { convert::FINITE } else { 0 };
        match a {
            [d, x, y] if source == Ty::F32 => {
                let d_ty = if target.bits() == 16 { Ty::B(16) } else { Ty::B(32) };
                let sources = [(x, source), (y, source)];
                return self.map(m, convert::pair(target), (d, d_ty), &sources, k, Class::Convert);
            }
            [_, _] => {}
            _ => return Err(m.unknown()),
        }
        if let Some(f) = convert::packed(target, source) {
            let sources = [(&a[1], Ty::B(source.bits() as u8))];
            return self.map(m, Some(f), (&a[0], Ty::B(target.bits() as u8)), &sources, k, Class::Convert);
        }
        let between_floats = target.is_float() && source.is_float();
        let k = k | if between_floats && integral.is_some() { convert::INTEGRAL } else { 0 };
        let f = convert::scalar(target, source, k).ok_or_else(|| m.unknown())?;
        // Registers may be wider than the types.
        let (d, width) = self.dst_wider(&a[0], target)?;
        let s = self.src_wider(&a[1], source)?;
        self.emit(Op::Map { f, d, s: [s, SINK, SINK], k }, Class::Convert);
        if target.is_signed() && width > target.bits() {
            let k = target.bits() | width << 8;
            self.emit(Op::Map { f: convert::sign_extend(), d, s: [d, SINK, SINK], k }, Class::Convert);
        }
        Ok(true)
    }

    /// `cvt.pack.sat`: two integers, saturated, above what is left of a third.
    fn cvt_pack(&mut self, a: &[Arg], m: &mut Mods) -> Result<bool> {
        fn pack(x: [u64; 3], bits: u32, low: i64, high: i64) -> u64 {
            let one = |v: u64| (i64::from(v as i32).clamp(low, high) as u64) & crate::types::mask_of(bits);
            (x[2] << (2 * bits) | one(x[0]) << bits | one(x[1])) & 0xffff_ffff
        }
        m.take("sat");
        let (target, source) = (m.ty()?, m.ty()?);
        let f = match target {
            Ty::S(8) => map!(u64, |a, b, c| pack([a, b, c], 8, -128, 127)),
            Ty::U(8) => map!(u64, |a, b, c| pack([a, b, c], 8, 0, 255)),
            Ty::S(16) => map!(u64, |a, b, _c, _k| pack([a, b, 0], 16, -32768, 32767)),
            Ty::U(16) => map!(u64, |a, b, _c, _k| pack([a, b, 0], 16, 0, 65535)),
            _ => return Err(m.unknown()),
        };
        let third = target.bits() == 8 && m.ty()? == Ty::B(32);
        if source != Ty::S(32) || a.len() != if third { 4 } else { 3 } {
            return Err(m.unknown());
        }
        let sources: Vec<_> = a[1..].iter().map(|x| (x, Ty::B(32))).collect();
        self.map(m, Some(f), (&a[0], Ty::B(32)), &sources, 0, Class::Convert)
    }

    fn cvta(&mut self, a: &[Arg], m: &mut Mods) -> Result<bool> {
        let (to, space) = (m.take("to"), m.space());
        let ty = m.ty()?;
        if space == Space::Generic || ty != Ty::U(64) {
            return Err(m.unknown());
        }
        let shift = super::window(space);
        let shift = self.bits(if to { shift.wrapping_neg() } else { shift });
        let (d, s) = (self.dst(&a[0], ty)?, self.src(&a[1], ty)?);
        self.emit(Op::Map { f: map!(u64, |a, b| a.wrapping_add(b)), d, s: [s, shift, SINK], k: 0 }, Class::Integer);
        Ok(true)
    }
}
