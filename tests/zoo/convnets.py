"""Convolutional classifiers of the classic kind: ResNet bottleneck, DenseNet, ConvNeXt, RepVGG, Inception, group and instance norm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with expansion 4 and a projected shortcut. He et al. 2016."""

    expansion = 4

    def __init__(self, cin: int, width: int, stride: int = 1):
        super().__init__()
        cout = width * self.expansion
        self.conv1 = nn.Conv2d(cin, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, cout, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(cout)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or cin != cout:
            self.downsample = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNetBottleneck(nn.Module):
    """The blocks of ResNet-50, two stages of them."""

    def __init__(self, classes: int = 10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = nn.Sequential(Bottleneck(16, 8), Bottleneck(32, 8))
        self.layer2 = nn.Sequential(Bottleneck(32, 16, stride=2), Bottleneck(64, 16))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer2(self.layer1(x))
        x = torch.flatten(self.avgpool(x), 1)
        return self.fc(x)


class PreActivationResNet(nn.Module):
    """Batch norm and ReLU before each convolution, so that the norm cannot simply go into the one before it. He et al. 2016b."""

    def __init__(self, classes: int = 10):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(12) for _ in range(4))
        self.convs = nn.ModuleList(nn.Conv2d(12, 12, 3, padding=1, stride=s) for s in (2, 1, 2, 1))
        self.last = nn.BatchNorm2d(12)
        self.fc = nn.Linear(12 * 8 * 8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            y = conv(F.relu(norm(x)))
            x = x + y if y.shape == x.shape else F.avg_pool2d(x, 2) + y
        return self.fc(F.relu(self.last(x)).flatten(1))


class DenseLayer(nn.Module):
    """Normalize and convolve everything so far. Huang et al. 2017."""

    def __init__(self, cin: int, growth: int):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(cin), nn.Conv2d(cin, 2 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(2 * growth), nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = torch.cat(features, 1)
        x = self.conv1(F.relu(self.norm1(x), inplace=True))
        return self.conv2(F.relu(self.norm2(x), inplace=True))


class DenseNet(nn.Module):
    def __init__(self, classes: int = 10, growth: int = 6):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2, padding=1, bias=False)
        self.block1 = nn.ModuleList(DenseLayer(12 + i * growth, growth) for i in range(3))
        self.transition = nn.Sequential(
            nn.BatchNorm2d(30), nn.ReLU(inplace=True), nn.Conv2d(30, 15, 1, bias=False), nn.AvgPool2d(2, stride=2)
        )
        self.block2 = nn.ModuleList(DenseLayer(15 + i * growth, growth) for i in range(2))
        self.norm = nn.BatchNorm2d(27)
        self.classifier = nn.Linear(27, classes)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.block1:
            features.append(layer(features))
        features = [self.transition(torch.cat(features, 1))]
        for layer in self.block2:
            features.append(layer(features))
        x = F.relu(self.norm(torch.cat(features, 1)), inplace=True)
        x = F.adaptive_avg_pool2d(x, (1, 1))
        return self.classifier(torch.flatten(x, 1))


class ChannelsFirstLayerNorm(nn.Module):
    """LayerNorm over axis 1 of [batch, channel, height, width], spelled out as ConvNeXt does."""

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + self.eps)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, LayerNorm, MLP in channels-last, layer scale. Liu et al. 2022."""

    def __init__(self, channels: int):
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, kernel_size=7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.act = nn.GELU()
        self.gamma = nn.Parameter(0.1 * torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.dwconv(x).permute(0, 2, 3, 1)
        x = self.pwconv2(self.act(self.pwconv1(self.norm(x))))
        x = (self.gamma * x).permute(0, 3, 1, 2)
        return shortcut + x


class ConvNeXt(nn.Module):
    def __init__(self, classes: int = 10):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, kernel_size=4, stride=4), ChannelsFirstLayerNorm(16))
        self.stage1 = nn.Sequential(ConvNeXtBlock(16), ConvNeXtBlock(16))
        self.downsample = nn.Sequential(ChannelsFirstLayerNorm(16), nn.Conv2d(16, 32, kernel_size=2, stride=2))
        self.stage2 = ConvNeXtBlock(32)
        self.norm = nn.LayerNorm(32, eps=1e-6)
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage2(self.downsample(self.stage1(self.stem(x))))
        return self.head(self.norm(x.mean([-2, -1])))


class RepVGGBlock(nn.Module):
    """Three parallel branches, each with its batch norm, as while training. Ding et al. 2021."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv3 = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.conv1 = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.identity = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv3(x) + self.conv1(x) + self.identity(x))


class InceptionRep(nn.Module):
    """RepVGG blocks with an Inception-like block of asymmetric and pooled branches between."""

    def __init__(self, classes: int = 10):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.first, self.last = RepVGGBlock(8), RepVGGBlock(24)
        self.tall, self.wide = nn.Conv2d(8, 8, (5, 1), padding=(2, 0)), nn.Conv2d(8, 8, (1, 5), padding="same")
        self.pooled = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(F.elu(self.stem(x)))
        pooled = F.avg_pool2d(x, kernel_size=3, stride=1, padding=1, count_include_pad=False)
        branches = [F.leaky_relu(self.tall(x), 0.1), F.leaky_relu_(self.wide(x), 0.1), self.pooled(pooled)]
        x = self.last(torch.cat(branches, 1))
        return F.log_softmax(self.fc(x.amax(dim=(2, 3))), dim=1)


class GroupInstanceNet(nn.Module):
    """Group norm, instance norm with and without affine, and PReLU: norms that look at the input while running."""

    def __init__(self, classes: int = 10):
        super().__init__()
        self.conv1, self.group = nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.GroupNorm(4, 16)
        self.conv2, self.instance = nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"), nn.InstanceNorm2d(16, affine=True)
        self.conv3, self.plain = nn.Conv2d(16, 16, 3, dilation=2, padding=2), nn.InstanceNorm2d(16)
        self.prelu = nn.PReLU(16)
        self.fc = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.group(self.conv1(x)))
        x = self.prelu(self.instance(self.conv2(x)))
        x = torch.tanh(self.plain(self.conv3(x)))
        return self.fc(F.adaptive_max_pool2d(x, 1)[:, :, 0, 0])
