"""The audit log on a real Redis: whole under many writers, whole after a kill, and honest about what was done to it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event as Signal
from typing import Any

import pytest
from pydantic import SecretStr
from redis.exceptions import ConnectionError as Lost

from pipeline.audit import Entry, Head
from pipeline.edges.redis_audit import AuditLog
from pipeline.gallery.errors import AwayError, InvalidError
from pipeline.servers.redis_server import RedisServer
from tests.support.audit_logs import KEYS, Opener, events, log, opened

__all__ = ["log", "opened"]  # fixtures


def test_what_is_appended_can_be_read_and_is_whole(log: AuditLog) -> None:
    given = events(3)
    written = log.append(given)
    assert [entry.id for entry in written] == [event.id for event in given]
    assert [entry.seq for entry in written] == [1, 2, 3]
    assert log.append(events())[0].seq == 4
    assert list(log.entries())[:3] == written
    assert (log.head().seq, log.verify()) == (4, [])


def test_a_new_log_is_empty_and_whole_and_nothing_appended_is_nothing_written(log: AuditLog) -> None:
    assert (log.append([]), log.head(), list(log.entries()), log.verify()) == (
        [],
        Head(namespace=log.namespace),
        [],
        [],
    )


def test_namespaces_do_not_see_each_other(opened: Opener) -> None:
    one, other = opened(), opened()
    one.append(events(2))
    assert other.append(events())[0].seq == 1
    assert (one.verify(), other.verify()) == ([], [])


def test_entries_are_found_by_what_they_tell(log: AuditLog) -> None:
    anna = KEYS.pseudonym("main", "anna")
    log.append([*events(3), *events(2, actor='the "back" desk ü'), *events(subject=anna), *events(action="delete")])
    log.append(events(details={"actor": "back", "action": "delete", "into": anna}))
    log.append(events(shown=(KEYS.pseudonym("main", "zoe"), anna)))
    assert [entry.seq for entry in log.read(actor='the "back" desk ü')] == [4, 5]
    assert [entry.seq for entry in log.read(subject=anna)] == [6, 9]
    assert [entry.seq for entry in log.read(action="delete")] == [7]
    assert [entry.seq for entry in log.read(after_seq=4, limit=2)] == [5, 6]
    assert log.read(actor="desk") == log.read(after_seq=9) == log.read(limit=0) == []


def test_long_logs_are_read_in_pages(log: AuditLog) -> None:
    log.append(events(800))
    log.append(events(900))
    assert [entry.seq for entry in log.entries(after_seq=650)] == list(range(651, 1701))
    assert log.verify() == []


def test_more_than_fits_into_a_step_is_refused(log: AuditLog) -> None:
    with pytest.raises(InvalidError, match="1001 events are too many"):
        log.append(events(900) + events(101))
    with ThreadPoolExecutor(4) as threads:
        parts = list(threads.map(log.append, [events(900) for _ in range(4)]))
    assert sorted(entry.seq for part in parts for entry in part) == list(range(1, 3601))


def test_many_threads_are_written_together(log: AuditLog) -> None:
    def work(_: int) -> list[int]:
        return [log.append(events())[0].seq for _ in range(60)]

    since = time.perf_counter()
    with ThreadPoolExecutor(32) as threads:
        given = [seq for part in threads.map(work, range(32)) for seq in part]
    assert 32 * 60 / (time.perf_counter() - since) > 600  # 4600 on two cores that had little else to do
    assert sorted(given) == list(range(1, 32 * 60 + 1))
    assert log.verify() == []


WRITER = """
import sys
from threading import Thread
from pydantic import SecretStr
from pipeline.audit import Event
from pipeline.edges.redis_audit import AuditLog
from pipeline.gallery.keys import Keys

log = AuditLog(SecretStr(sys.argv[1]), sys.argv[2], Keys.from_environment())
sys.stdin.readline()
ids = []
def write():
    for _ in range(100):
        ids.extend(entry.id for entry in log.append([Event(actor=sys.argv[3], action="search")]))
