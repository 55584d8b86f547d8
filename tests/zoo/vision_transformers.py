"""Transformers on images: ViT with its own attention, ViT from torch's layers, Swin block, MLP-Mixer, a convolution-transformer hybrid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention with one matrix for q, k and v."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attention = (q @ k.transpose(-2, -1)) * self.scale
        attention = self.dropout(attention.softmax(dim=-1))
        return self.proj((attention @ v).transpose(1, 2).reshape(batch, tokens, width))


class ViTBlock(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patches by strided convolution, class token, learned positions. Dosovitskiy et al. 2021."""

    def __init__(self, classes: int = 10, width: int = 32):
        super().__init__()
        self.patch = nn.Conv2d(3, width, kernel_size=8, stride=8)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, 17, width))
        self.blocks = nn.Sequential(ViTBlock(width, 4), ViTBlock(width, 4))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.class_token.expand(x.shape[0], -1, -1), x), dim=1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class TorchViT(nn.Module):
    """ViT of nn.TransformerEncoderLayer, before- and after-norm, with a pooling nn.MultiheadAttention on top."""

    def __init__(self, classes: int = 10, width: int = 32):
        super().__init__()
        self.patch = nn.Linear(3 * 64, width)
        self.position = nn.Parameter(torch.zeros(16, width))
        self.before = nn.TransformerEncoderLayer(width, 4, 64, activation="gelu", batch_first=True, norm_first=True)
        self.after = nn.TransformerEncoderLayer(width, 2, 64, activation="relu", batch_first=True)
        self.query = nn.Parameter(torch.zeros(1, 1, width))
        self.pool = nn.MultiheadAttention(width, 4, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        patches = F.unfold(x, kernel_size=8, stride=8).transpose(1, 2)
        x = self.after(self.before(self.patch(patches) + self.position))
        pooled, weights = self.pool(self.query.expand(x.shape[0], -1, -1), x, x)
        return self.head(pooled.squeeze(1)), weights


def window_partition(x: Tensor, size: int) -> Tensor:
    """[batch, height, width, channels] -> [batch * windows, size * size, channels]."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // size, size, width // size, size, channels)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, size * size, channels)


def window_reverse(windows: Tensor, size: int, height: int, width: int) -> Tensor:
    x = windows.view(-1, height // size, width // size, size, size, windows.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, height, width, windows.shape[-1])


class WindowAttention(nn.Module):
    """Attention in windows with a relative position bias. Liu et al. 2021, section 3.2."""

    def __init__(self, width: int, size: int, heads: int):
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.bias_table = nn.Parameter(torch.zeros((2 * size - 1) ** 2, heads))
        offsets = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")).flatten(1)
        relative = (offsets[:, :, None] - offsets[:, None, :]).permute(1, 2, 0) + size - 1
        self.register_buffer("bias_index", relative[..., 0] * (2 * size - 1) + relative[..., 1])
        self.qkv, self.proj = nn.Linear(width, width * 3), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        windows, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(windows, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        attention = (q * self.scale) @ k.transpose(-2, -1)
        bias = self.bias_table[self.bias_index.view(-1)].view(tokens, tokens, -1).permute(2, 0, 1).contiguous()
        attention = attention + bias.unsqueeze(0)
        if mask is not None:
            count = mask.shape[0]
            attention = attention.view(windows // count, count, self.heads, tokens, tokens) + mask.unsqueeze(1).unsqueeze(0)
            attention = attention.view(-1, self.heads, tokens, tokens)
        attention = F.softmax(attention, dim=-1)
        return self.proj((attention @ v).transpose(1, 2).reshape(windows, tokens, width))


class SwinBlock(nn.Module):
    """Window attention and MLP; where `shift` is not zero the picture is rolled and its seams are masked."""

    def __init__(self, width: int, heads: int, side: int, size: int, shift: int):
        super().__init__()
        self.side, self.size, self.shift = side, size, shift
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = WindowAttention(width, size, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.register_buffer("mask", self._seams() if shift else None)

    def _seams(self) -> Tensor:
        regions = torch.zeros(1, self.side, self.side, 1)
        spans = (slice(0, -self.size), slice(-self.size, -self.shift), slice(-self.shift, None))
        for number, (rows, columns) in enumerate((r, c) for r in spans for c in spans):
            regions[:, rows, columns, :] = number
        windows = window_partition(regions, self.size).squeeze(-1)
        difference = windows.unsqueeze(1) - windows.unsqueeze(2)
        return difference.masked_fill(difference != 0, -100.0).masked_fill(difference == 0, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.norm1(x)
        if self.shift > 0:
            x = torch.roll(x, shifts=(-self.shift, -self.shift), dims=(1, 2))
        windows = self.attention(window_partition(x, self.size), self.mask)
        x = window_reverse(windows, self.size, self.side, self.side)
        if self.shift > 0:
            x = torch.roll(x, shifts=(self.shift, self.shift), dims=(1, 2))
        x = shortcut + x
        return x + self.mlp(self.norm2(x))


class Swin(nn.Module):
    """A plain and a shifted block, then patch merging by strided slices."""

    def __init__(self, classes: int = 10, width: int = 24):
        super().__init__()
        self.embed = nn.Conv2d(3, width, kernel_size=4, stride=4)
        self.blocks = nn.ModuleList(SwinBlock(width, 3, 8, 4, shift) for shift in (0, 2))
        self.merge_norm, self.merge = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x)
        corners = [x[:, 0::2, 0::2, :], x[:, 1::2, 0::2, :], x[:, 0::2, 1::2, :], x[:, 1::2, 1::2, :]]
        x = self.merge(self.merge_norm(torch.cat(corners, -1)))
        return self.head(x.mean(dim=(1, 2)))


class MixerBlock(nn.Module):
    """An MLP over the tokens, then one over the channels. Tolstikhin et al. 2021."""

    def __init__(self, tokens: int, width: int):
        super().__init__()
        self.token_norm, self.channel_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.token_mlp = nn.Sequential(nn.Linear(tokens, 24), nn.GELU(), nn.Linear(24, tokens))
        self.channel_mlp = nn.Sequential(nn.Linear(width, 48), nn.GELU(approximate="tanh"), nn.Linear(48, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.token_mlp(self.token_norm(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channel_mlp(self.channel_norm(x))


class MLPMixer(nn.Module):
    def __init__(self, classes: int = 10, width: int = 24):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 8, 8)
        self.blocks = nn.Sequential(*(MixerBlock(16, width) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).mT
        return self.head(self.norm(self.blocks(x)).mean(dim=1))


class ConvTransformer(nn.Module):
    """Convolutions, then attention among the pixels of the same place in each patch (unfold by reshape). After Mehta 2022."""

    def __init__(self, classes: int = 10, width: int = 16):
        super().__init__()
        self.local = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.SiLU(), nn.Conv2d(width, width, 3, 2, 1)
        )
        self.block = ViTBlock(width, 2)
        self.fuse = nn.Sequential(nn.Conv2d(2 * width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.SiLU())
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.local(x)
        batch, width, height, length = x.shape
        y = x.reshape(batch * width * height // 2, 2, length // 2, 2).transpose(1, 2)
        y = y.reshape(batch, width, -1, 4).transpose(1, 3).reshape(batch * 4, -1, width)
        y = self.block(y)
        y = y.view(batch, 4, -1, width).transpose(1, 3).reshape(batch * width * height // 2, length // 2, 2, 2)
        y = y.transpose(1, 2).reshape(batch, width, height, length)
        return self.head(F.adaptive_avg_pool2d(self.fuse(torch.cat((x, y), dim=1)), 1).flatten(1))
