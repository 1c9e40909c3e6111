"""Make the launches that deployment compilers make of real networks, which the tests compare our predictions with.

    python benchmarks/compilers.py [RUNTIME ...]

RUNTIME: rknn-rk3588, rknn-rk3566, ncnn, openvino, onnxruntime, tflite, torch-compile, samples; all of them if none is
named. Each compiler gets an environment of its own below the temporary directory, from the Python package index. Writes
tests/deploy/graphs and tests/measure/samples. Takes about an hour; what a stopped run has finished is not made again.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import os
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Iterator, Sequence

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "benchmarks" / "compilers"
sys.path.insert(0, str(SCRIPTS))

import graphs  # noqa: E402
import members  # noqa: E402
import networks  # noqa: E402
import rknn_log  # noqa: E402
from tqdm import tqdm  # noqa: E402

DATA = ROOT / "tests" / "deploy" / "graphs"
SAMPLES = ROOT / "tests" / "measure" / "samples"
WORK = Path(tempfile.gettempdir()) / "compilers"
EXPORTED = WORK / "networks"
LONGEST = 900  # seconds for one network
PROFILED = "y5:yolov5n"
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "sve")
# Networks that teach nothing that others don't, but on an NPU by their sizes. They, and a few long ones where the files
# would swell, are counted, but not listed.
ALIKE = {
    "y5:yolov5n", "y5:yolov5m", "y5:yolov5l", "y5:hub/yolov5s6", "y5:hub/yolov5-bifpn", "y5:yolov5s;head=sigmoid",
    "ul:yolov8s", "ul:yolov8m", "ul:yolo11s", "ul:yolov5nu",
}  # fmt: skip
UNLISTED: dict[str, set[str]] = {
    "rknn-rk3588": {"y5:yolov5n", "y5:yolov5l", "y5:hub/yolov5-bifpn", "ul:yolov5nu"},
    "rknn-rk3566": ALIKE | {"y5:hub/yolov5s-LeakyReLU", "y5:yolov5s;act=Hardswish", "tv:densenet121", "ul:yolo12n"},
    "ncnn": ALIKE | {"ul:yolo12n", "tv:densenet121"},
    "openvino": ALIKE | {"y5:yolov5s;act=Hardswish"},
    "onnxruntime": ALIKE | {"ul:yolo12n"},
    "tflite": ALIKE | {"ul:yolo12n", "tv:densenet121", "y5:hub/yolov5s-LeakyReLU", "y5:hub/yolov5s-ghost"},
    "torch-compile": set(),
}
RUNTIME_COLUMNS = ("network", "launch", "operator", "members")
RKNN_COLUMNS = (*RUNTIME_COLUMNS, "target", "cycles_ddr", "cycles_npu", "kb", "rows")


class CompilerError(RuntimeError):
    """What went wrong, in one line."""


@dataclass(frozen=True)
class Runtime:
    """A compiler: what it is installed from, which script runs it, on which form of the network."""

    name: str
    script: str
    takes: str
    environment: str = ""
    requirements: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    suffix: str = "json"

    @property
    def python(self) -> Path:
        """The interpreter to run it with."""
        return python_of(self.environment) if self.environment else Path(sys.executable)

    def result(self, network: str) -> Path:
        """The file for what it made of a network."""
        return WORK / "results" / self.name / f"{networks.file_name(network)}.{self.suffix}"

    def source(self, network: str) -> str:
        """The network in the form that it takes: a file, or only the name."""
        return str(EXPORTED / f"{networks.file_name(network)}.{self.takes}") if self.takes else network


TFLITE_NEEDS = (
    "litert-torch", "torchvision", "ultralytics", "pandas", "requests", "matplotlib", "seaborn", "scipy", "psutil",
    "gitpython", "fire", "pyyaml", "tqdm", "setuptools<81",
)  # fmt: skip
RUNTIMES = {
    runtime.name: runtime
    for runtime in (
        Runtime("rknn-rk3588", "with_rknn.py", "12.onnx", "rknn", ("rknn-toolkit2",), ("rk3588",), "log"),
        Runtime("rknn-rk3566", "with_rknn.py", "12.onnx", "rknn", ("rknn-toolkit2",), ("rk3566",), "log"),
        Runtime("ncnn", "with_ncnn.py", "pt", "ncnn", ("pnnx", "ncnn", "numpy")),
        Runtime("openvino", "with_openvino.py", "17.onnx", "openvino", ("openvino", "numpy")),
        Runtime("onnxruntime", "with_onnxruntime.py", "17.onnx", "onnxruntime", ("onnxruntime", "onnx", "numpy")),
        Runtime("tflite", "with_tflite.py", "", "tflite", TFLITE_NEEDS),
        Runtime("torch-compile", "with_inductor.py", ""),
    )
}
VALUES = Runtime("values", "with_values.py", "17.onnx", "onnxruntime", ("onnxruntime", "onnx", "numpy"))
MATCHED = ("ncnn", "onnxruntime", "tflite")  # where a tensor is known again by its values
PACKAGES = {"rknn": ("rknn-toolkit2",), "ncnn": ("pnnx", "ncnn"), "tflite": ("litert-torch", "ai-edge-litert")}


def main() -> None:
    """Make what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runtimes", nargs="*", metavar="RUNTIME", help="what to make; everything if none is named")
    wanted = parser.parse_args().runtimes or [*RUNTIMES, "samples"]
    unknown = [name for name in wanted if name not in RUNTIMES and name != "samples"]
    if unknown:
        parser.error(f"unknown runtime {unknown[0]!r}; there are {', '.join(RUNTIMES)}, samples")
    if hasattr(os, "nice"):
        os.nice(5)
    try:
        export()
        for name in wanted:
            if name == "samples":
                make_samples()
            else:
                make(RUNTIMES[name])
        write_totals()
        write_readme()
    except CompilerError as error:
        raise SystemExit(f"compilers: {error}") from None


