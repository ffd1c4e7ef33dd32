//! The CPU device with kernels written by hand.

use super::*;
use crate::device::{download, upload};
use ir::abi::BarrierFn;
use ir::artifact::Param;
use ir::plan::DeviceId;
use ir::work::Work;
use std::sync::atomic::AtomicU32;

fn device(workers: usize) -> CpuDevice {
    CpuDevice::new(Target::by_name("x86-64").unwrap(), workers).unwrap()
}

/// Registers a Rust function as a kernel.
fn add(d: &mut CpuDevice, function: KernelFn, tickets: u32, params: usize, scratch_bytes: u64) -> Kernel {
    let params = vec![Param { bytes: 0, written: true }; params];
    let kernels = vec![Loaded { name: "toy".into(), function, tickets, params }];
    d.scratch_bytes = d.scratch_bytes.max(scratch_bytes);
    let module = d.modules.add(Code { kernels, uses: 0, _memory: CodeMemory::new(&[0xc3]).unwrap() }).unwrap();
    Kernel { module: Module(module), number: 0 }
}

/// Records launches with memory for the control words.
fn record(d: &mut CpuDevice, launches: impl IntoIterator<Item = (Kernel, Vec<Option<Region>>)>) -> Result<Recording> {
    let control = Region { memory: d.alloc(64, "control").unwrap(), offset: 0, bytes: 64 };
    let launch = |(kernel, buffers)| Command::Launch(Launch { kernel, buffers, early: false });
    d.record(&launches.into_iter().map(launch).collect::<Vec<_>>(), control)
}

/// The frame, as safe references to what the kernels below use of it.
struct View<'a> {
    frame: &'a Frame,
    control: &'a Control,
}

impl View<'_> {
    /// # Safety
    /// `frame` comes from a replay.
    unsafe fn new<'a>(frame: *const Frame) -> View<'a> {
        // SAFETY: a replay passes a frame whose pointers are valid.
        unsafe { View { frame: &*frame, control: &*(*frame).control } }
    }
    /// Cell `i` of buffer `b`, which holds that many `u32`.
    fn cell(&self, b: usize, i: usize) -> &AtomicU32 {
        // SAFETY: the tests bind buffers that are large enough.
        unsafe { &*(*self.frame.buffers.add(b)).cast::<AtomicU32>().add(i) }
    }
    /// Draws from worker 0's counter of a stage.
    fn ticket(&self, stage: usize) -> u32 {
        // SAFETY: the tests register enough stages.
        unsafe { &*self.frame.tickets.cast::<Counter>().add(stage * self.frame.workers as usize) }
            .0
            .fetch_add(1, Ordering::Relaxed) as u32
    }
    fn barrier(&self) {
        // SAFETY: entry 0 of the table is the barrier, and this runs on its pool.
        unsafe {
            let f: BarrierFn = std::mem::transmute(*self.frame.atoms.add(Atom::Barrier as usize));
            f(self.frame.pool, self.frame.worker as usize);
        }
    }
}

const ITEMS: usize = 40;

/// Two stages of tickets: a\[i\] += position + i; then, after a barrier, b\[i\] = the sum of all a.
unsafe extern "C-unwind" fn two_stages(frame: *const Frame) {
    // SAFETY: called by a replay.
    let v = unsafe { View::new(frame) };
    loop {
        let i = v.ticket(0) as usize;
        if i >= ITEMS {
            break;
        }
        let old = v.cell(0, i).load(Ordering::Relaxed);
        v.cell(0, i).store(old + v.control.position + i as u32, Ordering::Relaxed);
    }
    v.barrier();
    loop {
        let i = v.ticket(1) as usize;
        if i >= ITEMS {
            break;
        }
        let sum = (0..ITEMS).map(|j| v.cell(0, j).load(Ordering::Relaxed)).sum();
        v.cell(1, i).store(sum, Ordering::Relaxed);
    }
}

/// Reads everything that the launch before wrote: c\[worker\] = sum of b, and clears a (worker 0) for the next replay.
unsafe extern "C-unwind" fn gather(frame: *const Frame) {
    // SAFETY: called by a replay.
    let v = unsafe { View::new(frame) };
    let sum = (0..ITEMS).map(|j| v.cell(1, j).load(Ordering::Relaxed)).sum();
    v.cell(2, v.frame.worker as usize).store(sum, Ordering::Relaxed);
    if v.frame.worker == 0 {
        (0..ITEMS).for_each(|i| v.cell(0, i).store(0, Ordering::Relaxed));
    }
}

