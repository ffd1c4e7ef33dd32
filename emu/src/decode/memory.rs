//! Loads, stores, atomics, fences, and hints about caches.

use super::body::Body;
use super::mods::Mods;
use crate::alu::map;
use crate::ast::{Arg, Instr};
use crate::counters::Class;
use crate::parse::ParseError;
use crate::program::{Access, Atomic, Op, Rmw, SINK};
use crate::types::{Order, Scope, Space, Ty};

type Result<T> = std::result::Result<T, ParseError>;

/// The operation of `atom`, `red` or `redux` by its name.
pub(super) fn rmw(name: &str) -> Option<Rmw> {
    Some(match name {
        "add" => Rmw::Add,
        "min" => Rmw::Min,
        "max" => Rmw::Max,
        "and" => Rmw::And,
        "or" => Rmw::Or,
        "xor" => Rmw::Xor,
        "inc" => Rmw::Inc,
        "dec" => Rmw::Dec,
        "exch" => Rmw::Exch,
        "cas" => Rmw::Cas,
        _ => return None,
    })
}

/// Whether an atomic operation exists for a type.
fn exists(op: Rmw, ty: Ty) -> bool {
    match op {
        Rmw::Add => {
            matches!(ty, Ty::U(32 | 64) | Ty::S(32) | Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2 | Ty::F32 | Ty::F64)
        }
        Rmw::Min | Rmw::Max => {
            matches!(ty, Ty::U(32 | 64) | Ty::S(32 | 64) | Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2)
        }
        Rmw::And | Rmw::Or | Rmw::Xor | Rmw::Exch => matches!(ty, Ty::B(32 | 64)),
        Rmw::Inc | Rmw::Dec => ty == Ty::U(32),
        Rmw::Cas => matches!(ty, Ty::B(16 | 32 | 64)),
    }
}

/// The class of an access.
fn class(space: Space, store: bool) -> Class {
    match (space, store) {
        (Space::Global | Space::Generic, false) => Class::GlobalLoad,
        (Space::Global | Space::Generic, true) => Class::GlobalStore,
        (Space::Shared, false) => Class::SharedLoad,
        (Space::Shared, true) => Class::SharedStore,
        _ => Class::Other,
    }
}

