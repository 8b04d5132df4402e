"""Who is let in, for what and how often; decided before a body is read."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr
from starlette.types import Message

from pipeline.edges.redis_api_keys import ApiKey, ApiKeys
from pipeline.errors import PipelineError
from pipeline.servers.process import free_ports
from pipeline.servers.redis_server import RedisServer
from pipeline.serving.gallery.access import EXTENSION, Access, Buckets, Rule
from pipeline.serving.gallery.app import door, gallery_api, server
from pipeline.serving.gallery.pulse import EVERY_S
from pipeline.serving.gallery.settings import GallerySettings
from tests.support.api_client import problem
from tests.support.gallery import Api, drawing

RED = (200, 20, 30)
DETECT = "/api/v2/faces/detect"
PUBLIC = {"/health/live", "/health/ready"}


def operations(gallery: Api) -> list[tuple[str, str, dict[str, Any]]]:
    paths = gallery.app.openapi()["paths"]
    return [(method.upper(), path, said) for path, methods in paths.items() for method, said in methods.items()]


def filled(path: str) -> str:
    return path.replace("{", "").replace("}", "")


def test_nothing_but_health_answers_without_a_key(gallery: Api) -> None:
    for method, path, said in operations(gallery):
        answer = gallery.bare(method, filled(path))
        assert answer.status_code == (200 if path in PUBLIC else 401), path
        assert (EXTENSION in said) == (path not in PUBLIC)
    assert gallery.bare("GET", "/openapi.json").status_code == 401
    for path in ("/docs", "/redoc", "/", "/api", "/api/v2", "/metrics"):
        assert gallery.bare("GET", path).status_code == 404


def test_wrong_keys_open_nothing(gallery: Api) -> None:
    right = gallery.key("reader")
    for shown in ("", "omk_1_2", right[:-1], right + "0", right.upper(), "é", "x" * 10_000):
        headers = {"x-api-key": shown.encode("latin-1")}
        problem(gallery.bare("GET", "/api/v2/subjects", headers=headers), 401)
    answer = gallery.bare("GET", "/api/v2/subjects", headers={"Authorization": f"Basic {right}"})
    problem(answer, 401)
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_key_is_shown_in_either_header(gallery: Api) -> None:
    for headers in ({"x-api-key": gallery.key("reader")}, {"Authorization": f"bearer {gallery.key('reader')}"}):
        assert gallery.bare("GET", "/api/v2/subjects", headers=headers).status_code == 200


def test_each_role_may_do_its_own_and_nothing_else(gallery: Api) -> None:
    roles = ("reader", "operator", "admin", "auditor")
    for method, path, said in operations(gallery):
        if path in PUBLIC or said[EXTENSION].get("key_in_path"):
            continue
        for role in roles:
            answer = gallery.ask(method, filled(path).removeprefix("/api"), role)
            assert (answer.status_code == 403) == (role not in said[EXTENSION]["roles"]), (method, path, role)
    allowed = {(method, path): set(said[EXTENSION]["roles"]) for method, path, said in operations(gallery)[:-2]}
    readers = {"reader", "operator", "admin"}
    assert allowed["POST", "/api/v2/faces/detect"] == allowed["GET", "/api/v2/matches"] == readers
    assert allowed["POST", "/api/v2/subjects/{subject}/faces"] == {"operator", "admin"}
    assert allowed["DELETE", "/api/v1/recognition/subjects"] == {"operator", "admin"}
    assert allowed["POST", "/api/v2/calibrate"] == allowed["PUT", "/api/v2/policies"] == {"admin"}
    assert allowed["GET", "/api/v2/audit"] == allowed["GET", "/api/v2/erasures/{erasure}"] == {"admin", "auditor"}


def test_a_wrong_role_is_told_which_is_right_and_writes_nothing(gallery: Api) -> None:
    before = gallery.written()
    answer = gallery.ask("POST", "/v2/subjects", "reader", json={"id": "ada"})
    assert "admin or operator" in problem(answer, 403)["detail"]
    assert gallery.written() == before


def test_keys_open_their_own_services_only(gallery: Api) -> None:
    headers = {"x-api-key": gallery.key("admin", services=("verification",))}
    for path in ("/api/v1/recognition/subjects", "/api/v1/recognition/faces"):
        assert gallery.bare("GET", path, headers=headers).status_code == 403
    assert gallery.bare("POST", "/api/v1/verification/verify", headers=headers).status_code == 415


def test_nobody_without_a_right_has_a_body_read(gallery: Api) -> None:
    sent = []

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            sent.append(1)
            yield b"x" * 1000

    problem(gallery.bare("POST", DETECT, content=chunks()), 401)
    headers = {"x-api-key": gallery.key("auditor")}
    problem(gallery.bare("POST", DETECT, content=chunks(), headers=headers), 403)
    assert sent == []


def test_a_body_is_read_no_further_than_it_may_be_long(gallery: Api) -> None:
    sent = []

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(10_000):
            sent.append(1)
            yield b"x" * 65_536

    answer = gallery.ask("POST", "/v2/faces/detect", content=chunks(), headers={"Content-Type": "application/json"})
    assert "16777216" in problem(answer, 413)["detail"]
    assert len(sent) == 257
    before = gallery.written()
    problem(gallery.ask("POST", "/v2/subjects", json={"id": "ada", "metadata": {"x": "y" * 70_000}}), 413)
    assert gallery.written() == before


def test_a_body_that_drips_is_given_up(gallery: Api) -> None:
    app = gallery_api(lambda name: gallery.service, Access(gallery.keys), GallerySettings(body_s=0.05))

    async def drip() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.02)
            yield b" "

    headers = {"x-api-key": gallery.key("reader"), "Content-Type": "application/json"}
    problem(Api(app, gallery.keys, gallery.service).bare("POST", DETECT, content=drip(), headers=headers), 408)


@pytest.mark.parametrize("path", [DETECT, "/api/v1/detection/detect", "/api/v2/subjects"])
def test_whoever_hangs_up_in_the_middle_of_a_body_is_no_error_of_ours(gallery: Api, path: str) -> None:
    told: list[Message] = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    headers = [(b"x-api-key", gallery.key("operator").encode()), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    sent: list[Message] = []

    async def receive() -> Message:
        return told.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(gallery.app(scope, receive, send))
    assert sent[0]["status"] == 400


FORM, NAMED = "multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="file"'


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=", b"--\r\n"),
        (FORM, b""),
        (FORM, b"garbage"),
        (FORM, b"--x\r\n\r\nno name\r\n--x--\r\n"),
        (FORM, NAMED + b"\r\n\r\nno file\r\n--x--"),
        (FORM, NAMED + b'; filename="a"\r\n\r\ncut'),
        (FORM, NAMED + b"\r\nX: y" * 20 + b"\r\n\r\nmany headers\r\n--x--"),
        (FORM + "; charset=rot13", NAMED + b"\r\n\r\n\r\n--x--"),
        ("multipart/form-data; boundary=\xff", b"--\xff\r\n"),
        ("application/json", b""),
        ("application/json", b"\xff"),
        ("application/json", b"[" * 100_000),
        ("application/json", b'{"file": 7}'),
        ("application/json", b'["file"]'),
    ],
)
def test_broken_bodies_are_refused(gallery: Api, kind: str, body: bytes) -> None:
    headers = {"Content-Type": kind.encode("latin-1")}
    answer = gallery.ask("POST", "/v2/faces/detect", content=body, headers=headers)
    assert answer.status_code in {400, 422}, answer.text
    problem(answer, answer.status_code, answer.json()["type"])


def test_a_body_of_many_parts_is_refused(gallery: Api) -> None:
    many = {f"part{number}": drawing(RED) for number in range(9)}
    problem(gallery.ask("POST", "/v2/faces/detect", files=many), 400)
    twice = [("file", drawing(RED)), ("file", drawing(RED))]
    problem(gallery.ask("POST", "/v2/faces/detect", files=twice), 422, "/problems/gallery-picture")


def test_a_key_may_ask_so_often_a_minute(gallery: Api) -> None:
    headers = {"x-api-key": gallery.key("reader", per_minute=3)}
    answers = [gallery.bare("GET", "/api/v2/subjects", headers=headers) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    problem(answers[4], 429)
    assert 1 <= int(answers[4].headers["retry-after"]) <= 20
    other = {"x-api-key": gallery.key("reader", per_minute=4)}
    assert gallery.bare("GET", "/api/v2/subjects", headers=other).status_code == 200


def test_tokens_come_back_with_time() -> None:
    now = [0.0]
    buckets = Buckets(clock=lambda: now[0])
    key = ApiKey(id="0" * 16, name="door", role="reader", per_minute=60)
    assert [buckets.take(key) for _ in range(60)] == [0.0] * 60
    assert buckets.take(key) == pytest.approx(1.0)
    now[0] = 2.0
    assert [buckets.take(key) > 0 for _ in range(3)] == [False, False, True]
    now[0] = 1000.0
    assert sum(buckets.take(key) == 0 for _ in range(100)) == 60


def test_a_purpose_is_short_and_printable(gallery: Api) -> None:
    for purpose in ("x" * 257, "a\tb", "\x7f"):
        headers = {"X-Purpose": purpose.encode("latin-1")}
        answer = gallery.ask("GET", "/v2/subjects", "reader", headers=headers)
        problem(answer, 400)


def test_too_many_pictures_at_once_are_asked_to_come_again(gallery: Api) -> None:
    places, namespace = gallery.app.state.serving.threads.places, gallery.service.desk.store.namespace
    for others in ({namespace: places.most // 2}, {"a": places.most // 2, "b": places.most // 2}):
        places.taken.update(others)
        answer = gallery.ask("POST", "/v2/faces/detect", files={"file": drawing(RED)})
        problem(answer, 503)
        assert int(answer.headers["retry-after"]) > 0
        assert gallery.ask("GET", "/v2/subjects").status_code == 200
        places.taken.subtract(others)
    places.taken["another"] = places.most // 2  # who has half of the places has not those of others
    assert gallery.ask("POST", "/v2/faces/detect", files={"file": drawing(RED)}).status_code == 200
    del places.taken["another"]
    assert places.taken.total() == 0


def test_bodies_that_are_too_long_together_are_asked_to_come_again(gallery: Api) -> None:
    settings, namespace = GallerySettings(in_flight_bytes=200_000), gallery.service.desk.store.namespace
    app = gallery_api(lambda name: gallery.service, Access(gallery.keys), settings)
    api, threads = Api(app, gallery.keys, gallery.service), app.state.serving.threads
    long = {"file": ("a", b"x" * 120_000)}
    assert int(api.ask("POST", "/v2/faces/detect", files=long).headers["retry-after"]) > 0
    old = api.ask("POST", "/v1/detection/detect", files=long)
    assert (old.status_code, old.json()["code"]) == (503, 0)
    assert threads.held_bytes.taken == {}  # whatever became of them
    with threads.place(Rule(roles=frozenset(), body="upload"), namespace) as hold:
        hold(100_000 - 1)
        problem(api.ask("POST", "/v2/faces/detect", files={"file": drawing(RED)}), 503)
        assert api.ask("GET", "/v2/subjects").status_code == 200
    with threads.place(Rule(roles=frozenset(), body="upload"), "another") as hold:
        hold(100_000)
        assert api.ask("POST", "/v2/faces/detect", files={"file": drawing(RED)}).status_code == 200
    threads.close()


def test_a_network_is_spoken_to_over_tls_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("0.0.0.0", "::", "gallery.example"):
        with pytest.raises(PipelineError, match=r"in the clear.*OMOTE_GALLERY_TLS_CERTIFICATE"):
            GallerySettings.from_environment(host=host)
    monkeypatch.setenv("OMOTE_GALLERY_BEHIND_TLS", "1")
    assert GallerySettings.from_environment(host="0.0.0.0").behind_tls
    monkeypatch.setenv("OMOTE_GALLERY_TLS_CERTIFICATE", "cert.pem")
    with pytest.raises(PipelineError, match="private key"):
        GallerySettings.from_environment()
    monkeypatch.setenv("OMOTE_GALLERY_PORT", "none")
    with pytest.raises(PipelineError, match=r"^OMOTE_GALLERY_PORT: Input should be a valid integer"):
        GallerySettings.from_environment()


def test_a_place_that_is_taken_is_told_before_anything_is_served() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = GallerySettings(port=taken.getsockname()[1])
        with pytest.raises(PipelineError, match=r"^cannot listen at 127.0.0.1:\d+: Address already in use; choose"):
            door(settings)


def test_what_travels_is_encrypted(gallery: Api, tmp_path: Path) -> None:
    certificate, private_key = self_signed(tmp_path)
    settings = GallerySettings(port=free_ports(1)[0], certificate=certificate, private_key=private_key)
    running = server(gallery_api(lambda name: gallery.service, Access(gallery.keys), settings), settings)
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        while not running.started:
            time.sleep(0.01)
        with httpx.Client(verify=ssl.create_default_context(cafile=str(certificate))) as client:
            answer = client.get(f"https://127.0.0.1:{settings.port}/health/live")
        assert answer.json() == {"status": "live"}
        assert "server" not in answer.headers
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{settings.port}/health/live")
    finally:
        running.should_exit = True
        thread.join()


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for this machine, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(hours=1)
        )
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "certificate.pem").write_bytes(built.public_bytes(pem))
    plain = serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return folder / "certificate.pem", folder / "key.pem"


def test_the_server_logs_no_addresses(gallery: Api) -> None:
    config = server(gallery.app, GallerySettings(port=8081)).config
    assert (config.host, config.port, config.access_log, config.server_header) == ("127.0.0.1", 8081, False, False)


def test_headers_without_end_are_not_kept(gallery: Api) -> None:
    settings = GallerySettings(port=free_ports(1)[0])
    running = server(gallery_api(lambda name: gallery.service, Access(gallery.keys), settings), settings)
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        while not running.started:
            time.sleep(0.01)
        with socket.create_connection(("127.0.0.1", settings.port), 5) as line, pytest.raises(ConnectionError):
            line.sendall(b"GET /health/live HTTP/1.1\r\nX: " + bytes(64_000_000))
    finally:
        running.should_exit = True
        thread.join()


def test_while_redis_is_away_everything_says_so_and_health_goes_on(
    open_gallery: Any, mortal_redis: RedisServer
) -> None:
    service, keys = open_gallery(url=mortal_redis.url), ApiKeys(SecretStr(mortal_redis.url))
    api = Api(gallery_api(lambda name: service, Access(keys)), keys, service)
    assert api.enrol("ada", RED).status_code == 201
    assert api.bare("GET", "/health/ready").json() == {"status": "ready", "redis": "here"}
    mortal_redis.kill()
    assert api.bare("GET", "/health/live").json() == {"status": "live"}
    time.sleep(EVERY_S)  # it was asked for a moment ago
    assert api.bare("GET", "/health/ready").json() == {"status": "ready", "redis": "away"}
    answers: list[httpx.Response] = [api.ask("GET", "/v2/subjects"), api.enrol("bob", RED)]
    for answer in answers:
        problem(answer, 503, "/problems/gallery-away")
        assert int(answer.headers["retry-after"]) > 0
    old = api.ask("GET", "/v1/recognition/subjects")
    assert (old.status_code, old.json()["code"]) == (503, 41)
    assert old.headers["retry-after"]
    keys.close()
