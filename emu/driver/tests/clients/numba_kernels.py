"""Kernels of kinds that users of numba-cuda write, each checked against numpy. numba makes PTX by NVVM and has it linked by
the driver's linker."""

import math

import numpy as np
from common import run
from numba import cuda, float32, float64, int32
from numba.cuda.random import create_xoroshiro128p_states, xoroshiro128p_uniform_float32

RANDOM = np.random.default_rng(7)


def test_saxpy_with_a_grid_stride():
    @cuda.jit
    def saxpy(a, x, y, out):
        for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
            out[i] = a * x[i] + y[i]

    x, y = (RANDOM.standard_normal(1000).astype(np.float32) for _ in range(2))
    out = np.empty_like(x)
    saxpy[3, 64](np.float32(2.5), x, y, out)
    np.testing.assert_allclose(out, np.float32(2.5) * x + y, rtol=1e-5, atol=1e-6)


def test_matrix_product_in_shared_tiles():
    tile = 8

    @cuda.jit
    def product(a, b, c):
        left = cuda.shared.array((tile, tile), float32)
        right = cuda.shared.array((tile, tile), float32)
        x, y = cuda.grid(2)
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        total = float32(0)
        for k in range(cuda.gridDim.x):
            left[ty, tx] = a[y, tx + k * tile] if y < a.shape[0] and tx + k * tile < a.shape[1] else 0
            right[ty, tx] = b[ty + k * tile, x] if x < b.shape[1] and ty + k * tile < b.shape[0] else 0
            cuda.syncthreads()
            for j in range(tile):
                total += left[ty, j] * right[j, tx]
            cuda.syncthreads()
        if y < c.shape[0] and x < c.shape[1]:
            c[y, x] = total

    a, b = RANDOM.standard_normal((20, 27), np.float32), RANDOM.standard_normal((27, 30), np.float32)
    c = np.empty((20, 30), np.float32)
    product[(4, 3), (tile, tile)](a, b, c)
    np.testing.assert_allclose(c, a @ b, rtol=1e-4, atol=1e-4)


def test_sum_over_a_block():
    @cuda.jit
    def block_sums(x, out):
        part = cuda.shared.array(128, float64)
        t = cuda.threadIdx.x
        i = cuda.grid(1)
        part[t] = x[i] if i < x.size else 0.0
        cuda.syncthreads()
        width = cuda.blockDim.x // 2
        while width > 0:
            if t < width:
                part[t] += part[t + width]
            cuda.syncthreads()
            width //= 2
        if t == 0:
            out[cuda.blockIdx.x] = part[0]

    x = RANDOM.standard_normal(1000)
    out = np.empty(8)
    block_sums[8, 128](x, out)
    np.testing.assert_allclose(out.sum(), x.sum(), rtol=1e-12)


def test_the_reduction_of_numba():
    total = cuda.reduce(lambda a, b: a + b)
    largest = cuda.reduce(lambda a, b: max(a, b))
    x = RANDOM.integers(-1000, 1000, 3001)
    assert total(x) == x.sum() and largest(x, init=-5000) == x.max()


def test_histogram_by_atomics():
    @cuda.jit
    def histogram(x, low, high, bins):
        private = cuda.shared.array(16, int32)
        if cuda.threadIdx.x < 16:
            private[cuda.threadIdx.x] = 0
        cuda.syncthreads()
        for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
            bin = int32((x[i] - low) / (high - low) * 16)
            if 0 <= bin < 16:
                cuda.atomic.add(private, bin, 1)
        cuda.syncthreads()
        if cuda.threadIdx.x < 16:
            cuda.atomic.add(bins, cuda.threadIdx.x, private[cuda.threadIdx.x])

    x = RANDOM.uniform(-1.0, 1.0, 5000)
    bins = np.zeros(16, np.int32)
    histogram[4, 128](x, -1.0, 1.0, bins)
    assert (bins == np.histogram(x, 16, (-1.0, 1.0))[0]).all()


def test_other_atomics():
    @cuda.jit
    def several(x, largest, smallest, total, winner):
        i = cuda.grid(1)
        if i < x.size:
            cuda.atomic.max(largest, 0, x[i])
            cuda.atomic.min(smallest, 0, x[i])
            cuda.atomic.add(total, 0, x[i])
            cuda.atomic.cas(winner, 0, -1, i)

    x = RANDOM.standard_normal(300)
    largest, smallest, total = np.full(1, -np.inf), np.full(1, np.inf), np.zeros(1)
    winner = np.full(1, -1, np.int32)
    several[3, 128](x, largest, smallest, total, winner)
    assert largest[0] == x.max() and smallest[0] == x.min() and 0 <= winner[0] < 300
    np.testing.assert_allclose(total[0], x.sum(), rtol=1e-9)


