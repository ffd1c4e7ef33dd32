//! Launches: which are not possible, what they may take of the emulator, and how many CTAs are there at once.

mod kernel;

use emu::{Error, FaultKind, Launch, LaunchError, Memory, Module, Options};
use kernel::text;

#[test]
fn launches_that_are_not_possible() {
    let module = Module::parse(&text("").replace(
        "(.param .u64 p, .param .u64 q, .param .u64 c)",
        "(.param .u64 p, .param .u64 q, .param .u64 c)\n.maxntid 64,1,1",
    ))
    .unwrap();
    let entry = &module.entries()[0];
    assert_eq!((entry.params.len(), entry.param_bytes, entry.max_threads), (3, 24, Some([64, 1, 1])));
    assert_eq!((module.target(), module.version(), entry.static_shared), ("sm_90", (8, 6), 1040));
    let good = Launch { entry: "k".into(), grid: [1; 3], block: [64, 1, 1], dynamic_shared: 0, params: vec![0; 24] };
    let refused = |launch: Launch| {
        let mut memory = Memory::new(1 << 20);
        match module.load(&mut memory).unwrap().run(&mut memory, &launch, &Options::default()) {
            Err(Error::Launch(e)) => e,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(refused(Launch { entry: "j".into(), ..good.clone() }), LaunchError::UnknownEntry(_)));
    assert!(matches!(
        refused(Launch { params: vec![0; 20], ..good.clone() }),
        LaunchError::Params { want: 24, have: 20, .. }
    ));
    assert!(matches!(refused(Launch { block: [65, 1, 1], ..good.clone() }), LaunchError::Block { .. }));
    assert!(matches!(refused(Launch { block: [0, 1, 1], ..good.clone() }), LaunchError::Block { .. }));
    assert!(matches!(refused(Launch { grid: [1, 0, 1], ..good.clone() }), LaunchError::Grid(_)));
    let huge = Launch { grid: [1 << 31, 1, 1], ..good.clone() };
    assert!(matches!(refused(huge), LaunchError::Warps { warps: 0x1_0000_0000, .. }));
    let most = 227 * 1024 - 1040;
    assert!(matches!(refused(Launch { dynamic_shared: most + 1, ..good.clone() }), LaunchError::Shared { .. }));
    let mut memory = Memory::new(1 << 20);
    let loaded = module.load(&mut memory).unwrap();
    loaded.run(&mut memory, &Launch { dynamic_shared: most, ..good }, &Options::default()).unwrap();
}

#[test]
fn memory_of_the_emulator_is_bounded() {
    let run = |registers: &str, body: &str, block| {
        let text = text(body).replace(".reg .b32 %r<32>;", registers);
        let module = Module::parse(&text).unwrap_or_else(|e| panic!("{e}"));
        let mut memory = Memory::new(1 << 20);
        let loaded = module.load(&mut memory).unwrap();
        let params = [(); 3].map(|()| memory.alloc(4096, 256).unwrap().to_le_bytes()).concat();
        let launch = Launch { entry: "k".into(), grid: [16, 1, 1], block: [block, 1, 1], dynamic_shared: 0, params };
        loaded.run(&mut memory, &launch, &Options::default())
    };
    assert!(run(".reg .b32 %r<65000>;", "", 32).is_ok());
    let refused = run(".reg .b32 %r<65000>;", "", 1024);
    assert!(matches!(refused, Err(Error::Launch(LaunchError::Memory { bytes: 532_000_000.., .. }))), "{refused:?}");
}

#[test]
fn as_many_ctas_are_there_as_a_card_has_room_for() {
    // All CTAs wait for each other: 132 multiprocessors, with 64 threads and the registers or shared memory of a block.
    let meet = |n: u32| {
        format!(
            "mov.u64 %rd8,flag;\n@!%p1 bra E;\nred.release.gpu.global.add.u32 [%rd8],1;\n\
             W: ld.acquire.gpu.global.u32 %r10,[%rd8];\nsetp.lt.u32 %p2,%r10,{n};\n@%p2 bra W;\nE:"
        )
    };
    let run = |ctas: u32, dynamic_shared, registers: &str| {
        let text = text(&meet(ctas)).replace(
            "(.param .u64 p, .param .u64 q, .param .u64 c)",
            &format!("(.param .u64 p, .param .u64 q, .param .u64 c) {registers}"),
        );
        let module = Module::parse(&text).unwrap();
        let mut memory = Memory::new(1 << 20);
        let loaded = module.load(&mut memory).unwrap();
        let params = [(); 3].map(|()| memory.alloc(1024, 256).unwrap().to_le_bytes()).concat();
        let launch = Launch { entry: "k".into(), grid: [ctas, 1, 1], block: [64, 1, 1], dynamic_shared, params };
        match loaded.run(&mut memory, &launch, &Options::default()) {
            Ok(_) => true,
            Err(Error::Fault(f)) if f.kind == FaultKind::Deadlock => false,
            Err(e) => panic!("{e}"),
        }
    };
    for (dynamic_shared, registers, on_one) in [(100_000, "", 2), (200_000, "", 1), (0, ".maxnreg 255", 4)] {
        let fit = 132 * on_one;
        assert!(run(fit, dynamic_shared, registers) && !run(fit + 1, dynamic_shared, registers), "{registers}");
    }
}
