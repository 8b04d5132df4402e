"""How well `embed` tells people apart: the 40 people of the ORL faces, ten grey portraits each.

The first portrait of each person is the gallery for rank-1; TAR at FAR is over all pairs. The pictures are 92x112,
so they get a replicated border and are enlarged for the detector, as a user would do with passport photos.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from operators import weights
from operators.detect import Detect
from operators.embed import Embed
from pipeline.compute import Compute
from pipeline.packets import Frame
from pipeline.policy import Policy

BORDER, SCALE = 25, 2.5
Floats = NDArray[np.float32]


def main() -> None:
    """Print the figures, or write them with --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="the first 20 people only")
    given = parser.parse_args()
    figures = measure(20 if given.quick else 40)
    print(json.dumps(figures, indent=1))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1))


def measure(people: int = 40) -> dict[str, Any]:
    """Rank-1, and TAR at two FARs, of the first ``people``."""
    weights.pull(("models", "benchmarks"))
    vectors, labels = embedded(people)
    scores = vectors @ vectors.T
    genuine, impostor = pairs(scores, labels)
    return {
        "orl_people": people,
        "orl_pictures": len(labels),
        "orl_rank1": round(rank1(scores, labels), 4),
        "orl_tar_at_1e2": round(tar(genuine, impostor, 1e-2), 4),
        "orl_tar_at_1e3": round(tar(genuine, impostor, 1e-3), 4),
        "orl_threshold_at_1e3": round(threshold(impostor, 1e-3), 4),
    }


def embedded(people: int) -> tuple[Floats, NDArray[np.int64]]:
    """Vectors (N, 512) and the person of each; a picture without a face has a vector of zeros."""
    policy = Policy(purpose="research", identification=True)
    detect, embed = Detect(Compute(), min_score=0.3), Embed(Compute(), policy)
    vectors, labels = [], []
    for person in range(1, people + 1):
        for number in range(1, 11):
            faces = list(detect([portrait(person, number)]))
            vectors.append(embed.vectors([faces[0].crop])[0] if faces else np.zeros(512, np.float32))
            labels.append(person)
    return np.stack(vectors), np.array(labels)


def portrait(person: int, number: int) -> Frame:
    """One picture of ORL as a frame."""
    (file,) = weights.path("orl").rglob(f"s{person}/{number}.pgm")
    grey = cv2.copyMakeBorder(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE), *(BORDER,) * 4, cv2.BORDER_REPLICATE)
    large = cv2.resize(grey, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_CUBIC)
    return Frame("orl", 0, 0, 0, np.asarray(cv2.cvtColor(large, cv2.COLOR_GRAY2RGB), np.uint8))


def rank1(scores: Floats, labels: NDArray[np.int64]) -> float:
    """Share of probes whose best gallery picture (the first of each person) is of the same person."""
    first = np.array([np.flatnonzero(labels == person)[0] for person in np.unique(labels)])
    probes = np.setdiff1d(np.arange(len(labels)), first)
    best = first[scores[np.ix_(probes, first)].argmax(1)]
    return float((labels[best] == labels[probes]).mean())


def pairs(scores: Floats, labels: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Scores of all pairs of the same person, and of all pairs of two people."""
    upper = np.triu_indices(len(labels), 1)
    same = (labels[:, None] == labels[None])[upper]
    return scores[upper][same], scores[upper][~same]


def threshold(impostor: Floats, far: float) -> float:
    """The score that the share ``far`` of the impostor pairs exceeds."""
    return float(np.quantile(impostor, 1 - far))


def tar(genuine: Floats, impostor: Floats, far: float) -> float:
    """Share of genuine pairs above the threshold at ``far``."""
    return float((genuine > threshold(impostor, far)).mean())


if __name__ == "__main__":
    main()
