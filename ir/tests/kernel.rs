//! The verifier of kernels on small ones.

use ir::abi::Atom;
use ir::kernel::{
    Access, Arg, Binary, Buf, Builder, BulkCopy, Compare, Grid, Inst, Kernel, MOST_ELEMENTS, Mem, Scope, Space,
    Special, Stmt, Ty, Value, Var,
};

/// What a kernel does.
type Code = fn(&mut Builder);
/// Words of the refusal, none if it is accepted; and what the kernel does.
type Case = (Option<&'static str>, Code);

fn kernel(gpu: bool, code: impl FnOnce(&mut Builder)) -> Kernel {
    let mut b = Builder::new("k");
    if gpu {
        b.set_grid(Grid { ctas: 1, threads: 32 });
    }
    code(&mut b);
    b.finish()
}

/// What the verifier says, if that is not what is expected.
fn differs(kernel: Kernel, refusal: Option<&str>) -> Option<String> {
    // The text form is for kernels whose numbers exist.
    let text = format!("{kernel:?}");
    let said = kernel.verify().err().map(|e| e.to_string());
    let fine = match (&said, refusal) {
        (None, None) => true,
        (Some(said), Some(words)) => said.contains(words),
        _ => false,
    };
    (!fine).then(|| format!("said {said:?}, expected {refusal:?}\n{text}"))
}

/// Checks all of a table before it fails.
#[track_caller]
fn check<'a>(cases: impl IntoIterator<Item = (Kernel, Option<&'a str>)>) {
    let wrong: Vec<_> = cases.into_iter().filter_map(|(kernel, refusal)| differs(kernel, refusal)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn use_param(b: &mut Builder, access: Access) {
    let buf = b.param("p", Mem::I32, 64, access);
    let zero = b.int(0);
    b.load(buf, zero, Mem::I32);
}

/// What a kernel for a GPU does before it waits for the launch before.
const EARLY: &[Case] = &[
    (None, |b| use_param(b, Access::Constant)),
    (Some("buffer p is used before"), |b| use_param(b, Access::Read)),
    (Some("buffer p is used before"), |b| use_param(b, Access::Write)),
    (Some("control memory is read before"), |b| _ = b.position()),
    (Some("control memory is read before"), |b| _ = b.tokens()),
    (None, |b| {
        let shared = b.scratch("shared", Mem::I32, 64);
        let zero = b.int(0);
        b.store(shared, zero, Mem::I32, zero);
    }),
];

#[test]
fn only_constants_are_read_while_the_launch_before_runs() {
    for &(refusal, early) in EARLY {
        let after = |b: &mut Builder| {
            b.await_previous();
            early(b);
        };
        let before = |b: &mut Builder| {
            early(b);
            b.await_previous();
        };
        check([(kernel(true, after), None), (kernel(true, before), refusal)]);
    }
}

#[test]
fn workers_wait_for_no_launch() {
    check(EARLY.iter().map(|&(_, early)| (kernel(false, early), None)));
}

/// A condition.
fn first_thread(b: &mut Builder) -> Value {
    let (thread, one) = (b.special(Special::Thread), b.int(1));
    b.compare(Compare::ULt, thread, one)
}

/// Where kernels for GPUs wait for the launch before: once on every path.
const WAITS: &[Case] = &[
    (None, Builder::await_previous),
    (Some("it does not wait for the launch before"), |_| ()),
    (Some("it waits for the launch before twice"), |b| {
        b.await_previous();
        b.await_previous();
    }),
    (Some("one side of a branch waits"), |b| {
        let cond = first_thread(b);
        b.if_(cond, Builder::await_previous);
    }),
    (Some("one side of a branch waits"), |b| {
        let cond = first_thread(b);
        b.if_else(cond, |_| (), Builder::await_previous);
    }),
    (Some("one side of a branch waits"), |b| {
        let cond = first_thread(b);
        b.if_(cond, Builder::await_previous);
        use_param(b, Access::Read);
    }),
    (None, |b| {
        let cond = first_thread(b);
        b.if_else(cond, Builder::await_previous, Builder::await_previous);
        use_param(b, Access::Write);
    }),
    (Some("buffer p is used before"), |b| {
        let cond = first_thread(b);
        b.if_else(cond, Builder::await_previous, |b| {
            use_param(b, Access::Read);
            b.await_previous();
        });
    }),
    (Some("it waits for the launch before twice"), |b| {
        let cond = first_thread(b);
        b.if_else(cond, Builder::await_previous, Builder::await_previous);
        b.await_previous();
    }),
    (Some("a loop waits for the launch before"), |b| b.for_n(1, 1, |b, _| b.await_previous())),
    (Some("a loop waits for the launch before"), |b| {
        b.for_n(1, 1, |b, _| b.await_previous());
        use_param(b, Access::Read);
    }),
    (Some("a loop waits for the launch before"), |b| {
        b.for_n(1, 1, |b, _| {
            let cond = first_thread(b);
            b.if_else(cond, Builder::await_previous, Builder::await_previous);
        });
    }),
    (Some("buffer p is used before"), |b| {
        b.for_n(2, 1, |b, _| use_param(b, Access::Read));
        b.await_previous();
    }),
];

#[test]
fn every_path_waits_for_the_launch_before_once() {
    check(WAITS.iter().map(|&(refusal, code)| (kernel(true, code), refusal)));
    check([(kernel(false, Builder::await_previous), Some("a wait for a launch is not of its kind of machine"))]);
}

/// A buffer of 16 words that can be written.
fn words(b: &mut Builder) -> Buf {
    b.param("words", Mem::I32, 64, Access::Write)
}

fn load_at(b: &mut Builder, index: i32) {
    let (buf, index) = (words(b), b.int(index));
    b.load(buf, index, Mem::I32);
}

/// A call of a dot product that writes to a buffer of this access.
fn dot(b: &mut Builder, access: Access, last: impl FnOnce(&mut Builder) -> Arg) {
    let (from, to) = (b.param("from", Mem::U8, 64, Access::Read), b.param("to", Mem::F32, 64, access));
    let zero = b.int(0);
    let last = last(b);
    let memory = [Arg::Address(from, zero), Arg::Address(from, zero), Arg::Address(to, zero)];
    let numbers = [Arg::Int(zero); 4];
    b.call(Atom::DotF32, memory.into_iter().chain(numbers).chain([last]).collect());
}

const CPU: &[Case] = &[
    // Types.
    (Some("%1 is F32, expected I32"), |b| {
        let (x, y) = (b.int(1), b.float(1.0));
        b.iadd(x, y);
    }),
    (Some("FAdd of I32"), |b| {
        let x = b.position();
        b.fadd(x, x);
    }),
    (Some("fma of I32"), |b| {
        let x = b.int(1);
        b.fma(x, x, x);
    }),
    (Some("FLt of I32"), |b| {
        let x = b.int(1);
        b.compare(Compare::FLt, x, x);
    }),
    (Some("%1 is F32, expected I32"), |b| {
        let (x, y) = (b.int(1), b.float(1.0));
        let cond = b.compare(Compare::IEq, x, x);
        b.select(cond, x, y);
    }),
    (Some("a select by I32"), |b| {
        let x = b.int(1);
        b.select(x, x, x);
    }),
    (Some("a splat of F32x4"), |b| {
        let x = b.float(1.0);
        let x = b.splat(x);
        b.splat(x);
    }),
    (Some("lane 4 of F32x4"), |b| {
        let x = b.float(1.0);
        let x = b.splat(x);
        b.lane(x, 4);
    }),
    (Some("lane 0 of F32"), |b| {
        let x = b.float(1.0);
        b.lane(x, 0);
    }),
    (Some("a sum of F32"), |b| {
        let x = b.float(1.0);
        b.sum(x);
    }),
    (Some("expected F32x4"), |b| {
        let x = b.float(1.0);
        b.max(x);
    }),
    (Some("dot4 of I32"), |b| {
        let x = b.int(1);
        b.dot4(x, x, x);
    }),
    (Some("byte 4 of a word"), |b| {
        let x = b.position();
        b.byte(x, 4, true);
    }),
    (Some("a division by zero"), |b| {
        let (x, zero) = (b.position(), b.int(0));
        b.udiv(x, zero);
    }),
    (Some("must be a constant"), |b| {
        let (x, y) = (b.position(), b.tokens());
        b.urem(x, y);
    }),
    (Some("a shift by 32"), |b| {
        let (x, by) = (b.position(), b.int(32));
        b.shl(x, by);
    }),
    (Some("expected F32"), |b| {
        let x = b.position();
        b.exp(x);
    }),
    // State and control.
    (Some("%1 is F32, expected I32"), |b| {
        let (x, y) = (b.int(1), b.float(1.0));
        let v = b.var(x);
        b.set(v, y);
    }),
    (Some("variable 7 does not exist"), |b| {
        let x = b.int(1);
        b.set(Var(7), x);
    }),
    (Some("expected Bool"), |b| {
        let x = b.int(1);
        b.if_(x, |_| ());
    }),
    (Some("is F32, expected I32"), |b| {
        let (x, y) = (b.int(1), b.float(1.0));
        b.for_(x, y, 1, |_, _| ());
    }),
    (Some("a loop has step 0"), |b| b.for_n(4, 0, |_, _| ())),
    (None, |b| b.for_n(0xffff_fffe, 2, |_, _| ())),
    (Some("wraps: a loop to 4294967295 in steps of 2"), |b| b.for_n(0xffff_ffff, 2, |_, _| ())),
    (Some("a parallel loop is in a loop"), |b| {
        b.for_n(2, 1, |b, n| b.parallel(n, |_, _| ()));
    }),
    (Some("ticket 1 is out of order"), |b| {
        let n = b.int(2);
        b.parallel(n, |b, n| b.parallel(n, |_, _| ()));
    }),
    (None, |b| b.for_n(2, 1, |b, _| b.barrier())),
    (Some("a barrier is in a parallel loop"), |b| {
        let n = b.int(2);
        b.parallel(n, |b, _| b.barrier());
    }),
    (Some("a barrier is in a parallel loop"), |b| {
        let n = b.int(2);
        b.parallel(n, |b, _| b.for_n(2, 1, |b, _| b.barrier()));
    }),
    // Scopes.
    (Some("is used where it is not defined"), |b| {
        let mut inside = None;
        b.for_n(2, 1, |b, i| inside = Some(b.unary(ir::kernel::Unary::ToFloat, i)));
        let x = inside.unwrap();
        b.fabs(x);
    }),
    (Some("is used where it is not defined"), |b| {
        let mut index = None;
        b.for_n(2, 1, |_, i| index = Some(i));
        let x = index.unwrap();
        b.to_float(x);
    }),
    (Some("is used where it is not defined"), |b| {
        let one = b.int(1);
        let cond = b.compare(Compare::IEq, one, one);
        let inside = std::cell::Cell::new(one);
        b.if_else(cond, |b| inside.set(b.position()), |b| _ = b.to_float(inside.get()));
    }),
    // Memory.
    (None, |b| load_at(b, 15)),
    (Some("%0 is 16 or more, outside of the 64 bytes of buffer words"), |b| load_at(b, 16)),
    (Some("%0 is 4294967295 or more, outside"), |b| load_at(b, -1)),
    (Some("%0 is 13 or more, outside"), |b| {
        let (buf, index) = (words(b), b.int(13));
        b.load4(buf, index, Mem::I32);
    }),
    (None, |b| {
        let (buf, x) = (words(b), b.position());
        let index = b.iadd_const(x, 15);
        b.load(buf, index, Mem::I32);
    }),
    (Some("is 16 or more, outside of the 64 bytes of buffer words"), |b| {
        let (buf, x) = (words(b), b.position());
        let index = b.iadd_const(x, 16);
        b.load(buf, index, Mem::I32);
    }),
    (Some("is 20 or more, outside"), |b| {
        let (buf, x, y) = (words(b), b.position(), b.tokens());
        let (x, y) = (b.iadd_const(x, 12), b.iadd_const(y, 8));
        let index = b.iadd(x, y);
        b.store(buf, index, Mem::I32, x);
    }),
    // What is not certain to be executed may never be.
    (None, |b| {
        let (one, two) = (b.position(), b.tokens());
        let cond = b.compare(Compare::ULt, one, two);
        b.if_(cond, |b| load_at(b, 16));
    }),
    (Some("is 16 or more, outside"), |b| b.for_n(2, 1, |b, _| load_at(b, 16))),
    (None, |b| {
        let (zero, tokens) = (b.int(0), b.tokens());
        b.for_(zero, tokens, 1, |b, _| load_at(b, 16));
    }),
    (None, |b| {
        // Less than the constant, as a negative one is added.
        let (buf, x, less) = (words(b), b.position(), b.int(-10));
        let x = b.iadd_const(x, 20);
        let index = b.iadd(x, less);
        b.load(buf, index, Mem::I32);
    }),
    (Some("buffer words is not of F32"), |b| {
        let (buf, zero) = (words(b), b.int(0));
        b.load(buf, zero, Mem::F32);
    }),
    (Some("expected I32"), |b| {
        let (buf, x) = (words(b), b.float(0.0));
        b.load(buf, x, Mem::I32);
    }),
    (Some("is stored as I32"), |b| {
        let (buf, zero, x) = (words(b), b.int(0), b.float(0.0));
        b.store(buf, zero, Mem::I32, x);
    }),
    (Some("vector accesses are of four-byte elements"), |b| {
        let (buf, zero) = (b.param("p", Mem::U8, 64, Access::Read), b.int(0));
        b.load4(buf, zero, Mem::U16);
    }),
    (Some("buffer p is read-only"), |b| {
        let (buf, zero) = (b.param("p", Mem::I32, 64, Access::Read), b.int(0));
        b.store(buf, zero, Mem::I32, zero);
    }),
    (Some("buffer p is read-only"), |b| {
        let (buf, zero) = (b.constant("p", Mem::I32, &[1, 2]), b.int(0));
        b.store(buf, zero, Mem::I32, zero);
    }),
    (Some("%0 is 2 or more, outside of the 8 bytes of buffer p"), |b| {
        let two = b.int(2);
        let buf = b.constant("p", Mem::I32, &[1, 2]);
        b.load_constant(buf, two);
    }),
    (Some("buffer 3 does not exist"), |b| {
        let zero = b.int(0);
        b.load(Buf(3), zero, Mem::I32);
    }),
    (None, |b| _ = b.param("p", Mem::U8, MOST_ELEMENTS, Access::Read)),
    (Some("buffer p has more elements"), |b| _ = b.param("p", Mem::U8, MOST_ELEMENTS + 1, Access::Read)),
    (None, |b| _ = b.param("p", Mem::F32, MOST_ELEMENTS * 4, Access::Read)),
    (Some("buffer p has more elements"), |b| _ = b.param("p", Mem::F32, MOST_ELEMENTS * 4 + 1, Access::Read)),
    // Calls.
    (None, |b| {
        dot(b, Access::Write, |b| {
            let zero = b.int(0);
            Arg::Int(zero)
        });
    }),
    (Some("buffer to is read-only"), |b| {
        dot(b, Access::Read, |b| {
            let zero = b.int(0);
            Arg::Int(zero)
        });
    }),
    (Some("does not fit Dot"), |b| dot(b, Access::Write, |_| Arg::Null)),
    (Some("does not fit Dot"), |b| {
        dot(b, Access::Write, |b| {
            let x = b.float(0.0);
            Arg::Float(x)
        });
    }),
    (Some("expected I32"), |b| {
        dot(b, Access::Write, |b| {
            let x = b.float(0.0);
            Arg::Int(x)
        });
    }),
    (Some("a call has 0 arguments"), |b| b.call(Atom::DotF32, Vec::new())),
    (Some("the barrier is a statement"), |b| b.call(Atom::Barrier, Vec::new())),
    (Some("%0 is 64 or more, outside of the 64 bytes of buffer to"), |b| {
        let past = b.int(64);
        let (to, zero) = (b.param("to", Mem::U8, 64, Access::Write), b.int(0));
        let numbers = [Arg::Int(zero), Arg::Int(zero)];
        b.call(Atom::SiluTimes, [Arg::Address(to, zero), Arg::Address(to, past)].into_iter().chain(numbers).collect());
    }),
    // What GPUs have.
    (Some("a wait of threads is not of its kind of machine"), |b| b.sync(Scope::Warp)),
    (Some("a thread's number is not of its kind of machine"), |b| _ = b.special(Special::Thread)),
    (Some("an election is not of its kind of machine"), |b| _ = b.elected()),
    (Some("a fence is not of its kind of machine"), Builder::fence_async),
];

/// Sixteen slots of shared memory, and what a copy to them is given.
fn copy(b: &mut Builder, access: Access, bytes: u32, to: i32) {
    let (from, slots) = (b.param("from", Mem::U8, 256, access), b.scratch("slots", Mem::U8, 272));
    let (zero, to, mbarrier) = (b.int(0), b.int(to), b.int(256));
    b.bulk_copy(BulkCopy { to: (slots, to), from: (from, zero), bytes, mbarrier: (slots, mbarrier) });
}

/// Kernels for GPUs, after the wait.
const GPU: &[Case] = &[
    (None, |b| copy(b, Access::Constant, 256, 0)),
    (Some("a bulk copy from from"), |b| copy(b, Access::Read, 16, 0)),
    (Some("a bulk copy of 24 bytes"), |b| copy(b, Access::Constant, 24, 0)),
    (Some("a bulk copy of 0 bytes"), |b| copy(b, Access::Constant, 0, 0)),
    (Some("is 0 or more, outside of the 256 bytes of buffer from"), |b| copy(b, Access::Constant, 272, 0)),
    (Some("is 32 or more, outside of the 272 bytes of buffer slots"), |b| copy(b, Access::Constant, 256, 32)),
    (Some("buffer words is not of U8"), |b| {
        let (buf, zero) = (words(b), b.int(0));
        b.mbarrier_init(buf, zero);
    }),
    (Some("buffer p is not in shared memory"), |b| {
        let (buf, zero) = (b.param("p", Mem::U8, 64, Access::Write), b.int(0));
        b.mbarrier_wait(buf, zero, zero);
    }),
    (Some("a shuffle over 32 lanes"), |b| {
        let x = b.int(0);
        b.shuffle_xor(x, 32);
    }),
    (Some("a shuffle of F32x4"), |b| {
        let (x, lane) = (b.float(0.0), b.int(0));
        let x = b.splat(x);
        b.shuffle(x, lane);
    }),
    (Some("an atomic addition to shared"), |b| {
        let (buf, zero) = (b.scratch("shared", Mem::I32, 64), b.int(0));
        b.atomic_add(buf, zero, zero);
    }),
    (Some("half 2 of a word"), |b| {
        let x = b.int(0);
        b.lut_nibbles(x, 2, [0; 16]);
    }),
    (Some("a barrier of workers is not of its kind of machine"), Builder::barrier),
    (Some("a call is not of its kind of machine"), |b| b.call(Atom::DotF32, Vec::new())),
    (Some("a parallel loop is not of its kind of machine"), |b| {
        let n = b.int(1);
        b.parallel(n, |_, _| ());
    }),
];

#[test]
fn what_breaks_a_rule_is_refused() {
    check(CPU.iter().map(|&(refusal, code)| (kernel(false, code), refusal)));
    check(GPU.iter().map(|&(refusal, code)| {
        let waited = |b: &mut Builder| {
            b.await_previous();
            code(b);
        };
        (kernel(true, waited), refusal)
    }));
}

/// What the builder does not make.
#[test]
fn forged_kernels_are_refused() {
    let good = || {
        kernel(false, |b| {
            let (first, second) = (b.scratch("first", Mem::I32, 64), b.scratch("second", Mem::I32, 64));
            let (param, zero) = (b.param("p", Mem::I32, 64, Access::Write), b.int(0));
            [first, second, param].into_iter().for_each(|buf| b.store(buf, zero, Mem::I32, zero));
            b.constant("c", Mem::I32, &[1, 2]);
            b.parallel(zero, |_, _| ());
        })
    };
    check([(good(), None)]);
    type Forge = fn(&mut Kernel);
    let cases: &[(&str, Forge)] = &[
        ("scratch buffer second overlaps", |k| k.buffers[1].space = Space::Scratch(0)),
        ("scratch buffer second overlaps", |k| k.buffers[0].bytes = 65),
        ("scratch buffer second overlaps or exceeds", |k| k.buffers[1].space = Space::Scratch(100)),
        ("scratch buffer second overlaps or exceeds", |k| k.buffers[1].bytes = 65),
        ("scratch buffer second overlaps or exceeds", |k| k.buffers[1].bytes = u64::MAX),
        ("buffer p is out of order", |k| k.buffers[2].space = Space::Param(1)),
        ("constant c is not what its words are", |k| k.buffers[3].bytes = 12),
        ("constant c is not what its words are", |k| k.buffers[3].access = Access::Write),
        ("is declared F32 but gives I32", |k| k.values[0].1 = Ty::F32),
        ("is no loop index", |k| k.values[1].1 = Ty::F32),
        ("is no loop index", |k| k.values[1].0 = Inst::Int(0)),
        ("%0 is defined twice", |k| k.body.insert(0, Stmt::Let(Value(0)))),
        ("%9 does not exist", |k| k.body.insert(0, Stmt::Let(Value(9)))),
        ("is used where it is not defined", |k| drop(k.body.remove(0))),
        ("is used where it is not defined", |k| k.values[0].0 = Inst::Binary(Binary::IAdd, Value(0), Value(0))),
        ("it has 1 parallel loops for 2 tickets", |k| k.tickets = 2),
        ("ticket 0 is out of order", |k| k.body.push(k.body.last().unwrap().clone())),
    ];
    check(cases.iter().map(|(words, forge)| {
        let mut forged = good();
        forge(&mut forged);
        (forged, Some(*words))
    }));
}
