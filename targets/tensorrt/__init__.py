"""TensorRT: an ONNX file that its parser reads, checked without a GPU."""
