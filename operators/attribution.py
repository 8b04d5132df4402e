"""The mathematics of explanations: what each pixel contributed to a score, and whether to believe it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import torch
from captum.attr import IntegratedGradients
from numpy.typing import NDArray
from torch import Tensor

from pipeline.packets import Floats

Score = Callable[[Tensor], Tensor]
"""Pictures (N, 3, H, W) float32 to what is explained of each, (N,)."""
Region = NDArray[np.bool_]
"""(H, W), the pixels that are meant."""

_SEGMENT = 8  # quadrature points on one piece of the path
_LEAST = 1e-6  # keeps a ratio finite where a score gains nothing


@dataclass(frozen=True, slots=True, eq=False)
class _Segment:
    """The integral over the piece of the path from ``start`` to ``end``, both in [0, 1]."""

    start: float
    end: float
    attributions: Tensor
    error: float


def integrated_gradients(
    score: Score, picture: Tensor, baseline: Tensor, steps: int = 64, max_steps: int = 224, tolerance: float = 0.05
) -> Tensor:
    """Integrated Gradients (Sundararajan et al. 2017), by adaptive Gauss-Legendre quadrature.

    The attributions along a straight path are the sum of those of its pieces. A net of rectifiers
    changes most near a flat baseline, so the piece that fails completeness most is halved until
    the whole satisfies it; evenly spread points would need many times as many gradients.

    Args:
        score: What is explained; differentiable.
        picture: (1, 3, H, W) float32.
        baseline: The same shape, a picture that shows nothing.
        steps: Gradients to begin with.
        max_steps: Gradients at most, whatever the error is then.
        tolerance: Completeness error at which to stop.

    Returns:
        (1, 3, H, W) float32 that sum up to about ``score(picture) - score(baseline)``.
    """
    pieces = max(1, steps // _SEGMENT)
    ends = [n / pieces for n in range(pieces + 1)]
    segments = [_integrate(score, picture, baseline, a, b) for a, b in pairwise(ends)]
    gained = gain(score, picture, baseline)
    for _ in range((max_steps - pieces * _SEGMENT) // (2 * _SEGMENT)):
        if abs(sum(s.error for s in segments)) <= tolerance * abs(gained):
            break
        worst = max(segments, key=lambda s: abs(s.error))
        segments.remove(worst)
        middle = (worst.start + worst.end) / 2
        segments.append(_integrate(score, picture, baseline, worst.start, middle))
        segments.append(_integrate(score, picture, baseline, middle, worst.end))
    return torch.stack([segment.attributions for segment in segments]).sum(0)


def _integrate(score: Score, picture: Tensor, baseline: Tensor, start: float, end: float) -> _Segment:
    first, last = (baseline + share * (picture - baseline) for share in (start, end))
    found: Tensor = IntegratedGradients(score).attribute(last, first, n_steps=_SEGMENT, method="gausslegendre")
    return _Segment(start, end, found.detach(), float(found.sum()) - gain(score, last, first))


def gain(score: Score, picture: Tensor, baseline: Tensor) -> float:
    """How much higher ``picture`` scores than ``baseline``."""
    with torch.no_grad():
        above, below = score(torch.cat([picture, baseline]))
    return float(above) - float(below)


def log_odds(logits: Tensor, target: int) -> Tensor:
    """How far one class is ahead of all others together: the logit of its softmax probability.

    A class's own output says little, for it may rise while others rise more.

    Args:
        logits: (N, K).
        target: Which of the K.

    Returns:
        (N,) ``z_target - log sum exp z_other``.
    """
    itself = torch.arange(logits.shape[1], device=logits.device) == target
    return logits[:, target] - logits.masked_fill(itself, -torch.inf).logsumexp(1)


def completeness_error(attributed: float, gained: float) -> float:
    """|attributed - gained| / |gained|: the share of a score's gain that attributions miss or make up."""
    return abs(attributed - gained) / max(abs(gained), _LEAST)


def cosine_contributions(head: Callable[[Tensor], Tensor], last_map: Tensor, direction: Tensor) -> tuple[Floats, float]:
    """What each place of a map contributed to a cosine similarity: exact, forward only, the same every time.

    A head that is affine gives, for the map alone at one place, that place's part of the vector. The
    cosine is the vector's product with a direction over its length, so its parts are parts of the cosine.

    Args:
        head: An affine function from maps (N, C, h, w) to vectors (N, D).
        last_map: (1, C, h, w), what the picture became before the head.
        direction: (D,) of unit length, what the vector is compared with.

    Returns:
        (h, w) float32 contributions, and the constant part that no place contributed: together the cosine.
    """
    height, width = last_map.shape[-2:]
    places = torch.eye(height * width, device=last_map.device).view(-1, 1, height, width)
    with torch.no_grad():
        length = head(last_map).norm()
        nowhere = head(torch.zeros_like(last_map)) @ direction
        parts = (head(places * last_map) @ direction - nowhere) / length
    return parts.view(height, width).cpu().numpy(), float(nowhere / length)


def similar_and_dissimilar(contributions: Floats, constant: float, threshold: float) -> tuple[Floats, Floats]:
    """Where a pair is more alike than it had to be, and where less.

    Each place's even share of what was still needed, ``(threshold - constant) / places``, is taken off
    it: the share matters, for only then is the first map's sum less the second's the cosine's distance
    from the threshold.

    Returns:
        Two arrays like ``contributions``, both at least 0.
    """
    excess = contributions - (threshold - constant) / contributions.size
    return np.maximum(excess, 0), np.maximum(-excess, 0)


def enlarged(coarse: Floats, side: int) -> Floats:
    """A (h, w) float32 map of nothing negative as a smooth (side, side) one of nothing negative."""
    smooth = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.maximum(smooth, 0), np.float32)


def most_relevant(relevance: Floats, share: float) -> Region:
    """The ``share`` of the pixels with the highest relevance (H, W); of equals, those that are read first."""
    order = np.argsort(-relevance, axis=None, kind="stable")
    region = np.zeros(relevance.size, np.bool_)
    region[order[: round(share * relevance.size)]] = True
    return region.reshape(relevance.shape)


def shifted(region: Region, count: int, seed: int = 0) -> Region:
    """``count`` copies (count, H, W) of a region, each moved at random, over the edge and in again.

    They have its size and its shape, so that a comparison with them asks about its place alone.
    """
    moves = np.random.default_rng(seed).integers(0, region.shape, (count, 2))
    return np.stack([np.roll(region, tuple(move), (0, 1)) for move in moves])


def share_lost(score: Score, picture: Tensor, baseline: Tensor, regions: Region) -> Floats:
    """Deletion test (Petsiuk et al. 2018): the share of its gain that a score loses with each region.

    Args:
        score: What is tested.
        picture: (1, 3, H, W) float32.
        baseline: The same shape; its pixels stand in for the deleted ones.
        regions: (N, H, W) bool.

    Returns:
        (N,) float32: 0 where nothing is lost, 1 where the score falls to that of ``baseline``; NaN
        where the picture scores no higher than that, so that there is nothing to lose.
    """
    deleted = torch.where(torch.from_numpy(regions).to(picture.device)[:, None], baseline, picture)
    with torch.no_grad():
        whole, nothing, *rest = score(torch.cat([picture, baseline, deleted])).tolist()
    gained = whole - nothing if whole > nothing else np.nan
    return np.asarray([(whole - each) / gained for each in rest], np.float32)


def mass_within(relevance: Floats, region: Region) -> float:
    """Share of the relevance, whatever its sign, that lies in the region."""
    mass = np.abs(relevance)
    return float(mass[region].sum() / max(float(mass.sum()), _LEAST))
