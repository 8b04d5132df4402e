"""A camera comes back by itself, stays near the present, and never breaks what it gives."""

from __future__ import annotations

import logging
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from operators.decode import Decode
from pipeline.edges.rtsp import Backoff, RtspSource
from pipeline.edges.status import StreamStatus
from pipeline.errors import SourceError
from pipeline.packets import Chunk
from tests.support.cameras import Studio
from tests.support.numbered_camera import number_in
from tests.support.requirements import missing

MS = 1_000_000


class Viewer:
    """Reads a source on a thread and looks at its pictures.

    Attributes:
        chunks: What came.
        seen: Epoch, number written into the picture, and shape of each frame.
        lags_s: How old the first unit of each chunk was when it came.
        statuses: What the source said of itself.
    """

    def __init__(self, url: str, *, pause: Callable[[Chunk], float] = lambda chunk: 0.0, **arguments: object) -> None:
        self.chunks: list[Chunk] = []
        self.seen: list[tuple[int, int, tuple[int, ...]]] = []
        self.lags_s: list[float] = []
        self.statuses: list[StreamStatus] = []
        self.source = RtspSource(url, "cam", on_status=self.statuses.append, **arguments)
        self._pause = pause
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        decode = Decode()
        state = decode.start("cam")
        for chunk in self.source:
            self.lags_s.append((time.time_ns() - chunk.capture_ns) / 1e9)
            state, frames = decode(state, [chunk])
            self.seen += [(frame.epoch, number_in(frame.image), frame.image.shape[:2]) for frame in frames]
            self.chunks.append(chunk)
            time.sleep(self._pause(chunk))

    def __enter__(self) -> Viewer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.source.close()
        self._thread.join(10)

    def wait(self, until: Callable[[Viewer], object], limit_s: float) -> float:
        """Seconds until it is so."""
        began = time.monotonic()
        while not until(self):
            assert time.monotonic() - began < limit_s, (self.statuses, len(self.seen))
            time.sleep(0.01)
        return time.monotonic() - began

    def numbers(self, epoch: int) -> list[int]:
        return [number for its_epoch, number, _ in self.seen if its_epoch == epoch]

    @property
    def states(self) -> list[str]:
        return [status.state for status in self.statuses]


def test_it_opens_within_two_seconds_and_gives_every_frame_at_its_rate(steady: Studio) -> None:
    with Viewer(steady.url()) as viewer:
        assert viewer.wait(lambda v: v.statuses, 5) < 2
        viewer.wait(lambda v: v.seen, 5)
        assert viewer.wait(lambda v: len(v.seen) >= 51, 5) == pytest.approx(2.0, abs=0.6)
    assert viewer.states == ["online", "offline"]
    numbers = viewer.numbers(1)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert [chunk.seq for chunk in viewer.chunks] == list(range(len(viewer.chunks)))
    assert max(viewer.lags_s) < 1


def test_chunks_tell_stream_time_and_wall_clock(steady: Studio) -> None:
    with Viewer(steady.url()) as viewer:
        viewer.wait(lambda v: len(v.chunks) >= 25, 5)
    first, last = viewer.chunks[0], viewer.chunks[24]
    assert {chunk.source for chunk in viewer.chunks} == {"rtsp"}
    assert last.pts_ns - first.pts_ns == pytest.approx(last.capture_ns - first.capture_ns, abs=200 * MS)
    times = [unit.pts_ns for chunk in viewer.chunks for unit in chunk.units]
    assert {b - a for a, b in pairwise(times)} == {40 * MS}


def test_a_server_that_was_killed_is_found_again(rtsp: Studio) -> None:
    with Viewer(rtsp.url()) as viewer:
        viewer.wait(lambda v: v.numbers(1), 5)
        rtsp.kill()
        assert viewer.wait(lambda v: "reconnecting" in v.states, 2) < 1
        rtsp.start()
        assert viewer.wait(lambda v: v.numbers(2), 8) < 5
    assert [status.epoch for status in viewer.statuses if status.state == "online"] == [1, 2]
    assert next(chunk for chunk in viewer.chunks if chunk.epoch == 2).seq == 0
    assert min(viewer.numbers(2)) > max(viewer.numbers(1))


def test_a_server_that_freezes_is_noticed_and_found_again(rtsp: Studio) -> None:
    with Viewer(rtsp.url(), read_timeout_s=1.0) as viewer:
        viewer.wait(lambda v: v.numbers(1), 5)
        rtsp.freeze()
        assert viewer.wait(lambda v: "reconnecting" in v.states, 5) < 3
        assert viewer.source.last_progress_s() > 0.9
        assert viewer.statuses[-1].reason == "the server has fallen silent"
        rtsp.thaw()
        viewer.wait(lambda v: v.numbers(2), 8)
        assert viewer.source.last_progress_s() < 1


