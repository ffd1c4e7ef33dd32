//! `rigc emulate`: what it says of cases that pass, differ, fault, or cannot be read.

use crate::harness::{check_refused, rigc};
use std::path::Path;

/// Doubles n numbers; `{line}` is a line of its own.
const KERNEL: &str = "\
.version 8.0
.target sm_80
.address_size 64
.visible .entry double(.param .u64 x, .param .u64 y, .param .u32 n)
{
.reg .pred %p<2>; .reg .b32 %r<8>; .reg .b64 %rd<8>;
ld.param.u64 %rd1,[x]; ld.param.u64 %rd2,[y]; ld.param.u32 %r1,[n];
mov.u32 %r2,%tid.x;
setp.ge.u32 %p1,%r2,%r1;
@%p1 bra DONE;
mul.wide.u32 %rd3,%r2,4; add.s64 %rd4,%rd3,%rd1; add.s64 %rd5,%rd3,%rd2;
ld.global.u32 %r3,[%rd4];
add.u32 %r3,%r3,%r3;
st.global.u32 [%rd5],%r3;
DONE: ret;
}
";

/// Writes a case folder: the kernel, five numbers, and their doubles.
fn case(dir: &Path, name: &str, kernel: &str, extra: &str) {
    let dir = dir.join(name);
    std::fs::create_dir_all(&dir).unwrap();
    let words = |values: [u32; 5]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    std::fs::write(dir.join("k.ptx"), kernel).unwrap();
    std::fs::write(dir.join("x.bin"), words([1, 2, 3, 4, 5])).unwrap();
    std::fs::write(dir.join("y.bin"), words([2, 4, 6, 8, 10])).unwrap();
    let json = format!(
        r#"{{"entry": "double", "ptx": {{"sm_80": "k.ptx"}}, "grid": [1, 1, 1], "block": [32, 1, 1], {extra} "params": [
        {{"kind": "buffer", "name": "x", "dtype": "u32", "count": 5, "direction": "in", "file": "x.bin"}},
        {{"kind": "buffer", "name": "y", "dtype": "u32", "count": 5, "direction": "out", "expected": "y.bin", "tolerance": {{"mode": "exact"}}}},
        {{"kind": "scalar", "name": "n", "dtype": "u32", "value": 5}}]}}"#
    );
    std::fs::write(dir.join("case.json"), json).unwrap();
}

