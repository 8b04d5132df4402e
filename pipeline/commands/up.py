"""``omote up``: everything on this machine with no configuration, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from pipeline.commands.broker import settings
from pipeline.commands.options import DEPLOY, Device, Engine, Values, loaded
from pipeline.commands.serve import ScaleFile, hushed, watch
from pipeline.errors import GraphError, PipelineError, SourceError
from pipeline.gallery.subjects import Caller
from pipeline.graph import load
from pipeline.redact import redact
from pipeline.scale import Scale, load_scale
from pipeline.servers.process import LocalProcess, free_ports, listens

if TYPE_CHECKING:
    from pipeline.commands.streams import Api
    from pipeline.edges.kafka_settings import KafkaSettings
    from pipeline.graph import Graph
    from pipeline.serving.api_settings import ApiSettings
    from pipeline.serving.application import System

GRAPH, SCALE = DEPLOY / "graphs" / "faces.yaml", DEPLOY / "scale" / "laptop.yaml"
CLIPS = ("demo/demo.mp4", "assets/single_face.mp4", "*/*.mp4")  # in the cache, the best one first
CAMERA, CLIP = "camera", "clip"  # ids of the two streams
API_PORT = 8000
GALLERY = "redis:main"
STARTED, FOUND = "started here", "was there"

Started = TypeVar("Started", bound=LocalProcess)


def up(
    variables: Values = None,
    graph: Annotated[Path, typer.Option(help="The YAML file that declares the graph.")] = GRAPH,
    scale: ScaleFile = None,
    clip: Annotated[Path | None, typer.Option(help="What the camera and the topic show; the demo's video.")] = None,
    data: Annotated[Path | None, typer.Option(help="Where servers keep their data; nowhere if not given.")] = None,
    device: Device = "auto",
    engine: Engine = "auto",
) -> None:
    """Find or start Redis, Kafka, a camera and Ray, analyse two streams, and say where to look; Ctrl-C ends it all."""
    if not graph.is_file():
        message = f"there is no graph {graph}; name one with --graph"
        raise GraphError(message)
    console = Console(stderr=True, highlight=False)
    interruption = Interruption()
    before = [(each, signal.signal(each, interruption)) for each in (signal.SIGINT, signal.SIGTERM)]
    try:
        with ExitStack() as parts:
            parts.enter_context(hushed())
            laptop = Laptop(console, parts, clip or _clip(), data, interruption)
            parts.callback(console.print, "everything that was started here has ended")
            system = laptop.bring_up(loaded(graph, _with_gallery(graph, variables), device, engine), _scale(scale))
            interruption.check()
            parts.callback(console.print, "ending")
            watch(console, system)
    except KeyboardInterrupt:
        pass
    finally:
        for each, handler in before:
            signal.signal(each, handler)


class Interruption:
    """Ctrl-C and SIGTERM: raises, and remembers it, for Python drops what is raised while an object is finalized."""

    asked = False

    def __call__(self, number: int, frame: object) -> None:
        """Raise `KeyboardInterrupt`."""
        del number, frame
        self.asked = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise it again, if anybody asked."""
        if self.asked:
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Part:
    """What runs, where, and what to do with it."""

    name: str
    where: str
    note: str = ""


class Publication(LocalProcess):
    """``omote publish``: a clip to the video topic, for ever and in real time."""

    name = "omote publish"

    def __init__(self, clip: Path, kafka: KafkaSettings, folder: Path) -> None:
        self._arguments = [str(clip), "--servers", kafka.servers, "--prefix", kafka.prefix]
        self.log = folder / "publish.log"

    def _command(self) -> list[str]:
        verb = [sys.executable, "-m", "pipeline", "publish"]
        return [*verb, *self._arguments, "--stream", CLIP, "--loop", "0", "--partitions", "1"]


