"""CompreFace's answers and errors: what its clients have learnt to read."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any, Final

from fastapi import Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from pipeline.gallery.answers import FaceView, Found
from pipeline.gallery.errors import (
    AwayError,
    DuplicateError,
    ForbiddenError,
    GalleryError,
    InvalidError,
    ManyFacesError,
    NoFaceError,
    PictureError,
    RefusedError,
    UnknownError,
)
from pipeline.gallery.subjects import Limits
from pipeline.packets import Candidate, Floats
from pipeline.redact import redact
from pipeline.serving.gallery.asking import GalleryRoute
from pipeline.serving.gallery.bodies import MissingFileError

SLOPE = 5.0
DOUBTFUL = 0.49999  # no client that takes 0.5 for enough takes this
RETRY_S = 2

# Its numbers of errors; 0 is its word for anything else.
UNDEFINED, NO_KEY, WRONG_KEY, NO_PARAMETER, SUBJECT_UNKNOWN, ARGUMENT = 0, 20, 10, 33, 42, 36
# Status and number of what we raise.
REFUSALS: Final[Mapping[type[Exception], tuple[int, int]]] = {
    MissingFileError: (400, 34),
    NoFaceError: (400, 28),
    ManyFacesError: (400, 31),
    PictureError: (400, 21),
    UnknownError: (404, 44),
    DuplicateError: (400, 43),
    InvalidError: (400, 26),
    ForbiddenError: (403, UNDEFINED),
    RefusedError: (409, 27),
    AwayError: (503, 41),
    GalleryError: (503, 41),
    RequestValidationError: (400, 26),
}
REFUSED: Final[tuple[type[Exception], ...]] = (HTTPException, *REFUSALS)


class Refusal(BaseModel):
    """Why a request was refused.

    Attributes:
        message: In a sentence.
        code: In CompreFace's numbers.
    """

    message: str = Field(examples=["No face is found in the given image"])
    code: int = Field(examples=[28])


class Options(BaseModel):
    """What every request with a picture may say.

    Attributes:
        limit: Most faces, the largest first; all if 0.
        det_prob_threshold: Least confidence of the detector.
        face_plugins: What to tell of each face, by comma; what is not known here is left out, as there.
        status: Whether to tell how long it took, and what computed it.
        prediction_count: Most subjects for each face.
        detect_faces: Faces are always looked for: without landmarks nobody is aligned.
    """

    model_config = ConfigDict(allow_inf_nan=False)
    limit: Annotated[int, Field(ge=0, le=10_000)] = 0
    det_prob_threshold: Annotated[float, Field(ge=0, le=1)] = 0.0
    face_plugins: Annotated[str, Field(max_length=256, examples=["landmarks,mask,calculator"])] = ""
    status: bool = False
    prediction_count: Annotated[int, Field(ge=1, le=100)] = 1
    detect_faces: bool = True

    @property
    def plugins(self) -> set[str]:
        """Those that are asked for."""
        return {plugin.strip() for plugin in self.face_plugins.split(",")}


Given = Annotated[Options, Query()]


class Box(BaseModel):
    """Where a face is, in pixels of the upright picture."""

    probability: float
    x_max: int
    y_max: int
    x_min: int
    y_min: int


class Mask(BaseModel):
    """Whether it wears a mask."""

    probability: float
    value: str


class Likeness(BaseModel):
    """Who it may be."""

    subject: str
    similarity: float


class FaceAnswer(BaseModel):
    """One face; what was not asked for is not there."""

    box: Box
    landmarks: list[tuple[int, int]] | None = None
    mask: Mask | None = None
    embedding: list[float] | None = None
    subjects: list[Likeness] | None = None
    similarity: float | None = None
    execution_time: dict[str, float] | None = None


class FacesAnswer(BaseModel):
    """The faces of a picture."""

    result: list[FaceAnswer]
    plugins_versions: dict[str, str] | None = None


def similarity(cosine: float, threshold: float, *, accepted: bool) -> float:
    """CompreFace's scale, 0 to 1: half is the threshold of this gallery, and who is not accepted is below it.

    It has CompreFace's form, ``(1 + tanh(k (d0 - d))) / 2``, where d is the Euclidean distance of the two vectors and
    d0 that of two whose cosine is the threshold.
    """
    distance, limit = (math.sqrt(max(0.0, 2 - 2 * value)) for value in (cosine, threshold))
    scaled = round((1 + math.tanh(SLOPE * (limit - distance))) / 2, 5)
    return max(0.5, scaled) if accepted else min(DOUBTFUL, scaled)


def face(view: FaceView, options: Options, took_ms: float, vector: Floats | None = None, **more: Any) -> FaceAnswer:
    """What is told of a face."""
    left, top, right, bottom = (max(0, round(edge)) for edge in view.box)
    worn = "mask_worn_correctly" if view.masked else "without_mask"
    sure = view.mask_probability if view.masked else 1 - view.mask_probability
    told: dict[str, Any] = {
        "landmarks": [(round(x), round(y)) for x, y in view.landmarks],
        "mask": Mask(probability=round(sure, 5), value=worn),
        "calculator": None if vector is None else vector.tolist(),
    }
    kept = {name: value for name, value in told.items() if name in options.plugins}
    return FaceAnswer(
        box=Box(probability=round(view.score, 5), x_min=left, y_min=top, x_max=right, y_max=bottom),
        landmarks=kept.get("landmarks"),
        mask=kept.get("mask"),
        embedding=kept.get("calculator"),
        execution_time={"detector": round(took_ms, 1)} if options.status else None,
        **more,
    )


def subjects(found: Found, top: int) -> list[Likeness]:
    """Who a face may be, the likeliest first."""
    accepted = found.decision == "known"

    def likeness(place: int, candidate: Candidate) -> Likeness:
        scaled = similarity(candidate.score, found.threshold, accepted=accepted and place == 0)
        return Likeness(subject=candidate.subject_id, similarity=scaled)

    return [likeness(place, candidate) for place, candidate in enumerate(found.candidates[:top])]


def claimed(found: Found) -> float:
    """How much a face is like the one that it was held against."""
    return similarity(found.score, found.threshold, accepted=found.decision == "known")


def threshold(view: FaceView, limits: Limits) -> float:
    """What a comparison of this face is held against."""
    return limits.masked_threshold if view.masked else limits.threshold


def versions(options: Options, model: str) -> dict[str, str] | None:
    """What computed the answer, where that was asked for."""
    if not options.status:
        return None
    known = {"landmarks": "omote.landmarks", "mask": "omote.mask"}
    asked = {name: version for name, version in known.items() if name in options.plugins}
    return {"detector": "omote.detect", "calculator": f"omote.{model}", **asked}


class CompreFaceRoute(GalleryRoute):
    """A route whose errors are CompreFace's."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        handle = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handle(request)
            except REFUSED as error:
                return _refused(request, error)

        return answered


