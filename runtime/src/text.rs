//! Token bytes to text, as they come: whole characters only, and nothing of a stop string.
//!
//! What is emitted depends on the bytes alone, not on how they are spread over tokens.

use std::ops::Range;

/// Emits text as soon as it is known not to belong to a stop string.
#[derive(Debug, Default)]
pub struct TextStream {
    stops: Vec<Stop>,
    /// Bytes of a character that is not complete yet: at most 3.
    partial: Vec<u8>,
    /// What is held back: it may begin a stop string.
    text: String,
    /// The parts of `text` that are not to be seen.
    hidden: Vec<Range<usize>>,
    /// What was emitted last.
    emitted: String,
    stopped: bool,
}

/// A stop string and how much of it the text ends with (Knuth, Morris and Pratt).
#[derive(Debug)]
struct Stop {
    bytes: Vec<u8>,
    /// By length of a matched prefix, less one: the length of its longest proper prefix that is a suffix of it.
    shorter: Vec<usize>,
    matched: usize,
}

impl Stop {
    fn new(text: &str) -> Self {
        let mut stop = Stop { bytes: text.into(), shorter: vec![0; text.len()], matched: 0 };
        for i in 1..text.len() {
            stop.advance(text.as_bytes()[i]);
            stop.shorter[i] = stop.matched;
        }
        stop.matched = 0;
        stop
    }

    /// Takes the next byte of the text; true if it completes the stop string.
    fn advance(&mut self, byte: u8) -> bool {
        while self.matched > 0 && self.bytes.get(self.matched) != Some(&byte) {
            self.matched = self.shorter[self.matched - 1];
        }
        self.matched += usize::from(self.bytes.get(self.matched) == Some(&byte));
        self.matched == self.bytes.len()
    }
}

impl TextStream {
    /// A stream that ends where the first of `stops` is complete; of several completed by the same character, the one
    /// that began first counts. Empty ones are ignored.
    pub fn new<S: AsRef<str>>(stops: impl IntoIterator<Item = S>) -> Self {
        let stops = stops.into_iter().filter(|s| !s.as_ref().is_empty()).map(|s| Stop::new(s.as_ref())).collect();
        TextStream { stops, ..TextStream::default() }
    }

    /// Takes the bytes of a token and returns the text that is certain now, often empty. Bytes that are no UTF-8 become
    /// U+FFFD. After a stop string it returns nothing.
    pub fn push(&mut self, bytes: &[u8]) -> &str {
        self.partial.extend_from_slice(bytes);
        self.decode(false);
        self.emit(false)
    }

    /// Takes a text that is not to be seen, such as the name of a control token: stop strings may have it in them. Returns
    /// the text that is certain now.
    pub fn pass(&mut self, text: &str) -> &str {
        let start = self.text.len();
        self.append(text);
        self.hidden.push(start..start + text.len());
        self.emit(false)
    }

    /// Ends the stream and returns what was held back: the begin of a stop string that did not come, and U+FFFD for a
    /// character that was not completed.
    pub fn finish(&mut self) -> &str {
        self.decode(true);
        self.emit(true)
    }

