"""The second interface: what a gallery allows, promises and proves, and who may ask it."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from pipeline.edges.redis_api_keys import ApiKey
from pipeline.gallery.calibration import Calibration, curve
from pipeline.gallery.desk import AUDITING, READING, RULING
from pipeline.gallery.service import GalleryService
from pipeline.gallery.subjects import Caller, NamespacePolicy
from pipeline.serving import problems
from pipeline.serving.gallery.asking import Asking, GalleryRoute, Serving, opens
from pipeline.serving.gallery.names import Text
from pipeline.serving.gallery.v2_faces import ALWAYS, UNKNOWN
from pipeline.serving.gallery.views import (
    AuditFault,
    AuditPage,
    AuditVerdict,
    CalibrationGiven,
    Dropped,
    ErasureView,
    KeyGiven,
    KeyList,
    KeyMade,
    Limit,
    Model,
    ReembeddingView,
    page,
)
from pipeline.serving.problems import Problem

KeyPath = Annotated[Text, Path(description="Id of the key: its second part.", examples=["0f3c9a51d2e47b68"])]
ErasurePath = Annotated[Text, Path(description="Id of the receipt.", examples=["9f0c1b7e5d6a4f3890ab12cd34ef5678"])]
ModelGiven = Annotated[Model, Query(description="Name of the net.")]

REFUSED = problems.declared(problems.GALLERY_REFUSED)

trust = APIRouter(route_class=GalleryRoute, responses=problems.declared(*ALWAYS))
public = APIRouter()


@trust.get(
    "/erasures/{erasure}",
    tags=["trust"],
    summary="Verify an erasure",
    responses=UNKNOWN,
    openapi_extra=opens(AUDITING),
)
async def get_erasure(erasure: ErasurePath, asked: Asking) -> ErasureView:
    """The receipt of an erasure, verified again by looking."""
    return ErasureView.model_validate(await asked.thoroughly(lambda gallery, caller: gallery.erasure(caller, erasure)))


@trust.get("/audit", tags=["trust"], summary="Read the audit log", openapi_extra=opens(AUDITING))
async def read_audit(
    asked: Asking,
    after: Annotated[int, Query(ge=0, le=2**53, description="Only entries after this number.")] = 0,
    limit: Limit = 100,
    action: Annotated[Text, Query(description="Only this action.")] = "",
    actor: Annotated[Text, Query(description="Only by the key of this name.")] = "",
    subject: Annotated[Text, Query(description="Only about this subject.")] = "",
) -> AuditPage:
    """Who asked for what, why and when; subjects stand under pseudonyms."""
    answer = asked.thoroughly if action or actor or subject else asked.quickly  # whose line may be any
    found = await answer(
        lambda gallery, caller: gallery.audit(
            caller, after=after, limit=limit + 1, action=action, actor=actor, subject=subject
        )
    )
    shown, last = page(found, limit)
    return AuditPage(entries=shown, next=last.seq if last else None)


@trust.get("/audit/verify", tags=["trust"], summary="Verify the audit log", openapi_extra=opens(AUDITING))
async def verify_audit(asked: Asking) -> AuditVerdict:
    """Whether an entry was changed, is missing, or stands elsewhere."""
    faults = await asked.thoroughly(lambda gallery, caller: gallery.verify_audit(caller))
    return AuditVerdict(whole=not faults, faults=[AuditFault.model_validate(fault) for fault in faults])


@trust.get("/policies", tags=["trust"], summary="Show what is allowed", openapi_extra=opens(AUDITING))
async def get_policy(asked: Asking) -> NamespacePolicy:
    """What the namespace allows, and how long it keeps things."""
    return await asked.quickly(lambda gallery, caller: gallery.policy(caller))


@trust.put("/policies", tags=["trust"], summary="Change what is allowed", openapi_extra=opens(RULING))
async def set_policy(given: NamespacePolicy, asked: Asking) -> NamespacePolicy:
    """What the namespace allows from now on; what is not sent has its default."""
    return await asked.quickly(lambda gallery, caller: gallery.set_policy(caller, given))


@trust.post(
    "/calibrate",
    tags=["trust"],
    summary="Find the thresholds that this gallery bears",
    response_model=Calibration,
    responses={**REFUSED, 200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}},
    openapi_extra=opens(RULING),
)
async def calibrate(given: CalibrationGiven, asked: Asking, request: Request) -> Calibration | Response:
    """Ceilings of strangers and of enrolled pairs, error rates, and thresholds; or why there are none.

    With `Accept: image/png` a picture of the error rates.
    """
    wants_picture = request.headers.get("accept", "").partition(";")[0].strip() == "image/png"

    def answer(gallery: GalleryService, caller: Caller) -> Calibration | Response:
        found = gallery.calibrate(caller, promised_far=given.promised_far, apply=given.apply, vouched=given.vouched)
        return Response(curve(found), media_type="image/png") if wants_picture else found

    return await asked.thoroughly(answer)


@trust.post("/reembed", tags=["trust"], summary="Change the net", responses=UNKNOWN, openapi_extra=opens(RULING))
async def reembed(model: ModelGiven, asked: Asking) -> ReembeddingView:
    """Make templates of kept photos with the net of the graph, beside those of the old net, which still answer."""
    return ReembeddingView.model_validate(
        await asked.thoroughly(lambda gallery, caller: gallery.reembed(caller, model))
    )


@trust.delete("/reembed", tags=["trust"], summary="Forget an old net", responses=REFUSED, openapi_extra=opens(RULING))
async def drop_model(model: ModelGiven, asked: Asking, leave_bare: bool = False) -> Dropped:
    """Forget the templates of a net that nobody matches with any more.

    Whoever would be left without any template stands in the way, unless `leave_bare` says that they do not.
    """
    return Dropped(
        dropped=await asked.thoroughly(lambda gallery, caller: gallery.drop_model(caller, model, leave_bare=leave_bare))
    )


@trust.post("/keys", tags=["keys"], summary="Make an API key", status_code=201, openapi_extra=opens(RULING))
async def make_key(given: KeyGiven, asked: Asking) -> KeyMade:
    """A key to the same namespace; its secret is in this answer and nowhere else."""
    keys, told = asked.serving.access.keys, dict(given)

    def make(gallery: GalleryService, caller: Caller) -> KeyMade:
        with gallery.desk.asked(caller, "policy") as said:
            secret, key = keys.new(**told, namespace=asked.key.namespace)
            said.details = {"what": "key made", "key": key.id, "role_given": key.role}
        return KeyMade(secret=secret, key=key)

    return await asked.quickly(make)


@trust.get("/keys", tags=["keys"], summary="List the API keys", openapi_extra=opens(RULING))
async def list_keys(asked: Asking) -> KeyList:
    """The keys of the namespace, without their secrets."""
    keys = asked.serving.access.keys

    def find(gallery: GalleryService, caller: Caller) -> KeyList:
        with gallery.desk.asked(caller, "read policy") as said:
            found = keys.list(asked.key.namespace)
            said.count, said.details = len(found), {"what": "keys"}
        return KeyList(keys=found)

    return await asked.quickly(find)


@trust.delete(
    "/keys/{number}", tags=["keys"], summary="Take an API key back", responses=UNKNOWN, openapi_extra=opens(RULING)
)
async def revoke_key(number: KeyPath, asked: Asking) -> ApiKey:
    """Within seconds it opens nothing more."""
    keys = asked.serving.access.keys

    def revoke(gallery: GalleryService, caller: Caller) -> ApiKey:
        with gallery.desk.asked(caller, "policy") as said:
            key = keys.revoke(number, asked.key.namespace)
            said.details = {"what": "key revoked", "key": key.id}
        return key

    return await asked.quickly(revoke)


@trust.get(
    "/problems/{name}",
    tags=["problems"],
    summary="Explain a type of problems",
    response_model_exclude_none=True,
    responses=problems.declared(problems.NOT_FOUND),
    openapi_extra=opens(AUDITING | READING),
)
async def explain_problem(name: Text) -> Problem:
    """What a kind of problem means; its `type` names it."""
    if name not in problems.NAMED:
        raise HTTPException(404)
    return problems.NAMED[name].problem()


class Health(BaseModel):
    """That all is well, and whether the gallery's truth answers; where it does not, matching goes on from memory."""

    status: Literal["live", "ready"]
    redis: Literal["here", "away"] | None = None


@public.get("/health/live", tags=["health"], summary="Is the API alive?", response_model_exclude_none=True)
async def live() -> Health:
    """Whether this process answers; nobody else is asked."""
    return Health(status="live")


@public.get("/health/ready", tags=["health"], summary="Does the API work?")
async def ready(request: Request) -> Health:
    """Whether it answers requests. It does so without Redis, too: known keys are let in, and matching goes on."""
    return Health(status="ready", redis="here" if await Serving.of(request).pulse.beats() else "away")
