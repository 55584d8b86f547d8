"""llama.cpp, run in a child process: logits, embeddings, generation and speed of a GGUF file.

This package imports no PyTorch and no runtime by itself, so that the child starts quickly and its memory is the model's.
"""
