"""Where the API listens, and that others need a token."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from pipeline.errors import PipelineError
from pipeline.serving.api import ApiSettings

TOKEN = SecretStr("let-me-in")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("HOST", "PORT", "TOKEN", "TOKEN_FILE"):
        monkeypatch.delenv(f"OMOTE_API_{name}", raising=False)
    return monkeypatch


def test_by_itself_the_api_listens_to_this_machine_only(bare: pytest.MonkeyPatch) -> None:
    del bare
    assert ApiSettings.from_environment() == ApiSettings(host="127.0.0.1", port=8000, token=None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "camera.example", "127.0.0.1.evil.example"])
def test_others_are_let_near_with_a_token_only(bare: pytest.MonkeyPatch, host: str) -> None:
    bare.setenv("OMOTE_API_HOST", host)
    with pytest.raises(PipelineError, match=r"without a token.*OMOTE_API_TOKEN_FILE"):
        ApiSettings.from_environment()
    bare.setenv("OMOTE_API_TOKEN", "let-me-in")
    found = ApiSettings.from_environment()
    assert (found.host, found.token) == (host, TOKEN)
    assert "let-me-in" not in repr(found)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1"])
def test_this_machine_needs_no_token(bare: pytest.MonkeyPatch, host: str) -> None:
    del bare
    assert ApiSettings.from_environment(host=host, port=0x1F90).port == 8080


def test_the_file_of_the_token_goes_before_its_variable(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("let-me-in\n")
    bare.setenv("OMOTE_API_TOKEN", "another")
    bare.setenv("OMOTE_API_TOKEN_FILE", str(tmp_path / "token"))
    assert ApiSettings.from_environment().token == TOKEN


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines", b"a b", "gehe\u00ef\u0301m".encode()])
def test_a_token_that_cannot_be_one_is_told_by_its_place(
    bare: pytest.MonkeyPatch, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "token").write_bytes(content)
    bare.setenv("OMOTE_API_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(PipelineError, match="token") as refused:
        ApiSettings.from_environment()
    assert "lines" not in str(refused.value)


def test_a_file_that_is_not_there_and_a_port_that_is_none_are_one_sentence(
    bare: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare.setenv("OMOTE_API_PORT", "http")
    with pytest.raises(PipelineError, match=r"^OMOTE_API_PORT: Input should be a valid integer"):
        ApiSettings.from_environment()
    bare.setenv("OMOTE_API_TOKEN_FILE", str(tmp_path / "gone"))
    with pytest.raises(PipelineError, match=r"OMOTE_API_TOKEN_FILE.*cannot be read"):
        ApiSettings.from_environment()
