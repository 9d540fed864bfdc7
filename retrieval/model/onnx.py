"""Models as ONNX files: export with a comparison against torch, and networks that onnxruntime runs."""

from __future__ import annotations

import io
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from retrieval import evaluation
from retrieval.data import Preprocessing
from retrieval.errors import RetrievalError, reason_of
from retrieval.files import read_file

TOLERANCE = 1e-4  # of a component of a unit vector
_MISSING = (
    "ONNX needs packages that are not installed ({name}); install them with: "
    "python -m pip install 'image-retrieval-toolkit[onnx]'"
)
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")  # operators that come with onnxruntime
_BATCH = 8


class OnnxNetwork:
    """A network that onnxruntime runs: images (batch, 3, size, size) to vectors (batch, dim).

    Args:
        content: The ONNX file.
        embedding_dim: The dimension of its vectors.
        threads: Threads of a call, for callers that have threads of their own; by default as many as there are cores.

    Raises:
        ValueError: The file is damaged, refers to other files, or uses operators that are not standard.
        RetrievalError: onnx or onnxruntime is not installed.
    """

    def __init__(self, content: bytes, embedding_dim: int, *, threads: int | None = None) -> None:
        require_packages("onnx", "onnxruntime")
        import onnxruntime

        _check_content(content)
        self.content = content
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what is wrong is raised
        if threads is not None:
            options.intra_op_num_threads = threads
        options.add_session_config_entry(
            "session.load_model_format", "ONNX"
        )  # the format that was checked, and no other
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has an error class for each of its codes
            raise ValueError(f"onnxruntime cannot load it ({reason_of(error)})") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ValueError(f"it has {len(inputs)} inputs and {len(outputs)} outputs, expected one of each")
        self._input = inputs[0].name
        self.embedding_dim = embedding_dim

    def __call__(self, images: Tensor) -> Tensor:
        """Embeds images (batch, 3, size, size) as vectors (batch, embedding_dim)."""
        (vectors,) = self._session.run(None, {self._input: images.float().cpu().numpy()})
        return torch.from_numpy(vectors)

    def check(self, size: int) -> None:
        """Checks, by a black image, that the network makes vectors of the dimension that it promises.

        Raises:
            ValueError: It does not.
        """
        try:
            vectors = self(torch.zeros(1, 3, size, size))
        except Exception as error:  # onnxruntime has an error class for each of its codes
            raise ValueError(f"onnxruntime cannot run it ({reason_of(error)})") from error
        if vectors.shape != (1, self.embedding_dim) or not vectors.is_floating_point():
            made = f"{vectors.dtype} {tuple(vectors.shape)}"
            raise ValueError(f"it makes {made} of one image, expected floats (1, {self.embedding_dim})")


