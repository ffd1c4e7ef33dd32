"""Every PTX vector in a folder, through NVIDIA's cuda-bindings: loaded as a module, as a library and linked, launched, and
compared with the outputs that the vector wants. Arguments: the folder, then vectors, or nothing for all without a fault."""

import json
import pathlib
import sys

import numpy as np
from common import Arguments, check, context, download, driver, launch, upload

DTYPES = {"f16": np.uint16, "bf16": np.uint16, "f32": np.float32, "f64": np.float64}
DTYPES |= {f"{kind}{bits}": np.dtype(f"{'u' if kind == 'u' else ''}int{bits}").type for kind in "us" for bits in (8, 16, 32, 64)}


def widened(array, dtype):
    """Elements as f64."""
    if dtype == "f16":
        return array.view(np.float16).astype(np.float64)
    if dtype == "bf16":
        return (array.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return array.astype(np.float64)


def scalar(parameter):
    """The value of a scalar, by its bits where they are given."""
    dtype = DTYPES[parameter["dtype"]]
    if "bits" in parameter:
        bits = np.uint32 if parameter["dtype"] == "f32" else np.uint64
        return np.array([int(parameter["bits"], 16)], bits).view(dtype)[0]
    return dtype(parameter["value"])


def by_module(ptx, entry):
    module = check(driver.cuModuleLoadData(ptx))
    return check(driver.cuModuleGetFunction(module, entry)), lambda: check(driver.cuModuleUnload(module))


def by_library(ptx, entry):
    library = check(driver.cuLibraryLoadData(ptx, [], [], 0, [], [], 0))
    kernel = check(driver.cuLibraryGetKernel(library, entry))
    return check(driver.cuKernelGetFunction(kernel)), lambda: check(driver.cuLibraryUnload(library))


def by_link(ptx, entry):
    state = check(driver.cuLinkCreate(0, [], []))
    kind = driver.CUjitInputType.CU_JIT_INPUT_PTX
    check(driver.cuLinkAddData(state, kind, ptx, len(ptx), b"vector.ptx", 0, [], []))
    cubin, size = check(driver.cuLinkComplete(state))
    assert size > 0
    module = check(driver.cuModuleLoadData(cubin))
    check(driver.cuLinkDestroy(state))
    return check(driver.cuModuleGetFunction(module, entry)), lambda: check(driver.cuModuleUnload(module))


def compare(parameter, got, want):
    """Whether an output is what the vector wants."""
    tolerance = parameter.get("tolerance", {"mode": "exact"})
    if tolerance["mode"] == "exact":
        return got.tobytes() == want.tobytes()
    got, want = widened(got, parameter["dtype"]), widened(want, parameter["dtype"])
    with np.errstate(invalid="ignore"):
        near = np.abs(got - want) <= tolerance["atol"] + tolerance["rtol"] * np.abs(want)
    return bool(np.all((got == want) | near))


def run(folder, case, ptx, load):
    """Launches a vector once; the names of the outputs that differ."""
    function, unload = load(ptx, case["entry"].encode())
    values, outputs, addresses = [], [], []
    for parameter in case["params"]:
        if parameter["kind"] == "scalar":
            values.append(scalar(parameter))
            continue
        dtype = DTYPES[parameter["dtype"]]
        if parameter["direction"] == "out":
            address = check(driver.cuMemAlloc(parameter["count"] * np.dtype(dtype).itemsize))
        else:
            address = upload(np.fromfile(folder / parameter["file"], dtype))
        addresses.append(address)
        values.append(address)
        expected = parameter.get("expected", parameter.get("file"))
        if expected and "expect_fault" not in case:
            outputs.append((parameter, address, np.fromfile(folder / expected, dtype)))
    launch(function, case["grid"], case["block"], Arguments(*values), case.get("dynamic_shared_bytes", 0))
    check(driver.cuCtxSynchronize())
    got = [(p, download(address, p["count"], DTYPES[p["dtype"]]), want) for p, address, want in outputs]
    for address in addresses:
        check(driver.cuMemFree(address))
    unload()
    return [p["name"] for p, have, want in got if not compare(p, have, want)]


def main():
    root, names = pathlib.Path(sys.argv[1]), sys.argv[2:]
    target = context()
    ran = 0
    for folder in sorted(p.parent for p in root.glob("*/case.json")):
        case = json.loads((folder / "case.json").read_text())
        if folder.name not in names if names else "expect_fault" in case:
            continue
        # The newest PTX that this card takes.
        targets = {int(t.removeprefix("sm_")): file for t, file in case["ptx"].items()}
        fits = [t for t in targets if t <= target]
        if not fits:
            print(f"{folder.name}: no PTX for sm_{target}")
            continue
        ptx = (folder / targets[max(fits)]).read_bytes() + b"\0"
        for load in (by_module, by_library, by_link):
            differ = run(folder, case, ptx, load)
            assert not differ, f"{folder.name} {load.__name__}: {differ} differ"
            ran += 1
    print(f"{ran} launches of vectors are as they should be")
    assert ran > 0


main()
