"""How long messages stay in omote's topics, and which of them may name a subject of the gallery."""

from __future__ import annotations

MINUTE_MS, DAY_MS = 60_000, 86_400_000
RETENTION_MS = {
    "video": 5 * MINUTE_MS,
    "annotations": 7 * DAY_MS,
    "tracks": 30 * DAY_MS,
    "matches": DAY_MS,
    "annotated-video": 5 * MINUTE_MS,
    "explanations": 7 * DAY_MS,
    "audit": 365 * DAY_MS,
    "dlq": 7 * DAY_MS,
    "state": DAY_MS,  # of a stream that came no more; what is written anew is kept anew
}
# The audit log has pseudonyms; a state says whom the tracks of its stream were taken for.
NAMING = ("annotations", "tracks", "matches", "annotated-video", "explanations", "state")
# A message may be dated half an hour ahead (`to_kafka.time_ms`); Kafka looks what is over every five minutes, and
# deletes its files a minute later.
SLACK_MS = 40 * MINUTE_MS


def segment_ms(name: str) -> int:
    """For how long a topic writes to one file: Kafka deletes whole files, once the newest message is over."""
    return max(MINUTE_MS, RETENTION_MS[name] // 24)


def naming_subjects(prefix: str) -> dict[str, float]:
    """For how many seconds a message that names a subject may lie in Kafka, by topic."""
    return {f"{prefix}{name}.v1": (RETENTION_MS[name] + segment_ms(name) + SLACK_MS) / 1e3 for name in NAMING}
