//! What orders operations, kernels and the host, and that what does not is found, with words for both, under every seed.

mod card;

use card::*;
use emu::{After, Compare, Extent, Fault, FaultKind, HostError, Op, Pattern, Place, Word, Work};
use std::collections::BTreeSet;

/// Submits something that touches the first word of two buffers.
type Submit = fn(&mut Card, [u64; 2], &[After]) -> Op;

/// What touches the first buffer, with its label and whether it writes there. All of them leave the second alone, or write
/// a buffer of their own.
const ACTS: &[(&str, bool, Submit)] = &[
    ("an upload", true, |c, [a, _], after| c.up(&Shared::new(&[1; 64]), a, after)),
    ("a download", false, |c, [a, _], after| c.down(a, &Shared::new(&[0; 64]), after)),
    ("a copy", true, |c, [a, b], after| c.copy(b, a, 64, after)),
    ("a copy", false, |c, [a, _], after| {
        let own = c.zeros();
        c.copy(a, own, 64, after)
    }),
    ("a fill", true, |c, [a, _], after| {
        c.submit("a fill", Work::Fill { to: a, pattern: Pattern::D8(3), extent: Extent::linear(64) }, after)
    }),
    ("a free", true, |c, [a, _], after| c.submit("a free", Work::Free(a), after)),
    ("write", true, |c, [a, _], after| c.launch("write", a, a, after)),
    ("read", false, |c, [a, _], after| c.launch("read", a, a, after)),
    ("a word", true, |c, [a, _], after| c.submit("a word", Work::Write { address: a, value: Word::B64(1) }, after)),
    ("a wait", false, |c, [a, _], after| {
        c.submit("a wait", Work::Wait { address: a, value: Word::B32(0), compare: Compare::Geq }, after)
    }),
];

/// Whether two operations that nothing orders race: those of words do not, nor do kernels that write the same.
fn conflict(a: usize, b: usize) -> bool {
    let both = |of: &[&str]| of.contains(&ACTS[a].0) && of.contains(&ACTS[b].0);
    (ACTS[a].1 || ACTS[b].1) && !both(&["a word", "a wait"]) && !both(&["write"])
}

fn buffers(card: &mut Card) -> [u64; 2] {
    [card.zeros(), card.zeros()]
}

fn assert_race(fault: &Fault, labels: [&str; 2]) {
    assert!([FaultKind::RaceGlobal, FaultKind::Freed].contains(&fault.kind), "{fault}");
    if fault.kind == FaultKind::Freed {
        return;
    }
    let text = fault.to_string();
    for label in labels {
        assert!(text.contains(label), "{text}: {labels:?}");
    }
}

/// An allocation is there for those who come after it.
#[test]
fn memory_is_used_after_it_is_handed_out() {
    for (label, _, second) in ACTS.iter().filter(|(label, ..)| *label != "a free") {
        for seed in 0..SEEDS {
            let mut card = Card::new(seed);
            let at = buffers(&mut card);
            card.submit("an allocation", Work::Allocate(at[0]), &[]);
            second(&mut card, at, &[]);
            assert_race(&card.finish().unwrap_err().1, ["an allocation", label]);
            let mut card = Card::new(seed);
            let at = buffers(&mut card);
            let handed_out = card.submit("an allocation", Work::Allocate(at[0]), &[]);
            second(&mut card, at, &[end(handed_out)]);
            card.finish().unwrap_or_else(|(_, fault)| panic!("{label}, seed {seed}: {fault}"));
        }
    }
}

#[test]
fn operations_race_unless_an_edge_orders_them() {
    for (i, (label, _, first)) in ACTS.iter().enumerate() {
        for (j, (other, _, second)) in ACTS.iter().enumerate() {
            for seed in 0..SEEDS {
                let mut card = Card::new(seed);
                let at = buffers(&mut card);
                first(&mut card, at, &[]);
                second(&mut card, at, &[]);
                match card.finish() {
                    Ok(()) => assert!(!conflict(i, j), "{label} and {other}, seed {seed}"),
                    Err((_, fault)) => {
                        assert!(conflict(i, j), "{label} and {other}, seed {seed}: {fault}");
                        assert_race(&fault, [label, other]);
                    }
                }
                if *label == "a free" {
                    continue;
                }
                // In order: at once, through others, and by the host.
                for way in 0..3 {
                    let mut card = Card::new(seed);
                    let at = buffers(&mut card);
                    let a = first(&mut card, at, &[]);
                    let b = match way {
                        0 => second(&mut card, at, &[end(a)]),
                        1 => {
                            let middle = card.submit("", Work::Nothing, &[end(a)]);
                            let middle = card.launch("nothing", 0, 0, &[end(middle)]);
                            second(&mut card, at, &[end(middle)])
                        }
                        _ => {
                            card.wait(a);
                            second(&mut card, at, &[])
                        }
                    };
                    card.finish().unwrap_or_else(|(_, f)| panic!("{label} then {other}, seed {seed}: {f}"));
                    assert!(card.engine.done(b));
                }
            }
        }
    }
}

