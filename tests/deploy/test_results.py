"""Whatever a model takes and returns: no launch is lost on the way, and no prediction is 0."""

from __future__ import annotations

import dataclasses
import gc
import types
import weakref
from collections import OrderedDict, UserDict, deque
from typing import Any, Callable, NamedTuple

import numpy
import pytest
import torch
from torch import Tensor, nn

from utils.thop import deployed, predict, profile, traffic, training
from utils.thop.deploy import DeviceError
from utils.thop.run import NotCountable
from utils.torch_utils import memory_info

X = torch.ones(2, 4, 8, 8)


@dataclasses.dataclass
class Outputs:
    y: Any
    rest: Any = None


class Slotted:
    __slots__ = ("y",)

    def __init__(self, y: Any) -> None:
        self.y = y


class Named(NamedTuple):
    image: Any
    size: int = 1


class Ordered(OrderedDict):  # type: ignore[type-arg]
    """As Hugging Face's: a dictionary with attributes."""


class Holds:
    def __init__(self, y: Any) -> None:
        self.inner, self.itself = {"y": [Slotted(y)]}, self


class Returns(nn.Module):
    """Two convolutions, of which the second is what is returned, in one form or another."""

    def __init__(self, form: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.form = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), form

    def forward(self, x: Any = None, named: Any = None) -> Any:
        for value in (x, named):
            for name in ("image", "x"):
                value = value.get(name, value) if isinstance(value, dict) else getattr(value, name, value)
            x = value if isinstance(value, Tensor) else x
        y = self.a(x)
        return self.form(y, self.b(y))


FOLLOWED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tensor": lambda y, z: z, "dataclass": lambda y, z: Outputs(z), "features too": lambda y, z: (y, Outputs(z)),
    "namespace": lambda y, z: types.SimpleNamespace(z=z), "UserDict": lambda y, z: UserDict(z=z),
    "set": lambda y, z: {z},
    "deque": lambda y, z: deque([z]), "slots": lambda y, z: [Slotted(z)], "NamedTuple": lambda y, z: Named(z),
    "a dictionary of its own": lambda y, z: Ordered(z=z), "an object": lambda y, z: Holds(z),
}  # fmt: skip
UNTRACED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "numpy": lambda y, z: z.numpy(), "list": lambda y, z: z.tolist(), "number": lambda y, z: float(z.sum()),
    "nothing": lambda y, z: None, "numpy beside": lambda y, z: (y, z.detach().numpy()),
    "int": lambda y, z: int(z.argmax()),
    "generator": lambda y, z: (part for part in (z,)), "numpy in an object": lambda y, z: Outputs(y, [z.numpy()]),
    "number beside": lambda y, z: {"y": y, "score": z.max().item()},
}  # fmt: skip


FORMS: dict[str, Callable[[Tensor, Tensor], Any]] = dict([*FOLLOWED.items(), *UNTRACED.items()])


@pytest.mark.parametrize("name", FORMS)
def test_both_convolutions_are_launched(name: str) -> None:
    model = Returns(FORMS[name])
    for runtime, device in (("rknn", "rk3588"), ("tensorrt", "t4")):
        network = deployed(model, X, runtime)
        products = [launch for launch in network.launches if "convolution" in launch.operators]
        assert [launch.layers[0] for launch in products] == ["a", "b"]
        assert all(launch.written_elements for launch in products)
        found = predict(network, device)
        assert found.seconds > 0 and ("can't be followed" in found.basis) == (name in UNTRACED)
        assert network.flow.untraced == (name in UNTRACED)


class Image:
    def __init__(self, image: Any) -> None:
        self.image = image


@pytest.mark.parametrize(
    "inputs, kwargs",
    [((X,), None), (X, None), ([X], None), ((), {"named": X}), ((), {"x": {"image": X}}), ((Named(X),), None),
     ((types.SimpleNamespace(x=X),), None), (({"image": X},), None), ((Image(X),), None)],
    ids=["tuple", "tensor", "list", "keyword", "dictionary by keyword", "NamedTuple", "namespace",
         "dictionary", "object"],
)  # fmt: skip
def test_inputs_in_any_form(inputs: Any, kwargs: Any) -> None:
    model = Returns(lambda y, z: z)
    expected = traffic(model, (X,))
    counted = traffic(model, inputs, kwargs=kwargs)
    assert counted.peak_activation_bytes == expected.peak_activation_bytes > X.numel() * 4
    assert predict(deployed(model, inputs, kwargs=kwargs), "t4").seconds == predict(deployed(model, X), "t4").seconds
    step = training(model, inputs, amp=False, kwargs=kwargs)
    assert step.peak == training(model, (X,), amp=False).peak and step.inputs == X.numel() * 4 and step.batch == 2


def test_a_tensor_is_the_only_argument_everywhere() -> None:
    model = Returns(lambda y, z: z)
    assert profile(model, X, verbose=False) == profile(model, (X,), verbose=False)
    assert memory_info(model, inputs=(Named(X),)).error == ""
    assert predict(model, X, device="t4").seconds == predict(model, "t4", inputs=(X,)).seconds


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4), nn.Upsample(scale_factor=2)])
def test_a_bare_layer_is_a_launch(layer: nn.Module) -> None:
    network = deployed(layer, X)
    assert [launch.layers for launch in network.launches] == [[""]]
    assert network.written_elements == layer(X).numel() and predict(network, "rk3588").seconds > 0


