"""The HTTP service: an index that is searched over the network, and a page for it.

app = retrieval.serving.create_app(retrieval.Index.open("photos-index"))  # an ASGI app, for any server
retrieval.serving.serve(app, port=8000)                                   # until SIGTERM or Ctrl-C
"""

from retrieval.errors import RetrievalError

try:
    import fastapi  # noqa: F401
    import python_multipart  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError as error:
    raise RetrievalError(
        f"the service needs packages that are not installed ({error.name}); install them with: "
        "python -m pip install 'image-retrieval-toolkit[serve]'"
    ) from error

from retrieval.serving.app import create_app
from retrieval.serving.gallery import EngineGallery, Gallery, IndexGallery
from retrieval.serving.server import bind, describe, serve
from retrieval.serving.settings import Settings, read_token

__all__ = [
    "EngineGallery",
    "Gallery",
    "IndexGallery",
    "Settings",
    "bind",
    "create_app",
    "describe",
    "read_token",
    "serve",
]
