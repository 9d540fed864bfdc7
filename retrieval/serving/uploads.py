"""The image files in the body of a request."""

from __future__ import annotations

from pathlib import PurePath

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from retrieval.errors import brief
from retrieval.files.control import escape
from retrieval.serving.encoder import Upload

# What the documentation of an endpoint says about its body.
BODY = {
    "requestBody": {
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        }
    }
}
_LONGEST_NAME = 100
_FIELDS = 8  # parts that are no files, which are refused by name
_REMEDY = "send images as the files of a form (multipart/form-data), or one as the body with Content-Type: image/jpeg"


async def read_uploads(request: Request, most: int) -> list[Upload]:
    """The image files of a request: those of a form, or one as the whole body; none if the body is empty.

    Args:
        request: The request.
        most: Files, at most.

    Raises:
        HTTPException: The form is malformed, has a part that is no file or too many files, or the body is of another type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _read_form(request, most)
    content = await request.body()
    if not content:
        return []
    if not kind.startswith("image/") and kind != "application/octet-stream":
        raise HTTPException(415, f"the body is of type {brief(kind)}; {_REMEDY}")
    return [Upload("image", content)]


async def _read_form(request: Request, most: int) -> list[Upload]:
    try:
        async with request.form(max_files=most, max_fields=_FIELDS, max_part_size=1024) as form:
            uploads = []
            for name, value in form.multi_items():
                if not isinstance(value, UploadFile):
                    raise HTTPException(
                        422, f"the form has the field {brief(name)}; options such as k belong to the address: ?k=5"
                    )
                uploads.append(Upload(_name(value.filename), await value.read()))
            return uploads
    except HTTPException as error:
        if error.status_code == 400:
            raise HTTPException(400, f"the form cannot be read ({error.detail.rstrip('.')}); {_REMEDY}") from error
        raise


def _name(given: str | None) -> str:
    """The name of a file as messages show it."""
    name = escape(PurePath((given or "").replace("\\", "/")).name)
    return name[:_LONGEST_NAME] or "image"