impl Body<'_, '_> {
    /// Decodes an instruction if it is one of these.
    pub(super) fn memory(&mut self, instr: &Instr, m: &mut Mods) -> Result<bool> {
        let a = instr.args.as_slice();
        match instr.op.as_str() {
            "ld" | "ldu" => self.access(a, m, false),
            "st" => self.access(a, m, true),
            "atom" => self.atomic(a, m, true),
            "red" => self.atomic(a, m, false),
            "membar" => {
                let level = m.one_of(&["cta", "gl", "sys"]).ok_or_else(|| m.unknown())?;
                let scope = match level {
                    "cta" => Scope::Cta,
                    "gl" => Scope::Gpu,
                    _ => Scope::Sys,
                };
                self.emit(Op::Fence { scope, sc: true }, Class::Sync);
                Ok(true)
            }
            "fence" => self.fence(m),
            "prefetch" | "prefetchu" | "applypriority" => {
                while m.first().is_some() {}
                self.address(a.first().ok_or_else(|| m.unknown())?)?;
                self.emit(Op::Nop, Class::Other);
                Ok(true)
            }
            "createpolicy" => {
                while m.first().is_some() {}
                let [d, ..] = a else { return Err(m.unknown()) };
                let (d, zero) = (self.dst(d, Ty::B(64))?, self.bits(0));
                self.emit(Op::Map { f: map!(u64, |a| a), d, s: [zero, SINK, SINK], k: 0 }, Class::Other);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn access(&mut self, a: &[Arg], m: &mut Mods, store: bool) -> Result<bool> {
        let volatile = m.take("volatile") | m.take("mmio");
        let order = m.order();
        let scope = m.scope();
        let space = m.space();
        let non_coherent = m.take("nc");
        let hint = m.cache();
        let count = match m.one_of(&["v2", "v4", "v8"]) {
            Some("v2") => 2,
            Some("v4") => 4,
            Some(_) => 8,
            None => 1,
        };
        let ty = m.ty()?;
        let allowed = match order {
            Some(Order::Acquire) => !store,
            Some(Order::Release) => store,
            Some(Order::AcqRel) => false,
            _ => true,
        };
        let (operand, address) = match (a, store) {
            ([d, address], false) | ([address, d], true) if !hint => (d, address),
            ([d, address, _], false) | ([address, d, _], true) if hint => (d, address),
            _ => return Err(m.error(format!("{} operands", a.len()))),
        };
        if !allowed || ty == Ty::Pred {
            return Err(m.unknown());
        }
        let (address, space) = self.address_in(address, space)?;
        let parts = match operand {
            Arg::Vector(parts) => parts.as_slice(),
            single => std::slice::from_ref(single),
        };
        if parts.len() != count {
            return Err(m.error(format!("a vector of {}", parts.len())));
        }
        let mut width = ty.bits();
        let mut regs = Vec::new();
        for part in parts {
            if store {
                regs.push(self.src_wider(part, ty)?);
            } else {
                let (reg, bits) = self.dst_wider(part, ty)?;
                width = bits;
                regs.push(reg);
            }
        }
        let strong = volatile || order.is_some_and(|o| o != Order::Weak);
        let access = Access {
            store,
            space,
            address,
            bytes: ty.bytes(),
            extend: if ty.is_signed() && !store && width > ty.bits() { ty.bits() } else { 0 },
            width,
            regs,
            order: order.unwrap_or(Order::Weak),
            scope: scope.unwrap_or(if volatile { Scope::Sys } else { Scope::Gpu }),
            strong,
            non_coherent,
            before_cas: false,
        };
        self.emit(Op::Access(Box::new(access)), class(space, store));
        Ok(true)
    }

    fn atomic(&mut self, a: &[Arg], m: &mut Mods, returns: bool) -> Result<bool> {
        let order = m.order().unwrap_or(Order::Relaxed);
        let scope = m.scope().unwrap_or(Scope::Gpu);
        let space = m.space();
        let op = m.find(rmw).ok_or_else(|| m.error("an operation is missing"))?;
        m.take("noftz");
        let hint = m.cache();
        let count = match m.one_of(&["v2", "v4", "v8"]) {
            Some("v2") => 2,
            Some("v4") => 4,
            Some(_) => 8,
            None => 1,
        };
        let ty = m.ty()?;
        if !exists(op, ty) || order == Order::Weak || (!returns && matches!(op, Rmw::Exch | Rmw::Cas)) {
            return Err(m.unknown());
        }
        let (d, rest) = match (returns, a) {
            (true, [d, rest @ ..]) => (Some(d), rest),
            (false, rest) => (None, rest),
            _ => return Err(m.unknown()),
        };
        let operands = 2 + usize::from(op == Rmw::Cas) + usize::from(hint);
        if rest.len() != operands {
            return Err(m.error(format!("{} operands", a.len())));
        }
        let (address, space) = self.address_in(&rest[0], space)?;
        if !matches!(space, Space::Generic | Space::Global | Space::Shared) {
            return Err(m.unknown());
        }
        let old = match d {
            Some(d) => self.regs(d, ty, true)?,
            None => Vec::new(),
        };
        let values = self.regs(&rest[1], ty, false)?;
        if values.len() != count || (d.is_some() && old.len() != count) {
            return Err(m.error(format!("a vector of {}", values.len())));
        }
        let swap = if op == Rmw::Cas { self.src(&rest[2], ty)? } else { SINK };
        let atomic = Atomic { op, ty, space, address, old, values, swap, order, scope };
        self.emit(Op::Atomic(Box::new(atomic)), class(space, true));
        Ok(true)
    }

    fn fence(&mut self, m: &mut Mods) -> Result<bool> {
        if m.take("proxy") {
            let op = if m.take("async") {
                let space = m.space();
                Op::ProxyFence { shared: space != Space::Global, global: space != Space::Shared }
            } else {
                // Other proxies see one memory here.
                m.order();
                while m.first().is_some() {}
                Op::Nop
            };
            self.emit(op, Class::Sync);
            return Ok(true);
        }
        if m.take("mbarrier_init") {
            m.take("release");
            m.scope();
            self.emit(Op::MbarrierFence, Class::Sync);
            return Ok(true);
        }
        let sc = m.take("sc");
        let ordered = m.order().is_some() | sc;
        let scope = m.scope().filter(|_| ordered).ok_or_else(|| m.unknown())?;
        self.emit(Op::Fence { scope, sc }, Class::Sync);
        Ok(true)
    }
}
