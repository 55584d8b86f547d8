"""What the ONNX targets share: a Program to a model.onnx, and ONNX Runtime to run it."""
