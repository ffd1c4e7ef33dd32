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

fn bar(what: &'static str, quiet: bool, template: &str) -> ProgressBar {
    if quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}

/// A callback that moves a bar.
pub fn callback(bar: &ProgressBar) -> impl FnMut(u64, u64) + '_ {
    |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    }
}
