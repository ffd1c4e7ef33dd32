//! Going back with a model whose state is recurrent: checkpoints, replays, conversations.
#![cfg(target_arch = "x86_64")]

mod fixture;

use fixture::{ALL_LOGITS, CONTEXT, Keeps, VOCAB, next};
use runtime::device::Options;
use runtime::{Executor, ModelFile};
use std::time::Duration;

fn executor(keeps: Keeps) -> Executor {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("toy.gguf");
    std::fs::write(&path, fixture::gguf(0)).unwrap();
    let model = ModelFile::open(&path).unwrap();
    let artifact = fixture::artifact_with(model.identity(), 0, keeps);
    Executor::new(artifact, &model, &Options { threads: 2, ..Options::default() }, &mut |_, _| ()).unwrap()
}

/// Processes tokens; the logits after the last are those of the whole history.
#[track_caller]
fn go_on(e: &mut Executor, history: &mut Vec<u32>, tokens: &[u32]) {
    assert!(e.prefill(tokens, &mut |_, _| true).unwrap());
    history.extend(tokens);
    check(e, history);
}

#[track_caller]
fn check(e: &mut Executor, history: &[u32]) {
    let logits = e.logits().unwrap();
    assert!(logits.iter().all(|l| !l.is_nan()), "the state is that of another position");
    let best = (0..VOCAB).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
    assert_eq!((best as u32, e.position()), (next(history), history.len()));
}

/// Goes back as far as is reached, and processes what is missing there.
#[track_caller]
fn back(e: &mut Executor, history: &mut Vec<u32>, position: usize) -> usize {
    let reached = e.set_position(position).unwrap();
    assert!(reached <= position && reached == e.position());
    let missing = history[reached..position].to_vec();
    history.truncate(reached);
    if !missing.is_empty() {
        go_on(e, history, &missing);
    }
    reached
}

#[test]
fn the_closest_checkpoint_before_is_reached() {
    let mut e = executor(Keeps::Recurrent);
    assert!(e.needs_checkpoints());
    let mut history = Vec::new();
    go_on(&mut e, &mut history, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    e.checkpoint().unwrap();
    go_on(&mut e, &mut history, &[10, 11, 12]);
    e.checkpoint().unwrap();
    go_on(&mut e, &mut history, &[13, 14]);
    // Where it is.
    assert_eq!(back(&mut e, &mut history, 14), 14);
    assert_eq!(back(&mut e, &mut history, 13), 12);
    assert_eq!(back(&mut e, &mut history, 12), 12);
    go_on(&mut e, &mut history, &[20, 21, 22]);
    assert_eq!(back(&mut e, &mut history, 11), 9);
    // The checkpoint at 12 was of other tokens.
    history.truncate(9);
    assert_eq!(e.set_position(9).unwrap(), 9);
    go_on(&mut e, &mut history, &[30, 31, 32, 33]);
    assert_eq!(back(&mut e, &mut history, 12), 9);
    assert_eq!(back(&mut e, &mut history, 8), 0);
    assert_eq!(back(&mut e, &mut history, 0), 0);
    go_on(&mut e, &mut history, &[5]);
    assert!(e.set_position(2).is_err());
    check(&mut e, &history);
}

#[test]
fn the_oldest_checkpoints_make_room() {
    let mut e = executor(Keeps::Recurrent);
    let mut history = Vec::new();
    for token in 0..7 {
        go_on(&mut e, &mut history, &[token, token + 1]);
        e.checkpoint().unwrap();
        e.checkpoint().unwrap();
    }
    // Those at 14, 12, 10 and 8 are left.
    assert_eq!(back(&mut e, &mut history, 9), 8);
    assert_eq!(back(&mut e, &mut history, 7), 0);
}

#[test]
fn prompts_leave_checkpoints_where_they_are_wanted() {
    for at in 1..=20 {
        let mut e = executor(Keeps::Recurrent);
        let mut history = Vec::new();
        e.checkpoint_at(at);
        go_on(&mut e, &mut history, &(0..20).collect::<Vec<_>>());
        go_on(&mut e, &mut history, &[3]);
        assert_eq!(back(&mut e, &mut history, 20), at);
        assert_eq!(back(&mut e, &mut history, at), at);
    }
}

/// Steps of several tokens whose end is not wanted.
#[test]
fn rejected_tokens_are_forgotten() {
    let mut e = executor(Keeps::Recurrent);
    let mut history = vec![];
    go_on(&mut e, &mut history, &[8, 9]);
    for round in 0..10u32 {
        e.checkpoint().unwrap();
        let draft = [round, 1, 2, 3];
        e.step(&draft[..ALL_LOGITS]).unwrap();
        let accepted = round as usize % ALL_LOGITS;
        let kept = history.len() + accepted;
        let reached = e.set_position(kept).unwrap();
        assert_eq!(reached, history.len());
        let again = if accepted == 0 { &draft[..1] } else { &draft[..accepted] };
        go_on(&mut e, &mut history, again);
    }
}

#[test]
fn models_without_recurrent_states_go_anywhere() {
    let mut e = executor(Keeps::Rows);
    assert!(!e.needs_checkpoints());
    let mut history = Vec::new();
    e.checkpoint_at(7);
    go_on(&mut e, &mut history, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    e.checkpoint().unwrap();
    for position in (0..9).rev() {
        assert_eq!(e.set_position(position).unwrap(), position);
    }
}

/// Timing a kernel alone changes the states: a step is refused until the position is set.
#[test]
fn timing_loses_the_states() {
    let mut e = executor(Keeps::Recurrent);
    let mut history = Vec::new();
    go_on(&mut e, &mut history, &[1, 2, 3]);
    e.checkpoint().unwrap();
    e.time_kernel(0, 0, &[4], Duration::ZERO).unwrap();
    let error = e.step(&[4]).unwrap_err().to_string();
    assert!(error.contains("not those of position 3"), "{error}");
    assert_eq!(e.set_position(3).unwrap(), 3);
    go_on(&mut e, &mut history, &[4]);
    e.time_kernel(0, 0, &[4], Duration::ZERO).unwrap();
    assert_eq!(back(&mut e, &mut history, 4), 3);
}

/// Random edits of a history, as a conversation makes them.
#[test]
fn random_edits() {
    let mut e = executor(Keeps::Recurrent);
    let mut state = 12_345u32;
    let mut random = |n: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % n
    };
    let mut history: Vec<u32> = Vec::new();
    for _ in 0..400 {
        match random(4) {
            0 => {
                let to = random(history.len() + 1);
                back(&mut e, &mut history, to);
            }
            1 => e.checkpoint().unwrap(),
            2 => e.checkpoint_at(random(CONTEXT)),
            _ => {
                let room = CONTEXT - history.len();
                let tokens: Vec<u32> = (0..random(12).min(room)).map(|_| random(VOCAB) as u32).collect();
                if tokens.is_empty() {
                    continue;
                }
                go_on(&mut e, &mut history, &tokens);
            }
        }
    }
}
