//! The modifiers of one instruction: taken by name, by kind, and none may be left over.

use crate::ast::Instr;
use crate::parse::ParseError;
use crate::types::{Mode, Order, Round, Scope, Space, Ty};

type Result<T> = std::result::Result<T, ParseError>;

/// Modifiers that are not taken yet.
pub(super) struct Mods<'a> {
    rest: Vec<&'a str>,
    instr: &'a Instr,
}

impl<'a> Mods<'a> {
    pub(super) fn new(instr: &'a Instr) -> Mods<'a> {
        Mods { rest: instr.mods.iter().map(String::as_str).collect(), instr }
    }

    /// The instruction as it is written.
    pub(super) fn spelling(&self) -> String {
        std::iter::once(&self.instr.op).chain(&self.instr.mods).map(String::as_str).collect::<Vec<_>>().join(".")
    }

    pub(super) fn error(&self, what: impl std::fmt::Display) -> ParseError {
        ParseError::new(self.instr.line, format!("{}: {what}", self.spelling()))
    }

    /// The error for a combination of modifiers that does not exist.
    pub(super) fn unknown(&self) -> ParseError {
        self.error("there is no such form of this instruction")
    }

    /// Takes a modifier if it is there.
    pub(super) fn take(&mut self, name: &str) -> bool {
        let found = self.rest.iter().position(|m| *m == name);
        if let Some(i) = found {
            self.rest.remove(i);
        }
        found.is_some()
    }

    /// Takes the first modifier that `f` knows.
    pub(super) fn find<T>(&mut self, f: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (i, value) = self.rest.iter().enumerate().find_map(|(i, m)| f(m).map(|v| (i, v)))?;
        self.rest.remove(i);
        Some(value)
    }

    /// Takes the first modifier for which `f` holds.
    pub(super) fn find_str(&mut self, f: impl Fn(&str) -> bool) -> Option<&'a str> {
        let i = self.rest.iter().position(|m| f(m))?;
        Some(self.rest.remove(i))
    }

    /// Takes one of some names.
    pub(super) fn one_of(&mut self, names: &[&'static str]) -> Option<&'static str> {
        self.find(|m| names.iter().find(|n| **n == m).copied())
    }

    /// Takes the next modifier whatever it is.
    pub(super) fn first(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() { None } else { Some(self.rest.remove(0)) }
    }

    /// Takes the next type.
    pub(super) fn ty(&mut self) -> Result<Ty> {
        self.find(Ty::parse).ok_or_else(|| self.error("a type is missing"))
    }

    /// Takes a second type if there is one.
    pub(super) fn other_ty(&mut self) -> Option<Ty> {
        self.find(Ty::parse)
    }

    /// Takes rounding, `.ftz`, `.sat` and `.relu`.
    pub(super) fn mode(&mut self) -> Mode {
        let round = self.find(|m| {
            Some(match m {
                "rn" => Round::Near,
                "rz" => Round::Zero,
                "rm" => Round::Down,
                "rp" => Round::Up,
                "rna" => Round::Away,
                _ => return None,
            })
        });
        Mode {
            round: round.unwrap_or(Round::Near),
            ftz: self.take("ftz"),
            sat: self.take("sat"),
            relu: self.take("relu"),
        }
    }

    /// Takes a state space; without one it is the generic space.
    pub(super) fn space(&mut self) -> Space {
        self.find(Space::parse).unwrap_or(Space::Generic)
    }

    /// Takes a memory order.
    pub(super) fn order(&mut self) -> Option<Order> {
        self.find(|m| {
            Some(match m {
                "weak" => Order::Weak,
                "relaxed" => Order::Relaxed,
                "acquire" => Order::Acquire,
                "release" => Order::Release,
                "acq_rel" => Order::AcqRel,
                _ => return None,
            })
        })
    }

    /// Takes a scope.
    pub(super) fn scope(&mut self) -> Option<Scope> {
        self.find(|m| {
            Some(match m {
                // A cluster is one CTA.
                "cta" | "cluster" => Scope::Cta,
                "gpu" => Scope::Gpu,
                "sys" => Scope::Sys,
                _ => return None,
            })
        })
    }

    /// Takes cache operators and hints, which mean nothing here. Whether an operand follows them.
    pub(super) fn cache(&mut self) -> bool {
        while self
            .find(|m| {
                let level = m.starts_with("L1::") || m.starts_with("L2::");
                let operator = matches!(m, "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt" | "unified");
                ((level && m != "L2::cache_hint") || operator).then_some(())
            })
            .is_some()
        {}
        self.take("L2::cache_hint")
    }

    /// Refuses what is left.
    pub(super) fn finish(&self) -> Result<()> {
        match self.rest.first() {
            None => Ok(()),
            Some(m) => Err(self.error(format!("the modifier .{m} is unknown here"))),
        }
    }
}
