"""C++ kernels, compiled by NVIDIA's compiler at run time and run through cuda.core: memory from pools, streams, events, graphs
that are built and captured, linking, programs of templates, occupancy."""

import ctypes

import numpy as np
from common import run
from cuda.core import (
    Device,
    EventOptions,
    LaunchConfig,
    LegacyPinnedMemoryResource,
    Linker,
    LinkerOptions,
    Program,
    ProgramOptions,
    launch,
)
from cuda.core.graph import GraphDefinition

DEVICE = Device(0)
DEVICE.set_current()
ARCH = "".join(str(n) for n in DEVICE.compute_capability)
PINNED = LegacyPinnedMemoryResource()
N = 1000

SOURCE = r"""
template <typename T> __global__ void axpy(T a, const T* x, T* y, size_t n) {
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < n; i += size_t(gridDim.x) * blockDim.x)
        y[i] += a * x[i];
}

extern "C" __global__ void reverse_blocks(int* x) {
    extern __shared__ int turned[];
    turned[blockDim.x - 1 - threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
    __syncthreads();
    x[blockIdx.x * blockDim.x + threadIdx.x] = turned[threadIdx.x];
}

__device__ __forceinline__ float warp_sum(float v) {
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
    return v;
}

extern "C" __global__ void layer_norm(const float* x, float* y, int columns) {
    __shared__ float part[2][32];
    float sum = 0, squares = 0;
    const float* row = x + blockIdx.x * columns;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) { sum += row[i]; squares += row[i] * row[i]; }
    sum = warp_sum(sum); squares = warp_sum(squares);
    if (threadIdx.x % 32 == 0) { part[0][threadIdx.x / 32] = sum; part[1][threadIdx.x / 32] = squares; }
    __syncthreads();
    if (threadIdx.x < 32) {
        bool there = threadIdx.x < blockDim.x / 32;
        sum = warp_sum(there ? part[0][threadIdx.x] : 0); squares = warp_sum(there ? part[1][threadIdx.x] : 0);
        if (threadIdx.x == 0) { part[0][0] = sum / columns; part[1][0] = rsqrtf(squares / columns - sum / columns * sum / columns + 1e-5f); }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < columns; i += blockDim.x) y[blockIdx.x * columns + i] = (row[i] - part[0][0]) * part[1][0];
}

extern "C" __global__ void early(const int* x, int* y) {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
    y[threadIdx.x] = x[threadIdx.x] + 1;
}

struct Body { double mass; float at[3]; char kind; };
__constant__ int shift = 3;
__device__ unsigned long long calls;

extern "C" __global__ void by_value(Body body, double* out, const Body* others) {
    out[threadIdx.x] = body.mass * body.at[threadIdx.x % 3] + body.kind + shift + others[threadIdx.x].mass;
    atomicAdd(&calls, 1ull);
}

template <int Tile> __global__ void transpose(const float* in, float* out, int width, int height) {
    __shared__ float tile[Tile][Tile + 1];
    int x = blockIdx.x * Tile + threadIdx.x, y = blockIdx.y * Tile + threadIdx.y;
    if (x < width && y < height) tile[threadIdx.y][threadIdx.x] = in[y * width + x];
    __syncthreads();
    x = blockIdx.y * Tile + threadIdx.x; y = blockIdx.x * Tile + threadIdx.y;
    if (x < height && y < width) out[y * height + x] = tile[threadIdx.x][threadIdx.y];
}
"""
NAMES = ("axpy<float>", "axpy<double>", "transpose<8>")
MODULE = Program(SOURCE, "c++", ProgramOptions(std="c++17", arch=f"sm_{ARCH}")).compile("ptx", name_expressions=NAMES)


def pinned(count, dtype):
    """Pinned memory as an array; the buffer has to be kept."""
    buffer = PINNED.allocate(count * np.dtype(dtype).itemsize, stream=DEVICE.default_stream)
    raw = (ctypes.c_uint8 * buffer.size).from_address(int(buffer.handle))
    return buffer, np.frombuffer(raw, dtype)


def on_device(array, stream):
    """A buffer from the default pool with the contents of an array."""
    staging, words = pinned(array.size, array.dtype)
    words[:] = array.reshape(-1)
    buffer = DEVICE.allocate(array.nbytes, stream=stream)
    buffer.copy_from(staging, stream=stream)
    stream.sync()
    return buffer


