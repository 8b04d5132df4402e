"""Which threshold a gallery can bear, and how often it will then take a stranger for somebody it knows.

The rate that is promised is that of identification, not of pairs: of all strangers, each one seen once, the share that
reaches the threshold with *any* subject of the whole gallery (ISO/IEC 19795-1 calls it FPIR). It is measured on the
gallery itself: every subject is left out in turn, and is a stranger to the rest. People count, not pictures, and the
promise is the upper limit of what so few people can show, so that it holds for strangers whom nobody has seen yet.

That is true of strangers who are to the gallery what its subjects are to each other: people of the same kind, seen by
cameras of the same kind.

Unknown tracks show what the cameras see, but they were sorted by the threshold of their day, and some are enrolled
people who were badly seen. So they may raise a threshold, never lower it, and lend no confidence.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pipeline.gallery.contradictions import Reason, contradictions
from pipeline.gallery.errors import InvalidError, RefusedError
from pipeline.gallery.held_out import Enrolled, enrolled, held_out
from pipeline.gallery.kind_calibration import KindCalibration, KindOfFace, alike_from
from pipeline.gallery.protocol import Template
from pipeline.gallery.subjects import Kept, Limits, UnknownTrack


class Calibration(Kept):
    """What a gallery says about its thresholds.

    Attributes:
        wanted_far: The share of strangers that was asked for.
        confidence: Of what is promised.
        model: Net of the vectors; empty in an empty gallery.
        subjects: Number of subjects with a template.
        templates: Number of templates.
        contradictions: What must be put right, or vouched for, before anything is suggested.
        bare: Faces without a mask.
        masked: Faces with one.
    """

    wanted_far: float
    confidence: float
    model: str
    subjects: int
    templates: int
    contradictions: tuple[Reason, ...]
    bare: KindCalibration
    masked: KindCalibration

    @property
    def refused(self) -> bool:
        """Whether nothing is suggested, neither for bare nor for masked faces."""
        return self.bare.suggestion is None and self.masked.suggestion is None

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """All there is to know: contradictions, then refusals and notes of bare and of masked faces."""
        kinds = (self.bare, self.masked)
        return self.contradictions + tuple(reason for kind in kinds for reason in kind.refusals + kind.notes)

    def limits(self, now: Limits) -> Limits:
        """The limits to set; where nothing is suggested for bare faces, that which holds ``now``.

        Where nothing is suggested for masked faces, nothing shows that they may be held to less than bare ones.

        Raises:
            RefusedError: Nothing is suggested at all.
        """
        if self.refused:
            message = f"no limits are suggested: {'; '.join(reason.sentence for reason in self.bare.refusals)}"
            raise RefusedError(message)
        bare, masked = self.bare.suggestion, self.masked.suggestion
        threshold = bare.threshold if bare else now.threshold
        return Limits(
            threshold=threshold,
            masked_threshold=masked.threshold if masked else max(threshold, now.masked_threshold),
            margin=max(each.margin for each in (bare, masked) if each),
        )


def calibrate(
    templates: Sequence[Template],
    unknowns: Sequence[UnknownTrack] = (),
    *,
    promised_far: float = 0.001,
    confidence: float = 0.95,
    vouched: Collection[str] = (),
) -> Calibration:
    """Thresholds for bare and for masked faces, or why there are none.

    Args:
        templates: All of a namespace, of one net.
        unknowns: Its unknown tracks; those of another net are left out.
        promised_far: Share of strangers, each seen once, that may reach the threshold with any subject of the whole
            gallery. Where the gallery has too few people to promise that, it promises what it can.
        confidence: That the promise holds.
        vouched: Ids of templates and subjects that somebody has looked at, and that are right.

    Raises:
        InvalidError: A share is not between 0 and 1, or the templates are of several nets.
    """
    if not (0 < promised_far < 1 and 0 < confidence < 1):
        message = f"the promised share and the confidence lie between 0 and 1, got {promised_far} and {confidence}"
        raise InvalidError(message)
    gallery = enrolled(templates)
    model = _model(gallery)
    held = held_out(gallery)
    alike = alike_from(gallery, held)
    wrong = contradictions(gallery, held, alike, vouched)
    tracks = [track for track in unknowns if track.model == model]
    bare, masked = (
        KindOfFace(gallery, held, tracks, masked=masked, alike=alike).calibrated(
            promised_far, confidence, contradictory=len(wrong)
        )
        for masked in (False, True)
    )
    return Calibration(
        wanted_far=promised_far,
        confidence=confidence,
        model=model,
        subjects=gallery.subjects,
        templates=len(gallery.templates),
        contradictions=tuple(wrong),
        bare=bare,
        masked=masked,
    )


def _model(gallery: Enrolled) -> str:
    models = sorted({template.model for template in gallery.templates})
    if len(models) > 1:
        message = f"vectors of several nets ({', '.join(models)}) have no common threshold; embed all with one first"
        raise InvalidError(message)
    return models[0] if models else ""


def curve(calibration: Calibration) -> bytes:
    """The error rates over the thresholds as a PNG, 1600 x 800: bare faces on the left, masked on the right."""
    from pipeline.gallery.calibration_picture import drawn  # noqa: PLC0415  (matplotlib is slow to load)

    return drawn(calibration)
