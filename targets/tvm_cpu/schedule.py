"""Schedule: Relax operators to fused loop nests. Now by TVM's own rules, which fuse but neither tile nor vectorize."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecc.targets.tvm_cpu.lowering import legalize

if TYPE_CHECKING:
    import tvm


def schedule(module: tvm.IRModule, target: tvm.target.Target) -> tvm.IRModule:
    """Turn every Relax operator of `main` into a call of a primitive function for `target`, neighbours fused."""
    from tvm import relax, transform
    from tvm.relax.backend.cpu_generic import pipeline

    fusion = [
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
    ]
    with target:
        dispatched = transform.Sequential(pipeline.library_dispatch_passes(target))(module)
        return transform.Sequential(fusion)(legalize(dispatched))
