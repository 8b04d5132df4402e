"""How to reach Kafka: addresses, security, limits; and its errors in one sentence."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from kafka import KafkaAdminClient, KafkaConsumer
from kafka.errors import AuthorizationError, KafkaError, SaslAuthenticationFailedError
from kafka.net.compat import KafkaNetClient
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from pipeline.edges.kafka_producer import Producer
from pipeline.environment import settings_from
from pipeline.errors import PipelineError, SinkError, SourceError

MESSAGE_BYTES = 8 * 1024 * 1024
# What Kafka's client refuses because of an earlier error names that error in its text only.
FENCED = ("ProducerFencedError", "InvalidProducerEpochError")
TOO_LARGE = ("MessageSizeTooLargeError", "RecordListTooLargeError")
WIRE_LOGS = ("kafka.protocol.parser", "kafka.net.connection")
METADATA_MS = 5_000  # a topic that had no leader yet when it was asked for is not given up for minutes
FETCH_MESSAGES = 4  # largest messages that one fetch of a partition may hold

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]


class FencedError(SinkError):
    """A newer worker has taken over the partition: this one must end, and nothing of it will be seen."""


class TooLargeError(SinkError):
    """A message is larger than a limit on its way; the next one may fit."""


class KafkaSettings(BaseModel):
    """Where Kafka is and how to be let in. Holds where the password is, never the password.

    Attributes:
        servers: ``host:port`` of one broker or several, with commas.
        prefix: What the names of omote's topics begin with.
        security: ``PLAINTEXT``, ``SSL``, ``SASL_PLAINTEXT`` or ``SASL_SSL``.
        mechanism: How SASL proves who the user is.
        user: Name of the SASL user.
        password_env: Environment variable that holds the password.
        password_file: File that holds the password; it goes before the variable.
        ca_file: PEM file of the authority that signed the brokers' certificates; the system's own if None.
        message_bytes: Largest message, sent or read.
        connect_s: How long to try before an address counts as wrong.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    servers: str = "localhost:9092"
    prefix: str = Field(default="omote.", pattern=r"^[a-zA-Z0-9._-]*$")
    security: Protocol = "PLAINTEXT"
    mechanism: Mechanism = "SCRAM-SHA-512"
    user: str = ""
    password_env: str = "OMOTE_KAFKA_PASSWORD"
    password_file: Path | None = None
    ca_file: Path | None = None
    message_bytes: int = Field(default=MESSAGE_BYTES, ge=1024)
    connect_s: float = Field(default=2.0, gt=0)

    @model_validator(mode="after")
    def _has_user(self) -> KafkaSettings:
        if self.security.startswith("SASL") and not self.user:
            message = f"Kafka's security {self.security} needs a user; set OMOTE_KAFKA_USER"
            raise ValueError(message)
        return self

    @classmethod
    def from_environment(cls, **given: str) -> KafkaSettings:
        """Settings from ``KAFKA_BOOTSTRAP_SERVERS`` and ``OMOTE_KAFKA_<NAME>``, such as ``OMOTE_KAFKA_USER``.

        Args:
            given: Settings that go before the environment.

        Raises:
            PipelineError: One has a value that cannot be.
        """
        variables = {field: f"OMOTE_KAFKA_{field.upper()}" for field in cls.model_fields}
        return settings_from(cls, {**variables, "servers": "KAFKA_BOOTSTRAP_SERVERS"}, given)

    def topic(self, name: str) -> str:
        """Full name of one of omote's topics: ``video`` is ``omote.video.v1``."""
        return f"{self.prefix}{name}.v1"

    def password(self) -> SecretStr:
        """The password, read now.

        Raises:
            PipelineError: Neither the file nor the variable holds one.
        """
        try:
            file = self.password_file
            return SecretStr(file.read_text().strip() if file else os.environ[self.password_env])
        except (OSError, KeyError) as error:
            place = f"the file {self.password_file}" if self.password_file else f"the variable {self.password_env}"
            message = f"Kafka's user {self.user!r} needs a password, but {place} cannot be read"
            raise PipelineError(message) from error

    def producer(self, **more: Any) -> Producer:
        """A connected producer that waits for nothing longer than 4 s and never makes a topic.

        Raises:
            SinkError: No broker answers, or none lets it in.
        """
        limits = {
            "max_request_size": self.message_bytes,
            "max_block_ms": 4_000,
            "request_timeout_ms": 4_000,
            "delivery_timeout_ms": 8_000,
            "linger_ms": 2,
            "metadata_max_age_ms": METADATA_MS,
            "retry_backoff_ms": 10,  # after each commit the next transaction is refused once: 220 ms with the default
            "batch_size": 256 * 1024,
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
        }
        producer: Producer = self._connected(Producer, SinkError, {**limits, **more})
        return producer

    def consumer(self, **more: Any) -> KafkaConsumer:
        """A connected consumer of no group that sees committed records only, and never makes a topic.

        Raises:
            SourceError: No broker answers, or none lets it in.
        """
        limits = {
            "group_id": None,
            "enable_auto_commit": False,
            "isolation_level": "read_committed",
            "auto_offset_reset": "earliest",
            "max_partition_fetch_bytes": self.message_bytes + 64 * 1024,
            "fetch_max_bytes": FETCH_MESSAGES * self.message_bytes,
            "fetch_max_wait_ms": 100,
            "metadata_max_age_ms": METADATA_MS,
            "request_timeout_ms": 4_000,
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
        }
        return self._connected(KafkaConsumer, SourceError, {**limits, **more})

    def admin(self, **more: Any) -> KafkaAdminClient:
        """A connected administrator.

        Raises:
            SourceError: No broker answers, or none lets it in.
        """
        return self._connected(KafkaAdminClient, SourceError, {"request_timeout_ms": 5_000, **more})

    @contextmanager
    def errors(self, kind: type[SourceError] | type[SinkError], doing: str = "reach Kafka") -> Iterator[None]:
        """Kafka's errors as ours, each one sentence; ``doing`` says what was tried."""
        try:
            yield
        except KafkaError as error:
            raise self.translated(error, kind, doing) from error

    def _connected(self, kind: Any, error: type[SourceError] | type[SinkError], options: dict[str, Any]) -> Any:
        """A client of Kafka; where it cannot connect, its thread and its sockets end here, for it leaves them."""
        with ExitStack() as left_behind:

            def remembered(**config: Any) -> KafkaNetClient:
                client = KafkaNetClient(**config)
                left_behind.callback(client.close)
                return client

            with self.errors(error):
                connected = kind(**{**self._connection(), "kafka_client": remembered, **options})
            left_behind.pop_all()
        return connected

    def _connection(self) -> dict[str, Any]:
        return {
            "bootstrap_servers": self.servers.split(","),
            "security_protocol": self.security,
            "ssl_cafile": str(self.ca_file) if self.ca_file else None,
            "client_id": "omote",
            "bootstrap_timeout_ms": round(self.connect_s * 1000),
            "reconnect_backoff_max_ms": 500,
            **(self._sasl() if self.security.startswith("SASL") else {}),
        }

    def _sasl(self) -> dict[str, str]:
        for name in WIRE_LOGS:  # at DEBUG they show every byte that is sent, passwords among them
            logging.getLogger(name).setLevel(logging.INFO)
        return {
            "sasl_mechanism": self.mechanism,
            "sasl_plain_username": self.user,
            "sasl_plain_password": self.password().get_secret_value(),
        }

    def translated(self, error: KafkaError, kind: type[PipelineError], doing: str) -> PipelineError:
        """One of Kafka's errors as ours, one sentence; `FencedError` and `TooLargeError` go before ``kind``."""
        name, said = type(error).__name__.removesuffix("Error"), str(error)
        if any(word in said for word in FENCED):
            return FencedError(f"cannot {doing}: another worker has taken over")
        if any(word in said for word in TOO_LARGE):
            return TooLargeError(
                f"cannot {doing}: a message is larger than a limit allows; `omote doctor` says which limit"
            )
        if isinstance(error, (AuthorizationError, SaslAuthenticationFailedError)):
            who = f"user {self.user!r}" if self.user else "an unnamed user"
            return kind(f"Kafka at {self.servers} does not allow {who} to {doing} ({name})")
        if "bootstrap" in said:
            return kind(self._unreachable())
        return kind(f"cannot {doing} at {self.servers}: {error.args[0] if error.args else name}")

    def _unreachable(self) -> str:
        """Why no client could be set up: nobody is there, or somebody who speaks otherwise."""
        for address in self.servers.split(","):
            host, _, port = address.strip().rpartition(":")
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
            except (OSError, ValueError):
                continue
            who = f" as user {self.user!r}" if self.user else ""
            return (
                f"{address} answers but does not let omote in{who} over {self.security}; "
                "check the security protocol, the user and the password, and that it is Kafka"
            )
        return f"no Kafka answers at {self.servers}; check the address and that the broker runs"
