"""A receipt says what was signed, or is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.gallery.errors import InvalidError
from pipeline.gallery.keys import Keys
from pipeline.gallery.receipts import MatcherWord, Receipt, Removed, SignedReceipt, signed, verified

KEYS = Keys.new()
AT = datetime(2026, 11, 21, 10, tzinfo=UTC)


def receipt(**more: Any) -> Receipt:
    said = {
        "namespace": "main",
        "subject": KEYS.pseudonym("main", "anna"),
        "asked_by": "front desk",
        "at": AT,
        "removed": Removed(vectors=3, photos=1, index_entries=6),
        "matchers": (
            MatcherWord(name="embed-0", confirmed=True, gallery_version=8),
            MatcherWord(name="embed-1", confirmed=False),
        ),
        "topics": {"omote.matches.v1": AT + timedelta(days=1)},
        "gallery_version": 8,
        "key": KEYS.fingerprint,
    }
    return Receipt(**{**said, **more})


def test_a_receipt_is_the_same_after_a_journey_as_json() -> None:
    given = signed(receipt(), KEYS)
    back = SignedReceipt.model_validate_json(given.model_dump_json())
    assert verified(back, KEYS.public_key) == given.receipt == receipt(id=given.receipt.id)


def test_a_receipt_of_an_omote_that_did_not_count_what_it_could_not_compare_holds() -> None:
    given = signed(receipt(), KEYS)
    before = given.model_dump(mode="json")
    assert before["receipt"].pop("not_compared") == 0
    assert verified(SignedReceipt.model_validate(before), KEYS.public_key) == given.receipt


@pytest.mark.parametrize(
    "change",
    [
        {"removed": Removed(vectors=3, photos=1, index_entries=5)},
        {"removed": Removed(vectors=3, photos=1, index_entries=6, crops=1)},
        {"not_compared": 1},
        {"matchers": ()},
        {"matchers": tuple(MatcherWord(name=f"embed-{n}", confirmed=True, gallery_version=8) for n in (0, 1))},
        {"topics": {}},
        {"topics": {"omote.matches.v1": AT}},
        {"at": AT + timedelta(microseconds=1)},
        {"subject": KEYS.pseudonym("main", "bert")},
        {"asked_by": "back desk"},
        {"namespace": "other"},
        {"gallery_version": 9},
        {"id": "0" * 32},
    ],
    ids=lambda change: next(iter(change)),
)
def test_no_field_can_be_changed(change: dict[str, Any]) -> None:
    given = signed(receipt(), KEYS)
    forged = SignedReceipt(receipt=given.receipt.model_copy(update=change), signature=given.signature)
    with pytest.raises(InvalidError, match="is not as it was signed"):
        verified(forged, KEYS.public_key)


def test_what_another_key_signed_is_refused_whatever_it_says() -> None:
    other = Keys.new()
    theirs = signed(receipt(key=other.fingerprint), other)
    assert verified(theirs, other.public_key) == theirs.receipt
    with pytest.raises(InvalidError, match=f"was signed with the key {other.fingerprint}"):
        verified(theirs, KEYS.public_key)
    claimed = SignedReceipt(receipt=receipt(), signature=theirs.signature)
    with pytest.raises(InvalidError, match="is not as it was signed"):
        verified(claimed, KEYS.public_key)


@pytest.mark.parametrize("signature", ["", "none", "AAAA", "ü"])
def test_garbage_is_no_signature(signature: str) -> None:
    with pytest.raises(InvalidError, match="is not as it was signed"):
        verified(SignedReceipt(receipt=receipt(), signature=signature), KEYS.public_key)


def test_a_receipt_that_names_another_key_is_not_signed() -> None:
    with pytest.raises(InvalidError, match="the one that signs is"):
        signed(receipt(key="0" * 16), KEYS)


def test_a_time_is_told_in_utc_whatever_it_was_given_in() -> None:
    berlin = timezone(timedelta(hours=1))
    given = receipt(id="0" * 32, at=AT.astimezone(berlin), topics={"omote.matches.v1": AT.astimezone(berlin)})
    assert given.model_dump_json() == receipt(id="0" * 32, topics={"omote.matches.v1": AT}).model_dump_json()
    with pytest.raises(ValidationError, match="timezone"):
        receipt(at=AT.replace(tzinfo=None))


def test_counts_are_counts() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Removed(vectors=-1)


def test_data_keys_may_change_without_spoiling_receipts() -> None:
    assert verified(signed(receipt(), KEYS), KEYS.rotated().public_key)