def export_network(network: nn.Module, size: int, metadata: dict[str, Any]) -> tuple[bytes, int]:
    """Exports a network as ONNX, from "images" (batch, 3, size, size) to "vectors" (batch, dim).

    Args:
        network: The network, on the CPU and in evaluation mode.
        size: Pixels of the side of its input.
        metadata: Values that are stored in the file as JSON.

    Returns:
        The content of the file, and the version of its operators.

    Raises:
        RetrievalError: Packages are missing, or the network cannot be exported.
    """
    require_packages("onnx", "onnxruntime", "onnxscript")
    network = network.to(memory_format=torch.contiguous_format)
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in ("onnxscript", "torch.onnx")}
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the comparison finds what would be wrong with the file
            program = torch.onnx.export(
                network,
                (torch.zeros(2, 3, size, size),),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["vectors"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
        assert program is not None
        proto = program.model_proto
        for key, value in metadata.items():
            proto.metadata_props.add(key=key, value=json.dumps(value))
        return proto.SerializeToString(), proto.opset_import[0].version
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise RetrievalError(f"this model cannot be exported as ONNX ({reason})") from error
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)


def compare(content: bytes, network: nn.Module, inputs: Tensor) -> float:
    """The largest difference between the unit vectors of onnxruntime and of torch.

    Raises:
        RetrievalError: It exceeds `TOLERANCE`, or an image has other nearest neighbours among the others.
    """
    with torch.inference_mode():
        expected = _unit(torch.cat([network(images) for images in inputs.split(_BATCH)]))
    try:
        session = OnnxNetwork(content, expected.shape[1])
    except ValueError as error:
        raise RetrievalError(f"this model cannot be exported as ONNX ({error})") from error
    vectors = _unit(torch.cat([session(images) for images in inputs.split(_BATCH)]))
    largest = float(np.abs(vectors - expected).max())  # NaN if a vector has no direction
    if not largest <= TOLERANCE:
        raise RetrievalError(
            f"onnxruntime's vectors differ from torch's by {largest:.2g}, more than {TOLERANCE:g}; nothing was written"
        )
    _require_same_neighbours(vectors, expected)
    return largest


def require_exported(file: Path) -> None:
    """Checks that a file is an ONNX file that `export_network` has made, with the preprocessing in its metadata.

    Raises:
        RetrievalError: It is another file, which would be lost; or it cannot be read.
    """
    import onnx

    try:
        properties = onnx.load_model(io.BytesIO(read_file(file)), load_external_data=False).metadata_props
        values = {item.key: item.value for item in properties}
        Preprocessing.from_dict(json.loads(values["preprocessing"]))
    except Exception as error:  # of the library of protocol buffers, whose errors differ between its versions
        raise RetrievalError(
            f"{file}: exists and is not an ONNX file of `retrieval export onnx`, so it is not replaced; choose another name"
        ) from error


def require_packages(*names: str) -> None:
    """Checks that packages are installed.

    Raises:
        RetrievalError: One is not; the message has the command that installs it.
    """
    for name in names:
        try:
            __import__(name)
        except ImportError as error:
            raise RetrievalError(_MISSING.format(name=error.name)) from error


def _unit(vectors: Tensor) -> np.ndarray:
    """The vectors divided by their length. One that is zero or not finite becomes NaN, which differs from every vector."""
    rows = vectors.double().cpu()
    return (rows / rows.norm(dim=1, keepdim=True)).float().numpy()


def _require_same_neighbours(vectors: np.ndarray, expected: np.ndarray, k: int = 10) -> None:
    """Checks that each vector has the same neighbours among the others, except those that are nearly equal for torch too."""
    own = np.arange(len(expected))
    k = min(k, len(expected) - 1)
    if k < 1:
        return
    actual, wanted = (evaluation.search(part, part, k, query_ids=own) for part in (vectors, expected))
    for i, (theirs, ours) in enumerate(zip(actual.ids, wanted.ids, strict=True)):
        gaps = np.abs(expected[ours] @ expected[i] - expected[theirs] @ expected[i])
        if (gaps > 2 * TOLERANCE).any():
            raise RetrievalError(f"onnxruntime finds other neighbours of image {i} than torch; nothing was written")


def _check_content(content: bytes) -> None:
    """Checks that an ONNX file holds its weights itself and has standard operators only."""
    import onnx

    try:
        proto = onnx.load_model(io.BytesIO(content), load_external_data=False)
    except Exception as error:  # of the library of protocol buffers, whose errors differ between its versions
        raise ValueError(f"it is not an ONNX file ({reason_of(error)})") from error
    own = {(function.domain, function.name) for function in proto.functions}
    graphs = [proto.graph, *proto.functions]
    while graphs:
        graph = graphs.pop()
        tensors = list(getattr(graph, "initializer", ()))
        sparse = list(getattr(graph, "sparse_initializer", ()))
        for node in graph.node:
            if node.domain not in _DOMAINS and (node.domain, node.op_type) not in own:
                raise ValueError(f"it uses the operator {node.domain}.{node.op_type}, which is not standard")
            if node.op_type == "Loop":
                raise ValueError("it uses the operator Loop, which may never end")
            for attribute in node.attribute:
                graphs += [attribute.g] if attribute.HasField("g") else []
                graphs += attribute.graphs
                tensors += [attribute.t, *attribute.tensors]
                sparse += [attribute.sparse_tensor, *attribute.sparse_tensors]
        tensors += [part for tensor in sparse for part in (tensor.values, tensor.indices)]
        if any(_is_external(tensor) for tensor in tensors):
            raise ValueError("it keeps weights in another file, expected them inside")


def _is_external(tensor: Any) -> bool:
    return bool(tensor.data_location == 1 or len(tensor.external_data))
