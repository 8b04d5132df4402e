"""The report: one file, nothing from outside trusted, nothing hidden shown, bounded memory."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.edges.report import EXPLANATIONS_KEPT, HIGH, TRACKS_SHOWN, WIDE, Axis, HtmlReport, areas, stretches
from pipeline.edges.sightings import BINS, FIRST_BIN_NS, Sighting, Timeline
from pipeline.errors import SinkError
from pipeline.packets import (
    EMOTIONS,
    Embedding,
    Emotion,
    Explanation,
    FeltFace,
    Identity,
    MaskState,
    Pixels,
    Quality,
    Restoration,
)
from pipeline.pictures import data_uri
from pipeline.policy import Policy

SHOWN = Policy(purpose="demonstration", emotion=True, identification=True, unmasking=True, faces="shown")
KNOWN = Identity("known", "Ava", 0.61, 0.38, 0.4, 0.2, 3, "office", 7)
UNKNOWN = Identity("unknown", "", 0.2, 0.38, 0.1, 0.1, 3, "office", 7)


def crop(seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (128, 128, 3), np.uint8)


def face(seq: int = 0, track: int = 1, identity: Identity = KNOWN, **fields: Any) -> FeltFace:
    probabilities = np.full(7, 0.05, np.float32)
    probabilities[1] = 0.7
    given: dict[str, Any] = {
        "stream": "camera",
        "box": np.array([10, 10, 90, 90], np.float32),
        "score": 0.9,
        "landmarks": np.zeros((5, 2), np.float32),
        "crop": crop(track),
        "track_id": f"camera:0:{track}",
        "quality": Quality(0.8, 0.1, 0.0, 120.0),
        "predicted": False,
        "chosen": False,
        "mask_probability": 0.0,
        "restoration": None,
        "embedding": None,
        "lost": 0,
        "mask": MaskState("bare", 0.0),
        "identity": identity,
        "first_match": False,
        "emotion_logits": None,
        "emotion": Emotion("ok", "happy", probabilities, 3, 100),
        "emotion_changed": False,
    } | fields
    return FeltFace(epoch=0, seq=seq, pts_ns=seq * 40_000_000, **given)


def masked(seq: int, restored: bool, confidence: float = 0.5, **fields: Any) -> FeltFace:
    invented = np.zeros((128, 128), np.bool_)
    invented[70:] = restored
    estimate = Restoration(restored, crop(8), invented, np.zeros((128, 128), np.float32), confidence)
    hidden = Emotion("suppressed", "", np.zeros(7, np.float32), 0, 0)
    return face(seq, mask=MaskState("masked", 1.0), restoration=estimate, emotion=hidden, **fields)


def explanation(track: int = 1, number: int = 0, **fields: Any) -> Explanation:
    given: dict[str, Any] = {
        "id": f"x{number}",
        "track_id": f"camera:0:{track}",
        "kind": "match",
        "target": "Ava",
        "method": "occlusion",
        "score": 0.61,
        "completeness_error": float("nan"),
        "faithfulness": 0.31,
        "faithfulness_random": 0.05,
        "synthetic_evidence_ratio": 0.0,
        "crop": crop(3)[8:120, 8:120],
        "reference": None,
        "maps": {"similar": np.zeros((14, 14), np.float32), "dissimilar": np.zeros((14, 14), np.float32)},
        "caveat": "Only a sketch.",
        "took_ms": 1.0,
    } | fields
    return Explanation("camera", 0, 0, 0, **given)


def page(path: Path, *packets: FeltFace | Explanation, policy: Policy = SHOWN, **arguments: Any) -> str:
    report = HtmlReport(str(path / "report.html"), policy=policy, **arguments)
    for packet in packets:
        report.write([packet])
    report.flush()
    report.close()
    return (path / "report.html").read_text(encoding="utf-8")


class Album:
    def photo(self, subject_id: str) -> Pixels | None:
        return crop(99) if subject_id == "Ava" else None


def test_the_page_needs_no_network_no_script_and_no_second_file(tmp_path: Path) -> None:
    html = page(tmp_path, face(), masked(1, restored=True), explanation(), gallery=Album())
    assert not re.search(r"https?://|<script|<link|@import|javascript:", html)
    assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]*)"', html))
    assert re.findall(r"url\(([^)]*)\)", html) == ["#mask"]


def test_every_picture_has_a_text_beside_it_or_an_alternative_text(tmp_path: Path) -> None:
    html = page(tmp_path, face(), masked(1, restored=True), explanation(), gallery=Album())
    assert all("alt=" in tag for tag in re.findall(r"<img[^>]*>", html))


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    bad = "<img src=x onerror=alert(1)>\"'"
    html = page(
        tmp_path,
        face(stream=bad, identity=Identity("known", bad, 0.6, 0.4), first_match=True),
        explanation(target=bad, caveat=bad, method=bad, maps={bad: np.zeros((4, 4), np.float32)}),
        title=bad,
    )
    assert "<img src=x" not in html
    assert "&lt;img src=x" in html


def test_a_run_in_which_nothing_was_seen_says_so(tmp_path: Path) -> None:
    assert "Nothing was seen" in page(tmp_path)


def test_the_best_shot_stands_beside_the_photo_it_was_matched_with(tmp_path: Path) -> None:
    poor, good = (face(n, crop=crop(n), quality=Quality(score, 0.1, 0, 90)) for n, score in ((11, 0.3), (12, 0.9)))
    html = page(tmp_path, poor, good, face(13, crop=crop(13), predicted=True), gallery=Album())
    assert data_uri(good.crop) in html
    assert data_uri(poor.crop) not in html
    assert data_uri(crop(99)) in html


def test_the_numbers_of_a_decision_are_given(tmp_path: Path) -> None:
    html = page(tmp_path, face())
    for part in ("0.610", "0.400", "threshold 0.38", "office v7", ">known<"):
        assert part in html


def test_the_funnel_counts_faces_and_names_why_some_failed(tmp_path: Path) -> None:
    found = Embedding(np.zeros(512, np.float32), (), "office", 7)
    failed = Quality(0.1, 0.9, 0.0, 20.0, ("small", "cut_off"))
    html = page(
        tmp_path, face(0, embedding=found), face(1), face(2, quality=failed), face(3, embedding=found, identity=UNKNOWN)
    )
    counts = re.findall(r"</div><b>(\d+)<small>", html)
    assert counts == ["4", "3", "2", "1"]
    assert "cut off <b>1</b>" in html


def test_it_says_plainly_that_nothing_was_restored(tmp_path: Path) -> None:
    html = page(tmp_path, masked(0, restored=False))
    assert "There is no trained restorer yet: nothing was invented." in html
    assert '"picture estimate"' not in html


def test_an_estimate_is_marked_and_the_most_confident_one_is_shown(tmp_path: Path) -> None:
    html = page(tmp_path, masked(0, restored=True, confidence=0.4), masked(1, restored=True, confidence=0.7))
    assert '"picture estimate"' in html
    assert "confidence 70%" in html


def test_whoever_is_not_enrolled_is_hidden_when_the_policy_says_so(tmp_path: Path) -> None:
    packets = [
        face(0),
        face(1, track=2, identity=UNKNOWN, crop=crop(22)),
        masked(2, restored=True, track=2, identity=UNKNOWN, crop=crop(22)),
        explanation(track=2, kind="emotion", crop=crop(22), maps={}),
    ]
    assert data_uri(crop(22)) in page(tmp_path, *packets)
    html = page(tmp_path, *packets, policy=SHOWN.model_copy(update={"faces": "blurred"}))
    assert data_uri(crop(22)) not in html
    assert data_uri(crop(8)) not in html
    assert data_uri(crop(1)) in html


def test_an_explanation_shows_its_maps_its_figures_and_its_caveat(tmp_path: Path) -> None:
    html = page(tmp_path, face(), explanation())
    for part in ("Similar<", "Dissimilar<", "31%", "5.0%", "Only a sketch.", "Why it was taken for Ava", "<dd>–</dd>"):
        assert part in html


def test_memory_is_bounded_and_the_tracks_with_most_faces_are_kept(tmp_path: Path) -> None:
    packets = [face(seq, track=1) for seq in range(20)] + [face(30, track=n) for n in range(2, 2 * TRACKS_SHOWN)]
    more = [explanation(track=n, number=n) for n in range(EXPLANATIONS_KEPT + 20)]
    html = page(tmp_path, *packets, *more)
    assert html.count("<article") == TRACKS_SHOWN
    assert "20 faces" in html
    assert f"of {2 * TRACKS_SHOWN - 1}." in html


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match=r"cannot write the report .*file/report\.html"):
        HtmlReport(str(tmp_path / "file" / "report.html")).close()


def test_a_timeline_keeps_its_size_and_loses_no_face() -> None:
    timeline = Timeline(0)
    for seq in range(5000):
        timeline.add(face(seq))
    assert timeline.seen.sum() == timeline.felt.sum() == 5000
    assert timeline.probabilities.sum() == pytest.approx(5000, rel=1e-5)
    assert timeline.bin_ns * BINS >= 5000 * 40_000_000


def test_a_timeline_equals_one_that_had_its_final_bins_from_the_start() -> None:
    quick, slow = Timeline(0), Timeline(0)
    packets = [masked(n, restored=False) if n % 3 else face(n) for n in range(700)]
    slow.bin_ns = FIRST_BIN_NS * 8
    for packet in packets:
        quick.add(packet)
        slow.add(packet)
    assert quick.bin_ns == slow.bin_ns
    for name in ("seen", "masked", "felt", "probabilities"):
        assert getattr(quick, name) == pytest.approx(getattr(slow, name))


def test_the_areas_fill_the_band_where_an_emotion_was_read_and_leave_the_rest_empty() -> None:
    timeline, axis = Timeline(0), Axis(0, 4_000_000_000)
    for seq in [*range(25), *range(75, 100)]:
        timeline.add(face(seq))
    paths = dict(areas(timeline, axis))
    assert tuple(paths) == EMOTIONS
    assert all(path.count("M") == 2 for path in paths.values())
    xs, ys = zip(
        *((float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", "".join(paths.values()))), strict=True
    )
    assert (min(ys), max(ys)) == (pytest.approx(0, abs=0.1), HIGH)
    assert not [x for x in xs if 251 < x < 749]
    assert stretches(timeline.seen > 0, timeline, axis) == [(0, 250), (750, WIDE / 4)]


def test_events_are_noted_in_words_and_their_number_is_bounded() -> None:
    sighting = Sighting(face(0))
    for seq in range(300):
        on = seq % 2 == 1
        sighting.add(masked(seq, restored=False) if on else face(seq, first_match=seq == 0, emotion_changed=seq == 2))
    words = [event.words for event in sighting.events]
    assert words[:4] == ["known as Ava", "mask on", "shows happy", "mask off"]
    assert len(words) == 40
