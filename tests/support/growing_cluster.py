"""A Ray cluster whose autoscaler really adds and removes nodes: processes on this machine that claim to have a GPU.

``python growing_cluster.py ADDRESS`` uses such a cluster and prints as JSON what it saw.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

HEAD = "f" * 51 + "00000"
HEAD_KIND = "ray.head.default"  # the provider knows the head by this name only
GPU_NODES = 2


@contextmanager
def growing_cluster() -> Iterator[str]:
    """The address of a head with two CPUs, to which up to two nodes with a GPU each can be added."""
    with socket.socket() as probe, tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        config = Path(folder) / "cluster.json"
        config.write_text(json.dumps(configuration(port)))
        head = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}"),
                *("--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}"),
                *("--object-store-memory=200000000", f"--autoscaling-config={config}"),
            ],
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "AUTOSCALER_UPDATE_INTERVAL_S": "1",
                "RAY_FAKE_CLUSTER": "1",
                "RAY_enable_autoscaler_v2": "1",
                "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
                "RAY_CLOUD_INSTANCE_ID": HEAD,
                "RAY_NODE_TYPE_NAME": HEAD_KIND,
                "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until(lambda: answers(port), 60)
            yield f"127.0.0.1:{port}"
        finally:
            end(head, folder)


def end(head: subprocess.Popen[bytes], folder: str) -> None:
    """End a head and its nodes, and never with `ray stop`, which ends every Ray of the machine."""
    head.terminate()
    head.wait(30)
    for process in psutil.process_iter(["cmdline"]):
        if any(folder in argument for argument in process.info["cmdline"] or ()):
            process.kill()


def configuration(port: int) -> dict[str, Any]:
    """What the autoscaler may do, with Ray's provider of nodes that are processes."""
    kinds = {
        HEAD_KIND: {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
        "gpu": {
            "resources": {"CPU": 1, "GPU": 1, "object_store_memory": 100_000_000},
            "node_config": {},
            "min_workers": 0,
            "max_workers": GPU_NODES,
        },
    }
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": f"127.0.0.1:{port}",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
        "head_node_id": HEAD,
    }
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "growing",
        "max_workers": GPU_NODES,
        "provider": provider,
        "available_node_types": kinds,
        "head_node_type": HEAD_KIND,
        "idle_timeout_minutes": 0.05,
        "upscaling_speed": 1.0,
        **{f"{each}_commands": [] for each in commands},
        **{"auth": {}, "docker": {}, "file_mounts": {}, "cluster_synced_files": [], "rsync_exclude": []},
        **{"rsync_filter": [], "file_mounts_sync_continuously": False},
    }


def answers(port: int) -> bool:
    """Whether the head listens."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(holds: Callable[[], bool], seconds: float) -> float:
    """Wait until ``holds``; the seconds it took."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            message = f"it did not come about in {seconds:g} s"
            raise TimeoutError(message)
        time.sleep(0.1)
    return time.monotonic() - began


def use(address: str) -> dict[str, Any]:
    """Call a stage that wants a GPU, wait until the node that came for it has gone, and ask for what can never be."""
    import ray

    from pipeline.errors import GraphError
    from pipeline.graph import Graph, Stage
    from pipeline.runners.on_ray import Deployments, cluster
    from pipeline.scale import Scale, StageScale
    from pipeline.testing import make_frame, raw_chunks
    from pipeline.walk import Journey

    def gpus() -> float:
        return float(ray.cluster_resources().get("GPU", 0))

    def refused(**wanted: Any) -> tuple[str, float]:
        began = time.monotonic()
        try:
            Deployments(graph, Scale(stages={"pause": StageScale(**wanted)}), "refused").close()
        except GraphError as error:
            return str(error), time.monotonic() - began
        return "", time.monotonic() - began

    pause = Stage(use="pipeline.testing:Pause", after="decode")
    graph = Graph({"decode": Stage(use="operators.decode:Decode"), "pause": pause})
    frame = make_frame()
    journey = Journey(raw_chunks([frame.image])[0], 0.0)
    scale = Scale(stages={"pause": StageScale(min=0, max=1, num_gpus=1)}, downscale_delay_s=1, call_timeout_s=60)
    seen: dict[str, Any] = {}
    with cluster(address):
        seen["gpus_before"] = gpus()
        deployments, began = Deployments(graph, scale), time.monotonic()
        seen["answer"] = len(deployments.replicas.call("pause", journey, [frame]))
        seen["answer_s"] = time.monotonic() - began
        seen["gpus_during"] = gpus()
        seen["gone_s"] = until(lambda: gpus() == 0, 90)
        deployments.close()
        seen["too_large"] = refused(num_gpus=2)
        seen["too_many"] = refused(min=GPU_NODES + 1, max=GPU_NODES + 1, num_gpus=1)
    return seen


if __name__ == "__main__":
    print(json.dumps(use(sys.argv[1])))  # noqa: T201
