"""The whole system on a Ray cluster: stages as deployments, the supervisor with its workers, and the API."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import ray
from fastapi import FastAPI
from ray import serve
from ray.serve.context import _get_global_client

from pipeline.edges.kafka_topics import create_topics
from pipeline.errors import GraphError
from pipeline.gallery.keys import Keys
from pipeline.retention import naming_subjects
from pipeline.runners.on_ray import APPLICATION, NAMESPACE, Deployments, claimed
from pipeline.scale import Scale
from pipeline.serving.api import api
from pipeline.serving.api_settings import ApiSettings, is_loopback
from pipeline.serving.streams import NotReadyError, StreamSpec, StreamView, WorkerView
from pipeline.serving.supervisor import Supervisor
from pipeline.serving.work import Plan

ANSWER_S, CLOSE_S = 10.0, 30.0

log = logging.getLogger(__name__)


class RemoteStreams:
    """The supervisor as others see it, from any process of the cluster; see ``Streams``."""

    def __init__(self, application: str) -> None:
        self._name = _name(application)

    async def add(self, spec: StreamSpec) -> StreamView:
        """See ``Streams``."""
        return cast("StreamView", await self._ask("add", spec))

    async def remove(self, stream: str) -> None:
        """See ``Streams``."""
        await self._ask("remove", stream)

    async def streams(self) -> list[StreamView]:
        """See ``Streams``."""
        return cast("list[StreamView]", await self._ask("streams"))

    async def stream(self, stream: str) -> StreamView:
        """See ``Streams``."""
        return cast("StreamView", await self._ask("stream", stream))

    async def workers(self) -> list[WorkerView]:
        """See ``Streams``."""
        return cast("list[WorkerView]", await self._ask("workers"))

    async def _ask(self, method: str, *arguments: Any) -> Any:
        try:
            actor = await asyncio.to_thread(ray.get_actor, self._name, NAMESPACE)
            return await asyncio.wait_for(getattr(actor, method).remote(*arguments), ANSWER_S)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except (ray.exceptions.RayError, TimeoutError, ValueError) as error:
            message = "the supervisor does not answer; it begins again by itself, so ask again in a moment"
            raise NotReadyError(message) from error


@serve.ingress()
class Ingress:
    """Serves the API; where there is no supervisor for this plan yet, it starts one."""

    def __init__(self, plan: Plan, scale: Scale, settings: ApiSettings, application: str) -> None:
        supervisor(plan, scale, application)
        self._plan, self._streams, self._settings = plan, RemoteStreams(application), settings

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The app that this replica serves; where there are keys of a gallery, its API is below ``/api``."""
        app = api(self._streams, self._settings.token)
        if Keys.are_given() and (gallery := _gallery(self._plan, self._settings.host)):
            app.mount("", gallery)
        return app


@dataclass(frozen=True)
class System:
    """What runs.

    Attributes:
        url: Address of the API.
        deployments: The stages without state.
        application: Its name.
    """

    url: str
    deployments: Deployments
    application: str

    def streams(self) -> list[StreamView]:
        """How every stream does.

        Raises:
            NotReadyError: The supervisor does not answer now.
        """
        return asyncio.run(RemoteStreams(self.application).streams())

    def workers(self) -> list[WorkerView]:
        """How every worker does.

        Raises:
            NotReadyError: The supervisor does not answer now.
        """
        return asyncio.run(RemoteStreams(self.application).workers())


def supervisor(plan: Plan, scale: Scale, application: str = APPLICATION) -> Any:
    """The actor that supervises ``application``: the one that is there if it does the same, else a new one."""
    actor = _named(plan, scale, application)
    if not ray.get(actor.does.remote(plan, scale), timeout=ANSWER_S):
        end(actor)
        actor = _named(plan, scale, application)
    return actor


def end(actor: Any) -> None:
    """End a supervisor and its workers, once what is on its way is delivered."""
    with suppress(ray.exceptions.RayError, TimeoutError):
        ray.get(actor.close.remote(), timeout=CLOSE_S)
    ray.kill(actor, no_restart=True)


