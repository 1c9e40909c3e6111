# >>> yolov5 memory access >>>
# model_info() below says what a model costs in memory access beside what it costs in GFLOPs: it runs the function of
# this name above, if there is one, with its arguments, its words and its value, and adds to the line that it prints.
# profile() is YOLOv5's own with two more columns; memory_info() prints nothing and returns all that was counted.
# patches/apply.py puts this block here and takes it out. MIT licence.
import importlib as _importlib
import importlib.util as _importlib_util
import os as _os
import sys as _sys


def _import_memory_access(name):
    """Import a module of the folder thop beside this file, also where this file is imported as no part of a package."""
    if __package__:
        return _importlib.import_module(f".thop.{name}", __package__)
    package = "_yolov5_memory_access"
    if package not in _sys.modules:
        folder = _os.path.join(_os.path.dirname(_os.path.abspath(__file__)), "thop")
        spec = _importlib_util.spec_from_file_location(
            package, _os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
        )
        assert spec is not None and spec.loader is not None
        _sys.modules[package] = _importlib_util.module_from_spec(spec)
        spec.loader.exec_module(_sys.modules[package])
    return _importlib.import_module(f"{package}.{name}")


def _emit(text):
    """Print through the checkout's logger where it has one."""
    logger = globals().get("LOGGER") or globals().get("logger")
    getattr(logger, "info", print)(text)


def _checkout_function(name):
    """Return the function of this name above, None if there is none, or this block's where it has been run before."""
    function = globals().get(name)
    return getattr(function, "of_checkout", function)


try:
    _summary, _speed = _import_memory_access("show.summary"), _import_memory_access("show.speed")
except ImportError as _error:  # a torch that is too old: what is above stays as it is
    _emit(f"memory accesses are not counted: {_error}")
else:
    _checkout_model_info, _checkout_profile = _checkout_function("model_info"), _checkout_function("profile")

    def model_info(model, *args, **kwargs):
        """Print the model's summary line with its memory accesses, and return the numbers.

        It takes what the function of this name above takes, if there is one, and returns what that returns. Besides:

        Args:
            model: a YOLOv5 model, or any torch.nn.Module that takes images.
            verbose: print the checkout's table of parameters and a table of modules too; ``detailed`` says the same,
                and goes first where the checkout's own function has both.
            img_size: image size as an int or (height, width), 640 by default, rounded up to a multiple of the model's
                stride; ``imgsz`` is its other name.
            depth: levels of modules that the table shows, by default as many as fit on a screen; deeper ones are added
                to those they belong to.
            sort: None for the modules as they nest, or what to sort them by, the largest first: traffic, read,
                written, accesses, kernel, output, ops, parameters, intensity.

        Returns:
            A ModelInfo, which unpacks to layers, parameters, gradients, GFLOPs, and shows itself as the table in a
            notebook; or what the checkout's own function returns, if it returns something else. Where the model can't
            be counted, the line and ``ModelInfo.error`` say why, and nothing is raised.

        Raises:
            TypeError: the checkout's own function takes no such argument.
            ValueError: there is no such depth or sort.
        """
        return _summary.show_summary(_checkout_model_info, _emit, model, args, kwargs)

    model_info.of_checkout = _checkout_model_info

    def memory_info(model, imgsz=None, inputs=None):
        """Count a model, print nothing and return a ModelInfo, whatever ``model_info`` returns in this checkout.

        Args:
            model: a YOLOv5 model, or any torch.nn.Module that takes images.
            imgsz: image size as an int or (height, width), rounded up to a multiple of the model's stride; by default
                640, or what a classifier of torchvision or a model of timm usually takes.
            inputs: the arguments of its forward in place of images of this size, a tensor or a tuple.
        """
        return _summary.memory_info(model, imgsz, inputs)

    if _speed.is_replaceable(_checkout_profile):

        def profile(*args, **kwargs):
            """Measure speed and memory of operations, and count what they compute, read and write.

            Args:
                input: an input tensor, or a list of them (``x`` in older checkouts).
                ops: a module or function of one tensor, or a list of them.
                n: runs to average over; 10, or what the checkout's own function had.
                device: a torch.device or its name; the best one there is by default.

            Returns:
                For each input and operation a list: parameters, GFLOPs, GPU memory reserved (GB), forward time (ms),
                backward time (ms), input shape, output shape, kernel accesses, output accesses; or None where it could
                not be run.
            """
            return _speed.profile(_checkout_profile, args, kwargs, _emit, globals().get("select_device"))

        profile.of_checkout = _checkout_profile


# <<< yolov5 memory access <<<
