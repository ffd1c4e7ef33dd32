//! Text that is not ours in messages: names from files, what a template or another program says.
//!
//! Invariant: what comes out is a line of bounded length that a terminal shows and does not obey.

/// Most characters of a name in a message.
const NAME: usize = 100;

/// A name in quotes; see [`plain`].
pub fn quoted(name: &str) -> String {
    format!("'{}'", plain(name, NAME))
}

/// At most `most` characters of a text, without its middle if it is longer. What would control a terminal, or change the
/// order or the place of what it shows, is escaped.
pub fn plain(text: &str, most: usize) -> String {
    let half = most / 2;
    // Only both ends are looked at, as the text may be long.
    let cut = text.char_indices().nth(half).zip(text.char_indices().rev().nth(half.saturating_sub(1)));
    match cut.filter(|_| text.chars().nth(most).is_some()) {
        Some(((head, _), (tail, _))) => format!("{}…{}", escaped(&text[..head]), escaped(&text[tail..])),
        None => escaped(text),
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if commands(c) {
            out.extend(c.escape_debug());
        } else {
            out.push(c);
        }
    }
    out
}

/// Whether a character does something else than being shown: controls, ends of lines, marks of direction, and what has
/// no width.
fn commands(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_and_does_not_obey() {
        #[track_caller]
        fn check(text: &str, most: usize, want: &str) {
            assert_eq!(plain(text, most), want);
        }
        check("blk.0.attn_q é 'x'", 100, "blk.0.attn_q é 'x'");
        check("a\u{1b}[2J\u{7}\nb\r\t\u{9b}", 100, "a\\u{1b}[2J\\u{7}\\nb\\r\\t\\u{9b}");
        check("a\u{202e}b\u{2028}c\u{200b}\u{feff}", 100, "a\\u{202e}b\\u{2028}c\\u{200b}\\u{feff}");
        check("abcdef", 6, "abcdef");
        check("abcdefg", 6, "abc…efg");
        check("äöüß…€", 4, "äö…\u{2026}€");
        check("", 4, "");
        assert_eq!(quoted(&"n\n".repeat(10_000)), format!("'{}…{}'", "n\\n".repeat(25), "n\\n".repeat(25)));
    }
}
