"""The endpoints: search, vectors, items, and the state of the service."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from retrieval.errors import brief, did_you_mean
from retrieval.serving.pictures import LARGEST, STORED
from retrieval.serving.service import Service, least_score, service_of
from retrieval.serving.settings import LARGEST_K
from retrieval.serving.uploads import BODY, read_uploads

_NAMED = 1000  # classes that /v1/index names
_FACTS = ("count", "dimension", "classes", "type", "model", "calibration")  # the others are places on the server


def require_known_parameters(request: Request) -> None:
    """Refuses parameters of the address that the endpoint does not have: one that is misspelt would change nothing.

    Raises:
        HTTPException: There is one.
    """
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    for name in request.query_params:
        if name not in known:
            raise HTTPException(422, f"there is no parameter {brief(name)}{did_you_mean(name, known)}")


router = APIRouter(dependencies=[Depends(require_known_parameters)])

Serving = Annotated[Service, Depends(service_of)]
Item = Annotated[int, Path(alias="id", description="The id of an item.")]
K = Annotated[int, Query(ge=1, le=LARGEST_K, description="Number of neighbours.")]
Asked = Annotated[int | None, Query(alias="id", description="Search by this item of the index, which is left out.")]
ClassName = Annotated[str | None, Query(alias="class", description="Only neighbours of this class.")]
MinScore = Annotated[str | None, Query(description="Only neighbours with this score or more: a number, or auto.")]
Crop = Annotated[bool, Query(description="Send the crop that the network sees back, as a data: address.")]
Side = Annotated[int, Query(ge=16, le=LARGEST, description="Pixels of the longer side, at most.")]


@router.post("/v1/search", openapi_extra=BODY)
async def search(
    request: Request,
    service: Serving,
    k: K = 10,
    item: Asked = None,
    class_name: ClassName = None,
    min_score: MinScore = None,
    crop: Crop = False,
) -> Response:
    """Finds the nearest items of one or several images, or of an item of the index."""
    state = service.state
    least = least_score(state, min_score)
    uploads = await read_uploads(request, service.settings.max_images)
    if bool(uploads) == (item is not None):
        raise HTTPException(422, "give either images in the body or an id" if uploads else "give an image, or an id")
    limit = {} if least is None else {"min_score": least}
    if item is not None:
        asked = await service.call(state.gallery.item, item)
        if asked is None:
            raise HTTPException(404, f"the index has no item of id {item}")
        vectors = (await service.call(state.gallery.vector, item))[None]
        (row,) = await service.search(state, vectors, k + 1, class_name, least)
        others = [replace(hit, rank=rank) for rank, hit in enumerate((hit for hit in row if hit.id != item), 1)]
        results = [{"query": asked.to_dict(), **limit, "neighbours": [hit.to_dict() for hit in others[:k]]}]
    else:
        prepared, vectors = await service.embed(state, uploads)
        rows = await service.search(state, vectors, k, class_name, least)
        results = [
            {"query": upload.name, **limit, "neighbours": [hit.to_dict() for hit in row]}
            for upload, row in zip(uploads, rows, strict=True)
        ]
        if crop:
            for result, image in zip(results, prepared, strict=True):
                result["crop"] = await service.call(state.encoder.crop, image)
    return JSONResponse({"generation": state.generation, "results": results})


@router.post("/v1/embed", openapi_extra=BODY)
async def embed(request: Request, service: Serving) -> Response:
    """Embeds one or several images as unit vectors."""
    state = service.state
    uploads = await read_uploads(request, service.settings.max_images)
    if not uploads:
        raise HTTPException(422, "give an image")
    _, vectors = await service.embed(state, uploads)
    names = [upload.name for upload in uploads]
    return JSONResponse({"dimension": vectors.shape[1], "images": names, "vectors": vectors.tolist()})


@router.get("/v1/index")
async def index(service: Serving) -> Response:
    """The facts of the index, and the limits of the service."""
    state, settings = service.state, service.settings
    names = state.gallery.class_names
    limits = {name: getattr(settings, name) for name in ("max_images", "max_bytes", "max_pixels", "timeout")}
    return JSONResponse(
        {
            "generation": state.generation,
            **{key: value for key, value in state.gallery.describe().items() if key in _FACTS},
            "class_names": list(names[:_NAMED]),
            "runtime": state.encoder.runtime,
            "limits": {**limits, "k": LARGEST_K},
        }
    )


@router.get("/v1/items/{id}")
async def get_item(item: Item, service: Serving) -> Response:
    """An item of the index."""
    state = service.state
    found = state.gallery.item(item)
    if found is None:
        raise HTTPException(404, f"the index has no item of id {item}")
    return JSONResponse({"generation": state.generation, **found.to_dict()})


@router.get("/v1/items/{id}/thumbnail", response_class=Response)
async def thumbnail(item: Item, request: Request, service: Serving, side: Side = STORED) -> Response:
    """A small JPEG of an item; 204 for an item that has no picture."""
    state = service.state
    if state.gallery.item(item) is None:
        raise HTTPException(404, f"the index has no item of id {item}")
    picture = await service.call(service.pictures.of, state, item, side)
    if picture is None:
        return Response(status_code=204)
    headers = {"ETag": f'"{picture.tag}"', "Cache-Control": "private, no-cache"}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(picture.content, media_type="image/jpeg", headers=headers)


@router.get("/healthz", response_class=PlainTextResponse)
async def healthz() -> str:
    """Answers while the process works."""
    return "ok\n"


@router.get("/readyz", response_class=PlainTextResponse)
async def readyz(service: Serving) -> Response:
    """Answers 200 while an image would be taken, and 503 while the queue is full."""
    if service.batcher.under_way >= service.settings.queue:
        return PlainTextResponse("busy\n", 503, {"Retry-After": "1"})
    return PlainTextResponse("ready\n")


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(service: Serving) -> Response:
    """Counters in the text format of Prometheus."""
    state = service.state
    text = service.metrics.text(
        queue=service.batcher.under_way,
        capacity=service.settings.queue,
        items=len(state.gallery),
        generation=state.generation,
    )
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
