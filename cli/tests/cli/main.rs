//! The command line from outside: arguments, output, exit codes.

mod artifacts;
mod bench;
mod card;
mod cases;
mod chat;
mod damage;
mod emulate;
mod files;
mod harness;
mod mistakes;
mod mutations;
mod perplexity;
mod predict;
mod refusals;
mod run;
mod schedules;
mod synth;
mod templates;
