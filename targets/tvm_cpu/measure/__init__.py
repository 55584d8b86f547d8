"""What an aarch64 program costs, measured on any machine: instructions, estimated cycles, modelled cache misses."""
