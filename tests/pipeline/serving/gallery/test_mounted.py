"""The gallery's API below that of the streams, as Ray serves it: only where nobody overhears it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from pipeline.edges.galleries import Galleries
from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.gallery.keys import FILE_VARIABLE, Keys
from pipeline.serving.work import Plan

application: Any = pytest.importorskip("pipeline.serving.application", reason="Ray is not installed")

PLAN = Plan(None, KafkaSettings(servers="127.0.0.1:9"), SecretStr("redis://127.0.0.1:9/0"))  # type: ignore[arg-type]


@pytest.fixture
def sweeping(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Galleries]:
    """The galleries that have somebody who forgets the expired."""
    found: list[Galleries] = []
    Keys.new().write(tmp_path / "keys.json")
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "keys.json"))
    for name in ("CERTIFICATE", "KEY"):
        monkeypatch.setenv(f"OMOTE_GALLERY_TLS_{name}", "file.pem")  # of no use, for Ray speaks no TLS
    monkeypatch.delenv("OMOTE_GALLERY_BEHIND_TLS", raising=False)

    def sweep(self: Galleries) -> None:
        found.append(self)

    monkeypatch.setattr(Galleries, "sweep", sweep)
    return found


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_on_this_machine_it_is_served_and_the_expired_are_forgotten(sweeping: list[Galleries], host: str) -> None:
    assert application._gallery(PLAN, host) is not None
    assert len(sweeping) == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7"])
def test_to_others_it_is_served_only_behind_tls(
    sweeping: list[Galleries], host: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert application._gallery(PLAN, host) is None
    (told,) = caplog.messages
    assert host in told
    assert "OMOTE_GALLERY_BEHIND_TLS=1" in told
    assert sweeping == []
    monkeypatch.setenv("OMOTE_GALLERY_BEHIND_TLS", "1")
    assert application._gallery(PLAN, host) is not None
    assert len(sweeping) == 1
