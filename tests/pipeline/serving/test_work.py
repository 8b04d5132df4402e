"""A worker on a real Kafka: what it goes on with when it takes over, and what its records carry."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.edges.delivery import Transactions
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import read_to_end
from pipeline.edges.video_messages import JPEG, VideoMessage
from pipeline.state_codec import decode
from tests.support.serving import publish
from tests.support.solo import alone, at_work, graph_file, outcome, plan_of, shots, until

pytestmark = pytest.mark.broker
FRAMES = 48
MPEG_TS = "video/mp2t"


def without_tally(folder: Path) -> Path:
    file = graph_file(folder)
    lines = file.read_text().replace("after: tally", "after: decode").splitlines()
    file.write_text("\n".join(line for line in lines if "tally" not in line))
    return file


def test_a_stage_that_is_taken_out_of_the_graph_leaves_nothing_behind(settings: KafkaSettings, tmp_path: Path) -> None:
    film = shots("gate", MPEG_TS)
    for file, part, frames in ((graph_file(tmp_path), film[:3], 24), (without_tally(tmp_path), film[3:], FRAMES)):
        publish(settings, part, 0)
        with at_work(alone(plan_of(settings, file))):
            found = until(settings, ["gate"], [frames])
    _, remembered, dead = outcome(settings, ["gate"])
    assert [record["frame"]["seq"] for record in found["gate"]] == list(range(FRAMES))
    assert dead == []
    assert [set(decode(state)) for state in (remembered["gate"][0], remembered["gate"][-2])] == [
        {"decode", "tally", "annotate"},
        {"decode", "annotate"},
    ]


def test_a_state_that_cannot_be_read_costs_its_own_stream_what_it_knew_and_nobody_else_anything(
    settings: KafkaSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Transactions(settings, partition=0)) as before:
        before.begin()
        before.commit({"gate": b"omote.state/2\nfrom the future"})
    for stream in ("gate", "lobby"):
        publish(settings, shots(stream, MPEG_TS), 0)
    with caplog.at_level(logging.WARNING), at_work(alone(plan_of(settings, graph_file(tmp_path)))) as shift:
        until(settings, ["gate", "lobby"], [FRAMES, FRAMES])
    assert shift.said == []
    (told,) = (message for message in caplog.messages if "begins anew" in message)
    assert told.startswith("partition-0: stream 'gate' begins anew")
    assert "the state is of version 2" in told


def traced(settings: KafkaSettings, messages: Sequence[VideoMessage], traces: Sequence[str]) -> None:
    with closing(settings.producer()) as producer:
        for message, trace in zip(messages, traces, strict=True):
            headers = [*message.headers, *([("traceparent", trace.encode())] if trace else [])]
            producer.send(settings.topic("video"), message.data, message.stream.encode(), headers, 0)
        producer.flush()


@pytest.mark.parametrize("content_type", [JPEG, MPEG_TS])
def test_records_carry_the_trace_of_the_message_they_came_of(
    content_type: str, settings: KafkaSettings, tmp_path: Path
) -> None:
    film = shots("gate", content_type, frames=24)
    traces = [f"00-{number + 1:032x}-{number + 1:016x}-01" for number in range(len(film))]
    traces[1], traces[2] = "", "what is this"
    traced(settings, film, traces)
    with at_work(alone(plan_of(settings, graph_file(tmp_path)))):
        until(settings, ["gate"], [24])
    wanted = [trace if trace.startswith("00-") else None for trace in traces for _ in range(24 // len(film))]
    found = read_to_end(settings, settings.topic("annotations"))
    assert [message.said.get("traceparent") for message in found] == wanted