#[test]
fn launches_tickets_barriers() {
    for (workers, replays) in [(1, 500), (2, 3000), (3, 300), (8, 100)] {
        let mut d = device(workers);
        let memory = d.alloc(4096, "test").unwrap();
        let region = |offset| Some(Region { memory, offset, bytes: 1024 });
        let buffers = vec![region(0), region(1024), region(2048)];
        let first = add(&mut d, two_stages, 2, 3, 0);
        let second = add(&mut d, gather, 0, 3, 0);
        let launch = |kernel| Command::Launch(Launch { kernel, buffers: buffers.clone(), early: true });
        let control = Region { memory: d.staging(64, "control").unwrap(), offset: 0, bytes: 64 };
        let copied = Region { memory: d.alloc(64, "control").unwrap(), offset: 0, bytes: 64 };
        let copy = Command::Copy { from: control, to: copied };
        let commands = [copy, launch(first), launch(second), launch(first), launch(second)];
        let recording = d.record(&commands, copied).unwrap();
        for position in 0..replays as u32 {
            d.host_bytes(control.memory).unwrap()[..4].copy_from_slice(&position.to_le_bytes());
            d.replay(recording).unwrap();
            d.sync().unwrap();
            let sum: u32 = (0..ITEMS as u32).map(|i| position + i).sum();
            let mut out = vec![0u8; 4 * workers];
            download(&mut d, Region { memory, offset: 2048, bytes: 1024 }, &mut out).unwrap();
            for c in out.chunks_exact(4) {
                assert_eq!(u32::from_le_bytes(c.try_into().unwrap()), sum * ITEMS as u32, "{workers} workers");
            }
        }
    }
}

/// Fills the worker's scratch with its index, and after a barrier counts what is still there.
unsafe extern "C-unwind" fn fill_scratch(frame: *const Frame) {
    // SAFETY: called by a replay; the kernel is registered with 200 bytes of scratch.
    unsafe {
        let v = View::new(frame);
        assert_eq!(v.frame.scratch as usize % 64, 0);
        std::ptr::write_bytes(v.frame.scratch, v.frame.worker as u8 + 1, 200);
        v.barrier();
        let kept = std::slice::from_raw_parts(v.frame.scratch, 200);
        let count = kept.iter().filter(|&&b| b == v.frame.worker as u8 + 1).count();
        v.cell(0, v.frame.worker as usize).store(count as u32, Ordering::Relaxed);
        assert!((*v.frame.buffers.add(1)).is_null(), "an absent buffer is null");
    }
}

#[test]
fn scratch_is_disjoint_and_absent_buffers_are_null() {
    let mut d = device(3);
    let memory = d.alloc(64, "test").unwrap();
    let kernel = add(&mut d, fill_scratch, 0, 2, 200);
    let region = Region { memory, offset: 0, bytes: 12 };
    let first = record(&mut d, [(kernel, vec![Some(region), None])]).unwrap();
    // A kernel loaded later wants more; the first recording keeps what it has.
    add(&mut d, fill_scratch, 0, 2, 100_000);
    let second = record(&mut d, [(kernel, vec![Some(region), None])]).unwrap();
    for recording in [first, second, first] {
        upload(&mut d, region, &[0; 12]).unwrap();
        d.replay(recording).unwrap();
        let mut out = [0; 12];
        download(&mut d, region, &mut out).unwrap();
        assert_eq!(out, [200, 0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0]);
    }
}

