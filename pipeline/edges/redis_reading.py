"""What lies in Redis for a gallery: subjects with their templates and photos, sealed, and a policy."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from pydantic import SecretStr, ValidationError

from pipeline.edges import redis_layout as layout
from pipeline.edges.redis_layout import Keyspace
from pipeline.edges.redis_link import RedisLink, Step
from pipeline.gallery.errors import AwayError, InvalidError, RefusedError, UnknownError
from pipeline.gallery.keys import Keys, KeysError
from pipeline.gallery.protocol import Template
from pipeline.gallery.subjects import NAMESPACE, NamespacePolicy, Subject
from pipeline.packets import Pixels

LOG_LENGTH = 200_000  # a matcher that was away for more changes reads everything anew
NAMESPACES = "omote:namespaces"  # the names of all of them
AT_ONCE = 1000  # keys asked for in one go
DIMENSION = 512
POLICY_S = 0.5  # how long a policy is remembered


class StoreReading:
    """One namespace of galleries, as it is.

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
        self._policy, self._registered = (-POLICY_S, NamespacePolicy()), False

    def close(self) -> None:
        """End the connections."""
        self.link.close()

    def waiting_link(self, name: str) -> RedisLink:
        """Another connection, for calls that wait; ``link.wake(name)`` ends them."""
        return RedisLink(self._url, AwayError, name=name)

    def step(self) -> Step:
        """An atomic change that begins here."""
        return Step(
            self.link, self.key.version, self.key.log, self.key("step", secrets.token_hex(12)), self._log_length
        )

    # What is there

    def pseudonym(self, subject_id: str) -> str:
        """Whom the log, receipts and lists name by it; empty for nobody."""
        return self.keys.pseudonym(self.namespace, subject_id) if subject_id else ""

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

    def policy(self, age_s: float = POLICY_S) -> NamespacePolicy:
        """What the namespace allows, or allowed less than ``age_s`` ago; the defaults where nobody has said."""
        asked_s, policy = self._policy
        if time.monotonic() - asked_s >= age_s:
            policy = _policy(self._kept_policy())
            self._policy = time.monotonic(), policy
        return policy

    def set_policy(self, policy: NamespacePolicy) -> None:
        """Keep a policy, whatever was allowed before."""
        self.change_policy(lambda _: policy)

    def change_policy(self, change: Callable[[NamespacePolicy], NamespacePolicy]) -> None:
        """Change the policy from what it is at that very moment; ``change`` is asked again if somebody was faster."""
        key, version = self.key("policy"), None
        while version is None:
            kept = self._kept_policy()
            before = _policy(kept)
            after = change(before)
            step = self.step().only_if(kept, "GET", key).write("SET", key, after.model_dump_json(exclude_unset=True))
            for lifetime_s in {before.subject_ttl_s, after.subject_ttl_s} - {None}:
                step.write("SADD", self.key("lifetimes"), repr(lifetime_s))
            version = step.done()
        self._policy = time.monotonic(), after

    def lifetimes(self) -> set[float]:
        """After which times a policy has ever let subjects be forgotten, seconds: their dates are not their own."""
        with self.link.errors():
            return {float(each) for each in self.link.client.smembers(self.key("lifetimes"))}

    def nets(self, silent_s: float) -> set[str]:
        """With which nets' templates matchers match of which something was heard in the last ``silent_s``."""
        with self.link.errors():
            told = [json.loads(text) for text in self.link.client.hvals(self.key("matchers"))]
        return {each.get("model", "") for each in told if time.time() - each["at"] <= silent_s}

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
        found = dict[str, Subject]()
        while missing := limit - len(found):  # more than once where some of them are forgotten at this moment
            low = f"({after}" if after else "-"
            with self.link.errors():
                kept = self.link.client.zrangebylex(self.key.subjects, low, "+", 0, missing)
            names = [name.decode() for name in kept]
            found |= self.known(names)
            if len(names) < missing:
                break
            after = names[-1]
        return list(found.values())

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
            found = {name.decode() for name in self.link.client.sscan_iter(key, count=AT_ONCE)}  # it may give one twice
        return sorted(found)

    def owners(self, names: Sequence[str]) -> dict[str, str]:
        """Of whom each of these templates is that are there; none needs to open."""
        owners: dict[str, str] = {}
        for some in in_parts(names):
            rows = self.link.fields([self.key("template", name) for name in some], ["subject"])
            owners |= {name: kept.decode() for name, (kept,) in zip(some, rows, strict=True) if kept}
        return owners

    def templates(self, names: Sequence[str]) -> list[Template]:
        """Those of these that are there, without photos.

        Raises:
            KeysError: One does not open with our keys.
        """
        return [layout.template(name, row, self.keys, self.namespace) for name, row in self._rows(names)]

    def opened(self, names: Iterable[str]) -> tuple[list[Template], int]:
        """Those of these that are there and open with our keys, without photos; and how many do not open."""
        found, shut = list[Template](), 0
        for name, row in self._rows(sorted(names)):
            try:
                found.append(layout.template(name, row, self.keys, self.namespace))
            except KeysError:
                shut += 1
        return found, shut

    def made_of(self, photo_sha256: str, subject_id: str, model: str) -> Template | None:
        """The template of a subject that a net made of this photo; no other needs to open."""
        wanted = [photo_sha256.encode(), model.encode()]
        for some in in_parts(self.template_ids(subject_id)):
            rows = self.link.fields([self.key("template", name) for name in some], ["sha256", "model"])
            if found := self.templates([name for name, row in zip(some, rows, strict=True) if row == wanted][:1]):
                return found[0]
        return None

    def negatives(self) -> set[str]:
        """Ids of all negative anchors."""
        with self.link.errors():
            return {name.decode() for name in self.link.client.smembers(self.key.negatives)}

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

    def _rows(self, names: Sequence[str]) -> Iterator[tuple[str, Mapping[bytes, bytes]]]:
        """The hashes of those of these templates that are there."""
        for some in in_parts(names):
            with self.link.errors():
                pipe = self.link.client.pipeline(transaction=False)
                for name in some:
                    pipe.hgetall(self.key("template", name))
                rows: list[Mapping[bytes, bytes]] = pipe.execute()
            yield from ((name, row) for name, row in zip(some, rows, strict=True) if row)

    def _kept_policy(self) -> bytes | None:
        with self.link.errors():
            kept: bytes | None = self.link.client.get(self.key("policy"))
        return kept


def _policy(kept: bytes | None) -> NamespacePolicy:
    try:
        return NamespacePolicy.model_validate_json(kept or b"{}")
    except ValidationError as error:
        message = "the policy that lies in Redis is none of this version of omote; set it anew"
        raise RefusedError(message) from error


def in_parts(names: Sequence[str], size: int = AT_ONCE) -> list[Sequence[str]]:
    """``names`` in parts that are asked for in one go."""
    return [names[at : at + size] for at in range(0, len(names), size)]
