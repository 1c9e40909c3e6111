"""What the code of a model names: the globals, classes, closures and foreign attributes that it can read or write.

Code is read once for a set of classes; what stands under the names is looked up for each run. Followed are functions
that code names, methods by their names in any class that was met, and what operators call by syntax.
"""

import builtins
import contextlib
import dis
import functools
import os
import sys
import types
import weakref
from collections import OrderedDict
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Sequence, Set, Tuple

from torch import Tensor, nn

from .reach import LEAVES, LRU, OF_THE_PROCESS

_MANY = 400
"""Functions that are followed at most; code that reaches more is somebody's whole program."""
_FOREIGN = OF_THE_PROCESS.union(
    ("torchvision", "thop", "numpy", "matplotlib", "pandas", "scipy", "PIL", "cv2", "yaml", "seaborn", "requests",
     "packaging", "pkg_resources", "setuptools", "psutil", "git", "_pytest", "pytest")
)  # fmt: skip
"""Packages whose code is not followed, as Python's own is not: it keeps what is its own business."""
_OURS = str(__package__).rpartition(".")[0]
_LIBRARY = os.path.dirname(os.__file__)
_OF_SEEDS = frozenset(("seed", "manual_seed", "manual_seed_all", "set_rng_state", "set_rng_state_all", "set_state",
                       "default_generator", "fork_rng"))  # fmt: skip
_OF_THE_INTERPRETER = frozenset(("sys", "builtins", "gc", "importlib", "threading", "warnings"))
_IMPORTERS = ("modules", "import_module", "__import__")
_REFLECTS = frozenset(("globals", "vars", "eval", "exec", "__dict__", "__globals__"))
"""What a function reads that can name anything: all names of its module are looked at then."""
_PLAIN = frozenset(dir(object)) - {"__setattr__", "__getattribute__", "__delattr__", "__init__", "__new__"}
_MADE_BY_A_STATEMENT = 0x200  # and not in C; only such a class can be written to
MISSING: Any = object()


def is_foreign(module_name: Any) -> bool:
    """Say whether a module belongs to a package whose code is not followed."""
    package = str(module_name).partition(".")[0]
    return package in _FOREIGN or _is_of_python(package) or str(module_name).startswith(_OURS)


@functools.lru_cache(maxsize=None)
def _is_of_python(package: str) -> bool:
    """Say whether a package comes with Python: it lies in its library, and not among those that were installed."""
    file = getattr(sys.modules.get(package), "__file__", None)
    if package == "__main__":
        return False
    if file is None:
        return package in sys.builtin_module_names
    return file.startswith(_LIBRARY) and "-packages" not in file[len(_LIBRARY) :]


class _Code(NamedTuple):
    """The names in a function's code, in that of functions inside it too; ``stores`` are attributes that it sets."""

    reads: Tuple[str, ...]
    imports: Tuple[str, ...]
    attributes: Tuple[str, ...]
    stores: Tuple[str, ...]


