"""Whether the threshold that ``calibrate`` suggests keeps its promise to strangers, and what it costs the enrolled.

Half of the people of LFW, chosen by their names, are enrolled. A quarter of the others was seen before, and those of
them whom the default limits take for nobody are unknown tracks. That is all that ``calibrate`` gets to see. Where it
says that the gallery contradicts itself, its advice is followed and it is asked again. Then the rest of the strangers
come, and photos of the enrolled that were kept back, bare and behind a drawn mask, and ``Rules`` of
``operators/identify.py`` decide: with one vote on each photo alone, and as in a stream on ``tracks`` made of the photos
of whoever has several. Who was named at any photo of a track counts as named.

Of one person there are up to six photos: the last third (at least one, if there are two) is kept back. Of a fifth of
the people the first photo is enrolled with a drawn mask on it, whether it is their only one or not: a promise holds for
strangers who are like the enrolled, and people with many photos in LFW are not like the others. (Who has two photos,
one of which is kept back, enrols the other one bare.) What counts as masked is what the classifier says.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from itertools import product
from pathlib import Path

import numpy as np
from gallery_faces import Bools, FaceVectors, read_vectors
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from operators.identify import Evidence, Person, Rules
from pipeline.gallery.calibration import Calibration, calibrate, curve
from pipeline.gallery.held_out import best_match, enrolled
from pipeline.gallery.protocol import MODEL, Template
from pipeline.gallery.subjects import Limits, UnknownTrack
from pipeline.gallery.tolerance import Sample, upper_limit
from pipeline.packets import Candidate, Embedding, Identity

PROMISES = (0.001, 0.01, 0.05)
SPLITS = 16
TOP = 5  # subjects of an answer, as in a stream
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DECISIONS = ("known", "mistaken", "ambiguous", "unknown")
# People whom LFW has under two names, or whose photo shows the other; who is enrolled as one is no stranger as the
# other. Twins are not among them. Found by looking at all pairs of people with a cosine above 0.56.
SAME = (
    ("Carlos_Beltran", "Raul_Ibanez"), ("Emmy_Rossum", "Eva_Amurri"), ("Gabrielle_Rose", "Martha_Bowen"),
    ("Andrew_Caldecott", "Andrew_Gilligan"), ("Shinya_Taniguchi", "Takahiro_Mori"),
    ("Carlos_Ruckauf", "Eduardo_Duhalde"), ("Choi_Sung-hong", "Sung_Hong_Choi"),
    ("Abdullah_Gul", "Recep_Tayyip_Erdogan"), ("Chyung_Dai-chul", "Dai_Chul_Chyung"),
    ("Felipe_De_Borbon", "Prince_Felipe"), ("Jason_Kapono", "Ray_Young"), ("Anja_Paerson", "Janica_Kostelic"),
    ("Hasan_Wirayuda", "Hassan_Wirajuda"), ("Harold_Scott", "Jeff_Roehm"), ("Doc_Rivers", "Glenn_Rivers"),
    ("Mireya_Elisa_Moscoso_Rodriguez", "Mireya_Moscoso"), ("Bison_Dele", "Brian_Williams"),
    ("Bill_Pryor", "William_Pryor_Jr"), ("Talisa_Bratt", "Talisa_Soto"), ("Lane_Bryant", "Roseanne_Barr"),
    ("John_Gruden", "Jon_Gruden"), ("Ruano_Pascual", "Virgina_Ruano_Pascal"), ("Dennis_Hastert", "John_Taylor"),
)  # fmt: skip


@dataclass(frozen=True)
class Split:
    """Who plays which part.

    Attributes:
        templates: What is enrolled.
        unknowns: What was seen before, and not recognised.
        genuine: Photos of the enrolled that were kept back.
        strangers: Everybody else.
    """

    templates: list[Template]
    unknowns: list[UnknownTrack]
    genuine: FaceVectors
    strangers: FaceVectors


@dataclass(frozen=True)
class Result:
    """What came of a promise: the rate of ``people`` strangers, and that of enrolled people who were not named."""

    kind: str
    seen: str
    wanted: float
    far: float
    promised: float
    missed: float
    people: int

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.seen}_{self.wanted}"

    @property
    def ratio(self) -> float:
        return self.far / self.promised

    @property
    def broken(self) -> bool:
        """Whether what was measured leaves no doubt."""
        return float(1 - upper_limit(1 - self.far, self.people, 0.95)) > self.promised


def main() -> None:
    """Print the table; write the figures with --json, and the curve with --picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path, help="draw the curve of the calibration into this PNG")
    parser.add_argument("--quick", action="store_true", help="a quarter of the people, and no other splits")
    given = parser.parse_args()
    figures = measure(quick=given.quick, picture=given.picture)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1))


