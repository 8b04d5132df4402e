"""CompreFace's REST API, first half: the subjects of a collection and their faces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from pipeline.gallery.desk import READING, WRITING
from pipeline.gallery.errors import DuplicateError, UnknownError
from pipeline.gallery.protocol import Template
from pipeline.gallery.service import GalleryService
from pipeline.gallery.subjects import Caller, Subject, SubjectName
from pipeline.serving.gallery.access import Rule
from pipeline.serving.gallery.asking import Asking, opens
from pipeline.serving.gallery.bodies import declared, files, jpeg
from pipeline.serving.gallery.compreface_shapes import CompreFaceRoute, Refusal
from pipeline.serving.gallery.names import FacePath, SubjectPath, Text

PART = 1000
REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    400: {"model": Refusal, "description": "What was sent does not serve."},
    401: {"model": Refusal, "description": "There is no such API key."},
    403: {"model": Refusal, "description": "The API key does not open this."},
    404: {"model": Refusal, "description": "There is no such subject or image."},
    408: {"model": Refusal, "description": "The body did not arrive in time."},
    409: {"model": Refusal, "description": "What is there does not allow it."},
    413: {"model": Refusal, "description": "The body is too long."},
    415: {"model": Refusal, "description": "The body is of another type."},
    429: {"model": Refusal, "description": "The API key asks too often."},
    503: {"model": Refusal, "description": "The gallery does not answer now."},
}
JPEG: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}
}
RECOGNITION_READ = opens(READING, "recognition")
RECOGNITION_WRITE = opens(WRITING, "recognition")
FILE = declared("file")

collection = APIRouter(route_class=CompreFaceRoute, responses=REFUSALS, tags=["CompreFace: collection"])


class Named(BaseModel):
    """A subject."""

    subject: SubjectName


class SubjectNames(BaseModel):
    """Every subject."""

    subjects: list[str]


class Updated(BaseModel):
    """Whether it was done."""

    updated: bool


class Deleted(BaseModel):
    """How many were deleted."""

    deleted: int


class Example(BaseModel):
    """An enrolled face and whose it is."""

    image_id: str
    subject: str

    @classmethod
    def of(cls, template: Template) -> Example:
        """That of a template."""
        return cls(image_id=template.id, subject=template.subject_id)


class Examples(BaseModel):
    """A page of enrolled faces."""

    faces: list[Example]
    page_number: int
    page_size: int
    total_pages: int
    total_elements: int


@collection.post("/recognition/subjects", status_code=201, openapi_extra=RECOGNITION_WRITE)
async def add_subject_v1(given: Named, asked: Asking) -> Named:
    """Add a subject without a face."""
    await asked.quickly(lambda gallery, caller: gallery.add_subject(caller, Subject(id=given.subject)))
    return given


@collection.get("/recognition/subjects", openapi_extra=RECOGNITION_READ)
@collection.get("/recognition/subjects/", openapi_extra=RECOGNITION_READ, include_in_schema=False)
async def list_subjects_v1(asked: Asking) -> SubjectNames:
    """The name of every subject."""
    return SubjectNames(subjects=await asked.quickly(lambda gallery, caller: list(_names(gallery, caller))))


@collection.put("/recognition/subjects/{subject}", openapi_extra=RECOGNITION_WRITE)
async def rename_subject_v1(subject: SubjectPath, given: Named, asked: Asking) -> Updated:
    """Rename a subject; where there is one of the new name, the two become one."""

    def rename(gallery: GalleryService, caller: Caller) -> None:
        try:
            gallery.rename(caller, subject, given.subject)
        except DuplicateError:
            if subject != given.subject:
                gallery.merge(caller, subject, given.subject)

    await asked.quickly(rename)
    return Updated(updated=True)


@collection.delete("/recognition/subjects/{subject}", openapi_extra=RECOGNITION_WRITE)
async def delete_subject_v1(subject: SubjectPath, asked: Asking) -> Named:
    """Forget a subject with all faces."""
    await asked.quickly(lambda gallery, caller: gallery.erase(caller, subject))
    return Named(subject=subject)


@collection.delete("/recognition/subjects", openapi_extra=RECOGNITION_WRITE)
async def delete_subjects_v1(asked: Asking) -> Deleted:
    """Forget every subject."""
    return Deleted(deleted=len(await asked.thoroughly(lambda gallery, caller: gallery.erase_all(caller))))


@collection.post("/recognition/faces", status_code=201, openapi_extra=opens(WRITING, "recognition", FILE))
async def add_face_v1(
    request: Request,
    asked: Asking,
    subject: Annotated[SubjectName, Query(description="Whose face it is; added where there is none.")],
    det_prob_threshold: Annotated[float, Query(ge=0, le=1, allow_inf_nan=False)] = 0.0,
) -> Example:
    """Add the one face of a picture to a subject."""
    (data,) = await files(request, "file")

    def add(gallery: GalleryService, caller: Caller) -> Template:
        image, digest = gallery.desk.picture(caller, "enrol", data, subject), sha256(data).hexdigest()
        return gallery.enrol(caller, subject, image, source_sha256=digest, least_score=det_prob_threshold)

    return Example.of(await asked.slowly(add))


@collection.get("/recognition/faces", openapi_extra=RECOGNITION_READ)
async def list_faces_v1(
    asked: Asking,
    page: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
    size: Annotated[int, Query(ge=1, le=1000)] = 20,
    subject: Annotated[Text, Query(description="Only those of this subject.")] = "",
) -> Examples:
    """A page of the enrolled faces."""
    found = await asked.quickly(lambda gallery, caller: gallery.faces(caller, subject, skip=page * size, limit=size))
    return Examples(
        faces=[Example.of(template) for template in found.templates],
        page_number=page,
        page_size=size,
        total_pages=-(-found.total // size),
        total_elements=found.total,
    )


@collection.delete("/recognition/faces", openapi_extra=RECOGNITION_WRITE)
async def delete_faces_v1(
    asked: Asking,
    subject: Annotated[SubjectName | None, Query(description="Whose faces; everybody's if it is not there.")] = None,
) -> Deleted:
    """Forget all faces of a subject, and the subject, as CompreFace does."""

    def forget(gallery: GalleryService, caller: Caller) -> int:
        receipts = []
        with suppress(UnknownError):
            receipts = gallery.erase_all(caller) if subject is None else [gallery.erase(caller, subject)]
        return sum(each.receipt.removed.vectors for each in receipts)

    return Deleted(deleted=await (asked.thoroughly(forget) if subject is None else asked.quickly(forget)))


@collection.delete("/recognition/faces/{image_id}", openapi_extra=RECOGNITION_WRITE)
async def delete_face_v1(image_id: FacePath, asked: Asking) -> Example:
    """Forget one face."""
    return Example.of(await asked.quickly(lambda gallery, caller: gallery.remove_template(caller, image_id)))


@collection.post("/recognition/faces/delete", openapi_extra=RECOGNITION_WRITE)
async def delete_some_faces_v1(image_ids: list[Text], asked: Asking) -> list[Example]:
    """Forget some faces; those that are not there are left out of the answer."""

    def forget(gallery: GalleryService, caller: Caller) -> Iterator[Example]:
        for image_id in dict.fromkeys(image_ids):
            with suppress(UnknownError):
                yield Example.of(gallery.remove_template(caller, image_id))

    return await asked.quickly(lambda gallery, caller: list(forget(gallery, caller)))


@collection.get(
    "/recognition/faces/{image_id}/img", openapi_extra=RECOGNITION_READ, response_class=Response, responses=JPEG
)
async def face_image_v1(image_id: FacePath, asked: Asking) -> Response:
    """The aligned crop of an enrolled face; no bytes where none was kept."""
    return await _image(image_id, asked)


@collection.get(
    "/static/{api_key}/images/{image_id}",
    openapi_extra=Rule(roles=READING, service="recognition", key_in_path=True).declared(),
    response_class=Response,
    responses=JPEG,
)
async def static_image_v1(api_key: str, image_id: FacePath, asked: Asking) -> Response:
    """The same, for a browser that shows the picture of an address."""
    del api_key
    return await _image(image_id, asked)


async def _image(image_id: str, asked: Asking) -> Response:
    try:
        found = jpeg(await asked.quickly(lambda gallery, caller: gallery.photo(caller, image_id)))
    except UnknownError:
        found = b""
    return Response(found, media_type="image/jpeg")


def _names(gallery: GalleryService, caller: Caller) -> Iterator[str]:
    page = gallery.subjects(caller, limit=PART)
    while page:
        yield from (subject.id for subject in page)
        page = gallery.subjects(caller, after=page[-1].id, limit=PART)
