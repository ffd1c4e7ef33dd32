//! The trace: a JSON object a line for each call, in order of the calls, and at the end what is still held. A call is written
//! when it has returned and all before it have.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// A call that has been counted.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) n: u64,
    pub(crate) call: &'static str,
    pub(crate) args: Map<String, Value>,
    pub(crate) result: u32,
    pub(crate) thread: u64,
}

/// A trace that is being written.
#[derive(Debug)]
pub(crate) struct Trace {
    file: BufWriter<File>,
    /// The number of the next line.
    next: u64,
    /// Lines that wait for those before them.
    waiting: BTreeMap<u64, String>,
}

impl Trace {
    /// # Errors
    /// If the file cannot be made.
    pub(crate) fn create(path: &Path) -> std::io::Result<Trace> {
        Ok(Trace { file: BufWriter::new(File::create(path)?), next: 1, waiting: BTreeMap::new() })
    }

    /// A call has returned.
    pub(crate) fn write(&mut self, line: Line) {
        let Line { n, call, args, result, thread } = line;
        let object = json!({"n": n, "call": call, "args": args, "result": result, "thread": thread});
        self.waiting.insert(n, object.to_string());
        while let Some(text) = self.waiting.remove(&self.next) {
            self.next += 1;
            self.put(&text);
        }
        _ = self.file.flush();
    }

    fn put(&mut self, text: &str) {
        // A full disk shows in a trace that ends early; the program is not what fails.
        _ = self.file.write_all(text.as_bytes());
        _ = self.file.write_all(b"\n");
    }

    /// The process ends: calls that have not returned are left out.
    pub(crate) fn finish(&mut self, held: &[Value]) {
        for text in std::mem::take(&mut self.waiting).into_values() {
            self.put(&text);
        }
        self.put(&json!({ "held": held }).to_string());
        _ = self.file.flush();
    }
}
