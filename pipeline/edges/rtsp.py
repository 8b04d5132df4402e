"""RTSP cameras as sources: they come back by themselves, and under load they stay near the present."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from threading import Event, Thread
from urllib.parse import urlsplit

import av
import av.error
from av.container import InputContainer

from pipeline.edges import Source
from pipeline.edges.backlog import PATIENCE_S, Arrival, Backlog, Keep
from pipeline.edges.status import State, StreamStatus, logged
from pipeline.edges.timeline import Timeline
from pipeline.edges.units import codec_of, unit_of
from pipeline.errors import PipelineError, SourceError
from pipeline.packets import Chunk
from pipeline.redact import redact

LATEST_S = 0.5  # how far `latest` may fall behind before it leaves something out
OFFLINE_S = 10.0  # without a unit for so long a stream is no longer reconnecting, it is offline
HEALTHY_S = 5.0  # a connection that gave units for so long was a good one: the next pause is a short one again
PROBE_US, PROBE_BYTES = 200_000, 200_000  # FFmpeg's own limits make opening last for 4 to 5 s


class Backoff:
    """Pauses between attempts to connect: they double up to ``max_s``, and half of each is chance.

    Chance keeps a hundred cameras behind one switch from knocking in step.
    """

    def __init__(self, max_s: float, first_s: float = 0.25, chance: Callable[[], float] = random.random) -> None:
        self._max_s, self._first_s, self._chance = max_s, first_s, chance
        self._ceiling_s = first_s

    def after(self, healthy_s: float) -> float:
        """Seconds to wait after a connection that gave units for ``healthy_s``."""
        if healthy_s >= HEALTHY_S:
            self._ceiling_s = self._first_s
        ceiling = min(self._ceiling_s, self._max_s)
        self._ceiling_s = 2 * ceiling
        return ceiling * (1 + self._chance()) / 2


class RtspSource(Source):
    """One camera, read on a thread of its own for as long as it is wanted.

    A stream that breaks, ends, falls silent or cannot be opened is tried again until `stop`; each
    connection that gives a picture is an epoch. Nothing is decoded here.

    Args:
        url: ``rtsp://`` or ``rtsps://``; user and password belong in the environment: ``${CAMERA_URL}``.
        stream: Id of the stream; the path of the address if empty.
        keep: What to do where analysis is slower than the camera. ``lossless`` lets the camera wait; ``latest``
            leaves out groups of pictures to stay within about one group of the present; ``adaptive`` loses
            nothing up to ``max_lag_s`` and then does as ``latest``.
        max_lag_s: Seconds, for ``adaptive``.
        open_timeout_s: How long opening may take.
        read_timeout_s: How long a unit may take; FFmpeg notices after up to twice this time.
        max_backoff_s: Longest pause between two attempts.
        units: Most units in a chunk.
        ca_file: Certificates of which an ``rtsps`` server must show one, or one signed by one of them. Without
            it the connection is encrypted, but nobody knows who is at its other end.
        epoch: Gives the number of the next epoch of a stream; by itself the source counts from 1. A
            `PipelineError` of it is one more reason to try again later.
        on_status: Told of each change, on the thread that reads.
        clock: Monotonic seconds.

    Attributes:
        stream: Id of the stream.
        status: How it does now.
    """

    expected_frames = 0

    def __init__(
        self,
        url: str,
        stream: str = "",
        keep: Keep = "latest",
        *,
        max_lag_s: float = 5.0,
        open_timeout_s: float = 5.0,
        read_timeout_s: float = 2.0,
        max_backoff_s: float = 10.0,
        units: int = 16,
        ca_file: str = "",
        epoch: Callable[[str], int] | None = None,
        on_status: Callable[[StreamStatus], None] = logged,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Check the address; nothing is opened before the first chunk is asked for.

        Raises:
            SourceError: The address is not one of RTSP, or ``keep`` is no known word.
        """
        _check(url, keep)
        counted = count(1)
        self.stream = stream or _name(url)
        self._url, self._units, self._clock, self._on_status = url, units, clock, on_status
        self._epoch_of = epoch or (lambda stream: next(counted))
        self._timeouts = open_timeout_s, read_timeout_s
        self._options = _options(read_timeout_s, ca_file)
        self._backoff = Backoff(max_backoff_s)
        self._backlog = Backlog({"lossless": None, "latest": LATEST_S, "adaptive": max_lag_s}[keep], clock=clock)
        self._stopped = Event()
        self._reader: Thread | None = None
        self._began_s = self._progress_s = clock()
        self.status = StreamStatus(self.stream, "reconnecting", "not connected yet", 0, 0, datetime.now(UTC), "rtsp")

    def __iter__(self) -> Iterator[Chunk]:
        """Chunks until `stop`.

        Raises:
            SourceError: The thread that reads has died, for ``epoch`` or ``on_status`` raised.
        """
        self._reader = Thread(target=self._run, name=f"rtsp {self.stream}", daemon=True)
        self._reader.start()
        epoch: int | None = None
        seq = 0
        while not self._stopped.is_set():
            taken = self._backlog.take(self._units, PATIENCE_S)
            if taken:
                seq = seq + 1 if taken[0].epoch == epoch else 0
                epoch = taken[0].epoch
                yield self._chunk(taken, seq)
            elif not self._reader.is_alive() and not self._stopped.is_set():
                message = f"the reader of stream {self.stream!r} has died; the log has its last words"
                raise SourceError(message)

    @property
    def drops(self) -> dict[str, int]:
        """Units left out so far, by reason; see `Backlog`."""
        return dict(self._backlog.drops)

    def last_progress_s(self) -> float:
        """Seconds since the last unit came in."""
        return self._clock() - self._progress_s

    def commit(self, chunk: Chunk) -> None:
        """A camera keeps no position."""

    def stop(self) -> None:
        """End the iteration; may be called from any thread."""
        self._stopped.set()
        self._backlog.close()

    def close(self) -> None:
        """Stop, and wait for the thread: for as long as FFmpeg may take to give up, and no longer."""
        self.stop()
        if self._reader is not None:
            self._reader.join(sum(self._timeouts) * 2 + 1)

    def _chunk(self, taken: list[Arrival], seq: int) -> Chunk:
        first = taken[0]
        return Chunk(
            self.stream,
            first.epoch,
            seq,
            first.pts_ns,
            first.codec,
            tuple(arrival.unit for arrival in taken),
            dropped=first.missing,
            capture_ns=first.capture_ns,
            source="rtsp",
        )

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                self._began_s = self._clock()
                reason = self._session()
                if not self._stopped.is_set():
                    self._tell("offline" if self.last_progress_s() >= OFFLINE_S else "reconnecting", reason)
                    self._stopped.wait(self._backoff.after(self._progress_s - self._began_s))
            self._tell("offline", "stopped")
        finally:
            self._backlog.close()

    def _session(self) -> str:
        """Connect and read until it ends; gives the reason."""
        try:
            with av.open(
                self._url,
                format="rtsp",
                options=self._options,
                timeout=self._timeouts,
                metadata_errors="replace",
            ) as container:
                return self._read(container)
        except PipelineError as error:
            return redact(str(error))
        except (av.error.FFmpegError, OSError) as error:
            return _reason(error)

    def _read(self, container: InputContainer) -> str:
        video = next((video for video in container.streams.video if video.codec_context is not None), None)
        if video is None:
            return "the server has no video at this address, or none that FFmpeg knows"
        codec, timeline, epoch = codec_of(video), Timeline(), None
        for packet in container.demux(video):
            if self._stopped.is_set():
                break
            if not packet.size:
                continue
            self._progress_s = at_s = self._clock()
            if epoch is None:
                epoch, self._began_s = self._epoch_of(self.stream), at_s
            unit = timeline.place(unit_of(packet), at_s)
            pts_ns = timeline.now_ns if unit.pts_ns is None else unit.pts_ns
            self._backlog.put(Arrival(unit, epoch, codec, pts_ns, time.time_ns(), at_s))
            self._tell("online", "", epoch, pts_ns)
        return "the server ended the stream"

    def _tell(self, state: State, reason: str, epoch: int | None = None, pts_ns: int | None = None) -> None:
        """Remember the status; say so where it is not the one before."""
        before = self.status
        self.status = now = StreamStatus(
            self.stream,
            state,
            reason,
            before.epoch if epoch is None else epoch,
            before.last_pts_ns if pts_ns is None else pts_ns,
            before.since if state == before.state else datetime.now(UTC),
            "rtsp",
        )
        if (now.state, now.reason, now.epoch) != (before.state, before.reason, before.epoch):
            self._on_status(now)


