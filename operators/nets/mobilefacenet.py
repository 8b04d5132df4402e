"""MobileFaceNet: a face as 512 numbers whose angle to another face's tells who it is (Chen et al. 2018)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from operators.nets import frozen, in_order, packaged, planar

SIDE = 112
"""Height and width in pixels of the aligned face."""
_MAP = 7  # height and width of the last map


def conv(inside: int, outside: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size but for its stride; its batch normalisation is folded into it."""
    return nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups)


class Rectifier(nn.PReLU):
    """A rectifier whose slope below zero is learnt for each channel (He et al. 2015)."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.onnx.is_in_onnx_export():
            return super().forward(x)
        # ONNX Runtime's PRelu takes longer than all convolutions together; this is the same and takes a fifth.
        slope = self.weight.view(-1, 1, 1)
        return slope * x + (1 - slope) * F.relu(x)


def rectified(inside: int, outside: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution with its rectifier."""
    return nn.Sequential(conv(inside, outside, kernel, stride, groups), Rectifier(outside))


def bottleneck(inside: int, outside: int, hidden: int, stride: int = 1) -> nn.Sequential:
    """Widen, look around in each channel, narrow without a rectifier (Sandler et al. 2018)."""
    around = rectified(hidden, hidden, 3, stride, groups=hidden)
    return nn.Sequential(rectified(inside, hidden), around, conv(hidden, outside))


class Residual(nn.Module):
    """A bottleneck that adds to what it was given."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.block = bottleneck(channels, channels, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)  # type: ignore[no-any-return]


class MobileFaceNet(nn.Module):
    """The identity net: (N, 3, 112, 112) float32 RGB in [0, 255] to (N, dimensions), not normalised."""

    def __init__(self, width: int, dimensions: int) -> None:
        super().__init__()
        w = width
        self.layers = nn.Sequential(
            rectified(3, w, 3, 2),
            rectified(w, w, 3, groups=w),
            bottleneck(w, w, 2 * w, 2),
            *(Residual(w, 2 * w) for _ in range(4)),
            bottleneck(w, 2 * w, 4 * w, 2),
            *(Residual(2 * w, 4 * w) for _ in range(6)),
            bottleneck(2 * w, 2 * w, 8 * w, 2),
            *(Residual(2 * w, 4 * w) for _ in range(2)),
            rectified(2 * w, 8 * w),
        )
        self.whole = nn.Conv2d(8 * w, 8 * w, _MAP, groups=8 * w)
        self.project = conv(8 * w, dimensions)

    def trunk(self, x: Tensor) -> Tensor:
        """The last map, (N, 8 width, 7, 7): where the face still has a place."""
        return self.layers((x - 127) / 128)  # type: ignore[no-any-return]

    def head(self, last_map: Tensor) -> Tensor:
        """The vector (N, dimensions) of a last map. It is an affine function of it."""
        return self.project(self.whole(last_map)).flatten(1)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))

    def embed(self, x: Tensor) -> Tensor:
        """The same at unit length, as identities are compared."""
        return F.normalize(self(x))

    def forward_images(self, images: Tensor) -> tuple[Tensor]:
        """Unit vectors (N, dimensions) of (N, 112, 112, 3) uint8 RGB."""
        return (self.embed(planar(images)),)


def _convert(net: MobileFaceNet, source: Path) -> dict[str, Tensor]:
    """Read the weights layer by layer off an ONNX graph, and take RGB where it takes BGR."""
    import onnx  # noqa: PLC0415  (needed once, for the conversion)

    graph = onnx.load(source).graph
    stored = {each.name: torch.tensor(onnx.numpy_helper.to_array(each)) for each in graph.initializer}
    layers = [node for node in graph.node if node.op_type in {"Conv", "PRelu"}]
    stem, *rest = [stored[name] for node in layers for name in node.input[1:]]
    # A slope is stored as (C, 1, 1) there and as (C,) in torch.
    return in_order(net, [stem.flip(1), *(each.flatten() if each.ndim == 3 else each for each in rest)])


def build(width: int = 64, dimensions: int = 512) -> MobileFaceNet:
    """The net with random weights; ``width`` is the number of channels of the first layer."""
    return frozen(MobileFaceNet(width, dimensions))


def load() -> MobileFaceNet:
    """The net with the packaged weights.

    Raises:
        WeightsError: They were not pulled, or are not the ones that were pinned.
    """
    return packaged(build(), "mobilefacenet", _convert)
