"""The second interface: faces of pictures, vectors, unknown people, and who was seen."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from pydantic import AwareDatetime

from pipeline.gallery.desk import READING, WRITING
from pipeline.gallery.errors import UnknownError
from pipeline.gallery.service import GalleryService
from pipeline.gallery.subjects import Caller
from pipeline.records import ExplanationRecord
from pipeline.serving import problems
from pipeline.serving.gallery.asking import Asking, GalleryRoute, opens
from pipeline.serving.gallery.bodies import declared, files
from pipeline.serving.gallery.names import Text
from pipeline.serving.gallery.views import (
    After,
    Assignment,
    ClaimGiven,
    ClusterPage,
    EnrolledFace,
    EnrolledFaces,
    Face,
    Faces,
    Identities,
    Identity,
    Ignored,
    Limit,
    MatchPage,
    Score,
    Seen,
    Top,
    VectorsGiven,
    array,
    page,
)
from pipeline.serving.problems import Kind

NO_KEY = Kind(
    401, "", "Unauthorized", "Show an API key in the header `x-api-key`, or as `Authorization: Bearer <key>`."
)
ALWAYS = (
    *(NO_KEY, problems.FORBIDDEN, problems.GALLERY_FORBIDDEN, problems.TOO_SLOW, problems.TOO_LARGE),
    *(problems.INVALID_REQUEST, problems.GALLERY_INVALID, problems.TOO_MANY, problems.UNEXPECTED),
    *(problems.GALLERY_AWAY, problems.GALLERY_SHUT, problems.NO_JSON),
)
PICTURE = problems.declared(problems.INVALID_REQUEST, problems.GALLERY_INVALID, problems.GALLERY_PICTURE)
NO_KIND = problems.declared(problems.NO_KIND)
UNKNOWN = problems.declared(problems.GALLERY_UNKNOWN)
LONG = {"requestBody": {"required": True}}  # FastAPI describes the body; that it may be long is all there is to add

faces = APIRouter(route_class=GalleryRoute, responses=problems.declared(*ALWAYS))
ExplanationPath = Annotated[
    Text, Path(description="As `explain` of the match's record names it.", examples=["d68c99a93902"])
]
ClusterPath = Annotated[Text, Path(description="Id of the cluster.", examples=["0f3c9a51d2e4"])]


@faces.post(
    "/faces/detect",
    tags=["faces"],
    summary="Find the faces of a picture",
    response_model_exclude_none=True,
    responses={**PICTURE, **NO_KIND},
    openapi_extra=opens(READING, body=declared("file")),
)
async def detect(
    request: Request,
    asked: Asking,
    recognize: Annotated[bool, Query(description="Whether to say who they are.")] = False,
    most_faces: Faces = 0,
    top: Top = 1,
    least_score: Score = 0.0,
    vectors: Annotated[bool, Query(description="Whether to give their vectors, with `recognize`.")] = False,
) -> Seen:
    """Where faces are and how good they are; and who, if that is asked for."""
    (data,) = await files(request, "file")

    def look(gallery: GalleryService, caller: Caller) -> Seen:
        image = gallery.desk.picture(caller, "search" if recognize else "detect", data)
        if not recognize:
            found = gallery.detect(caller, image, least_score=least_score)
            return Seen.of(found[: most_faces or None])
        identities = gallery.search(
            caller, image, most_faces=most_faces, top=top, least_score=least_score, vectors=vectors
        )
        shown = [Face.model_validate(each.face) for each in identities if each.face]
        return Seen(faces=shown, identities=[Identity.of(each) for each in identities])

    return await asked.slowly(look)


@faces.post(
    "/vectors/search",
    tags=["faces"],
    summary="Say who vectors are",
    response_model_exclude_none=True,
    openapi_extra=opens(READING, body=LONG),
)
async def search_vectors(given: VectorsGiven, asked: Asking, top: Top = 1) -> Identities:
    """Who these vectors are; those of another net than the gallery's are refused."""
    vectors = array(given.vectors)
    found = await asked.quickly(
        lambda gallery, caller: gallery.search_vectors(caller, vectors, given.model, top=top, masked=given.masked)
    )
    return Identities.of(found)


