"""Settings: ranges, and which of two sources counts."""

from __future__ import annotations

import pytest

from edgecc.errors import UsageError
from edgecc.training.settings import Settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"optimizer": "adma"}, "did you mean 'adam'"),
        ({"teacher": "bert"}, "want one of '', 'kl', 'mse'"),
        ({"lr": -1.0}, "lr is -1"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"labels": 1.5}, "labels is 1.5"),
    ],
)
def test_a_value_out_of_range_is_named(values, message):
    with pytest.raises(UsageError, match=message):
        Settings(**values)


def test_what_the_data_gives_counts_where_the_pass_says_nothing():
    found = Settings(epochs=7).filled({"epochs": 3, "lr": 1, "teacher": "kl"}, "train.py:data")
    assert (found.epochs, found.lr, found.teacher) == (7, 1.0, "kl")


@pytest.mark.parametrize(
    ("given", "message"), [({"epoch": 3}, "did you mean 'epochs'"), ({"epochs": "3"}, "train.py:data gives epochs = '3', want int")]
)
def test_an_unknown_or_mistyped_setting_is_named(given, message):
    with pytest.raises(UsageError, match=message):
        Settings().filled(given, "train.py:data")
