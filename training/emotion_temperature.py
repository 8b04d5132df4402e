"""Finds the temperature that makes the per-frame emotion net say honestly how sure it is.

``python -m training.emotion_temperature`` prints the value of ``operators.encode.TEMPERATURE`` and the calibration
error before and after, on pictures that were not used to find it.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import cv2
import numpy as np
import torch
from torch import Tensor

from operators.nets import expression
from pipeline.packets import EMOTIONS, Pixels
from training.faces import data_folder

LABELS = {
    "anger": "angry", "angry": "angry", "disgust": "disgusted", "fear": "fearful", "happy": "happy",
    "happiness": "happy", "neutral": "neutral", "sad": "sad", "sadness": "sad", "surprise": "surprised",
}  # fmt: skip
SIDE = expression.SIDE


def main() -> None:
    """Fit on one half of the pictures, report on the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=None, help="folder of the data; OMOTE_DATA if not given")
    parser.add_argument("--pictures", type=int, default=4000, help="pictures of each set")
    given = parser.parse_args()
    folder = given.data or data_folder()
    sets = {"lfw": list(lfw(folder, given.pictures)), "fer2013": list(fer2013(folder, given.pictures))}
    scored = {name: (logits([p for p, _ in each]), torch.tensor([y for _, y in each])) for name, each in sets.items()}
    halves = {name: (values[0::2], labels[0::2]) for name, (values, labels) in scored.items()}
    temperature = fitted(list(halves.values()))
    print(json.dumps({"temperature": round(temperature, 2)}))
    for name, (values, labels) in scored.items():
        kept, truth = values[1::2], labels[1::2]
        accuracy = float((kept.argmax(1) == truth).float().mean())
        before, after = (calibration_error((kept / t).softmax(1), truth) for t in (1.0, temperature))
        row = {"set": name, "pictures": len(truth), "accuracy": accuracy, "ece_before": before, "ece_after": after}
        print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}))


def fitted(sets: list[tuple[Tensor, Tensor]]) -> float:
    """The temperature with the least cross-entropy, each set weighing the same (Guo et al. 2017)."""
    exponent = torch.zeros((), requires_grad=True)
    optimiser = torch.optim.LBFGS([exponent], max_iter=100)

    def closure() -> Tensor:
        optimiser.zero_grad()
        losses = [torch.nn.functional.cross_entropy(values / exponent.exp(), labels) for values, labels in sets]
        loss = torch.stack(losses).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return float(exponent.exp().detach())


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error: mean distance of confidence and accuracy over ``bins`` of confidence."""
    confidence, said = probabilities.max(1)
    right = (said == labels).float()
    bin_of = (confidence * bins).long().clamp(max=bins - 1)
    gaps = [(right[bin_of == b] - confidence[bin_of == b]).sum().abs() for b in range(bins)]
    return float(torch.stack(gaps).sum() / len(labels))


@torch.no_grad()
def logits(pictures: list[Pixels]) -> Tensor:
    """The net's logits, (N, 7)."""
    net = expression.load()
    batches = (torch.from_numpy(np.stack(pictures[n : n + 64])) for n in range(0, len(pictures), 64))
    return torch.cat([net(batch.permute(0, 3, 1, 2).float()) for batch in batches])


def lfw(folder: Path, count: int) -> Iterator[tuple[Pixels, int]]:
    """Aligned colour faces with weak labels, as the operator crops them."""
    with (folder / "emotion" / "lfw_train_emotions.csv").open() as file:
        labels = {row["image"]: row["emotion"] for row in csv.DictReader(file)}
    with ZipFile(folder / "faces" / "lfw_train128.zip") as archive:
        named = [(name, labels.get(Path(name).name, "")) for name in archive.namelist()]
        yield from _read(archive, [(name, label) for name, label in named if label in LABELS], count)


def fer2013(folder: Path, count: int) -> Iterator[tuple[Pixels, int]]:
    """Grey 48-pixel faces; the folder is the label."""
    with ZipFile(folder / "emotion" / "fer2013_train.zip") as archive:
        named = [(name, Path(name).parent.name) for name in archive.namelist()]
        yield from _read(archive, [(name, label) for name, label in named if label in LABELS], count)


def _read(archive: ZipFile, named: list[tuple[str, str]], count: int) -> Iterator[tuple[Pixels, int]]:
    for index in np.random.default_rng(0).permutation(len(named))[:count]:
        name, label = named[int(index)]
        picture = cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_COLOR_RGB)
        shrinks = picture.shape[0] > SIDE
        sized = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
        yield np.asarray(sized, np.uint8), EMOTIONS.index(LABELS[label])


if __name__ == "__main__":
    main()
