"""Trains the net that tells whether a mask hides a face: ``python -m training.mask_state``.

Writes into ``--out``: the crops (``*.npz``), ``checkpoint.pt`` after each epoch, ``metrics.jsonl`` with one line an
epoch and one for the test, ``curves.png``, and ``mask_state.safetensors``, calibrated.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import LBFGS, AdamW, Optimizer

from operators.nets.mask_state import MaskState
from pipeline.packets import Floats, Pixels
from training.faces import Part, data_folder
from training.masked_faces import MaskedFaces, draw_faces, pack

Bools = NDArray[np.bool_]
BATCH = 128
WIDTH = 16
RATE = 4e-3
SEEDS: dict[Part, int] = {"train": 1, "calibrate": 2, "test": 3}


def main(arguments: Sequence[str] | None = None) -> None:
    """Packs the crops, trains, calibrates, tests and writes the weights."""
    options = _options(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    sets = {part: _packed(options, part) for part in SEEDS}
    net = MaskState(WIDTH)
    if not train(net, sets["train"], sets["calibrate"], options):
        Console().print(f"stopped after {options.minutes} minutes; --resume goes on")
        return
    calibrate(net, sets["calibrate"])
    _record(options.out, {"test": evaluate(net, sets["test"])})
    weights = {name: value.half() if value.is_floating_point() else value for name, value in net.state_dict().items()}
    save_file(weights, options.out / "mask_state.safetensors")


def train(net: MaskState, data: MaskedFaces, held_out: MaskedFaces, options: argparse.Namespace) -> bool:
    """Trains epoch by epoch; whether it came to the end within ``options.minutes``."""
    optimiser = AdamW(net.parameters(), lr=RATE, weight_decay=0.02)
    checkpoint = options.out / "checkpoint.pt"
    done = _resume(checkpoint, net, optimiser) if options.resume else 0
    deadline = time.monotonic() + 60 * options.minutes
    for epoch in range(done, options.epochs):
        if time.monotonic() > deadline:
            return False
        loss = _epoch(net, optimiser, data, epoch, options.epochs)
        torch.save({"net": net.state_dict(), "optimiser": optimiser.state_dict(), "done": epoch + 1}, checkpoint)
        _record(options.out, {"epoch": epoch + 1, "loss": loss, "held_out": evaluate(net, held_out)})
    return True


def calibrate(net: MaskState, data: MaskedFaces) -> None:
    """Makes the probability right on people and masks that were not trained on; changes the last layer."""
    scale, shift = fit_calibration(predict(net, data.pixels), torch.from_numpy(data.masked).float())
    with torch.no_grad():
        net.head.weight.mul_(scale)
        net.head.bias.mul_(scale).add_(shift)


def fit_calibration(logits: Tensor, truth: Tensor) -> tuple[float, float]:
    """Scale and shift that give (N,) logits the least log loss: temperature scaling (Guo et al. 2017) and a bias."""
    scale, shift = torch.ones((), requires_grad=True), torch.zeros((), requires_grad=True)
    optimiser = LBFGS([scale, shift], max_iter=100)

    def loss() -> float:
        optimiser.zero_grad()
        value = nn.functional.binary_cross_entropy_with_logits(logits * scale + shift, truth)
        torch.autograd.backward(value)
        return value.item()

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return scale.item(), shift.item()


def predict(net: MaskState, pixels: Pixels) -> Tensor:
    """(N,) logits of (N, 64, 64, 3) uint8 RGB."""
    net.eval()
    with torch.no_grad():
        return torch.cat([net.look(_floats(part)) for part in torch.split(torch.from_numpy(pixels), 512)])


def evaluate(net: MaskState, data: MaskedFaces) -> dict[str, object]:
    """Area under the ROC curve, rates at 0.5, log loss, calibration error, and the share called masked by kind."""
    logits = predict(net, data.pixels)
    scores, truth = torch.sigmoid(logits).numpy(), data.masked
    called = scores >= 0.5
    return {
        "auc": area_under_roc(scores, truth),
        "tpr": float(called[truth].mean()),
        "fpr": float(called[~truth].mean()),
        "log_loss": nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(truth).float()).item(),
        "calibration_error": calibration_error(scores, truth),
        "called_masked": {str(kind): float(called[data.kinds == kind].mean()) for kind in np.unique(data.kinds)},
    }


def area_under_roc(scores: Floats, truth: Bools) -> float:
    """The share of pairs of a masked and a bare face that are in the right order, ties half (Mann and Whitney 1947)."""
    bare = np.sort(scores[~truth])
    below = np.searchsorted(bare, scores[truth], "left") + np.searchsorted(bare, scores[truth], "right")
    return float(below.mean() / 2 / len(bare))


def calibration_error(scores: Floats, truth: Bools, bins: int = 15) -> float:
    """Expected calibration error of the probability of a mask, over bins of equal width (Naeini et al. 2015)."""
    bin_of = np.minimum((scores * bins).astype(int), bins - 1)
    return sum(abs(float((scores - truth)[bin_of == b].sum())) for b in range(bins)) / len(scores)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("training.mask_state", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, help="folder of the training data; else OMOTE_DATA")
    parser.add_argument("--out", type=Path, default=Path("out/mask_state"))
    parser.add_argument("--rounds", type=int, default=2, help="how often every face is drawn")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=60, help="start no epoch after so many minutes of training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    return parser.parse_args(arguments)


def _packed(options: argparse.Namespace, part: Part) -> MaskedFaces:
    """The crops of a part, drawn once and then kept in ``--out``."""
    path = options.out / f"{part}.npz"
    if not path.is_file():
        rounds = options.rounds if part == "train" else 1
        crops = draw_faces(options.data or data_folder(), part, rounds, SEEDS[part])
        made = pack(track(crops, description=f"drawing {part}"))
        np.savez(path, pixels=made.pixels, masked=made.masked, kinds=made.kinds)
    with np.load(path) as kept:
        return MaskedFaces(kept["pixels"], kept["masked"], kept["kinds"])


def _resume(checkpoint: Path, net: MaskState, optimiser: Optimizer) -> int:
    if not checkpoint.is_file():
        return 0
    kept = torch.load(checkpoint, weights_only=True)
    net.load_state_dict(kept["net"])
    optimiser.load_state_dict(kept["optimiser"])
    return int(kept["done"])


def _epoch(net: MaskState, optimiser: Optimizer, data: MaskedFaces, epoch: int, epochs: int) -> float:
    """One pass over the data; gives the mean loss. Its randomness depends on the epoch alone, resumed or not."""
    net.train()
    torch.manual_seed(epoch)
    steps, total = len(data.pixels) // BATCH, 0.0
    for step, (crops, truth) in enumerate(track(_batches(data, steps), f"epoch {epoch + 1}/{epochs}", total=steps)):
        _set_rate(optimiser, (epoch + step / steps) / epochs)
        loss = nn.functional.binary_cross_entropy_with_logits(net.look(crops), truth)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        total += loss.item()
    return total / steps


def _batches(data: MaskedFaces, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches, mirrored at random, with a random light and contrast for each crop."""
    pixels, masked = torch.from_numpy(data.pixels), torch.from_numpy(data.masked).float()
    for rows in torch.split(torch.randperm(len(pixels))[: steps * BATCH], BATCH):
        crops = _floats(pixels[rows])
        crops = torch.where(torch.rand(BATCH, 1, 1, 1) < 0.5, crops, crops.flip(3))
        contrast, light = 0.8 + 0.4 * torch.rand(BATCH, 1, 1, 1), 20 * torch.randn(BATCH, 3, 1, 1) * torch.tensor(0.5)
        yield (crops - 127.5) * contrast + 127.5 + light, masked[rows]


