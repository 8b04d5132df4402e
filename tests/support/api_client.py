"""A client of the API without a network, and the shape that its errors must have."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

JSON = {"Content-Type": "application/json"}


class Client:
    """Speaks to an app without a network; what the app raises stays inside, as behind a server."""

    def __init__(self, app: Any, root_path: str = "", **headers: str) -> None:
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False, root_path=root_path)
        self._headers = headers

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def asked() -> httpx.Response:
            base = "http://api.example"
            async with httpx.AsyncClient(transport=self._transport, base_url=base, headers=self._headers) as client:
                return await client.request(method, path, **more)

        return asyncio.run(asked())

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.ask("GET", path, **more)

    def post(self, content: Any) -> httpx.Response:
        given = {"json": content} if isinstance(content, dict) else {"content": content, "headers": JSON}
        return self.ask("POST", "/v1/streams", **given)


def problem(answer: httpx.Response, status: int, kind: str = "about:blank") -> dict[str, Any]:
    """The problem that an answer must be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    said: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "instance"} <= said.keys() <= {*said, "errors"}
    assert said["status"] == status
    assert said["type"] == kind
    assert said["title"]
    assert said["detail"]
    assert "Traceback" not in answer.text
    return said
