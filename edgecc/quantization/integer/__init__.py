"""Integer: quantized regions of a program as arithmetic on their codes."""
