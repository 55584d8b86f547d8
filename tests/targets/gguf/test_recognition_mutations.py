"""Whatever is changed in a model, it is refused or computes the same in llama.cpp."""

from __future__ import annotations

import pytest

from edgecc.errors import UnsupportedError
from tests.targets.gguf.drawing import drawn
from tests.targets.gguf.mutations import mutated
from tests.targets.gguf.parity_host import agrees, ids, lowered, parity, plan_of

#: Seeds of models that are written, and of models that are refused.
WRITTEN = (5000, 5002, 5005, 5006, 5009, 5012, 5023, 5024, 5031, 5032, 5035, 5040, 5047, 5048, 5050, 5064)
REFUSED = (5001, 5003, 5004, 5007, 5008, 5011, 5018, 5019, 5020, 5021, 5027, 5028, 5030, 5033)


@pytest.mark.slow
@pytest.mark.parametrize("seed", WRITTEN)
def test_what_is_written_computes_the_same(seed):
    found = parity(mutated(*drawn(seed)), ids(length=10, batch=1 + seed % 2))
    assert agrees(found), (*drawn(seed), found.error, found.agreement)


@pytest.mark.slow
@pytest.mark.parametrize("seed", REFUSED)
def test_what_is_refused_names_a_node(seed):
    program = lowered(mutated(*drawn(seed)), ids(length=10, batch=1 + seed % 2))
    with pytest.raises(UnsupportedError, match=r"%\w+") as raised:
        plan_of(program)
    name = str(raised.value).split("%", 1)[1].split(":")[0].split(" ")[0]
    assert name in {node.name for node in program.graph.nodes}