def _check(url: str, keep: str) -> None:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"rtsp", "rtsps"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        message = f"{redact(url)!r} is no RTSP address; give rtsp://host:554/path or rtsps://host:322/path"
        raise SourceError(message)
    if keep not in {"lossless", "latest", "adaptive"}:
        message = f"keep must be lossless, latest or adaptive, got {keep!r}"
        raise SourceError(message)


def _name(url: str) -> str:
    parts = urlsplit(url)
    return redact(parts.path).strip("/").replace("/", "-") or str(parts.hostname)


def _options(read_timeout_s: float, ca_file: str) -> dict[str, str]:
    """What FFmpeg is told. It takes unknown names without a word: ``timeout`` was ``stimeout`` once."""
    return {
        "rtsp_transport": "tcp",
        "allowed_media_types": "video",
        "timeout": str(round(read_timeout_s * 1e6)),
        "analyzeduration": str(PROBE_US),
        "probesize": str(PROBE_BYTES),
        "fflags": "nobuffer",
        **({"ca_file": ca_file, "tls_verify": "1"} if ca_file else {}),
    }


def _reason(error: Exception) -> str:
    """What FFmpeg means, in a sentence."""
    meanings: dict[type[Exception], str] = {
        ConnectionRefusedError: "nothing listens at this host and port",
        av.error.HTTPNotFoundError: "the server has no stream of this path",
        av.error.HTTPUnauthorizedError: "the server wants another user or password",
        av.error.HTTPForbiddenError: "the server does not let this user see the stream",
        av.error.InvalidDataError: "no RTSP server answers at this host and port",
        av.error.ExitError: "the server has fallen silent",
        TimeoutError: "the server has fallen silent",
    }
    if getattr(error, "errno", None) == errno.EIO:
        return "the connection broke off before it was made; with rtsps, check the certificate against `ca_file`"
    known = next((text for kind, text in meanings.items() if isinstance(error, kind)), "")
    return known or redact(getattr(error, "strerror", None) or str(error))
