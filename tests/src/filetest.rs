//! File tests: a kernel as text, what to run it on, and what to find in its code. The directives are comments:
//!
//! ```text
//! ; Any other comment says what the test is about.
//! ; targets: sm_90 sm_120             those it is run for; else all CPU targets of this machine, or sm_80 and sm_120
//! ; set: x = f32 1 2.5 inf 0x7fc00000 0*4      what a buffer holds at first; the rest of it is 0xff bytes
//! ; run: tokens 3 position 7          run it; without figures: one token, position 0
//! ; get: y = i32 1 -2 0x80000000      how a buffer then begins, on the interpreter of kernels and on every target
//! ; get: y ~1e-6 = f32 2.718          the same, each within this share of itself
//! ; fault: words                      instead of `get`: the interpreter refuses to go on, with these words
//! ; refused: words                    the kernel does not parse or verify, with these words
//! ; clif: x86-64-v3                   the next lines are about this text: kernel, clif, asm, ptx or sass for a target
//! ; check: add.s32 * %r2              a line that has these fragments, after that of the check before
//! ; next: add.s32                     the line after that
//! ; not: mul                          in no line between the checks around it
//! ; count: 2 bar.sync                 in so many lines of the whole text
//! ```
//! Several `set`, `run`, `get` make several runs. Instead of a kernel a file may have the body of a fused op, for
//! `; generate: linear sm_120 Gpu((ctas: 1, warps: 1, streams: 1, chunk: 32, depth: 0))`: op, target and schedule.

use std::fmt::Write;

/// A value list of a `set` or `get`.
#[derive(Debug, Clone, PartialEq)]
pub struct Words {
    /// Name of the buffer.
    pub buffer: String,
    /// Share of itself that each may be off by.
    pub tolerance: f32,
    /// Element type: `i8`, `u8`, `i16`, `u16`, `i32` or `f32`.
    pub ty: String,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Number of the line.
    pub line: usize,
}

/// One execution.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Run {
    /// Tokens of the step.
    pub tokens: u32,
    /// Position of the first.
    pub position: u32,
    /// What buffers hold before.
    pub set: Vec<Words>,
    /// How they begin after.
    pub get: Vec<Words>,
    /// Words of the fault that it ends with.
    pub fault: Option<String>,
}

/// What to find in a text.
#[derive(Debug, Clone, PartialEq)]
pub enum Check {
    /// In a later line.
    Later(String),
    /// In the next line.
    Next(String),
    /// In no line before the next check.
    Not(String),
    /// In so many lines.
    Count(usize, String),
}

/// What to find in the text of a stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing {
    /// `kernel`, `clif`, `asm`, `ptx` or `sass`.
    pub stage: String,
    /// Name of the target.
    pub target: String,
    /// In this order.
    pub checks: Vec<Check>,
}

/// A fused op, its target and its schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct Generate {
    /// Name of the op.
    pub op: String,
    /// Name of the target.
    pub target: String,
    /// The schedule in RON.
    pub schedule: String,
}

/// A file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FileTest {
    /// Names of the targets, if it says which.
    pub targets: Vec<String>,
    /// Words of the refusal.
    pub refused: Option<String>,
    /// Executions, in order.
    pub runs: Vec<Run>,
    /// Texts to look at.
    pub listings: Vec<Listing>,
    /// How its kernel is made, if it is not the kernel itself.
    pub generate: Option<Generate>,
}

/// Stages that a listing may be of.
const STAGES: [&str; 5] = ["kernel", "clif", "asm", "ptx", "sass"];