def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        shown = "x-api-key" in request.headers or "authorization" in request.headers
        code = {401: WRONG_KEY if shown else NO_KEY, 403: WRONG_KEY}.get(error.status_code, UNDEFINED)
        return _answer(error.status_code, error.detail, code, error.headers)
    status, code = next(REFUSALS[kind] for kind in type(error).__mro__ if kind in REFUSALS)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        code = NO_PARAMETER if first["type"] == "missing" and first["loc"][0] == "query" else code
        return _answer(status, f"{'.'.join(str(step) for step in first['loc'][1:])}: {first['msg']}"[:200], code)
    return _answer(
        status, str(error), _code(request, error, code), {"Retry-After": str(RETRY_S)} if status == 503 else None
    )


def _code(request: Request, error: Exception, code: int) -> int:
    """Where CompreFace has several numbers for what is one kind of error here."""
    path = request.scope["path"]
    if isinstance(error, UnknownError) and "/subjects" in path:
        return SUBJECT_UNKNOWN
    return ARGUMENT if type(error) is InvalidError and "/embeddings" in path else code


def _answer(status: int, said: str, code: int, headers: Mapping[str, str] | None = None) -> Response:
    message = redact(said).encode("utf-8", "replace").decode()
    return JSONResponse(Refusal(message=message, code=code).model_dump(), status, headers)