#[test]
fn the_host_races_with_what_it_has_not_waited_for() {
    for (i, (label, writes, act)) in ACTS.iter().enumerate().filter(|(_, (label, ..))| *label != "a free") {
        for seed in 0..SEEDS {
            for (write, turns) in [(true, 0), (true, 1000), (false, 0), (false, 1000)] {
                let mut card = Card::new(seed);
                let at = buffers(&mut card);
                let op = act(&mut card, at, &[]);
                for _ in 0..turns {
                    card.engine.turn();
                }
                let touched = match write {
                    true => card.engine.write(at[0], &[1; 4]),
                    false => card.engine.read(at[0], &mut [0; 4]),
                };
                let fault = match (touched, card.finish()) {
                    (Err(HostError::Fault(fault)), _) | (_, Err((_, fault))) => fault,
                    (Ok(()), Ok(())) => {
                        assert!(!write && !writes, "{label} {i}, seed {seed}");
                        continue;
                    }
                    other => panic!("{other:?}"),
                };
                assert!(write || *writes, "{label} {i}, seed {seed}: {fault}");
                assert_race(&fault, ["the host", label]);
                // After it has waited it may.
                let mut card = Card::new(seed);
                let at = buffers(&mut card);
                card.engine.write(at[0], &[0; 8]).unwrap();
                let op = {
                    _ = op;
                    act(&mut card, at, &[])
                };
                card.wait(op);
                card.engine.write(at[0], &[1; 4]).unwrap();
                card.engine.read(at[0], &mut [0; 4]).unwrap();
            }
        }
    }
}

/// A kernel releases a word that a stream waits for, or waits for one that a stream writes.
#[test]
fn words_order_streams_and_kernels() {
    let ordered = [("signal", true), ("signal_near", true), ("signal_weakly", false)];
    for seed in 0..SEEDS {
        for (kernel, good) in ordered {
            let mut card = Card::new(seed);
            let ([a, _], flag) = (buffers(&mut card), card.zeros());
            card.grid(kernel, 1, [a, a, flag], &[]);
            let wait = Work::Wait { address: flag, value: Word::B32(1), compare: Compare::Eq };
            let wait = card.submit("a wait", wait, &[]);
            let to = Shared::new(&[0; 256]);
            card.down(a, &to, &[end(wait)]);
            let ended = card.finish();
            assert_eq!(ended.is_ok(), good, "{kernel}, seed {seed}: {ended:?}");
            assert!(!good || to.word(63) == 63);
        }
        for (kernel, good) in [("hold_step", true), ("hold_weakly", false)] {
            let mut card = Card::new(seed);
            let ([a, b], flag) = (buffers(&mut card), card.zeros());
            card.grid(kernel, 1, [a, b, flag], &[]);
            let up = card.up(&Shared::new(&[1; 256]), a, &[]);
            card.submit("a word", Work::Write { address: flag, value: Word::B32(1) }, &[end(up)]);
            let ended = card.finish();
            assert_eq!(ended.is_ok(), good, "{kernel}, seed {seed}: {ended:?}");
            // Without the copy before it the word orders nothing.
            let mut card = Card::new(seed);
            let ([a, b], flag) = (buffers(&mut card), card.zeros());
            card.grid(kernel, 1, [a, b, flag], &[]);
            card.up(&Shared::new(&[1; 256]), a, &[]);
            card.submit("a word", Work::Write { address: flag, value: Word::B32(1) }, &[]);
            assert_race(&card.finish().unwrap_err().1, ["an upload", kernel]);
        }
    }
}

