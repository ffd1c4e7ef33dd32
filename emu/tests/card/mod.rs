//! A card for the tests of the engine: some kernels, buffers, and short words for operations.
#![allow(dead_code, reason = "each test file uses its part")]

use emu::{
    After, Edge, Engine, Extent, Fault, HostMemory, Launch, Loaded, Memory, Module, Op, Options, Place, Schedule, Turn,
    Work,
};
use std::sync::{Arc, Mutex};

pub const SEEDS: u64 = 12;
/// Bytes of a buffer: a word for each of 4 CTAs of 64 threads.
pub const BYTES: u64 = 1024;

/// Kernels of three pointers. `%rd1` and `%rd2` are the thread's words of the first two, `%rd3` the third; `%r3` is the
/// number of the thread and `%p1` holds in the first.
const KERNELS: &[(&str, &str)] = &[
    ("step", "ld.global.u32 %r5,[%rd1]; add.u32 %r5,%r5,1; st.global.u32 [%rd2],%r5;"),
    ("mix", "ld.global.u32 %r5,[%rd1]; cvt.u32.u64 %r6,%rd3; mad.lo.u32 %r5,%r5,5,%r6; st.global.u32 [%rd2],%r5;"),
    ("read", "ld.global.u32 %r5,[%rd1];"),
    ("write", "st.global.u32 [%rd1],%r3;"),
    ("nothing", ""),
    ("trap", "trap;"),
    ("far", "st.global.u32 [%rd1+65536],%r3;"),
    // Lets the next begin and then does its step.
    (
        "first",
        "griddepcontrol.launch_dependents; ld.global.u32 %r5,[%rd1]; add.u32 %r5,%r5,1; st.global.u32 [%rd2],%r5;",
    ),
    (
        "waits",
        "griddepcontrol.launch_dependents; griddepcontrol.wait; ld.global.u32 %r5,[%rd1]; add.u32 %r5,%r5,1;
         st.global.u32 [%rd2],%r5;",
    ),
    // Lets the next begin, then waits for the word at `%rd3`.
    (
        "hold",
        "griddepcontrol.launch_dependents;
         W: ld.acquire.sys.global.u32 %r6,[%rd3]; setp.eq.u32 %p2,%r6,0; @%p2 bra W;",
    ),
    (
        "hold_step",
        "W: ld.acquire.sys.global.u32 %r6,[%rd3]; setp.eq.u32 %p2,%r6,0; @%p2 bra W;
         ld.global.u32 %r5,[%rd1]; add.u32 %r5,%r5,1; st.global.u32 [%rd2],%r5;",
    ),
    (
        "hold_weakly",
        "W: ld.relaxed.sys.global.u32 %r6,[%rd3]; setp.eq.u32 %p2,%r6,0; @%p2 bra W;
         ld.global.u32 %r5,[%rd1]; add.u32 %r5,%r5,1; st.global.u32 [%rd2],%r5;",
    ),
    // Writes and then sets the word at `%rd3`: all threads of one CTA.
    ("signal", "st.global.u32 [%rd1],%r3; bar.sync 0; @%p1 st.release.sys.global.u32 [%rd3],1;"),
    ("signal_near", "st.global.u32 [%rd1],%r3; bar.sync 0; @%p1 st.release.gpu.global.u32 [%rd3],1;"),
    ("signal_weakly", "st.global.u32 [%rd1],%r3; bar.sync 0; @%p1 st.global.u32 [%rd3],1;"),
    (
        "signal_and_go_on",
        "st.global.u32 [%rd1],%r3; bar.sync 0; @%p1 st.release.sys.global.u32 [%rd3],1;
         W: ld.acquire.sys.global.u32 %r6,[%rd3]; setp.ne.u32 %p2,%r6,2; @%p2 bra W;",
    ),
    // Meets as many others as the word at `%rd2` of the first thread says, at the word at `%rd3`.
    (
        "meet",
        "@!%p1 bra E; ld.global.u32 %r6,[%rd1]; red.release.gpu.global.add.u32 [%rd3],1;
         W: ld.acquire.gpu.global.u32 %r7,[%rd3]; setp.lt.u32 %p2,%r7,%r6; @%p2 bra W;
         E:",
    ),
];

