//! A stand-in for the CUDA driver: the driver API of `libcuda.so` over a PTX emulator, so that CUDA programs can be tested
//! without a GPU. It is stricter than a driver (`finding`), and a device only where `CUDA_STANDIN` is set (`settings`).
//!
//! An exported function is declared in `api`, goes through `call::enter`, and does what it does to `state::Driver` under one
//! lock. What is ordered by a stream goes through `stream::enqueue` as an `operation`, which `submit` makes work of `emu::Engine`;
//! `progress` says who turns that. Modules use each other in no circle: what they share is in `state`.
#![deny(missing_docs)]

mod abi;
mod api;
mod arguments;
mod call;
mod capture;
mod cards;
mod code;
mod dag;
mod error;
mod finding;
mod graph;
mod image;
mod jit;
mod lifetime;
mod limits;
mod loading;
mod memory;
mod objects;
mod operation;
mod options;
mod progress;
mod replay;
mod settings;
mod slots;
mod state;
mod stream;
mod submit;
mod thread;
mod trace;
mod work;
