"""Networks on sequences of sound: recurrent and depthwise-separable keyword spotters, dilated 1-D convolutions, a Conformer block."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LSTMSpotter(nn.Module):
    """Two LSTM layers over [batch, frames, bins]; the last frame is classified."""

    def __init__(self, bins: int = 16, hidden: int = 24, words: int = 12):
        super().__init__()
        self.lstm = nn.LSTM(bins, hidden, num_layers=2, batch_first=True, dropout=0.1)
        self.fc = nn.Linear(hidden, words)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.lstm(x)
        return F.log_softmax(self.fc(out[:, -1, :]), dim=-1)


class GRUSpotter(nn.Module):
    """A GRU with its state as input and output, frames first, for streaming."""

    def __init__(self, bins: int = 16, hidden: int = 24, words: int = 12):
        super().__init__()
        self.norm = nn.BatchNorm1d(bins)
        self.gru = nn.GRU(bins, hidden)
        self.fc = nn.Linear(hidden, words)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(x.permute(1, 2, 0)).permute(2, 0, 1)
        out, state = self.gru(x, state)
        return self.fc(out.mean(0)), state


class BiLSTMTagger(nn.Module):
    """Both directions of an LSTM over embedded tokens; a tag for each."""

    def __init__(self, vocabulary: int = 61, width: int = 16, tags: int = 5):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.lstm = nn.LSTM(width, 12, bidirectional=True, batch_first=True)
        self.tag = nn.Linear(24, tags)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        out, (last, _) = self.lstm(self.embedding(tokens))
        return self.tag(out), torch.cat((last[0], last[1]), dim=-1)


class UnrolledGRU(nn.Module):
    """nn.GRUCell in a Python loop over a fixed number of frames."""

    def __init__(self, bins: int = 8, hidden: int = 12):
        super().__init__()
        self.cell, self.fc = nn.GRUCell(bins, hidden), nn.Linear(hidden, 4)
        self.hidden = hidden

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.size(0), self.hidden)
        states = []
        for frame in x.unbind(1):
            state = self.cell(frame, state)
            states.append(state)
        return self.fc(torch.stack(states, dim=1))


class WaveNetBlock(nn.Module):
    """Gated causal convolution with a residual and a skip output. van den Oord et al. 2016."""

    def __init__(self, channels: int, dilation: int):
        super().__init__()
        self.dilation = dilation
        self.conv = nn.Conv1d(channels, 2 * channels, 2, dilation=dilation)
        self.residual, self.skip = nn.Conv1d(channels, channels, 1), nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        filtered, gate = self.conv(F.pad(x, (self.dilation, 0))).chunk(2, dim=1)
        y = torch.tanh(filtered) * torch.sigmoid(gate)
        return x + self.residual(y), self.skip(y)


class WaveNet(nn.Module):
    def __init__(self, channels: int = 12, classes: int = 16):
        super().__init__()
        self.enter = nn.Conv1d(1, channels, 1)
        self.blocks = nn.ModuleList(WaveNetBlock(channels, 2**i) for i in range(4))
        self.end1, self.end2 = nn.Conv1d(channels, channels, 1), nn.Conv1d(channels, classes, 1)

    def forward(self, wave: Tensor) -> Tensor:
        x = self.enter(wave.unsqueeze(1))
        total = 0
        for block in self.blocks:
            x, skip = block(x)
            total = total + skip
        return self.end2(F.relu(self.end1(F.relu(total))))


class TCN(nn.Module):
    """Weight-normalized dilated convolutions, the right end chomped off. Bai et al. 2018."""

    def __init__(self, channels: int = 12, words: int = 8):
        super().__init__()
        widths = [16, channels, channels]
        self.convs = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(nn.Conv1d(a, b, 3, padding=2 * 2**i, dilation=2**i))
            for i, (a, b) in enumerate(pairwise(widths))
        )
        self.shortcut = nn.Conv1d(16, channels, 1)
        self.fc = nn.Linear(channels, words)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i, conv in enumerate(self.convs):
            y = F.relu(conv(y)[:, :, : -2 * 2**i].contiguous())
        y = F.relu(y + self.shortcut(x))
        return self.fc(F.avg_pool1d(y, kernel_size=2).mean(-1))


class DSCNN(nn.Module):
    """Depthwise-separable convolutions over a spectrogram [batch, 1, frames, bins]. Zhang et al. 2017."""

    def __init__(self, channels: int = 16, words: int = 12):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, channels, (10, 4), stride=2, padding=(5, 1), bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.separable = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
                    nn.BatchNorm2d(channels),
                    nn.ReLU(),
                    nn.Conv2d(channels, channels, 1, bias=False),
                    nn.BatchNorm2d(channels),
                    nn.ReLU(),
                )
                for _ in range(2)
            )
        )
        self.fc = nn.Linear(channels, words)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout2d(self.separable(self.stem(x)), 0.2, self.training)
        x = F.avg_pool2d(x, kernel_size=x.shape[-2:])
        return self.fc(x.squeeze(-1).squeeze(-1))


class Conformer(nn.Module):
    """Half-step feed-forward, attention, gated depthwise convolution, half-step feed-forward. Gulati et al. 2020."""

    def __init__(self, width: int = 24, classes: int = 8):
        super().__init__()
        self.feed = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Dropout(0.1), nn.Linear(2 * width, width))
            for _ in range(2)
        )
        self.attention_norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, dropout=0.1, batch_first=True)
        self.conv_norm = nn.LayerNorm(width)
        self.pointwise = nn.Conv1d(width, 2 * width, 1)
        self.depthwise = nn.Conv1d(width, width, 5, padding="same", groups=width)
        self.batch_norm = nn.BatchNorm1d(width)
        self.project = nn.Conv1d(width, width, 1)
        self.last_norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.feed[0](x)
        y = self.attention_norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        y = F.glu(self.pointwise(self.conv_norm(x).transpose(1, 2)), dim=1)
        x = x + self.project(F.silu(self.batch_norm(self.depthwise(y)))).transpose(1, 2)
        x = x + 0.5 * self.feed[1](x)
        return self.head(self.last_norm(x))
