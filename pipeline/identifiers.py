"""Ids that are the same whenever the same thing is computed again."""

from __future__ import annotations

from hashlib import blake2b


def explanation_id(stream: str, epoch: int, seq: int, track_id: str, kind: str) -> str:
    """Id of the explanation of one decision, 12 hexadecimal digits: whoever knows the decision knows the id."""
    decision = "\0".join((stream, str(epoch), str(seq), track_id, kind))
    return blake2b(decision.encode()).hexdigest()[:12]