# Environments and processes


def python_of(environment: str) -> Path:
    """Return the interpreter of an environment."""
    return WORK / environment / ("Scripts" if os.name == "nt" else "bin") / "python"


def install(runtime: Runtime) -> None:
    """Make a runtime's environment, unless it is there."""
    mark = WORK / runtime.environment / "installed"
    if not runtime.environment or mark.is_file():
        return
    tqdm.write(f"install {', '.join(runtime.requirements)}", file=sys.stderr)
    if not runtime.python.is_file():
        venv.create(WORK / runtime.environment, with_pip=True)
    run([str(runtime.python), "-m", "pip", "install", "--quiet", *runtime.requirements])
    mark.touch()


def run(command: Sequence[str], timeout: float | None = None) -> None:
    """Run a command on one core; a failure raises with its last line."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise CompilerError(f"not done after {timeout:.0f} seconds") from None
    if done.returncode:
        lines = done.stdout.decode("utf-8", "replace").strip().splitlines() or [f"ended with {done.returncode}"]
        raise CompilerError(lines[-1].strip()[:200])


def export() -> None:
    """Export the networks, those that are not there yet."""
    if networks.todo(EXPORTED, []):
        packages = WORK / "onnx"
        if not packages.is_dir():
            options = "--quiet", "--no-deps", "--target", str(packages)
            run([sys.executable, "-m", "pip", "install", *options, "onnx", "ml_dtypes"])
        run([sys.executable, str(SCRIPTS / "networks.py"), str(EXPORTED), str(packages)])


def compile_all(runtime: Runtime) -> None:
    """Run a compiler on each network that it has not had yet; note why it refuses one."""
    install(runtime)
    for network in tqdm(networks.NETWORKS, desc=runtime.name, file=sys.stderr):
        result = runtime.result(network)
        refusal = result.with_suffix(".refused")
        if result.is_file() or refusal.is_file():
            continue
        result.parent.mkdir(parents=True, exist_ok=True)
        part = result.with_suffix(".part")
        size = str(networks.image_size(network))
        script = str(SCRIPTS / runtime.script)
        try:
            run([str(runtime.python), script, runtime.source(network), size, *runtime.options, str(part)], LONGEST)
        except CompilerError as error:
            refusal.write_text(str(error), encoding="utf-8")
        else:
            part.replace(result)


# Tables


def make(runtime: Runtime) -> None:
    """Compile every network and write the runtime's table."""
    compile_all(runtime)
    if runtime.name in MATCHED:
        compile_all(VALUES)
    write_table(runtime)