fn text() -> String {
    let kernel = |(name, body): &(&str, &str)| {
        format!(
            "\
.visible .entry {name}(.param .u64 a, .param .u64 b, .param .u64 c)
{{
.reg .pred %p<4>; .reg .b32 %r<16>; .reg .b64 %rd<8>;
ld.param.u64 %rd1,[a]; ld.param.u64 %rd2,[b]; ld.param.u64 %rd3,[c];
mov.u32 %r1,%tid.x; mov.u32 %r2,%ctaid.x; mad.lo.u32 %r3,%r2,64,%r1; mul.wide.u32 %rd4,%r3,4;
add.s64 %rd1,%rd1,%rd4; add.s64 %rd2,%rd2,%rd4; setp.eq.u32 %p1,%r3,0;
{body}
ret;
}}
"
        )
    };
    let head = ".version 8.6\n.target sm_90\n.address_size 64\n.const .align 4 .u32 limit = 5;\n.global .align 8 .b8 table[24];\n";
    head.to_owned() + &KERNELS.iter().map(kernel).collect::<String>()
}

/// Memory of the process, which the test has as well.
#[derive(Clone)]
pub struct Shared(pub Arc<Mutex<Vec<u8>>>);

impl Shared {
    pub fn new(bytes: &[u8]) -> Shared {
        Shared(Arc::new(Mutex::new(bytes.to_vec())))
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }

    pub fn word(&self, index: usize) -> u32 {
        u32::from_le_bytes(self.bytes()[4 * index..4 * index + 4].try_into().unwrap())
    }

    pub fn set(&self, index: usize, word: u32) {
        self.0.lock().unwrap()[4 * index..4 * index + 4].copy_from_slice(&word.to_le_bytes());
    }

    pub fn place(&self) -> Place {
        Place::Host(Box::new(self.clone()))
    }
}

impl HostMemory for Shared {
    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        out.copy_from_slice(&self.0.lock().unwrap()[offset..offset + out.len()]);
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.0.lock().unwrap()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

pub struct Card {
    pub engine: Engine,
    pub loaded: Loaded,
    ops: Vec<Op>,
    failed: Option<(Op, Box<Fault>)>,
}

/// What a run of everything came to.
pub type Ended = Result<(), (Op, Box<Fault>)>;

impl Card {
    pub fn new(seed: u64) -> Card {
        let options = Options { schedule: Schedule { seed }, ..Options::default() };
        let mut engine = Engine::new(Memory::new(1 << 40), options);
        let module = Module::parse(&text()).unwrap_or_else(|e| panic!("{e}\n{}", text()));
        let loaded = module.load(engine.memory()).unwrap();
        Card { engine, loaded, ops: Vec::new(), failed: None }
    }

    /// A buffer of zeros.
    pub fn zeros(&mut self) -> u64 {
        self.engine.memory().alloc_with(vec![0; BYTES as usize], 256).unwrap()
    }

    /// Memory of the process that kernels reach, at an address of the test's choice.
    pub fn pinned(&mut self, base: u64, bytes: &[u8]) -> Shared {
        let shared = Shared::new(bytes);
        self.engine.memory().alloc_host(base, Box::new(shared.clone())).unwrap();
        shared
    }

    /// Submits an operation; once one has failed, nothing.
    pub fn submit(&mut self, label: &str, work: Work, after: &[After]) -> Op {
        match self.engine.submit(label, work, after) {
            Ok(op) => {
                self.ops.push(op);
                op
            }
            // What failed is told in its turn.
            Err(e) => loop {
                match &self.failed {
                    Some((op, _)) => return *op,
                    None => assert!(!matches!(self.turn(), Turn::Idle), "{e}"),
                }
            },
        }
    }

