"""Videos, folders of images and cameras of this machine as sources; JSON lines as a sink."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any, ClassVar

import av
import av.error
from av.container import InputContainer
from av.video.stream import VideoStream

from pipeline.edges import Sink, Source
from pipeline.edges.rtsp import RtspSource
from pipeline.edges.units import codec_of, unit_of
from pipeline.errors import SinkError, SourceError
from pipeline.packets import Chunk, Codec, Explanation, Unit
from pipeline.records import ExplanationRecord, FrameRecord, MatchRecord, Record, TrackRecord

STILLS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
MAX_PIXELS = 4096 * 2304  # above it a frame costs more memory than a window of frames may


class VideoFile(Source):
    """A video file that FFmpeg can demux. Nothing is decoded here."""

    def __init__(self, path: str, stream: str = "", units: int = 16) -> None:
        """Open the file and read what its decoder must know.

        Args:
            path: The file.
            stream: Id of the stream; the name of the file without its ending if empty.
            units: Encoded units in a chunk, and so frames in a micro-batch.

        Raises:
            SourceError: No such file, no video in it, no picture in the video, or pictures of a size that cannot be.
        """
        self._path, self._stream, self._units = path, stream or Path(path).stem, units
        rotation = _rotation(path)
        self._container, self._video = _open(path)
        self._codec = codec_of(self._video, rotation)
        _check_size(path, self._codec)
        self.expected_frames = _expected_frames(self._video)

    def __iter__(self) -> Iterator[Chunk]:
        """The chunks, and after the last one what is wrong with the file.

        Raises:
            SourceError: The file ends before the last frame of its index; all that is there was given.
        """
        yield from _chunks(_demux(self._container, self._video), self._stream, self._codec, self._units)
        index, size = self._video.index_entries, self._container.size
        whole = sum(entry.pos + entry.size <= size for entry in index)
        if size > 0 and whole < len(index):
            message = (
                f"{self._path} is truncated: {whole} of its {len(index)} frames are there; "
                "they were analysed, fetch the file again for the rest"
            )
            raise SourceError(message)

    def commit(self, chunk: Chunk) -> None:
        """A file keeps no position."""

    def close(self) -> None:
        self._container.close()


class Input(Source):
    """Whatever a user names: a video, a folder of images or a single one, ``/dev/video0`` or ``rtsp://camera/1``."""

    def __init__(self, path: str) -> None:
        """Open it.

        Raises:
            SourceError: Nothing was named, or what was named cannot be opened.
        """
        if not path:
            message = (
                "no input was given; name a video, a folder of images or a camera, such as input=clip.mp4 "
                "or input=rtsp://camera/1"
            )
            raise SourceError(message)
        self._source: Source = _kind(path)(path)
        self.expected_frames = self._source.expected_frames

    def __iter__(self) -> Iterator[Chunk]:
        return iter(self._source)

    def commit(self, chunk: Chunk) -> None:
        self._source.commit(chunk)

    def stop(self) -> None:
        self._source.stop()

    def close(self) -> None:
        self._source.close()


class Webcam(Source):
    """A camera of this machine, through Video4Linux."""

    expected_frames = 0

    def __init__(self, device: str = "/dev/video0", stream: str = "webcam", units: int = 4) -> None:
        """Open the camera.

        Raises:
            SourceError: There is no such camera, or another program holds it.
        """
        self._container, self._video = _open(device, "v4l2")
        self._stream, self._units, self._codec = stream, units, codec_of(self._video)

    def __iter__(self) -> Iterator[Chunk]:
        units = _demux(self._container, self._video)
        for number in count():
            batch = tuple(islice(units, self._units))  # nothing is read ahead: a camera must not lag
            if not batch:
                return
            yield Chunk(self._stream, 0, number, batch[0].pts_ns or 0, self._codec, batch)

    def commit(self, chunk: Chunk) -> None:
        """A camera keeps no position."""

    def close(self) -> None:
        self._container.close()


class ImageFolder(Source):
    """The images of a folder, by name, as a stream of ``fps`` frames a second."""

    def __init__(self, path: str, stream: str = "", fps: float = 25.0, units: int = 16) -> None:
        """List the folder; a single image is a folder of one.

        Raises:
            SourceError: No such folder, or no image in it.
        """
        folder = Path(path)
        listed = [folder] if folder.is_file() else sorted(folder.iterdir()) if folder.is_dir() else []
        self._files = [file for file in listed if file.suffix.lower() in STILLS]
        if not self._files:
            message = f"{path} holds no image; omote reads {', '.join(sorted(STILLS))}"
            raise SourceError(message)
        self._stream, self._step_ns, self._units = stream or folder.stem, round(1e9 / fps), units
        self.expected_frames = len(self._files)

    def __iter__(self) -> Iterator[Chunk]:
        return _chunks(self._read(), self._stream, Codec("still"), self._units)

    def commit(self, chunk: Chunk) -> None:
        """A folder keeps no position."""

    def close(self) -> None:
        """Nothing is held open."""

    def _read(self) -> Iterator[Unit]:
        for number, file in enumerate(self._files):
            try:
                yield Unit(file.read_bytes(), number * self._step_ns, number * self._step_ns, keyframe=True)
            except OSError as error:
                message = f"cannot read {file}: {error.strerror}"
                raise SourceError(message) from error


