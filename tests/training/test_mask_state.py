import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from operators.nets import mask_state as nets
from pipeline.errors import SourceError
from training.faces import data_folder, part_of, read_faces
from training.mask_state import _options, area_under_roc, calibration_error, evaluate, fit_calibration, train
from training.masked_faces import MaskedFaces, draw_faces, pack


def toys(count: int = 256, seed: int = 0) -> MaskedFaces:
    """Noise, with a bright lower half where there is a 'mask'."""
    rng = np.random.default_rng(seed)
    masked = rng.random(count) < 0.5
    pixels = rng.integers(0, 120, (count, 64, 64, 3), np.uint8)
    pixels[masked, 32:] += 100
    return MaskedFaces(pixels, masked, np.where(masked, "toy", "bare"))


def options(out: Path, *more: str):
    return _options(["--out", str(out), *more])


def test_the_area_under_the_roc_curve_counts_pairs_in_the_right_order():
    rng = np.random.default_rng(0)
    scores, truth = rng.integers(0, 9, 60) / 9, rng.random(60) < 0.4
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[truth] for n in scores[~truth]]
    assert area_under_roc(scores, truth) == pytest.approx(np.mean(pairs))


def test_a_forecast_that_comes_true_as_often_as_it_says_has_no_calibration_error():
    scores = np.repeat([0.25, 0.75], 4)
    truth = np.array([1, 0, 0, 0, 1, 1, 1, 0], bool)
    assert calibration_error(scores, truth) == pytest.approx(0)
    assert calibration_error(scores, ~truth) == pytest.approx(0.5)


def test_training_learns_and_says_so(tmp_path):
    torch.manual_seed(0)
    net = nets.MaskState(4)
    assert train(net, toys(768), toys(64, seed=1), options(tmp_path, "--epochs", "3"))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]
    assert {"auc", "tpr", "fpr", "calibration_error"} <= set(lines[-1]["held_out"])
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_a_resumed_run_is_the_same_run(tmp_path):
    whole, parts = (tmp_path / name for name in ("whole", "parts"))
    whole.mkdir()
    parts.mkdir()
    nets_of = []
    for out, minutes in ((whole, ["9"]), (parts, ["0", "9"])):
        for limit in minutes:
            torch.manual_seed(0)
            net = nets.MaskState(4)
            resumed = ["--resume", "--minutes", limit] if limit == minutes[-1] else ["--minutes", limit]
            done = train(net, toys(), toys(64), options(out, "--epochs", "2", *resumed))
            assert done == (limit != "0")
        nets_of.append(net)
    for a, b in zip(nets_of[0].state_dict().values(), nets_of[1].state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_calibration_finds_the_scale_and_the_shift_that_make_logits_honest():
    torch.manual_seed(0)
    honest = torch.randn(20000) * 2
    truth = (torch.rand(20000) < honest.sigmoid()).float()
    scale, shift = fit_calibration(5 * honest + 2, truth)
    assert scale == pytest.approx(0.2, abs=0.01)
    assert shift == pytest.approx(-0.4, abs=0.05)


def test_a_person_is_in_one_part_whatever_else_there_is():
    parts = [part_of(f"person {n}") for n in range(2000)]
    assert parts == [part_of(f"person {n}") for n in range(2000)]
    assert 0.75 < parts.count("train") / 2000 < 0.85
    assert 0.07 < parts.count("test") / 2000 < 0.13


def test_a_missing_data_folder_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("OMOTE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(SourceError, match="nowhere"):
        data_folder()
    with pytest.raises(SourceError, match=r"lfw_train128\.zip"):
        next(read_faces(tmp_path))


def test_the_float_entry_and_the_picture_entry_agree():
    net = nets.build(4)
    crops = torch.randint(0, 256, (3, 128, 128, 3), dtype=torch.uint8)
    (probabilities,) = net.forward_images(crops)
    assert torch.allclose(probabilities, net(crops.permute(0, 3, 1, 2).float()).sigmoid())
    assert probabilities.shape == (3,)


@pytest.mark.skipif(not os.environ.get("OMOTE_DATA"), reason="OMOTE_DATA, the training data, is not set")
def test_the_shipped_net_tells_masks_it_never_saw_from_faces_it_never_saw():
    crops = draw_faces(Path(os.environ["OMOTE_DATA"]), "test", 1, 7)
    figures = evaluate(nets.load(), pack(crop for crop, _ in zip(crops, range(200), strict=False)))
    assert figures["auc"] > 0.97
    assert figures["fpr"] < 0.08
