"""What omote's topics keep, and for how long."""

from __future__ import annotations

from contextlib import closing
from typing import Any
from uuid import uuid4

import pytest
from kafka.admin import ConfigResource, ConfigResourceType

from pipeline.edges.kafka_settings import KafkaSettings
from pipeline.edges.kafka_topics import create_topics, read_to_end
from pipeline.errors import SourceError
from pipeline.retention import SLACK_MS, naming_subjects

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
        kept_ms, file_ms = (int(described[topic][name]["value"]) for name in ("retention.ms", "segment.ms"))
        assert kept_ms + file_ms + SLACK_MS <= seconds * 1000


def test_video_with_more_partitions_than_there_are_for_states_is_refused_in_one_sentence(
    settings: KafkaSettings,
) -> None:
    assert create_topics(settings, 5) == []
    with closing(settings.admin()) as admin:
        admin.create_partitions({settings.topic("video"): 3})
    with pytest.raises(SourceError, match=r"state\.v1 has 2 partitions, fewer than .*video\.v1"):
        create_topics(settings, 5)
    with pytest.raises(SourceError, match=r"state\.v1 has no partition 2; it has 2, counted from 0"):
        list(read_to_end(settings, settings.topic("state"), [2]))
