"""Say why: which pixels made a face match a subject, and which made it show an emotion."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from operators import attribution
from operators.attribution import Region, Score
from operators.embed import INNER
from operators.encode import expression_input
from operators.engine import resolve
from operators.nets import expression, mobilefacenet, planar
from pipeline.compute import Compute
from pipeline.gallery import Gallery, MemoryGallery
from pipeline.identifiers import explanation_id
from pipeline.operator import Operator
from pipeline.packets import CROP, EMOTIONS, Explanation, FeltFace, Floats, Pixels

GREY = 127.0  # the picture that shows nothing
DELETED = 0.1  # share of the pixels that the deletion test takes
MOVES = 8  # random places that it is compared with
SMOOTHING = 3.0  # pixels; single pixels of a gradient are noise

CAVEATS = {
    "match": "Shows where this face is more or less like the subject's template than the threshold asks, in cells of "
    "16 pixels that each see most of the face; it does not prove that they are one person.",
    "emotion": "Shows which pixels of this one frame moved the net away from a grey picture; the label comes from "
    "many frames, and names an outward expression, not what a person feels.",
}
Kind = Literal["match", "emotion"]


class Explain(Operator[FeltFace, Explanation]):
    """Explains the frame in which a subject became known and the frame in which an emotion changed.

    It runs beside the hot path and always in PyTorch; other faces give nothing.
    """

    def __init__(
        self,
        compute: Compute,
        gallery: Gallery | None = None,
        steps: int = 64,
        max_steps: int = 224,
        tolerance: float = 0.05,
    ) -> None:
        """Load the nets.

        Args:
            compute: Where the nets run; its engine is not used.
            gallery: Templates and photos of the known; the one that ``embed`` searches.
            steps: Gradients to begin an emotion's explanation with.
            max_steps: Gradients at most.
            tolerance: Completeness error at which no more are taken.

        Raises:
            WeightsError: The weights were not pulled.
            DeviceError: The device is not there.
        """
        self._gallery: Gallery = MemoryGallery() if gallery is None else gallery
        self._steps, self._max_steps, self._tolerance = steps, max_steps, tolerance
        self._device = torch.device(resolve(compute)[0])
        self._identity = mobilefacenet.load().to(self._device)
        self._expression = expression.load().to(self._device)

    def close(self) -> None:
        self._gallery.close()

    def __call__(self, batch: Sequence[FeltFace]) -> Iterator[Explanation]:
        """Zero to two explanations a face: of its match, then of its emotion."""
        for face in batch:
            template = self._gallery.template(face.identity.subject_id) if face.first_match else None
            if template is not None:
                yield self._match(face, template)
            if face.emotion_changed and face.emotion.state == "ok":
                yield self._emotion(face)

    def _match(self, face: FeltFace, template: Floats) -> Explanation:
        started, crop = time.perf_counter(), face.crop[INNER, INNER]
        picture, direction = self._picture(crop), torch.tensor(template, device=self._device)

        def cosine(pictures: Tensor) -> Tensor:
            return self._identity.embed(pictures) @ direction

        with torch.no_grad():
            last_map, score = self._identity.trunk(picture), float(cosine(picture))
        parts, constant = attribution.cosine_contributions(self._identity.head, last_map, direction)
        coarse = attribution.similar_and_dissimilar(parts, constant, face.identity.threshold)
        similar, dissimilar = (attribution.enlarged(each, len(crop)) for each in coarse)
        photo = self._gallery.photo(face.identity.subject_id)
        return Explanation(
            **_decision(face, "match", face.identity.subject_id),
            method="cosine_contributions",
            score=score,
            completeness_error=attribution.completeness_error(float(parts.sum()) + constant, score),
            **self._deletion(cosine, picture, similar - dissimilar),
            synthetic_evidence_ratio=attribution.mass_within(similar + dissimilar, _invented(face)),
            crop=crop,
            reference=None if photo is None else photo[INNER, INNER],
            maps=_scaled(similar=similar, dissimilar=dissimilar) | {"contributions": parts},
            took_ms=(time.perf_counter() - started) * 1e3,
        )

    def _emotion(self, face: FeltFace) -> Explanation:
        started, crop, label = time.perf_counter(), expression_input(face.crop), face.emotion.label
        picture, target = self._picture(crop), EMOTIONS.index(label)
        nothing = torch.full_like(picture, GREY)

        def logit(pictures: Tensor) -> Tensor:
            return attribution.log_odds(self._expression(pictures), target)

        found = attribution.integrated_gradients(logit, picture, nothing, self._steps, self._max_steps, self._tolerance)
        relevance = _smoothed(found)
        return Explanation(
            **_decision(face, "emotion", label),
            method="integrated_gradients",
            score=float(logit(picture)),
            completeness_error=attribution.completeness_error(
                float(found.sum()), attribution.gain(logit, picture, nothing)
            ),
            **self._deletion(logit, picture, relevance),
            synthetic_evidence_ratio=0.0,  # the emotion of a masked face is never read, so nothing was invented
            crop=crop,
            reference=None,
            maps=_scaled(relevance=relevance),
            took_ms=(time.perf_counter() - started) * 1e3,
        )

    def _picture(self, crop: Pixels) -> Tensor:
        return planar(torch.tensor(crop, device=self._device)[None])  # copied, for packets may be read-only

    def _deletion(self, score: Score, picture: Tensor, relevance: Floats) -> dict[str, Any]:
        """How much of the score the most relevant pixels carry, and how much pixels elsewhere."""
        most = attribution.most_relevant(relevance, DELETED)
        regions = np.concatenate([most[None], attribution.shifted(most, MOVES)])
        lost = attribution.share_lost(score, picture, torch.full_like(picture, GREY), regions)
        return {"faithfulness": float(lost[0]), "faithfulness_random": float(lost[1:].mean())}


def _decision(face: FeltFace, kind: Kind, target: str) -> dict[str, Any]:
    """The fields that name the decision explained."""
    name = explanation_id(face.stream, face.epoch, face.seq, face.track_id, kind)
    place: dict[str, Any] = {"stream": face.stream, "epoch": face.epoch, "seq": face.seq, "pts_ns": face.pts_ns}
    return place | {"id": name, "track_id": face.track_id, "kind": kind, "target": target, "caveat": CAVEATS[kind]}


def _invented(face: FeltFace) -> Region:
    """Which pixels of the inner crop a restorer made up."""
    everywhere = face.restoration.invented if face.restoration else np.zeros((CROP, CROP), np.bool_)
    return everywhere[INNER, INNER]


def _smoothed(attributions: Tensor) -> Floats:
    """(1, 3, H, W) as one (H, W) map: the sum of the colours, blurred a little."""
    return np.asarray(cv2.GaussianBlur(attributions[0].sum(0).cpu().numpy(), (0, 0), SMOOTHING), np.float32)


def _scaled(**maps: Floats) -> dict[str, Floats]:
    """The maps with one common scale, such that the largest value of any is 1."""
    largest = max(float(np.abs(each).max()) for each in maps.values())
    return {name: each / max(largest, 1e-12) for name, each in maps.items()}