def test_an_activation_may_return_anything() -> None:
    class Wraps(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return types.SimpleNamespace(y=torch.relu(x))

    counted = profile(nn.Sequential(Wraps()), (X,), verbose=False)
    assert counted.total_output_macs == X.numel() and counted.missing == {}


def test_a_result_keeps_neither_the_model_nor_its_inputs() -> None:
    model, x = Returns(lambda y, z: z), torch.ones(2, 4, 8, 8)
    network, found = deployed(model, (x,)), predict(model, "t4", inputs=(x,))
    other = deployed(model, (x,))
    references = weakref.ref(model), weakref.ref(x)
    assert network.under(network.runtime, "float16") is network and found.deployed.flow is not None
    if hasattr(torch, "get_autocast_dtype"):
        assert predict(network, "v100", runtime="pytorch", precision="amp").seconds > 0
    del model, x
    gc.collect()
    assert [reference() for reference in references] == [None, None]
    assert predict(network, "t4").seconds > 0
    with pytest.raises(NotCountable, match="keep it in a variable"):
        other.flow.under(True)


@pytest.mark.parametrize("function", [profile, traffic, training, deployed, predict])
@pytest.mark.parametrize("given", [{"x": X}, None, 3, numpy.ones(3)])
def test_wrong_inputs_end_in_a_sentence(function: Any, given: Any) -> None:
    model = Returns(lambda y, z: z)
    with pytest.raises((TypeError, DeviceError), match=f"^{function.__name__}: (inputs must be|on which device)"):
        function(model, given)
    with pytest.raises(TypeError, match=f"^{function.__name__}: the model must be a torch.nn.Module, not tuple"):
        function((X,), model)


def test_wrong_devices_and_pairs_end_in_a_sentence() -> None:
    from utils.thop import calibrate

    model = Returns(lambda y, z: z)
    network = deployed(model, X)
    with pytest.raises(DeviceError, match=r'on which device.*"rk3588"'):
        predict(model, (X,))
    with pytest.raises(DeviceError, match=r"a device is a name, such as .*not int"):
        predict(model, (X,), device=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="takes no inputs, only a device"):
        predict(network, (X,), device="t4")
    for wrong in ([(0.1, network)], {0.1: network}, [network], None, 3, network):
        with pytest.raises(DeviceError, match="calibrate takes pairs"):
            calibrate(wrong)  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="a number above 0, not None"):
        calibrate([(network, None)])  # type: ignore[list-item]


def test_times_below_what_any_device_can_do() -> None:
    from utils.thop import calibrate

    networks = [deployed(nn.Conv2d(64, 64, 3), torch.ones(1, 64, side, side)) for side in (64, 96, 128, 160)]
    times = [predict(network, "t4").seconds for network in networks]
    board = calibrate([(network, 3 * time) for network, time in zip(networks, times)])
    assert board.rates == pytest.approx([network.flops / time / 3 for network, time in zip(networks, times)])
    with pytest.raises(DeviceError, match=r"network 1: .* TFLOP/s, where .* at least: is it in another unit"):
        calibrate([(network, time / 1e4) for network, time in zip(networks, times)])


def test_two_things_that_a_size_may_be() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    for size in (64, numpy.int64(64), torch.tensor(64), (64, 64), [numpy.int32(64), 64], torch.tensor([64, 64])):
        assert memory_info(model, size).imgsz == (64, 64)


class Unwilling:
    """Lets nobody copy it."""

    def __init__(self, y: Any) -> None:
        self.y = y

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("no")


@pytest.mark.parametrize("form", [types.MappingProxyType, Unwilling], ids=["proxy", "unwilling"])
def test_results_that_nobody_can_copy(form: Any) -> None:
    model = Returns(lambda a, b: form({"y": b}) if form is types.MappingProxyType else form(b))
    assert profile(model, (X,), verbose=False).total_ops > 0 and traffic(model, X).flops > 0
    assert predict(model, X, device="t4").seconds > 0


class Convolves(nn.Module):
    """A convolution of what it takes out of its input."""

    def __init__(self, take: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.c, self.take = nn.Conv2d(4, 4, 3), take

    def forward(self, given: Any) -> Any:
        return self.c(self.take(given))


def test_inputs_that_are_no_tensors() -> None:
    found = predict(Convolves(torch.from_numpy), (X.numpy(),), device="t4")
    assert found.seconds > 0 and "every step counts" in found.basis


def test_a_forward_that_empties_its_dictionary_is_trained() -> None:
    given = {"image": X}
    model = Convolves(lambda given: given.pop("image"))
    assert training(model, (given,), amp=False).peak > 0 and list(given) == ["image"]


def test_a_value_that_the_code_decides_by_is_computed() -> None:
    class Decides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x: Tensor) -> Any:
            return self.a(x) if float(self.b(x).sum()) < 1e9 else x

    assert sum(launch.flops > 0 for launch in deployed(Decides(), (X,)).launches) == 2
