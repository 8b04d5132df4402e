"""Prints the events of every track, each once: ``python who_comes_and_goes.py [SERVERS] [TOPIC]``."""
# ruff: noqa: T201

import json
import sys
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from kafka import KafkaConsumer

REMEMBERED = 10_000


def events(servers: str, topic: str) -> Iterator[dict[str, Any]]:
    """Events that are committed, without those that came before."""
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=servers,
        group_id="who-comes-and-goes",
        isolation_level="read_committed",
        auto_offset_reset="earliest",
    )
    seen: OrderedDict[bytes, None] = OrderedDict()
    for message in consumer:
        name = dict(message.headers)["ce_id"]
        if name in seen:
            continue
        seen[name] = None
        if len(seen) > REMEMBERED:
            seen.popitem(last=False)
        record = json.loads(message.value)
        if record["record"].startswith("omote.track/1."):  # fields may have been added: take those that you know
            yield record


def main(servers: str = "localhost:9092", topic: str = "omote.tracks.v1") -> None:
    """Print one line an event."""
    for record in events(servers, topic):
        stream, after = record["stream"]["id"], record["after"]
        print(stream, record["event"], record["track_id"], after["decision"], after["subject_id"] or "", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
