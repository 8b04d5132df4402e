"""From messages of a partition to chunks: in order, the same again, and only what may be committed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from operators.decode import Decode
from pipeline.edges.assembly import FORGOTTEN, LONGEST_GOP_MS, Assembly, newest
from pipeline.edges.files import Input
from pipeline.edges.video_cutting import cut
from pipeline.edges.video_messages import ACCESS_UNIT, JPEG, Message, VideoMessage
from tests.support.video import FLAT, SHORT, as_message, decoded, ended, same, scene, sent

Film = Callable[..., Path]


def jpeg(seq: int, stream: str = "cam", **more: object) -> VideoMessage:
    given = {"data": b"\xff\xd8%d" % seq, "capture_ns": 10**18 + seq * 40_000_000, **more}
    return VideoMessage(stream, 0, seq, seq * 40_000_000, JPEG, **given)  # type: ignore[arg-type]


def unit(seq: int, *, keyframe: bool = False, stream: str = "cam", **more: object) -> VideoMessage:
    given = {"data": b"\0\0\1%d" % seq, "content_type": ACCESS_UNIT, "keyframe": keyframe, **more}
    return replace(jpeg(seq, stream), **given)  # type: ignore[arg-type]


# Putting together


def test_the_same_messages_always_make_the_same_chunks() -> None:
    videos = [jpeg(n) for n in range(5, 30)]
    whole = [[u.data for u in c.units] for c in sent(videos)]
    assert [len(units) for units in whole] == [3, 8, 8]
    for start in (3, 11):  # wherever a worker begins that takes over after a chunk
        assembly = Assembly(positions={"cam": start})
        assert [[u.data for u in c.units] for c in sent(videos, assembly)] == whole[1 if start == 3 else 2 :]


def test_a_chunk_ends_with_its_stream_its_epoch_and_its_kind() -> None:
    videos = [jpeg(0), replace(jpeg(0), epoch=1), replace(jpeg(1), epoch=1, eos=True), unit(0, keyframe=True), jpeg(3)]
    assembly = Assembly()
    given = [*sent(videos, assembly), *assembly.settle()]
    assert [(c.epoch, len(c.units), c.last, c.codec.name) for c in given] == [
        (0, 1, False, "still"),
        (1, 2, True, "still"),
        (0, 1, False, "h264"),
        (0, 1, False, "still"),
    ]


def test_nothing_is_committed_that_still_waits() -> None:
    videos = [jpeg(n, name) for n in range(8) for name in ("a", "b")]
    videos.insert(1, jpeg(0, "c"))
    assembly = Assembly()
    given = sent(videos, assembly)
    assert [(c.stream, c.position, c.watermark) for c in given] == [("a", 16, 1), ("b", 17, 1)]
    assert assembly.waits
    assert [(c.stream, c.position, c.watermark) for c in assembly.settle()] == [("c", 2, 17)]


def test_what_a_message_sets_free_is_committed_without_the_message() -> None:
    videos = [jpeg(0), jpeg(1), replace(jpeg(0), epoch=1), replace(jpeg(1), epoch=1, eos=True)]
    (first, second) = sent(videos)
    assert (first.position, first.watermark) == (2, 2)
    successor = Assembly(positions={"cam": first.position})
    assert sent(videos[first.watermark :], successor, first=first.watermark) == [second]


def test_who_has_waited_for_companions_is_settled_whatever_other_streams_do() -> None:
    now_s = 0.0
    assembly = Assembly(clock=lambda: now_s)
    assert sent([jpeg(0, "slow")], assembly) == []
    now_s = 0.5
    assert sent([jpeg(0, "fast")], assembly, first=1) == []
    now_s = 0.7
    assert [c.stream for c in assembly.settle(0.6)] == ["slow"]
    now_s = 1.2
    assert [(c.stream, c.watermark) for c in assembly.settle(0.6)] == [("fast", 2)]


def test_the_watermark_stays_at_the_key_frame_that_later_units_need() -> None:
    videos = [unit(n, keyframe=n % 12 == 0, eos=n == 31) for n in range(32)]
    given = sent(videos)
    assert [(c.position, c.watermark) for c in given] == [(8, 0), (16, 12), (24, 12), (32, 32)]


def test_a_stream_that_fell_silent_holds_up_nothing_for_ever() -> None:
    silent = unit(0, keyframe=True, stream="silent")
    late = [replace(jpeg(n), capture_ns=silent.capture_ns + (LONGEST_GOP_MS + n) * 1_000_000) for n in range(8)]
    assembly = Assembly()
    first = [*sent([silent], assembly), *assembly.settle()]
    assert first[0].watermark == 0
    assert sent(late, assembly, first=1)[0].watermark == 9


def test_a_worker_that_takes_over_decodes_again_and_tells_nothing_twice(film: Film) -> None:
    path = str(film(scene(), "a.mp4", "libx264", encoder=FLAT))
    videos = ended(list(cut(Input(path), ACCESS_UNIT)))
    undisturbed = decoded(sent(videos))
    before = sent(videos)
    done = before[3]  # 32 pictures are told: the last key frame was number 24
    assert (done.position, done.watermark) == (32, 24)
    after = sent(videos[done.watermark :], Assembly(positions={"cam": done.position}), first=done.watermark)
    assert (after[0].replayed, len(after[0].units), after[0].messages) == (True, 8, ())
    assert [c.replayed for c in after[1:]] == [False] * (len(after) - 1)
    decode = Decode()
    state, told = decode.start("cam"), []
    for chunk in before[:4]:
        state, frames = decode(state, [chunk])
        told += frames
    successor = Decode()
    successor(successor.start("cam"), [after[0]])  # what is replayed is decoded, and given to nobody
    for chunk in after[1:]:
        state, frames = successor(state, [chunk])
        told += frames
    assert same(told, undisturbed)


def test_a_takeover_at_a_key_frame_replays_nothing() -> None:
    videos = [unit(n, keyframe=n % 8 == 0) for n in range(24)]
    given = sent(videos[8:], Assembly(positions={"cam": 16}), first=8)
    assert [(c.replayed, len(c.units)) for c in given] == [(False, 8)]


def test_units_without_their_key_frame_are_left_out_and_counted() -> None:
    assembly = Assembly()
    given = sent([unit(n, keyframe=n == 5) for n in range(8)], assembly)
    assert [(len(c.units), c.dropped) for c in given] == [(3, 5)]
    assert assembly.drops == {("cam", "no key frame"): 5}


def test_poison_is_met_once_also_by_a_successor() -> None:
    bad = Message("video", 0, 2, b"cam", b"junk")
    assert list(Assembly(positions={"cam": 3}).take(bad)) == []
    nobody = Message("video", 0, 2, None, b"junk")
    assert list(Assembly(positions={"": 3}).take(nobody)) == []
    assembly = Assembly()
    given = [*sent([jpeg(0), jpeg(1)], assembly), *assembly.take(bad)]
    assert [(type(c).__name__, c.position, c.watermark) for c in given] == [("BrokerChunk", 2, 2), ("Poison", 3, 3)]


# Staying near the present


def test_what_is_late_gives_way_from_key_frame_to_key_frame() -> None:
    waiting = [as_message(unit(n, keyframe=n % 10 == 0), n) for n in range(35)]
    kept, left_out = newest(waiting, 0)
    assert ([m.offset for m in kept], [m.offset for m in left_out]) == (list(range(30, 35)), list(range(30)))
    assert newest(waiting, 2_000) == (waiting, [])
    assert newest(waiting[:1], 0) == (waiting[:1], [])
    without = [m for m in waiting if m.offset % 10]
    assert newest(without[:5], 0) == (without[:5], [])


def test_each_stream_gives_way_for_itself() -> None:
    slow = [as_message(jpeg(n, "slow"), n) for n in (0, 1)]
    fast = [as_message(jpeg(n, "fast"), n) for n in range(2, 200)]
    kept, _ = newest([*slow, *fast], 1_000)
    assert [m.offset for m in kept] == [0, 1, 199]


def test_what_gave_way_is_counted_in_pictures(film: Film) -> None:
    path = str(film(scene(), "a.mp4", "libx264", encoder=SHORT))
    videos = list(cut(Input(path), "video/mp2t", 0.5))
    messages = [as_message(video, n) for n, video in enumerate(videos)]
    assembly = Assembly()
    assembly.leave_out(messages[:3])
    (first, *_) = assembly.take(messages[3])
    assert first.dropped == 36
    assert assembly.drops == {("cam", "behind"): 36}


def test_streams_that_come_no_more_are_forgotten_and_what_they_held_was_given() -> None:
    assembly = Assembly(positions={"old": 7, "ahead": 10**9})
    ends = [replace(jpeg(0, f"s{n}"), eos=True) for n in range(1000)]
    open_ended = [unit(0, keyframe=True, stream=f"u{n}") for n in range(1000)]
    assert len(sent([*ends, *open_ended], assembly)) == 1000
    (last,) = sent([replace(jpeg(0), eos=True)], assembly, first=2 * FORGOTTEN)
    assert last.watermark == 1000, "what waits for companions was not given yet"
    list(assembly.settle())
    (last,) = sent([replace(jpeg(0), eos=True)], assembly, first=4 * FORGOTTEN)
    assert last.watermark == 4 * FORGOTTEN + 1
    assert list(assembly._streams) == ["ahead", "cam"]
    assert assembly._holding == {}
