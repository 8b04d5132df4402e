"""The second interface: subjects, their enrolled faces, and being forgotten."""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from pipeline.gallery.answers import Found
from pipeline.gallery.coverage import Coverage
from pipeline.gallery.desk import READING, WRITING
from pipeline.gallery.protocol import Template
from pipeline.gallery.receipts import SignedReceipt
from pipeline.gallery.service import GalleryService
from pipeline.gallery.subjects import Caller, Subject
from pipeline.gallery.uploads import from_base64
from pipeline.serving import problems
from pipeline.serving.gallery.asking import Asking, GalleryRoute, opens
from pipeline.serving.gallery.bodies import declared, files, jpeg, parsed
from pipeline.serving.gallery.names import FacePath, SubjectPath
from pipeline.serving.gallery.v2_faces import ALWAYS, LONG, NO_KIND, PICTURE, UNKNOWN
from pipeline.serving.gallery.views import (
    After,
    EnrolledFace,
    EnrolledFaces,
    EnrolledVectorsGiven,
    Faces,
    Identities,
    Limit,
    Moved,
    NotMeGiven,
    Score,
    SubjectChange,
    SubjectGiven,
    SubjectPage,
    SubjectsGiven,
    array,
    page,
)

DUPLICATE = problems.declared(problems.GALLERY_DUPLICATE, problems.GALLERY_REFUSED)
PHOTO = {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}
FILE = declared("file")
NOT_ME = declared(
    "file",
    vector={"type": "array", "items": {"type": "number"}, "description": "Or the vector of a face."},
    track={"type": "string", "maxLength": 256, "description": "Or the id of an unknown track."},
)

subjects = APIRouter(route_class=GalleryRoute, responses=problems.declared(*ALWAYS))


@subjects.post(
    "/subjects",
    tags=["subjects"],
    summary="Add a subject",
    status_code=201,
    responses=DUPLICATE,
    openapi_extra=opens(WRITING),
)
async def add_subject(given: SubjectGiven, asked: Asking, request: Request, response: Response) -> Subject:
    """Add somebody without a face."""
    subject = Subject.model_validate(given.model_dump())
    added = await asked.quickly(lambda gallery, caller: gallery.add_subject(caller, subject))
    response.headers["Location"] = _address(request, "get_subject", subject=added.id)
    return added


@subjects.get("/subjects", tags=["subjects"], summary="List the subjects", openapi_extra=opens(READING))
async def list_subjects(asked: Asking, after: After = "", limit: Limit = 100) -> SubjectPage:
    """Some of them, by name."""
    found = await asked.quickly(lambda gallery, caller: gallery.subjects(caller, after=after, limit=limit + 1))
    shown, last = page(found, limit)
    return SubjectPage(subjects=shown, next=last.id if last else None)


@subjects.post(
    "/subjects/merge",
    tags=["subjects"],
    summary="Make one of two",
    responses={**UNKNOWN, **DUPLICATE},
    openapi_extra=opens(WRITING),
)
async def merge_subjects(given: SubjectsGiven, asked: Asking) -> Moved:
    """``source`` is the same person as ``into``, who gets its faces; ``source`` is gone."""
    return Moved(moved=await asked.quickly(lambda gallery, caller: gallery.merge(caller, given.source, given.into)))


@subjects.get(
    "/subjects/{subject}", tags=["subjects"], summary="Show a subject", responses=UNKNOWN, openapi_extra=opens(READING)
)
async def get_subject(subject: SubjectPath, asked: Asking) -> Subject:
    """What is kept of one of them."""
    return await asked.quickly(lambda gallery, caller: gallery.subject(caller, subject))


@subjects.patch(
    "/subjects/{subject}",
    tags=["subjects"],
    summary="Change a subject",
    responses={**UNKNOWN, **DUPLICATE},
    openapi_extra=opens(WRITING),
)
async def change_subject(subject: SubjectPath, given: SubjectChange, asked: Asking) -> Subject:
    """Change what is kept of them, or their name. Who withdraws their consent is not matched from now on."""
    said = given.model_dump(exclude_unset=True)
    changes = {name: value for name, value in said.items() if value is not None or name == "expires"}
    return await asked.quickly(lambda gallery, caller: gallery.change_subject(caller, subject, **changes))


