"""Prints how each stream does now, and then each change: ``python how_streams_do.py [SERVERS] [TOPIC]``."""
# ruff: noqa: T201

import json
import sys

from kafka import KafkaConsumer, TopicPartition


def main(servers: str = "localhost:9092", topic: str = "omote.streams.status.v1") -> None:
    """Read the compacted topic from its beginning: it holds the last status of every stream."""
    consumer = KafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest", enable_auto_commit=False)
    consumer.assign([TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)])
    consumer.seek_to_beginning()
    for message in consumer:
        status = json.loads(message.value) if message.value else {"state": "taken out", "reason": ""}
        print(message.key.decode(), status["state"], status["reason"], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
