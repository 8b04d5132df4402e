"""Somebody wants to be forgotten: everything of them goes, and a receipt says what and how."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import takewhile
from typing import Any
from uuid import uuid4

import numpy as np

from pipeline.gallery.desk import Desk, Question
from pipeline.gallery.errors import AwayError, GalleryError, RefusedError, UnknownError
from pipeline.gallery.naming import Naming
from pipeline.gallery.protocol import Template
from pipeline.gallery.receipts import MatcherWord, Receipt, Removed, SignedReceipt, signed, verified
from pipeline.gallery.subjects import Caller, Limits, NamespacePolicy, UnknownTrack
from pipeline.packets import Floats

CONFIRM_S = 3.0  # how long running matchers may take to confirm an erasure
SILENT_S = 10.0  # a matcher of which nothing was heard for so long is not waited for: it ended, or does not hear Redis
REMEMBERED_S = 3600.0  # nor told of, after so long
PART = 500

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Erasure:
    """A receipt, and what a new look finds.

    Attributes:
        signed: The receipt.
        holds: Whether its signature holds and nothing of the subject is there.
        found: What is there again, or still; in sentences.
    """

    signed: SignedReceipt
    holds: bool
    found: tuple[str, ...]


class Unknowns:
    """The faces that nobody knows as they are at each look; each is opened once, however many people are forgotten."""

    def __init__(self, desk: Desk) -> None:
        self._desk, self._held = desk, dict[tuple[str, float], UnknownTrack]()

    def opened(self) -> tuple[list[UnknownTrack], int]:
        """All of them that open with our keys, and how many do not."""
        store = self._desk.store
        with store.link.errors():
            kept = store.link.client.zrange(store.key("unknowns"), 0, -1, withscores=True)
        there = [(name.decode(), seen_s) for name, seen_s in kept]  # a better face of a track has another time
        fresh, shut = self._desk.tracks.opened([each[0] for each in there if each not in self._held])
        opened = {track.id: track for track in fresh}
        faces = ((each, opened.get(each[0]) or self._held.get(each)) for each in there)
        self._held = {each: face for each, face in faces if face}
        return list(self._held.values()), shut


class Erasing(Naming):
    """Forgets subjects. Every method checks the caller first and is logged."""

    def erase(self, caller: Caller, subject_id: str) -> SignedReceipt:
        """Forget somebody: templates, photos, sightings, explanations, and unknown tracks that look like them.

        Templates and photos go in one step. If the rest does not follow, for Redis went away, ask again; else whoever
        serves the gallery finishes it, see `forget_expired`. Until then nobody is given the name.

        Raises:
            UnknownError: There is no such subject.
            RefusedError: What shows them is being given to others at this moment; ask again.
        """
        return self._erase(caller, subject_id, Unknowns(self.desk))

    def _erase(self, caller: Caller, subject_id: str, unknowns: Unknowns) -> SignedReceipt:
        with self.desk.asked(caller, "delete", subject_id) as question:
            note = self.desk.store.unfinished(self.desk.store.pseudonym(subject_id))
            note = note or self._begin(caller, subject_id, question, unknowns)
            return self._finish(note, question)

    def _begin(self, caller: Caller, subject_id: str, question: Question, unknowns: Unknowns) -> dict[str, Any]:
        """Remove templates and photos, and note what is left to do; from then on it is logged whatever happens."""
        note = partial(self._note, caller, subject_id, question.policy, unknowns)
        removed = self.desk.store.remove_subject(subject_id, note)
        question.version, question.count = removed.version, removed.vectors
        return removed.note

    def _note(
        self, caller: Caller, subject_id: str, policy: NamespacePolicy, unknowns: Unknowns, template_ids: Sequence[str]
    ) -> dict[str, Any]:
        """What is to go beside these templates, counted before it goes: the receipt is the same whoever finishes it."""
        store, tracks = self.desk.store, self.desk.tracks
        names = (subject_id, *store.renamed(subject_id))
        left = [tracks.left(self.desk.store.pseudonym(name)) for name in names]
        anchors = store.negatives()
        own, own_shut = store.opened(set(template_ids) - anchors)
        others, others_shut = store.opened(anchors - set(template_ids))
        faces, faces_shut = unknowns.opened()
        alike, shut = _alike(own, faces, policy.limits), own_shut + others_shut + faces_shut
        comparable = (own or own_shut) and (others or others_shut or faces or faces_shut)
        return {
            "receipt": uuid4().hex,
            "asked_by": caller.name,
            "alike": alike,
            "anchors": _alike(own, others, policy.limits),
            "not_compared": shut if comparable else 0,
            "matches": sum(sightings for sightings, _ in left),
            "explanations": sum(explanations for _, explanations in left),
            "crops": tracks.photos(alike),
        }

    def _finish(self, note: dict[str, Any], question: Question) -> SignedReceipt:
        """Whatever is left once the templates are gone, and the receipt; may be done again, and by several at once."""
        store, tracks, subject_id = self.desk.store, self.desk.tracks, note["subject"]
        tracks.forget(subject_id)
        for name in store.renamed(subject_id):
            tracks.forget(name)
            store.settled(name, subject_id)
        tracks.drop_unknown(note["alike"])
        self._drop_anchors(note["anchors"])
        own = signed(self._receipt(note), store.keys)
        kept = store.finished(subject_id, own.receipt.id, own.model_dump_json())
        said = SignedReceipt.model_validate_json(kept)
        question.count, question.version = said.receipt.removed.vectors, said.receipt.gallery_version
        question.details["receipt"] = said.receipt.id
        return said

    def _drop_anchors(self, names: Sequence[str]) -> None:
        """Negative anchors that show who is erased go, whosever they are by now."""
        for anchor, owner in self.desk.store.owners(names).items():
            with suppress(UnknownError):  # renamed or forgotten at this moment
                self.desk.store.remove_templates(owner, [anchor])
        if self.desk.store.owners(names):
            message = "a face of who is erased says who somebody else is not, who is being renamed; ask again"
            raise RefusedError(message)

    def _receipt(self, note: dict[str, Any]) -> Receipt:
        store, version = self.desk.store, self.desk.store.version()
        words = self._words(version)
        removed = Removed(
            vectors=note["vectors"],
            negatives=note["negatives"] + len(note["anchors"]),
            photos=note["photos"],
            crops=note["crops"],
            explanations=note["explanations"],
            matches=note["matches"],
            unknown_tracks=len(note["alike"]),
            index_entries=note["vectors"] * sum(word.confirmed for word in words),
        )
        return Receipt(
            id=note["receipt"],
            namespace=store.namespace,
            subject=self.desk.store.pseudonym(note["subject"]),
            asked_by=note["asked_by"],
            removed=removed,
            not_compared=note.get("not_compared", 0),
            matchers=words,
            topics={topic: datetime.now(UTC) + timedelta(seconds=kept) for topic, kept in self.desk.topics.items()},
            gallery_version=version,
            key=store.keys.fingerprint,
        )

    def erase_all(self, caller: Caller) -> list[SignedReceipt]:
        """Forget everybody, each with a receipt, whose number stands in the log, too.

        Raises:
            GalleryError: Somebody could not be forgotten; all others are.
        """
        with self.desk.asked(caller, "delete") as said:
            names, begun = list(self._every_subject()), self.desk.store.erasing()
            said.count, said.details = len(names) + len(begun), {"what": "everybody"}
        failed: list[GalleryError] = []
        receipts, unknowns = self._finish_begun(caller, begun, failed), Unknowns(self.desk)
        for name in names:
            with _one_of_many(failed):
                receipts.append(self._erase(caller, name, unknowns))
        _raise_first(failed)
        return receipts

    def forget_expired(self, caller: Caller, over: Callable[[], bool] = lambda: False) -> list[SignedReceipt]:
        """Forget those whose date has passed; matchers do not match them from that date.

        Erasures and renamings that were interrupted, whoever asked for them, are finished. What is left once ``over``
        says so is for the next time.

        Raises:
            GalleryError: Something of it could not be done; all else is.
        """
        failed, unknowns = list[GalleryError](), Unknowns(self.desk)
        going = partial(takewhile, lambda _: not over())
        receipts = self._finish_begun(caller, going(self.desk.store.erasing()), failed)
        for name in going(self.desk.store.expired(time.time())):
            with _one_of_many(failed):
                expires = self.desk.store.subject(name).expires
                if expires is not None and expires <= datetime.now(UTC):
                    receipts.append(self._erase(caller, name, unknowns))
        for old, new in going(self.desk.store.renamed().items()):
            with _one_of_many(failed):
                self._follow_name(old, new, self.desk.store.policy())
        _raise_first(failed)
        return receipts

    def _finish_begun(
        self, caller: Caller, pseudonyms: Iterable[str], failed: list[GalleryError]
    ) -> list[SignedReceipt]:
        """Finish the erasures that were interrupted."""
        receipts: list[SignedReceipt] = []
        for pseudonym in pseudonyms:
            with _one_of_many(failed):
                if note := self.desk.store.unfinished(pseudonym):
                    with self.desk.asked(caller, "delete", note["subject"]) as question:
                        receipts.append(self._finish(note, question))
        return receipts

    def erasure(self, caller: Caller, receipt_id: str) -> Erasure:
        """A receipt, verified again by looking.

        Raises:
            UnknownError: There is no such receipt.
        """
        with self.desk.asked(caller, "erasure") as question:
            kept = self.desk.store.receipt(receipt_id)
            if kept is None:
                message = f"there is no receipt {receipt_id!r}"
                raise UnknownError(message)
            said = SignedReceipt.model_validate_json(kept)
            found = tuple(self._left(verified(said, self.desk.store.keys.public_key)))
            question.count = len(found)
            return Erasure(said, not found, found)

    def _every_subject(self) -> Iterator[str]:
        page = self.desk.store.subjects("", PART)
        while page:
            yield from (subject.id for subject in page)
            page = self.desk.store.subjects(page[-1].id, PART)

    def _all(self) -> Iterator[Template]:
        names = self.desk.store.template_ids()
        for at in range(0, len(names), PART):
            yield from self.desk.store.templates(names[at : at + PART])

    def _words(self, version: int) -> tuple[MatcherWord, ...]:
        """What each running matcher says of a version, once all have it or time is over."""
        until = time.monotonic() + CONFIRM_S
        while True:
            views = self.desk.tracks.matchers(time.time(), REMEMBERED_S)
            heard = [view for view in views if view.silent_s <= SILENT_S]
            if all(view.version >= version for view in heard) or time.monotonic() > until:
                break
            time.sleep(0.05)
        return tuple(
            MatcherWord(name=view.name, confirmed=view.version >= version, gallery_version=view.version)
            for view in views
        )

    def _left(self, receipt: Receipt) -> Iterator[str]:
        """What is there of an erased subject."""
        store = self.desk.store
        for name in self._every_subject():
            if self.desk.store.pseudonym(name) == receipt.subject:
                created = store.subject(name).created
                again = created > receipt.at
                yield f"the subject was added again at {created:%Y-%m-%d %H:%M}" if again else "the subject is there"
        if receipt.subject in map(self.desk.store.pseudonym, set(store.owners(store.template_ids()).values())):
            yield "templates of the subject are there"
        if count := receipt.not_compared:
            yield f"{count} faces did not open with the keys and were not compared; what shows the subject may be there"
        if left := sum(self.desk.tracks.left(receipt.subject)):
            yield f"{left} sightings or explanations of the subject are there"
        for word in self._words(receipt.gallery_version):
            if not word.confirmed:
                yield f"matcher {word.name} holds version {word.gallery_version}, which is older than the erasure"


@contextmanager
def _one_of_many(failed: list[GalleryError]) -> Iterator[None]:
    """Work that holds up no other where it cannot be done; that Redis is away holds up all."""
    try:
        yield
    except AwayError:
        raise
    except UnknownError:  # somebody else was faster
        pass
    except GalleryError as error:
        failed.append(error)


def _raise_first(failed: Sequence[GalleryError]) -> None:
    if failed:
        log.warning("%d erasures or renamings could not be finished", len(failed))
        raise failed[0]


def _alike(own: Sequence[Template], others: Sequence[Template | UnknownTrack], limits: Limits) -> list[str]:
    """Ids of those of ``others`` that would be taken for somebody with the templates ``own``."""
    if not own or not others:
        return []
    vectors: Floats = np.array([each.vector for each in own], np.float32)
    best = (np.array([each.vector for each in others], np.float32) @ vectors.T).max(axis=1).tolist()
    least = (limits.masked_threshold if each.masked else limits.threshold for each in others)
    return [each.id for each, score, threshold in zip(others, best, least, strict=True) if score >= threshold]
