"""Running graphs: the protocol of a backend, ONNX Runtime, TensorRT, the pipeline over them, and engines stored beside
a bundle.

Only what runs; building and measuring lie in ``deployment``. Used by everything that judges images.
"""
