//! llama-bench as a child process: one run of prefill and decode, its figures as JSON.

use crate::failure::usage;
use anyhow::Result;
use ir::quote;
use serde::Deserialize;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often Ctrl-C is looked at while llama-bench runs.
const POLL: Duration = Duration::from_millis(20);

/// How long llama-bench may take where rigc took `ours`: it loads the model each time, and may be slower.
pub fn patience(ours: Duration) -> Duration {
    Duration::from_secs(600) + ours * 20
}

/// Most bytes that are read of each of its outputs; llama-bench prints a few thousand.
const MOST: u64 = 1 << 20;
/// Most characters of its last words that an error repeats.
const SAID: usize = 200;
/// The signal of Ctrl-C.
const SIGINT: i32 = 2;

/// What llama-bench is to run.
pub struct Peer<'a> {
    pub program: &'a Path,
    pub model: &'a Path,
    pub threads: usize,
    pub prompt: usize,
    pub tokens: usize,
    pub depth: usize,
    /// Format of the KV cache.
    pub kv: &'a str,
}

/// One test of llama-bench's output.
#[derive(Deserialize)]
struct Test {
    n_prompt: usize,
    n_gen: usize,
    avg_ts: f64,
}

/// A child that does not outlive this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if it has ended and been waited for, and then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Peer<'_> {
    /// Prompt tokens and generated tokens a second; `None` if interrupted.
    ///
    /// # Errors
    /// If it cannot be started, fails, prints something else, or takes longer than `patience`.
    pub fn run(&self, patience: Duration, interrupted: &AtomicBool) -> Result<Option<(f64, f64)>> {
        let mut command = Command::new(self.program);
        command.arg("-m").arg(self.model);
        let mut numbers = vec![("-t", self.threads), ("-p", self.prompt), ("-n", self.tokens), ("-r", 1)];
        // Older versions do not know it.
        if self.depth > 0 {
            numbers.push(("-d", self.depth));
        }
        for (flag, n) in numbers {
            command.args([flag, &n.to_string()]);
        }
        command.args(["-ctk", self.kv, "-ctv", self.kv, "-o", "json"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = |what: &str| usage(format!("{} {what}", self.program.display()));
        let child = command.spawn().map_err(|e| failed(&format!("cannot be started: {e}")))?;
        let mut running = Running(child);
        let out = collect(running.0.stdout.take());
        let err = collect(running.0.stderr.take());
        let end = Instant::now() + patience;
        let status = loop {
            if let Some(status) = running.0.try_wait()? {
                break status;
            }
            if interrupted.load(Ordering::Relaxed) {
                return Ok(None);
            }
            if Instant::now() >= end {
                return Err(failed(&format!("has not ended after {:.0} s, and was stopped", patience.as_secs_f64())));
            }
            std::thread::sleep(POLL);
        };
        // Ctrl-C reaches it too, and may end it first.
        if interrupted.load(Ordering::Relaxed) || status.signal() == Some(SIGINT) {
            return Ok(None);
        }
        let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
        if !status.success() {
            let said = err.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing");
            let said = quote::plain(said.trim(), SAID);
            return Err(failed(&format!("ended with {status}: {said}")));
        }
        self.rates(&out).map(Some).ok_or_else(|| failed("did not print the figures of llama-bench -o json; is it one?"))
    }

    /// The figures in llama-bench's JSON.
    fn rates(&self, json: &str) -> Option<(f64, f64)> {
        let tests: Vec<Test> = serde_json::from_str(json).ok()?;
        let rate = |prompt, gen_| {
            let test = tests.iter().find(|t| (t.n_prompt, t.n_gen) == (prompt, gen_));
            test.map(|t| t.avg_ts).filter(|&r| r.is_finite() && r > 0.0)
        };
        Some((rate(self.prompt, 0)?, rate(0, self.tokens)?))
    }
}

/// Reads what a child prints while it runs, so that it does not wait for a reader; one that prints too much loses its pipe.
fn collect(from: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(from) = from {
            // What was read before an error is what there is.
            let _ = from.take(MOST).read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        let path = Path::new("llama-bench");
        let peer = Peer { program: path, model: path, threads: 2, prompt: 16, tokens: 4, depth: 8, kv: "f16" };
        let test = |prompt, n, ts| format!(r#"{{"n_prompt": {prompt}, "n_gen": {n}, "n_depth": 8, "avg_ts": {ts}}}"#);
        let json = format!("[{}, {}]", test(16, 0, 100.5), test(0, 4, 7.25));
        assert_eq!(peer.rates(&json), Some((100.5, 7.25)));
        assert_eq!(peer.rates(&format!("[{}]", test(16, 0, 1.0))), None);
        assert_eq!(peer.rates(&format!("[{}, {}]", test(16, 0, 0.0), test(0, 4, 7.0))), None);
        assert_eq!(peer.rates("no JSON"), None);
    }

    #[test]
    fn one_that_hangs_is_stopped() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("llama-bench");
        std::fs::write(&path, "#!/bin/sh\nexec sleep 1000\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let peer = Peer { program: &path, model: &path, threads: 2, prompt: 16, tokens: 4, depth: 8, kv: "f16" };
        let (start, never) = (Instant::now(), AtomicBool::new(false));
        let error = peer.run(Duration::from_millis(300), &never).unwrap_err().to_string();
        assert!(error.contains("llama-bench has not ended after 0 s"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(100));
    }
}
