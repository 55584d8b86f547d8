"""A target for --load: gguf, but the rows of one tensor of the file are turned around after it was written."""

from __future__ import annotations

from dataclasses import dataclass

from edgecc.targets.gguf.target import Gguf


@dataclass(frozen=True)
class DamagedGguf(Gguf):
    """`tensor`: the one that is damaged, where the file has it."""

    name = "damaged_gguf"
    tensor: str = "blk.1.ffn_up.weight"

    def lower(self, program, directory, context):
        import gguf

        lowered = super().lower(program, directory, context)
        reader = gguf.GGUFReader(directory / lowered.deployable, "r+")
        for tensor in reader.tensors:
            if tensor.name == self.tensor:
                tensor.data[:] = tensor.data[::-1].copy()
        reader.data.flush()
        return lowered
