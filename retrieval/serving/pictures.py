"""Small pictures of the items of a gallery. No file is sent as it is: every picture is made from decoded pixels."""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict
from dataclasses import dataclass

from retrieval.report.thumbnail import read_picture
from retrieval.serving.holder import State

STORED = 96  # pixels of the side of a stored thumbnail
LARGEST = 512
_KEPT = 512  # pictures in memory


@dataclass(frozen=True)
class Picture:
    """A picture.

    Args:
        content: A JPEG.
        tag: Names the content, for the browser's cache.
    """

    content: bytes
    tag: str


class Pictures:
    """Makes pictures, and keeps the last ones. Several threads may use it."""

    def __init__(self) -> None:
        self._made: OrderedDict[tuple[int, int, int], Picture | None] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, state: State, item: int, side: int) -> Picture | None:
        """The picture of an item that exists.

        It is the stored thumbnail where that is large enough, or where the image cannot be read; None if there is neither.

        Args:
            state: The gallery.
            item: The id of the item.
            side: Pixels of its longer side, at most.
        """
        key = (state.generation, item, side)
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]
        made = _make(state, item, side)
        with self._lock:
            self._made[key] = made
            while len(self._made) > _KEPT:
                self._made.popitem(last=False)
        return made


def _make(state: State, item: int, side: int) -> Picture | None:
    file, stored = state.gallery.picture(item)
    image = None if stored is not None and side <= STORED else read_picture(file, side)
    if image is None and stored is not None:
        image = read_picture(stored, side)
    if image is None:
        return None
    content = io.BytesIO()
    image.save(content, "JPEG", quality=85)
    return Picture(content.getvalue(), hashlib.sha256(content.getvalue()).hexdigest()[:16])
