"""edgecc: turn a PyTorch model into a small, fast, verified artifact for an edge device."""
