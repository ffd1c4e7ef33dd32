//! The engine: what operations do, when, and what they leave behind.

mod card;

use card::*;
use emu::{
    Card as Hardware, Compare, Error, Extent, FaultKind, Launch, LaunchError, MemoryError, Options, Pattern, Pitch,
};
use emu::{Place, Turn, Variable, Word, Work};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[test]
fn a_chain_of_copies_fills_and_kernels_does_what_it_says() {
    for seed in 0..SEEDS {
        let mut card = Card::new(seed);
        let (a, b) = (card.zeros(), card.engine.memory().alloc(BYTES, 256).unwrap());
        let (from, to) = (Shared::new(&[7; BYTES as usize]), Shared::new(&[0; BYTES as usize]));
        let up = card.up(&from, a, &[]);
        let step = card.launch("step", a, b, &[end(up)]);
        let back = card.copy(b, a, BYTES, &[end(step)]);
        let half = Extent::linear(BYTES / 2);
        let fill = Work::Fill { to: a, pattern: Pattern::D16(0x0102), extent: half };
        let fill = card.submit("fill", fill, &[end(back)]);
        let down = card.down(a, &to, &[end(fill)]);
        card.wait(down);
        assert_eq!(to.bytes()[..BYTES as usize / 2], [2, 1].repeat(BYTES as usize / 4));
        assert_eq!(to.bytes()[BYTES as usize / 2..], [8, 7, 7, 7].repeat(BYTES as usize / 8));
        assert_eq!(card.engine.pending(), 0);
    }
}

#[test]
fn a_copy_reads_when_it_runs_and_is_there_when_it_has_ended() {
    for seed in 0..SEEDS {
        let mut card = Card::new(seed);
        let a = card.zeros();
        let from = Shared::new(&[1; BYTES as usize]);
        let up = card.up(&from, a, &[]);
        assert_eq!(card.engine.memory().read(a, 1).unwrap(), [0]);
        from.0.lock().unwrap().fill(9);
        card.wait(up);
        assert_eq!(card.engine.memory().read(a, BYTES).unwrap(), [9; BYTES as usize]);
    }
}

/// What the turns come to, as text.
fn story(seed: u64) -> String {
    let mut card = Card::new(seed);
    let buffers: Vec<u64> = (0..3).map(|_| card.engine.memory().alloc_with(vec![3; 1 << 20], 256).unwrap()).collect();
    let twin = card.engine.memory().alloc(1 << 20, 256).unwrap();
    card.copy(buffers[0], twin, 1 << 20, &[]);
    let steps: Vec<_> = (1..3).map(|i| card.launch("step", buffers[i], buffers[i], &[])).collect();
    card.submit("join", Work::Nothing, &[end(steps[0]), end(steps[1])]);
    let mut story = String::new();
    loop {
        match card.engine.turn() {
            Turn::Idle => return story,
            turn => story += &format!("{turn:?} {};", card.engine.memory().read(twin, 1 << 20).is_ok()),
        }
    }
}

#[test]
fn the_same_calls_with_the_same_seed_do_the_same() {
    let stories: Vec<String> = (0..SEEDS).map(story).collect();
    for seed in 0..SEEDS {
        assert_eq!(story(seed), stories[seed as usize]);
    }
    let different: std::collections::HashSet<&String> = stories.iter().collect();
    assert!(different.len() > 6, "{different:?}");
}