class Laptop:
    """The parts on this machine, each begun before those that need it, and ended after them."""

    def __init__(
        self, console: Console, parts: ExitStack, clip: Path, data: Path | None, interruption: Interruption
    ) -> None:
        """Nothing is started yet.

        Args:
            console: Is told of every part.
            parts: Ends them.
            clip: What to show.
            data: Where servers keep their data; a folder that goes with them if None.
            interruption: Whether to go on is asked after each part.

        Raises:
            SourceError: There is no video in the clip.
        """
        from pipeline.servers.camera import check_playable  # noqa: PLC0415  (av is slow to load)

        check_playable(clip)
        self._console, self._parts, self._clip = console, parts, clip.absolute()
        temporary = TemporaryDirectory(prefix="omote-", ignore_cleanup_errors=True)
        self._folder = Path(parts.enter_context(temporary)) if data is None else data.absolute()
        self._kept = bool(data or os.environ.get("REDIS_URL"))  # the list of cameras outlives this
        self._told: list[Part] = []
        self._interruption = interruption

    def bring_up(self, graph: Graph, scale: Scale) -> System:
        """Begin with everything, and print what runs.

        Raises:
            PipelineError: A part is missing or does not start.
        """
        redis, kafka, camera = self._redis(), self._kafka(), self._camera()
        self._gallery(redis)
        system = self._system(graph, scale, redis, kafka)
        self._start(Publication(self._clip, kafka, self._folder))
        self._tell(f"stream {CLIP}", kafka.topic("video"), f"{self._clip.name} in a loop, by `omote publish`")
        if camera:
            self._watch(system.url, camera)
        self._show(kafka, system.url)
        return system

    def _redis(self) -> str:
        from pipeline.servers.redis_server import RedisServer  # noqa: PLC0415

        if found := os.environ.get("REDIS_URL"):
            self._tell("Redis", redact(found), FOUND)
            return found
        url = self._start(RedisServer(self._folder / "redis")).url
        self._tell("Redis", url, STARTED)
        return url

    def _gallery(self, redis: str) -> None:
        """Keys for the gallery, and the people of the demo in it, if nobody is there yet."""
        from pipeline.edges.galleries import Galleries  # noqa: PLC0415  (extras)
        from pipeline.edges.redis_link import redis_url  # noqa: PLC0415
        from pipeline.gallery.faces import Faces  # noqa: PLC0415
        from pipeline.gallery.keys import FILE_VARIABLE, Keys  # noqa: PLC0415
        from pipeline.gallery.memory import MemoryGallery  # noqa: PLC0415

        file = self._folder / "gallery-keys.json"
        if not Keys.are_given():
            if not file.exists():
                self._folder.mkdir(parents=True, exist_ok=True)
                Keys.new().write(file)
            os.environ[FILE_VARIABLE] = str(file)
        os.environ["REDIS_URL"] = redis  # for the matchers, wherever they run
        people = _cache() / "demo" / "gallery.npz"
        with closing(
            Galleries(redis_url(redis), Keys.from_environment(), Faces(lambda: load(GRAPH)), later=True)
        ) as all_:
            service = all_.of(GALLERY.partition(":")[2])
            if people.is_file() and service.desk.store.count() == (0, 0):
                service.take_in(Caller("omote up", "admin", "demonstration"), MemoryGallery(str(people)))
            subjects, templates = service.desk.store.count()
        keys = os.environ.get(FILE_VARIABLE, "the environment")
        self._tell("gallery", f"{subjects} subjects, {templates} templates", f"keys: {keys}")

    def _kafka(self) -> KafkaSettings:
        from pipeline.servers.kafka_server import local_kafka  # noqa: PLC0415

        if os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
            found = settings("")
            self._tell("Kafka", found.servers, FOUND)
            return found
        started = settings(self._start(local_kafka(self._folder / "kafka")).address)
        self._tell("Kafka", started.servers, STARTED)
        return started

    def _camera(self) -> str:
        """The address of a camera, none if no RTSP server can be had."""
        from pipeline.servers.camera import FileCamera  # noqa: PLC0415  (av is slow to load)
        from pipeline.servers.rtsp_server import RtspServer  # noqa: PLC0415

        try:
            server = RtspServer(self._folder / "go2rtc", [CAMERA])
        except PipelineError as error:
            self._tell("camera", "none", str(error))
            return ""
        url = self._start(server).url(CAMERA)
        self._start(FileCamera(self._clip, url, self._folder / "camera.log"))
        self._tell("camera", url, f"{STARTED}, plays {self._clip.name}")
        return url

    def _system(self, graph: Graph, scale: Scale, redis: str, kafka: KafkaSettings) -> System:
        try:
            from pipeline.edges.kafka_topics import create_topics  # noqa: PLC0415  (extras)
            from pipeline.edges.redis_link import redis_url  # noqa: PLC0415
            from pipeline.runners.on_ray import cluster  # noqa: PLC0415
            from pipeline.serving.application import running  # noqa: PLC0415
            from pipeline.serving.work import Plan  # noqa: PLC0415
        except ImportError as error:
            message = f"{error.name} is not installed here: install omote[ray,kafka]"
            raise GraphError(message) from error
        plan = Plan(graph, kafka, redis_url(redis))
        with closing(plan.registry()) as registry:
            registry.values()  # what was found may not answer
        create_topics(kafka, 1)
        with self._console.status("starting Ray"):
            self._parts.enter_context(cluster())
        signal.signal(signal.SIGTERM, self._interruption)  # Ray's own handler would end Ray first
        self._tell("Ray", "this machine", STARTED)
        with self._console.status("starting the graph"):
            system = self._parts.enter_context(running(plan, scale, _api(), partitions=1))
        self._tell("graph", f"{len(graph.order)} stages", STARTED)
        return system

    def _watch(self, api: str, camera: str) -> None:
        """Add the camera as a stream, and take it away in the end."""
        from pipeline.commands.streams import connected  # noqa: PLC0415
        from pipeline.serving.streams import StreamSpec  # noqa: PLC0415

        streams = self._parts.enter_context(connected(api))
        try:
            streams.add(StreamSpec(id=CAMERA, url=camera))
        except PipelineError as error:  # all the rest is of use without it
            self._tell(f"stream {CAMERA}", "not added", str(error))
            return
        if self._kept:
            self._parts.callback(_remove, streams)
        self._tell(f"stream {CAMERA}", camera, "the camera, through the API")

    def _start(self, part: Started) -> Started:
        with self._console.status(f"starting {part.name}"):
            self._parts.enter_context(part)
        return part

    def _tell(self, name: str, where: str, note: str) -> None:
        self._interruption.check()
        self._told.append(Part(name, where, note))
        self._console.print(f"{name}: {where} ({note})", markup=False, soft_wrap=True)

    def _show(self, kafka: KafkaSettings, api: str) -> None:
        """A table of what runs, and what to look at."""
        elsewhere = "" if api.endswith(f":{API_PORT}") else f" --api {api}"
        looks = [
            Part("records", f"omote consume --servers {kafka.servers}", "as a table; --as jsonl or mp4"),
            Part("streams", f"omote streams list{elsewhere}", "how each stream does"),
            Part("gallery", _gallery_list(), "who is known"),
            Part("API", f"{api}/docs", "what can be asked"),
            Part("end", "Ctrl-C", "ends only what was started here"),
        ]
        width = 2 + max(len(part.name) for part in (*self._told, *looks))
        for title, parts in (("what runs", self._told), ("what to look at", looks)):
            self._console.print(f"\n[italic]{title}[/]")
            for part in parts:  # no table: what is to be copied stands on one line, however narrow the terminal is
                self._console.print(Text.assemble((part.name.ljust(width), "bold"), part.where), soft_wrap=True)
                self._console.print(Text(" " * width + part.note, "dim"), soft_wrap=True)


