"""What edge_ad asks of TensorRT by name, and what each version of its Python bindings has."""
