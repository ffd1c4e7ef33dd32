//! The verifier of kernels on small ones.

use ir::kernel::{Access, Builder, Grid, Mem};

/// What a kernel does before it waits for the launch before.
type Early = fn(&mut Builder);

fn use_param(b: &mut Builder, access: Access) {
    let buf = b.param("p", Mem::I32, 64, access);
    let zero = b.int(0);
    b.load(buf, zero, Mem::I32);
}

/// The words of the message if the kernel is for a GPU, and what it does.
const EARLY: &[(Option<&str>, Early)] = &[
    (None, |b| use_param(b, Access::Constant)),
    (Some("buffer p is used before"), |b| use_param(b, Access::Read)),
    (Some("buffer p is used before"), |b| use_param(b, Access::Write)),
    (Some("control memory is read before"), |b| {
        b.position();
    }),
    (Some("control memory is read before"), |b| {
        b.tokens();
    }),
    (None, |b| {
        let shared = b.scratch("shared", Mem::I32, 64);
        let zero = b.int(0);
        b.store(shared, zero, Mem::I32, zero);
    }),
];

#[test]
fn only_constants_are_read_while_the_launch_before_runs() {
    for (refusal, early) in EARLY {
        let kernel = |waits: bool| {
            let mut b = Builder::new("k");
            b.set_grid(Grid { ctas: 1, threads: 32 });
            if waits {
                b.await_previous();
            }
            early(&mut b);
            b.finish().verify().map(|_| ())
        };
        assert!(kernel(true).is_ok());
        match (kernel(false), refusal) {
            (Ok(()), None) => {}
            (Err(e), Some(words)) => assert!(e.to_string().contains(words), "{e}"),
            (result, refusal) => panic!("{result:?}, expected {refusal:?}"),
        }
    }
}

#[test]
fn workers_wait_for_no_launch() {
    for (_, early) in EARLY {
        let mut b = Builder::new("k");
        early(&mut b);
        b.finish().verify().unwrap();
    }
}