    /// Turns the engine, and calls what it hands out.
    pub fn turn(&mut self) -> Turn {
        let turn = self.engine.turn();
        match turn {
            Turn::Call(op, function) => {
                function();
                self.engine.called(op);
                Turn::Ran
            }
            Turn::Failed(op, fault) => {
                self.failed = Some((op, fault.clone()));
                Turn::Failed(op, fault)
            }
            turn => turn,
        }
    }

    /// A kernel of so many CTAs.
    pub fn grid(&mut self, kernel: &str, ctas: u32, at: [u64; 3], after: &[After]) -> Op {
        let params = at.iter().flat_map(|a| a.to_le_bytes()).collect();
        let launch = Launch { entry: kernel.into(), grid: [ctas, 1, 1], block: [64, 1, 1], dynamic_shared: 0, params };
        let prepared = self.loaded.prepare(&launch, self.engine.options()).unwrap();
        self.submit(&format!("launch of {kernel}"), Work::Launch(prepared), after)
    }

    pub fn launch(&mut self, kernel: &str, a: u64, b: u64, after: &[After]) -> Op {
        self.grid(kernel, 4, [a, b, a], after)
    }

    pub fn up(&mut self, from: &Shared, to: u64, after: &[After]) -> Op {
        let extent = Extent::linear(from.bytes().len() as u64);
        self.submit("an upload", Work::Copy { from: from.place(), to: Place::Device(to), extent }, after)
    }

    pub fn down(&mut self, from: u64, to: &Shared, after: &[After]) -> Op {
        let extent = Extent::linear(to.bytes().len() as u64);
        self.submit("a download", Work::Copy { from: Place::Device(from), to: to.place(), extent }, after)
    }

    pub fn copy(&mut self, from: u64, to: u64, bytes: u64, after: &[After]) -> Op {
        let extent = Extent::linear(bytes);
        self.submit("a copy", Work::Copy { from: Place::Device(from), to: Place::Device(to), extent }, after)
    }

    /// Turns the engine until nothing is left to do.
    pub fn finish(&mut self) -> Ended {
        loop {
            match self.turn() {
                Turn::Stuck(op, fault) => return Err((op, fault)),
                Turn::Idle => return self.failed.take().map_or(Ok(()), Err),
                _ => {}
            }
        }
    }

    /// Turns the engine until all have ended, and the host knows.
    pub fn sync(&mut self) {
        self.finish().unwrap_or_else(|(_, fault)| panic!("{fault}"));
        for op in std::mem::take(&mut self.ops) {
            self.engine.learn(op);
        }
    }

    /// Turns the engine until all that is left polls.
    pub fn until_stuck(&mut self) -> Op {
        for _ in 0..100_000 {
            match self.engine.turn() {
                Turn::Stuck(op, _) => return op,
                Turn::Ran | Turn::Ended(_) => {}
                other => panic!("{other:?}"),
            }
        }
        panic!("it goes on for ever");
    }

    /// Turns the engine until an operation has ended, and the host knows.
    pub fn wait(&mut self, op: Op) {
        while !self.engine.done(op) {
            let turn = self.engine.turn();
            assert!(!matches!(turn, Turn::Failed(..) | Turn::Stuck(..) | Turn::Idle), "{turn:?}");
        }
        assert_eq!(self.engine.error(), None);
        self.engine.learn(op);
    }

    /// The first word of memory.
    pub fn word(&mut self, at: u64) -> u32 {
        let mut word = [0; 4];
        self.engine.read(at, &mut word).unwrap();
        u32::from_le_bytes(word)
    }
}

pub fn end(op: Op) -> After {
    After::end(op)
}

pub fn early(op: Op) -> After {
    After { op, edge: Edge::Programmatic }
}