@subjects.delete(
    "/subjects/{subject}",
    tags=["subjects"],
    summary="Forget a subject",
    responses=UNKNOWN,
    openapi_extra=opens(WRITING),
)
async def erase_subject(subject: SubjectPath, asked: Asking, request: Request, response: Response) -> SignedReceipt:
    """Forget somebody everywhere. The receipt says what was removed, and until when topics may still name them."""
    said = await asked.quickly(lambda gallery, caller: gallery.erase(caller, subject))
    response.headers["Location"] = _address(request, "get_erasure", erasure=said.receipt.id)
    return said


@subjects.get(
    "/subjects/{subject}/coverage",
    tags=["subjects"],
    summary="Show what a subject lacks",
    responses=UNKNOWN,
    openapi_extra=opens(READING),
)
async def get_coverage(subject: SubjectPath, asked: Asking) -> Coverage:
    """Which poses and qualities the enrolled faces of a subject have, and lack."""
    return await asked.quickly(lambda gallery, caller: gallery.coverage(caller, subject))


@subjects.post(
    "/subjects/{subject}/verify",
    tags=["faces"],
    summary="Hold a picture against a subject",
    response_model_exclude_none=True,
    responses={**UNKNOWN, **PICTURE, **NO_KIND},
    openapi_extra=opens(READING, body=FILE),
)
async def verify_subject(
    subject: SubjectPath, request: Request, asked: Asking, most_faces: Faces = 0, least_score: Score = 0.0
) -> Identities:
    """Whether the faces of a picture are this subject; its negative anchors count."""
    (data,) = await files(request, "file")

    def verify(gallery: GalleryService, caller: Caller) -> list[Found]:
        image = gallery.desk.picture(caller, "verify", data, subject)
        return gallery.verify(caller, image, subject_id=subject, most_faces=most_faces, least_score=least_score)

    return Identities.of(await asked.slowly(verify))


@subjects.post(
    "/subjects/{subject}/not-me",
    tags=["faces"],
    summary="Say who a subject is not",
    status_code=201,
    responses={**UNKNOWN, **PICTURE, **NO_KIND},
    openapi_extra=opens(WRITING, body=NOT_ME),
)
async def not_me(subject: SubjectPath, request: Request, asked: Asking) -> EnrolledFace:
    """A face that is not the subject, whoever it may look like: in a picture, as a vector, or of an unknown track."""
    given = await _not_me(request)

    def deny(gallery: GalleryService, caller: Caller) -> Template:
        if isinstance(given, bytes):
            return gallery.not_me(caller, subject, picture=gallery.desk.picture(caller, "not me", given, subject))
        vector = None if given.vector is None else array([given.vector])[0]
        return gallery.not_me(caller, subject, vector=vector, track_id=given.track or "")

    return EnrolledFace.model_validate(await asked.slowly(deny))


@subjects.get(
    "/subjects/{subject}/negatives",
    tags=["faces"],
    summary="List who a subject is not",
    responses=UNKNOWN,
    openapi_extra=opens(READING),
)
async def list_negatives(subject: SubjectPath, asked: Asking) -> EnrolledFaces:
    """The negative anchors of a subject; they go like other enrolled faces."""

    def find(gallery: GalleryService, caller: Caller) -> list[Template]:
        gallery.subject(caller, subject)
        return [each for each in gallery.templates(caller, subject, limit=10_000) if each.negative]

    return EnrolledFaces(faces=EnrolledFace.several(await asked.quickly(find)))


@subjects.post(
    "/subjects/{subject}/faces",
    tags=["faces"],
    summary="Enrol a picture",
    status_code=201,
    responses={**PICTURE, **NO_KIND, **DUPLICATE},
    openapi_extra=opens(WRITING, body=FILE),
)
async def enrol_face(
    subject: SubjectPath,
    request: Request,
    response: Response,
    asked: Asking,
    least_score: Score = 0.0,
    keep_photo: Annotated[bool | None, Query(description="Whether to keep the crop; else as the policy says.")] = None,
    refuse_twins: Annotated[bool, Query(description="Whether to refuse a face that is somebody else's.")] = False,
) -> EnrolledFace:
    """The one face of a picture becomes a template of the subject, who is added where there is none."""
    (data,) = await files(request, "file")

    def enrol(gallery: GalleryService, caller: Caller) -> Template:
        return gallery.enrol(
            caller,
            subject,
            gallery.desk.picture(caller, "enrol", data, subject),
            source_sha256=sha256(data).hexdigest(),
            least_score=least_score,
            keep_photo=keep_photo,
            refuse_twins=refuse_twins,
        )

    template = await asked.slowly(enrol)
    response.headers["Location"] = _address(request, "get_face", face=template.id)
    return EnrolledFace.model_validate(template)


