//! What the engine takes of the machine's memory: one test, as it looks at the whole process.

mod card;

use card::*;
use emu::{Extent, Pattern, Work};

/// Bytes of the machine that the test takes.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn memory_of_the_machine_is_bounded() {
    memory_that_nobody_touches_takes_none_of_the_machine();
    a_long_program_does_not_grow();
}

fn memory_that_nobody_touches_takes_none_of_the_machine() {
    let before = resident();
    let mut card = Card::new(0);
    let all: Vec<u64> = (0..16).map(|_| card.engine.memory().alloc(4 << 30, 256).unwrap()).collect();
    for &base in &all {
        card.launch("write", base + (4 << 30) - BYTES, base, &[]);
    }
    card.finish().unwrap();
    let fill = Work::Fill { to: all[0], pattern: Pattern::D8(1), extent: Extent::linear(32 << 20) };
    card.submit("fill", fill, &[]);
    card.finish().unwrap();
    let taken = resident() - before;
    assert!(taken < 128 << 20, "{taken} bytes");
}

fn a_long_program_does_not_grow() {
    for (seed, learns) in [(0, true), (0, false), (5, false)] {
        let mut card = Card::new(seed);
        let (a, b) = (card.zeros(), card.zeros());
        let mut last = [None; 2];
        let mut before = 0;
        let t = std::time::Instant::now();
        for i in 0..30_000 {
            let (stream, buffer) = if i % 2 == 0 { (0, a) } else { (1, b) };
            let after: Vec<_> = last[stream].map(end).into_iter().collect();
            last[stream] = Some(card.grid("step", 1, [buffer; 3], &after));
            if i % 64 == 0 {
                card.finish().unwrap();
                if learns {
                    last.into_iter().flatten().for_each(|op| card.engine.learn(op));
                }
            }
            if i == 10_000 {
                before = resident();
            }
        }
        card.finish().unwrap();
        eprintln!("{seed} {learns} {:?} {}", t.elapsed(), resident());
        let grown = resident().saturating_sub(before);
        assert!(grown < 16 << 20, "{grown} bytes, seed {seed}");
        last.into_iter().flatten().for_each(|op| card.engine.learn(op));
        assert_eq!(card.word(a), 15_000);
    }
}
