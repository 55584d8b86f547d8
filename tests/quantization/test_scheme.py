"""Schemes by name: what each means, and what is said of those that do not exist or that a target lacks."""

from __future__ import annotations

import pytest

from edgecc.errors import UsageError
from edgecc.quantization.recipe import passes
from edgecc.quantization.scheme import ActivationFormat, WeightFormat, scheme
from edgecc.quantization.support import QuantSupport

INTEGER = QuantSupport("integer")
CLEAN = QuantSupport("clean", True, (4, 8), (8,), (0, 64, 128), asymmetric_weights=False, dynamic=False, precisions=("fp16",))


@pytest.mark.parametrize(
    ("name", "weight", "activation"),
    [
        ("int8", WeightFormat(8), ActivationFormat(8)),
        ("int8-dynamic", WeightFormat(8), ActivationFormat(8, dynamic=True)),
        ("int8-weight", WeightFormat(8), None),
        ("int4-weight", WeightFormat(4, 32), None),
        ("int4-weight-g64-asym", WeightFormat(4, 64, symmetric=False), None),
        ("int4-weight-channel", WeightFormat(4, 0), None),
        ("w4a8", WeightFormat(4), ActivationFormat(8)),
        ("w8a16", WeightFormat(8), None),
        ("w32a8", None, ActivationFormat(8)),
        ("nf4", WeightFormat(4, 64, codes="nf4"), None),
        ("float", None, None),
    ],
)
def test_a_name_says_what_is_kept_in_which_numbers(name, weight, activation):
    assert (scheme(name).weight, scheme(name).activation) == (weight, activation)


@pytest.mark.parametrize(
    ("kind", "limits"),
    [
        (WeightFormat(8), (-127, 127)),
        (WeightFormat(4), (-7, 7)),
        (WeightFormat(4, 32), (-8, 7)),
        (WeightFormat(4, 32, symmetric=False), (0, 15)),
        (WeightFormat(2), (-1, 1)),
    ],
)
def test_the_integers_of_a_weight(kind, limits):
    assert kind.limits == limits


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("int7", "unknown quantization 'int7'"),
        ("w1a8", "weights of 1 bits, want 2 to 8"),
        ("w8a12", "activations of 12 bits"),
        ("int4-weight-g33", "groups of 33"),
        ("fp16-asym", "takes no suffix -asym"),
    ],
)
def test_what_does_not_exist_is_refused(name, message):
    with pytest.raises(UsageError, match=message):
        scheme(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("w8a4", "activations of 4 bits.*\n.*activations of 8 bits"),
        ("w3a8", "weights of 3 bits.*\n.*weights of 4/8 bits"),
        ("int4-weight", "groups of 32.*\n.*groups of 64/128"),
        ("int4-weight-g64-asym", "weights with zero points"),
        ("int8-dynamic", "scales computed when the model runs"),
        ("nf4", "no nf4 weights"),
        ("bf16", "no precision bf16"),
    ],
)
def test_a_target_says_what_it_lacks_and_what_it_has(name, message):
    with pytest.raises(UsageError, match=message):
        CLEAN.check(scheme(name), "tensorrt")


def test_added_passes_stand_where_they_belong():
    text = passes("int8", INTEGER, [], ["assign-precision", "smooth-quant{alpha=0.7}", "compensate-rounding"], "entropy", "t")
    assert text == (
        "smooth-quant{alpha=0.7}, insert-fake-quant{scheme='int8',placement='integer',symmetric=false}, compensate-rounding, "
        "calibrate{symmetric=false,method='entropy'}, assign-precision, finalize-quant"
    )


def test_passes_of_the_target_go_with_calibrated_activations_alone():
    support = QuantSupport("clean", added=("smooth-quant{insert=true}",))
    assert passes("int8", support, [], [], "", "t").startswith("smooth-quant{insert=true}, insert-fake-quant")
    assert passes("int8", support, [], ["smooth-quant{alpha=0.3}"], "", "t").startswith("smooth-quant{alpha=0.3}, insert-fake-quant")
    assert passes("int8-weight", support, [], [], "", "t").startswith("insert-fake-quant")


def test_a_pass_that_does_not_go_with_quantization_is_refused():
    with pytest.raises(UsageError, match=r"'fuse-gelu'.*\n.*known"):
        passes("int8", INTEGER, [], ["fuse-gelu"], "", "t")