def write_table(runtime: Runtime) -> None:
    """Write what a runtime made of the networks that it has had so far."""
    done = [network for network in made_by(runtime) if network not in UNLISTED[runtime.name]]
    if runtime.name == "torch-compile":
        write(DATA / "torch-compile.csv", ("network", "kernels", "generated", "library"), kernel_rows(runtime, done))
    elif runtime.environment == "rknn":
        write(DATA / f"{runtime.name}.csv", RKNN_COLUMNS, rknn_rows(runtime, done))
        write(DATA / "rknn-memory.csv", ("network", "device", "internal_kb", "weight_kb"), memory_rows())
    else:
        write(DATA / f"{runtime.name}.csv", RUNTIME_COLUMNS, launch_rows(runtime, done))


def made_by(runtime: Runtime) -> list[str]:
    """Return the networks that a runtime has had so far."""
    needed = [runtime, VALUES] if runtime.name in MATCHED else [runtime]
    return [network for network in networks.NETWORKS if all(each.result(network).is_file() for each in needed)]


def write_totals() -> None:
    """Write how many launches each network has in each runtime."""
    counts = {
        name: {network: count(runtime, network) for network in made_by(runtime)} for name, runtime in RUNTIMES.items()
    }
    rows = ((network, *(counts[name].get(network, "") for name in RUNTIMES)) for network in networks.NETWORKS)
    write(DATA / "totals.csv", ("network", *RUNTIMES), rows)


def count(runtime: Runtime, network: str) -> int:
    """Return how many launches a network has in a runtime."""
    if runtime.name == "torch-compile":
        return int(next(iter(kernel_rows(runtime, [network])))[1])
    if runtime.environment == "rknn":
        return len(rknn_log.launches(log_of(runtime, network), graph_of(network, 12)))
    return len(launches(runtime, network))


