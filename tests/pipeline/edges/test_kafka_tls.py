"""A broker that wants TLS and a password proved by SCRAM, as most do in production."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka.admin import UserScramCredentialUpsertion

from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import create_topics, read_to_end
from pipeline.errors import SourceError
from pipeline.servers.kafka_server import KafkaServer
from pipeline.servers.process import free_ports

pytestmark = pytest.mark.broker
PASSWORD = "swordfish-swordfish"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority (ca.pem), and the broker's certificate and key (broker.pem)."""
    folder = tmp_path_factory.mktemp("authority")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=authority", "-days", "2",
            "-keyout", "ca.key", "-out", "ca.pem")  # fmt: skip
    openssl(
        "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-keyout", "key.pem", "-out", "broker.csr"
    )
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    openssl("x509", "-req", "-in", "broker.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "names", "-out", "cert.pem")  # fmt: skip
    (folder / "broker.pem").write_text((folder / "key.pem").read_text() + (folder / "cert.pem").read_text())
    return folder


@pytest.fixture(scope="module")
def guarded(authority: Path, kafka_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address at which the broker wants TLS and the user ``camera``."""
    port = free_ports(1)[0]
    door = f"SASL_SSL://localhost:{port}"
    properties = {
        "listeners": f"PLAINTEXT://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{{controller}},{door}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{{port}},{door}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(authority / "broker.pem"),
    }
    server = KafkaServer(kafka_home, tmp_path_factory.mktemp("kafka-tls"), properties)
    try:
        server.start()
        admin = KafkaSettings(servers=server.address).admin()
        admin.alter_user_scram_credentials([UserScramCredentialUpsertion("camera", "SCRAM-SHA-512", PASSWORD)])
        admin.close()
        yield f"localhost:{port}"
    finally:
        server.close()


@pytest.fixture
def settings(guarded: str, authority: Path, tmp_path: Path) -> KafkaSettings:
    secret = tmp_path / "password"
    secret.write_text(PASSWORD + "\n")
    return KafkaSettings(
        servers=guarded, prefix="tls.", security="SASL_SSL", user="camera", password_file=secret,
        ca_file=authority / "ca.pem",
    )  # fmt: skip


def test_with_the_authority_and_the_password_messages_go_there_and_back(settings: KafkaSettings) -> None:
    create_topics(settings, 1)
    producer = settings.producer()
    producer.send(settings.topic("tracks"), b"value", b"key").get(5)
    producer.close()
    assert [message.value for message in read_to_end(settings, settings.topic("tracks"))] == [b"value"]


def test_a_wrong_password_is_one_sentence_that_does_not_hold_it(settings: KafkaSettings, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("not-the-password")
    with pytest.raises(SourceError, match=r"does not (let|allow)") as refused:
        settings.model_copy(update={"password_file": wrong}).admin()
    assert "not-the-password" not in str(refused.value)


def test_a_broker_of_an_unknown_authority_is_not_trusted(settings: KafkaSettings) -> None:
    with pytest.raises(SourceError, match="check the security protocol"):
        settings.model_copy(update={"ca_file": None}).admin()
