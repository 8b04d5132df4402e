"""Analyse partition 0 of the video topic until killed: ``python partition_worker.py SERVERS PREFIX GRAPH``."""

from __future__ import annotations

import os
import sys

from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.graph import load
from pipeline.serving.partition import run_partition

servers, prefix, graph = sys.argv[1:]
os.environ.update(KAFKA_BOOTSTRAP_SERVERS=servers, OMOTE_KAFKA_PREFIX=prefix)
run_partition(load(graph), KafkaSettings(servers=servers, prefix=prefix), 0)