def test_a_camera_may_come_back_with_another_resolution(rtsp: Studio) -> None:
    with Viewer(rtsp.url(), read_timeout_s=1.0) as viewer:
        viewer.wait(lambda v: v.numbers(1), 5)
        rtsp.publish(width=320, height=192)
        viewer.wait(lambda v: v.numbers(2), 12)
    assert {shape for epoch, _, shape in viewer.seen if epoch == 1} == {(120, 160)}
    assert {shape for epoch, _, shape in viewer.seen if epoch == 2} == {(192, 320)}


def test_latest_leaves_out_whole_groups_and_stays_near_the_present(steady: Studio) -> None:
    with Viewer(steady.url(), pause=lambda chunk: 0.15 * len(chunk.units)) as viewer:
        viewer.wait(lambda v: v.source.drops.get("late", 0) > 50, 15)
    assert max(viewer.lags_s) < 2.5  # half a second, a group of pictures of one second, and the thread's own time
    after_a_drop = [chunk for chunk in viewer.chunks if chunk.dropped]
    assert all(chunk.units[0].keyframe for chunk in after_a_drop)
    numbers = viewer.numbers(1)
    gaps = sum(b - a - 1 for a, b in pairwise(numbers))
    assert gaps == sum(chunk.dropped for chunk in viewer.chunks[1:])  # each picture was whole, and each gap is known
    assert all(a < b for a, b in pairwise(numbers))


def test_lossless_loses_nothing_while_its_reader_pauses(steady: Studio) -> None:
    with Viewer(steady.url(), keep="lossless", pause=lambda chunk: 3.0 * (chunk.seq == 5)) as viewer:
        viewer.wait(lambda v: len(v.seen) > 100, 10)
    numbers = viewer.numbers(1)
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert set(viewer.source.drops) <= {"no_keyframe"}
    assert max(viewer.lags_s) > 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"RTSP/1.0 401 Unauthorized\r\nCSeq: 1\r\n\r\n", "the server wants another user or password"),
        (b"RTSP/1.0 404 Not Found\r\nCSeq: 1\r\n\r\n", "the server has no stream of this path"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no RTSP server answers at this host and port"),
        (b"", "no RTSP server answers at this host and port"),
    ],
)
def test_a_server_that_is_no_use_is_asked_again_and_the_status_says_why(answer: bytes, reason: str) -> None:
    with _answering(answer) as (port, asked), Viewer(f"rtsp://127.0.0.1:{port}/x", read_timeout_s=0.5) as viewer:
        viewer.wait(lambda v: len(asked) > 1, 5)
    assert viewer.statuses[0].state == "reconnecting"
    assert viewer.statuses[0].reason == reason
    assert viewer.seen == []


def test_a_path_that_the_server_does_not_know_is_named_as_the_reason(steady: Studio) -> None:
    with Viewer(steady.url("other")) as viewer:
        viewer.wait(lambda v: v.statuses, 5)
    assert viewer.statuses[0].reason == "the server has no stream of this path"


def test_neither_status_nor_log_tells_the_password(caplog: pytest.LogCaptureFixture) -> None:
    source = RtspSource(f"rtsp://admin:s3cret@127.0.0.1:{_refused()}/cam?pwd=s3cret2")
    with caplog.at_level(logging.DEBUG):
        _until(source, lambda: source.status.epoch == 0 and bool(caplog.text))
    assert "nothing listens" in caplog.text
    assert "s3cret" not in f"{caplog.text} {source.status} {source.stream}"


@pytest.mark.parametrize(
    "url",
    ["", "cam", "http://user:pw@host/cam", "file:///etc/passwd", "rtsp://", "rtsp:///cam", "rtsp://host:port/cam"],
)
def test_only_addresses_of_rtsp_are_taken(url: str) -> None:
    with pytest.raises(SourceError, match="is no RTSP address; give rtsp://") as raised:
        RtspSource(url)
    assert "pw" not in str(raised.value)


def test_an_unknown_way_to_keep_up_is_refused() -> None:
    with pytest.raises(SourceError, match="keep must be lossless, latest or adaptive, got 'newest'"):
        RtspSource("rtsp://host/cam", keep="newest")


