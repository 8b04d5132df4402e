"""The same walk on a Ray cluster: stages with state stay with the stream, the others are Ray Serve deployments."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Any, cast
from uuid import uuid4

import ray
from ray import serve
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply  # type: ignore[attr-defined]  # generated
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus
from ray.util import list_named_actors

from pipeline.edges import Source
from pipeline.errors import GraphError, PipelineError, UnavailableError
from pipeline.graph import Graph
from pipeline.runners.local import CallStage, OnJourney, run_local
from pipeline.runners.worker import Worker
from pipeline.scale import Scale, StageScale
from pipeline.walk import Journey

APPLICATION, RUN = "omote", "omote-run-"  # in Serve: what serves, and what one run uses
NAMESPACE = "omote"  # of the actors that have names
RESOURCES = {"CPU": "num_cpus", "GPU": "num_gpus"}  # how Ray calls them, and how the scale does
ANSWER_S = 5.0  # a cluster that is there answers within this time
LOOK_S = 0.05  # between two looks at deployments that come or go
SURE_S = 3.0  # what an autoscaler cannot have for so long is not just being freed by somebody else
TRANSIENT = (ray.exceptions.RayError, TimeoutError, ConnectionError)  # a replica died, hung or is not there yet


class Stages:
    """What runs in a replica: the operators of one group of stages, without state.

    Serve gives each call that it lets be under way a thread; operators let go of the interpreter where they compute.
    """

    def __init__(self, graph: Graph, names: tuple[str, ...], *others: Any) -> None:
        """Build the operators; ``others`` are the deployments that come and go with this one."""
        del others
        with ExitStack() as stack:
            self._workers = {n: stack.enter_context(closing(Worker(n, graph.build_stage(n)))) for n in names}
            self._built = stack.pop_all()

    def __call__(self, name: str, journey: Journey, batch: list[Any]) -> list[Any]:
        """What the stage ``name`` gives for ``batch``."""
        return self._workers[name](journey, batch)

    def pid(self) -> int:
        """The process of the replica, for whoever wants to kill it."""
        return os.getpid()

    def __del__(self) -> None:
        """Serve calls this before a replica goes."""
        if built := getattr(self, "_built", None):
            built.close()


@contextmanager
def cluster(address: str = "", *, cpus: int | None = None) -> Iterator[None]:
    """A connection to the cluster at ``address``; with none, a cluster of our own that ends with the block.

    A process that is connected stays connected.

    Raises:
        GraphError: There is no cluster at the address, or none can be started here.
    """
    if ray.is_initialized():
        yield
        return
    given: dict[str, Any] = {"address": address} if address else {"num_cpus": cpus, "include_dashboard": False}
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        _knock(address)
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **given)
    except Exception as error:  # Ray raises nothing better where its own processes are slow to start
        what = f"no Ray cluster answers at {address!r}" if address else "Ray does not start on this machine"
        message = f"{what}: {str(error).splitlines()[0]}"
        raise GraphError(message) from error
    try:
        yield
    finally:
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


class Autoscaler:
    """What the autoscaler of the cluster says, where there is one."""

    def __init__(self) -> None:
        self._gcs = GcsClient(ray.get_runtime_context().gcs_address)

    def cannot_have(self) -> list[dict[str, float]] | None:
        """Resources that were asked for and that no node, were it there or added, can give; None without autoscaler.

        It takes some five seconds from the request to this answer.
        """
        said = GetClusterStatusReply()
        said.ParseFromString(self._gcs.get_cluster_status(timeout_s=ANSWER_S))
        if not said.HasField("autoscaling_state"):
            return None
        return [dict(each.resources_bundle) for each in said.autoscaling_state.infeasible_resource_requests]


class Deployments:
    """The stages of one graph as Serve deployments."""

    def __init__(self, graph: Graph, scale: Scale, application: str = APPLICATION) -> None:
        """Deploy, and wait until every deployment is ready.

        Raises:
            GraphError: The cluster can never hold the graph, or a deployment cannot start, or has not in time.
        """
        self._graph, self._scale, self._application = graph, scale, application
        self._groups = scale.groups(graph)
        self._autoscaler = Autoscaler()
        self.replicas = Replicas(graph, scale, application)
        if self._autoscaler.cannot_have() is None:
            _must_fit(self._groups, scale)
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
        if self._groups:
            target = serve.RunTarget(self._bound(), name=application, route_prefix=None)
            serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        try:
            self._wait()
        except GraphError:
            serve.delete(application, _blocking=False)  # who asked in vain need not wait for it
            raise

    def running(self) -> dict[str, int]:
        """Running replicas by group."""
        deployed = serve.status().applications[self._application].deployments
        return {name: _running(deployed[name].replica_states) for name in self._groups}

    def close(self) -> None:
        """Take the deployments down."""
        serve.delete(self._application, _blocking=False)
        until = time.monotonic() + self._scale.patience_s
        while self._application in serve.status().applications and time.monotonic() < until:
            time.sleep(LOOK_S)

    def _bound(self) -> Any:
        """The application: a tree, whose root stands for all, so that they come and go as one."""
        deployments = [_deployment(name, self._scale, self._scale.of(names)) for name, names in self._groups.items()]
        root, *others = zip(deployments, self._groups.values(), strict=True)
        bound = [deployment.bind(self._graph, names) for deployment, names in others]
        return root[0].bind(self._graph, root[1], *bound)

    def _wait(self) -> None:
        until, refused_at = time.monotonic() + self._scale.patience_s, math.inf
        while self._groups and not self._started():
            now, missing = time.monotonic(), self._missing()
            refused_at = min(refused_at, now) if missing else math.inf
            if missing and now > refused_at + SURE_S:
                raise GraphError(missing)
            if now > until:
                late = [
                    name for name, names in self._groups.items() if self.running()[name] < self._scale.of(names).min
                ]
                message = f"{late} had no replica within {self._scale.patience_s:g} s (`patience_s` of the scale)"
                raise GraphError(message)
            time.sleep(LOOK_S)

    def _started(self) -> bool:
        """Whether every deployment has its least number of replicas.

        Raises:
            GraphError: One of them cannot start.
        """
        found = serve.status().applications[self._application]
        failed = [name for name, each in found.deployments.items() if each.status.value == "DEPLOY_FAILED"]
        if failed:
            reason = found.deployments[failed[0]].message.strip().splitlines()[-1]
            message = f"the deployment of {failed[0]} cannot start: {reason}"
            raise GraphError(message)
        return found.status == ApplicationStatus.RUNNING

    def _missing(self) -> str:
        """Why the deployments can never start, as far as the autoscaler knows by now."""
        for bundle in self._autoscaler.cannot_have() or ():
            for name, names in self._groups.items():
                wanted = self._scale.of(names)
                if all(math.isclose(bundle.get(key, 0), getattr(wanted, ours)) for key, ours in RESOURCES.items()):
                    asked = " and ".join(f"{amount:g} {key}" for key, amount in sorted(bundle.items()))
                    return (
                        f"the graph needs {asked} for each replica of {name}, and the cluster can add no node that "
                        "gives it; lower `min` or `num_gpus` in the scale, or let the cluster have more nodes or larger"
                    )
        return ""


class Claim:
    """Is there as long as the process that serves, however that ends."""


@contextmanager
def claimed(application: str = APPLICATION) -> Iterator[None]:
    """Nobody else serves ``application`` on this cluster before the end of the block: either would end the other.

    Raises:
        GraphError: Somebody serves it.
    """
    options: dict[str, Any] = {"name": _claim(application), "namespace": NAMESPACE, "num_cpus": 0}
    try:
        claim: Any = ray.remote(Claim).options(**options).remote()
    except ValueError as error:
        message = f"another process serves {application!r} on this Ray cluster; end it first, or use another cluster"
        raise GraphError(message) from error
    try:
        yield
    finally:
        ray.kill(claim)


def _claim(application: str) -> str:
    return f"{application}-claim"


def _clear_away() -> None:
    """End what runs that were killed have left on the cluster: nobody claims it any more."""
    there = [name for name in serve.status().applications if name.startswith(RUN)]
    claims = {found["name"] for found in list_named_actors(all_namespaces=True)}  # each was there before its run
    for name in there:
        if _claim(name) not in claims:
            serve.delete(name)


def run_on_ray(
    graph: Graph,
    scale: Scale,
    source: Source | None = None,
    *,
    window: int = 4,
    on_journey: OnJourney = lambda journey, walk: None,
) -> None:
    """Run one source until it ends, its stages without state on the cluster; see ``run_local``.

    They are its own: others that run on the cluster keep theirs.

    Raises:
        GraphError: The cluster cannot hold the graph.
        PipelineError: What ended the first journey that failed.
    """
    name = f"{RUN}{uuid4().hex}"
    with claimed(name), ExitStack() as stack:
        with ExitStack() as unless_run:  # the local runner closes it
            if source is not None:
                unless_run.callback(source.close)
            _clear_away()
            deployments = stack.enter_context(closing(Deployments(graph, scale, name)))
            unless_run.pop_all()
        # A call that waits for a replica holds a thread, so there are as many as calls under way.
        elsewhere = deployments.replicas.stages
        run_local(graph, source, window=window, threads=window + 2, on_journey=on_journey, elsewhere=elsewhere)


def _knock(address: str) -> None:
    """Ray itself waits for minutes for a cluster that is not there, and then ends the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:
        socket.create_connection((host, int(port)), ANSWER_S).close()


