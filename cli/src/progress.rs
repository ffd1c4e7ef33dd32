//! Progress of long work on stderr, when that is a terminal: how much, rate, time left.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// A bar over bytes; hidden when stderr is no terminal or `quiet`.
pub fn bytes(what: &'static str, quiet: bool) -> ProgressBar {
    bar(what, quiet, "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left")
}

/// A bar over things that are counted; hidden as for [`bytes`].
pub fn count(what: &'static str, quiet: bool) -> ProgressBar {
    bar(what, quiet, "{msg} {wide_bar} {pos}/{len} {eta} left")
}

/// Not drawn before its [`start`].
fn bar(what: &'static str, quiet: bool, template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target((!quiet).then_some(0), ProgressDrawTarget::hidden());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}

/// Begins a bar over `total`, unless it is quiet or has begun.
pub fn start(bar: &ProgressBar, total: u64) {
    if total > 0 && bar.length() == Some(0) {
        bar.set_length(total);
        if std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

/// A callback that moves a bar.
pub fn callback(bar: &ProgressBar) -> impl FnMut(u64, u64) + '_ {
    |done, total| {
        start(bar, total);
        bar.set_position(done);
    }
}