def back(buffer, dtype, stream):
    """The contents of a buffer."""
    staging, words = pinned(buffer.size // np.dtype(dtype).itemsize, dtype)
    buffer.copy_to(staging, stream=stream)
    stream.sync()
    return words.copy()


def test_templates():
    stream = DEVICE.create_stream()
    for dtype, name in ((np.float32, "axpy<float>"), (np.float64, "axpy<double>")):
        x, y = np.arange(N, dtype=dtype), np.ones(N, dtype)
        a, b = on_device(x, stream), on_device(y, stream)
        launch(stream, LaunchConfig(grid=3, block=128), MODULE.get_kernel(name), dtype(2), a, b, np.uint64(N))
        assert (back(b, dtype, stream) == y + 2 * x).all()


def test_dynamic_shared_memory_and_occupancy():
    stream = DEVICE.create_stream()
    kernel = MODULE.get_kernel("reverse_blocks")
    x = np.arange(512, dtype=np.int32)
    a = on_device(x, stream)
    launch(stream, LaunchConfig(grid=4, block=128, shmem_size=512), kernel, a)
    assert (back(a, np.int32, stream) == x.reshape(4, 128)[:, ::-1].reshape(-1)).all()
    assert kernel.attributes.max_threads_per_block == 1024
    assert kernel.occupancy.max_active_blocks_per_multiprocessor(128, 512) > 0
    grid, block = kernel.occupancy.max_potential_block_size(0, 1024)
    assert grid > 0 and block % 32 == 0


def test_a_norm_over_rows():
    stream = DEVICE.create_stream()
    x = np.random.default_rng(3).standard_normal((5, 300), np.float32)
    a, b = on_device(x, stream), DEVICE.allocate(x.nbytes, stream=stream)
    launch(stream, LaunchConfig(grid=5, block=96), MODULE.get_kernel("layer_norm"), a, b, np.int32(300))
    want = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(back(b, np.float32, stream).reshape(x.shape), want, rtol=1e-4, atol=1e-4)


def test_a_transposition():
    stream = DEVICE.create_stream()
    x = np.arange(20 * 13, dtype=np.float32).reshape(13, 20)
    a, b = on_device(x, stream), DEVICE.allocate(x.nbytes, stream=stream)
    config = LaunchConfig(grid=(3, 2), block=(8, 8))
    launch(stream, config, MODULE.get_kernel("transpose<8>"), a, b, np.int32(20), np.int32(13))
    assert (back(b, np.float32, stream).reshape(20, 13) == x.T).all()


def test_structures_by_value():
    stream = DEVICE.create_stream()
    body = np.dtype([("mass", np.float64), ("at", np.float32, 3), ("kind", np.int8)], align=True)
    value = np.zeros(1, body)
    value["mass"], value["at"], value["kind"] = 2.5, [1, 2, 3], 7
    others = np.zeros(6, body)
    others["mass"] = np.arange(6)
    a, out = on_device(others.view(np.uint8), stream), DEVICE.allocate(48, stream=stream)

    class Body(ctypes.Structure):
        _fields_ = [("raw", ctypes.c_uint8 * body.itemsize)]

    kernel = MODULE.get_kernel("by_value")
    assert kernel.num_arguments == 3 and kernel.arguments_info[0].size == body.itemsize
    from common import Arguments, check, driver

    arguments = Arguments(0, out.handle, a.handle)
    arguments.pointers[0] = value.ctypes.data
    function = check(driver.cuKernelGetFunction(driver.CUkernel(int(kernel.handle))))
    check(driver.cuLaunchKernel(function, 1, 1, 1, 6, 1, 1, 0, stream.handle, arguments.address, 0))
    want = 2.5 * np.array([1, 2, 3, 1, 2, 3]) + 7 + 3 + np.arange(6)
    assert (back(out, np.float64, stream) == want).all()


def test_streams_wait_for_each_other():
    a, b = DEVICE.create_stream(), DEVICE.create_stream()
    kernel, config = MODULE.get_kernel("axpy<float>"), LaunchConfig(grid=4, block=256)
    x, y = on_device(np.ones(N, np.float32), a), on_device(np.zeros(N, np.float32), a)
    for _ in range(3):
        launch(a, config, kernel, np.float32(1), x, y, np.uint64(N))
        b.wait(a)
        launch(b, config, kernel, np.float32(10), x, y, np.uint64(N))
        a.wait(b)
    start = a.record(options=EventOptions(timing_enabled=True))
    end = a.record(options=EventOptions(timing_enabled=True))
    end.sync()
    assert end - start >= 0 and start.is_done
    assert (back(y, np.float32, a) == 33).all()


def test_a_captured_graph_with_branches():
    stream = DEVICE.create_stream()
    kernel, config = MODULE.get_kernel("axpy<float>"), LaunchConfig(grid=4, block=256)
    x, y, z = (on_device(np.full(N, v, np.float32), stream) for v in (1, 0, 0))
    builder = stream.create_graph_builder().begin_building()
    launch(builder, config, kernel, np.float32(1), x, y, np.uint64(N))
    left, right = builder.split(2)
    launch(left, config, kernel, np.float32(1), y, x, np.uint64(N))
    launch(right, config, kernel, np.float32(3), y, z, np.uint64(N))
    builder = builder.join(left, right)
    launch(builder, config, kernel, np.float32(1), z, x, np.uint64(N))
    seen = []
    builder.callback(lambda: seen.append(1))
    graph = builder.end_building().complete()
    graph.upload(stream)
    for _ in range(2):
        graph.launch(stream)
    stream.sync()
    # x, y, z: 1 0 0 -> y 1, x 2, z 3, x 5 -> y 6, x 11, z 21, x 32.
    assert (back(x, np.float32, stream) == 32).all() and (back(z, np.float32, stream) == 21).all()
    assert seen == [1, 1]
    graph.close()


def test_a_graph_of_nodes():
    stream = DEVICE.create_stream()
    kernel, config = MODULE.get_kernel("axpy<float>"), LaunchConfig(grid=4, block=256)
    x, y = on_device(np.ones(N, np.float32), stream), DEVICE.allocate(4 * N, stream=stream)
    stream.sync()
    definition = GraphDefinition()
    clear = definition.memset(y, np.uint8(0), 4 * N)
    first = clear.launch(config, kernel, np.float32(2), x, y, np.uint64(N))
    copy = first.memcpy(x, y, 4 * N)
    seen = []
    copy.callback(lambda: seen.append(1))
    assert len(definition.nodes()) == 4 and len(definition.edges()) == 3
    graph = definition.instantiate()
    for _ in range(2):
        graph.launch(stream)
    stream.sync()
    assert (back(x, np.float32, stream) == 4).all() and seen == [1, 1]
    first.update(args=(np.float32(5), x, y, np.uint64(N)))
    graph.update(definition)
    graph.launch(stream)
    assert (back(x, np.float32, stream) == 20).all()


def test_launches_that_overlap():
    stream = DEVICE.create_stream()
    kernel = MODULE.get_kernel("early")
    a, b = on_device(np.arange(64, dtype=np.int32), stream), DEVICE.allocate(256, stream=stream)
    config = LaunchConfig(grid=1, block=64, programmatic_stream_serialization=True)
    for source, target in ((a, b), (b, a), (a, b)):
        launch(stream, config, kernel, source, target)
    assert (back(b, np.int32, stream) == np.arange(64) + 3).all()


def test_texts_are_linked():
    options = ProgramOptions(arch=f"sm_{ARCH}", relocatable_device_code=True)
    caller = "extern __device__ int twice(int); extern \"C\" __global__ void k(int* x) { x[threadIdx.x] = twice(x[threadIdx.x]); }"
    parts = [Program(text, "c++", options).compile("ptx") for text in (caller, "__device__ int twice(int x) { return 2 * x; }")]
    linked = Linker(*parts, options=LinkerOptions(arch=f"sm_{ARCH}")).link("cubin")
    stream = DEVICE.create_stream()
    a = on_device(np.arange(32, dtype=np.int32), stream)
    launch(stream, LaunchConfig(grid=1, block=32), linked.get_kernel("k"), a)
    assert (back(a, np.int32, stream) == 2 * np.arange(32)).all()


def test_machine_code_of_real_cards_is_refused():
    cubin = Program(SOURCE, "c++", ProgramOptions(std="c++17", arch=f"sm_{ARCH}")).compile("cubin")
    try:
        cubin.get_kernel("reverse_blocks")
    except Exception as error:
        assert "NO_BINARY" in str(error) or "INVALID_IMAGE" in str(error) or "NOT_SUPPORTED" in str(error), error
    else:
        raise AssertionError("machine code of a real card was taken")


run(globals())
