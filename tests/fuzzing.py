"""Made-up modules that write to, share, replace and keep whatever they can reach, and what must be as before after it.

    python tests/fuzzing.py FIRST LAST

runs the cases of these seeds, says each before it starts, and what of the user's was touched. ``run_cases`` does so in
child processes, which are started again after a death.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import io
import random
import subprocess
import sys
import types
import weakref
from collections import deque
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT)]

import numpy  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

SETTING = """
import contextvars, functools, itertools, math, random, threading, types, weakref
from collections import deque
import numpy as np
import torch
from torch import nn

class Slots:
    __slots__ = ("__weakref__", "n", "t")

class Helper:
    count, shared = 0, []

    def __init__(self):
        self.t, self.n, self.past = torch.ones(3), 0, []

    def draw(self):
        self.n += 1
        self.past.append(self.n)
        Helper.count += 1
        return random.random() + np.random.rand()

G, D, LOG, Q, ST = 0, {"t": torch.ones(3), "n": 0}, [1], deque([1, 2], maxlen=3), {1}
NS = types.SimpleNamespace(n=0, inner=types.SimpleNamespace(t=torch.ones(3), past=[1]))
TUP = ({"t": torch.ones(3)}, [1])
SL = Slots(); SL.t, SL.n = torch.ones(3), 0
GT, KEPT = torch.ones(3), torch.ones(3)
WV = weakref.WeakValueDictionary(k=KEPT)
CV = contextvars.ContextVar("cv"); CV.set({"t": torch.ones(3), "past": [1]})
LOC = threading.local(); LOC.t, LOC.past = torch.ones(3), [1]
IT, CY, GEN, RR = iter([1, 2, 3]), zip([1, 2], iter([3, 4])), torch.Generator().manual_seed(1), random.Random(2)
ARR, PROMPT, HEAD, HP = np.arange(3.0), nn.Parameter(torch.ones(1, 4, 1, 1)), nn.Conv2d(4, 4, 1), Helper()

@functools.lru_cache(maxsize=2)
def cached(n):
    return torch.ones(n)

cached(1)

def with_default(x, past=[], *, held={"t": torch.ones(3)}):
    past.append(x)
    held["t"].zero_()
    with_default.last = x

def closure():
    t, past = torch.ones(3), []
    def inner(x):
        nonlocal t
        past.append(x)
        t.data.zero_()
        t = x
    return inner

CL = closure()

class Block(nn.Module):
    ct, past = torch.ones(3), []

    def __init__(self):
        super().__init__()
        self.c, self.bn, self.h = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), Helper()
        self.it, self.cy, self.made = iter([1, 2, 3]), itertools.cycle([1, 2]), (i for i in range(3))
        self.rng, self.arr, self.prompt = np.random.default_rng(1), np.zeros(3), PROMPT
        self.register_buffer("buf", torch.arange(6.0))

    def forward(self, x):
        global G
