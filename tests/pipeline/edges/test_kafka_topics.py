"""What omote's topics keep, and for how long."""

from __future__ import annotations

from contextlib import closing
from typing import Any
from uuid import uuid4

import pytest
from kafka.admin import ConfigResource, ConfigResourceType

from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import create_topics
from pipeline.retention import naming_subjects

pytestmark = pytest.mark.broker


def test_whatever_names_a_subject_is_deleted_within_the_time_that_receipts_tell(kafka: str) -> None:
    settings = KafkaSettings(servers=kafka, prefix=f"t{uuid4().hex[:8]}.")
    create_topics(settings, 1)
    promised = naming_subjects(settings.prefix)
    assert {settings.topic(name) for name in ("annotations", "tracks", "matches", "explanations", "state")} <= set(
        promised
    )
    asked = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in promised]
    with closing(settings.admin()) as admin:
        described: dict[str, Any] = admin.describe_configs(asked, config_filter="all")["topic"]
    for topic, seconds in promised.items():
        assert "delete" in described[topic]["cleanup.policy"]["value"].split(",")
        assert int(described[topic]["retention.ms"]["value"]) == seconds * 1000
