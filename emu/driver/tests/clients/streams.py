"""Streams, events, host functions and memory that host and device share, through NVIDIA's cuda-bindings."""

import ctypes

import numpy as np
from common import PTX, Arguments, check, context, download, driver, launch, refused, run, upload

context()
MODULE = check(driver.cuModuleLoadData(PTX.encode() + b"\0"))
ADD = check(driver.cuModuleGetFunction(MODULE, b"add"))
COUNT = check(driver.cuModuleGetFunction(MODULE, b"count"))
N = 1024
BLOCKS = ((N // 256, 1, 1), (256, 1, 1))
HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def stream(flags=driver.CUstream_flags.CU_STREAM_NON_BLOCKING):
    return check(driver.cuStreamCreate(flags))


def event(flags=0):
    return check(driver.cuEventCreate(flags))


def pinned(count, flags=0):
    """Words of pinned host memory: the array and its address."""
    address = check(driver.cuMemHostAlloc(4 * count, flags))
    return np.ctypeslib.as_array((ctypes.c_uint32 * count).from_address(address)), address


def test_a_stream_runs_in_order():
    source, source_at = pinned(N)
    target, target_at = pinned(N)
    source[:] = np.arange(N)
    x, y, s = check(driver.cuMemAlloc(4 * N)), check(driver.cuMemAlloc(4 * N)), stream()
    check(driver.cuMemcpyHtoDAsync(x, source_at, 4 * N, s))
    launch(ADD, *BLOCKS, Arguments(x, y, np.uint32(5), np.uint32(N)), stream=s)
    launch(ADD, *BLOCKS, Arguments(y, y, np.uint32(6), np.uint32(N)), stream=s)
    check(driver.cuMemcpyDtoHAsync(target_at, y, 4 * N, s))
    check(driver.cuStreamSynchronize(s))
    assert (target == np.arange(N) + 11).all()
    assert driver.cuStreamQuery(s) == (driver.CUresult.CUDA_SUCCESS,)
    for address in (x, y):
        check(driver.cuMemFree(address))
    for address in (source_at, target_at):
        check(driver.cuMemFreeHost(address))
    check(driver.cuStreamDestroy(s))


def test_events_order_streams():
    x, y = upload(np.zeros(N, np.uint32)), check(driver.cuMemAlloc(4 * N))
    a, b, forth, back = stream(), stream(), event(), event()
    for turn in range(3):
        launch(ADD, *BLOCKS, Arguments(x, y, np.uint32(1), np.uint32(N)), stream=a)
        check(driver.cuEventRecord(forth, a))
        check(driver.cuStreamWaitEvent(b, forth, 0))
        launch(ADD, *BLOCKS, Arguments(y, x, np.uint32(10), np.uint32(N)), stream=b)
        check(driver.cuEventRecord(back, b))
        check(driver.cuStreamWaitEvent(a, back, 0))
    check(driver.cuEventSynchronize(back))
    assert (download(x, N, np.uint32) == 33).all()
    for address in (x, y):
        check(driver.cuMemFree(address))
    for s in (a, b):
        check(driver.cuStreamDestroy(s))
    for e in (forth, back):
        check(driver.cuEventDestroy(e))


def test_events_have_times():
    s, begin, end = stream(), event(), event()
    untimed = event(driver.CUevent_flags.CU_EVENT_DISABLE_TIMING)
    with refused("CUDA_ERROR_INVALID_HANDLE"):
        check(driver.cuEventElapsedTime(begin, end))
    check(driver.cuEventRecord(begin, s))
    launch(COUNT, (1, 1, 1), (1, 1, 1), Arguments(), stream=s)
    check(driver.cuEventRecord(end, s))
    check(driver.cuEventSynchronize(end))
    assert check(driver.cuEventElapsedTime(begin, end)) >= 0
    assert driver.cuEventQuery(end) == (driver.CUresult.CUDA_SUCCESS,)
    check(driver.cuEventRecord(untimed, s))
    check(driver.cuStreamSynchronize(s))
    with refused("CUDA_ERROR_INVALID_HANDLE"):
        check(driver.cuEventElapsedTime(begin, untimed))
    for e in (begin, end, untimed):
        check(driver.cuEventDestroy(e))
    check(driver.cuStreamDestroy(s))


def test_priorities_and_flags():
    least, greatest = check(driver.cuCtxGetStreamPriorityRange())
    assert greatest <= least
    s = check(driver.cuStreamCreateWithPriority(driver.CUstream_flags.CU_STREAM_NON_BLOCKING, greatest))
    assert check(driver.cuStreamGetPriority(s)) == greatest
    assert check(driver.cuStreamGetFlags(s)) == int(driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
    assert int(check(driver.cuStreamGetCtx(s))) == int(check(driver.cuCtxGetCurrent()))
    check(driver.cuStreamDestroy(s))


def test_the_legacy_stream_waits_for_blocking_streams():
    x, s = upload(np.zeros(N, np.uint32)), stream(driver.CUstream_flags.CU_STREAM_DEFAULT)
    launch(ADD, *BLOCKS, Arguments(x, x, np.uint32(1), np.uint32(N)), stream=s)
    launch(ADD, *BLOCKS, Arguments(x, x, np.uint32(2), np.uint32(N)))
    launch(ADD, *BLOCKS, Arguments(x, x, np.uint32(3), np.uint32(N)), stream=s)
    assert (download(x, N, np.uint32) == 6).all()
    check(driver.cuMemFree(x))
    check(driver.cuStreamDestroy(s))


def test_host_functions_run_between_work():
    words, at = pinned(N)
    words[:] = 1
    seen = []

    def double(_):
        seen.append(int(words[0]))
        words[:] *= 2

    function = HOST_FUNCTION(double)
    x, s = check(driver.cuMemAlloc(4 * N)), stream()
    for _ in range(3):
        check(driver.cuMemcpyHtoDAsync(x, at, 4 * N, s))
        launch(ADD, *BLOCKS, Arguments(x, x, np.uint32(1), np.uint32(N)), stream=s)
        check(driver.cuMemcpyDtoHAsync(at, x, 4 * N, s))
        check(driver.cuLaunchHostFunc(s, driver.CUhostFn(_ptr=ctypes.addressof(function)), 0))
    check(driver.cuStreamSynchronize(s))
    assert seen == [2, 5, 11] and (words == 22).all()
    check(driver.cuMemFree(x))
    check(driver.cuMemFreeHost(at))
    check(driver.cuStreamDestroy(s))


def test_callbacks_of_streams():
    done = []
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    function = kind(lambda s, status, data: done.append((status, data)))
    s = stream()
    launch(COUNT, (1, 1, 1), (1, 1, 1), Arguments(), stream=s)
    check(driver.cuStreamAddCallback(s, driver.CUstreamCallback(_ptr=ctypes.addressof(function)), 77, 0))
    check(driver.cuStreamSynchronize(s))
    assert done == [(0, 77)]
    check(driver.cuStreamDestroy(s))


def test_mapped_memory():
    words, at = pinned(N, driver.CU_MEMHOSTALLOC_DEVICEMAP)
    words[:] = np.arange(N)
    mapped = check(driver.cuMemHostGetDevicePointer(at, 0))
    kind = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE
    assert check(driver.cuPointerGetAttribute(kind, mapped)) == driver.CUmemorytype.CU_MEMORYTYPE_HOST
    launch(ADD, *BLOCKS, Arguments(mapped, mapped, np.uint32(3), np.uint32(N)))
    check(driver.cuCtxSynchronize())
    assert (words == np.arange(N) + 3).all()
    check(driver.cuMemFreeHost(at))


def test_registered_memory():
    words = np.arange(N, dtype=np.uint32)
    check(driver.cuMemHostRegister(words.ctypes.data, words.nbytes, driver.CU_MEMHOSTREGISTER_DEVICEMAP))
    with refused("CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED"):
        check(driver.cuMemHostRegister(words.ctypes.data, words.nbytes, 0))
    mapped = check(driver.cuMemHostGetDevicePointer(words.ctypes.data, 0))
    launch(ADD, *BLOCKS, Arguments(mapped, mapped, np.uint32(4), np.uint32(N)))
    check(driver.cuCtxSynchronize())
    check(driver.cuMemHostUnregister(words.ctypes.data))
    assert (words == np.arange(N) + 4).all()


def test_values_in_memory_order_streams():
    words, at = pinned(2, driver.CU_MEMHOSTALLOC_DEVICEMAP)
    words[:] = 0
    flag = check(driver.cuMemHostGetDevicePointer(at, 0))
    x, a, b = upload(np.zeros(N, np.uint32)), stream(), stream()
    wait = driver.CUstreamWaitValue_flags
    check(driver.cuStreamWaitValue32(b, flag, 1, wait.CU_STREAM_WAIT_VALUE_GEQ))
    launch(ADD, *BLOCKS, Arguments(x, x, np.uint32(10), np.uint32(N)), stream=b)
    launch(ADD, *BLOCKS, Arguments(x, x, np.uint32(1), np.uint32(N)), stream=a)
    check(driver.cuStreamWriteValue32(a, flag, 1, 0))
    check(driver.cuStreamSynchronize(b))
    assert words[0] == 1 and (download(x, N, np.uint32) == 11).all()
    # The host itself may be who writes.
    check(driver.cuStreamWaitValue32(b, int(flag) + 4, 2, wait.CU_STREAM_WAIT_VALUE_EQ))
    launch(ADD, *BLOCKS, Arguments(x, x, np.uint32(1), np.uint32(N)), stream=b)
    assert driver.cuStreamQuery(b) == (driver.CUresult.CUDA_ERROR_NOT_READY,)
    words[1] = 2
    check(driver.cuStreamSynchronize(b))
    assert (download(x, N, np.uint32) == 12).all()
    check(driver.cuMemFree(x))
    check(driver.cuMemFreeHost(at))
    for s in (a, b):
        check(driver.cuStreamDestroy(s))


def test_memory_of_the_device():
    free, total = check(driver.cuMemGetInfo())
    assert 0 < free <= total
    x = check(driver.cuMemAlloc(4 * N))
    base, size = check(driver.cuMemGetAddressRange(int(x) + 100))
    assert (int(base), size) == (int(x), 4 * N)
    check(driver.cuMemsetD32(x, 0x01020304, N))
    check(driver.cuMemsetD8(int(x) + 4, 9, 4))
    check(driver.cuMemsetD16(int(x) + 8, 0x0507, 2))
    assert download(x, 4, np.uint32).tolist() == [0x01020304, 0x09090909, 0x05070507, 0x01020304]
    y, s = check(driver.cuMemAlloc(4 * N)), stream()
    check(driver.cuMemcpyDtoDAsync(y, x, 4 * N, s))
    check(driver.cuMemsetD32Async(x, 1, N, s))
    check(driver.cuStreamSynchronize(s))
    assert download(y, N, np.uint32)[2] == 0x05070507 and (download(x, N, np.uint32) == 1).all()
    z = check(driver.cuMemAllocAsync(4 * N, s))
    check(driver.cuMemsetD32Async(z, 4, N, s))
    check(driver.cuMemcpyDtoDAsync(y, z, 4 * N, s))
    check(driver.cuMemFreeAsync(z, s))
    check(driver.cuStreamSynchronize(s))
    assert (download(y, N, np.uint32) == 4).all()
    for address in (x, y):
        check(driver.cuMemFree(address))
    check(driver.cuStreamDestroy(s))


def test_pitched_memory():
    array = np.arange(12 * 5, dtype=np.uint32).reshape(5, 12)
    address, pitch = check(driver.cuMemAllocPitch(12 * 4, 5, 4))
    assert pitch >= 48
    copy = driver.CUDA_MEMCPY2D()
    copy.srcMemoryType, copy.srcHost, copy.srcPitch = driver.CUmemorytype.CU_MEMORYTYPE_HOST, array.ctypes.data, 48
    copy.dstMemoryType, copy.dstDevice, copy.dstPitch = driver.CUmemorytype.CU_MEMORYTYPE_DEVICE, address, pitch
    copy.WidthInBytes, copy.Height = 48, 5
    check(driver.cuMemcpy2D(copy))
    # A window of 3 columns and 2 rows.
    window = np.zeros((2, 3), np.uint32)
    back = driver.CUDA_MEMCPY2D()
    back.srcMemoryType, back.srcDevice, back.srcPitch = driver.CUmemorytype.CU_MEMORYTYPE_DEVICE, address, pitch
    back.srcXInBytes, back.srcY = 8, 1
    back.dstMemoryType, back.dstHost, back.dstPitch = driver.CUmemorytype.CU_MEMORYTYPE_HOST, window.ctypes.data, 12
    back.WidthInBytes, back.Height = 12, 2
    check(driver.cuMemcpy2D(back))
    assert (window == array[1:3, 2:5]).all()
    check(driver.cuMemFree(address))


def test_globals_of_modules():
    module = check(driver.cuModuleLoadData(PTX.encode() + b"\0"))
    address, size = check(driver.cuModuleGetGlobal(module, b"total"))
    assert size == 4 and download(address, 1, np.uint32)[0] == 7
    function = check(driver.cuModuleGetFunction(module, b"count"))
    launch(function, (1, 1, 1), (1, 1, 1), Arguments())
    launch(function, (1, 1, 1), (1, 1, 1), Arguments())
    assert download(address, 1, np.uint32)[0] == 9
    with refused("CUDA_ERROR_NOT_FOUND"):
        check(driver.cuModuleGetFunction(module, b"none"))
    check(driver.cuModuleUnload(module))


def test_ptx_that_is_wrong_has_a_log():
    log = bytearray(1000)
    options = [driver.CUjit_option.CU_JIT_ERROR_LOG_BUFFER, driver.CUjit_option.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES]
    wrong = PTX.replace("add.u32 %r7, %r7, %r1", "add.u32 %r7, %r7, %q1").encode() + b"\0"
    with refused("CUDA_ERROR_INVALID_PTX"):
        check(driver.cuModuleLoadDataEx(wrong, 2, options, [log, len(log)]))
    line = PTX[: PTX.index("add.u32 %r7")].count("\n") + 1
    assert f"line {line}".encode() in log, bytes(log).split(b"\0")[0]
    with refused("CUDA_ERROR_UNSUPPORTED_PTX_VERSION"):
        check(driver.cuModuleLoadData(PTX.replace(".version 8.0", ".version 99.0").encode() + b"\0"))


def test_a_launch_beyond_the_card_is_refused():
    with refused("CUDA_ERROR_INVALID_VALUE"):
        launch(ADD, (1, 1, 1), (2048, 1, 1), Arguments(0, 0, np.uint32(0), np.uint32(0)))
    with refused("CUDA_ERROR_INVALID_VALUE"):
        launch(COUNT, (0, 1, 1), (1, 1, 1), Arguments())


run(globals())