@pytest.mark.parametrize("refused", [False, True])
def test_no_thread_is_left_behind(steady: Studio, *, refused: bool) -> None:
    before = set(threading.enumerate())
    with Viewer(f"rtsp://127.0.0.1:{_refused()}/cam" if refused else steady.url()) as viewer:
        viewer.wait(lambda v: v.statuses, 5)
        assert len(set(threading.enumerate()) - before) == 2
    assert set(threading.enumerate()) <= before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_counter_that_breaks_ends_the_source_with_a_sentence(steady: Studio) -> None:
    def broken(stream: str) -> int:
        raise LookupError(stream)

    source = RtspSource(steady.url(), epoch=broken)
    with pytest.raises(SourceError, match="the reader of stream 'cam' has died"):
        next(iter(source))
    source.close()


def test_a_counter_that_cannot_be_reached_is_tried_again(steady: Studio) -> None:
    answers = iter([SourceError("Redis is away"), 7])

    def counter(stream: str) -> int:
        if isinstance(answer := next(answers), Exception):
            raise answer
        return answer

    with Viewer(steady.url(), epoch=counter) as viewer:
        viewer.wait(lambda v: v.numbers(7), 8)
    assert viewer.statuses[0].reason == "Redis is away"


def test_rtsps_trusts_the_certificate_it_was_given_and_no_other(steady: Studio, tmp_path: Path) -> None:
    own, other = _certificate(tmp_path / "own"), _certificate(tmp_path / "other")
    with _encrypted(steady.port, own) as port:
        with Viewer(f"rtsps://localhost:{port}/cam", ca_file=str(own)) as viewer:
            viewer.wait(lambda v: v.seen, 5)
        with Viewer(f"rtsps://localhost:{port}/cam", ca_file=str(other)) as viewer:
            viewer.wait(lambda v: v.statuses, 5)
        assert "check the certificate" in viewer.statuses[0].reason


def test_pauses_double_up_to_the_cap_and_begin_anew_after_healthy_time() -> None:
    backoff = Backoff(max_s=3.0, first_s=0.5, chance=lambda: 1.0)
    assert [backoff.after(0.0) for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert backoff.after(4.9) == 3.0
    assert [backoff.after(60.0), backoff.after(0.0)] == [0.5, 1.0]


def test_half_of_a_pause_is_chance() -> None:
    assert Backoff(max_s=3.0, first_s=1.0, chance=lambda: 0.0).after(0.0) == 0.5
    pauses = {Backoff(max_s=3.0, first_s=1.0).after(0.0) for _ in range(20)}
    assert len(pauses) > 1
    assert all(0.5 <= pause <= 1.0 for pause in pauses)


def test_pauses_stay_finite_for_ever() -> None:
    backoff = Backoff(max_s=10.0)
    assert [backoff.after(0.0) <= 10.0 for _ in range(5000)] == [True] * 5000


def _until(source: RtspSource, done: Callable[[], bool]) -> None:
    reading = threading.Thread(target=lambda: list(source))
    reading.start()
    until = time.monotonic() + 5
    while not done() and time.monotonic() < until:
        time.sleep(0.01)
    source.close()
    reading.join(5)


def _refused() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port on which each connection is given to ``serve``."""

    def accept() -> None:
        with suppress(OSError):
            while True:
                serve(listener.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@contextmanager
def _answering(answer: bytes) -> Iterator[tuple[int, list[socket.socket]]]:
    """A port where every connection is given the same ``answer`` and is kept open; and those connections."""
    asked: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        asked.append(connection)
        connection.sendall(answer)

    with _listening(serve) as port:
        yield port, asked
    for connection in asked:
        connection.close()


@contextmanager
def _encrypted(port: int, certificate: Path) -> Iterator[int]:
    """A port where TLS is spoken before what is said there goes on to ``port``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    threads: list[threading.Thread] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError), source, target:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)

    def serve(connection: socket.socket) -> None:
        try:
            near = context.wrap_socket(connection, server_side=True)
        except OSError:  # the client did not like the certificate
            return
        far = socket.create_connection(("127.0.0.1", port))
        threads.extend(threading.Thread(target=pump, args=ends) for ends in ((near, far), (far, near)))
        for thread in threads[-2:]:
            thread.start()

    with _listening(serve) as encrypted:
        yield encrypted
    for thread in threads:
        thread.join(5)


def _certificate(stem: Path) -> Path:
    """A self-signed certificate of localhost; its key lies beside it."""
    openssl = shutil.which("openssl") or missing("there is no openssl to make a certificate with")
    file = stem.with_suffix(".pem")
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    key = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(stem.with_suffix(".key"))]
    command = [openssl, "req", "-x509", *key, "-out", str(file), "-days", "2", *subject]
    subprocess.run(command, check=True, capture_output=True)
    return file
