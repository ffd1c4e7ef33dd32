//! Who turns the engine. A call that waits does; a thread in the background does when the program has not called for a while
//! but may poll memory; functions of the program run on a thread of their own, outside of the lock.

use crate::call::Call;
use crate::error::{Answer, Error};
use crate::finding;
use crate::state::Driver;
use crate::work::Then;
use emu::{Fault, FaultKind, Op, Turn};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, Thread};
use std::time::{Duration, Instant};

/// How long the program makes no call before the background takes over.
const QUIET: Duration = Duration::from_millis(3);
/// How long nothing happens, while a call waits, before that is a deadlock.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a call that only looks lets the engine go on.
const GLANCE: Duration = Duration::from_micros(500);
/// How long it is waited for what others do.
const NAP: Duration = Duration::from_micros(100);
/// Operations that are asked for and have not ended, at most, as the queues of a card are full some time.
const MOST_PENDING: usize = 1024;
/// Bytes around allocations in which an access goes unnoticed on a card, which maps memory in pages.
const PAGE: u64 = 2 << 20;

/// What a turn did.
enum Did {
    Something,
    /// Nothing is left to do, or functions of the program run.
    Nothing,
    /// Everybody waits for a word in memory.
    Polls(Op, Box<Fault>),
}

/// Lets the engine go on for a while.
fn turn(driver: &mut Driver) -> Did {
    match driver.work.engine.turn() {
        Turn::Ran => {}
        Turn::Ended(op) => ended(driver, op),
        Turn::Call(op, function) => match callbacks() {
            Some(callbacks) => _ = callbacks.send((driver.work.age, op, function)),
            // The function never runs, and nothing after it.
            None => driver.work.failed = Some(Error::OPERATING_SYSTEM),
        },
        Turn::Failed(op, fault) => failed(driver, op, &fault),
        Turn::Idle => return Did::Nothing,
        Turn::Stuck(op, fault) => return Did::Polls(op, fault),
    }
    Did::Something
}

fn ended(driver: &mut Driver, op: Op) {
    let Some(pending) = driver.work.pending.remove(&op) else { return };
    then(driver, op, pending.then);
}

fn then(driver: &mut Driver, op: Op, then: Then) {
    match then {
        Then::Nothing => {}
        Then::Event(event) => {
            let record = driver.events.get_mut(event).and_then(|e| e.record.as_mut());
            if let Some(record) = record.filter(|r| r.op == op) {
                record.at = Some(Instant::now());
            }
        }
        // The engine has freed it already, unless something failed before.
        Then::Freed(base) => _ = driver.release(base, "cuMemFreeAsync"),
    }
}

/// What a driver answers after a fault, and whether it is one that a card would not notice.
fn answer(driver: &Driver, fault: &Fault) -> (Error, bool) {
    match fault.kind {
        FaultKind::Trap => (Error::LAUNCH_FAILED, false),
        FaultKind::Assert => (Error::ASSERT, false),
        FaultKind::Misaligned => (Error::MISALIGNED_ADDRESS, false),
        FaultKind::StackOverflow => (Error::HARDWARE_STACK_ERROR, false),
        FaultKind::StepLimit => (Error::LAUNCH_TIMEOUT, false),
        FaultKind::OobGlobal => {
            let far = fault.address.is_some_and(|a| driver.memory.distance(a) >= PAGE);
            (Error::ILLEGAL_ADDRESS, !far)
        }
        FaultKind::Freed | FaultKind::ReadOnly => (Error::ILLEGAL_ADDRESS, true),
        _ => (Error::LAUNCH_FAILED, true),
    }
}

fn failed(driver: &mut Driver, op: Op, fault: &Fault) {
    let label = driver.work.pending.get(&op).map(|p| p.label.clone()).unwrap_or_default();
    let (error, silent) = answer(driver, fault);
    driver.work.failed = Some(error);
    // What depends on it never happens; memory that was to be freed is.
    for (op, pending) in std::mem::take(&mut driver.work.pending) {
        if let Then::Freed(_) = pending.then {
            then(driver, op, pending.then);
        }
    }
    // Where it is not the operation itself that is at fault, its name comes first.
    let mut text = if fault.kernel == label { fault.to_string() } else { format!("{label}: {fault}") };
    if let Some(by) = fault.address.filter(|_| fault.kind == FaultKind::Freed).and_then(|a| driver.memory.freed_by(a)) {
        text += &format!(", by {by}");
    }
    if silent {
        driver.finding(&text);
    } else {
        finding::remark(&text);
    }
}