def measure(*, quick: bool = False, picture: Path | None = None) -> dict[str, float]:
    """The figures; the table goes to the console.

    ``far_measured_over_promised`` is the worst over photos and tracks, bare and masked faces and the ``PROMISES`` that
    were asked for. Over ``SPLITS`` other ways to split the people, ``far_over_promised_mean`` is its mean, and
    ``promises_broken`` the share of promises that were broken by more than the chance of so many strangers explains
    (95 % confidence).
    """
    faces = read_vectors(4 if quick else 1)
    found = split(faces)
    rows = Table("wanted", "faces", "who", "seen", "", *DECISIONS, "FAR measured", "promised", "threshold", box=None)
    results = [result for wanted in PROMISES for result in judged(found, wanted, rows)]
    figures: dict[str, float] = {"open_set_pictures": len(faces.person), "open_set_templates": len(found.templates)}
    figures |= {f"far_over_promised_{result.name}": result.ratio for result in results}
    figures |= {f"missed_{result.name}": result.missed for result in results}
    figures["far_measured_over_promised"] = max(result.ratio for result in results)
    if not quick:
        others = [r for n in range(SPLITS) for wanted in PROMISES for r in judged(split(faces, f"split {n}"), wanted)]
        for seen in ("photos", "tracks"):
            own = [result for result in others if result.seen == seen]
            figures[f"far_over_promised_mean_{seen}"] = sum(result.ratio for result in own) / len(own)
            figures[f"promises_broken_{seen}"] = sum(result.broken for result in own) / len(own)
    figures = {name: round(value, 4) for name, value in figures.items()}
    Console(width=140).print(rows, figures)
    if picture:
        picture.write_bytes(curve(settled(found, PROMISES[1])[0]))
    return figures