class JsonLines(Sink[FrameRecord | TrackRecord | MatchRecord | Explanation]):
    """Records as one JSON object a line; those of other kinds than ``kinds`` are left to other sinks."""

    KINDS: ClassVar[dict[str, type[Any]]] = {
        "frame": FrameRecord,
        "track": TrackRecord,
        "match": MatchRecord,
        "explanation": Explanation,
    }

    def __init__(self, path: str, kinds: Sequence[str] = tuple(KINDS)) -> None:
        """Create or overwrite the file.

        Raises:
            SinkError: A kind is not known, or the file cannot be created.
        """
        if unknown := sorted(set(kinds) - set(self.KINDS)):
            message = f"JsonLines knows no kind {unknown}; it knows {sorted(self.KINDS)}"
            raise SinkError(message)
        self._path, self._taken = path, tuple(self.KINDS[kind] for kind in kinds)
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._file = Path(path).open("w", encoding="utf-8")  # noqa: SIM115  (`close` closes it)
        except OSError as error:
            raise _unwritable(path, error) from error

    def write(self, batch: Sequence[Any]) -> None:
        try:
            self._file.writelines(f"{_json(packet)}\n" for packet in batch if isinstance(packet, self._taken))
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise _unwritable(self._path, error) from error


def _kind(path: str) -> type[VideoFile | ImageFolder | Webcam | RtspSource]:
    if path.startswith(("rtsp://", "rtsps://")):
        return RtspSource
    if Path(path).is_char_device():
        return Webcam
    return ImageFolder if Path(path).is_dir() or Path(path).suffix.lower() in STILLS else VideoFile


def _json(packet: Any) -> str:
    record: Record = ExplanationRecord.of(packet) if isinstance(packet, Explanation) else packet
    return record.model_dump_json()


def _unwritable(path: str, error: OSError) -> SinkError:
    return SinkError(f"cannot write {path}: {error.strerror}; free some space or choose another folder")


def _open(path: str, container_format: str | None = None) -> tuple[InputContainer, VideoStream]:
    try:
        container = av.open(path, format=container_format)
    except FileNotFoundError as error:
        message = f"no such file: {path}"
        raise SourceError(message) from error
    except (av.error.FFmpegError, OSError) as error:
        message = f"cannot open {path}: {error.strerror or error}; it is truncated, empty or no video that FFmpeg reads"
        raise SourceError(message) from error
    if container.format.name == "tty" or not container.streams.video:  # FFmpeg would show any text as a film
        container.close()
        message = f"{path} has no video stream; omote needs pictures"
        raise SourceError(message)
    return container, container.streams.video[0]


def _rotation(path: str) -> int:
    """Degrees clockwise that show the first picture upright; opens the file once more, for only decoding tells."""
    container, video = _open(path)
    with container:
        try:
            first = next(iter(container.decode(video)), None)
        except av.error.FFmpegError:
            return 0  # a damaged start is the decoder's to count
    if first is None:
        message = f"{path} has a video stream but no frames"
        raise SourceError(message)
    return -round(first.rotation / 90) * 90 % 360


def _check_size(path: str, codec: Codec) -> None:
    if codec.width < 1 or codec.height < 1:
        message = f"{path} declares pictures of {codec.width}x{codec.height}; it is damaged, re-encode it"
        raise SourceError(message)
    if codec.width * codec.height > MAX_PIXELS:
        message = (
            f"{path} has pictures of {codec.width}x{codec.height}, more than the {MAX_PIXELS} pixels that omote takes; "
            "scale it down first, for instance to 3840x2160"
        )
        raise SourceError(message)


def _expected_frames(video: VideoStream) -> int:
    if video.frames:
        return video.frames
    if video.duration and video.time_base and video.average_rate:
        return round(float(video.duration * video.time_base * video.average_rate))
    return 0


def _demux(container: InputContainer, video: VideoStream) -> Iterator[Unit]:
    """The encoded units of ``video``; what the demuxer cannot read is given as a damaged unit."""
    packets = container.demux(video)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError:
            yield Unit(b"", None, None, damaged=True)
            return
        if packet.size:
            yield unit_of(packet)


def _chunks(units: Iterator[Unit], stream: str, codec: Codec, size: int) -> Iterator[Chunk]:
    """Cut ``units`` into chunks; the last one says that it is the last."""
    number, batch = 0, tuple(islice(units, size))
    while batch:
        following = tuple(islice(units, size))
        last = not following
        yield Chunk(stream, 0, number, batch[0].pts_ns or 0, codec, batch, closed=last, last=last)
        number, batch = number + 1, following