def write(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a csv file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def graph_of(network: str, opset: int) -> graphs.Graph:
    """Return the exported graph of a network."""
    return graphs.Graph.read(EXPORTED / f"{networks.file_name(network)}.{opset}.json")


def log_of(runtime: Runtime, network: str) -> str:
    """Return what the toolkit said, or nothing."""
    path = runtime.result(network)
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def rknn_rows(runtime: Runtime, done: Sequence[str]) -> Iterator[Sequence[Any]]:
    """Return the launches on an NPU."""
    for network in done:
        found = rknn_log.launches(log_of(runtime, network), graph_of(network, 12))
        for number, each in enumerate(found):
            numbers = each.cycles_ddr, each.cycles_npu, each.kb, each.rows
            yield (network, number, each.operator, each.members, each.target, *numbers)


def memory_rows() -> Iterator[Sequence[Any]]:
    """Return the memory that each network needs on each device."""
    for network in networks.NETWORKS:
        for runtime in RUNTIMES.values():
            held = rknn_log.memory(log_of(runtime, network)) if runtime.environment == "rknn" else None
            if held:
                yield (network, *runtime.options, *held)


def launch_rows(runtime: Runtime, done: Sequence[str]) -> Iterator[Sequence[Any]]:
    """Return the launches of a runtime."""
    for network in done:
        for number, each in enumerate(launches(runtime, network)):
            yield network, number, each.operator, each.members


@functools.lru_cache(maxsize=None)
def launches(runtime: Runtime, network: str) -> list[members.Launch]:
    """Find out what each launch of a runtime holds."""
    graph = graph_of(network, 17)
    content = json.loads(runtime.result(network).read_text(encoding="utf-8"))
    steps = content["nodes"]
    if runtime.name == "openvino":
        for step in steps:
            step["members"] = [name.replace("/WithoutBiases", "") for name in step["members"]]
        names = members.by_layer_names(graph, steps)
    else:
        reference = json.loads(VALUES.result(network).read_text(encoding="utf-8"))
        names = members.by_values(graph, reference, content["values"])
        if len(graph.outputs) == 1:
            names.setdefault(steps[-1]["outputs"][0], []).extend(graph.outputs)
        if runtime.name == "onnxruntime":
            names.update(members.by_names(graph, (name for step in steps for name in step["outputs"])))
    return members.by_tensors(graph, steps, names, members.LEFT_OUT[runtime.name])


def kernel_rows(runtime: Runtime, done: Sequence[str]) -> Iterator[Sequence[Any]]:
    """Return the numbers of kernels."""
    for network in done:
        calls = json.loads(runtime.result(network).read_text(encoding="utf-8"))["calls"]
        generated = sum(count for name, count in calls.items() if name.startswith("cpp_"))
        everything = sum(calls.values())
        yield network, everything, generated, everything - generated


# Samples of profiles


def make_samples() -> None:
    """Write one real profile of OpenVINO and one of ONNX Runtime."""
    SAMPLES.mkdir(parents=True, exist_ok=True)
    onnx = str(EXPORTED / f"{networks.file_name(PROFILED)}.17.onnx")
    for runtime, name in ((RUNTIMES["openvino"], "openvino.csv"), (RUNTIMES["onnxruntime"], "onnxruntime.json")):
        install(runtime)
        script = str(SCRIPTS / f"profile_{runtime.name}.py")
        run([str(runtime.python), script, onnx, str(networks.image_size(PROFILED)), str(SAMPLES / name)])


# What the files are


def version(python: Path, package: str) -> str:
    """Return the version of a package that an interpreter has."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    done = subprocess.run([str(python), "-c", code], stdout=subprocess.PIPE, text=True)
    return f"{package} {done.stdout.strip()}"


def processor() -> str:
    """Say which instruction sets the CPU has."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        return "unknown"
    return ", ".join(flag for flag in FLAGS if flag in flags) or "unknown"


def refusals(runtime: Runtime) -> list[str]:
    """Return which networks a runtime refused, and its words."""
    found = []
    for network in networks.NETWORKS:
        path = runtime.result(network).with_suffix(".refused")
        if path.is_file():
            found.append(f"`{network}`: {path.read_text(encoding='utf-8')}")
    return found


def write_readme() -> None:
    """Put the numbers of this run into the description of the files."""
    text = (SCRIPTS / "README.in.md").read_text(encoding="utf-8")
    fields = {"PROCESSOR": processor(), "REFUSED": refused(), "LEFT_OUT": left_out(), "VERSIONS": versions()}
    for name, value in fields.items():
        text = text.replace(f"@{name}@", value)
    DATA.mkdir(parents=True, exist_ok=True)
    (DATA / "README.md").write_text(text, encoding="utf-8")


def versions() -> str:
    """Say which versions made the files."""
    made = [version(python_of(name), each) for name in environments() for each in PACKAGES.get(name, (name,))]
    own = [version(Path(sys.executable), each) for each in ("torch", "torchvision", "ultralytics")]
    return f"{', '.join(made)}; networks and torch.compile: {', '.join(own)}, yolov5 7.0.14"


def environments() -> list[str]:
    """Return the environments that are there."""
    names = dict.fromkeys(runtime.environment for runtime in RUNTIMES.values() if runtime.environment)
    return [name for name in names if python_of(name).is_file()]


def left_out() -> str:
    """List the operators that are no launches."""
    seen = {name: sorted(operators) for name, operators in members.LEFT_OUT.items()}
    seen["rknn"] = sorted(rknn_log.LEFT_OUT)
    return "\n".join(f"- {name}: {', '.join(operators)}" for name, operators in seen.items())


def refused() -> str:
    """List what was refused, and what was only built with a rule of the toolkit's off that fails on it."""
    lines = [f"- {runtime.name}: {each}" for runtime in RUNTIMES.values() for each in refusals(runtime)]
    for runtime in RUNTIMES.values():
        changed = [name for name in made_by(runtime) if "settings: {'disable_rules" in log_of(runtime, name)]
        if runtime.suffix == "log" and changed:
            listed = ", ".join(f"`{name}`" for name in changed)
            lines.append(
                f"- {runtime.name}: built with `disable_rules` of one fusion to attention, which failed: {listed}"
            )
    return "\n".join(lines) or "- nothing"


if __name__ == "__main__":
    main()
