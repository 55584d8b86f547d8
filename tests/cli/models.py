"""Factories that the tests name on the command line."""

from __future__ import annotations

import ctypes
import sys

import torch
from torch import nn


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(x.neg().neg()).neg().relu()


class Inverse(nn.Module):
    def forward(self, x):
        return torch.erfinv(x.tanh()) + torch.erfinv(x.sigmoid() * 0.5)


class Branching(nn.Module):
    def forward(self, x):
        return x + 1 if x.sum() > 0 else x


def small():
    return Small(), (torch.zeros(2, 4),)


def architecture():
    return Small()


def chatty():
    sys.stdout.write("python says hello\n")
    ctypes.CDLL(None).puts(b"the C library says hello")
    ctypes.CDLL(None).fflush(None)
    return small()


def inverse():
    return Inverse(), (torch.zeros(2, 4),)


def branching():
    return Branching(), (torch.zeros(2, 4),)


def quitting():
    raise SystemExit(0)
