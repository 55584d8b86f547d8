"""The block formats of GGUF: encode, decode, and the grids that rounding chooses from."""

from edgecc.targets.gguf.blocks.coding import decode, encode, fit
from edgecc.targets.gguf.blocks.formats import FORMATS
from edgecc.targets.gguf.blocks.grid import Grid

__all__ = ["FORMATS", "Grid", "decode", "encode", "fit"]
