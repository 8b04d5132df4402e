"""The least that a worker of one partition must do, as a process that a test may kill.

For each picture it writes one record, whose number it counts itself and whose hash holds all pictures before: a
picture that is lost, doubled or out of order shows.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys

from pipeline.edges.delivery import DeadLetter, Transactions
from pipeline.edges.from_kafka import KafkaSource
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.video_messages import BrokerChunk, Poison


def work(settings: KafkaSettings, partition: int, dies_at: int = -1) -> None:
    """Work until every stream of the partition that began is over; with ``dies_at`` end like a power cut there."""
    delivery = Transactions(settings, partition=partition, deadline_s=2)
    restored, offset = delivery.restore(), delivery.committed()
    states = {stream: known.state for stream, known in restored.items()}
    positions = {stream: known.position for stream, known in restored.items()}
    offsets = {} if offset is None else {partition: offset}
    source = KafkaSource(settings, [partition], offsets=offsets, positions=positions)
    open_streams = {stream for stream, state in states.items() if state}
    for chunk in source:
        assert isinstance(chunk, BrokerChunk)
        if isinstance(chunk, Poison):
            letter = DeadLetter(chunk.messages[0], "read", "SourceError", chunk.reason)
            delivery.reject([letter], chunk.position, chunk.watermark)
            continue
        delivery.begin()
        state = states.get(chunk.stream) or b"0 -"
        for unit in chunk.units:
            number, told = state.decode().split()
            told = hashlib.sha256(told.encode() + unit.data).hexdigest()[:16]
            record = json.dumps({"number": int(number), "told": told}).encode()
            delivery.send("annotations", chunk.stream, record, [], 0)
            state = f"{int(number) + 1} {told}".encode()
            if int(number) == dies_at:
                delivery.flush()  # so that what it had written is there, for nobody to see
                os.kill(os.getpid(), signal.SIGKILL)
        states[chunk.stream] = b"" if chunk.last else state
        delivery.commit({chunk.stream: states[chunk.stream]}, chunk.position, chunk.watermark)
        (open_streams.discard if chunk.last else open_streams.add)(chunk.stream)
        if not open_streams:
            break
    source.close()
    delivery.close()


if __name__ == "__main__":
    servers, prefix, number, death = sys.argv[1:]
    work(KafkaSettings(servers=servers, prefix=prefix), int(number), int(death))
