"""Torch modules, one net a file: the numbers of an architecture and how its weights are read, nothing of packets.

Every net takes pictures in two ways. ``forward`` takes (N, 3, H, W) float32 RGB in [0, 255] and can be
differentiated, for explanations. ``forward_images`` takes (N, H, W, 3) uint8 RGB, for inference engines, and
returns a tuple of float32 tensors; a net that takes pictures of any size says ``any_size = True``. Colour order
and normalisation are the net's own affair.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from safetensors.torch import load_file, save
from torch import Tensor, nn

from operators import weights
from pipeline.errors import WeightsError

Net = TypeVar("Net", bound=nn.Module)


def frozen(net: Net) -> Net:
    """The same net, ready for inference: evaluation mode, and no gradients towards its weights."""
    return net.eval().requires_grad_(requires_grad=False)


def planar(images: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 as (N, 3, H, W) float32 of the same values."""
    return images.permute(0, 3, 1, 2).float()


def in_order(net: nn.Module, tensors: Iterable[Tensor]) -> dict[str, Tensor]:
    """Name tensors after the weights of ``net``: both list the layers in the order in which a picture meets them.

    Raises:
        WeightsError: Their number or a shape differs.
    """
    named, given = net.state_dict(), list(tensors)
    if [tensor.shape for tensor in named.values()] != [tensor.shape for tensor in given]:
        message = f"the file holds {len(given)} tensors that do not fit the {len(named)} of {type(net).__name__}"
        raise WeightsError(message)
    return dict(zip(named, given, strict=True))


def packaged(net: Net, name: str, convert: Callable[[Net, Path], Mapping[str, Tensor]]) -> Net:
    """``net`` with the weights of a packaged asset, converted once and read from the cache ever after.

    Raises:
        WeightsError: The asset is missing or damaged, or does not fit ``net``.
    """
    source = weights.path(name)
    code = hashlib.sha256(Path(inspect.getfile(convert)).read_bytes()).hexdigest()[:12]
    converted = weights.cache() / "converted" / f"{name}-{code}.safetensors"
    if not converted.exists():
        tensors = {key: tensor.contiguous() for key, tensor in convert(net, source).items()}
        with weights.storing(f"the weights of {name}"):
            converted.parent.mkdir(parents=True, exist_ok=True)
            part = converted.with_suffix(f".{uuid4().hex}.part")
            part.write_bytes(save(tensors))
            part.replace(converted)
    net.load_state_dict(load_file(converted), strict=True)
    return frozen(net)
