"""A worker as its actor is, but in a process of its own: ``python lone_worker.py SERVERS PREFIX GRAPH``.

It writes how it does to the standard output, one line of JSON for each change; at SIGUSR1, where its threads are.
"""

from __future__ import annotations

import faulthandler
import json
import signal
import sys
import time
from types import SimpleNamespace
from typing import Any

from pydantic import SecretStr

from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.graph import load
from pipeline.scale import Scale
from pipeline.serving import stream_worker
from pipeline.serving.work import Plan

LOOK_S = 0.05


def main() -> None:
    faulthandler.register(signal.SIGUSR1)
    servers, prefix, file = sys.argv[1:]
    here: Any = SimpleNamespace(get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: "here"))
    stream_worker.ray = here  # there is no cluster, and no stage is called elsewhere
    graph = load(file)
    pure = tuple(name for name in graph.order if not graph.keyed(name))
    plan = Plan(graph, KafkaSettings(servers=servers, prefix=prefix), SecretStr("redis://localhost"))
    worker, told = stream_worker.StreamWorker(0, plan, Scale(here=pure), "alone"), ("", "")
    while True:
        view = worker.look().worker
        if (view.state, view.reason) != told:
            told = view.state, view.reason
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()
        time.sleep(LOOK_S)


if __name__ == "__main__":
    main()
