"""The truth of a gallery: subjects with their templates and photos in Redis, sealed, and a log of every change."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import SecretStr

from pipeline.edges import redis_layout as layout
from pipeline.edges.redis_layout import Keyspace
from pipeline.edges.redis_link import RedisLink, Step
from pipeline.gallery.errors import AwayError, DuplicateError, InvalidError, RefusedError, UnknownError
from pipeline.gallery.keys import Keys
from pipeline.gallery.protocol import Template
from pipeline.gallery.subjects import NAMESPACE, NamespacePolicy, Subject
from pipeline.packets import Pixels

LOG_LENGTH = 200_000  # a matcher that was away for more changes reads everything anew
ATTEMPTS = 50
AT_ONCE = 1000  # keys asked for in one go
DIMENSION = 512
POLICY_S = 0.5  # how long a policy is remembered

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Removed:
    """What a removal took away.

    Attributes:
        version: Of the gallery after it.
        vectors: Templates.
        negatives: Negative anchors.
        photos: Photos.
    """

    version: int
    vectors: int = 0
    negatives: int = 0
    photos: int = 0


class GalleryStore:
    """One namespace of galleries. Every change is one atomic step, which also appends to the change log.

    Every method raises `AwayError` where Redis does not answer.

    Attributes:
        namespace: Its name.
        key: Names of its keys.
        link: Its connections.
        keys: What seals vectors and photos.
        dimension: Of the vectors.
    """

    def __init__(self, url: SecretStr, keys: Keys, namespace: str = "main", *, log_length: int = LOG_LENGTH) -> None:
        """Nothing is asked before the first call.

        Args:
            url: Where Redis is.
            keys: What seals vectors and photos.
            namespace: Which gallery.
            log_length: How many changes the log keeps, about.

        Raises:
            InvalidError: ``namespace`` can be no name.
        """
        if not re.fullmatch(NAMESPACE, namespace):
            message = f"{namespace[:80]!r} can be no name of a gallery; it has letters, digits, and . _ - inside"
            raise InvalidError(message)
        self.namespace, self.keys, self.key = namespace, keys, Keyspace(namespace)
        self._url, self._log_length, self.dimension = url, log_length, DIMENSION
        self.link = RedisLink(url, AwayError)
        self._policy = -POLICY_S, NamespacePolicy()

    def close(self) -> None:
        """End the connections."""
        self.link.close()

    def waiting_link(self, name: str) -> RedisLink:
        """Another connection, for calls that wait; ``link.wake(name)`` ends them."""
        return RedisLink(self._url, AwayError, name=name)

    def step(self) -> Step:
        """An atomic change that begins here."""
        return Step(self.link, self.key.version, self.key.log, self._log_length)

    # What is there

    def version(self) -> int:
        """How many changes there were."""
        with self.link.errors():
            return int(self.link.client.get(self.key.version) or 0)

    def durability(self) -> str:
        """How often Redis forces what it was told to the disk; empty where it keeps no log of it, or does not say."""
        with self.link.errors():
            said = self.link.client.info("persistence")
            kept = self.link.client.config_get("appendfsync") if said.get("aof_enabled") else {}
        return next(map(str, kept.values()), "")

    def policy(self) -> NamespacePolicy:
        """What the namespace allows, or allowed half a second ago; the defaults where nobody has said."""
        asked_s, policy = self._policy
        if time.monotonic() - asked_s > POLICY_S:
            with self.link.errors():
                kept = self.link.client.get(self.key("policy"))
            policy = NamespacePolicy.model_validate_json(kept) if kept else NamespacePolicy()
            self._policy = time.monotonic(), policy
        return policy

    def set_policy(self, policy: NamespacePolicy) -> None:
        """Keep a policy."""
        with self.link.errors():
            self.link.client.set(self.key("policy"), policy.model_dump_json())
        self._policy = time.monotonic(), policy

    def subject(self, subject_id: str) -> Subject:
        """One of them.

        Raises:
            UnknownError: There is none.
        """
        if found := self.known([subject_id]):
            return found[subject_id]
        message = f"there is no subject {subject_id!r}"
        raise UnknownError(message)

    def subjects(self, after: str = "", limit: int = 100) -> list[Subject]:
        """Some of them, in the order of the bytes of their ids, from the one after ``after``."""
        low = f"({after}" if after else "-"
        with self.link.errors():
            names = self.link.client.zrangebylex(self.key.subjects, low, "+", 0, limit)
        return list(self.known([name.decode() for name in names]).values())

    def known(self, names: Sequence[str]) -> dict[str, Subject]:
        """Those of a few hundred subjects that are there, by id."""
        rows = self.link.fields([self.key("subject", name) for name in names], ["json"])
        return {name: Subject.model_validate_json(kept) for name, (kept,) in zip(names, rows, strict=True) if kept}

    def count(self) -> tuple[int, int]:
        """How many subjects and templates there are."""
        with self.link.errors():
            return int(self.link.client.zcard(self.key.subjects)), int(self.link.client.scard(self.key.templates))

    def template_ids(self, subject_id: str = "") -> list[str]:
        """Ids of the templates of a subject, or of all, in order."""
        key = self.key("of", subject_id) if subject_id else self.key.templates
        with self.link.errors():
            return sorted(name.decode() for name in self.link.client.sscan_iter(key, count=AT_ONCE))

    def templates(self, names: Sequence[str]) -> list[Template]:
        """Those of these that are there, without photos."""
        found: list[Template] = []
        for some in in_parts(names):
            with self.link.errors():
                pipe = self.link.client.pipeline(transaction=False)
                for name in some:
                    pipe.hgetall(self.key("template", name))
                rows: list[Mapping[bytes, bytes]] = pipe.execute()
            pairs = zip(some, rows, strict=True)
            found += [layout.template(name, row, self.keys, self.namespace) for name, row in pairs if row]
        return found

    def template(self, name: str) -> Template:
        """One of them, without its photo; raises `UnknownError` if there is none."""
        if found := self.templates([name]):
            return found[0]
        message = f"there is no template {name!r}"
        raise UnknownError(message)

    def photo(self, template_id: str) -> Pixels | None:
        """The crop that a template was made of, where it was kept."""
        with self.link.errors():
            kept = self.link.client.get(self.key("photo", template_id))
        return layout.opened_photo(kept, template_id, self.keys, self.namespace) if kept else None

    def receipt(self, name: str) -> bytes | None:
        """A receipt of an erasure as it was kept; None where there is none."""
        with self.link.errors():
            kept: bytes | None = self.link.client.get(self.key("receipt", name))
        return kept

    def keep_receipt(self, name: str, receipt: str) -> None:
        """Keep a receipt for ever: it names nobody."""
        with self.link.errors():
            self.link.client.set(self.key("receipt", name), receipt)

    # Changes

    def add_subject(self, subject: Subject) -> int:
        """Add somebody without templates; the version after it.

        Raises:
            DuplicateError: There is one of this name.
        """
        step = self.step().only_if(0, "EXISTS", self.key("subject", subject.id))
        self._write_subject(step, subject)
        version = step.done()
        if version is None:
            message = f"there is a subject {subject.id!r} already"
            raise DuplicateError(message)
        return version

    def change_subject(self, subject: Subject) -> int:
        """Keep a subject as it is now; its templates are matched, or not, as its consent and its date say.

        Raises:
            UnknownError: There is none of this name.
        """

        def change(step: Step, names: Sequence[str]) -> None:
            self._write_subject(step, subject)
            for name in names:
                step.write("HSET", self.key("template", name), "until", until(subject)).tell("put", name)

        return self._with_templates(subject.id, change)

    def enrol(self, subject: Subject, templates: Sequence[Template]) -> int:
        """Add templates to a subject, who is added where there is none; the version after it.

        Raises:
            InvalidError: One can be no template.
        """
        layout.checked(templates, self.dimension)
        key = self.key("subject", subject.id)
        for _ in range(ATTEMPTS):
            with self.link.errors():
                kept = self.link.client.hget(key, "json")
            step = self.step().only_if(kept, "HGET", key, "json")  # the consent must be the one that counts
            known = Subject.model_validate_json(kept) if kept else subject
            if kept:
                step.write("HSET", key, "revision", secrets.token_hex(8))
            else:
                self._write_subject(step, known)
            for template in templates:
                self._write_template(step, template, known)
            version = step.done()
            if version is not None:
                return version
        raise _crowded(subject.id)

    def remove_templates(self, subject_id: str, names: Iterable[str]) -> Removed:
        """Forget some templates of a subject, with their photos.

        Raises:
            UnknownError: There is no such subject.
        """
        wanted = set(names)
        return self._removed(subject_id, lambda of: [name for name in of if name in wanted], with_subject=False)

    def remove_subject(self, subject_id: str) -> Removed:
        """Forget a subject with all templates and photos.

        Raises:
            UnknownError: There is none of this name.
        """
        return self._removed(subject_id, list, with_subject=True)

    def move(self, source: str, into: Subject, *, new: bool) -> int:
        """Give a subject's templates to another one, and forget the first: a new name, or one person of two.

        Raises:
            UnknownError: There is no ``source``.
            DuplicateError: ``new`` was asked for, and there is an ``into``.
        """

        def change(step: Step, names: Sequence[str]) -> None:
            step.only_if(int(not new), "EXISTS", self.key("subject", into.id))
            self._write_subject(step, into)
            for name in names:
                step.write("HSET", self.key("template", name), "subject", into.id, "until", until(into))
                step.write("SADD", self.key("of", into.id), name).tell("put", name)
            self._drop_subject(step, source)

        with self.link.errors():
            if new and self.link.client.exists(self.key("subject", into.id)):
                message = f"there is a subject {into.id!r} already; merge them instead"
                raise DuplicateError(message)
        return self._with_templates(source, change)

    def expired(self, now_s: float) -> list[str]:
        """Subjects whose date has passed."""
        with self.link.errors():
            found = self.link.client.zrangebyscore(self.key.expiring, "-inf", now_s)
        return [name.decode() for name in found]

    def reseal(self) -> int:
        """Seal everything that lies under an old key under the current one; how many pieces were."""
        count = 0
        for name in self.template_ids():
            count += self._reseal(name)
        return count

    def _reseal(self, name: str) -> int:
        places = [("vector", self.key("template", name), "vector"), ("photo", self.key("photo", name), "")]
        count = 0
        for kind, key, field in places:
            with self.link.errors():
                kept = self.link.client.hget(key, field) if field else self.link.client.get(key)
            if not kept or self.keys.key_of(kept) == self.keys.current:
                continue
            fresh = layout.resealed(kind, kept, name, self.keys, self.namespace)
            read, write = ("HGET", "HSET") if field else ("GET", "SET")
            words = (field,) if field else ()
            count += self.step().only_if(kept, read, key, *words).write(write, key, *words, fresh).done() is not None
        return count

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
        lines = layout.fields(template, until(subject), self.keys, self.namespace)
        step.write("HSET", self.key("template", template.id), *(word for line in lines.items() for word in line))
        step.write("SADD", self.key.templates, template.id)
        step.write("SADD", self.key("of", template.subject_id), template.id)
        if template.photo is not None:
            photo = layout.sealed_photo(template.photo, template.id, self.keys, self.namespace)
            step.write("SET", self.key("photo", template.id), photo)
        step.tell("put", template.id)

    def _drop_subject(self, step: Step, subject_id: str) -> None:
        for key in (self.key("subject", subject_id), self.key("of", subject_id)):
            step.write("DEL", key)
        step.write("ZREM", self.key.subjects, subject_id).write("ZREM", self.key.expiring, subject_id)

    def _with_templates(self, subject_id: str, change: Callable[[Step, Sequence[str]], None]) -> int:
        """A step that concerns all templates of a subject, done again where one came or went meanwhile."""
        for _ in range(ATTEMPTS):
            self.subject(subject_id)
            key = self.key("subject", subject_id)
            with self.link.errors():
                revision = self.link.client.hget(key, "revision")
            step = self.step().only_if(revision, "HGET", key, "revision")
            change(step, self.template_ids(subject_id))
            version = step.done()
            if version is not None:
                return version
        raise _crowded(subject_id)

    def _removed(self, subject_id: str, chosen: Callable[[list[str]], list[str]], *, with_subject: bool) -> Removed:
        counts: dict[str, int] = {}

        def change(step: Step, names: Sequence[str]) -> None:
            gone = chosen(list(names))
            counts.update(self._counts(gone))
            for name in gone:
                step.write("DEL", self.key("template", name)).write("DEL", self.key("photo", name))
                step.write("SREM", self.key.templates, name).write("SREM", self.key("of", subject_id), name)
                step.tell("drop", name)
            if with_subject:
                self._drop_subject(step, subject_id)
            else:
                step.write("HSET", self.key("subject", subject_id), "revision", secrets.token_hex(8))

        return Removed(self._with_templates(subject_id, change), **counts)

    def _counts(self, names: Sequence[str]) -> dict[str, int]:
        with self.link.errors():
            pipe = self.link.client.pipeline(transaction=False)
            for name in names:
                pipe.hget(self.key("template", name), "negative").exists(self.key("photo", name))
            answers = pipe.execute()
        negatives = sum(answer == b"1" for answer in answers[::2])
        return {"vectors": len(names) - negatives, "negatives": negatives, "photos": sum(answers[1::2])}


def until(subject: Subject) -> str:
    """The moment from which the templates of a subject are not matched, as it lies in Redis."""
    if subject.consent == "withdrawn":
        return layout.NEVER
    return layout.FOR_EVER if subject.expires is None else repr(subject.expires.timestamp())


def in_parts(names: Sequence[str], size: int = AT_ONCE) -> list[Sequence[str]]:
    """``names`` in parts that are asked for in one go."""
    return [names[at : at + size] for at in range(0, len(names), size)]


def _crowded(subject_id: str) -> RefusedError:
    message = f"subject {subject_id!r} is being changed by too many at once; try again"
    return RefusedError(message)