@faces.post(
    "/vectors/verify",
    tags=["faces"],
    summary="Hold vectors against a subject",
    response_model_exclude_none=True,
    responses=UNKNOWN,
    openapi_extra=opens(READING, body=LONG),
)
async def verify_vectors(given: ClaimGiven, asked: Asking) -> Identities:
    """Whether these vectors are of this subject."""
    vectors = array(given.vectors)
    found = await asked.quickly(
        lambda gallery, caller: gallery.verify_vectors(caller, vectors, given.model, subject_id=given.subject)
    )
    return Identities.of(found)


@faces.get(
    "/unknowns/clusters",
    tags=["unknown people"],
    summary="List unknown people",
    responses=UNKNOWN,
    openapi_extra=opens(READING),
)
async def list_clusters(asked: Asking, after: After = "", limit: Limit = 100) -> ClusterPage:
    """Faces of streams that nobody knows, grouped by who they may be; the largest group first."""
    found = await asked.thoroughly(lambda gallery, caller: gallery.clusters(caller))
    names = [each.id for each in found]
    if after and after not in names:
        message = f"there is no cluster {after!r} any more; list them from the first page"
        raise UnknownError(message)
    shown, last = page(found[names.index(after) + 1 if after else 0 :], limit)
    return ClusterPage(clusters=shown, next=last.id if last else None)


@faces.post(
    "/unknowns/clusters/{cluster}/assign",
    tags=["unknown people"],
    summary="Say who an unknown person is",
    status_code=201,
    responses=UNKNOWN,
    openapi_extra=opens(WRITING),
)
async def assign_cluster(cluster: ClusterPath, given: Assignment, asked: Asking) -> EnrolledFaces:
    """The best faces of the cluster become templates of the subject, who is added where there is none."""
    made = await asked.thoroughly(lambda gallery, caller: gallery.assign(caller, cluster, given.subject))
    return EnrolledFaces(faces=EnrolledFace.several(made))


@faces.post(
    "/unknowns/clusters/{cluster}/ignore",
    tags=["unknown people"],
    summary="Ask no more about an unknown person",
    responses=UNKNOWN,
    openapi_extra=opens(WRITING),
)
async def ignore_cluster(cluster: ClusterPath, asked: Asking) -> Ignored:
    """Nobody is asked about this person, nor about who looks like them, until these faces are forgotten.

    That is after `unknown_ttl_s` of the policy.
    """
    return Ignored(ignored=await asked.thoroughly(lambda gallery, caller: gallery.ignore(caller, cluster)))


@faces.get("/matches", tags=["matches"], summary="List who was seen", openapi_extra=opens(READING))
async def list_matches(
    asked: Asking,
    subject: Annotated[Text, Query(description="Only this subject.")] = "",
    stream: Annotated[Text, Query(description="Only this stream.")] = "",
    since: Annotated[AwareDatetime | None, Query(alias="from", description="Not before this time.")] = None,
    until: Annotated[AwareDatetime | None, Query(alias="to", description="Before this time.")] = None,
    after: Annotated[str, Query(pattern=r"^[0-9]{0,9}$", description="`next` of the page before.")] = "",
    limit: Limit = 100,
) -> MatchPage:
    """Who was recognised in streams, the latest first."""
    found = await asked.quickly(
        lambda gallery, caller: gallery.matches(
            caller, subject=subject, stream=stream, since=since, until=until, after=after, limit=limit
        )
    )
    return MatchPage(matches=list(found.sightings), next=found.next or None)


@faces.get(
    "/explanations/{explanation}",
    tags=["matches"],
    summary="Say why somebody was recognised",
    responses=UNKNOWN,
    openapi_extra=opens(READING),
)
async def get_explanation(explanation: ExplanationPath, asked: Asking) -> ExplanationRecord:
    """Why a face in a stream was taken for a subject; kept for as long as the match."""

    def find(gallery: GalleryService, caller: Caller) -> ExplanationRecord:
        with gallery.desk.asked(caller, "matches") as said:
            found = ExplanationRecord.model_validate(gallery.desk.tracks.explanation(explanation))
            said.about, said.count, said.details = [found.target], 1, {"what": "explanation"}
        return found

    return await asked.quickly(find)
