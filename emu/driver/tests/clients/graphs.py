"""Graphs, built of nodes and captured from streams, through NVIDIA's cuda-bindings."""

import ctypes
import pathlib
import tempfile

import numpy as np
from common import PTX, Arguments, check, context, download, driver, launch, refused, run, upload

context()
MODULE = check(driver.cuModuleLoadData(PTX.encode() + b"\0"))
ADD = check(driver.cuModuleGetFunction(MODULE, b"add"))
CONTEXT = check(driver.cuCtxGetCurrent())
N = 1024
GLOBAL = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL
RELAXED = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
ACTIVE = driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_ACTIVE
NONE = driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE
INVALIDATED = driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_INVALIDATED
TYPE = driver.CUgraphNodeType
HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def stream():
    return check(driver.cuStreamCreate(driver.CUstream_flags.CU_STREAM_NON_BLOCKING))


def add_arguments(x, y, value):
    return Arguments(x, y, np.uint32(value), np.uint32(N))


def kernel(arguments):
    """A node of `add`; the arguments may go once it is made."""
    params = driver.CUDA_KERNEL_NODE_PARAMS()
    params.func, params.kernelParams = ADD, arguments.address
    params.gridDimX, params.gridDimY, params.gridDimZ = N // 256, 1, 1
    params.blockDimX, params.blockDimY, params.blockDimZ = 256, 1, 1
    return params


def fill(address, value):
    params = driver.CUDA_MEMSET_NODE_PARAMS()
    params.dst, params.value, params.elementSize, params.width, params.height = address, value, 4, N, 1
    return params


def copy(source, target):
    """A copy of N words; an int is an address on the host."""
    params = driver.CUDA_MEMCPY3D()
    if isinstance(source, int):
        params.srcMemoryType, params.srcHost = driver.CUmemorytype.CU_MEMORYTYPE_HOST, source
    else:
        params.srcMemoryType, params.srcDevice = driver.CUmemorytype.CU_MEMORYTYPE_DEVICE, source
    if isinstance(target, int):
        params.dstMemoryType, params.dstHost = driver.CUmemorytype.CU_MEMORYTYPE_HOST, target
    else:
        params.dstMemoryType, params.dstDevice = driver.CUmemorytype.CU_MEMORYTYPE_DEVICE, target
    params.WidthInBytes, params.Height, params.Depth = 4 * N, 1, 1
    return params


def replay(graph, s, times=1):
    """Instantiates a graph and launches it."""
    executable = check(driver.cuGraphInstantiate(graph, 0))
    for _ in range(times):
        check(driver.cuGraphLaunch(executable, s))
    check(driver.cuStreamSynchronize(s))
    check(driver.cuGraphExecDestroy(executable))


def nodes(graph):
    """The nodes of a graph, as numbers."""
    _, count = check(driver.cuGraphGetNodes(graph))
    return [int(node) for node in check(driver.cuGraphGetNodes(graph, count))[0]]


def edges(graph):
    """The edges of a graph, as numbers."""
    *_, count = check(driver.cuGraphGetEdges(graph))
    before, after, data, _ = check(driver.cuGraphGetEdges(graph, count))
    return [(int(a), int(b), d.from_port, d.type) for a, b, d in zip(before, after, data)]


