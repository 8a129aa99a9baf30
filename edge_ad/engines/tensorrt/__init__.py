"""TensorRT as a backend: building, the CUDA driver, buffers, frames and captured graphs.

Imported only where TensorRT is chosen; nothing of it is needed for ONNX Runtime.
"""
