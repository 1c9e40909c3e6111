"""What was measured elsewhere, and what is deployed as a file, made into what this package predicts from.

``logs`` reads a profile that a runtime printed and fits a device to it, launch by launch; ``onnx_graph`` reads an ONNX
file and runs it without values, as if it were the module that it was exported from.
Others may use ``read_log``, ``match_log``, ``calibrate_from_log``, ``read_onnx`` and ``OnnxNetwork``.
"""
