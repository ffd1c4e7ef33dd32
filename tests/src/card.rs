//! A card for tests: what kernels are like then changes with their generators only, not with the figures of a real card.

use ir::target::{Card, Gpu, Machine, Target};

/// Few multiprocessors, so that emulating one is quick, and round figures.
static CARD: Card = Card {
    name: "test",
    sms: 16,
    shared_bytes: 96 << 10,
    sm_shared_bytes: 100 << 10,
    bandwidth: 1000,
    clock: 2000,
    memory_bytes: 16 << 30,
};

/// A target with this card if it is a GPU.
pub fn on_test_card(target: &Target) -> Target {
    match target.machine {
        Machine::Gpu(gpu) => Target { machine: Machine::Gpu(Gpu { card: &CARD, ..gpu }), ..*target },
        Machine::Cpu(_) => *target,
    }
}