#[test]
fn the_process_is_taken_to_read_and_write_its_memory() {
    let flag = 0x7fab_0000_0000;
    for seed in 0..SEEDS {
        for (kernel, good) in [("signal_and_go_on", true), ("hold", false)] {
            let mut card = Card::new(seed);
            let [a, b] = buffers(&mut card);
            let flags = card.pinned(flag, &[0; 8]);
            let op = card.grid(kernel, 1, [a, a, flag], &[]);
            assert_eq!(card.until_stuck(), op);
            assert_eq!(flags.word(0), u32::from(good));
            // The program has seen the flag, so that it may copy what the kernel wrote, though the kernel still runs.
            let to = Shared::new(&[0; 256]);
            let down = card.down(a, &to, &[]);
            card.wait(down);
            // And the kernel may read what the program has waited for once that sets the flag.
            let up = card.up(&Shared::new(&[9; 256]), b, &[]);
            card.wait(up);
            card.engine.write(b, &[8; 4]).unwrap();
            flags.set(0, 2);
            card.finish().unwrap();
        }
        for (kernel, waits, good) in
            [("hold_step", true, true), ("hold_step", false, false), ("hold_weakly", true, false)]
        {
            let mut card = Card::new(seed);
            let [a, b] = buffers(&mut card);
            let flags = card.pinned(flag, &[0; 8]);
            card.grid(kernel, 1, [a, b, flag], &[]);
            card.until_stuck();
            let up = card.up(&Shared::new(&[1; 256]), a, &[]);
            while !card.engine.done(up) {
                card.engine.turn();
            }
            if waits {
                card.engine.learn(up);
            }
            flags.set(0, 1);
            let ended = card.finish();
            assert_eq!(ended.is_ok(), good, "{kernel} {waits}, seed {seed}: {ended:?}");
        }
    }
}

#[test]
fn programmatic_edges_order_what_waits() {
    for seed in 0..SEEDS {
        // Two before, and a full edge to a third.
        for (kernel, good) in [("waits", true), ("first", false)] {
            for missing in 0..4 {
                let mut card = Card::new(seed);
                let all: Vec<u64> = (0..3).map(|_| card.zeros()).collect();
                let before: Vec<Op> = all.iter().map(|&a| card.launch("first", a, a, &[])).collect();
                let edges = [early(before[0]), early(before[1]), end(before[2])];
                let edges: Vec<After> =
                    edges.into_iter().zip(0..).filter(|(_, i)| *i != missing).map(|e| e.0).collect();
                for &a in &all {
                    card.launch(kernel, a, a, &edges);
                }
                let ended = card.finish();
                // Of what it does not wait for by an edge it knows nothing.
                assert_eq!(ended.is_ok(), good && missing == 3, "{kernel}, seed {seed}: {ended:?}");
                if let Err((_, fault)) = ended {
                    assert!(fault.to_string().contains(" of another launch, of "), "{fault}");
                }
            }
        }
        // What comes after the later one comes after both.
        let mut card = Card::new(seed);
        let [a, b] = buffers(&mut card);
        let first = card.launch("first", a, a, &[]);
        let second = card.launch("first", b, b, &[early(first)]);
        card.launch("step", a, b, &[end(second)]);
        card.finish().unwrap();
        // A launch behind a chain of them knows only of those that waited.
        for (middle, good) in [("waits", true), ("first", false)] {
            let mut card = Card::new(seed);
            let [a, b] = buffers(&mut card);
            let first = card.launch("first", a, a, &[]);
            let second = card.launch(middle, b, b, &[early(first)]);
            card.launch("waits", a, a, &[early(second)]);
            assert_eq!(card.finish().is_ok(), good, "{middle}, seed {seed}");
        }
    }
}

#[test]
fn programmatic_edges_that_come_late_are_the_same() {
    for seed in 0..SEEDS {
        for (kernel, learns, good) in
            [("waits", false, true), ("step", false, false), ("waits", true, true), ("step", true, true)]
        {
            let mut card = Card::new(seed);
            let [a, _] = buffers(&mut card);
            let first = card.launch("step", a, a, &[]);
            while !card.engine.done(first) {
                card.engine.turn();
            }
            if learns {
                card.engine.learn(first);
            }
            card.launch(kernel, a, a, &[early(first)]);
            assert_eq!(card.finish().is_ok(), good, "{kernel} {learns}, seed {seed}");
        }
        // To and from what is no launch they are full.
        let mut card = Card::new(seed);
        let [a, _] = buffers(&mut card);
        let first = card.launch("first", a, a, &[]);
        let copy = card.up(&Shared::new(&[1; 64]), a, &[early(first)]);
        let second = card.launch("first", a, a, &[early(copy)]);
        let nothing = card.submit("", Work::Nothing, &[early(second)]);
        card.launch("first", a, a, &[early(nothing)]);
        card.finish().unwrap();
    }
}

