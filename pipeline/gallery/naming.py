"""Faces of streams that nobody knows: who of them is one person, who that is, and whom nobody cares about."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import numpy as np

from pipeline.gallery.clusters import Cluster, clusters
from pipeline.gallery.errors import UnknownError
from pipeline.gallery.keeping import Keeping
from pipeline.gallery.protocol import Template
from pipeline.gallery.subjects import Caller, NamespacePolicy, UnknownTrack

MOST_OF_A_CLUSTER = 10  # templates that a named cluster gives: its best faces


class Naming(Keeping):
    """Names unknown faces. Every method checks the caller first and is logged."""

    def clusters(self, caller: Caller) -> list[Cluster]:
        """Unknown faces that look like one person, the largest cluster first."""
        with self.desk.asked(caller, "unknowns") as said:
            found = self._clusters(said.policy)
            said.count = len(found)
        return found

    def assign(self, caller: Caller, cluster_id: str, subject_id: str) -> list[Template]:
        """A cluster is this subject, who is added where there is none; its best faces become templates.

        Raises:
            UnknownError: There is no such cluster.
            ForbiddenError: The subject has not consented.
        """
        with self.desk.asked(caller, "assign", subject_id) as said:
            (subject, new), now = self._subject(subject_id, said.policy), datetime.now(UTC)
            tracks = self._members(cluster_id, said.policy)
            best = sorted(tracks, key=lambda track: -track.quality)[:MOST_OF_A_CLUSTER]
            templates = [
                Template(
                    subject_id, track.vector, track.quality, track.masked,
                    self.desk.tracks.photo(track.id) if said.policy.keep_photos else None,
                    id=str(uuid4()), model=track.model, created=now,
                )
                for track in best
            ]  # fmt: skip
            said.count, said.version = len(templates), self.desk.store.enrol(subject, templates, new=new)
            self.desk.tracks.drop_unknown(track.id for track in tracks)
        return templates

    def ignore(self, caller: Caller, cluster_id: str) -> int:
        """Nobody cares who a cluster is, nor who else looks like it; how many tracks there were.

        Raises:
            UnknownError: There is no such cluster.
        """
        with self.desk.asked(caller, "ignore") as said:
            tracks = self._members(cluster_id, said.policy)
            self.desk.tracks.ignore(track.id for track in tracks)
            said.count = len(tracks)
            return said.count

    def _clusters(self, policy: NamespacePolicy) -> list[Cluster]:
        found: list[Cluster] = clusters(self._unknowns(policy), threshold=policy.limits.threshold)
        return found

    def _unknowns(self, policy: NamespacePolicy) -> list[UnknownTrack]:
        """Those that nobody has named, and that do not look like somebody who is to be ignored."""
        found = [track for track in self.desk.tracks.unknowns() if track.model == self.desk.faces.model]
        ignored = np.array([track.vector for track in found if track.ignored], np.float32)
        rest = [track for track in found if not track.ignored]
        if not len(ignored) or not rest:
            return rest
        likeness = (np.array([track.vector for track in rest], np.float32) @ ignored.T).max(axis=1)
        return [track for track, score in zip(rest, likeness, strict=True) if score < policy.limits.threshold]

    def _members(self, cluster_id: str, policy: NamespacePolicy) -> list[UnknownTrack]:
        for cluster in self._clusters(policy):
            if cluster.id == cluster_id:
                return self.desk.tracks.unknowns(cluster.members)
        message = f"there is no cluster {cluster_id!r} any more; list them again"
        raise UnknownError(message)
