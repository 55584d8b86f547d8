"""Tests mirror the source; `ROOT` is the top of the checkout."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