"""
TENSORS = ("self.bn.running_mean", "self.bn.running_var", "self.c.weight", "self.c.bias", "self.buf", "GT", "D['t']",
           "NS.inner.t", "TUP[0]['t']", "SL.t", "WV['k']", "CV.get()['t']", "LOC.t", "self.h.t", "Block.ct", "PROMPT",
           "HEAD.weight", "x", "HP.t", "self.prompt")  # fmt: skip
ON_TENSORS = (
    "{t}.data = torch.zeros(2)", "{t}.detach().numpy().fill(3)", "{t}.detach().zero_()", "{t}.data.mul_(2)",
    "{t}.detach().untyped_storage().fill_(0)", "{t}.detach().untyped_storage().resize_(0)", "{t}.detach().resize_(0)",
    "{t}.requires_grad_()", "{t}.foo = x", "{t}.grad = torch.ones_like({t})", "{t}.share_memory_()",
    "{t}.detach().apply_(lambda v: 3.0)", "{t}.detach().set_(torch.ones(2))", "np.asarray({t}.detach())[...] = 4",
    "torch.Tensor.numpy({t}.detach())[...] = 5", "{t}.detach().storage()[0] = 7", "LOG.append({t} * x.mean())",
    "D['kept'] = {t}", "{t}.detach().untyped_storage()._share_fd_cpu_()", "del {t}",
    "torch.FloatTensor().new({t}.detach().storage())", "torch.empty(0).set_({t}.detach().untyped_storage(), 0, (1,))",
    "torch.from_numpy({t}.detach().numpy()).fill_(2)", "{t}.detach().map_({t}.detach(), lambda a, b: 1.0)",
    "torch.utils.dlpack.to_dlpack({t}.detach())", "{t} = x.mean()",
)  # fmt: skip
STATEMENTS = (
    "G += 1", "D['n'] = x", "D.clear()", "D['m'] = self", "LOG.append(x)", "LOG[:] = []", "Q.append(x)", "ST.add(5)",
    "NS.n = x", "NS.inner.past.append(x)", "NS.__dict__.clear()", "TUP[1].append(x)", "SL.n = x", "WV['q'] = x",
    "CV.set({'t': x})", "CV.get()['past'].append(x)", "LOC.t = x", "LOC.past.append(x)", "next(IT)", "next(CY)",
    "next(self.it), next(self.cy)", "next(self.made)", "torch.rand(2, generator=GEN)", "RR.random()", "ARR[0] = 9",
    "self.arr.fill(3)", "self.rng.random()", "HEAD(x)", "HEAD.n = 1", "HP.draw(), self.h.draw()",
    "Helper.shared.append(x)",
    "cached(2), cached(3), cached(4)", "with_default(x)", "CL(x)", "Block.late = x", "Block.past.append(x)",
    "self.late = x", "self.c = nn.Conv2d(4, 4, 3, padding=1)", "self.bn.reset_running_stats()", "math.zz = x",
    "self.register_buffer('made_here', x)", "torch.manual_seed(3)", "random.seed(1), np.random.seed(1)",
    "random.random(), np.random.rand()", "setattr(types, 'zz', x)", "self.c.share_memory()", "x = x * PROMPT",
    "globals()['LATE'] = x", "self.h.past.append(x)", "del self.h.past", "self.requires_grad_(False)", "self.double()",
    "self.c.weight.register_hook(lambda g: g)", "self.register_forward_hook(lambda m, i, o: LOG.append(o))",
    "nn.Conv2d.calls = 1", "self.__class__ = type('Other', (Block,), {})", "nn.init.zeros_(self.c.weight)",
)  # fmt: skip
RETURNS = ("y", "(y, x)", "{'a': [y]}", "types.SimpleNamespace(y=y)", "None", "y.sum().item()", "y.detach().numpy()",
           "deque([y])", "D")  # fmt: skip


def source_of(seed: int) -> str:
    """Write the module of a seed."""
    draw = random.Random(seed)
    lines = [SETTING]
    for _ in range(draw.randint(1, 4)):
        if draw.random() < 0.5:
            statement = draw.choice(ON_TENSORS).format(t=draw.choice(TENSORS))
        else:
            statement = draw.choice(STATEMENTS)
        if draw.random() < 0.6:
            lines += ["        try:", f"            {statement}", "        except Exception:", "            pass"]
        else:
            lines.append(f"        {statement}")
    lines += ["        y = torch.relu(self.bn(self.c(x)))", f"        return {draw.choice(RETURNS)}"]
    return "\n".join(lines) + "\n"


def untyped(tensor: Tensor) -> Any:
    """A tensor's storage, which torch 1.13 shows by another name."""
    return tensor.untyped_storage() if hasattr(Tensor, "untyped_storage") else tensor._storage()  # type: ignore[attr-defined]


def described(value: Any, above: frozenset[int] = frozenset()) -> Any:
    """What an object is and holds, as far as it can be told without changing it."""
    if isinstance(value, Tensor):
        data = value.detach()
        held = data.numpy().tobytes() if data.numel() and untyped(data).nbytes() else b""
        facts = data.data_ptr(), value._version, tuple(value.shape), value.requires_grad, value.is_shared()
        return id(value), facts, held, value.grad is None, sorted(value.__dict__)
    if isinstance(value, numpy.ndarray):
        return id(value), value.tobytes(), value.flags.writeable
    if isinstance(value, (int, float, str, bytes, type(None), types.ModuleType)):
        return value
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, numpy.random.Generator):
        return str(value.bit_generator.state)
    if id(value) in above:
        return id(value)
    above = above | {id(value)}
    if isinstance(value, dict):
        return id(value), [(key, described(held, above)) for key, held in value.items() if key != "__builtins__"]
    if isinstance(value, (list, tuple, deque)):
        return id(value), [described(held, above) for held in value]
    if isinstance(value, set):
        return id(value), sorted(map(str, value))
    if isinstance(value, weakref.WeakValueDictionary):
        return id(value), [(key, id(held)) for key, held in value.items()]
    if isinstance(value, types.GeneratorType):
        return id(value), getattr(value.gi_frame, "f_lasti", -1)
    if isinstance(value, types.FunctionType):
        cells = [described(cell.cell_contents, above) for cell in value.__closure__ or ()]
        parts = value.__defaults__, value.__kwdefaults__, value.__dict__
        return id(value), cells, [described(part, above) for part in parts]
    if hasattr(value, "cache_info"):
        return id(value), value.cache_info().currsize
    if isinstance(value, type):
        held_by = sorted(vars(value).items())  # an attribute that was deleted comes back at the end
        return id(value), [(key, described(held, above)) for key, held in held_by if not key.startswith("__")]
    if type(value).__name__ == "Slots":
        return id(value), described(value.t, above), described(value.n, above)
    if type(value).__module__ in ("builtins", "itertools"):
        return id(value), _said(value)
    return id(value), described(getattr(value, "__dict__", None), above)


