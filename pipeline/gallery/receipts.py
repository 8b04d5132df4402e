"""What somebody is given who asked to be forgotten: what was removed and when the rest is gone, signed."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Annotated
from uuid import uuid4

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from pipeline.gallery.errors import InvalidError
from pipeline.gallery.keys import Keys, canonical, fingerprint

KIND = b"omote.receipt/1\n"  # no signature of something else is one of a receipt
Count = Annotated[int, Field(ge=0)]
Utc = Annotated[AwareDatetime, AfterValidator(lambda moment: moment.astimezone(UTC))]


class _Signed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Removed(_Signed):
    """How many of each were removed.

    Attributes:
        vectors: Templates.
        negatives: Anchors that said "not this person".
        photos: Aligned crops of enrolled photos.
        crops: Crops of sightings.
        explanations: Explanations of matches.
        cached_frames: Frames that were kept for explanations.
        matches: Sightings.
        unknown_tracks: Faces that were kept for clustering and resemble the subject.
        index_entries: Rows of the matchers' matrices.
    """

    vectors: Count = 0
    negatives: Count = 0
    photos: Count = 0
    crops: Count = 0
    explanations: Count = 0
    cached_frames: Count = 0
    matches: Count = 0
    unknown_tracks: Count = 0
    index_entries: Count = 0


class MatcherWord(_Signed):
    """What a running matcher said of the erasure.

    Attributes:
        name: Name of the matcher.
        confirmed: Whether it said in time that it holds the subject no more. One that did not is told again when it
            answers, and cannot answer before.
        gallery_version: Version of the gallery that it held then; 0 where it did not answer.
    """

    name: str
    confirmed: bool
    gallery_version: Count = 0


class Receipt(_Signed):
    """An erasure. It names the subject by pseudonym alone, so that it may be kept.

    Attributes:
        id: Its number, 32 hexadecimal digits.
        namespace: Where the subject was known.
        subject: Pseudonym under which the audit log knows the subject.
        asked_by: Name of the caller.
        at: When everything that is counted was gone.
        removed: What was removed.
        not_compared: Faces that did not open with the gallery's keys, so that nobody could tell whether they show the
            subject or look like the subject: the subject's own, which are gone, and others', which are not.
        matchers: What each running matcher said.
        topics: By topic, until when its messages may still name the subject.
        gallery_version: Version of the gallery without the subject.
        key: Fingerprint of the key that signs.
    """

    id: str = Field(default_factory=lambda: uuid4().hex)
    namespace: str
    subject: str
    asked_by: str
    at: Utc = Field(default_factory=lambda: datetime.now(UTC))
    removed: Removed = Removed()
    not_compared: Count = 0
    matchers: tuple[MatcherWord, ...] = ()
    topics: dict[str, Utc] = {}
    gallery_version: Count
    key: str


class SignedReceipt(_Signed):
    """A receipt and its signature.

    Attributes:
        receipt: The receipt.
        signature: Ed25519 over ``omote.receipt/1``, a newline, and the receipt's canonical JSON without the fields that
            have their default; base64.
    """

    receipt: Receipt
    signature: str


def signed(receipt: Receipt, keys: Keys) -> SignedReceipt:
    """The receipt with a signature.

    Raises:
        InvalidError: It names another key.
    """
    if receipt.key != keys.fingerprint:
        message = f"receipt {receipt.id} names the key {receipt.key}, but the one that signs is {keys.fingerprint}"
        raise InvalidError(message)
    return SignedReceipt(receipt=receipt, signature=base64.b64encode(keys.sign(_text(receipt))).decode())


def verified(said: SignedReceipt, public_key: str) -> Receipt:
    """The receipt, if it is as it was signed.

    Raises:
        InvalidError: It was changed, or somebody else signed it.
    """
    receipt = said.receipt
    if receipt.key != fingerprint(public_key):
        message = f"receipt {receipt.id} was signed with the key {receipt.key}, not with {fingerprint(public_key)}"
        raise InvalidError(message)
    if not Keys.verify(public_key, _text(receipt), _decoded(said.signature)):
        message = f"receipt {receipt.id} is not as it was signed: it was changed, or the key {receipt.key} did not sign"
        raise InvalidError(message)
    return receipt


def _text(receipt: Receipt) -> bytes:
    """What is signed; a field that a later omote adds does not change what an earlier one signed."""
    return KIND + canonical(receipt.model_dump(mode="json", exclude_defaults=True))


def _decoded(text: str) -> bytes:
    """The bytes of base64; none where it is no base64, and nothing is a signature of theirs."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""