@contextmanager
def running(
    plan: Plan, scale: Scale, settings: ApiSettings, *, partitions: int = 4, application: str = APPLICATION
) -> Iterator[System]:
    """Everything, on the cluster that is connected; it is taken down at the end of the block.

    Args:
        plan: What to run, and where from and to.
        scale: How much of the cluster each part gets.
        settings: Where the API listens, and whom it lets in.
        partitions: Of the topics, where they are made.
        application: Name of the application in Serve, and what the names of actors begin with.

    Raises:
        GraphError: The cluster cannot hold the graph, the API cannot listen, or somebody else serves there.
        SourceError: Kafka does not answer, or does not let us.
    """
    create_topics(plan.kafka, partitions)
    with claimed(application):
        listen(settings, application)
        with closing(Deployments(plan.graph, scale, application)) as deployments:
            try:
                ingress: Any = cast("Any", serve.deployment)(Ingress, name="api", ray_actor_options={"num_cpus": 0})
                _run(ingress.bind(plan, scale, settings, application), f"{application}-api")
                yield System(f"http://{settings.host}:{settings.port}", deployments, application)
            finally:
                with suppress(ValueError):  # the API did not get as far as to start one
                    end(ray.get_actor(_name(application), NAMESPACE))
                serve.delete(f"{application}-api")


def listen(settings: ApiSettings, application: str = APPLICATION) -> None:
    """Start Serve so that it listens where the settings say: one that has begun elsewhere would not follow them.

    Raises:
        GraphError: Others than ``application`` have it run, and need it as it is.
    """
    wanted, options = (settings.host, settings.port), {"host": settings.host, "port": settings.port}
    start = partial(serve.start, "HeadOnly", options, logging_config={"log_level": "WARNING"})
    start()
    found = _address()
    if found == wanted:
        return
    if others := sorted(serve.status().applications.keys() - {application, f"{application}-api"}):
        where = f"listens at {found[0]}:{found[1]}" if found else "does not listen at all"
        message = (
            f"the API cannot listen at {settings.host}:{settings.port}: Ray Serve {where} on this cluster, and runs "
            f"{others} there; end these first, or let OMOTE_API_HOST and OMOTE_API_PORT name where it listens"
        )
        raise GraphError(message)
    serve.shutdown()  # type: ignore[no-untyped-call]
    start()


def _address() -> tuple[str, int] | None:
    """Host and port at which Serve listens; None where it does not."""
    client: Any = _get_global_client()
    if client.get_serve_details()["proxy_location"] == "Disabled":
        return None
    return client.http_config.host, client.http_config.port


def _gallery(plan: Plan, host: str) -> FastAPI | None:
    """The API of the galleries in the Redis of ``plan``, whose pictures go through its graph.

    None where faces and API keys would travel in the clear: Ray speaks no TLS.
    """
    from pipeline.edges.galleries import Galleries  # noqa: PLC0415  (an extra)
    from pipeline.edges.redis_api_keys import ApiKeys  # noqa: PLC0415
    from pipeline.gallery.faces import Faces  # noqa: PLC0415
    from pipeline.serving.gallery.access import Access  # noqa: PLC0415
    from pipeline.serving.gallery.app import gallery_api  # noqa: PLC0415
    from pipeline.serving.gallery.settings import VARIABLES, GallerySettings  # noqa: PLC0415

    settings = GallerySettings.from_environment(host="127.0.0.1", certificate=None, private_key=None)
    if not (settings.behind_tls or is_loopback(host)):
        log.warning(
            "the gallery's API is not served at %s, for faces and API keys would travel in the clear: set %s=1 where a "
            "proxy speaks TLS, or run `omote gallery serve` with a certificate", host, VARIABLES["behind_tls"],
        )  # fmt: skip
        return None
    topics = naming_subjects(plan.kafka.prefix)
    galleries = Galleries(plan.redis, Keys.from_environment(), Faces(lambda: plan.graph), topics)
    galleries.sweep()
    return gallery_api(galleries.of, Access(ApiKeys(plan.redis)), settings)


def _run(ingress: Any, name: str) -> None:
    try:
        serve.run(ingress, name=name, route_prefix="/")
    except RuntimeError as error:
        message = f"the API did not start: {str(error).strip().splitlines()[-1]}"
        raise GraphError(message) from error


def _named(plan: Plan, scale: Scale, application: str) -> Any:
    options: dict[str, Any] = {
        "name": _name(application),
        "namespace": NAMESPACE,
        "lifetime": "detached",  # it outlives the process that asked for it
        "get_if_exists": True,
        "max_restarts": -1,
        "max_task_retries": 0,
        "max_concurrency": 16,
        "num_cpus": 0,
    }
    actor: Any = ray.remote(Supervisor).options(**options)
    return actor.remote(plan, scale, application, NAMESPACE)


def _name(application: str) -> str:
    return f"{application}-supervisor"