def _clip() -> Path:
    """The best clip of the cache.

    Raises:
        SourceError: There is none.
    """
    cache = _cache()
    found = next((path for pattern in CLIPS for path in sorted(cache.glob(pattern))), None)
    if found is None:
        message = f"there is no clip in {cache}: give --clip FILE, or run `omote models pull`"
        raise SourceError(message)
    return found


def _cache() -> Path:
    return Path(os.environ.get("OMOTE_CACHE") or Path.home() / ".cache" / "omote")


def _with_gallery(graph: Path, variables: list[str] | None) -> list[str]:
    """The variables, and where the gallery is, unless somebody has said so."""
    given = list(variables or ())
    own = graph == GRAPH and not any(each.startswith("gallery=") for each in given)
    return [*given, f"gallery={GALLERY}"] if own else given


def _gallery_list() -> str:
    """The command, with the environment that it needs in another terminal."""
    from pipeline.gallery.keys import FILE_VARIABLE  # noqa: PLC0415  (an extra)

    names = [name for name in ("REDIS_URL", FILE_VARIABLE) if name in os.environ]
    return " ".join([*(f"{name}={redact(os.environ[name])}" for name in names), "omote gallery list"])


def _scale(given: Path | None) -> Scale:
    file = given or (SCALE if SCALE.is_file() else None)
    return load_scale(file) if file else Scale()


def _api() -> ApiSettings:
    """Where the API listens: at its usual port, at another one if that is taken and nobody asked for it."""
    from pipeline.serving.api_settings import ApiSettings  # noqa: PLC0415

    taken = listens(API_PORT) and not os.environ.get("OMOTE_API_PORT")
    return ApiSettings.from_environment(**({"port": free_ports(1)[0]} if taken else {}))


def _remove(streams: Api) -> None:
    with suppress(PipelineError):  # what runs is about to end anyway
        streams.remove(CAMERA)
