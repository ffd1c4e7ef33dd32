"""What the clients of cuda-bindings share: checked calls, arrays on the device, PTX, and the list of tests of a script."""

import sys
import time
from contextlib import contextmanager

import numpy as np
from cuda.bindings import driver

OK = driver.CUresult.CUDA_SUCCESS


class Refused(Exception):
    """A call answered something else than success."""

    def __init__(self, result):
        super().__init__(result.name)
        self.result = result


def check(answer):
    """The values of a call, without its result, which has to be success."""
    result, *values = answer
    if result != OK:
        raise Refused(result)
    return values[0] if len(values) == 1 else tuple(values)


@contextmanager
def refused(name):
    """The block has to be refused with this error."""
    try:
        yield
    except Refused as error:
        assert error.result.name == name, f"{error.result.name} instead of {name}"
    else:
        raise AssertionError(f"nothing was refused; {name} was expected")


def context():
    """The primary context of the first card, current; its compute capability as in `sm_`."""
    check(driver.cuInit(0))
    device = check(driver.cuDeviceGet(0))
    check(driver.cuCtxSetCurrent(check(driver.cuDevicePrimaryCtxRetain(device))))
    kind = driver.CUdevice_attribute
    major = check(driver.cuDeviceGetAttribute(kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device))
    minor = check(driver.cuDeviceGetAttribute(kind.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device))
    return major * 10 + minor


def upload(array):
    """A new allocation with the contents of an array."""
    address = check(driver.cuMemAlloc(array.nbytes))
    check(driver.cuMemcpyHtoD(address, array.ctypes.data, array.nbytes))
    return address


def download(address, count, dtype):
    """The contents of an allocation."""
    array = np.empty(count, dtype)
    check(driver.cuMemcpyDtoH(array.ctypes.data, address, array.nbytes))
    return array


class Arguments:
    """Arguments of a kernel: numpy scalars and device pointers, as the array of pointers that a launch takes."""

    def __init__(self, *values):
        as_array = lambda v: np.array([int(v)], np.uint64) if isinstance(v, (int, driver.CUdeviceptr)) else np.array([v])
        self.values = [as_array(v) for v in values]
        self.pointers = np.array([v.ctypes.data for v in self.values] or [0], np.uint64)
        self.address = int(self.pointers.ctypes.data)


def launch(function, grid, block, arguments, shared=0, stream=0):
    """Launches a kernel with `Arguments`."""
    check(driver.cuLaunchKernel(function, *grid, *block, shared, stream, arguments.address, 0))


# Kernels of the tests: y = x + value over n words; a counter that goes up by one.
PTX = """
.version 8.0
.target sm_80
.address_size 64

.visible .entry add(.param .u64 x, .param .u64 y, .param .u32 value, .param .u32 n)
{
    .reg .pred %p<2>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<8>;
    ld.param.u64 %rd1, [x];
    ld.param.u64 %rd2, [y];
    ld.param.u32 %r1, [value];
    ld.param.u32 %r2, [n];
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mov.u32 %r5, %tid.x;
    mad.lo.s32 %r6, %r3, %r4, %r5;
    setp.ge.u32 %p1, %r6, %r2;
    @%p1 bra done;
    mul.wide.u32 %rd3, %r6, 4;
    add.s64 %rd4, %rd1, %rd3;
    add.s64 %rd5, %rd2, %rd3;
    ld.global.u32 %r7, [%rd4];
    add.u32 %r7, %r7, %r1;
    st.global.u32 [%rd5], %r7;
done:
    ret;
}

.visible .global .align 4 .u32 total = 7;

.visible .entry count()
{
    .reg .b32 %r<2>;
    ld.global.u32 %r1, [total];
    add.u32 %r1, %r1, 1;
    st.global.u32 [total], %r1;
    ret;
}
"""


def run(tests):
    """Runs the tests named on the command line, or all; each is a function whose name begins with `test_`."""
    chosen = {name: test for name, test in tests.items() if name.startswith("test_")}
    for name in sys.argv[1:] or chosen:
        start = time.monotonic()
        chosen[name]()
        print(f"ok {name} {time.monotonic() - start:.2f} s", flush=True)
