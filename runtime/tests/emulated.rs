//! The emulated GPU as a device: launches overlap on targets whose cards do that, and nothing else about them changes.

use ir::artifact::{KernelEntry, Param};
use ir::kernel::Grid;
use ir::plan::DeviceId;
use ir::target::Target;
use ir::work::Work;
use runtime::device::{Command, Device, EmuDevice, Launch, Region, download, upload};

/// `a[i] += a[i + 1] + w[i]` by 64 threads of one CTA, the last of which adds its own word.
fn text(target: &str, early: &str) -> Vec<u8> {
    format!(
        "\
.version 8.6
.target {target}
.address_size 64
.visible .entry k(.param .u64 a, .param .u64 w, .param .u64 control, .param .u64 progress, .param .u64 launch)
{{
.reg .pred %p<2>; .reg .b32 %r<8>; .reg .b64 %rd<8>;
ld.param.u64 %rd1,[a]; ld.param.u64 %rd2,[w];
mov.u32 %r1,%tid.x; mul.wide.u32 %rd3,%r1,4; min.u32 %r2,%r1,62; mul.wide.u32 %rd4,%r2,4;
add.s64 %rd4,%rd1,%rd4; add.s64 %rd1,%rd1,%rd3; add.s64 %rd2,%rd2,%rd3;
{early}
ld.global.u32 %r5,[%rd4+4];
ld.global.u32 %r6,[%rd1];
bar.sync 0;
add.u32 %r6,%r6,%r5; add.u32 %r6,%r6,%r4;
st.global.u32 [%rd1],%r6;
ret;
}}
"
    )
    .into_bytes()
}

/// What three launches on `target` make of the words.
fn run(target: &str, early: &str, seed: u64) -> runtime::Result<Vec<u32>> {
    let mut d = EmuDevice::new(Target::by_name(target)?, seed)?;
    let entry = KernelEntry {
        name: "k".into(),
        hash: String::new(),
        text: String::new(),
        device: DeviceId(0),
        offset: 0,
        bytes: 0,
        tokens: 1,
        tickets: 0,
        scratch_bytes: 0,
        params: vec![Param { bytes: 256, written: true }, Param { bytes: 256, written: false }],
        work: Work::default(),
        grid: Some(Grid { ctas: 1, threads: 64 }),
    };
    let kernel = d.load(&text(target, early), &[&entry])?.1[0];
    let words = |f: fn(u32) -> u32| (0..64).flat_map(|i| f(i).to_le_bytes()).collect::<Vec<u8>>();
    let mut region = |bytes: &[u8]| {
        let region = Region { memory: d.alloc(256, "words")?, offset: 0, bytes: 256 };
        upload(&mut d, region, bytes).map(|()| region)
    };
    let (a, w) = (region(&words(|i| i * i))?, region(&words(|i| 3 * i + 1))?);
    let launch = |early| Command::Launch(Launch { kernel, buffers: vec![Some(a), Some(w)], early });
    let recording = d.record(&[launch(false), launch(true), launch(true)], w)?;
    d.replay(recording)?;
    d.sync()?;
    let mut out = [0; 256];
    download(&mut d, a, &mut out)?;
    Ok(out.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

fn expected() -> Vec<u32> {
    let mut a: Vec<u32> = (0..64).map(|i| i * i).collect();
    for _ in 0..3 {
        a = (0..64).map(|i| a[i] + a[(i + 1).min(63)] + 3 * i as u32 + 1).collect();
    }
    a
}

#[test]
fn launches_overlap_where_cards_do_that() {
    let next = "griddepcontrol.launch_dependents;";
    let weights = "ld.global.u32 %r4,[%rd2];";
    let wait = "griddepcontrol.wait;";
    for seed in 0..6 {
        for target in ["sm_90", "sm_120"] {
            // Weights may be read early, activations may not.
            assert_eq!(
                run(target, &format!("{next}{weights}{wait}"), seed).unwrap(),
                expected(),
                "{target} seed {seed}"
            );
            for early in [format!("{next}{weights}"), format!("{next}{weights} ld.global.u32 %r5,[%rd4+4]; {wait}")] {
                let error = run(target, &early, seed).unwrap_err().to_string();
                assert!(error.contains("race_global in k"), "{error}");
            }
        }
        assert_eq!(run("sm_80", weights, seed).unwrap(), expected(), "seed {seed}");
    }
}
