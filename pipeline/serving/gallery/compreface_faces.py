"""CompreFace's REST API, second half: who is in a picture, and is it the same person."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from pipeline.gallery.desk import READING
from pipeline.gallery.errors import NoFaceError
from pipeline.gallery.service import GalleryService
from pipeline.gallery.subjects import Caller
from pipeline.serving.gallery.asking import Asking, opens
from pipeline.serving.gallery.bodies import declared, files
from pipeline.serving.gallery.compreface import FILE, REFUSALS
from pipeline.serving.gallery.compreface_shapes import (
    CompreFaceRoute,
    FaceAnswer,
    FacesAnswer,
    Given,
    Likeness,
    claimed,
    face,
    similarity,
    subjects,
    threshold,
    versions,
)
from pipeline.serving.gallery.names import FacePath
from pipeline.serving.gallery.views import Vector, Vectors, array

TWO_FILES = declared("source_image", "target_image")
VECTORS = {"requestBody": {"required": True}}  # FastAPI describes it; that it may be long is all there is to say

recognition = APIRouter(route_class=CompreFaceRoute, responses=REFUSALS, tags=["CompreFace: faces"])


class Comparison(BaseModel):
    """The face of the first picture, and how much those of the second are like it."""

    source_image_face: FaceAnswer
    face_matches: list[FaceAnswer]
    plugins_versions: dict[str, str] | None = None


class Comparisons(BaseModel):
    """One comparison, in a list, as CompreFace has it."""

    result: list[Comparison]


class Embeddings(BaseModel):
    """Vectors of faces."""

    embeddings: Vectors


class SourceAndTargets(BaseModel):
    """One vector, and others that are held against it."""

    source: Vector
    targets: Vectors


class VectorLikeness(BaseModel):
    """A vector, and how much it is like the one that it was held against."""

    embedding: list[float]
    similarity: float


class VectorLikenesses(BaseModel):
    """One for each vector."""

    result: list[VectorLikeness]


class VectorSubjects(BaseModel):
    """A vector, and who it may be."""

    embedding: list[float]
    similarities: list[Likeness]


class VectorsSubjects(BaseModel):
    """One for each vector."""

    result: list[VectorSubjects]


@recognition.post(
    "/recognition/recognize",
    response_model_exclude_none=True,
    openapi_extra=opens(READING, "recognition", FILE),
)
async def recognize_v1(request: Request, asked: Asking, options: Given) -> FacesAnswer:
    """Who the faces of a picture are."""
    (data,) = await files(request, "file")

    def recognize(gallery: GalleryService, caller: Caller) -> FacesAnswer:
        began, top = time.perf_counter(), options.prediction_count
        found = gallery.search(
            caller,
            gallery.desk.picture(caller, "search", data),
            most_faces=options.limit,
            top=top,
            least_score=options.det_prob_threshold,
            vectors="calculator" in options.plugins,
        )
        took_ms = 1000 * (time.perf_counter() - began)
        told = [face(one.face, options, took_ms, one.vector, subjects=subjects(one, top)) for one in found if one.face]
        return _some(told, versions(options, gallery.desk.faces.model))

    return await asked.slowly(recognize)


@recognition.post(
    "/recognition/faces/{image_id}/verify",
    response_model_exclude_none=True,
    openapi_extra=opens(READING, "recognition", FILE),
)
async def verify_face_v1(image_id: FacePath, request: Request, asked: Asking, options: Given) -> FacesAnswer:
    """How much the faces of a picture are like an enrolled one."""
    (data,) = await files(request, "file")

    def verify(gallery: GalleryService, caller: Caller) -> FacesAnswer:
        began = time.perf_counter()
        found = gallery.verify(
            caller,
            gallery.desk.picture(caller, "verify", data),
            template_id=image_id,
            most_faces=options.limit,
            least_score=options.det_prob_threshold,
        )
        took_ms = 1000 * (time.perf_counter() - began)
        told = [face(one.face, options, took_ms, one.vector, similarity=claimed(one)) for one in found if one.face]
        return _some(told, versions(options, gallery.desk.faces.model))

    return await asked.slowly(verify)


@recognition.post(
    "/detection/detect", response_model_exclude_none=True, openapi_extra=opens(READING, "detection", FILE)
)
async def detect_v1(request: Request, asked: Asking, options: Given) -> FacesAnswer:
    """Where the faces of a picture are."""
    (data,) = await files(request, "file")

    def detect(gallery: GalleryService, caller: Caller) -> FacesAnswer:
        began, image = time.perf_counter(), gallery.desk.picture(caller, "detect", data)
        pairs = gallery.embed(caller, image, least_score=options.det_prob_threshold)
        took_ms = 1000 * (time.perf_counter() - began)
        told = [face(view, options, took_ms, vector) for view, vector in pairs[: options.limit or None]]
        return _some(told, versions(options, gallery.desk.faces.model))

    return await asked.slowly(detect)


@recognition.post(
    "/verification/verify",
    response_model_exclude_none=True,
    openapi_extra=opens(READING, "verification", TWO_FILES),
)
async def compare_v1(request: Request, asked: Asking, options: Given) -> Comparisons:
    """How much the faces of one picture are like the face of another."""
    source, target = await files(request, "source_image", "target_image")

    def compare(gallery: GalleryService, caller: Caller) -> Comparisons:
        began, limits = time.perf_counter(), gallery.desk.store.policy().limits
        one, others = gallery.compare(
            caller,
            gallery.desk.picture(caller, "compare", source),
            gallery.desk.picture(caller, "compare", target),
            most_faces=options.limit,
            least_score=options.det_prob_threshold,
        )
        took_ms = 1000 * (time.perf_counter() - began)
        told = []
        for view, cosine in others:
            limit = threshold(view, limits)
            scaled = similarity(cosine, limit, accepted=cosine >= limit)
            told.append(face(view, options, took_ms, similarity=scaled))
        version = versions(options, gallery.desk.faces.model)
        source_face = face(one, options, took_ms)
        return Comparisons(
            result=[Comparison(source_image_face=source_face, face_matches=told, plugins_versions=version)]
        )

    return await asked.slowly(compare)


@recognition.post("/recognition/embeddings/recognize", openapi_extra=opens(READING, "recognition", VECTORS))
async def recognize_vectors_v1(
    given: Embeddings, asked: Asking, prediction_count: Annotated[int, Query(ge=1, le=100)] = 1
) -> VectorsSubjects:
    """Who these vectors may be."""
    vectors = array(given.embeddings)
    found = await asked.quickly(
        lambda gallery, caller: gallery.search_vectors(caller, vectors, "", top=prediction_count)
    )
    told = [
        VectorSubjects(embedding=vector, similarities=subjects(one, prediction_count))
        for vector, one in zip(given.embeddings, found, strict=True)
    ]
    return VectorsSubjects(result=told)


@recognition.post(
    "/recognition/embeddings/faces/{image_id}/verify", openapi_extra=opens(READING, "recognition", VECTORS)
)
async def verify_vectors_v1(image_id: FacePath, given: Embeddings, asked: Asking) -> VectorLikenesses:
    """How much these vectors are like an enrolled face."""
    vectors = array(given.embeddings)
    found = await asked.quickly(
        lambda gallery, caller: gallery.verify_vectors(caller, vectors, "", template_id=image_id)
    )
    pairs = zip(given.embeddings, found, strict=True)
    return VectorLikenesses(result=[VectorLikeness(embedding=each, similarity=claimed(one)) for each, one in pairs])


@recognition.post("/verification/embeddings/verify", openapi_extra=opens(READING, "verification", VECTORS))
async def compare_vectors_v1(given: SourceAndTargets, asked: Asking) -> VectorLikenesses:
    """How much these vectors are like the first one."""
    source, targets = array([given.source])[0], array(given.targets)

    def compare(gallery: GalleryService, caller: Caller) -> list[float]:
        cosines = gallery.compare_vectors(caller, source, targets)
        limit = gallery.desk.store.policy().limits.threshold
        return [similarity(cosine, limit, accepted=cosine >= limit) for cosine in cosines]

    pairs = zip(given.targets, await asked.quickly(compare), strict=True)
    return VectorLikenesses(result=[VectorLikeness(embedding=each, similarity=scaled) for each, scaled in pairs])


def _some(found: list[FaceAnswer], version: dict[str, str] | None) -> FacesAnswer:
    """The answer, if there is a face at all.

    Raises:
        NoFaceError: There is none.
    """
    if not found:
        message = "No face is found in the given image"
        raise NoFaceError(message)
    return FacesAnswer(result=found, plugins_versions=version)
