"""Dead letters in a real Kafka: what they say, and their way back."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from pipeline.edges.dead_letters import chosen, identity, letters, replay
from pipeline.edges.delivery import DeadLetter, Delivery, Restored
from pipeline.edges.kafka_settings import KafkaSettings, TooLargeError
from pipeline.edges.kafka_topics import read_to_end
from pipeline.edges.video_messages import Message, read
from pipeline.errors import PipelineError

pytestmark = pytest.mark.broker
Deliver = Callable[..., Delivery]


def written(settings: KafkaSettings, topic: str) -> list[Message]:
    return list(read_to_end(settings, settings.topic(topic)))


def test_a_dead_letter_can_be_sent_back_once_and_counts_its_deaths(settings: KafkaSettings, deliver: Deliver) -> None:
    own = (("content-type", b"image/jpeg"), ("stream-id", b"cam"))
    message = Message(settings.topic("video"), 0, 17, b"cam", b"\xff\xd8", own, 1_700_000_000_000)
    delivery = deliver(settings)
    delivery.begin()
    delivery.commit({"cam": b"state"}, 17)
    delivery.reject([DeadLetter(message, "embed", "ValueError", "no such thing")], 18)
    assert delivery.restore() == {"cam": Restored(b"state", 18)}
    letter = letters(settings)[0]
    assert {name: letter.said[f"dlq-{name}"] for name in ("stage", "error-class", "error", "attempts")} == {
        "stage": "embed",
        "error-class": "ValueError",
        "error": "no such thing",
        "attempts": "1",
    }
    assert letter.said["dlq-origin-topic"] == settings.topic("video")
    replay(settings, chosen(settings, [identity(letter)]))
    assert letters(settings) == []
    with pytest.raises(PipelineError, match="no dead letter"):
        chosen(settings, [identity(letter)])
    back = written(settings, "video")
    assert [(m.key, m.value, m.said["content-type"], m.said["dlq-attempts"]) for m in back] == [
        (b"cam", b"\xff\xd8", "image/jpeg", "1")
    ]
    assert read(back[0]).capture_ns == 1_700_000_000_000 * 1_000_000
    delivery.reject([DeadLetter(back[0], "embed", "ValueError", "again")], 19)
    (again,) = letters(settings)
    assert (again.said["dlq-attempts"], again.said["dlq-origin-time"]) == ("2", "1700000000000")


@pytest.mark.parametrize("attempts", ["-1", "many", "9" * 5_000])
def test_deaths_that_are_no_number_are_counted_anew(attempts: str) -> None:
    message = Message("video", 0, 17, b"cam", b"bytes", (("dlq-attempts", attempts.encode()),))
    assert ("dlq-attempts", b"1") in DeadLetter(message, "read", "SourceError", "bad").headers


def test_dead_letters_go_back_to_the_partition_they_came_from_and_one_that_cannot_holds_up_none_before_it(
    settings: KafkaSettings, deliver: Deliver
) -> None:
    came = [Message(settings.topic("video"), 1, n, key, None) for n, key in enumerate((b"a", b"b", None))]
    large = Message(settings.topic("video"), 1, 3, b"a", os.urandom(100_000))
    deliver(settings).reject([DeadLetter(m, "embed", "ValueError", "no") for m in (*came, large)], 18)
    waiting = sorted(letters(settings), key=lambda letter: len(letter.value or b""))
    with pytest.raises(TooLargeError):
        replay(settings.model_copy(update={"message_bytes": 1024}), waiting)
    assert [(m.partition, m.key) for m in written(settings, "video")] == [(1, b"a"), (1, b"b"), (1, None)]
    assert [letter.value for letter in letters(settings)] == [large.value]
