"""Which network, at which size, is fast enough on a device: many are counted, each is built once."""

import contextlib
import math
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pickle import PicklingError
from typing import Any, Callable, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Union

import torch
from torch import nn

from ..answer import PathLike
from ..deploy.choice import Candidate, Choice, ranked
from ..deploy.measurements import TASKS, accuracies, accuracy_at, known_as
from ..run import as_model, built_blank, collector_paused, in_few_words, is_of_a_signal
from ..run.inputs import fitting_size
from .checkout import ModelError
from .models import Built, Setup, Source, counted, find, names, with_images
from .resolve import Place, resolve

SIZES, OF_CLASSIFIERS = (320, 416, 512, 640, 960, 1280), (224,)
Makes = Callable[[], nn.Module]
Network = Union[str, nn.Module, Makes]


class Named(NamedTuple):
    """A network to try, by the name and the family that it is shown under."""

    name: str
    family: str
    network: Union[Source, nn.Module, Makes]


def known_networks(family: str = "", task: str = "detect") -> List[Named]:
    """The known networks for a task, as far as the checkout or the package ultralytics can build them.

    Raises ModelError for a family that is not known, or where none can be built.
    """
    wanted = family.lower().replace("-", "")
    of_task = [one for one in accuracies() if one.task == task]
    rows = [one for one in of_task if not wanted or one.family.lower() == wanted]
    if not rows:
        known = ", ".join(dict.fromkeys(one.family for one in of_task))
        raise ModelError(f"no family is called {family!r}, only {known}")
    found, packaged = [], find_spec("ultralytics") is not None
    for one in rows:
        with contextlib.suppress(ModelError):  # the checkout has no such cfg
            (source,) = find([one.model])
            if packaged or source.kind != "ultralytics":
                found.append(Named(one.name, one.family, source))
    if not found:
        needs = "" if packaged else ", and not the package ultralytics"
        raise ModelError(f"{family or 'none of the known networks'}: there is no cfg of it here{needs}; name MODELs")
    return found


def named_networks(models: Union[Network, Iterable[Network]]) -> Iterator[Named]:
    """Give each network a name and a family: a cfg's is what its name begins with."""
    if isinstance(models, (str, nn.Module)) or not isinstance(models, Iterable):
        models = [models]
    for number, one in enumerate(models, 1):
        if isinstance(one, str):
            sources = find([one])
            yield from (Named(name, "", source) for name, source in zip(names(sources), sources))
        elif isinstance(one, nn.Module) or not callable(one):
            model = as_model(one, "choose")
            yield Named(f"{type(model).__name__} {number}", "", model)
        else:
            yield Named(f"{getattr(one, '__name__', 'network')} {number}", "", one)


@collector_paused()
def try_network(place: Place, sizes: Sequence[int], batch: int, limit: float, one: Named) -> List[Candidate]:
    """Count a network at each size, and predict its time there; one that can't be counted says why.

    batch: images at once; limit: the seconds that a pass may take.
    """

    def fill(built: Built) -> List[Candidate]:
        return [_candidate(place, size, batch, limit, one, built) for size in sizes]

    try:
        if isinstance(one.network, Source):
            return counted(one.network, Setup(None, batch), fill)
        model: Any = one.network
        if not isinstance(model, nn.Module):  # made without values, where it can be done
            model = built_blank(lambda: as_model(one.network(), "the function")).eval()  # type: ignore[operator]
        return fill(with_images(model, Setup(None, batch)))
    except (Exception, SystemExit) as error:
        if is_of_a_signal(error):
            raise
        why = str(error) if isinstance(error, ModelError) else in_few_words(error)
        return [Candidate(one.name, one.family, 0, batch, error=why)]


