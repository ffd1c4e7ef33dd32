//! Rings, the KV caches of windows: how far back they still hold what a window sees.
//!
//! A ring has room for a window and [`ring_slack`] positions more. Invariant: `written` is past the last position whose row has
//! been written since all rings were last begun anew, at position 0.

use ir::artifact::Manifest;
use ir::state::ring_slack;

/// The rings of a model, if it has any.
pub(super) struct Rings {
    /// Tokens that can be forgotten; `None`: all, as there are no rings, or what they hold is of no tokens.
    slack: Option<usize>,
    written: usize,
}

impl Rings {
    /// Those among the states of a manifest.
    pub fn new(manifest: &Manifest) -> Rings {
        let step = manifest.entries.iter().map(|e| e.tokens as usize).max().unwrap_or(1);
        let any = manifest.states.iter().any(|s| s.is_ring());
        Rings { slack: any.then(|| ring_slack(step)), written: 0 }
    }

    /// What they hold is taken for that of every position.
    pub fn hold_all(&mut self) {
        self.slack = None;
    }

    /// Whether a step may begin at `position`, at which there has been one.
    pub fn hold(&self, position: usize) -> bool {
        position == 0 || self.slack.is_none_or(|slack| self.written.saturating_sub(position) <= slack)
    }

    /// The next step begins at `position`, which they hold.
    pub fn go_back(&mut self, position: usize) {
        if position == 0 {
            self.written = 0;
        }
    }

    /// A step has brought them to `position`.
    pub fn advance(&mut self, position: usize) {
        self.written = self.written.max(position);
    }
}