@subjects.post(
    "/subjects/{subject}/vectors",
    tags=["faces"],
    summary="Enrol vectors",
    status_code=201,
    openapi_extra=opens(WRITING, body=LONG),
)
async def enrol_vectors(subject: SubjectPath, given: EnrolledVectorsGiven, asked: Asking) -> EnrolledFaces:
    """Vectors become templates of the subject; those of another net than the gallery's are refused."""
    vectors = array(given.vectors)
    made = await asked.quickly(
        lambda gallery, caller: gallery.enrol_vectors(
            caller, subject, vectors, given.model, quality=given.quality, masked=given.masked
        )
    )
    return EnrolledFaces(faces=EnrolledFace.several(made))


@subjects.get(
    "/subjects/{subject}/faces",
    tags=["faces"],
    summary="List the faces of a subject",
    responses=UNKNOWN,
    openapi_extra=opens(READING),
)
async def list_faces(subject: SubjectPath, asked: Asking, after: After = "", limit: Limit = 100) -> EnrolledFaces:
    """Some of them, by id; negative anchors, too."""

    def find(gallery: GalleryService, caller: Caller) -> list[Template]:
        gallery.subject(caller, subject)
        return gallery.templates(caller, subject, after=after, limit=limit + 1)

    shown, last = page(await asked.quickly(find), limit)
    return EnrolledFaces(faces=EnrolledFace.several(shown), next=last.id if last else None)


@subjects.get("/faces/{face}", tags=["faces"], summary="Show a face", responses=UNKNOWN, openapi_extra=opens(READING))
async def get_face(face: FacePath, asked: Asking) -> EnrolledFace:
    """What is kept of an enrolled face, but its vector and its photo."""

    def find(gallery: GalleryService, caller: Caller) -> Template:
        with gallery.desk.asked(caller, "read") as said:
            found = gallery.desk.store.template(face)
            said.about = [found.subject_id]
        return found

    return EnrolledFace.model_validate(await asked.quickly(find))


@subjects.get(
    "/faces/{face}/photo",
    tags=["faces"],
    summary="Show the photo of a face",
    response_class=Response,
    responses={**UNKNOWN, 200: {"content": PHOTO}},
    openapi_extra=opens(READING),
)
async def get_photo(face: FacePath, asked: Asking) -> Response:
    """The aligned crop, a JPEG of 128 by 128 pixels; only where it was kept."""
    found = jpeg(await asked.quickly(lambda gallery, caller: gallery.photo(caller, face)))
    return Response(found, media_type="image/jpeg")


@subjects.delete(
    "/faces/{face}", tags=["faces"], summary="Forget a face", responses=UNKNOWN, openapi_extra=opens(WRITING)
)
async def remove_face(face: FacePath, asked: Asking) -> EnrolledFace:
    """Forget one enrolled face or negative anchor, with its photo."""
    return EnrolledFace.model_validate(
        await asked.quickly(lambda gallery, caller: gallery.remove_template(caller, face))
    )


def _address(request: Request, route: str, **parts: str) -> str:
    """Where a route answers, whatever signs are in the names."""
    quoted = {name: quote(part, safe="") for name, part in parts.items()}
    return f"{request.scope.get('root_path', '')}{request.app.url_path_for(route, **quoted)}"


async def _not_me(request: Request) -> bytes | NotMeGiven:
    """A file that was sent as one or in JSON, or what else the JSON says."""
    if not request.headers.get("content-type", "").lower().startswith("application/json"):
        return (await files(request, "file"))[0]
    try:
        given = NotMeGiven.model_validate(parsed(await request.body()))
    except ValidationError as error:
        wrong = [{**each, "loc": ("body", *each["loc"])} for each in error.errors(include_url=False)]
        raise RequestValidationError(wrong) from error
    return given if given.file is None else from_base64(given.file)
