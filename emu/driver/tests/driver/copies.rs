//! Memory, copies and fills.

use crate::child::{Context, clean, download, free, get, ok, upload};
use cudarc::driver::sys::{self as cu, CUmemorytype, CUpointer_attribute as P, CUresult};
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr::null_mut;

const N: usize = 100;

fn values() -> Vec<u32> {
    (0..N as u32).collect()
}

#[test]
fn bytes_go_there_and_back() {
    clean("", || unsafe {
        let _context = Context::new();
        let a = upload(&values());
        let b = get(|p| cu::cuMemAlloc_v2(p, 4 * N));
        ok(cu::cuMemcpyDtoD_v2(b, a, 4 * N));
        assert_eq!(download::<u32>(b, N), values());
        ok(cu::cuMemcpy(b + 4, a, 40));
        assert_eq!(download::<u32>(b, 3), [0, 0, 1]);
        let mut host = [0_u32; 2];
        ok(cu::cuMemcpy(host.as_mut_ptr() as u64, a + 8, 8));
        assert_eq!(host, [2, 3]);
        ok(cu::cuMemcpyHtoD_v2(a, host.as_ptr().cast(), 0));
        let (mut base, mut size) = (0, 0);
        ok(cu::cuMemGetAddressRange_v2(&mut base, &mut size, a + 5));
        assert_eq!((base, size), (a, 4 * N));
        free(a);
        free(b);
        free(0);
    });
}

#[test]
fn copies_wait_in_their_stream() {
    clean("", || unsafe {
        let _context = Context::new();
        let stream = get(|s| cu::cuStreamCreate(s, 1));
        let pinned: *mut c_void = get(|p| cu::cuMemAllocHost_v2(p, 4 * N));
        let words = std::slice::from_raw_parts_mut(pinned.cast::<u32>(), N);
        let a = get(|p| cu::cuMemAlloc_v2(p, 4 * N));
        words.copy_from_slice(&values());
        ok(cu::cuMemcpyHtoDAsync_v2(a, pinned, 4 * N, stream));
        ok(cu::cuStreamSynchronize(stream));
        words.fill(0);
        ok(cu::cuMemcpyDtoHAsync_v2(pinned, a, 4 * N, stream));
        ok(cu::cuStreamSynchronize(stream));
        assert_eq!(words, values());
        // What is not pinned has been read when the call returns.
        let mut pageable = vec![7_u32; N];
        ok(cu::cuMemcpyHtoDAsync_v2(a, pageable.as_ptr().cast(), 4 * N, stream));
        pageable.fill(8);
        ok(cu::cuMemcpyDtoHAsync_v2(pageable.as_mut_ptr().cast(), a, 4 * N, stream));
        assert_eq!(pageable, vec![7; N]);
        ok(cu::cuStreamDestroy_v2(stream));
        ok(cu::cuMemFreeHost(pinned));
        free(a);
    });
}

#[test]
fn a_copy_reads_pinned_memory_when_it_runs() {
    clean("", || unsafe {
        let _context = Context::new();
        let (stream, gate) = (get(|s| cu::cuStreamCreate(s, 1)), upload(&[0_u32]));
        let pinned: *mut c_void = get(|p| cu::cuMemHostAlloc(p, 4, 0));
        let word = pinned.cast::<u32>();
        let a = get(|p| cu::cuMemAlloc_v2(p, 4));
        *word = 1;
        ok(cu::cuStreamWaitValue32_v2(stream, gate, 5, 1));
        ok(cu::cuMemcpyHtoDAsync_v2(a, pinned, 4, stream));
        *word = 2;
        let other = get(|s| cu::cuStreamCreate(s, 1));
        ok(cu::cuStreamWriteValue32_v2(other, gate, 5, 0));
        ok(cu::cuStreamSynchronize(stream));
        assert_eq!(download::<u32>(a, 1), [2]);
        ok(cu::cuStreamDestroy_v2(stream));
        ok(cu::cuStreamDestroy_v2(other));
        ok(cu::cuMemFreeHost(pinned));
        free(a);
        free(gate);
    });
}

/// Copies from nowhere to nowhere.
fn copy_2d() -> cu::CUDA_MEMCPY2D {
    let mut copy = MaybeUninit::<cu::CUDA_MEMCPY2D>::zeroed();
    let p = copy.as_mut_ptr();
    unsafe {
        (&raw mut (*p).srcMemoryType).write(CUmemorytype::CU_MEMORYTYPE_HOST);
        (&raw mut (*p).dstMemoryType).write(CUmemorytype::CU_MEMORYTYPE_HOST);
        copy.assume_init()
    }
}