impl FileTest {
    /// Reads the directives of a file.
    ///
    /// # Errors
    /// A sentence with the line.
    pub fn parse(text: &str) -> Result<FileTest, String> {
        let mut test = FileTest::default();
        // What `set` has gathered for the next `run`.
        let mut set = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let Some((name, rest)) = line.strip_prefix("; ").and_then(|l| l.split_once(':')) else { continue };
            let (name, rest, line) = (name.trim(), rest.trim().to_owned(), at + 1);
            if name.contains(' ') || name.starts_with(|c: char| c.is_uppercase()) {
                continue;
            }
            let bad = |what: &str| format!("line {line}: {what}");
            let run = || bad("no 'run:' before");
            match name {
                "targets" => test.targets = rest.split_whitespace().map(String::from).collect(),
                "refused" => test.refused = Some(rest),
                "generate" => {
                    let mut parts = rest.splitn(3, ' ').map(String::from);
                    let mut part = || parts.next().ok_or_else(|| bad("an op, a target and a schedule expected"));
                    test.generate = Some(Generate { op: part()?, target: part()?, schedule: part()? });
                }
                "set" => set.push(words(&rest, line)?),
                "run" => {
                    let mut run = Run { tokens: 1, set: std::mem::take(&mut set), ..Run::default() };
                    for pair in rest.split_whitespace().collect::<Vec<_>>().chunks(2) {
                        let figure = match pair[0] {
                            "tokens" => &mut run.tokens,
                            "position" => &mut run.position,
                            other => return Err(bad(&format!("'{other}' is no figure of a run"))),
                        };
                        *figure = pair.get(1).and_then(|v| v.parse().ok()).ok_or_else(|| bad("a number expected"))?;
                    }
                    test.runs.push(run);
                }
                "get" => test.runs.last_mut().ok_or_else(run)?.get.push(words(&rest, line)?),
                "fault" => test.runs.last_mut().ok_or_else(run)?.fault = Some(rest),
                stage if STAGES.contains(&stage) => {
                    test.listings.push(Listing { stage: stage.into(), target: rest, checks: Vec::new() });
                }
                _ => {
                    let check = match name {
                        "check" => Check::Later(rest),
                        "next" => Check::Next(rest),
                        "not" => Check::Not(rest),
                        "count" => {
                            let (n, what) = rest.split_once(' ').ok_or_else(|| bad("a number and a text expected"))?;
                            Check::Count(n.parse().map_err(|_| bad("a number expected"))?, what.into())
                        }
                        other => return Err(bad(&format!("'{other}' is no directive"))),
                    };
                    test.listings.last_mut().ok_or_else(|| bad("no stage before"))?.checks.push(check);
                }
            }
        }
        if set.is_empty() { Ok(test) } else { Err("a 'set:' without a 'run:' after it".into()) }
    }
}

/// `buffer = type values`.
fn words(text: &str, line: usize) -> Result<Words, String> {
    let bad = |what: String| format!("line {line}: {what}");
    let (left, right) = text.split_once('=').ok_or_else(|| bad("'=' expected".into()))?;
    let (buffer, tolerance) = left.split_once('~').unwrap_or((left, "0"));
    let tolerance = tolerance.trim().parse().map_err(|_| bad(format!("'{tolerance}' is no tolerance")))?;
    let mut tokens = right.split_whitespace();
    let ty = tokens.next().unwrap_or_default();
    let mut bytes = Vec::new();
    for token in tokens {
        let (value, count) = token.split_once('*').unwrap_or((token, "1"));
        let value = element(ty, value).ok_or_else(|| bad(format!("'{value}' is no {ty}")))?;
        let count: usize = count.parse().map_err(|_| bad(format!("'{count}' is no number")))?;
        bytes.extend(value.repeat(count));
    }
    Ok(Words { buffer: buffer.trim().into(), tolerance, ty: ty.into(), bytes, line })
}

/// The bytes of one value; hexadecimal ones are bits.
fn element(ty: &str, value: &str) -> Option<Vec<u8>> {
    let size = size(ty)?;
    if let Some(hex) = value.strip_prefix("0x") {
        return Some(u32::from_str_radix(hex, 16).ok()?.to_le_bytes()[..size].to_vec());
    }
    if ty == "f32" {
        return Some(value.parse::<f32>().ok()?.to_le_bytes().to_vec());
    }
    Some(value.parse::<i64>().ok()?.to_le_bytes()[..size].to_vec())
}

/// Bytes of an element.
fn size(ty: &str) -> Option<usize> {
    match ty {
        "i8" | "u8" => Some(1),
        "i16" | "u16" => Some(2),
        "i32" | "f32" => Some(4),
        _ => None,
    }
}

impl Words {
    /// The elements of some bytes, as text.
    pub fn print(&self, bytes: &[u8]) -> String {
        let mut out = self.ty.clone();
        for b in bytes.chunks_exact(size(&self.ty).unwrap_or(1)) {
            _ = match *b {
                [b] if self.ty == "u8" => write!(out, " {b}"),
                [b] => write!(out, " {}", b as i8),
                [a, b] if self.ty == "u16" => write!(out, " {}", u16::from_le_bytes([a, b])),
                [a, b] => write!(out, " {}", i16::from_le_bytes([a, b])),
                [a, b, c, d] if self.ty == "f32" && f32::from_le_bytes([a, b, c, d]).is_nan() => {
                    write!(out, " {:#x}", u32::from_le_bytes([a, b, c, d]))
                }
                [a, b, c, d] if self.ty == "f32" => write!(out, " {:?}", f32::from_le_bytes([a, b, c, d])),
                [a, b, c, d] => write!(out, " {}", i32::from_le_bytes([a, b, c, d])),
                _ => Ok(()),
            };
        }
        out
    }

    /// Whether `bytes` begin as these do. NaN are equal to each other.
    pub fn agree(&self, bytes: &[u8]) -> bool {
        let Some(bytes) = bytes.get(..self.bytes.len()) else { return false };
        if self.ty != "f32" {
            return bytes == self.bytes;
        }
        let floats = |b: &[u8]| b.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>();
        floats(bytes).iter().zip(floats(&self.bytes)).all(|(a, e)| {
            let close = self.tolerance > 0.0 && e.is_finite() && (a - e).abs() <= self.tolerance * e.abs();
            a.to_bits() == e.to_bits() || (a.is_nan() && e.is_nan()) || close
        })
    }
}

