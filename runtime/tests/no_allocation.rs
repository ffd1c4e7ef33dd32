//! After loading, steps allocate nothing, on any thread.
#![cfg(target_arch = "x86_64")]

mod fixture;

use runtime::device::Options;
use runtime::sampler::{Sampler, SamplerConfig};
use runtime::{Executor, ModelFile};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's guarantees are the same.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's guarantees are the same.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn steps_allocate_nothing() {
    let bytes = fixture::gguf(0).leak();
    let model = ModelFile::from_static("toy", bytes).unwrap();
    let artifact = fixture::artifact(model.identity(), 0);
    let mut e = Executor::new(artifact, &model, &Options { threads: 2, ..Options::default() }, &mut |_, _| ()).unwrap();
    // Parking allocates at the first time on some systems.
    e.step(&[1]).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    let mut sampler = Sampler::new(SamplerConfig { top_k: 2, ..SamplerConfig::default() }, fixture::VOCAB).unwrap();
    let prompt = [5; 20];
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..100 {
        e.set_position(0).unwrap();
        e.prefill(&prompt, &mut |_, _| true).unwrap();
        for t in 0..20 {
            e.step(&[t]).unwrap();
            sampler.sample_top(e.top(2).unwrap().unwrap().iter()).unwrap();
            sampler.sample(e.logits().unwrap()).unwrap();
        }
        e.step(&[1, 2, 3]).unwrap();
    }
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0);
}
