"""A scheduled Relax module as a C library that needs no runtime: kernels, memory plan, program, C ABI."""
