//! The engine: what operations do, what orders them, and that what does not is found.

use emu::{After, Engine, Extent, HostMemory, Launch, Loaded, Memory, Module, Options, Place, Schedule, Turn, Work};
use std::sync::{Arc, Mutex};

/// Memory of the process, which the test has as well.
#[derive(Clone)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn new(bytes: &[u8]) -> Shared {
        Shared(Arc::new(Mutex::new(bytes.to_vec())))
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }

    fn boxed(&self) -> Box<dyn HostMemory> {
        Box::new(self.clone())
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

#[test]
fn a_chain_of_a_copy_a_kernel_and_a_copy() {
    let ptx = "\
.version 8.6
.target sm_90
.address_size 64
.visible .entry k(.param .u64 p) {
.reg .b32 %r<4>; .reg .b64 %rd<4>;
ld.param.u64 %rd1,[p]; mov.u32 %r1,%tid.x; mul.wide.u32 %rd2,%r1,4; add.s64 %rd1,%rd1,%rd2;
ld.global.u32 %r2,[%rd1]; add.u32 %r2,%r2,1; st.global.u32 [%rd1],%r2; ret; }";
    for seed in 0..8 {
        let options = Options { schedule: Schedule { seed }, ..Options::default() };
        let mut engine = Engine::new(Memory::new(1 << 20), options);
        let loaded: Loaded = Module::parse(ptx).unwrap().load(engine.memory()).unwrap();
        let d = engine.memory().alloc(128, 256).unwrap();
        let (from, to) = (Shared::new(&[7; 128]), Shared::new(&[0; 128]));
        let params = d.to_le_bytes().to_vec();
        let launch = Launch { entry: "k".into(), grid: [1; 3], block: [32, 1, 1], dynamic_shared: 0, params };
        let k = loaded.prepare(&launch, engine.options()).unwrap();
        let up = Work::Copy { from: Place::Host(from.boxed()), to: Place::Device(d), extent: Extent::linear(128) };
        let a = engine.submit("up", up, &[]).unwrap();
        let b = engine.submit("k", Work::Launch(k), &[After::end(a)]).unwrap();
        let down = Work::Copy { from: Place::Device(d), to: Place::Host(to.boxed()), extent: Extent::linear(128) };
        let c = engine.submit("down", down, &[After::end(b)]).unwrap();
        while !engine.done(c) {
            let turn = engine.turn();
            assert!(!matches!(turn, Turn::Stuck(..) | Turn::Failed(..) | Turn::Idle), "{turn:?}");
        }
        engine.learn(c);
        assert_eq!(to.bytes(), [8, 7, 7, 7].repeat(32));
    }
}
