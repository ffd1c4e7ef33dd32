//! A position in a line of a text form: what the parsers of graphs and of kernels share.

use crate::{Error, Result};
use std::fmt::Display;

/// What is left of a line; spaces between tokens do not count.
pub(crate) struct Cursor<'a> {
    /// The rest of the line.
    pub rest: &'a str,
    /// Number of the line, from 1.
    pub line: usize,
    /// What the text is of, for errors.
    pub form: &'static str,
}

impl<'a> Cursor<'a> {
    pub fn error(&self, what: impl Display) -> Error {
        Error::malformed(format!("{} text, line {}: {what}", self.form, self.line))
    }

    pub fn peek(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        self.rest.starts_with(token)
    }

    pub fn eat(&mut self, token: &str) -> bool {
        let found = self.peek(token);
        if found {
            self.rest = &self.rest[token.len()..];
        }
        found
    }

    pub fn expect(&mut self, token: &str) -> Result<()> {
        if self.eat(token) { Ok(()) } else { Err(self.error(format!("'{token}' expected at '{}'", self.rest))) }
    }

    pub fn end(&mut self) -> bool {
        self.rest = self.rest.trim_start();
        self.rest.is_empty()
    }

    pub fn finish(&mut self) -> Result<()> {
        if self.end() { Ok(()) } else { Err(self.error(format!("'{}' is left over", self.rest))) }
    }

    /// The longest start whose characters are all kept.
    pub fn take(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        self.rest = self.rest.trim_start();
        let (token, rest) = self.rest.split_at(self.rest.find(|ch| !keep(ch)).unwrap_or(self.rest.len()));
        self.rest = rest;
        token
    }

    pub fn word(&mut self) -> &'a str {
        self.take(|ch| ch.is_ascii_alphanumeric() || ch == '_')
    }

    pub fn number<N: std::str::FromStr>(&mut self) -> Result<N> {
        let digits = self.take(|ch| ch.is_ascii_digit());
        digits.parse().map_err(|_| self.error(format!("a number expected, not '{digits}{}'", self.rest)))
    }
}
