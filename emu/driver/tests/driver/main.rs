//! The library as programs use it: loaded by name, in a process of its own for each case. A case is a test whose body runs in
//! a child process with `CUDA_STANDIN` set; what the child printed and how it ended is then looked at.

mod child;
mod kernels;

mod captures;
mod clients;
mod code;
mod contexts;
mod copies;
mod failures;
mod findings;
mod graphs;
mod launches;
mod safe;
mod streams;
mod vectors;
