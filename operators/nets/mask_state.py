"""Tells whether a mask hides a face: a small depthwise-separable net on aligned crops."""

from __future__ import annotations

from safetensors.torch import load_file
from torch import Tensor, nn

from operators import weights
from operators.nets import frozen, planar


class Separable(nn.Sequential):
    """A depthwise 3x3 convolution and a pointwise one, each with batch normalisation and ReLU (Howard et al. 2017)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )


class MaskState(nn.Module):
    """Logit of "a mask hides mouth and nose". The crop is seen at half its size, (64, 64).

    The last map is weighted place by place, not averaged: cloth on the forehead is no mask.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )  # (N, width, 32, 32)
        self.trunk = nn.Sequential(
            Separable(width, 2 * width),
            Separable(2 * width, 4 * width, stride=2),  # (16, 16)
            Separable(4 * width, 4 * width),
            Separable(4 * width, 6 * width, stride=2),  # (8, 8)
            Separable(6 * width, 6 * width),
            Separable(6 * width, 6 * width),
        )
        self.places = nn.Conv2d(6 * width, 6 * width, 8, groups=6 * width)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(6 * width, 1)

    def forward(self, crops: Tensor) -> Tensor:
        """(N,) logits of (N, 3, 128, 128) float RGB in 0..255."""
        return self.look(nn.functional.avg_pool2d(crops, 2))

    def look(self, small: Tensor) -> Tensor:
        """(N,) logits of crops at half their size, (N, 3, 64, 64) float RGB in 0..255."""
        x = self.places(self.trunk(self.stem((small - 127.5) / 64))).flatten(1)
        return self.head(self.drop(nn.functional.relu(x))).squeeze(1)  # type: ignore[no-any-return]

    def forward_images(self, images: Tensor) -> tuple[Tensor]:
        """Probabilities (N,) in [0, 1] of (N, 128, 128, 3) uint8 RGB."""
        return (self(planar(images)).sigmoid(),)


def build(width: int = 16) -> MaskState:
    """The net with random weights; ``width`` is the number of channels of the first layer."""
    return frozen(MaskState(width))


def load() -> MaskState:
    """The net with omote's own weights.

    Raises:
        WeightsError: They are missing from this installation.
    """
    net = build()
    net.load_state_dict(load_file(weights.own("mask_state")))
    return net
