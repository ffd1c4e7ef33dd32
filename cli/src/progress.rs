//! Progress of long work on stderr, when that is a terminal: how much, rate, time left.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use runtime::device::Assembling;
use std::io::IsTerminal;
use std::rc::Rc;

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

/// A bar over kernels of which a driver makes machine code.
#[derive(Debug)]
struct Assembly(ProgressBar);

/// A bar for when a card's driver makes machine code; hidden as for [`bytes`].
pub fn assembly(quiet: bool) -> Rc<dyn Assembling> {
    Rc::new(Assembly(count("making machine code", quiet)))
}

impl Assembling for Assembly {
    fn assembled(&self, card: &str, done: u64, all: u64) {
        if done == 0 {
            self.0.set_message(format!("making machine code for {card}"));
        }
        start(&self.0, all);
        self.0.set_position(done);
    }

    fn ended(&self) {
        self.0.finish_and_clear();
    }
}
