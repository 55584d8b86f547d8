"""Schedule: primitive functions to the loop nests that a machine runs. Now TVM's fusion alone: no tiles, no vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tvm


def schedule(module: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """Fuse neighbours among the primitive functions that `main` calls, for `target`."""
    from tvm import relax, transform

    fusion = [relax.transform.AnnotateTIROpPattern(), relax.transform.FuseOps(), relax.transform.FuseTIR()]
    with target:
        return transform.Sequential(fusion)(module)