    /// Whether a stop string came. Neither it nor anything after it is emitted.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Decodes the partial bytes; an incomplete character at their end stays unless they are the `last`.
    fn decode(&mut self, last: bool) {
        let mut bytes = std::mem::take(&mut self.partial);
        let mut rest = 0;
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.append(chunk.valid());
            let bad = chunk.invalid();
            let at_end = chunks.peek().is_none() && !last;
            if at_end && std::str::from_utf8(bad).is_err_and(|e| e.error_len().is_none()) {
                rest = bad.len();
            } else if !bad.is_empty() {
                self.append("\u{fffd}");
            }
        }
        bytes.drain(..bytes.len() - rest);
        self.partial = bytes;
    }

    /// Appends to the text, up to a stop string.
    fn append(&mut self, new: &str) {
        for (i, byte) in new.bytes().enumerate() {
            if self.stopped {
                return;
            }
            let complete = self.stops.iter_mut().filter_map(|s| s.advance(byte).then_some(s.bytes.len())).max();
            if let Some(length) = complete {
                let end = self.text.len() + i + 1;
                self.text.push_str(&new[..=i]);
                self.text.truncate(end - length);
                self.stopped = true;
            }
        }
        if !self.stopped {
            self.text.push_str(new);
        }
    }

    /// The text that no stop string can claim any more, or `all`.
    fn emit(&mut self, all: bool) -> &str {
        let held = self.stops.iter().map(|s| s.matched).max().filter(|_| !all && !self.stopped).unwrap_or(0);
        let end = self.text.len() - held;
        self.emitted.clear();
        let mut at = 0;
        for hidden in &mut self.hidden {
            self.emitted.push_str(&self.text[at..hidden.start.clamp(at, end)]);
            at = hidden.end.clamp(at, end);
            *hidden = hidden.start.saturating_sub(end)..hidden.end.saturating_sub(end);
        }
        self.emitted.push_str(&self.text[at..end]);
        self.hidden.retain(|hidden| !hidden.is_empty());
        self.text.drain(..end);
        &self.emitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Streams `tokens` and compares the pieces, the last of which is what `finish` gives.
    #[track_caller]
    fn check(stops: &[&str], tokens: &[&[u8]], pieces: &[&str], stopped: bool) {
        let mut stream = TextStream::new(stops);
        let mut got: Vec<String> = tokens.iter().map(|t| stream.push(t).to_owned()).collect();
        got.push(stream.finish().to_owned());
        assert_eq!((got, stream.stopped()), (pieces.iter().map(|p| p.to_string()).collect(), stopped));
        assert_eq!(stream.finish(), "", "the second finish");

        // However the bytes are cut, the text is the same.
        let bytes = tokens.concat();
        for size in 1..=bytes.len() {
            let mut stream = TextStream::new(stops);
            let mut text: String = bytes.chunks(size).map(|t| stream.push(t).to_owned()).collect();
            text.push_str(stream.finish());
            assert_eq!((text, stream.stopped()), (pieces.concat(), stopped), "in pieces of {size}");
        }
    }

    #[test]
    fn whole_characters() {
        check(&[], &[], &[""], false);
        check(&[], &[b"a", b"", b"bc"], &["a", "", "bc", ""], false);
        check(&[], &[b"\xf0\x9f", b"\x98", b"\x80!"], &["", "", "😀!", ""], false);
        check(&[], &[b"\xe6\xbc\xa2\xe5", b"\xad", b"\x97"], &["漢", "", "字", ""], false);
    }

    #[test]
    fn invalid_bytes() {
        check(&[], &[b"a\xffb"], &["a\u{fffd}b", ""], false);
        check(&[], &[b"\xe2\x82", b"A"], &["", "\u{fffd}A", ""], false);
        check(&[], &[b"\xe2\x82"], &["", "\u{fffd}"], false);
        check(&[], &[b"\xf0\x9f", b"\xf0\x9f\x98\x80"], &["", "\u{fffd}😀", ""], false);
        check(&[], &[b"\x80\x80", b"\xed\xa0\x80"], &["\u{fffd}\u{fffd}", "\u{fffd}\u{fffd}\u{fffd}", ""], false);
    }

    /// Streams texts, those in brackets hidden.
    #[track_caller]
    fn check_hidden(stops: &[&str], texts: &[&str], pieces: &[&str], stopped: bool) {
        let mut stream = TextStream::new(stops);
        let one = |text: &&str| match text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
            Some(hidden) => stream.pass(hidden).to_owned(),
            None => stream.push(text.as_bytes()).to_owned(),
        };
        let mut got: Vec<String> = texts.iter().map(one).collect();
        got.push(stream.finish().to_owned());
        assert_eq!((got, stream.stopped()), (pieces.iter().map(|p| p.to_string()).collect(), stopped));
    }

    #[test]
    fn hidden_text() {
        check_hidden(&[], &["a", "[<x>]", "b"], &["a", "", "b", ""], false);
        check_hidden(&["<x>"], &["a", "[<x>]", "b"], &["a", "", "", ""], true);
        check_hidden(&["<x>b"], &["a", "[<x>]", "b"], &["a", "", "", ""], true);
        check_hidden(&["<x>b"], &["a", "[<x>]", "c", "[<x>]"], &["a", "", "c", "", ""], false);
        check_hidden(&["a<"], &["a", "[<x>]", "b"], &["", "", "", ""], true);
        check_hidden(&["x>b"], &["a", "[<x>]", "cb"], &["a", "", "cb", ""], false);
        check_hidden(&["a<x>b"], &["xa", "[<x>]"], &["x", "", "a"], false);
        check_hidden(&["\n<x>"], &["a", "\n", "[<x>]", "b"], &["a", "", "", "", ""], true);
    }

    #[test]
    fn stop_strings() {
        check(&["STOP"], &[b"a S", b"TO", b"P b", b"c"], &["a ", "", "", "", ""], true);
        check(&["STOP"], &[b"a S", b"TO", b"X"], &["a ", "", "STOX", ""], false);
        check(&["STOP"], &[b"a STO"], &["a ", "STO"], false);
        check(&["", "x"], &[b"a", b"x"], &["a", "", ""], true);
        // Text that fails one stop string may go on to be another.
        check(&["aab"], &[b"aa", b"aab!"], &["", "aa", ""], true);
        check(&["abcd", "bce"], &[b"abc", b"e"], &["", "a", ""], true);
        check(&["abab", "x"], &[b"aba", b"c", b"ababab"], &["", "abac", "", ""], true);
        // The first to be complete counts, and of those the one that began first.
        check(&["abc", "b"], &[b"abc"], &["a", ""], true);
        check(&["c", "bc", "abc"], &[b"xabc"], &["x", ""], true);
        check(&["字", "漢"], &[b"a\xe5\xad", b"\x97\xe6\xbc\xa2"], &["a", "", ""], true);
        check(&["字"], &[b"\xe5\xad", b"\xad"], &["", "孭", ""], false);
        check(&["\n\nQ:"], &[b"A\n", b"\n", b"\n", b"Q:"], &["A", "", "\n", "", ""], true);
    }
}
