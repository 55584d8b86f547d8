"""Packages: which versions are installed, without importing any."""

from __future__ import annotations

from importlib import metadata


def installed(distribution: str) -> str:
    """The installed version of a distribution, `""` where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
