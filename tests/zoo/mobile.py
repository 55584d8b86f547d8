"""Convolutional classifiers for phones: MobileNetV2, MobileNetV3, EfficientNet, ShuffleNetV2, GhostNet, narrow and short."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvNormAct(nn.Sequential):
    """Convolution, batch norm, activation. `activation` None leaves the last one out."""

    def __init__(
        self, cin: int, cout: int, kernel: int = 3, stride: int = 1, groups: int = 1, activation: type[nn.Module] | None = nn.ReLU6
    ):
        layers: list[nn.Module] = [
            nn.Conv2d(cin, cout, kernel, stride, padding=(kernel - 1) // 2, groups=groups, bias=False),
            nn.BatchNorm2d(cout),
        ]
        if activation is not None:
            layers.append(activation() if activation is nn.Sigmoid else activation(inplace=True))
        super().__init__(*layers)


class InvertedResidual(nn.Module):
    """Expand, depthwise, project. Sandler et al. 2018, figure 3."""

    def __init__(self, cin: int, cout: int, stride: int, expand: int):
        super().__init__()
        hidden = cin * expand
        self.use_shortcut = stride == 1 and cin == cout
        expansion = [ConvNormAct(cin, hidden, kernel=1)] if expand != 1 else []
        self.conv = nn.Sequential(
            *expansion, ConvNormAct(hidden, hidden, stride=stride, groups=hidden), ConvNormAct(hidden, cout, kernel=1, activation=None)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.use_shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self, classes: int = 10):
        super().__init__()
        settings = [(1, 8, 1, 1), (6, 12, 2, 2), (6, 16, 2, 2)]  # expand, channels, repeats, stride
        channels = 8
        features: list[nn.Module] = [ConvNormAct(3, channels, stride=2)]
        for expand, cout, repeats, stride in settings:
            for i in range(repeats):
                features.append(InvertedResidual(channels, cout, stride if i == 0 else 1, expand))
                channels = cout
        features.append(ConvNormAct(channels, 64, kernel=1))
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(64, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        x = F.adaptive_avg_pool2d(x, (1, 1)).reshape(x.shape[0], -1)
        return self.classifier(x)


class SqueezeExcite(nn.Module):
    """Gate the channels by their means. Hu et al. 2018."""

    def __init__(self, channels: int, squeezed: int, activation: nn.Module, gate: nn.Module):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation, self.gate = activation, gate

    def forward(self, x: Tensor) -> Tensor:
        scale = self.gate(self.fc2(self.activation(self.fc1(self.avgpool(x)))))
        return scale * x


class MobileNetV3Block(nn.Module):
    def __init__(self, cin: int, hidden: int, cout: int, kernel: int, stride: int, squeeze: bool, activation: type[nn.Module]):
        super().__init__()
        layers: list[nn.Module] = []
        if hidden != cin:
            layers.append(ConvNormAct(cin, hidden, kernel=1, activation=activation))
        layers.append(ConvNormAct(hidden, hidden, kernel, stride, groups=hidden, activation=activation))
        if squeeze:
            layers.append(SqueezeExcite(hidden, max(hidden // 4, 8), nn.ReLU(inplace=True), nn.Hardsigmoid()))
        layers.append(ConvNormAct(hidden, cout, kernel=1, activation=None))
        self.block = nn.Sequential(*layers)
        self.use_shortcut = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        result = self.block(x)
        if self.use_shortcut:
            result += x
        return result


class MobileNetV3(nn.Module):
    """Howard et al. 2019: squeeze-excite with hard sigmoid, hard swish in the later half."""

    def __init__(self, classes: int = 10):
        super().__init__()
        self.features = nn.Sequential(
            ConvNormAct(3, 8, stride=2, activation=nn.Hardswish),
            MobileNetV3Block(8, 8, 8, 3, 2, True, nn.ReLU),
            MobileNetV3Block(8, 24, 12, 3, 1, False, nn.ReLU),
            MobileNetV3Block(12, 32, 16, 5, 2, True, nn.Hardswish),
            MobileNetV3Block(16, 48, 16, 5, 1, True, nn.Hardswish),
            ConvNormAct(16, 48, kernel=1, activation=nn.Hardswish),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(48, 64), nn.Hardswish(inplace=True), nn.Dropout(p=0.2, inplace=True), nn.Linear(64, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


class HandWrittenHardMobileNet(nn.Module):
    """The hard activations as they were written before PyTorch had them: x * relu6(x + 3) / 6."""

    def __init__(self, classes: int = 10):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.squeeze, self.excite = nn.Linear(12, 6), nn.Linear(6, 12)
        self.head = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        x = x * F.relu6(x + 3.0) / 6.0
        x = self.depthwise(x)
        gate = self.excite(F.relu(self.squeeze(x.mean(dim=[2, 3]))))
        gate = F.relu6(gate + 3.0, inplace=True) * (1.0 / 6.0)
        x = x * gate.view(gate.size(0), -1, 1, 1)
        x = x * (torch.clamp(x + 3, 0, 6) / 6)
        return self.head(x.mean([-2, -1]))


class MBConv(nn.Module):
    """Inverted residual with SiLU and squeeze-excite; the residual goes through stochastic depth while training."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int, expand: int):
        super().__init__()
        hidden = cin * expand
        self.use_shortcut = stride == 1 and cin == cout
        steps: list[tuple[str, nn.Module]] = []
        if expand != 1:
            steps.append(("expand", ConvNormAct(cin, hidden, kernel=1, activation=nn.SiLU)))
        steps += [
            ("depthwise", ConvNormAct(hidden, hidden, kernel, stride, groups=hidden, activation=nn.SiLU)),
            ("excite", SqueezeExcite(hidden, max(1, cin // 4), nn.SiLU(inplace=True), nn.Sigmoid())),
            ("project", ConvNormAct(hidden, cout, kernel=1, activation=None)),
        ]
        self.block = nn.Sequential(OrderedDict(steps))

    def forward(self, x: Tensor) -> Tensor:
        y = self.block(x)
        if self.use_shortcut:
            if self.training:
                y = y * torch.empty(x.shape[0], 1, 1, 1).bernoulli_(0.8).div_(0.8)
            y += x
        return y


class EfficientNet(nn.Module):
    """Tan and Le 2019, four stages."""

    def __init__(self, classes: int = 10):
        super().__init__()
        mish = partial(ConvNormAct, activation=nn.SiLU)
        self.stem = mish(3, 8, stride=2)
        self.blocks = nn.ModuleList([MBConv(8, 8, 3, 1, 1), MBConv(8, 12, 3, 2, 4), MBConv(12, 12, 3, 1, 4), MBConv(12, 16, 5, 2, 4)])
        self.head = mish(16, 64, kernel=1)
        self.classifier = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = self.head(x)
        return self.classifier(F.dropout(x.mean((2, 3)), p=0.2, training=self.training))


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of `groups` groups. Zhang et al. 2018, figure 1."""
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    x = torch.transpose(x, 1, 2).contiguous()
    return x.view(batch, channels, height, width)


class ShuffleUnit(nn.Module):
    """Half of the channels pass through; with stride 2 both halves see all of them. Ma et al. 2018, figure 3."""

    def __init__(self, cin: int, cout: int, stride: int):
        super().__init__()
        self.stride, half = stride, cout // 2
        branch_in = cin if stride > 1 else cin // 2
        if stride > 1:
            self.branch1 = nn.Sequential(
                ConvNormAct(cin, cin, 3, stride, groups=cin, activation=None), ConvNormAct(cin, half, 1, activation=nn.ReLU)
            )
        self.branch2 = nn.Sequential(
            ConvNormAct(branch_in, half, 1, activation=nn.ReLU),
            ConvNormAct(half, half, 3, stride, groups=half, activation=None),
            ConvNormAct(half, half, 1, activation=nn.ReLU),
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            kept, changed = x.chunk(2, dim=1)
            out = torch.cat((kept, self.branch2(changed)), dim=1)
        else:
            out = torch.cat((self.branch1(x), self.branch2(x)), dim=1)
        return channel_shuffle(out, 2)


class ShuffleNetV2(nn.Module):
    def __init__(self, classes: int = 10):
        super().__init__()
        self.conv1 = ConvNormAct(3, 8, 3, 2, activation=nn.ReLU)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.stage2 = nn.Sequential(ShuffleUnit(8, 16, 2), ShuffleUnit(16, 16, 1), ShuffleUnit(16, 16, 1))
        self.conv5 = ConvNormAct(16, 32, 1, activation=nn.ReLU)
        self.fc = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv5(self.stage2(self.maxpool(self.conv1(x))))
        return self.fc(x.mean([2, 3]))


class GhostModule(nn.Module):
    """Half of the channels by convolution, the other half by a cheap depthwise one. Han et al. 2020."""

    def __init__(self, cin: int, cout: int):
        super().__init__()
        primary = (cout + 1) // 2
        self.cout = cout
        self.primary = ConvNormAct(cin, primary, 1, activation=nn.ReLU)
        self.cheap = ConvNormAct(primary, primary, 3, groups=primary, activation=nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        first = self.primary(x)
        return torch.cat([first, self.cheap(first)], dim=1)[:, : self.cout, :, :]


class GhostNet(nn.Module):
    def __init__(self, classes: int = 10):
        super().__init__()
        self.stem = ConvNormAct(3, 8, 3, 2, activation=nn.ReLU)
        self.ghosts = nn.Sequential(GhostModule(8, 15), nn.MaxPool2d(2), GhostModule(15, 15), GhostModule(15, 24))
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.ghosts(self.stem(x))).squeeze(3).squeeze(2))