#[test]
fn other_seeds_begin_late_and_in_any_order_and_split_copies() {
    let (mut orders, mut torn) = (std::collections::HashSet::new(), 0);
    for seed in 0..3 * SEEDS {
        let mut card = Card::new(seed);
        let a = card.zeros();
        let (from, to) = (Shared::new(&vec![1; 1 << 20]), Shared::new(&vec![0; 1 << 20]));
        let big = card.engine.memory().alloc(1 << 20, 256).unwrap();
        let ops = [card.launch("step", a, a, &[]), card.up(&from, big, &[])];
        let other = Work::Fill { to: card.zeros(), pattern: Pattern::D8(0), extent: Extent::linear(8) };
        let ops = [ops[0], ops[1], card.submit("fill", other, &[])];
        let down = card.down(big, &to, &[end(ops[1])]);
        let mut order = Vec::new();
        while !card.engine.done(down) || order.len() < 3 {
            let turn = card.engine.turn();
            if let Turn::Ended(op) = turn {
                order.extend(ops.iter().position(|o| *o == op));
            }
            assert!(!matches!(turn, Turn::Idle | Turn::Failed(..)), "{turn:?}");
            let sum: usize = to.bytes().iter().map(|&b| usize::from(b)).sum();
            torn += usize::from(sum > 0 && sum < 1 << 20);
        }
        orders.insert(order.clone());
        assert!(seed != 0 || (order == [1, 2, 0] && torn == 0), "{order:?}");
    }
    assert!(orders.len() == 6 && torn > 10, "{orders:?} {torn}");
}

#[test]
fn rows_and_slices_are_where_the_pitches_say() {
    let mut random = 7u64;
    let mut below = |n: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % n
    };
    for round in 0..200 {
        let mut card = Card::new(round % 5);
        let (row_bytes, rows, slices) = (below(40), below(5), below(4));
        let mut pitch = || {
            let row = row_bytes + below(3) * below(9);
            Pitch { row, slice: row * rows + below(2) * below(50) }
        };
        let extent = Extent { row_bytes, rows, slices, from: pitch(), to: pitch() };
        let bytes: Vec<u8> = (0..BYTES).map(|i| (i * 7 + round) as u8).collect();
        let mut wanted = vec![0; BYTES as usize];
        let places = (0..slices).flat_map(|s| (0..rows).map(move |r| (s, r)));
        for (s, r) in places {
            let (from, to) = (s * extent.from.slice + r * extent.from.row, s * extent.to.slice + r * extent.to.row);
            for i in 0..row_bytes {
                wanted[(to + i) as usize] = bytes[(from + i) as usize];
            }
        }
        let (a, b) = (card.engine.memory().alloc_with(bytes.clone(), 256).unwrap(), card.zeros());
        let (host, back) = (Shared::new(&bytes), Shared::new(&vec![0; BYTES as usize]));
        let copy = |from, to| Work::Copy { from, to, extent };
        card.submit("up", copy(host.place(), Place::Device(b)), &[]);
        card.finish().unwrap();
        assert_eq!(card.engine.memory().read(b, BYTES).unwrap(), wanted, "{extent:?}");
        let c = card.zeros();
        card.submit("over", copy(Place::Device(a), Place::Device(c)), &[]);
        card.submit("down", copy(Place::Device(a), back.place()), &[]);
        card.finish().unwrap();
        assert_eq!(card.engine.memory().read(c, BYTES).unwrap(), wanted, "{extent:?}");
        assert_eq!(back.bytes(), wanted, "{extent:?}");
        // A pattern starts anew in each row.
        let d = card.zeros();
        card.submit("fill", Work::Fill { to: d, pattern: Pattern::D32(0x0403_0201), extent }, &[]);
        card.finish().unwrap();
        let mut filled = vec![0; BYTES as usize];
        for (s, r) in (0..slices).flat_map(|s| (0..rows).map(move |r| (s, r))) {
            for i in 0..row_bytes {
                filled[(s * extent.to.slice + r * extent.to.row + i) as usize] = (i % 4 + 1) as u8;
            }
        }
        assert_eq!(card.engine.memory().read(d, BYTES).unwrap(), filled, "{extent:?}");
    }
}

/// The fault of an operation alone, under every seed.
fn fault_of(work: impl Fn(&mut Card) -> Work) -> emu::Fault {
    let mut last = None;
    for seed in 0..SEEDS {
        let mut card = Card::new(seed);
        let work = work(&mut card);
        let op = card.submit("what is asked", work, &[]);
        let (failed, fault) = card.finish().unwrap_err();
        assert!(failed == op && fault.kernel == "what is asked", "{fault}");
        assert_eq!(card.engine.error(), Some(&*fault));
        last = Some(*fault);
    }
    last.unwrap()
}