#[test]
fn cases_pass_differ_and_fault() {
    let dir = tempfile::tempdir().unwrap();
    let (good, d) = (KERNEL, dir.path());
    case(d, "good", good, "");
    let o = rigc(d, &["emulate", "good", "--seed", "3"]);
    assert_eq!((o.code, o.text()), (Some(0), "good sm_80: pass\n1 of 1 pass\n"), "{}", o.err);
    case(d, "bad/differs", &good.replace("add.u32 %r3,%r3,%r3", "add.u32 %r3,%r3,1"), "");
    case(d, "bad/lacks", &good.replace("setp.ge.u32 %p1,%r2,%r1", "setp.eq.u32 %p1,%r2,3"), "");
    case(d, "bad/oob", &good.replace("@%p1 bra DONE;", ""), "");
    case(d, "bad/refused", &good.replace("add.u32", "frob.u32"), "");
    case(d, "bad/expected", &good.replace("@%p1 bra DONE;", ""), r#""expect_fault": "oob_global","#);
    case(d, "bad/unexpected", good, r#""expect_fault": "race_shared","#);
    let o = rigc(d, &["emulate", "bad"]);
    let text = o.text();
    assert_eq!(o.code, Some(1), "{text}{}", o.err);
    for said in [
        "differs sm_80: difference: y[1] is 3 (0x00000003), expected 4 (0x00000004)\n",
        "expected sm_80: pass\n",
        "oob sm_80: fault: oob_global in double, line 12, CTA [0, 0, 0] thread [5, 0, 0], address 0x",
        "refused sm_80: refused: line 13: the instruction frob.u32 is unknown\n",
        "unexpected sm_80: no fault: expected race_shared\n",
        "1 of 6 pass\n",
    ] {
        assert!(text.contains(said), "'{said}' is not in:\n{text}");
    }
    let o = rigc(d, &["emulate", "good", "bad", "--json"]);
    assert_eq!(o.code, Some(1));
    let text = o.text();
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.len(), 7);
    let of = |name: &str| lines.iter().find(|l| l["case"] == name).unwrap();
    assert_eq!((&of("good")["outcome"], &of("good")["kind"]), (&"pass".into(), &serde_json::Value::Null));
    let counters = &of("good")["counters"];
    assert_eq!((counters["global_sectors"].as_u64(), counters["bank_conflicts"].as_u64()), (Some(2), Some(0)));
    assert_eq!((counters["global_loads"].as_u64(), counters["float"].as_u64()), (Some(5), Some(0)));
    assert!(counters["instructions"].as_u64() > Some(200));
    assert_eq!((&of("oob")["kind"], &of("oob")["line"]), (&"oob_global".into(), &12.into()));
    assert_eq!(of("oob")["counters"], serde_json::Value::Null);
    assert_eq!(of("oob")["fault"]["kind"], "oob_global");
    assert_eq!(of("oob")["fault"]["line"], 12);
    assert_eq!(of("oob")["fault"]["thread"]["tid"][0], 5);
    assert_eq!(of("differs")["difference"]["index"], 1);
    assert_eq!(of("lacks")["outcome"], "fault");
}

#[test]
fn what_is_no_case_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    case(d, "short", KERNEL, "");
    std::fs::write(d.join("short/x.bin"), [0; 19]).unwrap();
    case(d, "lost", KERNEL, "");
    std::fs::remove_file(d.join("lost/k.ptx")).unwrap();
    case(d, "broken", KERNEL, "{");
    std::fs::create_dir(d.join("empty")).unwrap();
    check_refused(d, &["emulate"], &["<DIRS>"]);
    check_refused(d, &["emulate", "nowhere"], &["nowhere"]);
    check_refused(d, &["emulate", "empty"], &["empty", "case.json"]);
    check_refused(d, &["emulate", "short"], &["x.bin", "19 bytes", "20"]);
    check_refused(d, &["emulate", "lost"], &["k.ptx"]);
    check_refused(d, &["emulate", "broken"], &["case.json"]);
    check_refused(d, &["emulate", "short", "--seed", "x"], &["--seed"]);
    // What is no file of the folder, is no file, or is nothing.
    for (name, file, said) in [
        ("up", "../short/x.bin", "lies in its folder"),
        ("absolute", "/dev/zero", "lies in its folder"),
        ("folder", ".", "lies in its folder"),
        ("device", "zero", "no regular file"),
    ] {
        case(d, name, KERNEL, "");
        let json = std::fs::read_to_string(d.join(name).join("case.json")).unwrap();
        std::fs::write(d.join(name).join("case.json"), json.replace("x.bin", file)).unwrap();
        std::os::unix::fs::symlink("/dev/zero", d.join(name).join("zero")).unwrap();
        check_refused(d, &["emulate", name], &[file, said]);
    }
    case(d, "none", KERNEL, "");
    let json = std::fs::read_to_string(d.join("none/case.json")).unwrap();
    std::fs::write(d.join("none/case.json"), json.replace(r#"{"sm_80": "k.ptx"}"#, "{}")).unwrap();
    check_refused(d, &["emulate", "none"], &["none", "ptx"]);
    let large = json.replace(
        r#""count": 5, "direction": "out", "expected": "y.bin","#,
        r#""count": 999999999, "direction": "out","#,
    );
    std::fs::write(d.join("none/case.json"), large).unwrap();
    check_refused(d, &["emulate", "none"], &["none", "without files"]);
}

#[test]
fn endless_kernels_end_at_the_limit_and_large_grids_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    case(d, "endless", &KERNEL.replace("@%p1 bra DONE;", "L: bra L;"), r#""expect_fault": "step_limit","#);
    assert_eq!(rigc(d, &["emulate", "endless", "--limit", "1000"]).code, Some(0));
    case(d, "grid", KERNEL, "");
    let json = std::fs::read_to_string(d.join("grid/case.json")).unwrap();
    std::fs::write(d.join("grid/case.json"), json.replace(r#""grid": [1, 1, 1]"#, r#""grid": [2147483647, 1, 1]"#))
        .unwrap();
    let o = rigc(d, &["emulate", "grid"]);
    assert!(o.code == Some(1) && o.text().contains("refused: a grid of [2147483647, 1, 1] has"), "{}", o.text());
}

#[test]
fn names_of_files_are_shown_without_control_characters() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    case(d, "a\u{1b}[1m", &KERNEL.replace("double", "d\u{7}"), "");
    let o = rigc(d, &["emulate", "a\u{1b}[1m"]);
    assert!(o.text().starts_with("a\\u{1b}[1m sm_80: ") && !o.text().contains('\u{7}'), "{}", o.text());
}
