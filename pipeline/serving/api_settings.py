"""Where the API listens, and the token that it wants."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from pipeline.environment import settings_from
from pipeline.errors import PipelineError


class ApiSettings(BaseModel):
    """Where the API listens, and who may use it.

    Attributes:
        host: Name or address of the interface. Only a loopback one can do without a token.
        port: TCP port.
        token: What a client must show as ``Authorization: Bearer <token>``; nobody must show anything if None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    token: SecretStr | None = None

    @model_validator(mode="after")
    def _is_guarded(self) -> ApiSettings:
        if self.token is None and not is_loopback(self.host):
            message = (
                f"the API may not listen at {self.host!r} without a token: everybody who reaches it could add and "
                "remove cameras; set OMOTE_API_TOKEN_FILE or OMOTE_API_TOKEN, or listen at 127.0.0.1"
            )
            raise ValueError(message)
        return self

    @classmethod
    def from_environment(cls, **given: Any) -> ApiSettings:
        """Settings from ``OMOTE_API_HOST``, ``OMOTE_API_PORT`` and the token; see `token`.

        Args:
            given: Settings that go before the environment.

        Raises:
            PipelineError: One has a value that cannot be, or others could reach the API and there is no token.
        """
        variables = {"host": "OMOTE_API_HOST", "port": "OMOTE_API_PORT"}
        return settings_from(cls, variables, {"token": token(), **given})


def token() -> SecretStr | None:
    """The token, read now from the file that ``OMOTE_API_TOKEN_FILE`` names, else from ``OMOTE_API_TOKEN``.

    Raises:
        PipelineError: The file cannot be read, or what is there can be no token.
    """
    file, value = os.environ.get("OMOTE_API_TOKEN_FILE"), os.environ.get("OMOTE_API_TOKEN", "")
    if not file and not value:
        return None
    try:
        found = Path(file).read_text("ascii").strip() if file else value
    except (OSError, UnicodeDecodeError):
        message = f"OMOTE_API_TOKEN_FILE: the token in {file} cannot be read"
        raise PipelineError(message) from None
    if not found or not found.isascii() or not found.isprintable() or " " in found:
        message = f"{file or 'OMOTE_API_TOKEN'} holds no token; a token is one line of letters, digits and signs"
        raise PipelineError(message)
    return SecretStr(found)


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