def _candidate(place: Place, size: int, batch: int, limit: float, one: Named, built: Built) -> Candidate:
    row = Candidate(one.name, one.family, size, batch)
    try:
        images = with_images(built.model, Setup((size, size), batch))
        row = replace(row, imgsz=fitting_size(built.model, (size, size))[1])
        recorded = images.record(place.amp)
        known = known_as(recorded)
        accuracy = accuracy_at(known, size)
        if accuracy is not None:
            row = replace(row, map=accuracy.map, map_source=accuracy.source)
        family = known[0].family if known and not one.family else one.family
        row = replace(row, family=family, gflops=recorded.flops / batch / 1e9)
        return row.timed(place.predict(recorded).timing(), limit)
    except Exception as error:
        if is_of_a_signal(error):
            raise
        return replace(row, error=in_few_words(error))


def _try_all(
    ask: Callable[[Named], List[Candidate]], work: List[Named], jobs: int, progress: Callable[..., Iterable[Any]]
) -> List[Candidate]:
    """Ask of all networks, in so many processes."""
    if jobs < 2 or len(work) < 2:
        return [row for one in progress(work) for row in ask(one)]
    share = max(1, min(16, len(work) // (4 * jobs)))
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        rows = pool.map(ask, work, chunksize=share)
        try:
            return [row for _, found in zip(progress(work), rows) for row in found]
        except BrokenExecutor as error:
            why = "a process ended at once; a script needs if __name__ == '__main__': around what starts others"
            raise ValueError(f"jobs={jobs}: {why}") from error
        except (PicklingError, AttributeError, TypeError) as error:  # a network's own error is in its row
            why = f"what is tried can't go to another process ({in_few_words(error)}); leave jobs out"
            raise ValueError(f"jobs={jobs}: {why}") from error


def choose(
    models: Optional[Union[Network, Iterable[Network]]] = None,
    *,
    device: Union[str, Place],
    fps: Optional[float] = None,
    ms: Optional[float] = None,
    imgsz: Union[int, Sequence[int], None] = None,
    batch: int = 1,
    family: str = "",
    task: str = "detect",
    runtime: Optional[str] = None,
    precision: Optional[str] = None,
    decode: Optional[bool] = None,
    devices: Optional[PathLike] = None,
    jobs: int = 1,
    progress: Callable[..., Iterable[Any]] = iter,
) -> Choice:
    """Say which networks, at which sizes, reach a rate on a device: ``choose(device="rk3588", fps=30)``.

    Args:
        models: what the command calls MODEL, modules, or functions that make them, any number; without, the known
            YOLOs, as far as the checkout or the package ultralytics builds them, or those of one ``family``, for a
            ``task``: detect, segment, pose or classify.
        device, runtime, precision, decode, devices: as for ``predict``.
        fps: images a second that are wanted; or ms, milliseconds for a pass over the batch.
        imgsz: sides of the square images to try; by default 320 to 1280, 224 for classifiers.
        jobs: how many processes count; what they are given must be picklable then.
        progress: wraps the work to do, as tqdm does.

    Raises ModelError for a MODEL or family that there is not, DeviceError for a device, ValueError for no rate.
    """
    if isinstance(device, str):
        device = resolve(device, runtime, precision, decode, devices, must_predict=True)
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, not {task!r}")
    if (fps is None) == (ms is None):
        raise ValueError("choose takes either fps, images a second, or ms, milliseconds for a pass")
    rate = fps if ms is None else ms
    if rate is None or not 0 < rate < math.inf:
        raise ValueError(f"{'fps' if ms is None else 'ms'} must be a number above 0, not {rate!r}")
    limit = batch / rate if ms is None else rate / 1e3
    device.runtime.need_a_formula()
    networks = known_networks(family, task) if models is None else list(named_networks(models))
    if not networks:
        raise ModelError("choose: no network was named")
    sides = [imgsz] if isinstance(imgsz, int) else imgsz or (OF_CLASSIFIERS if task == "classify" else SIZES)
    ask = partial(try_network, device, tuple(dict.fromkeys(sides)), batch, limit)
    rows = ranked(_try_all(ask, networks, jobs, progress))
    basis = next((row.timing.basis for row in rows if row.timing), "")
    return Choice(device.device.name, device.device.title, limit, batch / limit, basis, task, rows)