_KIND_OF_NAME = {
    **dict.fromkeys(("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL"), "reads"),
    **dict.fromkeys(("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "IMPORT_FROM"), "attributes"),
    **dict.fromkeys(("STORE_ATTR", "DELETE_ATTR"), "stores"),
    "IMPORT_NAME": "imports",
}


@functools.lru_cache(maxsize=4096)
def _read_code(code: types.CodeType) -> _Code:
    names: Dict[str, Set[str]] = {kind: set() for kind in ("reads", "imports", "attributes", "stores")}
    instructions = [i for i in dis.get_instructions(code) if i.opname not in ("CACHE", "PUSH_NULL", "PRECALL")]
    imports = any(i.opname == "IMPORT_NAME" or i.argval in _IMPORTERS for i in instructions)
    for at, instruction in enumerate(instructions):
        kind = _KIND_OF_NAME.get(instruction.opname)
        if kind and (kind != "stores" or imports or not instructions[at - 1].opname.startswith("LOAD_FAST")):
            names[kind].add(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner = _read_code(constant)
            for kind, found in names.items():
                found.update(getattr(inner, kind))
        elif isinstance(constant, str) and constant.isidentifier():  # getattr(x, "name")
            names["attributes"].add(constant)
            if constant in sys.modules:
                names["imports"].add(constant)
    return _Code(*(tuple(names[kind]) for kind in _Code._fields))


_OF_NUMPY = ("numpy", "numpy._core._multiarray_umath", "numpy.core._multiarray_umath")


def is_data(value: Any) -> bool:
    """Say whether something that a name stands for is data: no code, no class, no module."""
    callable_kinds = (types.FunctionType, types.BuiltinFunctionType, types.MethodDescriptorType, types.ModuleType, type)
    return not isinstance(value, callable_kinds) and not (callable(value) and type(value).__module__ in _OF_NUMPY)


_SURE, _MAYBE = 100, 2
"""How many calls code is followed over: any number where it is sure what is called, and two beyond a mere name."""


class Named:
    """What the code of some classes and functions names.

    namespaces: the dictionaries of modules, not of foreign ones; names: (such a dictionary, name) of data; classes,
    functions: weak references to what was met, foreign_classes: to those that a foreign package lists; sets: the code
    sets attributes of something that is no local variable, maybe of such a class; reflects: it may write to a namespace
    under any name; of_seeds: it speaks of seeding; asking: the dictionaries of modules whose code asks for classes by
    ``type``, asks_builtins: the name of a function that may ask builtins for it, where nothing can stand for it;
    words: all names in the code.
    """

    def __init__(self, roots: Iterable[Any]) -> None:
        self.namespaces: Dict[int, Dict[str, Any]] = {}
        self.names: Dict[Tuple[int, str], Tuple[Dict[str, Any], str]] = {}
        self.classes: List[Any] = []
        self.foreign_classes: List[Any] = []
        self.sets = self.reflects = False
        self.functions: List[Any] = []
        self.asking: Dict[int, Dict[str, Any]] = {}
        self.asks_builtins = ""
        self.words: Set[str] = set()
        self._kinds: Dict[int, type] = {}
        self._attributes: Set[str] = set()
        self._seen: Dict[int, int] = {}
        # calls left, a function, the class it is of
        self._waiting: List[Tuple[int, types.FunctionType, Any]] = []
        for root in roots:
            self._meet(root, _SURE)
        while self._waiting and len(self.functions) < _MANY:
            self._waiting.sort(key=lambda item: item[0])
            self._follow(*self._waiting.pop())
        self.of_seeds = bool(self._waiting) or not _OF_SEEDS.isdisjoint(self.words)
        for kind in self._kinds.values():
            home = sys.modules.get(kind.__module__)
            is_listed = is_foreign(kind.__module__) and getattr(home, kind.__qualname__, None) is kind
            (self.foreign_classes if is_listed else self.classes).append(weakref.ref(kind))
        self._kinds, self._attributes, self._seen, self._waiting = {}, set(), {}, []

    def _meet(self, value: Any, calls: int, kind: Any = None) -> None:
        """Follow what code names, if it is code: a function, what wraps one, a class, an object of one."""
        for attribute in ("__func__", "func", "fget", "__wrapped__"):  # a method, a partial, a property, a cache
            if isinstance(value, (types.MethodType, staticmethod, classmethod, functools.partial, property, LRU)):
                value = getattr(value, attribute, value)
        if isinstance(value, types.BuiltinFunctionType):
            self.words.add(value.__name__)
        elif isinstance(value, types.FunctionType):
            if self._seen.get(id(value), 0) < calls and not is_foreign(value.__module__):
                self._seen[id(value)] = calls
                self._waiting.append((calls, value, kind))
        elif isinstance(value, type):
            self._meet_class(value, calls)
        elif value is not MISSING and not isinstance(value, (Tensor, nn.Module, types.ModuleType)):
            self._meet_class(type(value), min(calls, _MAYBE))

    def _meet_class(self, kind: type, calls: int) -> None:
        """Meet a class: a module's forward is followed, of any other what operators call, its constructor too."""
        of_modules = issubclass(kind, nn.Module)
        for base in kind.__mro__[:-1]:
            if id(base) in self._kinds or base is nn.Module or not base.__flags__ & _MADE_BY_A_STATEMENT:
                continue
            self._kinds[id(base)] = base
            if is_foreign(base.__module__):
                continue
            for name, value in list(vars(base).items()):
                if name == "forward":
                    self._meet_method(value, calls, kind)
                elif name in self._attributes or (name.startswith("__") and not of_modules and name not in _PLAIN):
                    self._meet_method(value, min(calls, _MAYBE), kind)

    def _meet_method(self, value: Any, calls: int, kind: Any) -> None:
        if calls > 0 and not isinstance(value, type) and (callable(value) or hasattr(value, "__get__")):
            self._meet(value, calls, kind)

    def _follow(self, calls: int, function: types.FunctionType, kind: Any) -> None:
        """Look at what a function's code names."""
        namespace, code = function.__globals__, _read_code(function.__code__)
        self.namespaces[id(namespace)] = namespace
        self.functions.append(weakref.ref(function))
        further = calls if calls == _SURE else calls - 1
        reflects = not _REFLECTS.isdisjoint((*code.reads, *code.attributes))
        self.reflects = self.reflects or reflects
        others = [name for name in namespace if not name.startswith("__")] if reflects else []
        reads = dict.fromkeys((*code.reads, *others))
        modules: List[types.ModuleType] = list(_imported(code.imports, namespace))
        if not {*code.reads, *code.attributes}.isdisjoint(_IMPORTERS):
            modules.extend(_imported([str(namespace.get("__name__"))], namespace))
        for name in reads:
            value = namespace.get(name, MISSING)
            if isinstance(value, types.ModuleType):
                modules.append(value)
            elif value is not MISSING or not hasattr(builtins, name):
                self._note(namespace, name, value, further if name in code.reads else 0)
        for held in (*_contents(function), *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            self._meet(held, further)
        self._look_into(modules, code, further)
        words = {*code.reads, *code.attributes}
        self.words |= words
        self.sets = self.sets or bool(code.stores) or not words.isdisjoint(("setattr", "delattr"))
        if "type" not in namespace and not {"type", "eval", "exec"}.isdisjoint(code.reads):
            self.asking[id(namespace)] = namespace
        reaches = "builtins" in code.imports or any(
            name.isidentifier() and namespace.get(name) is builtins for name in code.reads
        )
        if reaches and "type" in code.attributes:
            self.asks_builtins = function.__qualname__
        for name in code.attributes:
            method = next((vars(base)[name] for base in _bases(kind) if name in vars(base)), None)
            if method is not None:
                self._meet_method(method, further, kind)
        if calls > 1:
            self._look_for_methods({*code.attributes} - self._attributes)

    def _look_for_methods(self, names: Set[str]) -> None:
        """Follow the methods of these names, which are new, in whatever class has them."""
        self._attributes |= names
        for kind in list(self._kinds.values()) if names else ():
            if not is_foreign(kind.__module__):
                for name in names.intersection(vars(kind)):
                    self._meet_method(vars(kind)[name], _MAYBE, kind)

    def _note(self, namespace: Dict[str, Any], name: str, value: Any, calls: int) -> None:
        if calls > 0:
            self._meet(value, calls)
        if is_data(value) or value is type:
            self.names[id(namespace), name] = namespace, name

    def _look_into(self, modules: List[types.ModuleType], code: _Code, calls: int) -> None:
        """Look up attributes in modules, and in the modules that these are."""
        seen: Set[int] = set()
        while modules:
            module = modules.pop()
            if id(module) in seen or module.__name__ in _OF_THE_INTERPRETER:
                continue
            seen.add(id(module))
            namespace, foreign = vars(module), is_foreign(module.__name__)
            if not foreign:
                self.namespaces[id(namespace)] = namespace
            for name in code.attributes:
                value = namespace.get(name, MISSING)
                if isinstance(value, types.ModuleType):
                    modules.append(value)
                elif value is not MISSING and not (foreign and type(value) in LEAVES):
                    self._note(namespace, name, value, calls)
            for name in code.attributes if "setattr" in code.reads else code.stores:
                self.names[id(namespace), name] = namespace, name


def _bases(kind: Any) -> Sequence[type]:
    return () if kind is None else kind.__mro__[:-1]


def _imported(names: Iterable[str], namespace: Dict[str, Any]) -> Iterator[types.ModuleType]:
    """Return the modules that a function imports itself, relatively too, or names by a string."""
    package = str(namespace.get("__package__") or "")
    for name in names:
        candidates = [name]
        while package:
            candidates.append(f"{package}.{name}" if name else package)
            package = package.rpartition(".")[0]
        package = str(namespace.get("__package__") or "")
        for candidate in candidates:
            found = sys.modules.get(candidate)
            if isinstance(found, types.ModuleType):
                yield found


def _contents(function: types.FunctionType) -> List[Any]:
    """Return what a function's closure holds."""
    found = []
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # a name that is not bound yet
            found.append(cell.cell_contents)
    return found


_KNOWN: "OrderedDict[Tuple[int, ...], Tuple[List[Any], Named]]" = OrderedDict()


def named_by(kinds: Iterable[type]) -> Named:
    """Return what classes name, worked out once as long as these have the same forwards."""
    kinds = list(kinds)
    key = tuple(id(part) for kind in kinds for part in (kind, getattr(kind, "forward", None)))
    references, found = _KNOWN.get(key, ([], None))
    if found is None or any(reference() is not kind for reference, kind in zip(references, kinds)):
        found = Named(kinds)
        _KNOWN[key] = [weakref.ref(kind) for kind in kinds], found
        while len(_KNOWN) > 32:
            _KNOWN.popitem(last=False)
    return found
