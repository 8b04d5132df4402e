"""The API under 200 clients at once, while Redis is killed: latencies, errors, and what was acknowledged and is lost.

The clients are this process; the API (`omote gallery serve`) and Redis are two others on the same cores. Each client
asks again as soon as it has its answer. Of 100 requests 50 search vectors, 25 enrol one, 20 read, 5 send a picture.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import aiohttp
import av
import cv2
import typer
from gallery_following import vectors  # the scripts beside this one
from pydantic import SecretStr

from operators import weights
from pipeline.edges.redis_api_keys import ApiKeys
from pipeline.edges.redis_store import GalleryStore
from pipeline.gallery.keys import FILE_VARIABLE, Keys
from pipeline.servers.process import free_ports
from pipeline.servers.redis_server import RedisServer

ROOT = Path(__file__).parent.parent
CLIENTS, SUBJECTS, AWAY_S, START_S = 200, 50, 1.0, 60.0
MODEL = "mobilefacenet"


@dataclass
class Tally:
    """What the clients saw.

    Attributes:
        seconds: How long each answered request took, by kind, without those while Redis was away.
        statuses: How often each status came.
        wrong: Answers that may not be: neither done nor a 503 that says when to come again.
        templates: Ids of the templates that were acknowledged.
        away: While Redis is away, and just after.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    templates: list[str] = field(default_factory=list)
    away: bool = False


def measure(*, quick: bool = False) -> dict[str, float]:
    """``api_p99_ms_200_clients``, ``api_errors``, ``lost_after_kill`` and what stands beside them."""
    seconds = 15.0 if quick else 60.0
    with TemporaryDirectory() as folder, RedisServer(Path(folder) / "redis", "always") as redis:
        keys_file = Path(folder) / "keys.json"
        Keys.new().write(keys_file)
        with closing(ApiKeys(SecretStr(redis.url))) as access:
            shown, _ = access.new("clients", "operator", per_minute=1_000_000)
        with served(redis.url, keys_file) as url:
            tally = asyncio.run(drive(url, shown, redis, seconds))
        with closing(GalleryStore(SecretStr(redis.url), Keys.read(keys_file))) as store:
            there = set(store.template_ids())
    everything = sorted(took for of in tally.seconds.values() for took in of)
    for line in tally.wrong[:5]:
        print(line)
    return {
        "api_p50_ms_200_clients": 1e3 * at(everything, 0.5),
        "api_p99_ms_200_clients": 1e3 * at(everything, 0.99),
        **{f"api_p99_ms_{kind}": 1e3 * at(sorted(of), 0.99) for kind, of in sorted(tally.seconds.items())},
        "api_requests_per_s": sum(tally.statuses.values()) / seconds,
        "api_503_while_away": tally.statuses[503],
        "api_errors": len(tally.wrong),
        "acknowledged": len(tally.templates),
        "lost_after_kill": len(set(tally.templates) - there),
    }


@contextmanager
def served(redis: str, keys_file: Path) -> Iterator[str]:
    """Address of an API of its own."""
    (port,) = free_ports(1)
    environment = {**os.environ, FILE_VARIABLE: str(keys_file), "REDIS_URL": redis}
    command = [sys.executable, "-m", "pipeline", "gallery", "serve", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


async def drive(url: str, key: str, redis: RedisServer, seconds: float) -> Tally:
    """All clients, and the kill in the middle."""
    tally = Tally()
    connections = aiohttp.TCPConnector(limit=CLIENTS)
    async with aiohttp.ClientSession(url, headers={"x-api-key": key}, connector=connections) as session:
        await ready(session)
        over = time.monotonic() + seconds
        picture = photo()
        clients = [asyncio.create_task(client(session, tally, n, picture, over)) for n in range(CLIENTS)]
        await asyncio.sleep(seconds / 2)
        tally.away = True
        await asyncio.to_thread(redis.kill)
        await asyncio.sleep(AWAY_S)
        await asyncio.to_thread(redis.start)
        await asyncio.sleep(2 * AWAY_S)
        tally.away = False
        await asyncio.gather(*clients)
    return tally


async def ready(session: aiohttp.ClientSession) -> None:
    """Wait until the API answers."""
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        try:
            async with session.get("/health/ready") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientConnectionError:
            pass
        await asyncio.sleep(0.2)
    message = f"the API was not ready within {START_S:.0f} s"
    raise TimeoutError(message)


async def client(session: aiohttp.ClientSession, tally: Tally, number: int, picture: bytes, over: float) -> None:
    """Asks one thing after the other."""
    chance = random.Random(number)
    own = vectors(4, number).tolist()
    while time.monotonic() < over:
        draw, subject = chance.random(), f"person {chance.randrange(SUBJECTS)}"
        given = {"vectors": [chance.choice(own)], "model": MODEL}
        if draw < 0.50:
            await ask(session, tally, "search", "POST", "/api/v2/vectors/search", json=given)
        elif draw < 0.75:
            await ask(session, tally, "enrol", "POST", f"/api/v2/subjects/{subject}/vectors", json=given)
        elif draw < 0.95:
            await ask(session, tally, "read", "GET", "/api/v2/subjects?limit=20")
        else:
            form = aiohttp.FormData()
            form.add_field("file", picture, filename="face.jpg")
            await ask(session, tally, "picture", "POST", "/api/v1/recognition/recognize", data=form)


async def ask(session: aiohttp.ClientSession, tally: Tally, kind: str, method: str, path: str, **body: Any) -> None:
    """One request, and what came of it."""
    before, away = time.monotonic(), tally.away
    try:
        async with session.request(method, path, timeout=aiohttp.ClientTimeout(60), **body) as answer:
            text = await answer.read()
            status, retry = answer.status, answer.headers.get("Retry-After")
    except (aiohttp.ClientError, TimeoutError) as error:
        tally.wrong.append(f"{kind}: {type(error).__name__} {error}")
        return
    tally.statuses[status] += 1
    if status == 503:
        if not retry or not (away or tally.away):
            tally.wrong.append(f"{kind}: 503 while Redis was there: {text[:200]!r}")
        await asyncio.sleep(0.2)
        return
    if status >= 300:
        tally.wrong.append(f"{kind}: {status} {text[:200]!r}")
    if not (away or tally.away):
        tally.seconds.setdefault(kind, []).append(time.monotonic() - before)
    if kind == "enrol" and status == 201:
        tally.templates += [face["id"] for face in (await answer.json())["faces"]]


def photo() -> bytes:
    """A picture with one face: 640 x 360, JPEG."""
    with av.open(str(weights.path("single_face"))) as film:
        picture = next(film.decode(video=0)).to_ndarray(format="bgr24")
    return bytes(cv2.imencode(".jpg", cv2.resize(picture, (640, 360)))[1].tobytes())


def at(ordered: list[float], share: float) -> float:
    """A quantile of an ordered list; NaN of an empty one."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    quick: Annotated[bool, typer.Option(help="Less of everything.")] = False,
) -> None:
    """Measure and print the figures."""
    figures = measure(quick=quick)
    for name, value in figures.items():
        print(f"{name:28} {value:12.3f}")
    if json_file:
        json_file.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    typer.run(main)