fn copy_3d() -> cu::CUDA_MEMCPY3D {
    let mut copy = MaybeUninit::<cu::CUDA_MEMCPY3D>::zeroed();
    let p = copy.as_mut_ptr();
    unsafe {
        (&raw mut (*p).srcMemoryType).write(CUmemorytype::CU_MEMORYTYPE_HOST);
        (&raw mut (*p).dstMemoryType).write(CUmemorytype::CU_MEMORYTYPE_HOST);
        copy.assume_init()
    }
}

#[test]
fn rows_and_slices_are_copied() {
    clean("", || unsafe {
        let _context = Context::new();
        let mut pitch = 0;
        let at = get(|p| cu::cuMemAllocPitch_v2(p, &mut pitch, 40, 5, 4));
        assert_eq!(pitch, 512);
        let host: Vec<u8> = (0..200).collect();
        let mut copy = copy_2d();
        copy.srcMemoryType = CUmemorytype::CU_MEMORYTYPE_HOST;
        copy.srcHost = host.as_ptr().cast();
        copy.srcPitch = 40;
        copy.dstMemoryType = CUmemorytype::CU_MEMORYTYPE_DEVICE;
        copy.dstDevice = at;
        copy.dstPitch = pitch;
        copy.WidthInBytes = 40;
        copy.Height = 5;
        ok(cu::cuMemcpy2D_v2(&copy));
        let mut back = vec![0_u8; 30];
        let mut copy = copy_2d();
        copy.srcMemoryType = CUmemorytype::CU_MEMORYTYPE_UNIFIED;
        copy.srcDevice = at;
        copy.srcPitch = pitch;
        (copy.srcXInBytes, copy.srcY) = (10, 2);
        copy.dstMemoryType = CUmemorytype::CU_MEMORYTYPE_HOST;
        copy.dstHost = back.as_mut_ptr().cast();
        copy.dstPitch = 10;
        (copy.WidthInBytes, copy.Height) = (10, 3);
        ok(cu::cuMemcpy2DUnaligned_v2(&copy));
        let want: Vec<u8> = (2..5).flat_map(|row| (0..10).map(move |x| row * 40 + 10 + x)).collect();
        assert_eq!(back, want);
        // The middle column of the second slice of a cube of 4.
        let cube: Vec<u8> = (0..64).collect();
        let cube_at = upload(&cube);
        let mut four = [0_u8; 8];
        let mut copy = copy_3d();
        copy.srcMemoryType = CUmemorytype::CU_MEMORYTYPE_DEVICE;
        copy.srcDevice = cube_at;
        (copy.srcPitch, copy.srcHeight) = (4, 4);
        (copy.srcXInBytes, copy.srcY, copy.srcZ) = (1, 1, 2);
        copy.dstMemoryType = CUmemorytype::CU_MEMORYTYPE_HOST;
        copy.dstHost = four.as_mut_ptr().cast();
        (copy.WidthInBytes, copy.Height, copy.Depth) = (2, 2, 2);
        ok(cu::cuMemcpy3D_v2(&copy));
        assert_eq!(four, [37, 38, 41, 42, 53, 54, 57, 58]);
        copy.srcMemoryType = CUmemorytype::CU_MEMORYTYPE_ARRAY;
        assert_eq!(cu::cuMemcpy3D_v2(&copy), CUresult::CUDA_ERROR_NOT_SUPPORTED);
        free(at);
        free(cube_at);
    });
}

#[test]
fn memory_is_filled() {
    clean("", || unsafe {
        let _context = Context::new();
        let at = get(|p| cu::cuMemAlloc_v2(p, 64));
        ok(cu::cuMemsetD8_v2(at, 0xab, 64));
        ok(cu::cuMemsetD16_v2(at + 2, 0x1234, 3));
        ok(cu::cuMemsetD32_v2(at + 8, 0xdead_beef, 2));
        ok(cu::cuMemsetD2D8_v2(at + 32, 8, 1, 3, 4));
        let stream = get(|s| cu::cuStreamCreate(s, 0));
        ok(cu::cuMemsetD32Async(at + 16, 5, 1, stream));
        let mut want = [0xab; 64];
        want[2..8].copy_from_slice(&[0x34, 0x12, 0x34, 0x12, 0x34, 0x12]);
        want[8..16].copy_from_slice(&[0xef, 0xbe, 0xad, 0xde, 0xef, 0xbe, 0xad, 0xde]);
        want[16..20].copy_from_slice(&[5, 0, 0, 0]);
        for row in 0..4 {
            want[32 + 8 * row..][..3].fill(1);
        }
        assert_eq!(download::<u8>(at, 64), want);
        assert_eq!(cu::cuMemsetD32_v2(at + 2, 0, 1), CUresult::CUDA_ERROR_INVALID_VALUE);
        ok(cu::cuStreamDestroy_v2(stream));
        free(at);
    });
}

