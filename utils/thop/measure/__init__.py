"""What was measured elsewhere or here, and what is deployed as a file, made into what this package predicts from.

``logs`` reads a profile that a runtime printed and fits a device to it, launch by launch; ``onnx_graph`` reads an ONNX
file and runs it without values, as if it were the module that it was exported from; ``here`` times small networks
(``networks``) on this machine under what is installed (``sessions``).
Others may use ``read_log``, ``match_log``, ``calibrate_from_log``, ``read_onnx``, ``OnnxNetwork``, ``setting_here`` and
``calibrate_here``.
"""