def split(faces: FaceVectors, salt: str = "open set") -> Split:
    """The same ``salt`` always splits the people in the same way."""
    fit = faces.good & (faces.faces == 1)
    chance = {person: sha256(f"{salt} {person}".encode()).digest()[0] for person in np.unique(faces.person).tolist()}
    part = np.array([chance[person] for person in faces.person])
    mine = part < 128
    count = Counter(faces.person[~faces.drawn].tolist())
    photos = np.array([count[person] for person in faces.person.tolist()])
    back = mine & (photos > 1) & (faces.number >= photos - np.maximum(photos // 3, 1))
    worn = mine & (part % 5 == 0) & (photos != 2) & (faces.number == 0)
    templates = faces.where(fit & mine & ~back & (faces.drawn == worn))
    known = set(templates.person.tolist())
    alias = {name for pair in SAME if known & set(pair) for name in pair}
    strangers = fit & (part >= 160) & ~np.isin(faces.person, sorted(alias))
    enrolment = [_template(templates, n) for n in range(len(templates.person))]
    seen = faces.where(fit & ~mine & (part < 160))
    scores, _ = best_match(seen.vectors, enrolled(enrolment))
    seen = seen.where(scores < np.where(seen.masked, Limits().masked_threshold, Limits().threshold))
    return Split(
        enrolment,
        [_track(seen, n) for n in range(len(seen.person))],
        faces.where(fit & back & np.isin(faces.person, sorted(known))),
        faces.where(strangers),
    )


def settled(found: Split, wanted: float) -> tuple[Calibration, list[Template], dict[str, str]]:
    """A calibration that names no contradiction any more, the templates that are left, and who was merged into whom."""
    templates, merged = found.templates, dict[str, str]()
    while (said := calibrate(templates, found.unknowns, promised_far=wanted)).contradictions:
        merged |= {r.names[1]: r.names[0] for r in said.contradictions if r.code == "one_person"}
        wrong = {r.names[0] for r in said.contradictions if r.code == "mislabelled"}
        kept = (template for template in templates if template.id not in wrong)
        templates = [replace(t, subject_id=merged.get(t.subject_id, t.subject_id)) for t in kept]
    return said, templates, merged


def judged(found: Split, wanted: float, rows: Table | None = None) -> Iterator[Result]:
    """What came of a wish, for each kind of face for which a threshold is suggested."""
    said, templates, merged = settled(found, wanted)
    limits = said.limits(Limits())
    rules = Rules(limits.threshold, limits.masked_threshold, limits.margin)
    kinds, ways = ((said.bare, False), (said.masked, True)), (("photos", replace(rules, votes=1)), ("tracks", rules))
    for (kind, masked), (seen, rules) in product(kinds, ways):
        told, shares = [], []
        for who, people in (("enrolled", found.genuine), ("strangers", found.strangers)):
            probes = people.where(people.masked == masked)
            person = np.array([merged.get(person, person) for person in probes.person.tolist()])
            tracks = together(person) if seen == "tracks" else [[n] for n in range(len(person))]
            names = person[[track[0] for track in tracks]]
            reached, decisions = decided(rules, probes, tracks, names, templates)
            shares.append(share(reached if who == "strangers" else decisions != "known", names))
            cells = (f"{share(decisions == decision, names):.2%}" for decision in DECISIONS)
            told.append([f"{wanted:.1%}", kind.kind, who, str(len(names)), seen, *cells])
        if kind.suggestion:
            far, promised = shares[1], kind.suggestion.promised_far
            told[1] += [f"{far:.3%}", f"{promised:.3%}", f"{kind.suggestion.threshold:.4f}"]
            yield Result(kind.kind, seen, wanted, far, promised, shares[0], len(np.unique(names)))
        else:
            told[1] += ["refused", ", ".join(reason.code for reason in kind.refusals)]
        for cells in told if rows else []:
            rows.add_row(*cells)


def together(person: NDArray[np.str_]) -> list[list[int]]:
    """The photos of each person who has several."""
    of: dict[str, list[int]] = {}
    for n, name in enumerate(person.tolist()):
        of.setdefault(name, []).append(n)
    return [photos for photos in of.values() if len(photos) > 1]


def decided(
    rules: Rules, probes: FaceVectors, tracks: list[list[int]], names: NDArray[np.str_], templates: list[Template]
) -> tuple[Bools, NDArray[np.str_]]:
    """Whether each track reaches the threshold, and what the rules say; ``mistaken`` if they name another."""
    gallery = enrolled(templates)
    first = np.flatnonzero(np.diff(gallery.subject, prepend=-1))
    scores = np.maximum.reduceat(probes.vectors @ gallery.vectors.T, first, axis=1)
    subjects = [gallery.name(row) for row in first.tolist()]
    enrolled_names, said, reached = set(subjects), [], []
    for track, name in zip(tracks, names.tolist(), strict=True):
        best = {n: np.argsort(-scores[n])[:TOP].tolist() for n in track}
        found = {n: tuple(Candidate(subjects[k], float(scores[n, k])) for k in best[n]) for n in track}
        shots = [(Embedding(probes.vectors[n], found[n], "open set", 1), float(probes.quality[n])) for n in track]
        steps = list(followed(rules, shots, masked=bool(probes.masked[track[0]])))
        who = next((step for step in steps if step.decision == "known"), steps[-1])
        wrong = who.decision == "known" and name in enrolled_names and who.subject_id != name
        said.append("mistaken" if wrong else who.decision)
        reached.append(any(step.score >= step.threshold for step in steps if step.decision != "not_evaluated"))
    return np.array(reached), np.array(said)


def followed(rules: Rules, shots: list[tuple[Embedding, float]], *, masked: bool) -> Iterator[Identity]:
    """What is said of a track after each of its photos, given with their qualities."""
    person, kind = Person(), "masked" if masked else "bare"
    for shot, quality in shots:
        evidence: Evidence = getattr(person, kind).with_shot(shot, quality)
        identity = rules.decide(replace(person, **{kind: evidence}))
        person = replace(person, identity=identity, **{kind: evidence})
        yield identity


def share(which: Bools, names: NDArray[np.str_]) -> float:
    """The share of people, each of whom counts as much as another however many photos there are."""
    return float(Sample(which.astype(np.float32), np.unique(names, return_inverse=True)[1]).reaching(0.5))


def _template(faces: FaceVectors, n: int) -> Template:
    person, photo = str(faces.person[n]), f"{faces.person[n]}/{faces.number[n]}"
    return Template(person, faces.vectors[n], float(faces.quality[n]), bool(faces.masked[n]), id=photo)


def _track(faces: FaceVectors, n: int) -> UnknownTrack:
    name = f"{faces.person[n]}/{faces.number[n]}/{'drawn' if faces.drawn[n] else 'bare'}"
    vector, quality, masked = faces.vectors[n], float(faces.quality[n]), bool(faces.masked[n])
    return UnknownTrack(name, "lfw", vector, MODEL, quality, masked, NOW)


if __name__ == "__main__":
    main()