def test_device_functions():
    @cuda.jit(device=True)
    def horner(x, coefficients):
        value = 0.0
        for c in coefficients:
            value = value * x + c
        return value

    @cuda.jit(device=True, inline=False)
    def clamp(x, low, high):
        return min(max(x, low), high)

    @cuda.jit
    def evaluate(x, coefficients, out):
        i = cuda.grid(1)
        if i < x.size:
            out[i] = clamp(horner(x[i], coefficients), -10.0, 10.0)

    x, coefficients = RANDOM.uniform(-3, 3, 200), np.array([1.0, -2.0, 0.5, 3.0])
    out = np.empty_like(x)
    evaluate[2, 100](x, coefficients, out)
    np.testing.assert_allclose(out, np.clip(np.polyval(coefficients, x), -10, 10), rtol=1e-12)


def test_mathematics_in_f64():
    @cuda.jit
    def functions(x, out):
        i = cuda.grid(1)
        if i < x.size:
            v = x[i]
            out[0, i] = math.exp(v)
            out[1, i] = math.log(abs(v) + 0.1)
            out[2, i] = math.sin(v) * math.cos(v)
            out[3, i] = math.sqrt(abs(v))
            out[4, i] = math.tanh(v)
            out[5, i] = math.atan2(v, 1.5)
            out[6, i] = abs(v) ** 1.7
            out[7, i] = math.erf(v)
            out[8, i] = math.floor(v) + math.fmod(v, 0.7)
            out[9, i] = math.lgamma(abs(v) + 0.5)

    x = RANDOM.uniform(-4, 4, 96)
    out = np.empty((10, x.size))
    functions[3, 32](x, out)
    a = np.abs(x)
    want = [np.exp(x), np.log(a + 0.1), np.sin(x) * np.cos(x), np.sqrt(a), np.tanh(x), np.arctan2(x, 1.5), a**1.7]
    want += [np.vectorize(math.erf)(x), np.floor(x) + np.fmod(x, 0.7), np.vectorize(math.lgamma)(a + 0.5)]
    np.testing.assert_allclose(out, np.array(want), rtol=1e-12, atol=1e-13)


def test_a_stencil_on_a_plane():
    @cuda.jit
    def laplace(u, out):
        x, y = cuda.grid(2)
        if 0 < x < u.shape[0] - 1 and 0 < y < u.shape[1] - 1:
            out[x, y] = 0.25 * (u[x - 1, y] + u[x + 1, y] + u[x, y - 1] + u[x, y + 1])

    u = RANDOM.standard_normal((30, 22))
    a, b = cuda.to_device(u), cuda.to_device(u)
    want = u.copy()
    for _ in range(4):
        laplace[(4, 3), (8, 8)](a, b)
        a, b = b, a
        next = want.copy()
        next[1:-1, 1:-1] = 0.25 * (want[:-2, 1:-1] + want[2:, 1:-1] + want[1:-1, :-2] + want[1:-1, 2:])
        want = next
    np.testing.assert_allclose(a.copy_to_host(), want, rtol=1e-12)


def test_a_scan_by_shuffles():
    @cuda.jit
    def scan(x, out):
        sums = cuda.shared.array(8, int32)
        t = cuda.threadIdx.x
        lane, warp = t & 31, t >> 5
        value = x[t]
        step = 1
        while step < 32:
            other = cuda.shfl_up_sync(0xFFFFFFFF, value, step)
            if lane >= step:
                value += other
            step *= 2
        if lane == 31:
            sums[warp] = value
        cuda.syncthreads()
        for w in range(warp):
            value += sums[w]
        out[t] = value

    x = RANDOM.integers(0, 100, 256).astype(np.int32)
    out = np.empty_like(x)
    scan[1, 256](x, out)
    assert (out == np.cumsum(x)).all()


