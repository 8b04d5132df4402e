"""The same walk on a Ray cluster: stages with state stay with the stream, the others are Ray Serve deployments."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from pipeline.edges import Source
from pipeline.errors import GraphError, PipelineError, UnavailableError
from pipeline.graph import Graph
from pipeline.runners.local import CallStage, OnJourney, run_local
from pipeline.runners.worker import Worker
from pipeline.scale import Scale
from pipeline.walk import Journey

APPLICATION = "omote"
TRANSIENT = (ray.exceptions.RayError, TimeoutError, ConnectionError)  # a replica died, hung or is not there yet


class Stages:
    """What runs in a replica: the operators of one group of stages, without state."""

    def __init__(self, graph: Graph, names: tuple[str, ...]) -> None:
        self._workers = {name: Worker(name, graph.build_stage(name)) for name in names}

    def __call__(self, name: str, journey: Journey, batch: list[Any]) -> list[Any]:
        """What the stage ``name`` gives for ``batch``."""
        return self._workers[name](journey, batch)

    def pid(self) -> int:
        """The process of the replica, for whoever wants to kill it."""
        return os.getpid()


class Door:
    """Holds the deployments of a graph together, so that they come and go as one application."""

    def __init__(self, *handles: Any) -> None:
        self._handles = handles


@contextmanager
def cluster(address: str = "", *, cpus: int | None = None) -> Iterator[None]:
    """A connection to the cluster at ``address``; with none, a cluster of our own that ends with the block.

    Raises:
        GraphError: There is no cluster at the address.
    """
    if ray.is_initialized():
        yield
        return
    given: dict[str, Any] = {"address": address} if address else {"num_cpus": cpus, "include_dashboard": False}
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **given)
    except (ConnectionError, RuntimeError, ValueError) as error:
        message = f"no Ray cluster answers at {address!r}: {str(error).splitlines()[0]}"
        raise GraphError(message) from error
    try:
        yield
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()


class Replicas:
    """How to call the stages of a graph that is deployed, from any process of the cluster."""

    def __init__(self, graph: Graph, scale: Scale, application: str = APPLICATION) -> None:
        """Nothing is asked of the cluster before the first call.

        Raises:
            GraphError: The scale does not fit the graph.
        """
        self._scale = scale
        self._groups = {stage: group for group, stages in scale.groups(graph).items() for stage in stages}
        self._application = application
        self._handles: dict[str, DeploymentHandle[Any]] = {}

    @property
    def stages(self) -> dict[str, CallStage]:
        """How to call each stage that is deployed, by name."""
        return {name: partial(self.call, name) for name in self._groups}

    def call(self, name: str, journey: Journey, batch: list[Any]) -> list[Any]:
        """Call a stage, again where its replica died: the stage has no state, so a second call gives the same.

        Raises:
            StageError: The operator failed.
            UnavailableError: No replica answered in any of the attempts.
        """
        reference, alone = ray.put(batch), _alone(journey)
        cause: Exception | None = None
        for _ in range(self._scale.attempts):
            try:
                response = self.handle(name).remote(name, alone, reference)
                return self._result(response)
            except TRANSIENT as error:
                if (own := _own(error)) is not None:
                    raise own from error
                cause = error
        raise UnavailableError(name, self._scale.attempts, type(cause).__name__) from cause

    def handle(self, stage: str) -> DeploymentHandle[Any]:
        """The handle of the deployment that holds ``stage``."""
        group = self._groups[stage]
        if group not in self._handles:
            self._handles[group] = serve.get_deployment_handle(group, self._application)
        return self._handles[group]

    def _result(self, response: Any) -> list[Any]:
        try:
            given: list[Any] = response.result(timeout_s=self._scale.call_timeout_s)
        except TimeoutError:
            response.cancel()
            raise
        return given


class Deployments:
    """The stages of one graph as Serve deployments."""

    def __init__(self, graph: Graph, scale: Scale, application: str = APPLICATION) -> None:
        """Deploy, and wait until every deployment answers.

        Raises:
            GraphError: The cluster can never hold the graph, or a deployment was not ready in time.
        """
        self._graph, self._scale, self._application = graph, scale, application
        self._groups = scale.groups(graph)
        self.replicas = Replicas(graph, scale, application)
        _must_fit(self._groups, scale)
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
        door = _deployed(Door, name="door", ray_actor_options={"num_cpus": 0}).bind(*self.bound())
        serve.run(door, name=application, route_prefix=None)
        self._ready()

    def bound(self) -> list[Any]:
        """The deployments, for an application that holds them together."""
        return [self._bound(name, names) for name, names in self._groups.items()]

    def running(self) -> dict[str, int]:
        """Running replicas by group."""
        deployed = serve.status().applications[self._application].deployments
        return {name: _running(deployed[name].replica_states) for name in self._groups}

    def close(self) -> None:
        """Take the deployments down."""
        serve.delete(self._application)

    def _bound(self, name: str, names: tuple[str, ...]) -> Any:
        wanted = self._scale.of(names)
        deployment = _deployed(
            Stages,
            name=name,
            max_ongoing_requests=max(2, round(wanted.target_ongoing_requests * 2)),
            ray_actor_options={"num_cpus": wanted.num_cpus, "num_gpus": wanted.num_gpus},
            autoscaling_config={
                "min_replicas": wanted.min,
                "max_replicas": wanted.max,
                "target_ongoing_requests": wanted.target_ongoing_requests,
                "upscale_delay_s": self._scale.upscale_delay_s,
                "downscale_delay_s": self._scale.downscale_delay_s,
                "metrics_interval_s": 0.5,
                "look_back_period_s": 1.0,
            },
            health_check_period_s=2,
            health_check_timeout_s=5,
        )
        return deployment.bind(self._graph, names)

    def _ready(self) -> None:
        for group, names in self._groups.items():
            try:
                self.replicas.handle(names[0]).pid.remote().result(timeout_s=self._scale.patience_s)
            except (TimeoutError, ray.exceptions.RayError, RuntimeError) as error:
                self.close()
                patience = f"{self._scale.patience_s:.0f} s"
                message = f"the deployment of {group} was not ready within {patience}: {_reason(error)}"
                raise GraphError(message) from error


def run_on_ray(
    graph: Graph,
    scale: Scale,
    source: Source | None = None,
    *,
    window: int = 4,
    on_journey: OnJourney = lambda journey, walk: None,
) -> None:
    """Run one source until it ends, its stages without state on the cluster; see ``run_local``.

    Raises:
        GraphError: The cluster cannot hold the graph.
        PipelineError: What ended the first journey that failed.
    """
    deployments = Deployments(graph, scale)
    try:
        # A call that waits for a replica holds a thread, so there are as many as calls under way.
        elsewhere = deployments.replicas.stages
        run_local(graph, source, window=window, threads=window + 2, on_journey=on_journey, elsewhere=elsewhere)
    finally:
        deployments.close()


def _deployed(kind: type, **options: Any) -> Any:
    """``kind`` as a Serve deployment; Ray types the call of its decorator as one without options."""
    return cast("Any", serve.deployment)(kind, **options)


def _running(replicas: Mapping[Any, int]) -> int:
    return sum(count for state, count in replicas.items() if state.value == "RUNNING")


def _alone(journey: Journey) -> Journey:
    """The journey as a stage without state needs it: whose it is, and nothing that is heavy."""
    chunk = journey.chunk
    return Journey(type(chunk)(chunk.stream, chunk.epoch, chunk.seq, chunk.pts_ns, chunk.codec, ()), journey.started)


def _own(error: Exception) -> PipelineError | None:
    """Our own error inside Ray's, if it was the operator that failed and not its replica."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, PipelineError) else None


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__


def _must_fit(groups: dict[str, tuple[str, ...]], scale: Scale) -> None:
    """Refuse what the cluster as it is can never hold."""
    have = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for resource, key in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
        need = sum(scale.of(names).min * getattr(scale.of(names), key) for names in groups.values())
        if need > have.get(resource, 0):
            message = (
                f"the graph needs {need:g} {resource} for its least number of replicas, and the cluster has "
                f"{have.get(resource, 0):g}; lower `min` or `{key}` in the scale, or add nodes"
            )
            raise GraphError(message)
