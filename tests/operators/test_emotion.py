"""What a track shows over time depends on time, not on frames, and never on the future."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from operators.emotion import SmoothedEmotion, softmax
from pipeline.packets import EMOTIONS, EncodedFace, FeltFace, Floats, MaskState
from pipeline.policy import Policy
from pipeline.testing import make_grown

ALLOWED = Policy(purpose="medical", emotion=True)
MASKED = MaskState("masked", 0.9)


def logits(emotion: str, strength: float = 3.0) -> Floats:
    return (strength * np.eye(7)[EMOTIONS.index(emotion)]).astype(np.float32)


def face(seconds: float, shown: Floats | None, track: str = "camera:0:1", **given: object) -> EncodedFace:
    pts_ns = round(seconds * 1e9)
    return make_grown(EncodedFace, pts_ns // 1_000_000, pts_ns=pts_ns, track_id=track, emotion_logits=shown, **given)


def showing(signal: Callable[[float], str], seconds: float, fps: float = 25) -> list[EncodedFace]:
    return [face(n / fps, logits(signal(n / fps))) for n in range(round(seconds * fps))]


def felt(faces: Sequence[EncodedFace], together: int = 1, policy: Policy = ALLOWED, **times: float) -> list[FeltFace]:
    emotion = SmoothedEmotion(policy, **times)
    state, out = emotion.start("camera"), []
    for first in range(0, len(faces), together):
        state, given = emotion(state, faces[first : first + together])
        out += given
    return out


def states(faces: Sequence[FeltFace]) -> list[str]:
    return [each.emotion.state for each in faces]


def neutral_then_happy(t: float) -> str:
    return "neutral" if t < 1 else "happy"


def test_softmax_is_the_slow_one_and_sums_to_one() -> None:
    some = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32) * 30
    slow = [[float(np.exp(np.float64(x))) for x in row] for row in some]
    expected = [[x / sum(row) for x in row] for row in slow]
    np.testing.assert_allclose(softmax(some), expected, atol=1e-6)
    np.testing.assert_allclose(softmax(some + 1000).sum(-1), 1, atol=1e-5)


def test_a_track_warms_up_before_it_is_given_a_label() -> None:
    faces = felt(showing(lambda t: "happy", 1), warm_s=0.4)
    assert states(faces) == ["warming"] * 10 + ["ok"] * 15
    assert {f.emotion.label for f in faces[:10]} == {""}
    assert {f.emotion.label for f in faces[10:]} == {"happy"}
    assert [f.emotion.frames for f in faces] == list(range(1, 26))
    assert [f.emotion.span_ms for f in faces] == list(range(0, 1000, 40))


def test_probabilities_sum_to_one_while_there_are_any() -> None:
    rng = np.random.default_rng(0)
    faces = [face(n / 25, rng.normal(size=7).astype(np.float32) * 5) for n in range(50)]
    for each in felt(faces):
        assert each.emotion.probabilities.shape == (7,)
        assert each.emotion.probabilities.sum() == pytest.approx(1, abs=1e-5)
        assert (each.emotion.probabilities >= 0).all()


def slow_mean(faces: Sequence[EncodedFace], memory_s: float) -> Floats:
    """The smoothing written out: every frame's weight is what the frames after it have left of it."""
    total = np.zeros(7)
    for n, each in enumerate(faces):
        since = faces[n - 1].pts_ns if n else None
        weight = 1.0 if since is None else 1 - np.exp(-(each.pts_ns - since) / 1e9 / memory_s)
        left = np.exp(-(faces[-1].pts_ns - each.pts_ns) / 1e9 / memory_s)
        total += weight * left * softmax(each.emotion_logits)
    return total


def test_the_smoothing_is_the_exponential_mean_at_uneven_times() -> None:
    rng = np.random.default_rng(1)
    times = np.cumsum(rng.choice([0.01, 0.04, 0.2, 0.7], 30))
    faces = [face(t, rng.normal(size=7).astype(np.float32) * 3) for t in times]
    for n, each in enumerate(felt(faces, memory_s=0.5), 1):
        np.testing.assert_allclose(each.emotion.probabilities, slow_mean(faces[:n], 0.5), atol=1e-5)


def test_the_result_does_not_depend_on_the_frame_rate() -> None:
    at = {fps: felt(showing(neutral_then_happy, 3, fps)) for fps in (10, 50)}
    for t in (0.9, 1.3, 1.5, 2.0, 2.9):
        slow, fast = at[10][round(t * 10)].emotion, at[50][round(t * 50)].emotion
        np.testing.assert_allclose(slow.probabilities, fast.probabilities, atol=0.12)
    changes = {fps: [f.pts_ns / 1e9 for f in faces if f.emotion_changed] for fps, faces in at.items()}
    assert len(changes[10]) == len(changes[50]) == 2
    np.testing.assert_allclose(changes[10], changes[50], atol=0.11)


def test_no_frame_of_the_future_changes_the_past() -> None:
    whole = felt(showing(neutral_then_happy, 3))
    for cut in (10, 26, 40):
        past = felt(showing(neutral_then_happy, 3)[:cut])
        for one, other in zip(past, whole, strict=False):
            np.testing.assert_array_equal(one.emotion.probabilities, other.emotion.probabilities)
            assert (one.emotion.label, one.emotion.state) == (other.emotion.label, other.emotion.state)
            assert one.emotion_changed == other.emotion_changed