/// Whether a line has the fragments that stars separate, in order.
fn has(line: &str, fragments: &str) -> bool {
    let mut rest = line;
    fragments.split(" * ").all(|f| {
        let found = rest.split_once(f.trim());
        rest = found.map_or("", |(_, after)| after);
        found.is_some()
    })
}

/// Checks a text.
///
/// # Errors
/// The check that fails.
pub fn check(text: &str, checks: &[Check]) -> Result<(), String> {
    // Runs of spaces and tabs are one space.
    let lines = text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "));
    let lines: Vec<String> = lines.filter(|l| !l.is_empty()).collect();
    let mut at = 0;
    let mut absent: Vec<&str> = Vec::new();
    let none = |absent: &mut Vec<&str>, lines: &[String]| match absent
        .drain(..)
        .find_map(|what| lines.iter().find(|l| has(l, what)).map(|l| (what, l)))
    {
        Some((what, line)) => Err(format!("'{what}' is in '{line}'")),
        None => Ok(()),
    };
    for check in checks {
        match check {
            Check::Later(what) => {
                let found = lines[at..].iter().position(|l| has(l, what));
                let found = found.ok_or_else(|| format!("'{what}' is in no line after line {at}"))?;
                none(&mut absent, &lines[at..at + found])?;
                at += found + 1;
            }
            Check::Next(what) => {
                let line = lines.get(at).map_or("", String::as_str);
                if !has(line, what) {
                    return Err(format!("'{what}' is not in the next line, '{line}'"));
                }
                at += 1;
            }
            Check::Not(what) => absent.push(what),
            Check::Count(n, what) => {
                let found = lines.iter().filter(|l| has(l, what)).count();
                if found != *n {
                    return Err(format!("'{what}' is in {found} lines, expected {n}"));
                }
            }
        }
    }
    none(&mut absent, &lines[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_find_what_they_say() {
        let text = "add a, b\n\tmul  c\nadd d\nret\n";
        for (checks, error) in [
            ("check: add\nnext: mul c\ncheck: add * d\nnot: mul", None),
            ("check: mul\ncheck: mul", Some("'mul' is in no line after line 2")),
            ("check: add\nnext: ret", Some("'ret' is not in the next line, 'mul c'")),
            ("check: add a\nnot: mul\ncheck: ret", Some("'mul' is in 'mul c'")),
            ("check: mul\nnot: ret", Some("'ret' is in 'ret'")),
            ("count: 2 add", None),
            ("count: 1 add", Some("'add' is in 2 lines, expected 1")),
            ("check: b * a", Some("'b * a' is in no line after line 0")),
        ] {
            let directives: String = checks.lines().map(|l| format!("; {l}\n")).collect();
            let test = FileTest::parse(&format!("; ptx: sm_80\n{directives}")).unwrap();
            assert_eq!(check(text, &test.listings[0].checks).err().as_deref(), error, "{checks}");
        }
    }

    #[test]
    fn directives_are_refused_with_their_line() {
        for (text, error) in [
            ("; check: x", "line 1: no stage before"),
            ("; get: x = i32 1", "line 1: no 'run:' before"),
            ("\n; chek: x", "line 2: 'chek' is no directive"),
            ("; set: x = i32 one\n; run:", "line 1: 'one' is no i32"),
            ("; set: x = i64 1\n; run:", "line 1: '1' is no i64"),
            ("; run: threads 2", "line 1: 'threads' is no figure of a run"),
            ("; set: x = i32 1", "a 'set:' without a 'run:' after it"),
            ("; generate: linear sm_80", "line 1: an op, a target and a schedule expected"),
        ] {
            assert_eq!(FileTest::parse(text).unwrap_err(), error);
        }
    }

    #[test]
    fn values_agree_within_their_tolerance() {
        let words = |text: &str| words(text, 1).unwrap();
        let floats = words("y ~1e-3 = f32 1 -2 0x7fc00000 inf 0*2");
        for (text, agrees) in [
            ("y = f32 1.0005 -2 nan inf 0 0", true),
            ("y = f32 1.002 -2 nan inf 0 0", false),
            ("y = f32 1 -2 1 inf 0 0", false),
            ("y = f32 1 -2 nan 1 0 0", false),
            ("y = f32 1 -2 nan inf 0", false),
        ] {
            assert_eq!(floats.agree(&words(text).bytes), agrees, "{text}");
        }
        let bytes = words("x = i8 -1 2 0xff");
        assert_eq!((bytes.bytes.as_slice(), bytes.print(&bytes.bytes).as_str()), (&[255, 2, 255][..], "i8 -1 2 -1"));
        assert!(!words("y = f32 0").agree(&(-0f32).to_le_bytes()), "zeros have signs");
    }
}