#[test]
fn copies_and_fills_stay_within_allocations() {
    let device = |from: u64, to: u64, extent| Work::Copy { from: Place::Device(from), to: Place::Device(to), extent };
    let pair = |card: &mut Card| (card.zeros(), card.zeros());
    for (delta, bytes) in [(0, BYTES + 1), (BYTES - 3, 4), (2 * BYTES, 4), (0, u64::MAX), (u64::MAX - 5, 4)] {
        for target in [false, true] {
            let fault = fault_of(|card| {
                let (a, b) = pair(card);
                let (from, to) = if target { (a, b.wrapping_add(delta)) } else { (a.wrapping_add(delta), b) };
                device(from, to, Extent::linear(bytes))
            });
            assert_eq!(fault.kind, FaultKind::OobGlobal, "{fault}");
        }
    }
    let rows = |rows, pitch| Extent::rows(4, rows, pitch, 4);
    for extent in [rows(5, 256), rows(u64::MAX, 1 << 40), rows(3, u64::MAX)] {
        let fault = fault_of(|card| {
            let (a, b) = pair(card);
            device(a, b, extent)
        });
        assert_eq!(fault.kind, FaultKind::OobGlobal, "{fault}");
    }
    let fault = fault_of(|card| {
        let host = Shared::new(&[0; 8]);
        Work::Copy { from: host.place(), to: Place::Device(card.zeros()), extent: Extent::linear(9) }
    });
    assert!(fault.kind == FaultKind::OobGlobal && fault.detail.contains("of the 8 that the host gave"), "{fault}");
    let fault = fault_of(|card| {
        let a = card.zeros();
        card.engine.memory().free(a).unwrap();
        Work::Fill { to: a + 8, pattern: Pattern::D8(0), extent: Extent::linear(4) }
    });
    assert!(fault.kind == FaultKind::Freed && fault.detail.contains("at byte 8 of 1024"), "{fault}");
    for work in [
        |a| Work::Write { address: a + 2, value: Word::B32(1) },
        |a| Work::Wait { address: a + 4, value: Word::B64(1), compare: Compare::Eq },
    ] {
        assert_eq!(fault_of(|card| work(card.zeros())).kind, FaultKind::Misaligned);
    }
    // Nothing is nothing, wherever it is.
    let mut card = Card::new(1);
    for extent in [Extent::linear(0), rows(0, 1), Extent { slices: 0, ..rows(4, 4) }] {
        card.submit("", device(1, 2, extent), &[]);
    }
    card.finish().unwrap();
}

#[test]
fn what_nobody_wrote_stays_so_until_it_leaves_the_card() {
    for seed in 0..SEEDS {
        let mut card = Card::new(seed);
        let (a, b) = (card.engine.memory().alloc(BYTES, 256).unwrap(), card.zeros());
        for range in [3..64u64, 100..101, 512..700] {
            card.engine.memory().write(a + range.start, &vec![5; (range.end - range.start) as usize]).unwrap();
        }
        let copy = card.copy(a, b, BYTES, &[]);
        card.wait(copy);
        assert_eq!(card.engine.memory().read(b + 3, 61).unwrap(), [5; 61]);
        assert_eq!(card.engine.memory().read(b + 512, 188).unwrap(), [5; 188]);
        for at in [2, 64, 99, 101, 511, 700, BYTES - 1] {
            assert_eq!(card.engine.memory().read(b + at, 1), Err(MemoryError::Unwritten(b + at)));
        }
        let to = Shared::new(&[0; 65]);
        card.down(b + 3, &to, &[]);
        let fault = card.finish().unwrap_err().1;
        assert_eq!((fault.kind, fault.address), (FaultKind::UninitGlobal, Some(b + 64)), "{fault}");
        assert!(fault.detail.contains("copies to the host what nobody wrote"), "{fault}");
    }
    let fault = fault_of(|card| {
        let a = card.engine.memory().alloc(BYTES, 256).unwrap();
        card.pinned(0x7000_0000, &[0; 64]);
        Work::Copy { from: Place::Device(a), to: Place::Device(0x7000_0000), extent: Extent::linear(4) }
    });
    assert!(fault.kind == FaultKind::UninitGlobal && fault.detail.contains("to the host"), "{fault}");
}