def _set_rate(optimiser: Optimizer, progress: float) -> None:
    """Warm-up over the first twentieth, then down along a cosine."""
    warm = min(1.0, progress / 0.05)
    optimiser.param_groups[0]["lr"] = RATE * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def _floats(pixels: Tensor) -> Tensor:
    return pixels.permute(0, 3, 1, 2).float()


def _record(out: Path, figures: dict[str, object]) -> None:
    """Adds a line to ``metrics.jsonl``, shows it, and draws the curves anew."""
    with (out / "metrics.jsonl").open("a") as log:
        log.write(json.dumps(figures) + "\n")
    Console().print_json(data=figures, indent=None)
    _draw_curves(out)


def _draw_curves(out: Path) -> None:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if "epoch" in line]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    losses, rates = figure.subplots(1, 2)
    at = [line["epoch"] for line in epochs]
    losses.plot(at, [line["loss"] for line in epochs], label="training")
    losses.plot(at, [line["held_out"]["log_loss"] for line in epochs], label="people and masks held out")
    losses.set(xlabel="epoch", ylabel="log loss", yscale="log")
    rates.plot(at, [1 - line["held_out"]["tpr"] for line in epochs], label="masks missed")
    rates.plot(at, [line["held_out"]["fpr"] for line in epochs], label="bare faces called masked")
    rates.set(xlabel="epoch", ylabel="rate at 0.5, held out", yscale="log")
    for axes in (losses, rates):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(out / "curves.png", dpi=100)


if __name__ == "__main__":
    main()
