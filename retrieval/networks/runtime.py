"""Convolutional networks on onnxruntime: on a CPU, it takes half to two thirds of torch's time.

torch's first exporter makes the file. It is deprecated, but takes a quarter of a second; the other one takes ten. Where it fails or
is gone, the network stays on torch.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from retrieval.networks.folding import PROBES, TOLERANCE, unit

log = logging.getLogger("retrieval")


def on_onnxruntime(network: nn.Module, images: Tensor) -> Callable[[Tensor], Tensor] | None:
    """A network as onnxruntime computes it. Images of another size than the given ones stay on torch.

    Args:
        network: A network on the CPU, in float32 and in evaluation mode.
        images: Some images (batch, 3, height, width).

    Returns:
        A function from images to vectors; None where onnxruntime is missing or cannot run the network, or if a component of a unit
        vector would change by more than 1e-4.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    probes = images[:PROBES]
    try:
        run = _session(_exported(network, probes))
        with torch.inference_mode():
            difference = (unit(run(probes)) - unit(network(probes))).abs().max()
    except Exception as error:  # noqa: BLE001 - the exporter and onnxruntime have error classes of their own
        log.debug("the network stays on torch: %s", error)
        return None
    if not difference <= TOLERANCE:
        return None
    return lambda images: run(images) if images.shape[1:] == probes.shape[1:] else network(images)


def _exported(network: nn.Module, probes: Tensor) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the comparison finds what would be wrong
        torch.onnx.export(
            network,
            (probes,),
            content,  # type: ignore[arg-type]
            dynamo=False,
            input_names=["images"],
            output_names=["vectors"],
            dynamic_axes={"images": {0: "batch"}, "vectors": {0: "batch"}},
        )
    return content.getvalue()


def _session(content: bytes) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong is raised
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # of time that the workers need
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (vectors,) = session.run(None, {"images": images.numpy()})
        return torch.from_numpy(vectors)

    return run
