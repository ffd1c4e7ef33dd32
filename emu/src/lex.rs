//! PTX text to tokens, each with its line. A word is an identifier without its dots; `.a::b` is one dotted word. Debug
//! lines (`@@DWARF`) and comments vanish here. Next hop: [`crate::parse`].

use crate::parse_error::ParseError;

/// A token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Tok<'a> {
    /// An identifier, `%` and `$` included.
    Word(&'a str),
    /// A dotted word, without its dot.
    Dot(&'a str),
    /// An integer.
    Int(u64),
    /// A float of the given bits: 32 or 64.
    Float {
        bits: u64,
        wide: bool,
    },
    Str(&'a str),
    Punct(u8),
    End,
}

/// A token and the line it stands on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Token<'a> {
    pub(crate) tok: Tok<'a>,
    pub(crate) line: u32,
}

fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%')
}

/// The tokens of a text; the last is `End`.
pub(crate) fn tokens(text: &str) -> Result<Vec<Token<'_>>, ParseError> {
    // A driver takes PTX as a C string, so that a file may end with its zero byte.
    let text = text.trim_end_matches('\0');
    let bytes = text.as_bytes();
    let (mut at, mut line) = (0, 1);
    let mut out = Vec::new();
    let run = |from: usize, test: fn(u8) -> bool| from + bytes[from..].iter().take_while(|&&c| test(c)).count();
    while at < bytes.len() {
        let c = bytes[at];
        let rest = &bytes[at..];
        let start = at;
        let tok = if c == b'\n' {
            line += 1;
            at += 1;
            continue;
        } else if c.is_ascii_whitespace() {
            at += 1;
            continue;
        } else if rest.starts_with(b"//") || rest.starts_with(b"@@") {
            at = run(at, |c| c != b'\n');
            continue;
        } else if rest.starts_with(b"/*") {
            let length = text.get(at + 2..).and_then(|t| t.find("*/"));
            let Some(length) = length else { return Err(ParseError::new(line, "a comment is not closed")) };
            line += bytes[at..at + 2 + length].iter().filter(|&&c| c == b'\n').count() as u32;
            at += length + 4;
            continue;
        } else if c == b'"' {
            at = run(at + 1, |c| c != b'"' && c != b'\n') + 1;
            if bytes.get(at - 1) != Some(&b'"') {
                return Err(ParseError::new(line, "a string is not closed"));
            }
            Tok::Str(&text[start + 1..at - 1])
        } else if c.is_ascii_digit() {
            let (tok, end) = number(text, at).ok_or_else(|| ParseError::new(line, "a number is malformed"))?;
            at = end;
            tok
        } else if c == b'.' && rest.get(1).is_some_and(|&c| is_word(c)) {
            at = run(at + 1, is_word);
            while bytes[at..].starts_with(b"::") && bytes.get(at + 2).is_some_and(|&c| is_word(c)) {
                at = run(at + 2, is_word);
            }
            Tok::Dot(&text[start + 1..at])
        } else if is_word(c) {
            at = run(at, is_word);
            Tok::Word(&text[start..at])
        } else if c.is_ascii_punctuation() {
            at += 1;
            Tok::Punct(c)
        } else {
            let shown = text[at..].chars().next().unwrap_or(' ');
            return Err(ParseError::new(line, format!("unexpected character {shown:?}")));
        };
        out.push(Token { tok, line });
    }
    out.push(Token { tok: Tok::End, line });
    Ok(out)
}

/// The number that starts at `at`, and where it ends.
fn number(text: &str, at: usize) -> Option<(Tok<'_>, usize)> {
    let bytes = text.as_bytes();
    let alnum = at + bytes[at..].iter().take_while(|c| c.is_ascii_alphanumeric()).count();
    let word = &text[at..alnum];
    let hex =
        |digits: &str, count: usize| (digits.len() == count).then(|| u64::from_str_radix(digits, 16).ok()).flatten();
    let lower = word.to_ascii_lowercase();
    if let Some(digits) = lower.strip_prefix("0f") {
        return Some((Tok::Float { bits: hex(digits, 8)?, wide: false }, alnum));
    }
    if let Some(digits) = lower.strip_prefix("0d") {
        return Some((Tok::Float { bits: hex(digits, 16)?, wide: true }, alnum));
    }
    let is_float = bytes.get(alnum) == Some(&b'.') || (lower.contains('e') && !lower.starts_with("0x"));
    if is_float {
        let digit = |at: usize| at + bytes.get(at..).unwrap_or(&[]).iter().take_while(|c| c.is_ascii_digit()).count();
        let mut end = digit(at);
        if bytes.get(end) == Some(&b'.') {
            end = digit(end + 1);
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            end = digit(end + 1 + sign);
        }
        let value: f64 = text[at..end].parse().ok()?;
        return Some((Tok::Float { bits: value.to_bits(), wide: true }, end));
    }
    let digits = lower.strip_suffix('u').unwrap_or(&lower);
    let value = if let Some(d) = digits.strip_prefix("0x") {
        u64::from_str_radix(d, 16).ok()?
    } else if let Some(d) = digits.strip_prefix("0b") {
        u64::from_str_radix(d, 2).ok()?
    } else if digits.len() > 1 && digits.starts_with('0') {
        u64::from_str_radix(digits, 8).ok()?
    } else {
        digits.parse().ok()?
    };
    Some((Tok::Int(value), alnum))
}