#[test]
fn launches_behind_programmatic_edges_run_beside_those_before() {
    for seed in 0..SEEDS {
        let mut card = Card::new(seed);
        let ([a, b], flag) = (buffers(&mut card), card.zeros());
        // The first two run until the last sets their word; the third does not wait for them, but ends after them.
        let holds = [(); 2].map(|()| card.grid("hold", 2, [a, a, flag], &[]));
        let third = card.launch("first", b, b, &holds.map(early));
        for _ in 0..2000 {
            card.engine.turn();
        }
        assert!(!card.engine.done(third), "seed {seed}");
        let fourth = card.grid("signal", 1, [a, a, flag], &[early(third)]);
        card.finish().unwrap();
        assert!(card.engine.done(fourth));
        // Behind a full edge nobody would set it.
        let mut card = Card::new(seed);
        let (a, flag) = (card.zeros(), card.zeros());
        let hold = card.grid("hold", 2, [a, a, flag], &[]);
        card.grid("signal", 1, [a, a, flag], &[end(hold)]);
        let (op, fault) = card.finish().unwrap_err();
        assert!(op == hold && fault.kind == FaultKind::Deadlock, "{fault}");
    }
}

/// A ring of three slots of pinned memory and of device memory, through which pieces come to a kernel that adds them up.
/// `missing` is the edge that is left out: none, the kernel after its copy, the copy after the kernel that read its slot.
fn ring(seed: u64, missing: usize) -> (Ended, u32) {
    const SLOTS: usize = 3;
    let mut card = Card::new(seed);
    let sum = card.zeros();
    let bases: Vec<u64> = (0..SLOTS as u64).map(|i| 0x7f00_0000_0000 + i * 0x10_0000).collect();
    let staging: Vec<Shared> = bases.iter().map(|&base| card.pinned(base, &[0; BYTES as usize])).collect();
    let slots: Vec<u64> = (0..SLOTS).map(|_| card.zeros()).collect();
    let (mut copied, mut consumed) = ([None; SLOTS], [None; SLOTS]);
    let mut last: Option<Op> = None;
    for piece in 0..12u32 {
        let slot = piece as usize % SLOTS;
        // The program writes into a slot once it knows that its copy is over.
        if let Some(op) = copied[slot]
            && missing != 3
        {
            while !card.engine.done(op) {
                card.turn();
            }
            card.engine.learn(op);
        }
        for word in 0..BYTES as usize / 4 {
            staging[slot].set(word, piece);
        }
        let free: Vec<After> = consumed[slot].filter(|_| missing != 2).map(end).into_iter().collect();
        let copy = card.copy(bases[slot], slots[slot], BYTES, &free);
        copied[slot] = Some(copy);
        let after = last.into_iter().chain(Some(copy).filter(|_| missing != 1)).map(end).collect::<Vec<_>>();
        let kernel = card.launch("step", slots[slot], slots[slot], &after);
        last = Some(card.launch("step", slots[slot], sum, &[end(kernel)]));
        consumed[slot] = last;
    }
    let ended = card.finish();
    if ended.is_ok()
        && let Some(last) = last
    {
        card.engine.learn(last);
        return (ended, card.word(sum));
    }
    (ended, 0)
}

#[test]
fn a_ring_of_staging_buffers_needs_every_edge() {
    for seed in 0..SEEDS {
        let (ended, sum) = ring(seed, 0);
        ended.unwrap_or_else(|(_, f)| panic!("seed {seed}: {f}"));
        assert_eq!(sum, 11 + 2);
        for missing in [1, 2] {
            let (_, fault) = ring(seed, missing).0.expect_err("a race");
            assert_race(&fault, ["a copy", "step"]);
        }
        // What the program does to its own memory is not seen when it does it, but when a copy finds other bytes.
        let (_, fault) = ring(seed, 3).0.expect_err("a changed source");
        assert!(fault.to_string().contains("the process has changed the source"), "{fault}");
    }
}

/// An operation of a random program: what it reads and writes, and what it comes after.
struct Planned {
    reads: Option<usize>,
    writes: Option<usize>,
    after: BTreeSet<usize>,
}

