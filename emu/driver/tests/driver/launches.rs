//! Launches, their limits, occupancy.

use crate::child::{Context, clean, download, free, get, ok, upload};
use crate::kernels::{Module, launch};
use crate::params;
use cudarc::driver::sys::{self as cu, CUfunction_attribute as F, CUlaunchAttributeID as L, CUresult};
use std::ffi::c_void;
use std::ptr::null_mut;

/// What introduces an entry of `extra`.
fn key(number: usize) -> *mut c_void {
    std::ptr::without_provenance_mut(number)
}

#[test]
fn parameters_come_as_pointers_or_in_a_buffer() {
    clean("", || unsafe {
        let _context = Context::new();
        let module = Module::new();
        let add = module.function("add");
        let a = upload(&[1_u32; 100]);
        let (n, ten) = (100_u32, 10_u32);
        ok(launch(add, (4, 32), null_mut(), params![a, n, ten]));
        let mut buffer = [0_u8; 16];
        buffer[..8].copy_from_slice(&a.to_ne_bytes());
        buffer[8..12].copy_from_slice(&50_u32.to_ne_bytes());
        buffer[12..].copy_from_slice(&100_u32.to_ne_bytes());
        let (mut size, mut small) = (16_usize, 12_usize);
        let mut extra = [key(1), buffer.as_mut_ptr().cast(), key(2), (&raw mut size).cast(), null_mut()];
        let run = |extra: &mut [*mut c_void; 5]| {
            cu::cuLaunchKernel(add, 4, 1, 1, 32, 1, 1, 0, null_mut(), null_mut(), extra.as_mut_ptr())
        };
        ok(run(&mut extra));
        extra[3] = (&raw mut small).cast();
        assert_eq!(run(&mut extra), CUresult::CUDA_ERROR_INVALID_VALUE);
        let got = download::<u32>(a, 100);
        assert!(got[..50] == [111; 50] && got[50..] == [11; 50]);
        let none = cu::cuLaunchKernel(add, 1, 1, 1, 1, 1, 1, 0, null_mut(), null_mut(), null_mut());
        assert_eq!(none, CUresult::CUDA_ERROR_INVALID_VALUE);
        free(a);
    });
}

