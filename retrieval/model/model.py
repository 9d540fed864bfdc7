"""A model: a network, the preprocessing of its images, and where it comes from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from retrieval import evaluation
from retrieval.data import ImageSet, Preprocessing, decoding_of, image_files, pixel_limit, readable_files, to_image
from retrieval.data.image_files import file_set
from retrieval.errors import ConfigError, RetrievalError
from retrieval.evaluation.inputs import to_numpy
from retrieval.files import claim_file, claim_folder, folder_in_one_piece, require_free_file, write_bytes
from retrieval.files.arrays import PATHS, ArrayFiles, claim_for_arrays, write_arrays
from retrieval.files.repository import is_hub_place
from retrieval.model import encoding, hub, onnx
from retrieval.model.card_sections import Training
from retrieval.model.description import StoredModel
from retrieval.model.places import MODEL_FOLDER, Loaded, check_source, load_place, require_replaceable
from retrieval.model.precision import check_precision
from retrieval.networks import Embedder
from retrieval.networks.embedding import device_of, embed
from retrieval.training.device import pick_device

_PROBES = 16  # images of noise that an ONNX file is compared by


class Model:
    """A network together with the preprocessing of its images.

    Args:
        network: A module from images (batch, 3, height, width) to vectors (batch, dim), or a function from a list of PIL images to
            an array (number, dim).
        preprocessing: How an image becomes the input of a module: a `Preprocessing`, or a function from an RGB PIL image to a
            float tensor (3, height, width), such as a transform of torchvision. Left out for a function, which gets images.
        batch_size: Images of a batch. It passes the network as a whole on a GPU, and a few images at a time on a CPU.
        workers: Processes that read the images of an `ImageSet`; with 0, this process reads.
        timeout: Seconds to wait for a batch of the workers.
        precision: "float32", or "bfloat16" for autocast.
        source: Where the model comes from, for the manifest of an index.

    Raises:
        ValueError: A module lacks its preprocessing, or an argument is of the wrong type.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> import retrieval
        >>> prepare = retrieval.Preprocessing(resize=32, size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 8))
        >>> model = retrieval.Model(network, prepare)
        >>> photo = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        >>> model.encode([photo, photo]).shape
        (2, 8)
    """

    def __init__(
        self,
        network: nn.Module | Callable[..., Any],
        preprocessing: Preprocessing | Callable[[Image.Image], Tensor] | None = None,
        *,
        batch_size: int = 64,
        workers: int = 0,
        timeout: float = 120.0,
        precision: str = "float32",
        source: Mapping[str, Any] | None = None,
    ) -> None:
        takes_tensors = isinstance(network, (nn.Module, onnx.OnnxNetwork))
        if not callable(network):
            raise ValueError(
                f"network is a {type(network).__name__}; give a torch.nn.Module or a function of a list of images"
            )
        if takes_tensors and not callable(preprocessing):
            raise ValueError(
                f"preprocessing is {preprocessing!r}, but {type(network).__name__} takes tensors; give a "
                "retrieval.data.Preprocessing, or a function from a PIL image to a tensor"
            )
        if not takes_tensors and preprocessing is not None:
            raise ValueError("a function gets the images themselves; leave out the preprocessing")
        check_precision(precision)
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; give at least 1")
        self.network = network
        self.preprocessing: Any = preprocessing
        self.batch_size, self.workers, self.timeout, self.precision = batch_size, workers, timeout, precision
        self.source = dict(source or {})
        check_source(self.source)
        self.takes_tensors = takes_tensors
        self._runtime = ""
        self._embedding_dim: int | None = None
        if isinstance(network, (Embedder, onnx.OnnxNetwork)):
            self._embedding_dim = network.embedding_dim

    @classmethod
    def load(cls, place: str | Path, *, checkpoint: str | None = None, device: str | torch.device = "auto") -> Model:
        """Loads the model of a training run, an index, a saved model or a repository of the Hugging Face Hub.

        Args:
            place: The folder of either, or "hf-hub:user/name", which may end in "@" and a branch, a tag or a commit.
            checkpoint: Of a run: "last", or "best" by the validation classes; by default "best" where the run has one, else
                "last".
            device: The device; "auto" is a GPU if there is one.

        Raises:
            RetrievalError: The folder is none of these, its files are damaged, or they do not fit together; or the repository
                cannot be read.
        """
        if not is_hub_place(place):
            return cls.of(load_place(Path(place), checkpoint)).to(device)
        if checkpoint is not None:
            raise RetrievalError(f"{place}: holds one model, so it has no {checkpoint} checkpoint; leave it out")
        return cls.of(hub.load(str(place))).to(device)

    @classmethod
    def of(cls, loaded: Loaded) -> Model:
        """A model from the parts that its files hold."""
        return cls(loaded.network, loaded.preprocessing, source=loaded.source, **loaded.settings)

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return device_of(self.network)

    @property
    def embedding_dim(self) -> int:
        """The dimension of the vectors. If it is not known, a white image is embedded."""
        if self._embedding_dim is None:
            self._embedding_dim = self._raw([Image.new("RGB", (64, 64), "white")]).shape[1]
        return self._embedding_dim

    @property
    def ran(self) -> dict[str, str]:
        """What has computed vectors besides torch, for the manifest of an index: {} or {"runtime": "onnxruntime"}."""
        return {"runtime": self._runtime} if self._runtime else {}

    @property
    def is_described(self) -> bool:
        """Whether a description and weights rebuild the network, as they do for a timm network."""
        return isinstance(self.network, Embedder) and self.network.is_described

    def to(self, device: str | torch.device) -> Model:
        """Moves the network to a device, such as "cpu", "cuda" or "auto"; returns the model itself."""
        if isinstance(self.network, nn.Module):
            self.network.to(pick_device(device))
        return self

    def at(self, precision: str | None) -> Model:
        """The model at another precision, with the same network.

        Args:
            precision: "float32", or "bfloat16", which is faster where the processor has it, and changes the vectors in the third
                digit. With None, the precision is kept.

        Raises:
            ValueError: The precision is unknown.
            ConfigError: It is bfloat16, and the network is not one of torch.
        """
        if precision is None or check_precision(precision) == self.precision:
            return self
        if precision != "float32" and not isinstance(self.network, nn.Module):
            raise ConfigError(f"precision {precision} is of torch, and this model is a {type(self.network).__name__}")
        other = copy.copy(self)
        other.precision = precision
        return other

    def encode(self, images: Any, *, precision: str | None = None) -> np.ndarray:
        """Embeds images as unit vectors.

        Args:
            images: One image, or an iterable of images: paths, PIL images, uint8 arrays (height, width, 3) or (height, width),
                uint8 tensors (3, height, width), or float tensors (3, height, width) that are prepared already. Also an
                `ImageSet` or another `Dataset` of (image, label), or a `DataLoader` of prepared batches, alone or as (images,
                labels).
            precision: "float32" or "bfloat16"; by default that of the model. See `at`.

        Returns:
            (number, dim) float32; (dim,) for one image.

        Raises:
            ValueError: A value is not an image, or there is none.
            DatasetError: A file cannot be read as an image.
            RetrievalError: The network makes vectors that are not finite or zero.
        """
        if precision is not None:
            return self.at(precision).encode(images)
        if isinstance(images, (str, Path)) and Path(images).is_dir():
            raise ValueError(f"{images} is a folder; give retrieval.data.images_in({str(images)!r})")
        if encoding.is_single(images):
            return self.unit(self._raw([images]))[0]
        if not isinstance(images, Iterable) and not hasattr(images, "__getitem__"):
            raise ValueError(f"the images are of type {type(images).__name__}; give an image, or an iterable of images")
        if isinstance(images, Dataset) and not isinstance(images, ImageSet):
            images = ImageSet.from_dataset(images)
        return self.unit(self._raw(images))

    def embed(self, batches: Iterable[Tensor], *, fold: bool) -> np.ndarray:
        """The output of the network (number, dim) for batches of tensors.

        Args:
            batches: Prepared images (batch, 3, height, width).
            fold: See `retrieval.networks.embed`; for a network of timm only.
        """

        def note(runtime: str) -> None:
            self._runtime = runtime

        fold = fold and self.is_described
        return embed(self.network, batches, autocast=self.precision == "bfloat16", fold=fold, note=note)

    def embed_files(
        self,
        images: Sequence[str | Path],
        folder: str | Path,
        *,
        skip_unreadable: bool = False,
        overwrite: bool = False,
    ) -> ArrayFiles:
        """Embeds image files, and writes vectors.npy and paths.csv into a new folder.

        Args:
            images: Image files, and folders of them.
            folder: The new folder.
            skip_unreadable: Leave out the images that cannot be read, which are logged.
            overwrite: Replace such files in that folder.

        Raises:
            RetrievalError: An image cannot be read, or the folder cannot be written.
        """
        with claim_for_arrays(folder, overwrite):
            files = image_files(images)
            if skip_unreadable:
                files = readable_files(files, self.workers, max_pixels=pixel_limit(self.preprocessing))
            images_of = file_set(files) or files if self.takes_tensors else files
            return write_arrays(
                folder, self.encode(images_of), {"path": list(map(str, files))}, PATHS, overwrite=overwrite
            )

    def unit(self, vectors: np.ndarray) -> np.ndarray:
        """The output of the network (number, dim) as float32 vectors of length 1.

        Raises:
            RetrievalError: A vector is not finite, or zero.
        """
        try:
            return evaluation.unit_vectors("vectors", vectors)
        except ValueError as error:
            raise RetrievalError(f"the model makes vectors that cannot be used: {error}") from error

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Saves the model as a folder that `Model.load` reads.

        A timm network is saved as its description and weights, any other module as an ONNX file.

        Args:
            folder: The new folder.
            overwrite: Replace a saved model in that folder.

        Raises:
            RetrievalError: The model cannot be saved, or the folder cannot be written.
        """
        with claim_folder(folder, overwrite, require_replaceable):
            stored = self.stored()
            facts = {"dimension": self.embedding_dim, "source": self.source}
            with folder_in_one_piece(folder, overwrite=overwrite, check=require_replaceable) as new:
                MODEL_FOLDER.write(new, facts, stored.to_files())

    def push_to_hub(self, repository: str, *, private: bool = False, training: Training | None = None) -> str:
        """Writes the model into a repository of the Hugging Face Hub, with a model card, as one commit.

        `Model.load("hf-hub:user/name")` loads it. timm alone loads a timm network too, with the same vectors if pooling is None and
        layer_norm is off. The token comes from the environment variable HF_TOKEN. Fields that were filled in on an earlier card,
        such as the licence, are kept.

        Args:
            repository: "user/name". It is made where it does not exist.
            private: Whether a new repository is private.
            training: What the card says of a training run; `Run.push_to_hub` gives it. Without it, the card has no figures.

        Returns:
            The page of the repository.

        Raises:
            RetrievalError: The model cannot be stored, the token may not write, or the hub cannot be reached.
        """
        return hub.push(self, repository, private=private, training=training)

    def stored(self) -> StoredModel:
        """The model as files hold it.

        Raises:
            RetrievalError: It cannot be stored: it is a function, its preprocessing is one, or ONNX cannot express it.
        """
        if isinstance(self.network, Embedder) and self.network.is_described:
            self._require_preprocessing()
            weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
            description = {**self.network.describe(), "preprocessing": self.preprocessing.to_dict()}
            return StoredModel(description, save_tensors(weights))
        description = {"embedding_dim": self.embedding_dim}
        if isinstance(self.network, onnx.OnnxNetwork):
            content = self.network.content
        else:
            content, _, _ = self._onnx(None)
        return StoredModel({**description, "preprocessing": self.preprocessing.to_dict()}, content, is_onnx=True)

    def export_onnx(
        self, file: str | Path, *, images: Sequence[str | Path] = (), overwrite: bool = False
    ) -> dict[str, Any]:
        """Writes the network as ONNX: "images" (batch, 3, size, size) float32 to "vectors" (batch, dim).

        The file is written only if onnxruntime and torch agree on some images: to 1e-4, and in the nearest neighbours of each
        image among the others. The preprocessing is stored in the file's metadata, as JSON.

        Args:
            file: The ONNX file.
            images: Image files and folders to compare by; by default noise.
            overwrite: Replace the file if it exists and was written by this function.

        Returns:
            The "largest_difference" of a component, the number of "images" compared, and the "opset".

        Raises:
            RetrievalError: Packages are missing, the network cannot be exported, or the vectors differ.
        """
        onnx.require_packages("onnx", "onnxruntime", "onnxscript")
        with claim_file(file, overwrite, onnx.require_exported):
            files = image_files(images)
            content, report, opset = self._onnx([self._prepared(path) for path in files] if files else None)
            require_free_file(file, overwrite, onnx.require_exported)  # again, since the work has taken a while
            write_bytes(file, content)
        return {**report, "opset": opset}

    def _raw(self, images: Any) -> np.ndarray:
        """The output of the network (number, dim) float32."""
        count = len(images) if hasattr(images, "__len__") else None
        if not self.takes_tensors:
            if isinstance(images, DataLoader):
                raise ValueError("a DataLoader gives tensors, but this model is a function of images; give the images")
            if isinstance(images, ImageSet):
                images = map(images.load, range(len(images)))
            return self._call(encoding.with_progress(images, count, self.batch_size))
        many = isinstance(images, (ImageSet, DataLoader)) or (count or 0) > self.batch_size
        if isinstance(images, ImageSet):
            loader = encoding.loader_of(images, self.preprocessing, self)
            batches: Iterable[Tensor] = encoding.with_progress(loader, len(loader), 1)
        elif isinstance(images, DataLoader):
            batches = encoding.batches_of_loader(images, self.preprocessing)
        elif isinstance(images, Tensor) and images.is_floating_point() and images.ndim == 4:
            batches = images.split(self.batch_size)
        else:
            items = encoding.with_progress(images, count, self.batch_size)
            batches = encoding.batches_of(items, self.preprocessing, self.batch_size)
        return self.embed(batches, fold=many)

    def _call(self, images: Iterable[Any]) -> np.ndarray:
        """The arrays that a function makes of batches of images."""
        parts, batch = [], []
        for image in images:
            batch.append(to_image(image))
            if len(batch) == self.batch_size:
                parts.append(self._call_once(batch))
                batch = []
        if batch:
            parts.append(self._call_once(batch))
        if not parts:
            raise ValueError("there is no image to embed; give one at least")
        return np.concatenate(parts)

    def _call_once(self, batch: list[Image.Image]) -> np.ndarray:
        made = self.network(batch)
        vectors = to_numpy("the function's result", made)
        if vectors.ndim != 2 or len(vectors) != len(batch):
            raise ValueError(
                f"the function makes {vectors.shape} of {len(batch)} images, expected ({len(batch)}, dimension)"
            )
        return vectors

    def _prepared(self, image: Any) -> Tensor:
        return torch.as_tensor(self.preprocessing(to_image(image, **decoding_of(self.preprocessing))))

    def _onnx(self, inputs: list[Tensor] | None) -> tuple[bytes, dict[str, Any], int]:
        """The ONNX file, how it compares with torch, and its opset."""
        if not isinstance(self.network, nn.Module):
            raise RetrievalError(f"this model is a {type(self.network).__name__}, not a torch.nn.Module")
        self._require_preprocessing()
        size = self.preprocessing.size
        if inputs is None:
            probes = torch.randn(_PROBES, 3, size, size, generator=torch.Generator().manual_seed(0))
        else:
            probes = torch.stack(inputs)
        network = copy.deepcopy(self.network).cpu().float().eval()  # the export must not move the caller's network
        metadata = {"preprocessing": self.preprocessing.to_dict()}
        content, opset = onnx.export_network(network, size, metadata)
        difference = onnx.compare(content, network, probes)
        return content, {"largest_difference": difference, "images": len(probes)}, opset

    def _require_preprocessing(self) -> None:
        if not isinstance(self.preprocessing, Preprocessing):
            raise RetrievalError(
                f"this model's preprocessing is a {type(self.preprocessing).__name__}, which no file can hold; give a "
                "retrieval.data.Preprocessing"
            )

    def __repr__(self) -> str:
        return f"Model({type(self.network).__name__}, {self.preprocessing!r}, device={str(self.device)!r})"