def test_nodes_run_in_the_order_of_their_edges():
    words, back = np.arange(N, dtype=np.uint32), np.zeros(N, np.uint32)
    x, y, s = check(driver.cuMemAlloc(4 * N)), check(driver.cuMemAlloc(4 * N)), stream()
    seen = []
    function = HOST_FUNCTION(lambda data: seen.append((data, int(back[1]))))
    host = driver.CUDA_HOST_NODE_PARAMS()
    host.fn, host.userData = driver.CUhostFn(_ptr=ctypes.addressof(function)), 5
    graph = check(driver.cuGraphCreate(0))
    up = check(driver.cuGraphAddMemcpyNode(graph, [], 0, copy(words.ctypes.data, x), CONTEXT))
    clear = check(driver.cuGraphAddMemsetNode(graph, [], 0, fill(y, 100), CONTEXT))
    first = check(driver.cuGraphAddKernelNode(graph, [up], 1, kernel(add_arguments(x, x, 3))))
    second = check(driver.cuGraphAddKernelNode(graph, [first, clear], 2, kernel(add_arguments(x, y, 4))))
    join = check(driver.cuGraphAddEmptyNode(graph, [second], 1))
    down = check(driver.cuGraphAddMemcpyNode(graph, [join], 1, copy(y, back.ctypes.data), CONTEXT))
    call = check(driver.cuGraphAddHostNode(graph, [down], 1, host))
    assert nodes(graph) == [int(n) for n in (up, clear, first, second, join, down, call)]
    kinds = [check(driver.cuGraphNodeGetType(n)).name.removeprefix("CU_GRAPH_NODE_TYPE_") for n in (up, clear, first, join, call)]
    assert kinds == ["MEMCPY", "MEMSET", "KERNEL", "EMPTY", "HOST"]
    roots = check(driver.cuGraphGetRootNodes(graph, check(driver.cuGraphGetRootNodes(graph))[1]))[0]
    assert [int(n) for n in roots] == [int(up), int(clear)]
    assert sorted((a, b) for a, b, *_ in edges(graph)) == sorted(
        (int(a), int(b)) for a, b in [(up, first), (first, second), (clear, second), (second, join), (join, down), (down, call)]
    )
    *_, count = check(driver.cuGraphNodeGetDependencies(second))
    assert count == 2 and check(driver.cuGraphNodeGetDependentNodes(up))[-1] == 1
    replay(graph, s, 2)
    assert (back == words + 7).all() and seen == [(5, 8), (5, 8)]
    check(driver.cuGraphDestroy(graph))
    check(driver.cuStreamDestroy(s))
    for address in (x, y):
        check(driver.cuMemFree(address))


def test_edges_are_added_and_removed():
    graph = check(driver.cuGraphCreate(0))
    a, b, c = (check(driver.cuGraphAddEmptyNode(graph, [], 0)) for _ in range(3))
    check(driver.cuGraphAddDependencies(graph, [a, b], [b, c], None, 2))
    with refused("CUDA_ERROR_INVALID_VALUE"):
        check(driver.cuGraphAddDependencies(graph, [c], [a], None, 1))
    with refused("CUDA_ERROR_INVALID_VALUE"):
        check(driver.cuGraphAddDependencies(graph, [a], [b], None, 1))
    assert [e[:2] for e in edges(graph)] == [(int(a), int(b)), (int(b), int(c))]
    check(driver.cuGraphRemoveDependencies(graph, [a], [b], None, 1))
    check(driver.cuGraphDestroyNode(c))
    assert nodes(graph) == [int(a), int(b)] and edges(graph) == []
    check(driver.cuGraphDestroy(graph))


def test_programmatic_edges_keep_their_data():
    x = upload(np.zeros(N, np.uint32))
    graph, s = check(driver.cuGraphCreate(0)), stream()
    first = check(driver.cuGraphAddKernelNode(graph, [], 0, kernel(add_arguments(x, x, 1))))
    data = driver.CUgraphEdgeData()
    data.from_port, data.type = 1, driver.CUgraphDependencyType.CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC
    params = driver.CUgraphNodeParams()
    params.type = TYPE.CU_GRAPH_NODE_TYPE_KERNEL
    y, arguments = upload(np.zeros(N, np.uint32)), None
    arguments = add_arguments(y, y, 2)
    params.kernel.func, params.kernel.kernelParams = ADD, arguments.address
    params.kernel.gridDimX, params.kernel.gridDimY, params.kernel.gridDimZ = N // 256, 1, 1
    params.kernel.blockDimX, params.kernel.blockDimY, params.kernel.blockDimZ = 256, 1, 1
    second = check(driver.cuGraphAddNode(graph, [first], [data], 1, params))
    assert edges(graph) == [(int(first), int(second), 1, 1)]
    empty = check(driver.cuGraphAddEmptyNode(graph, [], 0))
    with refused("CUDA_ERROR_INVALID_VALUE"):
        check(driver.cuGraphAddDependencies(graph, [first], [empty], [data], 1))
    replay(graph, s, 3)
    assert (download(x, N, np.uint32) == 3).all() and (download(y, N, np.uint32) == 6).all()
    check(driver.cuGraphDestroy(graph))
    check(driver.cuStreamDestroy(s))
    for address in (x, y):
        check(driver.cuMemFree(address))


