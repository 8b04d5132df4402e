"""One worker alone, in a thread of the test: what an actor does, without Ray; and small films to feed it."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from pipeline.edges.dead_letters import letters
from pipeline.edges.delivery import Delivery
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.video_cutting import recut
from pipeline.edges.video_messages import Message, VideoMessage
from pipeline.errors import PipelineError
from pipeline.graph import load
from pipeline.serving.work import PartitionWork, Plan, Work
from pipeline.testing import MemorySource, noise, raw_chunks
from tests.support.serving import Records, States, records, settled, states

# The whole way but for the nets; whatever is lost, doubled or out of order shows in the state of `tally`.
GRAPH = """
stages:
  decode:   {{use: "operators.decode:Decode"}}
  tally:    {{use: "pipeline.testing:Tally", after: decode}}
  check:    {{use: "pipeline.testing:{check}", after: tally, with: {given}}}
  annotate: {{use: "operators.annotate:Annotate", after: check}}
sinks:
  records:  {{use: "pipeline.edges.to_kafka:KafkaSink", after: annotate}}
"""
PAUSE_S = 0.3


@dataclass(frozen=True)
class PatientPlan(Plan):
    """Waits longer than a machine can be busy: a worker that gives up ends its process, which is the test's here."""

    def delivered(self, **what: Any) -> Delivery:
        return super().delivered(**what, deadline_s=60)


def graph_file(folder: Path, check: str = "Pause", given: str = "{seconds: 0.0}") -> Path:
    """A graph whose stage without state is the double ``check``."""
    file = folder / f"{check.lower()}-{time.monotonic_ns()}.yaml"
    file.write_text(GRAPH.format(check=check, given=given))
    return file


def plan_of(settings: KafkaSettings, file: Path, redis: str = "") -> Plan:
    return PatientPlan(load(file), settings, SecretStr(redis))


def shots(stream: str, content_type: str, frames: int = 48, seconds: float = 0.32) -> list[VideoMessage]:
    """A film of noise at 25 frames a second, of 8 pictures in each container."""
    pictures = noise(frames, seed=sum(stream.encode()))
    cut = recut(MemorySource(raw_chunks(pictures)), content_type, seconds)
    whole = [replace(each, stream=stream, epoch=1) for each in cut]
    return [*whole[:-1], replace(whole[-1], eos=True)]


def zipped(*films: Sequence[VideoMessage]) -> list[VideoMessage]:
    """Cameras that send at the same time."""
    return [message for group in zip(*films, strict=True) for message in group]


@dataclass
class Shift:
    """A worker at work; begins again, as an actor does, where something that it needs is away.

    Attributes:
        work: What it does.
        said: Why it had to begin again.
        over: Whether it is told to stop.
    """

    work: Work
    said: list[str] = field(default_factory=list)
    over: bool = False

    def run(self) -> None:
        """Until it is told to stop."""
        while not self.over:
            try:
                self.work.run()
            except PipelineError as error:
                self.said.append(str(error))
                time.sleep(PAUSE_S)


@contextmanager
def at_work(work: Work) -> Iterator[Shift]:
    """``work`` on a thread until the end of the block."""
    shift = Shift(work)
    thread = threading.Thread(target=shift.run, name=work.name)
    thread.start()
    try:
        yield shift
    finally:
        shift.over = True
        work.stop()
        thread.join(30)


def until(
    settings: KafkaSettings, streams: Sequence[str], frames: Sequence[int], deaths: int = 0, who: object = None
) -> Records:
    """The records of these streams once so many frames of each are out, and so many messages are dead letters.

    Where that does not come, what ``who`` works on them has to say is told.
    """
    deadline = time.monotonic() + 60
    while True:
        found = records(settings, streams)
        counts, dead = [len(found[stream]) for stream in streams], len(letters(settings)) if deaths else 0
        if all(a >= b for a, b in zip(counts, frames, strict=True)) and dead >= deaths:
            return found
        late = time.monotonic() > deadline
        assert not late, f"{counts} frames and {dead} dead letters came out\n{who}\n{stacks()}"
        time.sleep(0.1)


def stacks() -> str:
    """What every thread does: whoever waits for ever is among them."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames().items()
    return "\n".join(f"{names.get(n)}:\n{''.join(traceback.format_stack(frame)[-6:])}" for n, frame in frames)


def outcome(settings: KafkaSettings, streams: Sequence[str]) -> tuple[Records, States, list[Message]]:
    """Everything that came of these streams: records, states, dead letters."""
    settled(settings, settings.topic("dlq"))
    return records(settings, streams), states(settings, streams), letters(settings)


def alone(plan: Plan, **elsewhere: Callable[..., list[Any]]) -> PartitionWork:
    """The worker of the only partition; ``elsewhere`` are stages that are called and not built."""
    return PartitionWork(plan, 0, elsewhere)