#[test]
fn freed_memory_is_known_as_such() {
    let mut card = Card::new(0);
    let a = card.zeros();
    let b = card.zeros();
    card.engine.memory().free(a).unwrap();
    assert_eq!(card.engine.memory().free(a), Err(MemoryError::Freed { address: a, bytes: 0 }));
    assert_eq!(card.engine.memory().read(a, 4), Err(MemoryError::Freed { address: a, bytes: 4 }));
    assert_eq!(card.engine.memory().free(b + 8), Err(MemoryError::Unmapped { address: b + 8, bytes: 0 }));
    let free = card.submit("free", Work::Free(b), &[]);
    assert_eq!(card.engine.memory().read(b, 4).unwrap(), [0; 4]);
    card.wait(free);
    assert_eq!(card.engine.memory().read(b, 4), Err(MemoryError::Freed { address: b, bytes: 4 }));
    let kernel = card.launch("read", b, b, &[]);
    let (op, fault) = card.finish().unwrap_err();
    assert!(op == kernel && fault.kind == FaultKind::Freed && fault.line > 0, "{fault}");
    // Memory of the process can come again at the same address.
    let mut card = Card::new(0);
    card.pinned(0x5000, &[1; 8]);
    let taken = card.engine.memory().alloc_host(0x5004, Box::new(Shared::new(&[0; 8])));
    assert_eq!(taken, Err(MemoryError::Taken { base: 0x5004, bytes: 8 }));
    card.engine.memory().free(0x5000).unwrap();
    assert!(matches!(card.engine.memory().read(0x5000, 8), Err(MemoryError::Freed { .. })));
    card.pinned(0x5004, &[2; 8]);
    assert_eq!(card.engine.memory().read(0x5004, 8).unwrap(), [2; 8]);
}

#[test]
fn memory_of_the_process_is_where_it_lies() {
    for seed in 0..SEEDS {
        let mut card = Card::new(seed);
        let (base, flag) = (0x7fff_1234_5000, 0x7f00_0000_1000);
        let (data, flags) = (card.pinned(base, &[1; BYTES as usize]), card.pinned(flag, &[0; 8]));
        let b = card.zeros();
        let kernel = card.grid("hold_step", 4, [base, b, flag], &[]);
        for _ in 0..3 {
            assert_eq!(card.until_stuck(), kernel);
        }
        data.set(255, 41);
        flags.set(0, 1);
        card.wait(kernel);
        assert_eq!((card.word(b), card.word(b + 1020)), (0x0101_0102, 42));
        let back = card.launch("step", b, base, &[]);
        card.wait(back);
        assert_eq!((data.word(0), data.word(255)), (0x0101_0103, 43));
        card.engine.write(base, &[0; 4]).unwrap();
        assert_eq!((data.word(0), card.word(base)), (0, 0));
    }
}

#[test]
fn a_machine_without_room_says_so() {
    let mut memory = emu::Memory::new(u64::MAX);
    for bytes in [1 << 62, u64::MAX / 2, u64::MAX] {
        let refused = memory.alloc(bytes, 256);
        assert!(matches!(refused, Err(MemoryError::Machine(_) | MemoryError::Full { .. })), "{refused:?}");
    }
    assert!(memory.alloc(16, 256).is_ok());
}