def _deployment(name: str, scale: Scale, wanted: StageScale) -> Any:
    declare = cast("Any", serve.deployment)  # Ray types its decorator as one without options
    return declare(
        Stages,
        name=name,
        max_ongoing_requests=max(2, round(wanted.target_ongoing_requests * 2)),
        ray_actor_options={ours: getattr(wanted, ours) for ours in RESOURCES.values()},
        health_check_period_s=1,
        health_check_timeout_s=3,  # the third one in a row ends a replica
        graceful_shutdown_wait_loop_s=0.2,
        graceful_shutdown_timeout_s=5,
        max_constructor_retry_count=2,
        **_number(scale, wanted),
    )


def _number(scale: Scale, wanted: StageScale) -> dict[str, Any]:
    """How many replicas; where there is no choice, nothing needs to be measured."""
    if wanted.min == wanted.max:
        return {"num_replicas": wanted.min}
    autoscaling = {
        "min_replicas": wanted.min,
        "max_replicas": wanted.max,
        "target_ongoing_requests": wanted.target_ongoing_requests,
        "upscale_delay_s": scale.upscale_delay_s,
        "downscale_delay_s": scale.downscale_delay_s,
        "metrics_interval_s": 0.5,
        "look_back_period_s": 1.0,
    }
    return {"autoscaling_config": autoscaling}


def _running(replicas: Mapping[Any, int]) -> int:
    return int(replicas.get("RUNNING", 0))


def _alone(journey: Journey) -> Journey:
    """The journey as a stage without state needs it: whose it is, and nothing that is heavy."""
    chunk = journey.chunk
    return Journey(type(chunk)(chunk.stream, chunk.epoch, chunk.seq, chunk.pts_ns, chunk.codec, ()), journey.started)


def _own(error: Exception) -> PipelineError | None:
    """Our own error inside Ray's, if it was the operator that failed and not its replica."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, PipelineError) else None


def _must_fit(groups: dict[str, tuple[str, ...]], scale: Scale) -> None:
    """Refuse what the cluster, as it is, can never hold: one replica of a group that has none at first included."""
    have = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for resource, key in RESOURCES.items():
        need = sum(max(wanted.min, 1) * getattr(wanted, key) for wanted in map(scale.of, groups.values()))
        if need > have.get(resource, 0):
            message = (
                f"the graph needs {need:g} {resource} for its least number of replicas, and the cluster has "
                f"{have.get(resource, 0):g}; lower `min` or `{key}` in the scale, or add nodes"
            )
            raise GraphError(message)
