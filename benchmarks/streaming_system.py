"""The running system with a Kafka, a Redis and a Ray cluster of its own, for measurements; all of it ends again."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydantic import SecretStr
from streaming_people import gallery

from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.graph import load
from pipeline.runners.on_ray import cluster
from pipeline.scale import load_scale
from pipeline.servers.kafka_server import KafkaContainer, KafkaServer, local_kafka
from pipeline.servers.process import free_ports
from pipeline.servers.redis_server import RedisServer
from pipeline.serving.api_settings import ApiSettings
from pipeline.serving.application import System, running
from pipeline.serving.work import Plan

DEPLOY = Path(__file__).parent.parent / "deploy"
GRAPH, SCALE = DEPLOY / "graphs" / "faces.yaml", DEPLOY / "scale" / "laptop.yaml"
CORES = 2


@dataclass(frozen=True)
class Site:
    """What runs.

    Attributes:
        kafka: The broker.
        redis: The registry of cameras.
        settings: How to reach the topics.
        system: The system itself.
    """

    kafka: KafkaServer | KafkaContainer
    redis: RedisServer
    settings: KafkaSettings
    system: System


@contextmanager
def site(folder: Path, partitions: int = 4) -> Iterator[Site]:
    """Servers, a cluster and the system on two cores of this machine; everything is kept in ``folder``."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])  # whatever begins from here on inherits it
    people = gallery(load(GRAPH, {"gallery": ""}), folder)
    with local_kafka(folder / "kafka") as kafka, RedisServer(folder / "redis") as redis:
        settings = KafkaSettings(servers=kafka.address, prefix="bench.")
        plan = Plan(load(GRAPH, {"gallery": str(people)}), settings, SecretStr(redis.url))
        api = ApiSettings(port=free_ports(1)[0])
        with cluster(cpus=CORES), running(plan, load_scale(SCALE), api, partitions=partitions) as system:
            yield Site(kafka, redis, settings, system)


def broker(server: KafkaServer | KafkaContainer) -> str:
    """Name and version of the broker, as the jars on its class path say."""
    words = psutil.Process(server.pid).cmdline()
    path = words[words.index("-cp") + 1] if "-cp" in words else ""
    jars = " ".join(jar.name for jar in Path(path.rstrip("*")).glob("kafka-server-*.jar"))
    version = re.search(r"kafka-server-(\d[\d.]*\d)\.jar", jars)
    return f"Apache Kafka {version[1]}" if version else server.name
