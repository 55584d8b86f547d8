"""Networks with an image or boxes as output: U-Net, SSD and YOLO heads, feature pyramid, super-resolution, autoencoder, segmentation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def double_conv(cin: int, cout: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(cin, cout, 3, padding=1, bias=False),
        nn.BatchNorm2d(cout),
        nn.ReLU(inplace=True),
        nn.Conv2d(cout, cout, 3, padding=1, bias=False),
        nn.BatchNorm2d(cout),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """Max-pool down, bilinear up, skip connections padded to fit and concatenated. Ronneberger et al. 2015."""

    def __init__(self, classes: int = 2):
        super().__init__()
        self.enter, self.down1, self.down2 = double_conv(3, 6), double_conv(6, 12), double_conv(12, 12)
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.up1, self.up2 = double_conv(24, 6), double_conv(12, 6)
        self.leave = nn.Conv2d(6, classes, kernel_size=1)

    def join(self, deep: Tensor, skip: Tensor) -> Tensor:
        deep = self.up(deep)
        dy, dx = skip.size(2) - deep.size(2), skip.size(3) - deep.size(3)
        deep = F.pad(deep, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return torch.cat([skip, deep], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.enter(x)
        b = self.down1(self.pool(a))
        c = self.down2(self.pool(b))
        x = self.up1(self.join(c, b))
        x = self.up2(self.join(x, a))
        return self.leave(x)


class SSD(nn.Module):
    """A class and a box branch on two scales, all anchors in one row. Liu et al. 2016."""

    def __init__(self, classes: int = 4, anchors: int = 3):
        super().__init__()
        self.classes = classes
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.extra = nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
        self.scores = nn.ModuleList(nn.Conv2d(16, anchors * classes, 3, padding=1) for _ in range(2))
        self.boxes = nn.ModuleList(nn.Conv2d(16, anchors * 4, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.stem(x)
        scores, boxes = [], []
        for feature, score, box in zip([fine, self.extra(fine)], self.scores, self.boxes, strict=True):
            scores.append(score(feature).permute(0, 2, 3, 1).contiguous().view(x.size(0), -1, self.classes))
            boxes.append(box(feature).permute(0, 2, 3, 1).contiguous().view(x.size(0), -1, 4))
        return F.softmax(torch.cat(scores, dim=1), dim=-1), torch.cat(boxes, dim=1)


class YOLOHead(nn.Module):
    """Grid and anchor decoding in the graph; gives the decoded rows and the raw maps. After Redmon and Farhadi 2018."""

    def __init__(self, classes: int = 3):
        super().__init__()
        self.outputs = classes + 5
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.LeakyReLU(0.1),
            nn.Conv2d(8, 16, 3, 2, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.SiLU(),
        )
        self.deeper = nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1), nn.SiLU())
        self.heads = nn.ModuleList(nn.Conv2d(16, 2 * self.outputs, 1) for _ in range(2))
        self.register_buffer("anchors", torch.tensor([[[8.0, 10.0], [16.0, 12.0]], [[22.0, 28.0], [40.0, 32.0]]]))
        self.strides = (4, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        fine = self.backbone(x)
        rows, maps = [], []
        for i, feature in enumerate((fine, self.deeper(fine))):
            raw = self.heads[i](feature)
            batch, _, ny, nx = raw.shape
            raw = raw.view(batch, 2, self.outputs, ny, nx).permute(0, 1, 3, 4, 2).contiguous()
            yv, xv = torch.meshgrid([torch.arange(ny, device=x.device), torch.arange(nx, device=x.device)], indexing="ij")
            grid = torch.stack((xv, yv), 2).view((1, 1, ny, nx, 2)).float()
            y = raw.sigmoid()
            xy = (y[..., 0:2] * 2.0 - 0.5 + grid) * self.strides[i]
            wh = (y[..., 2:4] * 2) ** 2 * self.anchors[i].view(1, 2, 1, 1, 2)
            y = torch.cat((xy, wh, y[..., 4:]), -1)
            rows.append(y.view(batch, -1, self.outputs))
            maps.append(raw)
        return torch.cat(rows, 1), maps


class DistributionBoxHead(nn.Module):
    """Anchor-free boxes from a softmax over bins, by a fixed 1x1 convolution with the bin numbers. After Li et al. 2020."""

    def __init__(self, classes: int = 3, bins: int = 8):
        super().__init__()
        self.bins, self.classes = bins, classes
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, 4, 1), nn.BatchNorm2d(12), nn.SiLU(inplace=True))
        self.branch = nn.Conv2d(12, 4 * bins + classes, 1)
        self.expectation = nn.Conv2d(bins, 1, 1, bias=False).requires_grad_(False)
        self.expectation.weight.data[:] = torch.arange(bins, dtype=torch.float32).view(1, bins, 1, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.branch(self.stem(x)).flatten(2)
        box, score = x.split((4 * self.bins, self.classes), 1)
        batch, _, anchors = box.shape
        distance = self.expectation(box.view(batch, 4, self.bins, anchors).transpose(2, 1).softmax(1)).view(batch, 4, anchors)
        left_top, right_bottom = distance.chunk(2, 1)
        centre = (torch.arange(anchors, device=x.device, dtype=x.dtype) + 0.5).unsqueeze(0).unsqueeze(0)
        low, high = centre - left_top, centre + right_bottom
        best, label = score.sigmoid().max(1)
        return {"boxes": torch.cat(((low + high) / 2, high - low), 1), "scores": best, "labels": label}


class FeaturePyramid(nn.Module):
    """Lateral 1x1 convolutions and nearest upsampling on the way down; one output a level. Lin et al. 2017."""

    def __init__(self) -> None:
        super().__init__()
        widths = [8, 12, 16]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in zip([3, *widths], widths, strict=False)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(w, 8, 1) for w in widths)
        self.smooth = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in widths)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        top = self.lateral[-1](features[-1])
        levels = {"p3": self.smooth[-1](top)}
        for i in (1, 0):
            top = self.lateral[i](features[i]) + F.interpolate(top, size=features[i].shape[-2:], mode="nearest")
            levels[f"p{i + 1}"] = self.smooth[i](top)
        return levels


class SuperResolution(nn.Module):
    """Sub-pixel convolution on top of a bicubic-free residual. Shi et al. 2016."""

    def __init__(self, factor: int = 2):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 5, padding=2), nn.Conv2d(16, 8, 3, padding=1)
        self.conv3 = nn.Conv2d(8, factor**2, 3, padding=1)
        self.pixel_shuffle = nn.PixelShuffle(factor)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.conv1(x))
        y = torch.tanh(self.conv2(y))
        y = self.pixel_shuffle(self.conv3(y))
        return torch.clamp(y + F.interpolate(x, scale_factor=self.factor, mode="bilinear", align_corners=False), 0.0, 1.0)


class ConvAutoencoder(nn.Module):
    """Strided convolutions down, transposed convolutions with batch norm up; gives the picture and its code."""

    def __init__(self, code: int = 16):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.ReLU(True), nn.Conv2d(8, 12, 4, 2, 1), nn.ReLU(True))
        self.to_code, self.from_code = nn.Linear(12 * 8 * 8, code), nn.Linear(code, 12 * 8 * 8)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(12, 8, 4, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(True),
            nn.ConvTranspose2d(8, 8, 3, 2, 1, output_padding=1, groups=2),
            nn.BatchNorm2d(8),
            nn.Softplus(),
            nn.Conv2d(8, 3, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.to_code(self.encoder(x).flatten(start_dim=1))
        return self.decoder(self.from_code(code).unflatten(1, (12, 8, 8))), code


class AtrousSegmenter(nn.Module):
    """Parallel dilated convolutions and a pooled branch, class map at full size. After Chen et al. 2017."""

    def __init__(self, classes: int = 4):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU())
        self.rates = nn.ModuleList(nn.Conv2d(12, 8, 3, padding=r, dilation=r) for r in (1, 2, 3))
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(12, 8, 1), nn.ReLU())
        self.project = nn.Conv2d(32, classes, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.stem(x)
        pooled = F.interpolate(self.pooled(y), size=y.shape[2:], mode="bilinear", align_corners=False)
        y = self.project(torch.cat([*(F.relu(rate(y)) for rate in self.rates), pooled], dim=1))
        y = F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return y, y.argmax(1)