#[test]
fn an_operation_that_fails_ends_the_engine() {
    for seed in 0..SEEDS {
        for kernel in ["trap", "far"] {
            let mut card = Card::new(seed);
            let (a, b) = (card.zeros(), card.zeros());
            let first = card.launch("step", a, a, &[]);
            card.wait(first);
            let bad = card.launch(kernel, a, a, &[end(first)]);
            let to = Shared::new(&[0; 64]);
            let down = card.down(a, &to, &[end(bad)]);
            let other = card.launch("step", b, b, &[]);
            let (op, fault) = card.finish().unwrap_err();
            assert_eq!(op, bad);
            assert!([bad, down, other].iter().all(|op| card.engine.done(*op)) && card.engine.pending() == 0);
            // What was dropped has let go of the memory of the process.
            assert_eq!(Arc::strong_count(&to.0), 1);
            assert!(matches!(card.engine.turn(), Turn::Idle));
            let refused = card.engine.submit("", Work::Nothing, &[]);
            assert_eq!(refused, Err(Error::Fault(fault)));
            card.engine.memory().free(a).unwrap();
            card.engine.memory().free(b).unwrap();
        }
    }
}

#[test]
fn functions_are_called_between_what_is_before_and_after_them() {
    for seed in 0..SEEDS {
        let mut card = Card::new(seed);
        let a = card.zeros();
        let (host, calls) = (Shared::new(&[0; BYTES as usize]), Arc::new(AtomicUsize::new(0)));
        let step = card.launch("step", a, a, &[]);
        let down = card.down(a, &host, &[end(step)]);
        let (seen, count) = (host.clone(), Arc::clone(&calls));
        let function = move || {
            assert_eq!(seen.word(0), 1);
            seen.set(0, 100);
            count.fetch_add(1, Ordering::SeqCst);
        };
        let call = card.submit("call", Work::Call(Box::new(function)), &[end(down)]);
        let up = card.up(&host, a, &[end(call)]);
        let (op, function) = loop {
            match card.engine.turn() {
                Turn::Call(op, function) => break (op, function),
                turn => assert!(matches!(turn, Turn::Ran | Turn::Ended(_)), "{turn:?}"),
            }
        };
        assert!(op == call && matches!(card.engine.turn(), Turn::Idle) && !card.engine.done(call));
        // Only that says so.
        card.engine.called(up);
        assert!(!card.engine.done(up));
        function();
        card.engine.called(call);
        assert!(card.engine.done(call) && calls.load(Ordering::SeqCst) == 1);
        card.wait(up);
        assert_eq!(card.word(a), 100);
    }
}

#[test]
fn words_are_waited_for() {
    let holds = [
        (Compare::Geq, 5, 5, true),
        (Compare::Geq, 4, 5, false),
        (Compare::Geq, 2, u32::MAX - 2, true),
        (Compare::Geq, 0x8000_0005, 5, false),
        (Compare::Eq, 6, 6, true),
        (Compare::Eq, 7, 6, false),
        (Compare::And, 6, 4, true),
        (Compare::And, 6, 9, false),
        (Compare::Nor, 0x7fff_ffff, 1, true),
        (Compare::Nor, 0x7fff_ffff, 0x8000_0000, false),
    ];
    for (compare, found, value, holds) in holds {
        for wide in [false, true] {
            let mut card = Card::new(0);
            let a = card.zeros();
            let sign = |v: u32| v as i32 as i64 as u64;
            let word = |v: u32| if wide { Word::B64(sign(v)) } else { Word::B32(v) };
            card.submit("write", Work::Write { address: a + 8, value: word(found) }, &[]);
            card.finish().unwrap();
            let wait = card.submit("wait", Work::Wait { address: a + 8, value: word(value), compare }, &[]);
            let ended = card.finish();
            assert_eq!((ended.is_ok(), card.engine.done(wait)), (holds, holds), "{compare:?} {found} {value}");
            if let Err((op, fault)) = ended {
                assert!(op == wait && fault.kind == FaultKind::Deadlock && fault.kernel == "wait", "{fault}");
                // It is only stuck: somebody may still write.
                let good = if compare == Compare::Nor { 0 } else { value };
                card.submit("write", Work::Write { address: a + 8, value: word(good) }, &[]);
                card.finish().unwrap();
                assert!(card.engine.done(wait));
            }
        }
    }
    let unwritten = fault_of(|card| {
        let address = card.engine.memory().alloc(8, 256).unwrap();
        Work::Wait { address, value: Word::B32(0), compare: Compare::Geq }
    });
    assert_eq!(unwritten.kind, FaultKind::UninitGlobal);
}

