"""From the bytes of an image file to its vector, in two steps: preparing on any thread, and the network on one."""

from __future__ import annotations

import io
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from retrieval.data import Preprocessing
from retrieval.data.images import decode_image, decoding_of
from retrieval.errors import DatasetError, RetrievalError
from retrieval.model import Model
from retrieval.model.onnx import OnnxNetwork
from retrieval.report.thumbnail import data_uri

log = logging.getLogger("retrieval")


@dataclass(frozen=True)
class Upload:
    """An image file of a request.

    Args:
        name: Its name, for messages.
        content: What it holds.
    """

    name: str
    content: bytes


class Encoder:
    """Embeds image files.

    The network runs on onnxruntime if the model is a module on the CPU and the exported file passes the comparison of
    `Model.export_onnx`; else on torch. `share` is the number of images that are best embedded by one call, beside other calls on
    other threads; None where one call at a time is best, with all images.

    Args:
        model: The model.
        max_pixels: Pixels of an image, at most. The limit of the model's preprocessing applies too.
    """

    def __init__(self, model: Model, max_pixels: int) -> None:
        self.model = model
        decoding = decoding_of(model.preprocessing)
        self._decoding = decoding | {"max_pixels": min(max_pixels, decoding["max_pixels"] or max_pixels)}
        self._running = _on_onnxruntime(model) or model
        self.runtime = "onnxruntime" if isinstance(self._running.network, OnnxNetwork) else "torch"
        # onnxruntime is fastest with one image on each core: an image of a batch takes longer than one alone.
        self.share = 1 if self.runtime == "onnxruntime" else None

    def prepare(self, upload: Upload) -> Any:
        """Decodes an image file and prepares it for the network.

        Raises:
            DatasetError: It cannot be read as an image, or has too many pixels.
        """
        try:
            image = decode_image(io.BytesIO(upload.content), upload.name, **self._decoding)
        except DatasetError as error:
            reason, _, _ = str(error).rpartition("; ")  # what follows is the remedy for a file of one's own
            raise DatasetError(f"{reason}; send another image") from error
        return self.model.preprocessing(image) if self.model.takes_tensors else image

    def embed(self, prepared: list[Any]) -> np.ndarray:
        """The unit vectors (number, dim) of prepared images.

        Raises:
            RetrievalError: A vector is not finite, or zero.
        """
        return self._running.encode(prepared)

    def crop(self, prepared: Any) -> str | None:
        """A prepared image as an address that holds it: the crop that the network sees; None if it is not known."""
        if isinstance(prepared, Image.Image):
            return data_uri(prepared)
        if not isinstance(self.model.preprocessing, Preprocessing) or not isinstance(prepared, Tensor):
            return None
        planes = prepared.numpy().transpose(1, 2, 0) * self.model.preprocessing.std + self.model.preprocessing.mean
        return data_uri(Image.fromarray((255 * planes).round().clip(0, 255).astype(np.uint8)))


def _on_onnxruntime(model: Model) -> Model | None:
    """The same model with its network on onnxruntime; None where torch has to run it, with the reason in the log."""
    if isinstance(model.network, OnnxNetwork):
        network = OnnxNetwork(model.network.content, model.embedding_dim, threads=1)
        return Model(network, model.preprocessing)
    if not isinstance(model.network, nn.Module):
        return None  # a function
    if model.device.type != "cpu" or model.precision != "float32":
        log.info("the network runs on torch (%s, %s)", model.device, model.precision)
        return None
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            report = model.export_onnx(file)
            network = OnnxNetwork(file.read_bytes(), model.embedding_dim, threads=1)
    except (RetrievalError, ValueError) as error:
        log.info("the network runs on torch: %s", error)
        return None
    log.info("the network runs on onnxruntime; its vectors differ from torch's by %.1g", report["largest_difference"])
    return Model(network, model.preprocessing)
