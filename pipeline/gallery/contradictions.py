"""Where a gallery contradicts itself: one person under two names, or a photo under the wrong one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Literal

import numpy as np

from pipeline.gallery.held_out import Bools, Enrolled, HeldOut
from pipeline.gallery.subjects import Kept

Code = Literal[
    "one_person", "mislabelled", "contradiction", "few_strangers", "few_genuine", "indistinct",
    "promise_lowered", "unknowns_raised", "many_missed", "closest",
]  # fmt: skip


class Reason(Kept):
    """Why something is not said, or what to know about what is said.

    Attributes:
        code: For programs.
        sentence: For people; it names the way out.
        names: The templates, subjects or tracks that it is about.
    """

    code: Code
    sentence: str
    names: tuple[str, ...] = ()


def contradictions(gallery: Enrolled, held: HeldOut, alike: float, vouched: Collection[str] = ()) -> list[Reason]:
    """What somebody should look at before the gallery may be believed.

    A template that scores with somebody else as photos of one person do is a hit. A hit that does not score so with its
    own subject is a stray. Where most of a subject's templates are strays to one other, or hit templates of that other
    that are no strays themselves, the two are one person; other strays are photos under the wrong name.

    Args:
        gallery: The templates.
        held: Their scores.
        alike: From which cosine on two photos are taken for those of one person.
        vouched: Ids of templates and subjects that somebody has looked at, and that are right.
    """
    looked_at = np.array([not {t.id, t.subject_id}.isdisjoint(vouched) for t in gallery.templates], np.bool_)
    hit = (held.other >= alike) & ~looked_at & ~looked_at[held.nearest]
    stray = hit & (held.own < alike) & (held.own < held.other)
    twins = _twins(gallery, held, hit, stray)
    lone = [row for row in np.flatnonzero(stray).tolist() if _pair(gallery, held, row) not in twins]
    return [_one_person(*sorted(pair)) for pair in sorted(twins, key=sorted)] + [
        _mislabelled(gallery, held, row) for row in lone
    ]


def _twins(gallery: Enrolled, held: HeldOut, hit: Bools, stray: Bools) -> set[frozenset[str]]:
    sizes = Counter(template.subject_id for template in gallery.templates)
    telling = np.flatnonzero(stray | (hit & ~stray[held.nearest])).tolist()
    towards = Counter((gallery.name(row), _pair(gallery, held, row)) for row in telling)
    return {pair for (subject, pair), count in towards.items() if 2 * count > sizes[subject]}


def _pair(gallery: Enrolled, held: HeldOut, row: int) -> frozenset[str]:
    return frozenset((gallery.name(row), gallery.name(int(held.nearest[row]))))


def _one_person(first: str, second: str) -> Reason:
    sentence = (
        f"subjects {first!r} and {second!r} score with each other as one person does; merge them, or vouch for one of "
        "them if they are two"
    )
    return Reason(code="one_person", sentence=sentence, names=(first, second))


def _mislabelled(gallery: Enrolled, held: HeldOut, row: int) -> Reason:
    template, other = gallery.templates[row], gallery.name(int(held.nearest[row]))
    own = f"{held.own[row]:.2f} with its own" if np.isfinite(held.own[row]) else "with nothing of its own"
    sentence = (
        f"template {template.id!r} of {template.subject_id!r} scores {held.other[row]:.2f} with {other!r} and {own}; "
        "delete it or move it there, or vouch for it if it is right"
    )
    return Reason(code="mislabelled", sentence=sentence, names=(template.id, template.subject_id, other))