def test_votes_of_warps():
    @cuda.jit
    def votes(x, ballots, counts):
        i = cuda.grid(1)
        mask = cuda.ballot_sync(0xFFFFFFFF, x[i] > 0)
        if cuda.laneid == 0:
            ballots[i // 32] = mask
            counts[i // 32] = cuda.popc(mask)

    x = RANDOM.integers(-5, 5, 128).astype(np.int32)
    ballots, counts = np.zeros(4, np.uint32), np.zeros(4, np.uint32)
    votes[2, 64](x, ballots, counts)
    want = [(row > 0) for row in x.reshape(4, 32)]
    assert counts.tolist() == [int(w.sum()) for w in want]
    assert ballots.tolist() == [sum(1 << i for i, bit in enumerate(w) if bit) for w in want]


def test_streams_and_pinned_arrays():
    @cuda.jit
    def scale(x, by):
        i = cuda.grid(1)
        if i < x.size:
            x[i] *= by

    streams = [cuda.stream() for _ in range(3)]
    host = [cuda.pinned_array(500, np.float32) for _ in streams]
    begin, end = cuda.event(), cuda.event()
    begin.record(streams[0])
    for n, (stream, x) in enumerate(zip(streams, host)):
        x[:] = n + 1
        device = cuda.to_device(x, stream=stream)
        scale[4, 128, stream](device, np.float32(10))
        scale[4, 128, stream](device, np.float32(n))
        device.copy_to_host(x, stream=stream)
    end.record(streams[0])
    for stream in streams:
        stream.synchronize()
    assert begin.elapsed_time(end) >= 0
    for n, x in enumerate(host):
        assert (x == (n + 1) * 10 * n).all()


def test_mapped_arrays_and_slices():
    @cuda.jit
    def add_row(m, row, out):
        i = cuda.grid(1)
        if i < out.size:
            out[i] = m[row, i] + m[0, i]

    m = cuda.mapped_array((5, 40), np.float32)
    m[:] = np.arange(200).reshape(5, 40)
    device = cuda.device_array((4, 40), np.float32)
    for row in range(1, 5):
        add_row[1, 64](m, row, device[row - 1])
    got = device.copy_to_host()
    assert (got == np.arange(200, dtype=np.float32).reshape(5, 40)[1:] + np.arange(40)).all()


def test_monte_carlo():
    @cuda.jit
    def inside(states, counts, draws):
        i = cuda.grid(1)
        hits = 0
        for _ in range(draws):
            x = xoroshiro128p_uniform_float32(states, i)
            y = xoroshiro128p_uniform_float32(states, i)
            if x * x + y * y <= 1:
                hits += 1
        counts[i] = hits

    states = create_xoroshiro128p_states(64, seed=1)
    counts = np.zeros(64, np.int32)
    inside[2, 32](states, counts, 100)
    assert abs(4 * counts.sum() / 6400 - math.pi) < 0.1


def test_local_and_constant_arrays():
    table = np.array([3, 1, 4, 1, 5, 9, 2, 6], np.int32)

    @cuda.jit
    def lookup(x, out):
        fixed = cuda.const.array_like(table)
        own = cuda.local.array(8, int32)
        i = cuda.grid(1)
        for k in range(8):
            own[k] = fixed[k] * x[i]
        total = 0
        for k in range(8):
            total += own[(k + i) % 8] * k
        out[i] = total

    x = np.arange(64, dtype=np.int32)
    out = np.empty_like(x)
    lookup[2, 32](x, out)
    assert out.tolist() == [sum(int(table[(k + i) % 8]) * i * k for k in range(8)) for i in range(64)]


def test_records_and_complex_numbers():
    kind = np.dtype([("mass", np.float64), ("at", np.float32), ("id", np.int32)], align=True)

    @cuda.jit
    def move(bodies, turn, out):
        i = cuda.grid(1)
        if i < bodies.size:
            bodies[i].at += float32(bodies[i].mass)
            out[i] = turn[i] * turn[i] + 1j * bodies[i].id

    bodies = np.zeros(50, kind)
    bodies["mass"], bodies["id"] = np.arange(50), np.arange(50)[::-1]
    turn = np.exp(1j * np.arange(50))
    out = np.empty(50, np.complex128)
    move[2, 32](bodies, turn, out)
    assert (bodies["at"] == np.arange(50)).all()
    np.testing.assert_allclose(out, turn * turn + 1j * np.arange(50)[::-1], rtol=1e-12)


def test_dynamic_shared_memory():
    @cuda.jit
    def reverse(x):
        turned = cuda.shared.array(0, int32)
        t = cuda.threadIdx.x
        turned[cuda.blockDim.x - 1 - t] = x[t]
        cuda.syncthreads()
        x[t] = turned[t]

    x = np.arange(200, dtype=np.int32)
    reverse[1, 200, 0, 800](x)
    assert (x == np.arange(200)[::-1]).all()


def test_a_vectorised_function():
    from numba import vectorize

    @vectorize(["float64(float64, float64)"], target="cuda")
    def relative(a, b):
        return abs(a - b) / max(abs(a), abs(b))

    a, b = RANDOM.uniform(1, 2, 1000), RANDOM.uniform(1, 2, 1000)
    np.testing.assert_allclose(relative(a, b), np.abs(a - b) / np.maximum(a, b), rtol=1e-12)


run(globals())
