"""The block formats of GGUF: encode, decode, and the grids that rounding chooses from."""

from edgecc.targets.gguf.blocks.coding import decode, encode, fit
from edgecc.targets.gguf.blocks.formats import FORMATS, Format
from edgecc.targets.gguf.blocks.grid import Grid

__all__ = ["FORMATS", "Format", "Grid", "decode", "encode", "fit"]
