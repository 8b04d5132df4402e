"""How much a share that was counted on a few people says about everybody."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv

from pipeline.packets import Floats

Doubles = NDArray[np.float64]
STEP = 1e-4  # thresholds are told to four places


def upper_limit(share: ArrayLike, people: int, confidence: float) -> Doubles:
    """The true share that ``share`` of ``people`` leaves possible, one-sided (Clopper and Pearson 1934).

    For nobody of n it is ``1 - (1 - confidence)^(1/n)``, at 95 % about 3/n, the rule of three. A threshold just above
    the k-th highest of n scores has the same limit, though it was chosen by looking at them (Wilks 1941).
    """
    accepted = np.clip(np.asarray(share, np.float64) * people, 0, people)
    return np.where(accepted < people, betaincinv(accepted + 1, np.maximum(people - accepted, 1e-9), confidence), 1.0)


def least_people(share: float, confidence: float) -> int:
    """How many people are needed to say that the true share is at most ``share`` where it was seen in none of them."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - share) - 1e-9)


@dataclass(frozen=True)
class Sample:
    """Scores of people, some of whom were seen more often than others; each person counts as much as another.

    Attributes:
        scores: (K,) float32.
        person: (K,) number of the person.
    """

    scores: Floats
    person: NDArray[np.int64]

    @cached_property
    def people(self) -> int:
        """How many there are."""
        return len(np.unique(self.person))

    @cached_property
    def _ranked(self) -> tuple[Doubles, Doubles]:
        """Scores from the highest down, and the share of people above each of them; the last share is that of all."""
        _, number, seen = np.unique(self.person, return_inverse=True, return_counts=True)
        order = np.argsort(-self.scores, kind="stable")
        above = np.concatenate([[0.0], np.cumsum(1 / seen[number[order]])]) / max(self.people, 1)
        return np.asarray(self.scores[order], np.float64), np.minimum(above, 1.0)

    def reaching(self, thresholds: ArrayLike) -> Doubles:
        """The share of people whose scores reach each of ``thresholds``."""
        scores, above = self._ranked
        return np.asarray(above[np.searchsorted(-scores, -np.asarray(thresholds, np.float64), side="right")])

    def threshold(self, most: float, limit: Callable[[Doubles], Doubles] = lambda share: share) -> float:
        """The least threshold, to four places, that the share ``most`` of people reaches, or fewer.

        It keeps a tenth of a place away from all scores, which is more than products of matrices differ by.

        Args:
            most: Where even nobody is more than that, the threshold is just above the highest score.
            limit: What a share that was counted is taken for.
        """
        scores, above = self._ranked
        rank = max(int(np.searchsorted(limit(above[:-1]), most, side="right")) - 1, 0)
        return round((math.floor(float(scores[rank]) / STEP + 0.1) + 1) * STEP, 4)