def test_a_label_changes_once_and_only_after_the_other_has_led_for_a_while() -> None:
    faces = felt(showing(neutral_then_happy, 3), hold_s=0.3)
    changes = [(f.pts_ns / 1e9, f.emotion.label) for f in faces if f.emotion_changed]
    assert [label for _, label in changes] == ["neutral", "happy"]
    assert changes[0][0] == pytest.approx(0.4)
    lead = next(f.pts_ns / 1e9 for f in faces if EMOTIONS[int(f.emotion.probabilities.argmax())] == "happy")
    assert changes[1][0] == pytest.approx(lead + 0.3, abs=0.05)


def test_a_flicker_does_not_change_the_label() -> None:
    def flicker(t: float) -> str:
        return "angry" if 1 <= t < 1.2 or 1.5 <= t < 1.7 else "neutral"

    assert {f.emotion.label for f in felt(showing(flicker, 3)) if f.emotion.label} == {"neutral"}


def test_a_hold_of_nothing_follows_the_leader_at_the_next_frame() -> None:
    slow, fast = (felt(showing(neutral_then_happy, 3), hold_s=hold) for hold in (0.6, 0.0))
    changed = [next(f.pts_ns for f in faces if f.emotion.label == "happy") for faces in (slow, fast)]
    assert changed[1] < changed[0]


def test_a_longer_memory_turns_more_slowly() -> None:
    short, long = (felt(showing(neutral_then_happy, 3), memory_s=memory) for memory in (0.2, 1.0))
    happy = EMOTIONS.index("happy")
    assert short[35].emotion.probabilities[happy] > long[35].emotion.probabilities[happy]


# When there is nothing to say


def test_a_track_that_was_never_readable_is_of_low_quality() -> None:
    faces = felt([face(n / 25, None) for n in range(10)])
    assert set(states(faces)) == {"low_quality"}
    assert all(not f.emotion.probabilities.any() and f.emotion.label == "" for f in faces)


def test_the_last_word_holds_for_a_while_without_a_readable_face_and_no_longer() -> None:
    given = [*showing(lambda t: "sad", 1), *(face(1 + n / 25, None) for n in range(50))]
    faces = felt(given, stale_s=1.0)
    assert faces[24 + 25].emotion.state == "ok"
    assert faces[24 + 25].emotion.label == "sad"
    assert faces[24 + 26].emotion.state == "low_quality"
    assert faces[24 + 26].emotion.label == ""
    assert [f.emotion_changed for f in faces].count(True) == 1


def test_a_masked_track_is_suppressed_and_comes_back() -> None:
    bare = showing(lambda t: "happy", 1)
    masked = [face(1 + n / 25, None, mask=MASKED) for n in range(10)]
    again = [face(1.4 + n / 25, logits("happy")) for n in range(10)]
    found = states(felt([*bare, *masked, *again]))
    assert found[25:35] == ["suppressed"] * 10
    assert found[35:] == ["ok"] * 10


def test_without_a_purpose_every_emotion_is_suppressed() -> None:
    faces = felt([face(n / 25, None) for n in range(3)], policy=Policy())
    assert set(states(faces)) == {"suppressed"}
    assert not any(f.emotion.probabilities.any() or f.emotion_changed for f in faces)


def test_after_a_long_gap_a_track_warms_up_anew() -> None:
    faces = felt([*showing(lambda t: "happy", 1), face(9, logits("sad")), face(9.04, logits("sad"))], forget_s=5.0)
    assert states(faces)[-2:] == ["warming", "warming"]
    assert faces[-2].emotion.frames == 1
    assert faces[-2].emotion.probabilities.argmax() == EMOTIONS.index("sad")


# Promises of every keyed operator


def crowd() -> list[EncodedFace]:
    out = []
    for n in range(60):
        out.append(face(n / 25, logits(neutral_then_happy(n / 25))))
        out.append(face(n / 25, logits("sad") if n % 5 else None, track="camera:0:2"))
    return out


def told(faces: Sequence[FeltFace]) -> list[tuple[object, ...]]:
    return [(f.track_id, f.seq, f.emotion.state, f.emotion.label, f.emotion.frames, f.emotion_changed) for f in faces]


@pytest.mark.parametrize("together", [2, 7, 1000])
def test_the_result_does_not_depend_on_how_the_stream_is_cut(together: int) -> None:
    one, other = felt(crowd()), felt(crowd(), together)
    assert told(one) == told(other)
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left.emotion.probabilities, right.emotion.probabilities)


def test_tracks_do_not_mix() -> None:
    mixed = felt(crowd())
    for track in ("camera:0:1", "camera:0:2"):
        alone = felt([f for f in crowd() if f.track_id == track])
        assert told([f for f in mixed if f.track_id == track]) == told(alone)


def test_the_state_is_a_value_that_can_be_stored_and_is_never_edited() -> None:
    emotion = SmoothedEmotion(ALLOWED)
    state, _ = emotion(emotion.start("camera"), crowd()[:60])
    stored = pickle.dumps(state)
    _, once = emotion(state, crowd()[60:])
    assert pickle.dumps(state) == stored
    _, again = SmoothedEmotion(ALLOWED)(pickle.loads(stored), crowd()[60:])
    assert told(list(once)) == told(list(again))


def test_a_track_that_is_gone_is_forgotten() -> None:
    emotion = SmoothedEmotion(ALLOWED, forget_s=1.0)
    state, _ = emotion(emotion.start("camera"), showing(lambda t: "happy", 1))
    state, _ = emotion(state, [face(9, logits("sad"), track="camera:0:2")])
    assert set(state) == {"camera:0:2"}
