//! What comes from the device to the host: only what is asked for, and once for each step.
#![cfg(target_arch = "x86_64")]

mod fixture;

use fixture::{TOP, VOCAB};
use ir::abi::Control;
use ir::artifact::KernelEntry;
use ir::target::Target;
use runtime::device::{CpuDevice, Device, HostBytes, Info, Kernel, Launch, Memory, Recording, Region};
use runtime::{Executor, ModelFile, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A CPU that counts the bytes downloaded from it.
struct Counting(CpuDevice, Arc<AtomicUsize>);

impl Device for Counting {
    fn info(&self) -> &Info {
        self.0.info()
    }
    fn alloc(&mut self, bytes: u64, what: &str) -> Result<Memory> {
        self.0.alloc(bytes, what)
    }
    fn import(&mut self, bytes: HostBytes) -> Option<Memory> {
        self.0.import(bytes)
    }
    fn host_bytes(&mut self, memory: Memory) -> Option<&mut [u8]> {
        self.0.host_bytes(memory)
    }
    fn upload(&mut self, to: Region, bytes: &[u8]) -> Result<()> {
        self.0.upload(to, bytes)
    }
    fn download(&mut self, from: Region, out: &mut [u8]) -> Result<()> {
        self.1.fetch_add(out.len(), Ordering::Relaxed);
        self.0.download(from, out)
    }
    fn load_module(&mut self, code: &[u8], kernels: &[KernelEntry]) -> Result<Vec<Kernel>> {
        self.0.load_module(code, kernels)
    }
    fn record(&mut self, launches: &[Launch]) -> Result<Recording> {
        self.0.record(launches)
    }
    fn replay(&mut self, recording: Recording, control: Control) -> Result<()> {
        self.0.replay(recording, control)
    }
    fn sync(&mut self) -> Result<()> {
        self.0.sync()
    }
}

#[test]
fn a_step_brings_only_what_is_asked_for() {
    let model = ModelFile::from_static("toy", fixture::gguf(0).leak()).unwrap();
    let bytes = Arc::new(AtomicUsize::new(0));
    let device = CpuDevice::new(Target::by_name("x86-64").unwrap(), 2).unwrap();
    let device = Box::new(Counting(device, bytes.clone()));
    let artifact = fixture::artifact(model.identity(), 0);
    let mut e = Executor::on_device(device, artifact, &model, &mut |_, _| ()).unwrap();
    let came = || bytes.swap(0, Ordering::Relaxed);
    came();
    for token in 0..3 {
        e.step(&[token]).unwrap();
        assert_eq!(came(), 0);
        for expected in [(2 * TOP + 1) * 4, 0] {
            e.top(1).unwrap().unwrap();
            assert_eq!(came(), expected);
        }
        assert!(e.top(TOP + 1).unwrap().is_none());
        assert_eq!(came(), 0);
        for expected in [VOCAB * 4, 0] {
            e.logits().unwrap();
            assert_eq!(came(), expected);
        }
    }
}
