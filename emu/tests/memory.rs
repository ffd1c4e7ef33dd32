//! Emulated memory as the host sees it, and what a launch counts.

use emu::{Counters, Launch, Memory, MemoryError, Module, Options};

#[test]
fn allocations_are_apart_and_know_what_was_written() {
    let mut memory = Memory::new(10_000);
    let a = memory.alloc(100, 1).unwrap();
    let b = memory.alloc_with(vec![3; 64], 4096).unwrap();
    assert_eq!((a % 256, b % 4096), (0, 0));
    assert!(b >= a + 100 + 1024);
    assert_eq!(memory.read(a, 1), Err(MemoryError::Unwritten(a)));
    memory.write(a + 10, &[1, 2, 3]).unwrap();
    assert_eq!(memory.read(a + 10, 3).unwrap(), [1, 2, 3]);
    assert_eq!(memory.read(a + 10, 4), Err(MemoryError::Unwritten(a + 13)));
    memory.fill_uninit(b + 32, 8).unwrap();
    assert_eq!(memory.read(b, 64), Err(MemoryError::Unwritten(b + 32)));
    assert_eq!(memory.read(b, 32).unwrap(), [3; 32]);
    assert_eq!(memory.read(b, 65), Err(MemoryError::Unmapped { address: b, bytes: 65 }));
    assert_eq!(memory.write(a + 100, &[0]), Err(MemoryError::Unmapped { address: a + 100, bytes: 1 }));
    assert_eq!(memory.protect(8), Err(MemoryError::Unmapped { address: 8, bytes: 0 }));
    assert_eq!(memory.alloc(8, 3), Err(MemoryError::Alignment(3)));
    assert_eq!(memory.alloc(10_000, 1), Err(MemoryError::Full { asked: 10_000, capacity: 10_000 }));
}

#[test]
fn variables_of_a_module_keep_their_values_between_launches() {
    let ptx = "\
.version 8.0
.target sm_80
.address_size 64
.global .align 4 .u32 count = 5;
.visible .entry next() { .reg .b32 %r<2>; ld.global.u32 %r1,[count]; add.u32 %r1,%r1,1; st.global.u32 [count],%r1; ret; }";
    let module = Module::parse(ptx).unwrap();
    let mut memory = Memory::new(4096);
    let loaded = module.load(&mut memory).unwrap();
    let launch = Launch { entry: "next".into(), grid: [1; 3], block: [1; 3], dynamic_shared: 0, params: Vec::new() };
    for _ in 0..3 {
        loaded.run(&mut memory, &launch, &Options::default()).unwrap();
    }
    let address = loaded.symbol("count").unwrap();
    assert_eq!(memory.read(address, 4).unwrap(), 8u32.to_le_bytes());
    assert_eq!(loaded.symbol("next"), None);
}

fn count(body: &str) -> Counters {
    let ptx = format!(
        "\
.version 8.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 p)
{{
.reg .pred %p<4>; .reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .f32 %f<4>;
.shared .align 16 .b8 s[4096];
{body}
ret;
}}"
    );
    let module = Module::parse(&ptx).unwrap();
    let mut memory = Memory::new(1 << 20);
    let loaded = module.load(&mut memory).unwrap();
    let p = memory.alloc_with(vec![0; 8192], 256).unwrap();
    let params = p.to_le_bytes().to_vec();
    let launch = Launch { entry: "k".into(), grid: [1; 3], block: [32, 1, 1], dynamic_shared: 0, params };
    loaded.run(&mut memory, &launch, &Options::default()).unwrap()
}

#[test]
fn instructions_and_traffic_are_counted() {
    let empty = count("");
    assert_eq!((empty.instructions(), empty.control), (32, 32));
    // A contiguous load of a word by each lane is 128 bytes in four sectors; with a stride each lane has its own.
    let load = |scale: u32, vector: &str| {
        count(&format!(
            "ld.param.u64 %rd1,[p]; mov.u32 %r1,%tid.x; mul.wide.u32 %rd2,%r1,{scale}; add.s64 %rd1,%rd1,%rd2;\n{vector}"
        ))
    };
    let c = load(4, "ld.global.u32 %r2,[%rd1];");
    assert_eq!((c.global_loads, c.sectors_read, c.bytes_read), (32, 4, 128));
    let c = load(128, "ld.global.u32 %r2,[%rd1];");
    assert_eq!((c.sectors_read, c.bytes_read), (32, 128));
    let c = load(16, "st.global.v4.u32 [%rd1],{%r1,%r1,%r1,%r1};");
    assert_eq!((c.global_stores, c.sectors_written, c.bytes_written), (32, 16, 512));
    let c = load(0, "red.global.add.u32 [%rd1],1;");
    assert_eq!((c.atomics, c.sectors_written), (32, 1));
    // Half of the lanes.
    let c = load(4, "setp.lt.u32 %p1,%r1,16; @%p1 ld.global.u32 %r2,[%rd1];");
    assert_eq!((c.global_loads, c.sectors_read), (16, 2));
    let c = load(4, "cvt.rn.f32.u32 %f1,%r1; fma.rn.f32 %f1,%f1,%f1,%f1; bar.sync 0;");
    assert_eq!((c.convert, c.float, c.sync), (32, 32, 32));
}

#[test]
fn bank_conflicts_are_counted() {
    let store = |scale: u32, what: &str| {
        count(&format!("mov.u32 %r1,%tid.x; mov.u32 %r2,s; mad.lo.u32 %r2,%r1,{scale},%r2;\n{what}")).bank_conflicts
    };
    let word = "st.shared.u32 [%r2],%r1;";
    assert_eq!([4, 8, 12, 64, 128].map(|scale| store(scale, word)), [0, 1, 0, 15, 31]);
    let wide = "st.shared.v4.u32 [%r2],{%r1,%r1,%r1,%r1};";
    // A turn is eight lanes: 128 contiguous bytes, or every second 16 bytes, or all in one bank.
    assert_eq!([16, 32, 128].map(|scale| store(scale, wide)), [0, 4, 28]);
}
