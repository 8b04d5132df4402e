"""Where the gallery's API listens, how it proves who it is, and how much it takes on at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.environment import settings_from
from pipeline.serving.api_settings import is_loopback

VARIABLES = {
    "host": "OMOTE_GALLERY_HOST",
    "port": "OMOTE_GALLERY_PORT",
    "certificate": "OMOTE_GALLERY_TLS_CERTIFICATE",
    "private_key": "OMOTE_GALLERY_TLS_KEY",
    "behind_tls": "OMOTE_GALLERY_BEHIND_TLS",
}
MEBIBYTE = 1 << 20


class GallerySettings(BaseModel):
    """How the API is served.

    Attributes:
        host: Name or address of the interface; others than a loopback one want TLS.
        port: TCP port.
        certificate: PEM file with the certificate and its chain; plain HTTP if None.
        private_key: PEM file with its key.
        behind_tls: That a proxy before the API speaks TLS, so that the API need not.
        upload_bytes: Longest body with pictures or vectors.
        body_bytes: Longest other body.
        body_s: How long a body may take to arrive.
        picture_threads: How many requests work on pictures at once.
        thorough_threads: How many look at all of a gallery at once; one for each namespace at most.
        light_threads: How many do anything else; half of them for one namespace at most, even while no other asks: a
            thread that works cannot be taken back for others who come.
        most_waiting: How many requests with pictures may wait, half of them of one namespace; more are asked to come
            again.
        most_thorough: How many requests that look at all of a gallery there may be of one namespace. One is worked for
            and the others wait, as whoever names unknown people does while a log is verified.
        in_flight_bytes: How much of the bodies of all requests may be held at once, half of it of one namespace.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    certificate: Path | None = None
    private_key: Path | None = None
    behind_tls: bool = False
    upload_bytes: Annotated[int, Field(ge=1024)] = 16 * MEBIBYTE
    body_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024
    body_s: Annotated[float, Field(gt=0)] = 30.0
    picture_threads: Annotated[int, Field(ge=1)] = 2
    thorough_threads: Annotated[int, Field(ge=1)] = 2
    light_threads: Annotated[int, Field(ge=1)] = 32
    most_waiting: Annotated[int, Field(ge=2)] = 512
    most_thorough: Annotated[int, Field(ge=1)] = 32
    in_flight_bytes: Annotated[int, Field(ge=2048)] = 256 * MEBIBYTE

    @model_validator(mode="after")
    def _is_private(self) -> GallerySettings:
        if (self.certificate is None) != (self.private_key is None):
            message = "TLS takes a certificate and its private key; give both or none"
            raise ValueError(message)
        if not (self.certificate or self.behind_tls or is_loopback(self.host)):
            message = (
                f"faces and API keys may not travel in the clear, so the API does not listen at {self.host!r} without "
                f"TLS; set {VARIABLES['certificate']} and {VARIABLES['private_key']}, or {VARIABLES['behind_tls']}=1 "
                "where a proxy speaks TLS, or listen at 127.0.0.1"
            )
            raise ValueError(message)
        return self

    @classmethod
    def from_environment(cls, **given: Any) -> GallerySettings:
        """Settings from the environment; see ``VARIABLES``.

        Args:
            given: Settings that go before the environment.

        Raises:
            PipelineError: One has a value that cannot be.
        """
        return settings_from(cls, VARIABLES, given)
