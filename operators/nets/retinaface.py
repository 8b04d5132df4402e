"""RetinaFace on MobileNet 0.25: every face of a picture with a box and five landmarks (Deng et al. 2020)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from operators.nets import frozen, in_order, packaged, planar

Floats = NDArray[np.float32]

STRIDES = (8, 16, 32)
ANCHORS = ((16, 32), (64, 128), (256, 512))
"""Sides in pixels of the square anchors at each cell, for each of the ``STRIDES``."""
_CENTRE, _SIZE = 0.1, 0.2  # the variances by which SSD scales what it regresses
_MEAN = (123.0, 117.0, 104.0)  # RGB
_SLOPE = 0.1


def conv(inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size but for its stride; its batch normalisation is folded into it."""
    return nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups)


def leaky(*convs: nn.Conv2d) -> nn.Sequential:
    """The convolutions, each with its leaky rectifier."""
    return nn.Sequential(*(layer for each in convs for layer in (each, nn.LeakyReLU(_SLOPE))))


def separable(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    """A depthwise and a pointwise convolution (Howard et al. 2017)."""
    return leaky(conv(inside, inside, 3, stride, groups=inside), conv(inside, outside, 1))


class Backbone(nn.Module):
    """MobileNet without its classifier: maps at the strides 8, 16 and 32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        w = width
        self.stage1 = nn.Sequential(
            leaky(conv(3, w, 3, 2)), separable(w, 2 * w), separable(2 * w, 4 * w, 2), separable(4 * w, 4 * w),
            separable(4 * w, 8 * w, 2), separable(8 * w, 8 * w),
        )  # fmt: skip
        self.stage2 = nn.Sequential(separable(8 * w, 16 * w, 2), *(separable(16 * w, 16 * w) for _ in range(5)))
        self.stage3 = nn.Sequential(separable(16 * w, 32 * w, 2), separable(32 * w, 32 * w))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine = self.stage1(x)
        middle = self.stage2(fine)
        return fine, middle, self.stage3(middle)


class Pyramid(nn.Module):
    """Feature pyramid: lends the coarse maps' meaning to the fine ones (Lin et al. 2017)."""

    def __init__(self, inside: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList([leaky(conv(each, channels, 1)) for each in inside])
        self.merge_fine = leaky(conv(channels, channels, 3))
        self.merge_middle = leaky(conv(channels, channels, 3))

    def forward(self, maps: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        fine, middle, coarse = (lateral(each) for lateral, each in zip(self.lateral, maps, strict=True))
        middle = self.merge_middle(middle + F.interpolate(coarse, size=middle.shape[-2:]))
        fine = self.merge_fine(fine + F.interpolate(middle, size=fine.shape[-2:]))
        return fine, middle, coarse


class Context(nn.Module):
    """Looks at a map with windows of 3, 5 and 7 cells, the wider ones by stacking (Najibi et al. 2017, SSH)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.three = conv(channels, half, 3)
        self.shared = leaky(conv(channels, quarter, 3))
        self.five = conv(quarter, quarter, 3)
        self.seven = nn.Sequential(leaky(conv(quarter, quarter, 3)), conv(quarter, quarter, 3))

    def forward(self, x: Tensor) -> Tensor:
        shared = self.shared(x)
        return F.relu(torch.cat([self.three(x), self.five(shared), self.seven(shared)], 1))


class RetinaFace(nn.Module):
    """The detector. Height and width may be any; what it gives for A anchors is in the order of ``priors``."""

    any_size = True

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.body = Backbone(width)
        self.pyramid = Pyramid((8 * width, 16 * width, 32 * width), channels)
        self.context = nn.ModuleList([Context(channels) for _ in STRIDES])
        each = len(ANCHORS[0])
        self.classes = nn.ModuleList([conv(channels, 2 * each, 1) for _ in STRIDES])
        self.boxes = nn.ModuleList([conv(channels, 4 * each, 1) for _ in STRIDES])
        self.landmarks = nn.ModuleList([conv(channels, 10 * each, 1) for _ in STRIDES])
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.mean: Tensor

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Find faces.

        Args:
            x: (N, 3, H, W) float32 RGB in [0, 255].

        Returns:
            Raw box offsets (N, A, 4), scores (N, A) in [0, 1], raw landmark offsets (N, A, 10).
        """
        maps = self.pyramid(self.body(x - self.mean))
        maps = [context(each) for context, each in zip(self.context, maps, strict=True)]
        classes = _by_anchor(self.classes, maps, 2)
        return _by_anchor(self.boxes, maps, 4), classes.softmax(-1)[..., 1], _by_anchor(self.landmarks, maps, 10)

    def forward_images(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same for (N, H, W, 3) uint8 RGB."""
        return self(planar(images))  # type: ignore[no-any-return]


def _by_anchor(heads: nn.ModuleList, maps: list[Tensor], numbers: int) -> Tensor:
    rows = [head(each).permute(0, 2, 3, 1).flatten(1) for head, each in zip(heads, maps, strict=True)]
    joined = torch.cat(rows, 1)
    return joined.reshape(joined.shape[0], -1, numbers)


def priors(height: int, width: int) -> Floats:
    """Anchors of a picture: (A, 4) float32, centre x, centre y, width, height in pixels.

    Strides from fine to coarse, cells row by row, the small anchor of a cell before the large one.
    """
    levels = [_level(height, width, stride, sides) for stride, sides in zip(STRIDES, ANCHORS, strict=True)]
    return np.concatenate(levels).astype(np.float32)


def _level(height: int, width: int, stride: int, sides: tuple[int, ...]) -> NDArray[np.float64]:
    rows, columns = -(-height // stride), -(-width // stride)
    y, x, side = np.meshgrid(np.arange(rows), np.arange(columns), np.array(sides, float), indexing="ij")
    return np.stack([(x + 0.5) * stride, (y + 0.5) * stride, side, side], -1).reshape(-1, 4)


def decode_boxes(anchors: Floats, offsets: Floats) -> Floats:
    """Boxes from anchors and raw offsets (Liu et al. 2016, SSD): both (..., 4), to (..., 4) float32 xyxy pixels."""
    centre = anchors[..., :2] + _CENTRE * offsets[..., :2] * anchors[..., 2:]
    half = anchors[..., 2:] * np.exp(_SIZE * offsets[..., 2:]) / 2
    return np.concatenate([centre - half, centre + half], -1)


def decode_landmarks(anchors: Floats, offsets: Floats) -> Floats:
    """Landmarks from anchors (..., 4) and raw offsets (..., 10), to (..., 5, 2) float32 xy pixels.

    The order is: eye on the picture's left, eye on its right, nose, mouth corner left, mouth corner right.
    """
    steps = offsets.reshape(*offsets.shape[:-1], 5, 2)
    return anchors[..., None, :2] + _CENTRE * steps * anchors[..., None, 2:]


def _convert(net: RetinaFace, source: Path) -> dict[str, Tensor]:
    """Fold each batch normalisation into its convolution, and take RGB where the file takes BGR."""
    loaded = torch.load(source, map_location="cpu", weights_only=True)
    checkpoint = {key.removeprefix("module."): tensor for key, tensor in loaded.items()}
    (stem, bias), *rest = [_layer(checkpoint, key) for key, tensor in checkpoint.items() if tensor.ndim == 4]
    return in_order(net, (tensor for layer in [(stem.flip(1), bias), *rest] for tensor in layer))


def _layer(checkpoint: dict[str, Tensor], key: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution; where it has no bias, the next layer is its batch normalisation."""
    layer = key.removesuffix(".weight")
    if (bias := checkpoint.get(f"{layer}.bias")) is not None:
        return checkpoint[key], bias
    block, _, index = layer.rpartition(".")
    norm = f"{block}.{int(index) + 1}"
    scale, shift, mean, variance = (
        checkpoint[f"{norm}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")
    )
    return fuse_conv_bn_weights(checkpoint[key], None, mean, variance, nn.BatchNorm2d(1).eps, scale, shift)


def build(width: int = 8, channels: int = 64) -> RetinaFace:
    """The net with random weights; ``width`` is the number of channels of the first layer."""
    return frozen(RetinaFace(width, channels))


def load() -> RetinaFace:
    """The net with the packaged weights.

    Raises:
        WeightsError: They were not pulled, or are not the ones that were pinned.
    """
    return packaged(build(), "retinaface", _convert)
