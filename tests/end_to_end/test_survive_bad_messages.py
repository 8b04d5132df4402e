"""A message that cannot be worked on becomes a dead letter, and costs nobody anything but itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.edges.dead_letters import letters
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.video_messages import ACCESS_UNIT, JPEG, VideoMessage
from pipeline.operator import Operator
from pipeline.records import FrameRecord, MatchRecord, TrackRecord
from pipeline.serving.work import Plan
from tests.support.serving import Records, States, publish
from tests.support.solo import alone, at_work, graph_file, outcome, plan_of, shots, until, zipped

pytestmark = pytest.mark.broker
MPEG_TS, FRAMES, STREAMS = "video/mp2t", 48, ("gate", "lobby")
New = Callable[..., KafkaSettings]
Change = Callable[[VideoMessage], VideoMessage]
Told = FrameRecord | TrackRecord | MatchRecord


def result(plan: Plan, messages: Sequence[VideoMessage], frames: Sequence[int], deaths: int = 0) -> Records:
    """What a worker makes of these messages until so much is out."""
    publish(plan.kafka, messages, 0)
    with at_work(alone(plan)) as shift:
        found = until(plan.kafka, STREAMS, frames, deaths)
    assert shift.said == [], "a bad message is no reason to begin again from without"
    return found


def expected(new: New, servers: str, file: Path, messages: Sequence[VideoMessage]) -> tuple[Records, States]:
    """What comes of these messages where none is bad."""
    plan = plan_of(new(servers, 1), file)
    counts = [sum(max(m.frames, 1) for m in messages if m.stream == stream) for stream in STREAMS]
    result(plan, messages, counts)
    return outcome(plan.kafka, STREAMS)[:2]


def garbage(message: VideoMessage) -> VideoMessage:
    return replace(message, data=b"no video at all, but a letter to an old friend" * 20)


def cut_off(message: VideoMessage) -> VideoMessage:
    return replace(message, data=message.data[: len(message.data) // 2])


def unknown(message: VideoMessage) -> VideoMessage:
    return replace(message, content_type="image/tiff")


def as_it_is(message: VideoMessage) -> VideoMessage:
    return message


class Spoilt(Operator[Told, Told]):
    """Gives a record that no sink takes for pictures of stream time ``at``: it is too large, or makes no sense."""

    def __init__(self, at: Sequence[int], large: bool) -> None:
        self._at, self._large = at, large

    def __call__(self, batch: Sequence[Told]) -> list[Told]:
        return [self._told(record) for record in batch]

    def _told(self, record: Told) -> Told:
        if record.stream.id == "gate" and record.frame.pts_ns in self._at:
            if self._large:
                return record.model_copy(
                    update={"stream": record.stream.model_copy(update={"tenant": "x" * 9_000_000})}
                )
            return record.model_copy(update={"frame": record.frame.model_copy(update={"capture_ts": "yesterday"})})
        return record


BAD = [
    (garbage, False, "read", "SourceError", "is no "),
    (cut_off, False, "read", "SourceError", "it was cut off"),
    (unknown, False, "read", "SourceError", "content-type 'image/tiff' is not one of"),
    (as_it_is, True, "check", "StageError", "more than it can bear"),
]


@pytest.mark.parametrize(
    ("content_type", "change", "fails", "stage", "kind", "error"),
    [
        pytest.param(content_type, *case, id=f"{content_type} {case[0].__name__}")
        for content_type in (MPEG_TS, JPEG, ACCESS_UNIT)
        for case in BAD
        if case[0] is not cut_off or content_type == MPEG_TS  # half a picture is a picture
    ],
)
def test_a_bad_message_in_the_middle_becomes_a_dead_letter_and_all_else_is_as_if_it_had_never_been(
    content_type: str, change: Change, fails: bool, stage: str, kind: str, error: str,
    settings: KafkaSettings, kafka: str, new_topics: New, tmp_path: Path,
) -> None:  # fmt: skip
    films = [shots(stream, content_type) for stream in STREAMS]
    number = len(films[0]) // 2 + 1
    bad = films[0][number]
    without = zipped(*films)
    without.remove(bad)
    films[0][number] = change(bad)
    file = graph_file(tmp_path, "Allergic", json.dumps({"at": {"gate": [bad.pts_ns] if fails else []}}))
    plan = plan_of(settings, file)
    gone = max(bad.frames, 1)
    result(plan, zipped(*films), (FRAMES - gone, FRAMES), 1)
    found, remembered, dead = outcome(settings, STREAMS)
    calm = graph_file(tmp_path, "Allergic", "{}")
    if content_type == ACCESS_UNIT:  # without it the units after it would be other pictures
        assert [r["frame"]["seq"] for r in found["gate"]] == list(range(FRAMES - gone))
    else:
        wanted, kept = expected(new_topics, kafka, calm, without)
        assert found == wanted
        assert {stream: of[-2:] for stream, of in remembered.items()} == {s: of[-2:] for s, of in kept.items()}
    (letter,) = dead
    assert letter.stream == "gate"
    assert letter.value == films[0][number].data
    said = letter.said
    assert (said["dlq-stage"], said["dlq-error-class"], said["dlq-attempts"]) == (stage, kind, "1")
    assert error in said["dlq-error"]
    assert said["dlq-origin-topic"] == settings.topic("video")
    assert (said["dlq-origin-partition"], said["dlq-origin-offset"]) == ("0", str(2 * number))


@pytest.mark.parametrize(
    ("large", "stage", "kind", "error"),
    [
        ("true", "deliver", "TooLargeError", "`omote doctor` says which limit"),
        ("false", "records", "StageError", "yesterday"),
    ],
)
def test_a_record_that_no_sink_takes_costs_its_message_only(
    large: str, stage: str, kind: str, error: str,
    settings: KafkaSettings, named: Callable[[type], str], tmp_path: Path,
) -> None:  # fmt: skip
    films = [shots(stream, MPEG_TS) for stream in STREAMS]
    moment = films[0][2].pts_ns + 40_000_000
    file = graph_file(tmp_path)
    given = f"{{at: [{moment}], large: {large}}}"
    spoilt = f'  spoilt:   {{use: "{named(Spoilt)}", after: annotate, with: {given}}}\nsinks:'
    text = (
        file.read_text().replace("sinks:", spoilt).replace('KafkaSink", after: annotate', 'KafkaSink", after: spoilt')
    )
    file.write_text(text)
    found = result(plan_of(settings, file), zipped(*films), (FRAMES - 8, FRAMES), 1)
    assert [record["frame"]["seq"] for record in found["gate"]] == list(range(FRAMES - 8))
    (letter,) = letters(settings)
    assert (letter.said["dlq-stage"], letter.said["dlq-error-class"]) == (stage, kind)
    assert error in letter.said["dlq-error"]
    assert letter.value == films[0][2].data


def test_bad_messages_of_several_streams_are_told_from_their_companions(
    settings: KafkaSettings, tmp_path: Path
) -> None:
    films = [shots(stream, JPEG) for stream in STREAMS]
    bad = {"gate": [3, 4, 30], "lobby": [5, 15]}
    moments = {stream: [number * 40_000_000 for number in numbers] for stream, numbers in bad.items()}
    file = graph_file(tmp_path, "Allergic", json.dumps({"at": moments}))
    found = result(plan_of(settings, file), zipped(*films), (FRAMES - 3, FRAMES - 2), 5)
    for stream, numbers in bad.items():
        kept = [number * 40_000_000 for number in range(FRAMES) if number not in numbers]
        assert [record["frame"]["pts_ns"] for record in found[stream]] == kept
        assert [int(each.said["seq"]) for each in letters(settings) if each.stream == stream] == numbers


def test_a_dead_letter_that_is_sent_back_is_worked_on_once_what_was_wrong_is_mended(
    settings: KafkaSettings, tmp_path: Path
) -> None:
    *messages, last = shots("gate", MPEG_TS)
    broken = graph_file(tmp_path, "Allergic", json.dumps({"at": {"gate": [messages[2].pts_ns]}}))
    sent_back = ["dlq", "replay", "--all", "--servers", settings.servers, "--prefix", settings.prefix]
    result(plan_of(settings, broken), messages, (32, 0), 1)
    assert main(sent_back) == 0
    with at_work(alone(plan_of(settings, broken))):
        until(settings, STREAMS, (32, 0), 1)
    (again,) = letters(settings)
    assert (again.said["dlq-attempts"], again.said["dlq-origin-offset"]) == ("2", "5")
    assert main(sent_back) == 0
    mended = plan_of(settings, graph_file(tmp_path))
    with at_work(alone(mended)):
        until(settings, STREAMS, (40, 0))
    found = result(mended, [last], (48, 0))["gate"]
    assert letters(settings) == []
    assert [record["frame"]["seq"] for record in found] == list(range(FRAMES))
    moments = [record["frame"]["pts_ns"] for record in found]
    assert sorted(moments) == [number * 40_000_000 for number in range(FRAMES)]
    assert moments[-16:-8] == [number * 40_000_000 for number in range(16, 24)], "what was sent back comes at the end"


@pytest.mark.parametrize("content_type", [JPEG, ACCESS_UNIT])
def test_what_a_successor_meets_first_may_be_bad(
    content_type: str, settings: KafkaSettings, kafka: str, new_topics: New, tmp_path: Path
) -> None:
    file, film = graph_file(tmp_path), shots("gate", content_type)
    bad = replace(film[20], data=b"no picture")
    result(plan_of(settings, file), film[:20], (20, 0))
    result(plan_of(settings, file), [bad, *film[20:]], (FRAMES, 0), 1)
    found, remembered, _ = outcome(settings, STREAMS)
    wanted, kept = expected(new_topics, kafka, file, film)
    assert found == wanted
    assert remembered["gate"][-1] == kept["gate"][-1]
    assert remembered["gate"][-2] == kept["gate"][-2]


def test_pictures_that_are_too_large_to_decode_hold_up_nobody(settings: KafkaSettings, tmp_path: Path) -> None:
    film = shots("gate", ACCESS_UNIT)
    file = graph_file(tmp_path)
    file.write_text(file.read_text().replace('decode:Decode"', 'decode:Decode", with: {max_pixels: 3000}'))
    result(plan_of(settings, file), [*film[:3], *shots("lobby", ACCESS_UNIT)[:1]], (0, 0), 4)
    assert {letter.said["dlq-stage"] for letter in letters(settings)} == {"decode"}