/// Random programs over four buffers: a race is found if and only if two operations that touch a buffer, one of them to
/// write, are not ordered by a path of edges; and without races each seed computes what the order of submission does.
#[test]
fn random_programs_race_where_no_path_orders_them() {
    let mut random = 3u64;
    let mut below = |n: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % n
    };
    let (mut clean, mut racy) = (0, 0);
    for round in 0..400 {
        let count = 3 + below(12);
        let density = 1 + below(4);
        let mut plan: Vec<Planned> = Vec::new();
        let mut kinds = Vec::new();
        // What the host knows when it submits, and of which operation it learns before each.
        let mut known: BTreeSet<usize> = BTreeSet::new();
        let mut learns = Vec::new();
        for i in 0..count {
            let learn = (i > 0 && below(6) == 0).then(|| below(i));
            if let Some(op) = learn {
                known.extend(plan[op].after.iter().copied().chain([op]));
            }
            learns.push(learn);
            let edges: Vec<usize> = (0..i).filter(|_| below(density) == 0).collect();
            let mut after = known.clone();
            for &e in &edges {
                after.extend(plan[e].after.iter().copied().chain([e]));
            }
            let kind = below(6);
            let (x, y) = (below(4), below(4));
            let (reads, writes) = match kind {
                0 => (None, Some(y)),
                1 => (Some(x), None),
                2 => (None, None),
                _ => (Some(x), Some(y)),
            };
            kinds.push((kind, x, y, edges));
            plan.push(Planned { reads, writes, after });
        }
        let conflict = |a: &Planned, b: &Planned| {
            let touches = |p: &Planned, buffer| p.reads == Some(buffer) || p.writes == Some(buffer);
            (0..4).any(|x| (a.writes == Some(x) && touches(b, x)) || (b.writes == Some(x) && touches(a, x)))
        };
        let races = (0..count).any(|i| (0..i).any(|j| !plan[i].after.contains(&j) && conflict(&plan[i], &plan[j])));
        if races {
            racy += 1
        } else {
            clean += 1
        }
        let run = |seed: u64, serial: bool| -> Result<Vec<Vec<u8>>, Box<Fault>> {
            let mut card = Card::new(seed);
            let buffers: Vec<u64> = (0..4).map(|_| card.zeros()).collect();
            let mut ops: Vec<Op> = Vec::new();
            for (i, (kind, x, y, edges)) in kinds.iter().enumerate() {
                if let Some(op) = learns[i] {
                    while !card.engine.done(ops[op]) {
                        card.turn();
                    }
                    card.engine.learn(ops[op]);
                }
                let (a, b) = (buffers[*x], buffers[*y]);
                let mut after: Vec<After> = edges.iter().map(|&e| end(ops[e])).collect();
                if serial {
                    after.extend(ops.last().copied().map(end));
                }
                ops.push(match kind {
                    0 => {
                        let (pattern, extent) = (Pattern::D32(i as u32), Extent::linear(BYTES));
                        card.submit("fill", Work::Fill { to: b, pattern, extent }, &after)
                    }
                    1 => card.down(a, &Shared::new(&[0; BYTES as usize]), &after),
                    2 => card.submit("", Work::Nothing, &after),
                    3 if x != y => card.copy(a, b, BYTES, &after),
                    // No two write the same.
                    _ => card.grid("mix", 4, [a, b, 0x9e37_79b9 * (i as u64 + 1)], &after),
                });
            }
            card.finish().map_err(|(_, fault)| fault)?;
            let memory = card.engine.memory();
            Ok(buffers.iter().map(|&b| memory.read(b, BYTES).unwrap().to_vec()).collect())
        };
        let wanted = run(0, true).expect("nothing races in order");
        for seed in 0..6 {
            match run(seed, false) {
                Ok(found) => assert!(!races && found == wanted, "round {round}, seed {seed}"),
                Err(fault) => assert!(races && fault.kind == FaultKind::RaceGlobal, "round {round} {seed}: {fault}"),
            }
        }
    }
    assert!(clean > 60 && racy > 60, "{clean} {racy}");
}

#[test]
fn a_race_of_a_copy_names_where_it_is() {
    for seed in 0..SEEDS {
        let mut card = Card::new(seed);
        let [a, b] = buffers(&mut card);
        let work =
            |from, to| Work::Copy { from: Place::Device(from), to: Place::Device(to), extent: Extent::linear(8) };
        card.submit("cuMemcpyDtoDAsync_v2 on stream 1", work(b, a + 512), &[]);
        card.launch("write", a, a, &[]);
        let fault = card.finish().unwrap_err().1;
        assert_eq!((fault.kind, fault.address), (FaultKind::RaceGlobal, Some(a + 512)), "{fault}");
        assert!(fault.to_string().contains("cuMemcpyDtoDAsync_v2 on stream 1"), "{fault}");
    }
}
