"""Rotary positions found by probing: what turns, in which pairs, and how fast."""

from __future__ import annotations

import math

import torch
from torch import fx

from edgecc.targets.gguf.recognition.description import Rope
from edgecc.targets.gguf.recognition.reading import UnrecognizedError

#: cos and sin of a table in float32, at the angles of a few hundred positions, and products of two of them.
_CLOSE = 2e-4


def pairs_of(rotation: torch.Tensor, node: fx.Node) -> list[tuple[int, int]]:
    """The pairs (i, j) of dimensions that turn together, from i to j, in the order of i.

    rotation [n, n] f64: the map at position 1. Raises UnrecognizedError where it is no rotation of pairs.
    """
    size = len(rotation)
    off = rotation.clone()
    off.fill_diagonal_(0.0)
    pairs, seen = [], set()
    for i in range(size):
        partners = torch.nonzero(off[i]).flatten().tolist()
        if not partners:
            if abs(float(rotation[i, i]) - 1) > _CLOSE:
                raise UnrecognizedError(node, f"dimension {i} of a head is multiplied by {float(rotation[i, i]):g} at position 1")
            continue
        if len(partners) > 1:
            raise UnrecognizedError(node, f"dimension {i} of a head depends on dimensions {partners[:4]} at position 1, want one pair")
        j = partners[0]
        if i in seen:
            continue
        seen |= {i, j}
        pairs.append((i, j) if float(rotation[j, i]) > 0 else (j, i))
    return pairs


def order_of(pairs: list[tuple[int, int]], size: int) -> torch.Tensor:
    """The order of a head's dimensions in which pair k is (k, k + width / 2) and what does not turn comes last: [size] i64."""
    turning = [i for i, _ in pairs] + [j for _, j in pairs]
    still = [i for i in range(size) if i not in set(turning)]
    return torch.tensor(turning + still, dtype=torch.int64)


def frequencies_of(rotation: torch.Tensor, pairs: list[tuple[int, int]]) -> torch.Tensor:
    """Radians a position of each pair, from the map at position 1 [n, n] f64 -> [pairs] f64."""
    return torch.tensor([math.atan2(float(rotation[j, i]), float(rotation[i, i])) for i, j in pairs], dtype=torch.float64)


def rotations(frequencies: torch.Tensor, width: int, positions: int) -> torch.Tensor:
    """The maps at positions 0, 1, ... for dimensions in the order of `order_of`: [positions, width, width] f64."""
    half = len(frequencies)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * frequencies
    maps = torch.eye(width, dtype=torch.float64).repeat(positions, 1, 1)
    first = torch.arange(half)
    second = first + half
    maps[:, first, first] = maps[:, second, second] = angles.cos()
    maps[:, first, second], maps[:, second, first] = -angles.sin(), angles.sin()
    return maps


def find_rope(maps: torch.Tensor, node: fx.Node) -> tuple[Rope | None, torch.Tensor]:
    """The rotation that a head's dimensions go through, and their order. maps [positions, n, n]: what a head becomes at each position.

    Raises UnrecognizedError where it is none: another scale or table at some position.
    """
    maps = maps.double()
    size = maps.shape[-1]
    identity = torch.eye(size, dtype=torch.float64)
    if float((maps[0] - identity).abs().max()) > _CLOSE:
        raise UnrecognizedError(node, "heads are turned at position 0 already: positions start at 0 in llama.cpp")
    if float((maps - identity).abs().max()) <= 1e-7:  # the rounding of a factor and its inverse
        return None, torch.arange(size)
    pairs = pairs_of(maps[1], node)
    order = order_of(pairs, size)
    frequencies = frequencies_of(maps[1], pairs)
    wanted = rotations(frequencies, size, len(maps))
    off = (maps[:, order][:, :, order] - wanted).abs().amax((1, 2))
    if float(off.max()) > _CLOSE:
        at = int((off > _CLOSE).nonzero()[0])
        raise UnrecognizedError(
            node, f"at position {at} a head is {float(off[at]):g} from a turn by {at} times the angles of position 1: no rotary positions"
        )
    return Rope(node, 2 * len(pairs), frequencies), order
