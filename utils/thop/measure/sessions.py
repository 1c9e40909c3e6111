"""Networks made ready to run under a runtime that is installed here, which may say how long each of its layers took.

What a runtime needs is imported here and only then; networks go to it through temporary files.
"""

import inspect
import subprocess
import time
from importlib import import_module
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..deploy.runtimes import DeviceError, Runtime, find_runtime
from ..units import listed
from .logs import LogRow, read_log

_PASSES = 6  # of a profile
_TAKEN = "image"  # what an exported network's input is called


class Job(NamedTuple):
    """What is to run, and how; folder: for files that last as long as the session."""

    network: nn.Module
    x: Tensor
    folder: Path
    threads: int
    precision: str


class Session(NamedTuple):
    """A network that is ready to run; layers: makes some passes, and yields each layer's time in them, if it can."""

    run: Callable[[], Any]
    layers: Optional[Callable[[], Iterable[LogRow]]] = None


def _exported(job: Job) -> str:
    path = str(job.folder / "network.onnx")
    older = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    torch.onnx.export(job.network, (job.x,), path, input_names=[_TAKEN], opset_version=12, **older)  # type: ignore[arg-type]
    return path


def _onnxruntime(package: Any, job: Job) -> Session:
    path, given = _exported(job), {_TAKEN: job.x.numpy()}

    def session(profiled: bool) -> Any:
        options = package.SessionOptions()
        options.intra_op_num_threads, options.enable_profiling = job.threads, profiled
        options.profile_file_prefix = str(job.folder / "profile")
        return package.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def layers() -> List[LogRow]:
        one = session(True)
        for _ in range(_PASSES):
            one.run(None, given)
        rows = read_log(one.end_profiling(), "onnxruntime")
        return [row._replace(name=row.name.replace("_output_0_nchwc", "")) for row in rows]

    plain = session(False)
    return Session(lambda: plain.run(None, given), layers)


def _openvino(package: Any, job: Job) -> Session:
    path, given = _exported(job), {_TAKEN: job.x.numpy()}

    def request(profiled: bool) -> Any:
        how = {"INFERENCE_NUM_THREADS": job.threads, "PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": profiled}
        return package.Core().compile_model(path, "CPU", how).create_infer_request()

    plain, counted = request(False), request(True)

    def layers() -> Iterator[LogRow]:
        for _ in range(_PASSES):
            counted.infer(given)
            for one in counted.profiling_info:
                yield LogRow(one.node_name, one.node_type, one.real_time.total_seconds())

    return Session(lambda: plain.infer(given), layers)


def _ncnn(package: Any, job: Job) -> Session:
    torch.jit.trace(job.network, job.x).save(str(job.folder / "network.pt"))
    shape = ",".join(map(str, job.x.shape))
    command = [import_module("pnnx").EXEC_PATH, "network.pt", f"inputshape=[{shape}]", "fp16=0"]
    subprocess.run(command, cwd=str(job.folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    net = package.Net()
    net.opt.num_threads = job.threads
    if net.load_param(str(job.folder / "network.ncnn.param")) or net.load_model(str(job.folder / "network.ncnn.bin")):
        raise RuntimeError("pnnx made nothing that ncnn reads")
    image = package.Mat(job.x[0].numpy()).clone()

    def run() -> None:
        extractor = net.create_extractor()
        extractor.input("in0", image)
        for name in net.output_names():
            extractor.extract(name)

    return Session(run)


def _tflite(package: Any, job: Job) -> Session:
    path = str(job.folder / "network.tflite")
    import_module("litert_torch").convert(job.network, (job.x,)).export(path)
    interpreter = import_module("ai_edge_litert.interpreter").Interpreter(path, num_threads=job.threads)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], job.x.numpy())
    return Session(interpreter.invoke)


class _Clock(TorchDispatchMode):
    """Times each operator of a pass on the CPU; what they are of is known by their order and the sizes of results."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: List[LogRow] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        started = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        seconds, first = time.perf_counter() - started, result[0] if isinstance(result, (tuple, list)) else result
        operator = func.overloadpacket.__name__
        self.rows.append(LogRow(f"operator {len(self.rows)}", operator, seconds, tuple(getattr(first, "shape", ()))))
        return result


def _pytorch(package: Any, job: Job) -> Session:
    network, x = job.network, job.x

    def run() -> None:
        with torch.autocast("cuda", enabled=job.precision == "amp"):
            network(x)
        torch.cuda.synchronize()

    def layers() -> Iterator[LogRow]:
        for _ in range(_PASSES):
            with _Clock() as clock:
                network(x)
            yield from clock.rows

    return Session(run) if x.is_cuda else Session(lambda: network(x), layers)


def _compiled(package: Any, job: Job) -> Session:
    compiled = package.compile(job.network)
    with import_module("torch._inductor.config").patch(freezing=True):
        compiled(job.x)
    return Session(lambda: compiled(job.x))


_WAYS: Dict[str, Tuple[Callable[[Any, Job], Session], str, str]] = {
    "onnxruntime": (_onnxruntime, "onnxruntime onnx", "onnxruntime onnx"),
    "openvino": (_openvino, "openvino onnx", "openvino onnx"),
    "ncnn": (_ncnn, "ncnn pnnx", "ncnn pnnx"),
    "tflite": (_tflite, "ai_edge_litert litert_torch", "litert-torch"),
    "pytorch": (_pytorch, "torch", "torch"),
    "pytorch-cpu": (_pytorch, "torch", "torch"),
    "torch-compile": (_compiled, "torch", "torch"),
}
"""By runtime: what makes a session, the packages that takes, its own first, and what to install for them."""


def runtime_here(name: str) -> Tuple[Runtime, str]:
    """Return a runtime that can be measured here, "pytorch" without CUDA is pytorch-cpu, and its package with version.

    Raises DeviceError for one that is not known, does not run here, or lacks a package.
    """
    found = find_runtime(name)
    if found.name not in _WAYS:
        raise DeviceError(f"{found.name} can't be measured here, only {listed(_WAYS, ' or ')}")
    _, packages, install = _WAYS[found.name]
    for package in packages.split():
        try:
            import_module(package)
        except ImportError as error:
            raise DeviceError(f"measuring {name} takes the package {package}: pip install {install}") from error
    if found.name == "pytorch" and not torch.cuda.is_available():
        found = find_runtime("pytorch-cpu")
    package = packages.split()[0]
    return found, f"{package} {getattr(import_module(package), '__version__', '')}".split("-")[0].strip()


def open_session(runtime: Runtime, job: Job) -> Session:
    """Make a network ready to run; raises whatever converting or compiling it raises."""
    if runtime.name == "pytorch":
        network, x = job.network.cuda(), job.x.cuda()
        half = job.precision == "float16"
        job = job._replace(network=network.half() if half else network, x=x.half() if half else x)
    prepare, packages, _ = _WAYS[runtime.name]
    return prepare(import_module(packages.split()[0]), job)
