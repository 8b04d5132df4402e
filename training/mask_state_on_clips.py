"""Tests the mask state on the packaged clips, bare and with masks drawn: ``python -m training.mask_state_on_clips``.

None of these people and none of the four cloths were seen in training. Every face goes through the
detector, so that its crop is cut as in the pipeline. Prints one JSON object.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import av
import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from operators import weights
from operators.detect import Detect
from operators.nets import mask_state
from pipeline.compute import Compute
from pipeline.packets import Face, Frame, Pixels
from training.drawn_masks import draw, read_textures

CLIPS = ("langer", "single_face", "face_noface", "cap12", "cap13", "carphone")


def main(arguments: Sequence[str] | None = None) -> None:
    """Looks at every ``--every``-th picture of each clip."""
    parser = argparse.ArgumentParser("training.mask_state_on_clips")
    parser.add_argument("--every", type=int, default=10)
    every = parser.parse_args(arguments).every
    detect, net = Detect(Compute(), min_score=0.6), mask_state.load()
    cloths = read_textures(weights.path("mask_textures"))
    bare: dict[str, list[float]] = {clip: [] for clip in CLIPS}
    drawn: dict[str, list[float]] = {cloth: [] for cloth in cloths}
    missed = 0
    for clip in CLIPS:
        for image in track(list(islice(_pictures(weights.path(clip)), 0, None, every)), description=clip):
            face = _largest(detect, image)
            if face is None:
                continue
            bare[clip].append(_probability(net, face))
            for name, cloth in cloths.items():
                masked = _largest(detect, draw(image, face.landmarks, cloth)[0])
                missed += masked is None
                drawn[name] += [_probability(net, masked)] if masked else []
    Console().print_json(data=_figures(bare, drawn, missed))


def _figures(bare: dict[str, list[float]], drawn: dict[str, list[float]], missed: int) -> dict[str, object]:
    all_bare, all_drawn = (np.concatenate([np.array(p) for p in group.values()]) for group in (bare, drawn))
    return {
        "bare_faces": len(all_bare),
        "fpr": float((all_bare >= 0.5).mean()),
        "fpr_by_clip": {clip: round(float((np.array(p) >= 0.5).mean()), 4) for clip, p in bare.items()},
        "highest_bare_by_clip": {clip: round(max(p), 3) for clip, p in bare.items()},
        "masked_faces": len(all_drawn),
        "not_detected": missed,
        "tpr": float((all_drawn >= 0.5).mean()),
        "tpr_by_cloth": {cloth: round(float((np.array(p) >= 0.5).mean()), 4) for cloth, p in drawn.items()},
        "mean_masked": float(all_drawn.mean()),
    }


def _pictures(path: Path) -> Iterator[Pixels]:
    with av.open(path) as clip:
        for picture in clip.decode(video=0):
            yield np.asarray(picture.to_ndarray(format="rgb24"), np.uint8)


def _largest(detect: Detect, image: Pixels) -> Face | None:
    faces = detect([Frame("clip", 0, 0, 0, image)])
    return max(faces, key=lambda face: float(face.box[3] - face.box[1]), default=None)


def _probability(net: mask_state.MaskState, face: Face) -> float:
    with torch.inference_mode():
        return float(net.forward_images(torch.from_numpy(face.crop[None]))[0])


if __name__ == "__main__":
    main()
