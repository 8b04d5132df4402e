"""The truth of a gallery in Redis: every change is one atomic step, with a log for those who follow it."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.edges import redis_layout as layout
from pipeline.edges.redis_link import Step
from pipeline.edges.redis_reading import NAMESPACES, StoreReading
from pipeline.gallery.errors import DuplicateError, RefusedError, UnknownError
from pipeline.gallery.keys import KeysError
from pipeline.gallery.protocol import Template
from pipeline.gallery.subjects import Subject

ATTEMPTS = 50

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Removed:
    """What a removal took away.

    Attributes:
        version: Of the gallery after it.
        vectors: Templates.
        negatives: Negative anchors.
        photos: Photos.
        note: What was noted of it, with these counts.
    """

    version: int
    vectors: int = 0
    negatives: int = 0
    photos: int = 0
    note: dict[str, Any] = field(default_factory=dict)


class GalleryStore(StoreReading):
    """One namespace of galleries. Every change is one atomic step, which also appends to the change log."""

    def add_subject(self, subject: Subject) -> int:
        """Add somebody without templates; the version after it.

        Raises:
            DuplicateError: There is one of this name.
            RefusedError: Something of somebody else is still kept under this name.
        """
        step = self.step()
        self._only_if_free(step, subject.id)
        self._write_subject(step, subject)
        version = step.done()
        if version is None:
            self._refuse_kept(subject.id)
            raise _taken(subject.id)
        self._register()
        return version

    def change(self, subject_id: str, change: Callable[[Subject], Subject]) -> tuple[Subject, int]:
        """Change a subject from what it is at that very moment; it as it is then, and the version.

        Its templates are matched, or not, as its consent, date and purposes say. Another id is another name.

        Args:
            subject_id: Who.
            change: Gives the subject as it is to be; asked again where somebody else was faster.

        Raises:
            UnknownError: There is none of this name.
            DuplicateError: There is one of the new name.
            RefusedError: Something of somebody else is still kept under the new name.
        """
        for _ in range(ATTEMPTS):
            step = self.step()
            after = change(self._guarded(step, subject_id))
            if after.id != subject_id:
                self._only_if_free(step, after.id)
                self._lead(step, subject_id, after.id)
            self._give(step, subject_id, after)
            if (version := step.done()) is not None:
                return after, version
            if after.id != subject_id:
                self._refuse_kept(after.id)
                if self.known([after.id]):
                    raise _taken(after.id)
        raise _crowded(subject_id)

    def merge(self, source: str, into: str, join: Callable[[Subject, Subject], Subject]) -> tuple[int, int]:
        """Give the templates of ``source`` to ``into``, and forget it; how many, and the version.

        Args:
            source: Who is somebody else.
            into: Who that is.
            join: Gives ``into`` as it is to be, of the two as they are; it may refuse.

        Raises:
            UnknownError: There is no such subject.
        """
        for _ in range(ATTEMPTS):
            step = self.step()
            one, other = self._guarded(step, source), self._guarded(step, into)
            after, count = join(one, other), len(self.template_ids(source))
            self._lead(step, source, into)
            self._give(step, into, after)
            self._give(step, source, after)
            if (version := step.done()) is not None:
                return count, version
        raise _crowded(source)

    def enrol(self, subject: Subject, templates: Sequence[Template], *, new: bool = True, beside: str = "") -> int:
        """Add templates to a subject; the version after it.

        Args:
            subject: Who; as it is kept, where it is.
            templates: Of it.
            new: Whether it may be added where there is none.
            beside: A template that must be there.

        Raises:
            InvalidError: One can be no template.
            RefusedError: The subject was, or what must be there is, forgotten meanwhile; or something of somebody else
                is still kept under this name.
        """
        layout.checked(templates, self.dimension)
        key = self.key("subject", subject.id)
        for _ in range(ATTEMPTS):
            with self.link.errors():
                kept = self.link.client.hget(key, "json")
            if (not kept and not new) or (beside and not self.templates([beside])):
                message = f"{subject.id!r} was forgotten meanwhile"
                raise RefusedError(message)
            step = self.step().only_if(kept, "HGET", key, "json")  # the consent must be the one that counts
            known = Subject.model_validate_json(kept) if kept else subject
            if beside:
                step.only_if(1, "EXISTS", self.key("template", beside))
            if kept:
                step.write("HSET", key, "revision", secrets.token_hex(8))
            else:
                self._only_if_free(step, subject.id)
                self._write_subject(step, known)
            for template in templates:
                self._write_template(step, template, known)
            if (version := step.done()) is not None:
                self._register()
                return version
            self._refuse_kept(subject.id)
        raise _crowded(subject.id)

    def remove_templates(self, subject_id: str, names: Iterable[str]) -> Removed:
        """Forget some templates of a subject, with their photos.

        Raises:
            UnknownError: There is no such subject.
        """
        wanted = set(names)
        for _ in range(ATTEMPTS):
            step = self.step()
            self._guarded(step, subject_id)
            counts = self._drop_templates(step, subject_id, [n for n in self.template_ids(subject_id) if n in wanted])
            step.write("HSET", self.key("subject", subject_id), "revision", secrets.token_hex(8))
            if (version := step.done()) is not None:
                return Removed(version, **counts)
        raise _crowded(subject_id)

    def remove_subject(self, subject_id: str, note: Callable[[Sequence[str]], dict[str, Any]] | None = None) -> Removed:
        """Forget a subject with all templates and photos.

        Args:
            subject_id: Who.
            note: Gives, of the templates that go, what must not be forgotten before the erasure is finished. The name
                is not given to anybody until then; see `unfinished`.

        Raises:
            UnknownError: There is none of this name.
        """
        for _ in range(ATTEMPTS):
            step = self.step()
            self._guarded(step, subject_id)
            gone = self.template_ids(subject_id)
            counts = self._drop_templates(step, subject_id, gone)
            self._drop_subject(step, subject_id)
            noted = {**note(gone), **counts, "subject": subject_id} if note else {}
            if noted:
                pseudonym = self.pseudonym(subject_id)
                data = json.dumps(noted).encode()
                sealed = layout.sealed("erasure", data, pseudonym, self.keys, self.namespace)
                step.write("HSET", self.key.erasures, pseudonym, sealed)
            if (version := step.done()) is not None:
                return Removed(version, **counts, note=noted)
        raise _crowded(subject_id)

    def erasing(self) -> list[str]:
        """Pseudonyms of those whose erasure was begun, and is not finished."""
        with self.link.errors():
            return [pseudonym.decode() for pseudonym in self.link.client.hkeys(self.key.erasures)]

    def unfinished(self, pseudonym: str) -> dict[str, Any] | None:
        """The note of an erasure whose templates are gone and that was not finished, with what was counted.

        Raises:
            KeysError: It does not open with our keys.
        """
        with self.link.errors():
            kept = self.link.client.hget(self.key.erasures, pseudonym)
        if kept is None:
            return None
        return dict(json.loads(layout.opened("erasure", kept, pseudonym, self.keys, self.namespace)))

    def finished(self, subject_id: str, receipt: str, text: str) -> str | bytes:
        """Keep the receipt of an erasure for ever, for it names nobody; there is nothing left to do.

        Returns:
            The receipt that is kept: that of who finished first, where several did.
        """
        step = self.step().only_if(0, "EXISTS", self.key("receipt", receipt))
        step.write("SET", self.key("receipt", receipt), text)
        step.write("HDEL", self.key.erasures, self.pseudonym(subject_id)).done()
        return self.receipt(receipt) or text

    def renamed(self, subject_id: str = "") -> dict[str, str]:
        """Old names whose sightings may not have been given to the new ones: all, or those of one new name."""
        with self.link.errors():
            found = self.link.client.hgetall(self.key.renamed)
        names = {old.decode(): new.decode() for old, new in found.items()}
        return {old: new for old, new in names.items() if subject_id in {"", new}}

    def settled(self, old: str, new: str) -> None:
        """Nothing is kept any more under an old name that led to ``new``."""
        self.step().only_if(new, "HGET", self.key.renamed, old).write("HDEL", self.key.renamed, old).done()

    def expired(self, now_s: float) -> list[str]:
        """Subjects whose date has passed."""
        with self.link.errors():
            found = self.link.client.zrangebyscore(self.key.expiring, "-inf", now_s)
        return [name.decode() for name in found]

    def reseal(self) -> int:
        """Seal all vectors and photos that lie under an old key under the current one; how many were."""
        names = self.template_ids()
        count = sum(self.resealed("vector", name, self.key("template", name), "vector") for name in names)
        count += sum(self.resealed("photo", name, self.key("photo", name)) for name in names)
        return count + sum(self.resealed("erasure", name, self.key.erasures, name) for name in self.erasing())

    def resealed(self, kind: str, name: str, key: str, field: str = "") -> int:
        """Seal one thing anew, unless it is gone, lies under the current key, or does not open; 1 if it was."""
        words = [field] if field else []
        read, write = ("HGET", "HSET") if field else ("GET", "SET")
        with self.link.errors():
            kept = self.link.client.execute_command(read, key, *words)
        try:
            if not kept or self.keys.key_of(kept) == self.keys.current:
                return 0
            opened = layout.opened(kind, kept, name, self.keys, self.namespace)
        except KeysError as error:
            log.warning("the %s of %s stays as it is: %s", kind, name, error)
            return 0
        fresh = layout.sealed(kind, opened, name, self.keys, self.namespace)
        step = self.step().only_if(kept, read, key, *words)
        return int(step.write(write, key, *words, fresh, *([] if field else ["KEEPTTL"])).done() is not None)

    def _guarded(self, step: Step, subject_id: str) -> Subject:
        """A subject as it is, on which and on whose templates the step depends."""
        key = self.key("subject", subject_id)
        with self.link.errors():
            kept, revision = self.link.client.hmget(key, "json", "revision")
        if kept is None:
            message = f"there is no subject {subject_id!r}"
            raise UnknownError(message)
        step.only_if(kept, "HGET", key, "json").only_if(revision, "HGET", key, "revision")
        return Subject.model_validate_json(kept)

    def _only_if_free(self, step: Step, name: str) -> None:
        """Nobody is given the name of somebody, nor one under which something of somebody else is still kept."""
        step.only_if(0, "EXISTS", self.key("subject", name)).only_if(0, "HEXISTS", self.key.renamed, name)
        step.only_if(0, "HEXISTS", self.key.erasures, self.pseudonym(name))

    def _refuse_kept(self, name: str) -> None:
        with self.link.errors():
            pipe = self.link.client.pipeline(transaction=False).hexists(self.key.renamed, name)
            renamed, erased = pipe.hexists(self.key.erasures, self.pseudonym(name)).execute()
        if renamed or erased:
            what = "erasure" if erased else "renaming"
            message = f"the {what} of who was {name!r} is not finished yet; ask for it again, or wait a minute"
            raise RefusedError(message)

    def _lead(self, step: Step, old: str, new: str) -> None:
        """What was seen under a name, and under those before it that lead to it, is to be found under the new one.

        Nobody can lead another name to it meanwhile, for the step depends on the subject.
        """
        for name in (old, *self.renamed(old)):
            step.write("HSET", self.key.renamed, name, new)

    def _give(self, step: Step, owner: str, after: Subject) -> None:
        """All templates of ``owner`` are of ``after``, who may be the same."""
        said = [word for line in layout.allowed(after).items() for word in line]
        for name in self.template_ids(owner):
            step.write("HSET", self.key("template", name), *said)
            step.write("SADD", self.key("of", after.id), name).tell("put", name)
        if owner != after.id:
            self._drop_subject(step, owner)
        self._write_subject(step, after)

    def _write_subject(self, step: Step, subject: Subject) -> None:
        """Its revision guards against changes that were made from what is no longer so."""
        step.write(
            "HSET", self.key("subject", subject.id),
            "json", subject.model_dump_json(), "revision", secrets.token_hex(8),
        )  # fmt: skip
        step.write("ZADD", self.key.subjects, 0, subject.id)
        if subject.expires is None:
            step.write("ZREM", self.key.expiring, subject.id)
        else:
            step.write("ZADD", self.key.expiring, subject.expires.timestamp(), subject.id)

    def _write_template(self, step: Step, template: Template, subject: Subject) -> None:
        lines = layout.fields(template, subject, self.keys, self.namespace)
        step.write("HSET", self.key("template", template.id), *(word for line in lines.items() for word in line))
        step.write("SADD", self.key.templates, template.id)
        step.write("SADD", self.key("of", subject.id), template.id)
        if template.negative:
            step.write("SADD", self.key.negatives, template.id)
        if template.photo is not None:
            photo = layout.sealed_photo(template.photo, template.id, self.keys, self.namespace)
            step.write("SET", self.key("photo", template.id), photo)
        step.tell("put", template.id)

    def _drop_subject(self, step: Step, subject_id: str) -> None:
        for key in (self.key("subject", subject_id), self.key("of", subject_id)):
            step.write("DEL", key)
        step.write("ZREM", self.key.subjects, subject_id).write("ZREM", self.key.expiring, subject_id)

    def _drop_templates(self, step: Step, subject_id: str, names: Sequence[str]) -> dict[str, Any]:
        """Templates go with their photos; how many of each."""
        for name in names:
            step.write("DEL", self.key("template", name)).write("DEL", self.key("photo", name))
            for kind in (self.key.templates, self.key.negatives, self.key("of", subject_id)):
                step.write("SREM", kind, name)
            step.tell("drop", name)
        return self._counts(names)

    def _counts(self, names: Sequence[str]) -> dict[str, Any]:
        with self.link.errors():
            pipe = self.link.client.pipeline(transaction=False)
            for name in names:
                pipe.hget(self.key("template", name), "negative").exists(self.key("photo", name))
            answers = pipe.execute()
        negatives = sum(answer == b"1" for answer in answers[::2])
        return {"vectors": len(names) - negatives, "negatives": negatives, "photos": sum(answers[1::2])}

    def _register(self) -> None:
        """Let whoever sweeps all namespaces know of this one."""
        if not self._registered:
            with self.link.errors():
                self.link.client.sadd(NAMESPACES, self.namespace)
            self._registered = True


def _taken(subject_id: str) -> DuplicateError:
    message = f"there is a subject {subject_id!r} already; choose another name, or merge the two"
    return DuplicateError(message)


def _crowded(subject_id: str) -> RefusedError:
    message = f"subject {subject_id!r} is being changed by too many at once; try again"
    return RefusedError(message)
