"""Compose the demo out of packaged clips: a wall of four cameras, and two people who cross.

Written into a folder:

* ``demo.mp4``: four cameras, four people who come and go; one of them puts on a drawn mask halfway.
* ``unmasked.mp4``: the same pictures without the mask, the truth for restoration and identity.
* ``truth.json``: who is seen where and when, where the mask lies, who is enrolled.
* ``crossing.mp4`` and ``crossing.json``: two people who cross, one hidden by the other for a moment.
* ``enrol/<person>/<n>.jpg``: photos of the two people the gallery knows, of moments the demo does not show.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import count
from pathlib import Path

import cv2
import numpy as np
from rich.progress import Progress as ProgressBar

from deploy.demo import crossing, wall
from deploy.demo.film import FPS, Detect, Detection, as_rgb, clip_path, largest, read_reel
from operators import weights
from operators.detect import Detect as FaceDetector
from pipeline.compute import Compute
from pipeline.errors import PipelineError
from pipeline.packets import Floats, Frame, Pixels
from training import drawn_masks

Progress = Callable[[int, int], None]  # frames done, frames in all

CLIPS = ("langer", "single_face", "cap12", "cap13", "carphone")


def compose(
    out: Path, clips: Mapping[str, Path], texture: Path, detect: Detect, progress: Progress = lambda *_: None
) -> None:
    """Write the demo's files into ``out``; does nothing where they are up to date.

    Args:
        out: Folder to write to; made if it does not exist.
        clips: Files by the names in ``CLIPS``.
        texture: Photo of the mask.
        detect: Finds the faces in a (H, W, 3) uint8 RGB picture: box and five landmarks each.
        progress: Called with the frames done and the frames in all.

    Raises:
        SourceError: A clip is missing or cannot be read, or no face is found where one must be.
    """
    stamp, mark = out / "stamp", _fingerprint([*(clip_path(clips, name) for name in CLIPS), texture])
    if stamp.exists() and stamp.read_text() == mark:
        return
    out.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    done, total = count(1), (wall.SECONDS + crossing.SECONDS) * FPS
    wall.film_wall(out, clips, texture, detect, lambda: progress(next(done), total))
    crossing.film_crossing(out, clips, detect, lambda: progress(next(done), total))
    _take_photos(out / "enrol", clips, detect)
    stamp.write_text(mark)


def _fingerprint(inputs: Iterable[Path]) -> str:
    """Stands for all that the outputs depend on: the programs and what they read."""
    programs = [*sorted(Path(__file__).parent.glob("*.py")), Path(drawn_masks.__file__)]
    digest = hashlib.blake2b()
    for path in [*programs, *inputs]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _take_photos(folder: Path, clips: Mapping[str, Path], detect: Detect) -> None:
    for camera in wall.CAMERAS:
        for number, (clip, frame) in enumerate(camera.photos, start=1):
            picture = as_rgb(read_reel(clip_path(clips, clip), [frame])[frame])
            photo = _portrait(picture, largest(detect(picture), clip)[0])
            path = folder / camera.person / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), cv2.cvtColor(photo, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])


def _portrait(picture: Pixels, box: Floats) -> Pixels:
    """The face with more than half its size around it, as far as the picture reaches."""
    middle, reach = (box[:2] + box[2:]) / 2, 1.1 * np.max(box[2:] - box[:2])
    (left, top), (right, bottom) = np.maximum(middle - reach, 0).astype(int), (middle + reach).astype(int)
    return picture[top:bottom, left:right]


def packaged_clips() -> dict[str, Path]:
    """The clips that ``omote models pull`` brought, by name.

    Raises:
        WeightsError: They were not pulled.
    """
    return {name: weights.path(name) for name in CLIPS}


def face_detector() -> Detect:
    """The project's own detector as a function of one picture of any size.

    Raises:
        WeightsError: Its weights were not pulled.
    """
    detector = FaceDetector(Compute(device="cpu", engine="torch"), size=320)

    def detect(picture: Pixels) -> list[Detection]:
        return [(face.box, face.landmarks) for face in detector([Frame("demo", 0, 0, 0, picture)])]

    return detect


def main() -> None:
    """Compose the demo out of the packaged clips."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("out", type=Path, help="folder to write to")
    out = parser.parse_args().out
    try:
        texture = weights.path("mask_textures") / "mask_blue.jpg"
        with ProgressBar(transient=True) as bar:
            task = bar.add_task("composing the demo clip")
            show = partial(bar.update, task)
            compose(
                out, packaged_clips(), texture, face_detector(), lambda done, total: show(completed=done, total=total)
            )
    except PipelineError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"cannot write the demo to {out}: {error.strerror or error}; free some space or choose another folder")


if __name__ == "__main__":
    main()