#[test]
fn the_host_says_when_what_is_stuck_has_failed() {
    let mut card = Card::new(3);
    let a = card.zeros();
    let hold = card.grid("hold", 1, [a, a, a], &[]);
    assert_eq!(card.until_stuck(), hold);
    let fault = loop {
        if let Turn::Stuck(_, fault) = card.engine.turn() {
            break fault;
        }
    };
    card.engine.fail(hold, fault);
    assert!(matches!(card.engine.turn(), Turn::Failed(op, f) if op == hold && f.kind == FaultKind::Deadlock));
    assert!(matches!(card.engine.turn(), Turn::Idle));
}

#[test]
fn as_many_launches_run_at_once_as_on_a_card() {
    for (seed, launches) in [(0, 4), (1, 4), (2, 20), (0, 128), (7, 128)] {
        let mut card = Card::new(seed);
        let (count, flag) = (card.zeros(), card.zeros());
        card.engine.write(count, &u32::to_le_bytes(launches)).unwrap();
        for _ in 0..launches {
            card.grid("meet", 1, [count, count, flag], &[]);
        }
        card.sync();
        assert_eq!(card.word(flag), launches);
    }
    let mut card = Card::new(0);
    let (count, flag) = (card.zeros(), card.zeros());
    card.engine.write(count, &129u32.to_le_bytes()).unwrap();
    for _ in 0..129 {
        card.grid("meet", 1, [count, count, flag], &[]);
    }
    assert_eq!(card.finish().unwrap_err().1.kind, FaultKind::Deadlock);
}

#[test]
fn a_loaded_module_tells_what_it_has() {
    let mut card = Card::new(0);
    let names: Vec<&str> = card.loaded.entries().iter().map(|e| e.name.as_str()).collect();
    assert!(names.contains(&"step") && card.loaded.entries()[0].params.len() == 3);
    assert!(card.loaded.entries().iter().all(|e| e.registers > 0 && e.local_bytes == 0));
    let variables: Vec<Variable> = card.loaded.variables().collect();
    let (limit, table) = (variables[0], variables[1]);
    assert_eq!((limit.name, limit.bytes, limit.constant), ("limit", 4, true));
    assert_eq!((table.name, table.bytes, table.constant), ("table", 24, false));
    assert_eq!(Some(limit.address), card.loaded.symbol("limit"));
    let address = limit.address;
    // The host may copy to constants.
    let to_constant = card.up(&Shared::new(&[6, 0, 0, 0]), address, &[]);
    card.wait(to_constant);
    assert_eq!(card.word(address), 6);
    let launch = |threads| Launch {
        entry: "nothing".into(),
        grid: [1; 3],
        block: [threads, 1, 1],
        dynamic_shared: 0,
        params: Vec::new(),
    };
    let options = Options::default();
    assert_eq!(card.loaded.occupancy(&launch(256), &options), Ok(8));
    let small = Hardware { threads: 1024, ..Hardware::of("sm_90a").unwrap() };
    let on_small = Options { card: Some(small), ..options };
    assert_eq!(card.loaded.occupancy(&launch(256), &on_small), Ok(4));
    let tight = Options { card: Some(Hardware { block_shared: 16, ..small }), ..options };
    let shared = Launch { dynamic_shared: 17, ..launch(32) };
    assert!(matches!(card.loaded.occupancy(&shared, &tight), Err(LaunchError::Shared { limit: 16, .. })));
    card.loaded.unload(card.engine.memory());
    assert!(matches!(card.engine.memory().read(address, 4), Err(MemoryError::Freed { .. })));
}