#[test]
fn pinned_and_registered_memory_is_mapped() {
    clean("", || unsafe {
        let _context = Context::new();
        let pinned: *mut c_void = get(|p| cu::cuMemHostAlloc(p, 100, 4));
        assert_eq!(get(|d| cu::cuMemHostGetDevicePointer_v2(d, pinned, 0)), pinned as u64);
        assert_eq!(get(|f| cu::cuMemHostGetFlags(f, pinned)), 6);
        let mut own = vec![3_u8; 64];
        let p = own.as_mut_ptr().cast();
        let mut d = 0;
        assert_eq!(cu::cuMemHostGetDevicePointer_v2(&mut d, p, 0), CUresult::CUDA_ERROR_INVALID_VALUE);
        ok(cu::cuMemHostRegister_v2(p, 64, 2));
        let again = cu::cuMemHostRegister_v2(p, 64, 2);
        assert_eq!(again, CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
        let d = get(|d| cu::cuMemHostGetDevicePointer_v2(d, p, 0));
        ok(cu::cuMemsetD8_v2(d + 1, 9, 2));
        assert_eq!(own[..4], [3, 9, 9, 3]);
        ok(cu::cuMemHostUnregister(p));
        let twice = cu::cuMemHostUnregister(null_mut());
        assert_eq!(twice, CUresult::CUDA_ERROR_INVALID_VALUE);
        ok(cu::cuMemFreeHost(pinned));
    });
}

#[test]
fn pointers_have_attributes() {
    clean("", || unsafe {
        let context = Context::new();
        let device = upload(&[1_u8; 32]);
        let pinned: *mut c_void = get(|p| cu::cuMemHostAlloc(p, 32, 0));
        let managed = get(|p| cu::cuMemAllocManaged(p, 32, 1));
        let kind = |p: u64| {
            let mut kind = 0_u32;
            let r = cu::cuPointerGetAttribute((&raw mut kind).cast(), P::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, p);
            (r == CUresult::CUDA_SUCCESS).then_some(kind)
        };
        let own = 5_u32;
        let kinds = [device + 4, pinned as u64, managed, &raw const own as u64].map(kind);
        assert_eq!(kinds, [Some(2), Some(1), Some(2), None]);
        let mut owner: cu::CUcontext = null_mut();
        ok(cu::cuPointerGetAttribute((&raw mut owner).cast(), P::CU_POINTER_ATTRIBUTE_CONTEXT, device));
        assert_eq!(owner, context.0);
        let (mut start, mut size) = (0_u64, 0_usize);
        let mut asked = [P::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, P::CU_POINTER_ATTRIBUTE_RANGE_SIZE];
        let mut to = [(&raw mut start).cast::<c_void>(), (&raw mut size).cast()];
        ok(cu::cuPointerGetAttributes(2, asked.as_mut_ptr(), to.as_mut_ptr(), device + 7));
        assert_eq!((start, size), (device, 32));
        *(managed as *mut u32) = 77;
        assert_eq!(download::<u32>(managed, 1), [77]);
        free(managed);
        free(device);
        ok(cu::cuMemFreeHost(pinned));
    });
}

#[test]
fn the_pool_gives_memory_in_order_of_a_stream() {
    clean("", || unsafe {
        let _context = Context::new();
        let pool = get(|p| cu::cuDeviceGetDefaultMemPool(p, 0));
        let used = || {
            let mut used = 0_u64;
            let attribute = cu::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT;
            ok(cu::cuMemPoolGetAttribute(pool, attribute, (&raw mut used).cast()));
            used
        };
        let stream = get(|s| cu::cuStreamCreate(s, 1));
        let a = get(|p| cu::cuMemAllocAsync(p, 256, stream));
        ok(cu::cuMemsetD8Async(a, 1, 256, stream));
        assert_eq!(used(), 256);
        ok(cu::cuMemFreeAsync(a, stream));
        ok(cu::cuStreamSynchronize(stream));
        assert_eq!(used(), 0);
        let b = get(|p| cu::cuMemAllocFromPoolAsync(p, 256, pool, stream));
        ok(cu::cuStreamSynchronize(stream));
        ok(cu::cuMemFree_v2(b));
        ok(cu::cuStreamDestroy_v2(stream));
    });
}