#[test]
fn what_a_card_cannot_launch_is_refused() {
    clean("", || unsafe {
        let _context = Context::new();
        let module = Module::new();
        let shared = module.function("shared");
        let a = upload(&[0_u32]);
        let run = |grid: [u32; 3], block: [u32; 3], bytes: u32| {
            let [x, y, z] = grid;
            let [bx, by, bz] = block;
            cu::cuLaunchKernel(shared, x, y, z, bx, by, bz, bytes, null_mut(), params![a].as_mut_ptr(), null_mut())
        };
        let one = [1; 3];
        for (grid, block, bytes) in [
            ([0, 1, 1], one, 0),
            ([1, 65536, 1], one, 0),
            (one, [1025, 1, 1], 0),
            (one, [32, 64, 1], 0),
            (one, [1, 1, 65], 0),
            (one, one, (48 << 10) + 1),
        ] {
            assert_eq!(run(grid, block, bytes), CUresult::CUDA_ERROR_INVALID_VALUE, "{grid:?} {block:?} {bytes}");
        }
        ok(run(one, one, 48 << 10));
        let most = F::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let too_much = cu::cuFuncSetAttribute(shared, most, (99 << 10) + 1);
        assert_eq!(too_much, CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(cu::cuFuncSetAttribute(shared, most, -1), CUresult::CUDA_ERROR_INVALID_VALUE);
        ok(cu::cuFuncSetAttribute(shared, most, 99 << 10));
        assert_eq!(get(|v| cu::cuFuncGetAttribute(v, most, shared)), 99 << 10);
        ok(run(one, one, 99 << 10));
        assert_eq!(download::<u32>(a, 1), [99 << 10]);
        free(a);
    });
}

#[test]
fn functions_answer_what_they_are() {
    clean("card=h100", || unsafe {
        let _context = Context::new();
        let module = Module::of(
            ".version 8.0\n.target sm_80\n.address_size 64\n
            .visible .entry k(.param .u32 a, .param .u64 b) .maxntid 96, 2, 1 .maxnreg 40 { .shared .b8 s[2000]; ret; }",
        );
        let k = module.function("k");
        let ask = |a| get(|v| cu::cuFuncGetAttribute(v, a, k));
        assert_eq!(ask(F::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK), 192);
        assert_eq!(ask(F::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES), 2000);
        assert_eq!(ask(F::CU_FUNC_ATTRIBUTE_NUM_REGS), 40);
        assert_eq!(ask(F::CU_FUNC_ATTRIBUTE_PTX_VERSION), 80);
        assert_eq!(ask(F::CU_FUNC_ATTRIBUTE_BINARY_VERSION), 90);
        assert_eq!(ask(F::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES), (48 << 10) - 2000);
        assert_eq!(get(|m| cu::cuFuncGetModule(m, k)), module.0);
        let name = std::ffi::CStr::from_ptr(get(|n| cu::cuFuncGetName(n, k)));
        assert_eq!(name, c"k");
        let (mut offset, mut size) = (0, 0);
        ok(cu::cuFuncGetParamInfo(k, 1, &mut offset, &mut size));
        assert_eq!((offset, size), (8, 8));
        assert_eq!(cu::cuFuncGetParamInfo(k, 2, &mut offset, &mut size), CUresult::CUDA_ERROR_INVALID_VALUE);
        ok(cu::cuFuncLoad(k));
        let over = launch(k, (1, 193), null_mut(), params![1_u32, 2_u64]);
        assert_eq!(over, CUresult::CUDA_ERROR_INVALID_VALUE);
        ok(launch(k, (1, 192), null_mut(), params![1_u32, 2_u64]));
        ok(cu::cuCtxSynchronize());
    });
}

#[test]
fn occupancy_follows_from_the_card() {
    clean("card=rtx4090", || unsafe {
        let _context = Context::new();
        let module = Module::of(
            ".version 8.0\n.target sm_80\n.address_size 64\n
            .visible .entry k() .maxnreg 64 { ret; }\n.visible .entry few() .maxnreg 16 { ret; }",
        );
        let (k, few) = (module.function("k"), module.function("few"));
        let blocks =
            |f, threads, shared| get(|n| cu::cuOccupancyMaxActiveBlocksPerMultiprocessor(n, f, threads, shared));
        // 65536 registers for 1536 threads; 24 blocks; 100 KiB of which each block takes one more.
        assert_eq!([blocks(k, 256, 0), blocks(few, 256, 0), blocks(few, 32, 0)], [4, 6, 24]);
        assert_eq!([blocks(few, 64, 49 << 10), blocks(few, 64, 50 << 10), blocks(few, 64, 99 << 10)], [2, 1, 1]);
        assert_eq!(blocks(few, 64, 100 << 10), 0);
        let (mut grid, mut block) = (0, 0);
        ok(cu::cuOccupancyMaxPotentialBlockSize(&mut grid, &mut block, few, None, 0, 0));
        assert_eq!((grid, block), (2 * 128, 768));
        ok(cu::cuOccupancyMaxPotentialBlockSizeWithFlags(&mut grid, &mut block, few, None, 0, 128, 0));
        assert_eq!((grid, block), (12 * 128, 128));
        unsafe extern "C" fn per_thread(threads: i32) -> usize {
            threads as usize * 256
        }
        ok(cu::cuOccupancyMaxPotentialBlockSize(&mut grid, &mut block, few, Some(per_thread), 0, 0));
        assert!(block * grid / 128 * 256 <= 100 << 10 && block > 0);
        let free = get(|b| cu::cuOccupancyAvailableDynamicSMemPerBlock(b, few, 2, 64));
        assert_eq!(free, 49 << 10);
    });
}

/// A configuration with attributes.
fn config(attributes: &mut [cu::CUlaunchAttribute], stream: cu::CUstream) -> cu::CUlaunchConfig {
    cu::CUlaunchConfig {
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: 1,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: stream,
        attrs: attributes.as_mut_ptr(),
        numAttrs: attributes.len() as u32,
    }
}

fn attribute(id: L, value: impl FnOnce(&mut cu::CUlaunchAttributeValue)) -> cu::CUlaunchAttribute {
    let mut attribute: cu::CUlaunchAttribute = unsafe { std::mem::zeroed() };
    attribute.id = id;
    value(&mut attribute.value);
    attribute
}

#[test]
fn launches_with_attributes_overlap() {
    clean("", || unsafe {
        let _context = Context::new();
        let module = Module::new();
        let early = module.function("early");
        let stream = get(|s| cu::cuStreamCreate(s, 1));
        let event = get(|e| cu::cuEventCreate(e, 2));
        let a = upload(&[0_u32]);
        let overlap = attribute(L::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, |v| {
            v.programmaticStreamSerializationAllowed = 1
        });
        let priority = attribute(L::CU_LAUNCH_ATTRIBUTE_PRIORITY, |v| v.priority = -1);
        let done = attribute(L::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT, |v| v.programmaticEvent.event = event);
        let mut attributes = [overlap, priority, done];
        let config = config(&mut attributes, stream);
        for _ in 0..6 {
            ok(cu::cuLaunchKernelEx(&config, early, params![a].as_mut_ptr(), null_mut()));
        }
        ok(cu::cuEventSynchronize(event));
        ok(cu::cuStreamSynchronize(stream));
        assert_eq!(download::<u32>(a, 1), [6]);
        ok(cu::cuEventDestroy_v2(event));
        ok(cu::cuStreamDestroy_v2(stream));
        free(a);
    });
}

#[test]
fn attributes_that_cannot_be_honoured_are_refused() {
    clean("", || unsafe {
        let _context = Context::new();
        let module = Module::new();
        let a = upload(&[0_u32]);
        let run = |attribute| {
            let mut attributes = [attribute];
            let config = config(&mut attributes, null_mut());
            cu::cuLaunchKernelEx(&config, module.function("early"), params![a].as_mut_ptr(), null_mut())
        };
        let cluster = |x| {
            attribute(L::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, move |v| {
                (v.clusterDim.x, v.clusterDim.y, v.clusterDim.z) = (x, 1, 1)
            })
        };
        ok(run(cluster(1)));
        assert_eq!(run(cluster(2)), CUresult::CUDA_ERROR_NOT_SUPPORTED);
        ok(run(attribute(L::CU_LAUNCH_ATTRIBUTE_COOPERATIVE, |v| v.cooperative = 1)));
        let mut unknown = attribute(L::CU_LAUNCH_ATTRIBUTE_IGNORE, |_| {});
        (&raw mut unknown).cast::<u32>().write(999);
        assert_eq!(run(unknown), CUresult::CUDA_ERROR_INVALID_VALUE);
        ok(cu::cuCtxSynchronize());
        free(a);
    });
}

#[test]
fn cooperative_launches_have_to_fit() {
    clean("card=a100", || unsafe {
        let _context = Context::new();
        let module = Module::new_for("sm_80");
        let trap = module.function("shared");
        let a = upload(&[0_u32]);
        let run = |blocks| {
            cu::cuLaunchCooperativeKernel(trap, blocks, 1, 1, 1024, 1, 1, 0, null_mut(), params![a].as_mut_ptr())
        };
        assert_eq!(run(2 * 108 + 1), CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
        ok(run(1));
        ok(cu::cuCtxSynchronize());
        free(a);
    });
}
