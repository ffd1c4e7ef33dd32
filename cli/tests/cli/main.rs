//! The command line from outside: arguments, output, exit codes.

mod artifacts;
mod damage;
mod harness;
mod refusals;
mod run;