def test_parameters_are_changed():
    x, s = upload(np.zeros(N, np.uint32)), stream()
    graph = check(driver.cuGraphCreate(0))
    node = check(driver.cuGraphAddKernelNode(graph, [], 0, kernel(add_arguments(x, x, 1))))
    executable = check(driver.cuGraphInstantiate(graph, 0))
    check(driver.cuGraphLaunch(executable, s))
    check(driver.cuGraphExecKernelNodeSetParams(executable, node, kernel(add_arguments(x, x, 10))))
    check(driver.cuGraphLaunch(executable, s))
    check(driver.cuStreamSynchronize(s))
    assert (download(x, N, np.uint32) == 11).all()
    # The graph has kept its own.
    replay(graph, s)
    assert (download(x, N, np.uint32) == 12).all()
    got = check(driver.cuGraphKernelNodeGetParams(node))
    assert (got.gridDimX, got.blockDimX, int(got.func)) == (N // 256, 256, int(ADD))
    values = (ctypes.c_void_p * 4).from_address(int(got.kernelParams))
    assert ctypes.c_uint32.from_address(values[2]).value == 1
    check(driver.cuGraphKernelNodeSetParams(node, kernel(add_arguments(x, x, 100))))
    check(driver.cuGraphExecUpdate(executable, graph))
    check(driver.cuGraphLaunch(executable, s))
    check(driver.cuStreamSynchronize(s))
    assert (download(x, N, np.uint32) == 112).all()
    check(driver.cuGraphAddEmptyNode(graph, [node], 1))
    with refused("CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE"):
        check(driver.cuGraphExecUpdate(executable, graph))
    check(driver.cuGraphExecDestroy(executable))
    check(driver.cuGraphDestroy(graph))
    check(driver.cuStreamDestroy(s))
    check(driver.cuMemFree(x))


def test_copies_and_fills_are_changed():
    x, y, s = upload(np.zeros(N, np.uint32)), upload(np.zeros(N, np.uint32)), stream()
    graph = check(driver.cuGraphCreate(0))
    a = check(driver.cuGraphAddMemsetNode(graph, [], 0, fill(x, 1), CONTEXT))
    b = check(driver.cuGraphAddMemcpyNode(graph, [a], 1, copy(x, y), CONTEXT))
    executable = check(driver.cuGraphInstantiate(graph, 0))
    check(driver.cuGraphExecMemsetNodeSetParams(executable, a, fill(y, 2), CONTEXT))
    check(driver.cuGraphExecMemcpyNodeSetParams(executable, b, copy(y, x), CONTEXT))
    check(driver.cuGraphLaunch(executable, s))
    check(driver.cuStreamSynchronize(s))
    assert (download(x, N, np.uint32) == 2).all()
    assert check(driver.cuGraphMemsetNodeGetParams(a)).value == 1
    assert check(driver.cuGraphMemcpyNodeGetParams(b)).WidthInBytes == 4 * N
    check(driver.cuGraphExecDestroy(executable))
    check(driver.cuGraphDestroy(graph))
    check(driver.cuStreamDestroy(s))
    for address in (x, y):
        check(driver.cuMemFree(address))


def test_clones_and_children():
    x, s = upload(np.zeros(N, np.uint32)), stream()
    inner = check(driver.cuGraphCreate(0))
    node = check(driver.cuGraphAddKernelNode(inner, [], 0, kernel(add_arguments(x, x, 1))))
    clone = check(driver.cuGraphClone(inner))
    twin = check(driver.cuGraphNodeFindInClone(node, clone))
    assert nodes(clone) == [int(twin)] and int(twin) != int(node)
    outer = check(driver.cuGraphCreate(0))
    first = check(driver.cuGraphAddChildGraphNode(outer, [], 0, inner))
    check(driver.cuGraphAddChildGraphNode(outer, [first], 1, clone))
    check(driver.cuGraphDestroy(inner))
    assert len(nodes(check(driver.cuGraphChildGraphNodeGetGraph(first)))) == 1
    replay(outer, s, 2)
    assert (download(x, N, np.uint32) == 4).all()
    for graph in (clone, outer):
        check(driver.cuGraphDestroy(graph))
    check(driver.cuStreamDestroy(s))
    check(driver.cuMemFree(x))


def test_events_and_values_are_nodes():
    x, s, other = upload(np.zeros(N, np.uint32)), stream(), stream()
    event = check(driver.cuEventCreate(0))
    at = check(driver.cuMemHostAlloc(8, driver.CU_MEMHOSTALLOC_DEVICEMAP))
    words = np.ctypeslib.as_array((ctypes.c_uint32 * 2).from_address(at))
    words[:] = 0
    flag = int(check(driver.cuMemHostGetDevicePointer(at, 0)))
    write = driver.CUstreamBatchMemOpParams()
    write.writeValue.operation = driver.CUstreamBatchMemOpType.CU_STREAM_MEM_OP_WRITE_VALUE_32
    write.writeValue.address, write.writeValue.value = flag, 3
    wait = driver.CUstreamBatchMemOpParams()
    wait.waitValue.operation = driver.CUstreamBatchMemOpType.CU_STREAM_MEM_OP_WAIT_VALUE_32
    wait.waitValue.address, wait.waitValue.value = flag + 4, 2
    params = driver.CUDA_BATCH_MEM_OP_NODE_PARAMS()
    params.ctx, params.count, params.paramArray, params.flags = CONTEXT, 2, [write, wait], 0
    graph = check(driver.cuGraphCreate(0))
    a = check(driver.cuGraphAddKernelNode(graph, [], 0, kernel(add_arguments(x, x, 1))))
    b = check(driver.cuGraphAddBatchMemOpNode(graph, [a], 1, params))
    check(driver.cuGraphAddEventRecordNode(graph, [b], 1, event))
    executable = check(driver.cuGraphInstantiate(graph, 0))
    check(driver.cuGraphLaunch(executable, s))
    assert driver.cuStreamQuery(s) == (driver.CUresult.CUDA_ERROR_NOT_READY,)
    words[1] = 2
    waits = check(driver.cuGraphCreate(0))
    node = check(driver.cuGraphAddEventWaitNode(waits, [], 0, event))
    check(driver.cuGraphAddKernelNode(waits, [node], 1, kernel(add_arguments(x, x, 10))))
    replay(waits, other)
    assert words[0] == 3 and (download(x, N, np.uint32) == 11).all()
    check(driver.cuStreamSynchronize(s))
    check(driver.cuGraphExecDestroy(executable))
    for g in (graph, waits):
        check(driver.cuGraphDestroy(g))
    for it in (s, other):
        check(driver.cuStreamDestroy(it))
    check(driver.cuEventDestroy(event))
    check(driver.cuMemFreeHost(at))
    check(driver.cuMemFree(x))


def test_nodes_are_switched_off():
    x, s = upload(np.zeros(N, np.uint32)), stream()
    graph = check(driver.cuGraphCreate(0))
    a = check(driver.cuGraphAddKernelNode(graph, [], 0, kernel(add_arguments(x, x, 1))))
    check(driver.cuGraphAddKernelNode(graph, [a], 1, kernel(add_arguments(x, x, 10))))
    executable = check(driver.cuGraphInstantiate(graph, 0))
    check(driver.cuGraphNodeSetEnabled(executable, a, 0))
    assert check(driver.cuGraphNodeGetEnabled(executable, a)) == 0
    check(driver.cuGraphUpload(executable, s))
    check(driver.cuGraphLaunch(executable, s))
    check(driver.cuStreamSynchronize(s))
    assert (download(x, N, np.uint32) == 10).all()
    check(driver.cuGraphExecDestroy(executable))
    check(driver.cuGraphDestroy(graph))
    check(driver.cuStreamDestroy(s))
    check(driver.cuMemFree(x))


def test_a_drawing():
    graph = check(driver.cuGraphCreate(0))
    a = check(driver.cuGraphAddEmptyNode(graph, [], 0))
    check(driver.cuGraphAddEmptyNode(graph, [a], 1))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "graph.dot"
        check(driver.cuGraphDebugDotPrint(graph, str(path).encode(), 0))
        text = path.read_text()
    assert text.startswith("digraph") and text.count("->") == 1
    check(driver.cuGraphDestroy(graph))


def test_a_captured_stream_runs_when_its_graph_does():
    x, s = upload(np.zeros(N, np.uint32)), stream()
    check(driver.cuStreamBeginCapture(s, GLOBAL))
    assert check(driver.cuStreamIsCapturing(s)) == ACTIVE
    launch(ADD, (N // 256, 1, 1), (256, 1, 1), add_arguments(x, x, 1), stream=s)
    check(driver.cuMemsetD32Async(x, 5, N // 2, s))
    launch(ADD, (N // 256, 1, 1), (256, 1, 1), add_arguments(x, x, 2), stream=s)
    status, identity, graph, last, data, count = check(driver.cuStreamGetCaptureInfo(s))
    assert status == ACTIVE and int(identity) > 0 and count == 1 and len(nodes(graph)) == 3
    assert check(driver.cuGraphNodeGetType(last[0])) == TYPE.CU_GRAPH_NODE_TYPE_KERNEL
    graph = check(driver.cuStreamEndCapture(s))
    assert check(driver.cuStreamIsCapturing(s)) == NONE
    assert (download(x, N, np.uint32) == 0).all()
    replay(graph, s, 2)
    assert download(x, N, np.uint32).tolist() == [7] * (N // 2) + [6] * (N // 2)
    check(driver.cuGraphDestroy(graph))
    check(driver.cuStreamDestroy(s))
    check(driver.cuMemFree(x))


def test_capture_forks_and_joins():
    x, y = upload(np.zeros(N, np.uint32)), upload(np.zeros(N, np.uint32))
    a, b = stream(), stream()
    fork, join = check(driver.cuEventCreate(0)), check(driver.cuEventCreate(0))
    check(driver.cuStreamBeginCapture(a, GLOBAL))
    launch(ADD, (N // 256, 1, 1), (256, 1, 1), add_arguments(x, x, 1), stream=a)
    check(driver.cuEventRecord(fork, a))
    check(driver.cuStreamWaitEvent(b, fork, 0))
    assert check(driver.cuStreamIsCapturing(b)) == ACTIVE
    launch(ADD, (N // 256, 1, 1), (256, 1, 1), add_arguments(x, y, 2), stream=b)
    check(driver.cuEventRecord(join, b))
    check(driver.cuStreamWaitEvent(a, join, 0))
    launch(ADD, (N // 256, 1, 1), (256, 1, 1), add_arguments(y, x, 4), stream=a)
    graph = check(driver.cuStreamEndCapture(a))
    assert check(driver.cuStreamIsCapturing(b)) == NONE and len(nodes(graph)) == 3
    replay(graph, a)
    assert (download(x, N, np.uint32) == 7).all()
    with refused("CUDA_ERROR_CAPTURED_EVENT"):
        check(driver.cuEventSynchronize(join))
    check(driver.cuGraphDestroy(graph))
    for s in (a, b):
        check(driver.cuStreamDestroy(s))
    for e in (fork, join):
        check(driver.cuEventDestroy(e))
    for address in (x, y):
        check(driver.cuMemFree(address))


def test_what_fails_a_capture():
    x = upload(np.zeros(N, np.uint32))
    event, outside = check(driver.cuEventCreate(0)), check(driver.cuEventCreate(0))
    a, b = stream(), stream()
    blocking = check(driver.cuStreamCreate(0))
    check(driver.cuEventRecord(outside, b))
    check(driver.cuStreamSynchronize(b))

    def begin(s=a):
        check(driver.cuStreamBeginCapture(s, GLOBAL))
        launch(ADD, (N // 256, 1, 1), (256, 1, 1), add_arguments(x, x, 1), stream=s)

    def fails(call, error, s=a, end="CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"):
        with refused(error):
            check(call())
        if end == "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED":
            assert check(driver.cuStreamIsCapturing(s)) == INVALIDATED
        with refused(end):
            check(driver.cuStreamEndCapture(s))
        assert check(driver.cuStreamIsCapturing(s)) == NONE

    unsupported = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"
    for call in (
        lambda: driver.cuStreamSynchronize(a),
        lambda: driver.cuStreamQuery(a),
        lambda: driver.cuCtxSynchronize(),
        lambda: driver.cuMemAlloc(16),
    ):
        begin()
        fails(call, unsupported)
    begin()
    fails(lambda: driver.cuStreamWaitEvent(a, outside, 0), "CUDA_ERROR_STREAM_CAPTURE_ISOLATION")
    begin(blocking)
    fails(lambda: driver.cuMemsetD32Async(x, 1, N, 0), "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", blocking)
    begin()
    check(driver.cuEventRecord(event, a))
    check(driver.cuStreamWaitEvent(b, event, 0))
    launch(ADD, (N // 256, 1, 1), (256, 1, 1), add_arguments(x, x, 1), stream=b)
    with refused("CUDA_ERROR_STREAM_CAPTURE_UNJOINED"):
        check(driver.cuStreamEndCapture(a))
    with refused("CUDA_ERROR_ILLEGAL_STATE"):
        check(driver.cuStreamEndCapture(a))
    with refused(unsupported):
        check(driver.cuStreamBeginCapture(0, GLOBAL))
    # A thread that has said that it is careful may allocate.
    check(driver.cuStreamBeginCapture(a, RELAXED))
    check(driver.cuMemFree(check(driver.cuMemAlloc(16))))
    check(driver.cuGraphDestroy(check(driver.cuStreamEndCapture(a))))
    begin()
    mode = check(driver.cuThreadExchangeStreamCaptureMode(RELAXED))
    assert mode == GLOBAL
    check(driver.cuMemFree(check(driver.cuMemAlloc(16))))
    assert check(driver.cuThreadExchangeStreamCaptureMode(mode)) == RELAXED
    check(driver.cuGraphDestroy(check(driver.cuStreamEndCapture(a))))
    for s in (a, b, blocking):
        check(driver.cuStreamDestroy(s))
    for e in (event, outside):
        check(driver.cuEventDestroy(e))
    check(driver.cuMemFree(x))


def test_capture_into_a_graph():
    x, s = upload(np.zeros(N, np.uint32)), stream()
    graph = check(driver.cuGraphCreate(0))
    first = check(driver.cuGraphAddKernelNode(graph, [], 0, kernel(add_arguments(x, x, 1))))
    check(driver.cuStreamBeginCaptureToGraph(s, graph, [first], None, 1, GLOBAL))
    launch(ADD, (N // 256, 1, 1), (256, 1, 1), add_arguments(x, x, 2), stream=s)
    # A node of one's own, after what was captured.
    *_, last, _, count = check(driver.cuStreamGetCaptureInfo(s))
    own = check(driver.cuGraphAddKernelNode(graph, last, count, kernel(add_arguments(x, x, 4))))
    replace = driver.CUstreamUpdateCaptureDependencies_flags.CU_STREAM_SET_CAPTURE_DEPENDENCIES
    check(driver.cuStreamUpdateCaptureDependencies(s, [own], None, 1, replace))
    launch(ADD, (N // 256, 1, 1), (256, 1, 1), add_arguments(x, x, 8), stream=s)
    assert int(check(driver.cuStreamEndCapture(s))) == int(graph)
    assert len(nodes(graph)) == 4 and len(edges(graph)) == 3
    replay(graph, s)
    assert (download(x, N, np.uint32) == 15).all()
    check(driver.cuGraphDestroy(graph))
    check(driver.cuStreamDestroy(s))
    check(driver.cuMemFree(x))


def test_programmatic_launches_are_captured_as_such():
    x, y, s = upload(np.zeros(N, np.uint32)), upload(np.zeros(N, np.uint32)), stream()
    attribute = driver.CUlaunchAttribute()
    attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    attribute.value.programmaticStreamSerializationAllowed = 1
    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = N // 256, 1, 1
    config.blockDimX, config.blockDimY, config.blockDimZ = 256, 1, 1
    config.hStream, config.attrs, config.numAttrs = s, [attribute], 1
    check(driver.cuStreamBeginCapture(s, GLOBAL))
    launch(ADD, (N // 256, 1, 1), (256, 1, 1), add_arguments(x, x, 1), stream=s)
    arguments = add_arguments(y, y, 2)
    check(driver.cuLaunchKernelEx(config, ADD, arguments.address, 0))
    graph = check(driver.cuStreamEndCapture(s))
    assert [e[2:] for e in edges(graph)] == [(1, 1)]
    replay(graph, s, 2)
    assert (download(x, N, np.uint32) == 2).all() and (download(y, N, np.uint32) == 4).all()
    check(driver.cuGraphDestroy(graph))
    check(driver.cuStreamDestroy(s))
    for address in (x, y):
        check(driver.cuMemFree(address))


run(globals())
