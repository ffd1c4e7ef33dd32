//! cudarc's safe layer as a client: its streams, events between them, memory of the pool and pinned memory, on the primary
//! context.

use crate::child::{clean, run};
use cudarc::driver::{CudaContext, sys};

#[test]
fn memory_goes_there_and_back() {
    clean("", || {
        let context = CudaContext::new(0).unwrap();
        assert!(context.is_primary() && context.has_async_alloc());
        assert!(context.name().unwrap().ends_with("(stand-in)"));
        assert_eq!(context.compute_capability().unwrap(), (12, 0));
        let stream = context.default_stream();
        let values: Vec<f32> = (0..1000).map(|i| i as f32).collect();
        let a = stream.clone_htod(&values).unwrap();
        let mut b = stream.alloc_zeros::<f32>(1000).unwrap();
        assert_eq!(stream.clone_dtoh(&b).unwrap(), vec![0.0; 1000]);
        stream.memcpy_dtod(&a, &mut b).unwrap();
        assert_eq!(stream.clone_dtoh(&b.slice(10..20)).unwrap(), values[10..20]);
        let (free, total) = context.mem_get_info().unwrap();
        assert!(free < total);
        context.synchronize().unwrap();
    });
}

#[test]
fn streams_are_forked_and_joined() {
    clean("", || {
        let context = CudaContext::new(0).unwrap();
        let (one, two) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let mut a = one.clone_htod(&[1_u32; 4096]).unwrap();
        for stream in [&two, &one, &two, &one] {
            let mut copy = stream.clone_dtod(&a).unwrap();
            stream.memset_zeros(&mut a.slice_mut(..100)).unwrap();
            stream.memcpy_dtod(&copy, &mut a).unwrap();
            stream.memset_zeros(&mut copy).unwrap();
        }
        let fork = one.fork().unwrap();
        let event = fork.record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
        one.join(&fork).unwrap();
        two.wait(&event).unwrap();
        assert_eq!(two.clone_dtoh(&a).unwrap(), [1; 4096]);
        event.synchronize().unwrap();
        assert!(event.is_complete());
    });
}

#[test]
fn pinned_memory_is_a_source_and_a_target() {
    clean("", || unsafe {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let mut pinned = context.alloc_pinned::<u8>(256).unwrap();
        pinned.as_mut_slice().unwrap().fill(9);
        let a = stream.clone_htod(&pinned).unwrap();
        let mut back = context.alloc_pinned::<u8>(256).unwrap();
        stream.memcpy_dtoh(&a, &mut back).unwrap();
        assert_eq!(back.as_slice().unwrap(), [9; 256]);
    });
}

#[test]
fn two_processes_do_not_know_of_each_other() {
    let body = || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        // More than half of what each has.
        let a = stream.clone_htod(&vec![std::process::id(); 200 << 10]).unwrap();
        for _ in 0..20 {
            std::thread::sleep(std::time::Duration::from_millis(1));
            assert_eq!(stream.clone_dtoh(&a.slice(..1)).unwrap(), [std::process::id()]);
        }
    };
    let settings = Some("memory=1MiB,leaks=1");
    if std::env::var_os("STANDIN_CASE").is_some() {
        run(settings, body);
        return;
    }
    // A thread of another name would be another case.
    let name = std::thread::current().name().unwrap().to_owned();
    let other = std::thread::Builder::new().name(name).spawn(move || run(settings, body)).unwrap();
    let ended = [run(settings, body), other.join().unwrap()];
    ended.into_iter().flatten().for_each(|e| e.clean());
}
