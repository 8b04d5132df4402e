"""Where the API listens, who may serve, and what is left when serving did not begin."""

from __future__ import annotations

from contextlib import closing

import pytest
from pydantic import SecretStr

from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.errors import GraphError
from pipeline.graph import Graph, Stage
from pipeline.scale import Scale
from pipeline.servers.process import free_ports, listens
from pipeline.serving.api_settings import ApiSettings
from pipeline.serving.work import Plan

ray = pytest.importorskip("ray")

from ray import serve  # noqa: E402

from pipeline.runners.on_ray import NAMESPACE, Deployments, claimed  # noqa: E402
from pipeline.serving import application  # noqa: E402
from pipeline.serving.application import listen, running  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]
DECODE = Stage(use="operators.decode:Decode")


@pytest.mark.usefixtures("ray_cluster")
def test_serve_listens_where_it_is_asked_to_unless_others_need_it_as_it_is() -> None:
    settings = ApiSettings(port=free_ports(1)[0])
    graph = Graph({"decode": DECODE, "pause": Stage(use="pipeline.testing:Pause", after="decode")})
    refused = pytest.raises(GraphError, match=r"Ray Serve does not listen at all on this cluster, and runs \['some'\]")
    with closing(Deployments(graph, Scale(), "some")):
        with refused:
            listen(settings, "another")
        listen(settings, "some")  # what one that was killed has left behind gives way to the next
    assert listens(settings.port)
    serve.shutdown()


@pytest.mark.usefixtures("ray_cluster")
def test_what_is_served_is_not_served_a_second_time() -> None:
    refused = pytest.raises(GraphError, match="another process serves 'shop' on this Ray cluster")
    with claimed("shop"), claimed("other shop"), refused, claimed("shop"):
        pass
    with claimed("shop"):
        pass


@pytest.mark.usefixtures("ray_cluster")
def test_where_the_api_does_not_start_no_supervisor_is_left(monkeypatch: pytest.MonkeyPatch) -> None:

    class Begun:
        def close(self) -> None:
            """It has no workers."""

    def fail(ingress: object, name: str) -> None:
        del ingress
        options = {"name": "vain-supervisor", "namespace": NAMESPACE, "lifetime": "detached", "num_cpus": 0}
        ray.remote(Begun).options(**options).remote()
        message = f"{name} did not start"
        raise GraphError(message)

    for name in ("create_topics", "listen"):
        monkeypatch.setattr(application, name, lambda *_: None)
    monkeypatch.setattr(application, "_run", fail)
    plan = Plan(Graph({"decode": DECODE}), KafkaSettings(), SecretStr(""))
    refused = pytest.raises(GraphError, match="vain-api did not start")
    with refused, running(plan, Scale(), ApiSettings(), application="vain"):
        pass
    with pytest.raises(ValueError, match="vain-supervisor"):
        ray.get_actor("vain-supervisor", NAMESPACE)
