"""A YOLOv5 checkout's own classes: found from a file in it, made importable beside this package, and kept quiet.

``models.yolo``, or what a fork has in its place, builds a network from a cfg, ``models.experimental`` opens weights.
Both belong to the checkout (or to the pip package ``yolov5``) that this package was patched into; where it was patched
into none, to the one that the file lies in.
"""

import importlib
import inspect
import io
import pickle
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Callable, Dict, Optional, TypeVar

import torch
from torch import nn

from ..deploy.runtimes import from_yaml
from ..run import alone, environment, in_few_words, modes_aside
from ..show.beside import Changes, changed
from ..show.summary import unannounced

DARKNET = ".cfg"
"""The suffix of cfgs in Darknet's form, which forks of the YOLOv3 line build."""


NO_CFG = "no YOLOv5 cfg"


class ModelError(ValueError):
    """Why there is no model, in few words that go after its name."""


class OtherCheckout(ModelError):
    """It is for another checkout, in the folder ``root``, than the one that this process has loaded."""

    def __init__(self, root: Path, why: str) -> None:
        super().__init__(f"{why}; 'compare' takes both")
        self.root = root


@dataclass(frozen=True)
class Checkout:
    """A folder whose module ``builder``, ``models.yolo`` as a rule, builds networks.

    package: what its modules' names begin with, ``yolov5.`` in the pip package.
    """

    root: Path
    package: str
    builder: str

    def module(self, name: str) -> Any:
        """Import one of its modules; raises ModelError."""
        try:
            with modes_aside():
                module = importlib.import_module(self.package + name)
        except (Exception, SystemExit) as error:
            raise ModelError(f"the YOLOv5 in {self.root} can't be imported: {in_few_words(error)}") from error
        if module.__file__ and self.root not in Path(module.__file__).resolve().parents:
            _leave(self)
            what = f"another {self.package}{name} than that of {self.root} is loaded: {module.__file__}"
            raise OtherCheckout(self.root, what)
        return module


ROOT = Path(__file__).resolve().parents[3]
_PACKAGE = __name__[: -len("utils.thop.command.checkout")]
_in_use: Optional[Checkout] = None


def checkout_for(path: Path) -> Checkout:
    """Find the checkout that a cfg or weights file is for, and make it importable.

    Raises ModelError where there is none, OtherCheckout where one is in use: two can't be loaded into one process.
    """
    global _in_use
    root = next((folder for folder in path.resolve().parents if _builder(folder)), None)
    if _in_use is None and _builder(ROOT):
        _in_use = Checkout(ROOT, _PACKAGE, _builder(ROOT))
    if _in_use is None:
        if root is None:
            raise ModelError(_why_none(path))
        _in_use = _importable(root)
    if root not in (None, _in_use.root):
        raise OtherCheckout(root, f"lies in the checkout {root}, and this run uses that in {_in_use.root}")
    return _in_use


def use(root: Path) -> None:
    """Use the checkout in a folder, whichever this package was patched into."""
    global _in_use
    _in_use = _importable(root)


def _leave(checkout: Checkout) -> None:
    """Take back that a checkout is in use: another one's modules are loaded, by whoever had one before."""
    global _in_use
    _in_use = None if _in_use == checkout else _in_use
    folder = str(checkout.root.parent if checkout.package else checkout.root)
    if folder in sys.path:
        sys.path.remove(folder)


def _why_none(path: Path) -> str:
    if ROOT in path.resolve().parents:
        return (
            f"can't be built: nothing in {ROOT} builds a network from it, as models/yolo.py does in YOLOv5; name a "
            "function that returns one, as package.module:function"
        )
    return "lies in no YOLOv5 checkout (a folder with models/yolo.py); run this command in a patched one"


_BUILDS = re.compile(r"^class (Model|DetectionModel|Darknet)\b", re.MULTILINE)
_PARSES = re.compile(r"^def (parse_model|create_modules)\b", re.MULTILINE)