fn entry(offset: u64, bytes: u64) -> KernelEntry {
    KernelEntry {
        name: "k".into(),
        hash: String::new(),
        text: String::new(),
        device: DeviceId(0),
        offset,
        bytes,
        tokens: 1,
        tickets: 0,
        scratch_bytes: 0,
        params: vec![Param { bytes: 4, written: true }],
        grid: None,
        work: Work::default(),
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn machine_code_runs() {
    let mut d = device(1);
    let memory = d.alloc(64, "test").unwrap();
    // ret; mov rax, [rdi + 8] (buffers); mov rax, [rax]; mov dword [rax], 42; ret
    let code = [0xc3, 0x48, 0x8b, 0x47, 0x08, 0x48, 0x8b, 0x00, 0xc7, 0x00, 42, 0, 0, 0, 0xc3];
    let (module, kernels) = d.load(&code, &[&entry(0, 1), &entry(1, 14)]).unwrap();
    let region = Region { memory, offset: 4, bytes: 4 };
    let recording = record(&mut d, kernels.iter().map(|&kernel| (kernel, vec![Some(region)]))).unwrap();
    d.replay(recording).unwrap();
    let mut out = [0; 4];
    download(&mut d, region, &mut out).unwrap();
    assert_eq!(out, [42, 0, 0, 0]);
    assert!(d.free(memory).is_err() && d.unload(module).is_err(), "a recording uses them");
    d.erase(recording).unwrap();
    d.free(memory).unwrap();
    d.unload(module).unwrap();
    assert!(d.erase(recording).is_err() && d.free(memory).is_err() && d.unload(module).is_err());
    assert!(d.replay(recording).is_err());
}

#[test]
fn bad_arguments_are_errors() {
    let mut d = device(1);
    let memory = d.alloc(64, "test").unwrap();
    let region = |offset, bytes| Region { memory, offset, bytes };
    for e in [entry(0, 2), entry(1, 1), entry(u64::MAX, 2), entry(0, 0)] {
        assert!(d.load(&[0xc3], &[&e]).is_err());
    }
    let (module, kernels) = d.load(&[0xc3], &[&entry(0, 1)]).unwrap();
    let kernel = kernels[0];
    let mut record = |kernel, buffers| record(&mut d, [(kernel, buffers)]).map(|_| ()).map_err(|e| e.to_string());
    assert!(record(kernel, vec![Some(region(0, 64))]).is_ok());
    assert!(record(kernel, vec![]).unwrap_err().contains("1 parameters"));
    for buffer in [None, Some(region(0, 3))] {
        assert!(record(kernel, vec![buffer]).unwrap_err().contains("parameter 0 of kernel k has 4 bytes or more"));
    }
    assert!(record(Kernel { module, number: 7 }, vec![None]).unwrap_err().contains("kernel 7"));
    for (offset, bytes) in [(1, 64), (61, 4), (u64::MAX, 4)] {
        assert!(record(kernel, vec![Some(region(offset, bytes))]).unwrap_err().contains("outside"));
    }
    assert!(d.replay(Recording(9)).is_err());
    assert!(d.copy(region(0, 4), region(8, 5)).is_err());
    assert!(upload(&mut d, region(60, 4), &[0; 5]).is_err());
    assert!(upload(&mut d, Region { memory: Memory(500), offset: 0, bytes: 1 }, &[0]).is_err());
    assert!(download(&mut d, region(0, 4), &mut [0; 5]).is_err());
    assert!(matches!(d.alloc(u64::MAX, "a test"), Err(Error::Memory { .. })));
}

/// Worker `a[0]` panics in it; from 100 on all but the one of that number less 100.
unsafe extern "C-unwind" fn panics(frame: *const Frame) {
    // SAFETY: called by a replay.
    let v = unsafe { View::new(frame) };
    let (culprit, worker) = (v.cell(0, 0).load(Ordering::Relaxed), v.frame.worker);
    if worker == culprit || culprit >= 100 && worker != culprit - 100 {
        std::panic::resume_unwind(Box::new(format!("culprit {culprit}")));
    }
    v.barrier();
}

/// A panic in a kernel is an error that names it and its launch, and the device goes on.
#[test]
fn a_panic_is_an_error() {
    for workers in [1, 2, 3] {
        let mut d = device(workers);
        let memory = d.alloc(64, "test").unwrap();
        let region = Region { memory, offset: 0, bytes: 4 };
        let kernel = add(&mut d, panics, 0, 1, 0);
        let recording = record(&mut d, vec![(kernel, vec![Some(region)]); 3]).unwrap();
        for culprit in (0..workers as u32).chain(100..100 + workers as u32).filter(|&c| workers > 1 || c < 100) {
            upload(&mut d, region, &culprit.to_le_bytes()).unwrap();
            let error = d.replay(recording).unwrap_err();
            let Error::Launch { kernel, launch: Some(0), cause } = error else { panic!("{error:?}") };
            assert_eq!((kernel.as_str(), cause), ("toy", format!("culprit {culprit}")));
            upload(&mut d, region, &99u32.to_le_bytes()).unwrap();
            d.replay(recording).unwrap();
        }
    }
}

#[test]
fn imports_are_read_in_place() {
    let mut d = device(1);
    let owner: std::sync::Arc<Vec<u8>> = std::sync::Arc::new((0..200u8).collect());
    let skip = owner.as_ptr().align_offset(IMPORT_ALIGN);
    assert_eq!(HostBytes::new(owner.clone(), 190, 101).as_ref().len(), 10);
    assert!(d.import(HostBytes::new(owner.clone(), skip + 1, 8)).is_none(), "unaligned");
    let memory = d.import(HostBytes::new(owner.clone(), skip + 16, 8)).unwrap();
    let region = Region { memory, offset: 2, bytes: 4 };
    let mut out = [0; 4];
    download(&mut d, region, &mut out).unwrap();
    assert_eq!(out, std::array::from_fn(|i| (skip + 18 + i) as u8));
    assert!(upload(&mut d, region, &[1]).is_err() && d.host_bytes(memory).is_none());
}
