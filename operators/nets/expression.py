"""The emotion that one picture of a face shows: four blocks of separable convolutions whose outputs add up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from operators.nets import frozen, in_order, packaged, planar

SIDE = 112
"""Height and width in pixels of the face."""
LABELS = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
"""Order of the logits."""
_MEAN = (122.782, 117.001, 104.298)  # RGB


class Same(nn.Conv2d):
    """A 3x3 convolution padded as TensorFlow pads an even side: with stride 2 only below and on the right."""

    def __init__(self, inside: int, outside: int, stride: int, groups: int = 1, *, bias: bool = True) -> None:
        super().__init__(inside, outside, 3, stride, padding=2 - stride, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.stride == (1, 1) else F.pad(x, (0, 1, 0, 1)))


def separable(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    """A depthwise convolution without bias and a pointwise one."""
    return nn.Sequential(Same(inside, inside, stride, inside, bias=False), nn.Conv2d(inside, outside, 1))


class Dense(nn.Module):
    """Halves the picture, then adds three convolutions to it, each of which sees the sum so far."""

    def __init__(self, first: nn.Module, channels: int) -> None:
        super().__init__()
        self.first = first
        self.rest = nn.ModuleList([separable(channels, channels) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        total = F.relu(self.first(x))
        for layer in self.rest:
            total = total + layer(F.relu(total))
        return F.relu(total)


class Expression(nn.Module):
    """The emotion net: (N, 3, 112, 112) float32 RGB in [0, 255] to logits (N, 7) in the order of ``LABELS``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first = [Same(3, width, 2), *(separable(width << k, width << k + 1, 2) for k in range(3))]
        self.blocks = nn.Sequential(*(Dense(layer, width << k) for k, layer in enumerate(first)))
        self.classify = nn.Linear(width << 3, len(LABELS))
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.mean: Tensor

    def features(self, x: Tensor) -> Tensor:
        """What the logits are read from: (N, 8 width), the mean of the last 7x7 map."""
        return self.blocks((x - self.mean) / 255).mean((2, 3))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))  # type: ignore[no-any-return]

    def forward_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, 7) and features (N, 8 width) of (N, 112, 112, 3) uint8 RGB."""
        features = self.features(planar(images))
        return self.classify(features), features


def _convert(net: Expression, source: Path) -> dict[str, Tensor]:
    """Read the weights of a TensorFlow.js manifest: kernels lie there as (height, width, in, out)."""
    manifest = json.loads((source / "face_expression_model-weights_manifest.json").read_text())
    stored = (source / "face_expression_model.bin").read_bytes()
    tensors, start = [], 0
    for entry in manifest[0]["weights"]:
        values, start = _values(entry, stored, start)
        tensors.append(_as_torch(entry["name"], torch.tensor(values)))
    return in_order(net, tensors)


def _values(entry: dict[str, Any], stored: bytes, start: int) -> tuple[NDArray[np.float32], int]:
    """The numbers of one entry, and where the next one starts; quantised bytes are ``byte * scale + min``."""
    quantised = entry.get("quantization")
    kind = np.dtype(quantised["dtype"] if quantised else entry["dtype"])
    count = int(np.prod(entry["shape"]))
    values = np.frombuffer(stored, kind, count, start).astype(np.float32)
    if quantised:
        values = values * np.float32(quantised["scale"]) + np.float32(quantised["min"])
    return values.reshape(entry["shape"]), start + count * kind.itemsize


def _as_torch(name: str, kernel: Tensor) -> Tensor:
    if name.endswith("depthwise_filter"):
        return kernel.permute(2, 3, 0, 1)
    return kernel.permute(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T if kernel.ndim == 2 else kernel


def build(width: int = 32) -> Expression:
    """The net with random weights; ``width`` is the number of channels of the first block."""
    return frozen(Expression(width))


def load() -> Expression:
    """The net with the packaged weights.

    Raises:
        WeightsError: They were not pulled, or are not the ones that were pinned.
    """
    return packaged(build(), "expression", _convert)
