"""Post-training conversion of any ONNX graph to lower precision; knows nothing of what the graph is for."""
