"""Fixtures: audit logs on a real Redis, each of a namespace that nobody else has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

from pipeline.audit import Event
from pipeline.edges.redis_audit import AuditLog
from pipeline.gallery.keys import Keys

KEYS = Keys.new()
Opener = Callable[..., AuditLog]


def events(count: int = 1, **more: Any) -> list[Event]:
    said = {"actor": "front desk", "action": "search", "purpose": "access_control", **more}
    return [Event(**said) for _ in range(count)]


@pytest.fixture
def opened(redis_url: str) -> Iterator[Opener]:
    """``opened(namespace)`` is a log there, of a new namespace if none is given."""
    logs: list[AuditLog] = []

    def open_log(namespace: str = "", keys: Keys = KEYS) -> AuditLog:
        logs.append(AuditLog(SecretStr(redis_url), namespace or f"t{uuid4().hex[:8]}", keys))
        return logs[-1]

    yield open_log
    for log in logs:
        log.close()


@pytest.fixture
def log(opened: Opener) -> AuditLog:
    return opened()