@lru_cache(maxsize=None)
def _builder(folder: Path) -> str:
    """Return the module of a checkout that builds networks, where it is not in models/yolo.py; "" for none."""
    if (folder / "models" / "yolo.py").is_file():
        return "models.yolo"
    if not (folder / "utils" / "torch_utils.py").is_file():
        return ""
    for pattern in ("*/*.py", "*.py", "*/*/*.py"):
        for file in sorted(folder.glob(pattern)):
            parts = file.relative_to(folder).with_suffix("").parts
            if all(part.isidentifier() for part in parts) and parts[0] != "tests" and parts[:2] != ("utils", "thop"):
                text = file.read_text(encoding="utf-8", errors="ignore")
                if _BUILDS.search(text) and _PARSES.search(text):
                    return ".".join(parts)
    return ""


def _importable(root: Path) -> Checkout:
    """Put a checkout on the import path; its ``utils`` takes the place of ours, all but ``utils.thop``."""
    if (root / "__init__.py").is_file():  # the pip package
        sys.path.insert(0, str(root.parent))
        return Checkout(root, f"{root.name}.", _builder(root))
    sys.path.insert(0, str(root))
    for name in [name for name in sys.modules if name == "utils" or name.startswith("utils.")]:
        if name != "utils.thop" and not name.startswith("utils.thop."):
            del sys.modules[name]
    checkout = Checkout(root, "", _builder(root))
    with alone():
        checkout.module("utils").thop = sys.modules[_THOP]
    return checkout


# ---- what the checkout builds and loads ----


def build_cfg(path: Path) -> nn.Module:
    """Build the network of a cfg, with the checkout's own classes; raises ModelError."""
    of_darknet = path.suffix.lower() == DARKNET
    cfg = {} if of_darknet else read_cfg(path)
    checkout = checkout_for(path)
    with alone():
        yolo = checkout.module(checkout.builder)
        names = ["Darknet"] if of_darknet else ["Model", "DetectionModel"]
        names = ["SegmentationModel"] if _last_layer(cfg) == "Segment" else names
        family = next((getattr(yolo, name) for name in names if hasattr(yolo, name)), None)
        if family is None:
            raise ModelError(f"{yolo.__name__} has no {' or '.join(names)} to build it with")
        conv: Any = getattr(sys.modules.get(f"{checkout.package}models.common"), "Conv", None)
        before = getattr(conv, "default_act", None)
        with changed() as changes:
            _unannounced(family, changes)
            try:
                return family(str(path))
            finally:  # a cfg with an activation of its own sets it for all that follow
                if before is not None:
                    conv.default_act = before


def read_cfg(path: Path) -> Dict[str, Any]:
    """Read a cfg; raises ModelError for a file that is none."""
    import yaml

    try:
        cfg = from_yaml(path.read_text(encoding="utf-8", errors="ignore"))
    except OSError as error:
        raise ModelError(f"can't be read: {error.strerror or error}") from error
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f"line {mark.line + 1}: {problem}" if mark else in_few_words(error)
        raise ModelError(f"no valid YAML, {where}") from error
    missing = [name for name in ("backbone", "head") if not isinstance(cfg, dict) or not cfg.get(name)]
    if missing:
        raise ModelError(f"{NO_CFG}, it has no {' and no '.join(missing)}")
    return cfg


def _last_layer(cfg: Dict[str, Any]) -> Any:
    """The class of the last layer, which is written as [from, number, class, arguments]."""
    try:
        return cfg["head"][-1][2]
    except (LookupError, TypeError):
        return None