/// Waits until something holds, for which the engine is turned.
///
/// # Errors
/// The error that sticks, after a failure.
pub(crate) fn wait(call: &mut Call, mut until: impl FnMut(&mut Driver) -> bool) -> Answer {
    let mut still = Instant::now();
    loop {
        if let Some(error) = call.sticky() {
            return Err(error);
        }
        if until(call) {
            return Ok(());
        }
        let did = turn(call);
        match did {
            Did::Something => still = Instant::now(),
            Did::Polls(op, fault) if still.elapsed() > PATIENCE => call.work.engine.fail(op, fault),
            Did::Nothing | Did::Polls(..) => {
                call.give_way_for(NAP);
                continue;
            }
        }
        if Driver::wanted() {
            call.give_way();
        }
    }
}

/// Waits until an operation has ended; then the program knows of it.
///
/// # Errors
/// As [`wait`].
pub(crate) fn wait_for(call: &mut Call, op: Op) -> Answer {
    wait(call, |driver| driver.work.over(op))?;
    call.work.engine.learn(op);
    Ok(())
}

/// A look at whether an operation has ended, which lets the engine go on for a moment if it has not, so that a program that
/// looks again and again gets there.
pub(crate) fn look(call: &mut Call, op: Op) -> Answer<bool> {
    let start = Instant::now();
    while !call.work.over(op) && start.elapsed() < GLANCE {
        if !matches!(turn(call), Did::Something) {
            break;
        }
    }
    if let Some(error) = call.sticky() {
        return Err(error);
    }
    let done = call.work.over(op);
    if done {
        call.work.engine.learn(op);
    }
    Ok(done)
}

/// Waits as long as too much has been asked for, unless all of it waits for the program.
pub(crate) fn relieve(call: &mut Call) -> Answer {
    while call.work.pending.len() > MOST_PENDING {
        if !matches!(turn(call), Did::Something) {
            break;
        }
        if let Some(error) = call.sticky() {
            return Err(error);
        }
        if Driver::wanted() {
            call.give_way();
        }
    }
    background();
    Ok(())
}

/// The age of the engine that wants a function to run, the operation, and the function.
type Function = (u64, Op, Box<dyn FnOnce() + Send>);

/// The thread that runs functions of the program.
fn callbacks() -> Option<&'static Sender<Function>> {
    static CALLBACKS: OnceLock<Option<Sender<Function>>> = OnceLock::new();
    let start = || {
        let (sender, receiver) = channel::<Function>();
        let run = move || {
            for (age, op, function) in receiver {
                function();
                let work = &mut Driver::enter().work;
                if work.age == age {
                    work.engine.called(op);
                }
            }
        };
        Builder::new().name("cuda callbacks".into()).spawn(run).ok().map(|_| sender)
    };
    CALLBACKS.get_or_init(start).as_ref()
}

/// Wakes the thread that goes on when the program does not call.
fn background() {
    static BACKGROUND: OnceLock<Option<Thread>> = OnceLock::new();
    let start = || Builder::new().name("cuda background".into()).spawn(watch).ok().map(|t| t.thread().clone());
    if let Some(thread) = BACKGROUND.get_or_init(start) {
        thread.unpark();
    }
}

fn watch() {
    loop {
        let mut driver = Driver::enter();
        if driver.work.pending.is_empty() || driver.sticky().is_some() {
            drop(driver);
            std::thread::park();
            continue;
        }
        let quiet = driver.last_call.elapsed();
        if quiet < QUIET {
            drop(driver);
            std::thread::sleep(QUIET - quiet);
            continue;
        }
        let mut did = Did::Something;
        while matches!(did, Did::Something) && !Driver::wanted() && driver.sticky().is_none() {
            did = turn(&mut driver);
        }
        drop(driver);
        match did {
            Did::Something => std::thread::yield_now(),
            Did::Nothing | Did::Polls(..) => std::thread::sleep(NAP),
        }
    }
}