def _said(iterator: Any) -> str:
    """What an iterator says of where it stands; a zip's and a cycle's own iterators stand for it."""
    kept = [part for part in gc.get_referents(iterator) if type(part).__name__.endswith("iterator")]
    with contextlib.suppress(TypeError):
        return f"{getattr(iterator, '__length_hint__', str)()} {[part.__length_hint__() for part in kept]}"
    return ""


def state_of(space: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """Everything of the user's that a case can reach, by name."""
    of_python = "__builtins__", "__warningregistry__"
    found = {name: described(value) for name, value in space.items() if name not in of_python}
    found["context"] = described(space["CV"].get())
    found["model"] = described(model)
    of_numpy: Any = numpy.random.get_state()
    found["random"] = random.getstate(), of_numpy[1].tobytes(), of_numpy[2:], torch.get_rng_state().numpy().tobytes()
    found["elsewhere"] = sorted(vars(nn.Conv2d)), *("zz" in vars(space[name]) for name in ("math", "types"))
    return found


def _writes(model: nn.Module, verbose: bool = False, img_size: int = 640) -> None:
    """A fork's own summary, which writes to a copy of the model."""
    mine = copy.deepcopy(model)
    for tensor in (*mine.parameters(), *mine.buffers()):
        tensor.detach().zero_()
    print("Model summary: 3 layers, 1.0 GFLOPs")


def entry_points() -> dict[str, Any]:
    """What is asked of each model."""
    from utils.thop import deployed, predict, profile, traffic, training
    from utils.thop.show.summary import memory_info, show_summary

    x = torch.ones(2, 4, 8, 8)
    return {
        "profile": lambda model: profile(model, (x,), verbose=False),
        "traffic": lambda model: traffic(model, x),
        "training": lambda model: training(model, (x,), amp=False),
        "predict": lambda model: predict(deployed(model, (x,)), "t4"),
        "memory_info": lambda model: memory_info(model, 32),
        "model_info": lambda model: show_summary(_writes, print, model, (), {"img_size": 32}),
    }


def run_case(seed: int) -> list[str]:
    """Run a seed's module through every entry point; say what of the user's was touched."""
    module = types.ModuleType(f"fuzz_{seed}")
    sys.modules[module.__name__] = module
    torch.manual_seed(seed)
    exec(compile(source_of(seed), f"<seed {seed}>", "exec"), module.__dict__)
    space = module.__dict__
    with contextlib.suppress(Exception):
        model = space["Block"]()
    touched = []
    for name, ask in entry_points().items():
        before = state_of(space, model)
        with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
            ask(model)
        gc.collect()
        after = state_of(space, model)
        for key in before.keys() | after.keys():
            if before.get(key, "nothing") != after.get(key, "nothing"):
                touched.append(f"{name}: {key}")
    del sys.modules[module.__name__]
    return touched


def run_cases(first: int, last: int, seconds: float = 600.0) -> tuple[int, list[str]]:
    """Run cases in a child process, which is started again after a death; return how many ran, and what was wrong."""
    wrong: list[str] = []
    seed = first
    while seed < last:
        command = [sys.executable, "-W", "ignore", str(Path(__file__)), str(seed), str(last)]
        child = subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=ROOT)
        lines = child.stdout.splitlines()
        wrong += [line for line in lines if line.startswith("touched")]
        begun = [int(line.split()[1]) for line in lines if line.startswith("seed")]
        if child.returncode == 0:
            return last - first, wrong
        died = begun[-1] if begun else seed
        wrong.append(f"seed {died}: the process ended with {child.returncode} {child.stderr.strip()[-300:]}")
        seed = died + 1
    return last - first, wrong


def main() -> None:
    """Run the cases that the command line names."""
    run_case(0)  # what is imported at first use is there from here on
    gc.collect()
    gc.freeze()  # or each collection goes through all of torch
    for seed in range(int(sys.argv[1]), int(sys.argv[2])):
        print(f"seed {seed}", flush=True)
        for what in run_case(seed):
            print(f"touched in seed {seed}: {what}", flush=True)


if __name__ == "__main__":
    main()
