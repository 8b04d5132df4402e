"""What the verbs that speak to Kafka share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.edges.kafka_settings import KafkaSettings

Servers = Annotated[str, typer.Option(help="host:port of Kafka; from KAFKA_BOOTSTRAP_SERVERS if not given.")]
Prefix = Annotated[str, typer.Option(help="What the names of the topics begin with; omote. if not given.")]


def settings(servers: str, prefix: str = "") -> KafkaSettings:
    """How to reach Kafka: what the command line says, and the environment for the rest.

    Raises:
        PipelineError: A setting cannot be.
    """
    from pipeline.edges.kafka_settings import KafkaSettings  # noqa: PLC0415  (an extra)

    return KafkaSettings.from_environment(**{k: v for k, v in (("servers", servers), ("prefix", prefix)) if v})
