"""Local rules on single nodes, run from a worklist to a fixed point: what `decompose` and `canonicalize` are made of."""
