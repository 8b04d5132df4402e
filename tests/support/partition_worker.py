"""Analyse partition 0 of the video topic until killed: ``python partition_worker.py SERVERS PREFIX GRAPH``."""

from __future__ import annotations

import sys

from pydantic import SecretStr

from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.graph import load
from pipeline.serving.work import PartitionWork, Plan

servers, prefix, graph = sys.argv[1:]
PartitionWork(Plan(load(graph), KafkaSettings(servers=servers, prefix=prefix), SecretStr("")), 0).run()