def load_weights(path: Path) -> nn.Module:
    """Open a weights file with the checkout's own loader, which runs code in it; raises ModelError.

    The model comes unfused, in float32, on the CPU.
    """
    checkout = checkout_for(path)
    # A checkpoint is a pickled model, which torch opens by default no more, and old checkouts don't ask it to.
    with alone(), environment(TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1"), changed() as changes:
        sys.path.insert(0, str(checkout.root))  # the loader imports models.yolo by that name, in the pip package too
        try:
            yolo, experimental = checkout.module(checkout.builder), checkout.module("models.experimental")
            load = experimental.attempt_load
            names = inspect.signature(load).parameters
            options: Dict[str, Any] = {"device" if "device" in names else "map_location": torch.device("cpu")}
            if "fuse" in names:
                options["fuse"] = False
            # Before v6.0 the loader fused in any case. What is there need not be looked for on the network.
            for owner, name in ((yolo.Model, "fuse"), (experimental, "attempt_download")):
                if hasattr(owner, name):
                    changes.attribute(owner, name, _itself)
            return load(str(path), **options)
        finally:
            sys.path.remove(str(checkout.root))


def fuse(model: nn.Module) -> nn.Module:
    """Fuse a model by its own ``fuse()``; raises ModelError where it has none."""
    fuse: Any = getattr(model, "fuse", None)
    if not callable(fuse):
        raise ModelError(f"{type(model).__name__} has no fuse()")
    with alone(), changed() as changes:
        _unannounced(type(model), changes)
        fused = fuse()
    return fused if isinstance(fused, nn.Module) else model


def _itself(value: Any, *rest: Any, **options: Any) -> Any:
    return value


def _unannounced(family: type, changes: Changes) -> None:
    """Keep a constructor from counting what it has built, for a summary that nobody reads; what it returns is kept."""
    module = sys.modules.get(family.__module__)
    own = getattr(module, "model_info", None)
    if callable(own):
        changes.attribute(module, "model_info", partial(unannounced, own))
    elif hasattr(family, "info"):
        changes.attribute(family, "info", _itself)


# ---- a model of another checkout: classes of two have the same names, and a process loads one ----

T = TypeVar("T")
_THOP = __name__[: -len(".command.checkout")]
_FOLDER = Path(__file__).resolve().parents[1]
_THERE = "utils.thop"  # this package's name in the other process, where no other has it
_CODE = f"""
import importlib, sys, types
sys.modules["utils"] = types.ModuleType("utils")
sys.modules["utils"].__path__ = [sys.argv[1]]
importlib.import_module("{_THERE}.command.checkout").answer(*sys.argv[2:])
"""


class _Unpickler(pickle.Unpickler):
    """Finds this package's classes by the name that it has in this process."""

    def __init__(self, data: bytes, package: str) -> None:
        super().__init__(io.BytesIO(data))
        self.package = package

    def find_class(self, module: str, name: str) -> Any:
        if module == self.package or module.startswith(f"{self.package}."):
            module = _THOP + module[len(self.package) :]
        return super().find_class(module, name)


def in_checkout(root: Path, function: Callable[..., T], *arguments: Any) -> T:
    """Call one of this package's functions in a new process that uses the checkout in ``root``; return its result.

    Raises ModelError where the checkout can't be used, or the process ends.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result"
        command = [sys.executable, "-c", _CODE, str(_FOLDER.parent), str(root), _THOP, str(result)]
        done = subprocess.run(command, input=pickle.dumps((function, arguments)), capture_output=True)
        if result.is_file():
            value, error = _Unpickler(result.read_bytes(), _THERE).load()
            if error:
                raise ModelError(error)
            return value  # type: ignore[no-any-return]
    said = done.stderr.decode(errors="replace").strip().splitlines()
    raise ModelError(f"the process that uses {root} has ended ({said[-1] if said else f'status {done.returncode}'})")


def answer(root: str, package: str, result: str) -> None:
    """Do, in the new process, what comes in by stdin; leave what comes of it in a file."""
    function, arguments = _Unpickler(sys.stdin.buffer.read(), package).load()
    value, error = None, ""
    try:
        use(Path(root))
        value = function(*arguments)
    except ModelError as reason:
        error = str(reason)
    Path(result).write_bytes(pickle.dumps((value, error)))