threads = [Thread(target=write) for _ in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("\\n".join(ids))
"""


def test_four_processes_at_once_make_one_chain(log: AuditLog, redis_url: str, tmp_path: Path) -> None:
    KEYS.write(tmp_path / "keys.json")
    environment = {**os.environ, "OMOTE_GALLERY_KEYS_FILE": str(tmp_path / "keys.json")}

    def start(name: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WRITER, redis_url, log.namespace, f"writer {name}"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        return subprocess.Popen(command, env=environment, text=True, **pipes)

    writers = [start(name) for name in range(4)]
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("go\n")
        writer.stdin.flush()
    told = [writer.communicate(timeout=60)[0].split() for writer in writers]
    written = list(log.entries())
    assert [len(ids) for ids in told] == [200] * 4
    assert sorted(entry.id for entry in written) == sorted(each for ids in told for each in ids)
    assert (len(written), log.head().seq, log.verify()) == (800, 800, [])


class Unanswered:
    """Redis makes the step, but its answer is lost, for as many times as given."""

    def __init__(self, log: AuditLog, times: int) -> None:
        self._step, self._times = log._step, times
        log._step = self  # type: ignore[assignment]

    def __call__(self, keys: Any, args: Any) -> Any:
        answer = self._step(keys=keys, args=args)
        self._times -= 1
        if self._times >= 0:
            raise Lost
        return answer


def test_a_step_whose_answer_was_lost_is_looked_for_and_not_made_twice(log: AuditLog, opened: Opener) -> None:
    log.append(events(2))
    Unanswered(log, 1)
    given = events(3)
    assert [(entry.seq, entry.id) for entry in log.append(given)] == [
        (3, given[0].id),
        (4, given[1].id),
        (5, given[2].id),
    ]
    opened(log.namespace).append(events())
    assert ([entry.seq for entry in log.append(events())], log.verify()) == ([7], [])


def test_an_event_that_is_given_again_after_an_error_is_not_written_twice(log: AuditLog, opened: Opener) -> None:
    log.append(events())
    given, step, client = events(2), log._step, log._link.client

    def lose(keys: Any, args: Any) -> Any:
        step(keys=keys, args=args)
        raise Lost

    log._step, log._link.client = lose, Gone()  # type: ignore[assignment]
    with pytest.raises(AwayError, match="nothing is known to be written"):
        log.append(given)
    log._step, log._link.client = step, client
    opened(log.namespace).append(events())
    assert [entry.seq for entry in log.append([*events(), *given])] == [5, 2, 3]
    assert (log.head().seq, log.verify()) == (5, [])


def test_a_step_that_was_never_made_is_not_taken_for_one_that_began_alike(log: AuditLog) -> None:
    log.append(events())
    (one, two), step, client = events(2), log._step, log._link.client

    def lose(keys: Any, args: Any) -> Any:
        raise Lost

    log._step, log._link.client = lose, Gone()  # type: ignore[assignment]
    with pytest.raises(AwayError):
        log.append([one, two])
    log._step, log._link.client = step, client
    assert [log.append([one])[0].seq, log.append([two])[0].seq] == [2, 3]
    assert ([entry.id for entry in log.entries(after_seq=1)], log.verify()) == ([one.id, two.id], [])


class Gone:
    """Redis does not answer."""

    def hmget(self, key: str, *names: str) -> bytes:
        raise Lost


def test_a_redis_that_is_away_is_told_within_seconds(mortal_redis: RedisServer, log: AuditLog) -> None:
    log.append(events())
    mortal_redis.kill()
    since = time.monotonic()
    for attempt in (lambda: log.append(events()), log.head, log.read, log.verify):
        with pytest.raises(AwayError, match="does not answer"):
            attempt()
    assert time.monotonic() - since < 5
    mortal_redis.start()
    assert (log.append(events())[0].seq, log.verify()) == (2, [])


def test_what_is_owed_is_written_first_and_once_when_redis_is_back(mortal_redis: RedisServer, log: AuditLog) -> None:
    log.append(events())
    mortal_redis.kill()
    owed, lost, later = events(2), events(), events()
    for attempt in (lambda: log.append(owed, owed=True), lambda: log.append(lost), log.ready):
        with pytest.raises(AwayError, match="does not answer"):
            attempt()
    mortal_redis.start()
    log.ready()
    log.append(later)
    assert [entry.id for entry in log.entries(after_seq=1)] == [event.id for event in owed + later]
    assert log.verify() == []


def test_no_more_is_owed_than_fits_into_a_step(mortal_redis: RedisServer, log: AuditLog) -> None:
    mortal_redis.kill()
    for _ in range(2):
        with pytest.raises(AwayError):
            log.append(events(900), owed=True)
    mortal_redis.start()
    assert log.append(events(1000))[0].seq == 1001


def test_what_lay_before_a_frozen_redis_is_not_written_twice(
    mortal_redis: RedisServer, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.edges.redis_audit.PATIENCE_S", 0.5)
    log = opened()
    log.append(events())
    given = events(2)
    mortal_redis.freeze()
    since = time.monotonic()
    with pytest.raises(AwayError, match="nothing is known to be written"):
        log.append(given)
    assert time.monotonic() - since < 2
    mortal_redis.thaw()
    log.append(given)
    kept = [entry.id for entry in log.entries()]
    assert all(kept.count(event.id) == 1 for event in given)
    assert log.verify() == []


def test_no_acknowledged_entry_is_missing_or_doubled_after_kill_9(tmp_path: Path) -> None:
    over, failures = Signal(), []

    def work(log: AuditLog) -> list[Entry]:
        acknowledged: list[Entry] = []
        while not over.is_set():
            event = events()[0]
            while True:
                try:
                    acknowledged += log.append([event])
                    break
                except AwayError as error:
                    failures.append(error)
                    time.sleep(0.02)
        return acknowledged

    with RedisServer(tmp_path, "always") as server, ThreadPoolExecutor(8) as threads:
        logs = [AuditLog(SecretStr(server.url), "main", KEYS) for _ in range(2)]
        parts = [threads.submit(work, log) for log in logs for _ in range(4)]
        for _ in range(3):
            time.sleep(0.3)
            server.kill()
            time.sleep(0.2)
            server.start()
        time.sleep(0.3)
        over.set()
        acknowledged = [entry for part in parts for entry in part.result()]
        kept = list(logs[0].entries())
        assert logs[0].verify(against=kept) == []
        for log in logs:
            log.close()
    assert failures
    assert sorted(acknowledged, key=lambda entry: entry.seq) == kept
    assert len({entry.id for entry in kept}) == len(kept) > 100


def test_a_step_that_a_kill_cut_off_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "always") as server:
        log = AuditLog(SecretStr(server.url), "main", KEYS)
        log.append(events(2))
        log.append(events(2))
        server.kill()
        (written,) = tmp_path.glob("appendonlydir/*.incr.aof")
        written.write_bytes(written.read_bytes()[:-100])
        server.start()
        log.close()
        log = AuditLog(SecretStr(server.url), "main", KEYS)
        assert [entry.seq for entry in log.append(events(2))] == [3, 4]
        server.kill()
        server.start()
        assert (log.verify(), log.head().seq) == ([], 4)
        log.close()
