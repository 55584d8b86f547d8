"""Archives whose loading would run code are refused, each trick of them live in torch, and ordinary ones load."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from edgecc.errors import RefusedError, UsageError
from edgecc.ir import archive
from edgecc.ir.archive_safety import check_archive, checked_copy
from tests.frontend.archives import Command, change, change_model, exported, runs_in_torch, save, torch_saved

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("archives") / "ordinary.pt2")


def test_an_ordinary_archive_loads_and_computes_the_same(ordinary: Path) -> None:
    program = archive.load(ordinary)
    assert [s.name for s in program.signature.outputs] == ["hidden", "flat"]
    want = exported().module()({"x": torch.ones(9, 4)}, shift=torch.zeros(4))
    for got, expected in zip(program(torch.ones(9, 4), torch.zeros(4)), want.values(), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)  # the same operators in the same order


def test_the_copy_that_torch_reads_holds_the_entries_that_were_checked(ordinary: Path) -> None:
    with zipfile.ZipFile(ordinary) as before, zipfile.ZipFile(checked_copy(ordinary)) as after:
        assert before.namelist() == after.namelist()
        raw = [n for n in before.namelist() if "/data/weights/weight_" in n]
        assert raw and all(before.read(n) == after.read(n) for n in raw)


# -- pickles


def _command(marker: Path) -> Command:
    return Command(f"touch '{marker}'")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_that_calls_the_shell_is_refused_and_does_not_run(ordinary: Path, tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "marker"
    inputs = torch_saved((({"x": _command(marker)},), {}), pickle_protocol=protocol)
    crafted = change(ordinary, tmp_path / "crafted.pt2", {"data/sample_inputs/model.pt": inputs})
    with pytest.raises(RefusedError, match=r"posix\.system|os\.system"):
        archive.load(crafted)
    assert not marker.exists()
    assert runs_in_torch(crafted, marker)


def test_the_old_stream_layout_is_scanned_too(ordinary: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    inputs = torch_saved((({"x": _command(marker)},), {}), _use_new_zipfile_serialization=False)
    crafted = change(ordinary, tmp_path / "crafted.pt2", {"data/sample_inputs/model.pt": inputs})
    with pytest.raises(RefusedError, match="system"):
        check_archive(crafted)
    assert not marker.exists()
    assert runs_in_torch(crafted, marker)


def _weights_config(data: bytes) -> bytes:
    config = json.loads(data)
    config["config"]["linear.weight"]["use_pickle"] = True
    return json.dumps(config).encode()


def test_a_weight_stored_as_a_pickle_is_refused(ordinary: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    changes = {"data/weights/model_weights_config.json": _weights_config, "data/weights/weight_0": torch_saved(_command(marker))}
    crafted = change(ordinary, tmp_path / "crafted.pt2", changes)
    with pytest.raises(RefusedError, match=r"'linear\.weight' is not a plain tensor"):
        check_archive(crafted)
    assert not marker.exists()
    assert runs_in_torch(crafted, marker)


def test_an_opaque_constant_is_refused(ordinary: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    def config(data: bytes) -> bytes:
        parsed = json.loads(data)
        parsed["config"]["evil"] = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
        return json.dumps(parsed).encode()

    changes = {"data/constants/model_constants_config.json": config, "data/constants/opaque_obj_0": pickle.dumps(_command(marker))}
    crafted = change(ordinary, tmp_path / "crafted.pt2", changes)
    with pytest.raises(RefusedError):
        check_archive(crafted)
    assert not marker.exists()
    assert runs_in_torch(crafted, marker)


def test_weights_of_the_older_layout_are_scanned(ordinary: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    crafted = change(ordinary, tmp_path / "crafted.pt2", {"data/weights/model.pt": torch_saved({"linear.weight": _command(marker)})})
    with pytest.raises(RefusedError, match="system"):
        check_archive(crafted)
    assert not marker.exists()
    assert runs_in_torch(crafted, marker)


@pytest.mark.parametrize(
    ("entry", "content"),
    [
        ("data/aotinductor/model/model.so", b"\x7fELF"),
        ("data/constants/custom_obj_0", b"PK"),
        ("data/constants/anything.bin", b"\x80\x02."),
        ("hidden.pkl", b"\x80\x02."),
        ("models/../escape.json", b"{}"),
        ("ARCHIVE_FORMAT", b"pt2"),
    ],
)
def test_an_entry_that_may_be_code_is_refused(ordinary: Path, tmp_path: Path, entry: str, content: bytes) -> None:
    with pytest.raises(RefusedError):
        check_archive(change(ordinary, tmp_path / "crafted.pt2", {entry: content}))


def test_an_entry_held_twice_is_refused(ordinary: Path, tmp_path: Path) -> None:
    crafted = change(ordinary, tmp_path / "crafted.pt2", {})
    with warnings.catch_warnings(), zipfile.ZipFile(crafted, "a") as zipped:
        warnings.simplefilter("ignore")
        zipped.writestr(zipped.namelist()[0], b"other")
    with pytest.raises(RefusedError, match="twice"):
        check_archive(crafted)


def test_a_compressed_archive_is_refused(ordinary: Path, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="compressed"):
        check_archive(change(ordinary, tmp_path / "crafted.pt2", {}, compression=zipfile.ZIP_DEFLATED))


# -- text that torch turns into Python


def _size_of_x(model: dict[str, Any]) -> dict[str, Any]:
    return model["graph_module"]["graph"]["tensor_values"]["inputs_x"]["sizes"][0]["as_expr"]


def _rename(model: dict[str, Any], old: str, new: str) -> None:
    text = json.dumps(model["graph_module"]).replace(json.dumps(old), json.dumps(new))
    model["graph_module"] = json.loads(text)


def _size_attack(model: dict[str, Any], marker: Path) -> None:
    _size_of_x(model)["expr_str"] = f"__import__('os').system('touch {marker}')"


def _name_attack(model: dict[str, Any], marker: Path) -> None:
    _rename(model, "shift", f"shift=__import__('os').system('touch {marker}')")


def _parameter_name_attack(model: dict[str, Any], marker: Path) -> None:
    signature = model["graph_module"]["module_call_graph"][0]["signature"]
    signature["forward_arg_names"] = ["inputs", f"shift):\n    __import__('os').system('touch {marker}')\n    \"\"\"#"]


def _guard_attack(model: dict[str, Any], marker: Path) -> None:
    model["guards_code"] = [f"__import__('os').system('touch {marker}') == 0"]


ATTACKS: list[Callable[[dict[str, Any], Path], None]] = [_size_attack, _name_attack, _parameter_name_attack]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: a.__name__.strip("_"))
def test_text_that_torch_would_run_is_refused(ordinary: Path, tmp_path: Path, attack: Callable[[dict[str, Any], Path], None]) -> None:
    marker = tmp_path / "marker"
    crafted = change_model(ordinary, tmp_path / "crafted.pt2", lambda model: attack(model, marker))
    with pytest.raises(RefusedError, match="could run code"):
        archive.load(crafted)
    assert not marker.exists()
    assert runs_in_torch(crafted, marker)


def test_guards_are_erased(ordinary: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    crafted = change_model(ordinary, tmp_path / "crafted.pt2", lambda model: _guard_attack(model, marker))
    program, _ = archive.read(crafted)
    program.module(check_guards=True)({"x": torch.ones(6, 4)}, shift=torch.ones(4))
    assert not marker.exists()


def test_an_import_in_a_tree_spec_is_refused(ordinary: Path, tmp_path: Path) -> None:
    def edit(model: dict[str, Any]) -> None:
        signature = model["graph_module"]["module_call_graph"][0]["signature"]
        protocol, root = json.loads(signature["out_spec"])
        context = {"default_factory_module": "antigravity", "default_factory_name": "fly", "dict_context": ["hidden", "flat"]}
        signature["out_spec"] = json.dumps([protocol, {**root, "type": "collections.defaultdict", "context": context}])

    with pytest.raises(RefusedError, match="imports a module"):
        check_archive(change_model(ordinary, tmp_path / "crafted.pt2", edit))


def test_an_enum_in_a_tree_spec_is_refused(ordinary: Path, tmp_path: Path) -> None:
    def edit(model: dict[str, Any]) -> None:
        signature = model["graph_module"]["module_call_graph"][0]["signature"]
        protocol, root = json.loads(signature["out_spec"])
        root["context"] = '[{"__en\\u0075m__": true, "fqn": "antigravity:x", "name": "y"}, "flat"]'
        signature["out_spec"] = json.dumps([protocol, root])

    with pytest.raises(RefusedError, match="imports a module"):
        check_archive(change_model(ordinary, tmp_path / "crafted.pt2", edit))


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.ops.load_library",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.aten.add.__class__",
        "_operator.methodcaller",
        "_operator.attrgetter",
        "#executorch:edge.thing",
        "math.__loader__",
    ],
)
def test_a_call_of_anything_but_an_operator_is_refused(ordinary: Path, tmp_path: Path, target: str) -> None:
    def edit(model: dict[str, Any]) -> None:
        model["graph_module"]["graph"]["nodes"][1]["target"] = target

    with pytest.raises(RefusedError, match="not one of the operators"):
        check_archive(change_model(ordinary, tmp_path / "crafted.pt2", edit))


@pytest.mark.parametrize(
    "expression",
    [
        "().__class__",
        "s0.func",
        "lambda: 1",
        "[1]",
        "Symbol('s0', x=open('f'))",
        "sympify('1')",
        "eval",
        "Symbol('a b')",
        "f(1)",
        "s0\n+1",
        "'text'",
        "s0!",
        "(s0 := 1)",
        "s0 if s0 else 1",
        "\uff45val('1')",
        "Integer(2).func",
    ],
)
def test_a_size_that_is_not_arithmetic_is_refused(ordinary: Path, tmp_path: Path, expression: str) -> None:
    def edit(model: dict[str, Any]) -> None:
        _size_of_x(model)["expr_str"] = expression

    with pytest.raises(RefusedError, match="sympy evaluates"):
        check_archive(change_model(ordinary, tmp_path / "crafted.pt2", edit))


@pytest.mark.parametrize(
    "expression", ["2*s0 + 1", "(s0//2)", "Mod(s0, 2)", "Max(1, s0 - 3)", "Add(Integer(-1), Symbol('s0', integer=True))"]
)
def test_arithmetic_over_sizes_passes(ordinary: Path, tmp_path: Path, expression: str) -> None:
    def edit(model: dict[str, Any]) -> None:
        _size_of_x(model)["expr_str"] = expression

    check_archive(change_model(ordinary, tmp_path / "changed.pt2", edit))


# -- containers of outputs


@dataclass
class Pair:
    left: torch.Tensor
    right: torch.Tensor


class Point(NamedTuple):
    u: torch.Tensor
    v: torch.Tensor


class Returns(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[Pair, Point]:
        return Pair(x + 1, x * 2), Point(x - 1, x / 2)


_LOAD_ELSEWHERE = """
import sys
from pathlib import Path
from edgecc.ir import archive
print(*(s.name for s in archive.load(Path(sys.argv[1])).signature.outputs))
"""


@pytest.mark.slow
def test_outputs_in_a_dataclass_and_a_named_tuple_load_where_their_types_are_unknown(tmp_path: Path) -> None:
    torch.export.register_dataclass(Pair, serialized_type_name="tests.Pair")
    torch.utils._pytree._register_namedtuple(Point, serialized_type_name="tests.Point")
    program = torch.export.export(Returns(), (torch.ones(2),))
    torch.export.save(program, tmp_path / "returns.pt2")
    wanted = "output_0.left output_0.right output_1.u output_1.v"
    assert [s.name for s in archive.load(tmp_path / "returns.pt2").signature.outputs] == wanted.split()
    command = [sys.executable, "-W", "ignore", "-c", _LOAD_ELSEWHERE, str(tmp_path / "returns.pt2")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == wanted


def test_an_output_without_names_of_its_fields_is_told(ordinary: Path, tmp_path: Path) -> None:
    def edit(model: dict[str, Any]) -> None:
        signature = model["graph_module"]["module_call_graph"][0]["signature"]
        protocol, root = json.loads(signature["out_spec"])
        signature["out_spec"] = json.dumps([protocol, {**root, "type": "package.Unknown", "context": "{}"}])

    with pytest.raises(UsageError, match=r"returns package\.Unknown"):
        check_archive(change_model(ordinary, tmp_path / "changed.pt2", edit))


# -- broken archives, and other layouts


def test_a_truncated_archive_is_a_usage_error(ordinary: Path, tmp_path: Path) -> None:
    (tmp_path / "short.pt2").write_bytes(ordinary.read_bytes()[:-300])
    with pytest.raises(UsageError, match="cannot be read"):
        check_archive(tmp_path / "short.pt2")


def _older(path: Path, inputs: Any) -> Path:
    """The layout of torch 2.5 to 2.7: a plain zip with one file for each part."""
    from torch._export.serde.serialize import serialize

    parts = serialize(exported())
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("version", "8.20")
        zipped.writestr("serialized_exported_program.json", parts.exported_program)
        zipped.writestr("serialized_state_dict.pt", parts.state_dict)
        zipped.writestr("serialized_constants.pt", parts.constants)
        zipped.writestr("serialized_example_inputs.pt", parts.example_inputs if inputs is None else torch_saved(inputs))
    return path


def test_an_archive_of_the_older_layout_loads(tmp_path: Path) -> None:
    program = archive.load(_older(tmp_path / "old.pt2", None))
    assert [s.name for s in program.signature.inputs] == ["inputs_x", "shift"]


def test_a_pickle_in_the_older_layout_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with pytest.raises(RefusedError, match="system"):
        archive.load(_older(tmp_path / "old.pt2", (({"x": _command(marker)},), {})))
    assert not marker.exists()


def test_an_archive_without_a_model_is_a_usage_error(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "empty.pt2", "w") as zipped:
        zipped.writestr("empty/archive_format", "pt2")
    with pytest.raises(UsageError, match="no exported model"):
        check_archive(tmp_path / "empty.pt2")


def test_example_inputs_of_a_type_of_their_own_are_refused_with_its_name(ordinary: Path, tmp_path: Path) -> None:
    inputs = torch_saved((({"x": Path("a")},), {}))
    with pytest.raises(RefusedError, match=r"pathlib\.P"):
        check_archive(change(ordinary, tmp_path / "crafted.pt2", {"data/sample_inputs/model.pt": inputs}))


def test_an_archive_in_a_buffer_of_torch_reads_as_the_file_does(ordinary: Path) -> None:
    direct = torch.export.load(io.BytesIO(ordinary.read_bytes()))
    checked = torch.export.load(checked_copy(ordinary))
    assert str(direct.graph) == str(checked.graph)


def test_an_archive_that_torch_cannot_read_is_told_with_torchs_reason(
    ordinary: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def edit(model: dict[str, Any]) -> None:
        model["graph_module"]["graph"]["nodes"][1]["target"] = "torch.ops.aten.no_such_operator.default"

    with pytest.raises(UsageError, match=r"torch\.export cannot load [\s\S]*no_such_operator"):
        archive.load(change_model(ordinary, tmp_path / "changed.pt2", edit))
    assert capfd.readouterr().err == ""
