"""The schema of a configuration: every option, its type and its default."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from retrieval.defaults import NOISE

# What a model that anyone may have stored can ask for, and therefore what can be trained.
LARGEST_SIDE = 2048  # pixels
LARGEST_DIMENSION = 2**16

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Pixels = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
AboveZero = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Rgb = Annotated[list[float], Field(min_length=3, max_length=3)]


class Section(BaseModel):
    """A section of the configuration. Unknown keys and wrong types are mistakes; values cannot be changed after reading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    def _changed(self, schema: type[Section]) -> list[str]:
        """The options of `schema` whose value is not the default."""
        return [name for name, field in schema.model_fields.items() if getattr(self, name) != field.default]


class DataConfig(Section):
    """Which images are used, and how they are split."""

    name: str = "glyphs"  # of `retrieval data list`, or an import path such as my_data:read
    root: str | None = None
    options: dict[str, Any] = {}  # of the data set's reader
    # Own images, one set: "classes": other classes are tested; "all": every class trains, nothing is tested; "images": the same
    # classes, other images are the queries. Published data sets, and folders and lists with splits of their own, are not divided.
    split: Literal["classes", "all", "images"] = "classes"
    # Share held out to choose the best checkpoint: of the training classes, or of the images where every class trains.
    validation_share: Share = 0.1
    folds: Annotated[int, Field(ge=2)] | None = None  # in place of a share: number of folds of the training classes
    fold: Whole = 0  # the fold that is held out
    split_seed: Whole = 0  # of what is held out; apart from `seed`, so that runs of several seeds share them
    lone_classes: Literal["refuse", "leave_out"] = "refuse"  # classes of a single training image, which has no pair
    unreadable: Literal["refuse", "skip"] = (
        "refuse"  # skip: every image is opened once, and those that fail are left out
    )
    workers: Whole = 2
    timeout: NotNegative = 120.0  # seconds to wait for a batch of the workers

    @model_validator(mode="after")
    def _fold_among_the_folds(self) -> Self:
        if self.fold >= (self.folds or 1):
            raise ValueError(f"fold is {self.fold}, expected a number below folds, which is {self.folds}")
        return self

    @model_validator(mode="after")
    def _folds_of_classes(self) -> Self:
        if self.folds and self.split != "classes":
            raise ValueError(f"folds are of classes, but split is {self.split!r}; leave out the folds")
        return self


class ImageConfig(Section):
    """From an image file to the network's input. Null statistics are those of the backbone's pretraining."""

    resize: Pixels = 256  # pixels of the shorter side
    size: Pixels = 224  # pixels of the centre crop; for a vision transformer, a multiple of its patch
    mean: Rgb | None = None
    std: Rgb | None = None
    interpolation: Literal["bilinear", "bicubic"] | None = None
    max_pixels: Annotated[int, Field(ge=1, le=2**30)] | None = (
        None  # limit of an image file; null: Pillow's, 89 million
    )
    # reduced: a JPEG file is decoded at 1/2, 1/4 or 1/8 of its size, if it keeps twice the pixels that are needed.
    decoding: Literal["full", "reduced"] = "reduced"
    augmentation: Literal["none", "character", "photo", "crop"] = "photo"
    augmentation_options: dict[str, Any] = {}  # see `retrieval.data.make_augmentation`

    @model_validator(mode="after")
    def _crop_inside_the_image(self) -> Self:
        if self.size > self.resize:
            raise ValueError(f"size is {self.size}, expected at most resize, which is {self.resize}")
        return self


class ModelConfig(Section):
    """The embedding network, and how its parts are trained."""

    backbone: str = "resnet50"  # a model of timm, or an import path such as my_nets:build
    backbone_options: dict[str, Any] = {}  # of a backbone given by an import path
    pretrained: bool | str = True  # true: timm's weights; or a weights file, or hf-hub:user/name
    embedding_dim: Annotated[int, Field(ge=1, le=LARGEST_DIMENSION)] | None = 512  # null: no head
    pooling: Literal["avg", "max", "avgmax", "gem", "cls"] | None = None  # null: the backbone's own
    layer_norm: bool = False  # between pooling and head
    head_init: Literal["random", "pca", "whiten"] | None = None  # null: whiten for a pretrained backbone, else random
    freeze_batchnorm: Literal["none", "statistics", "affine"] = "none"  # "affine" also freezes weight and bias
    freeze_backbone_epochs: Whole = 0  # number of first epochs that train pooling, norm and head only
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None  # learning rate of a layer over that of the next one
    head_lr_multiplier: AboveZero = 1.0
    pooling_lr_multiplier: AboveZero = 1.0
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None  # decay of the averaged weights, which are measured and kept
    channels_last: bool | None = (
        None  # layout of the weights of convolutions; null: true for a network of timm, as it is faster
    )
    gradient_checkpointing: bool = False  # less memory for a third more time

    @model_validator(mode="after")
    def _options_of_an_own_backbone(self) -> Self:
        if self.backbone_options and ":" not in self.backbone:
            raise ValueError("backbone_options are for a backbone given by an import path such as my_nets:build")
        return self

    @model_validator(mode="after")
    def _a_start_of_a_head(self) -> Self:
        if self.head_init in ("pca", "whiten") and self.embedding_dim is None:
            raise ValueError(
                f"head_init is {self.head_init}, but embedding_dim is null: there is no head; set head_init to null, too"
            )
        return self

    @field_validator("freeze_batchnorm", mode="before")
    @classmethod
    def _accept_a_boolean(cls, value: Any) -> Any:
        return {True: "statistics", False: "none"}[value] if isinstance(value, bool) else value


class NamedLoss(Section):
    """A loss and a miner, by their names in `retrieval.config.losses` or by an import path such as my_losses:MyLoss."""

    name: str = "recall"
    options: dict[str, Any] = {}
    weight: AboveZero = 1.0
    miner: str | None = None
    miner_options: dict[str, Any] = {}
    memory: Whole = 0  # number of embeddings of earlier batches that are further candidates


class LossTerm(NamedLoss):
    """One loss. These are options of `retrieval.losses.RecallLoss`; those of other losses go under `options`."""

    projection: Literal["none", "mean", "norm", "std", "local", "softmax"] = "std"
    weighting: Literal["loglog", "log", "sqrt", "linear"] = "sqrt"
    ks: Annotated[list[Positive], Field(min_length=1)] | None = None
    tau: AboveZero = 1.0
    noise: NotNegative = NOISE
    margin: NotNegative = 0.0
    local_margin: NotNegative = 1.0
    temperature: AboveZero = 0.5
    relevant_temperature: AboveZero | None = None
    spreading: Annotated[float, Field(ge=0, le=1)] = 0.0
    gradient: Literal["identity", "blackbox"] = "identity"
    blackbox_lambda: AboveZero = 4.0
    proxies: bool = False  # a second list of candidates for each query: a learnable proxy of every training class
    proxy_weight: NotNegative | Literal["auto"] = "auto"  # auto: classes in the batch over all training classes
    proxy_temperature: AboveZero = 0.1

    @model_validator(mode="after")
    def _recall_options_for_the_recall_loss(self) -> Self:
        changed = [name for name in self._changed(LossTerm) if name not in NamedLoss.model_fields]
        if self.name != "recall" and changed:
            raise ValueError(
                f"{', '.join(changed)}: options of the loss 'recall', not of {self.name!r}, whose options go under options"
            )
        unused = [name for name in changed if name.startswith("proxy_") and not self.proxies]
        if unused:
            raise ValueError(f"{unused[0]} is set, but there are no class proxies; set proxies=true, too")
        if self.miner is None and self.miner_options:
            raise ValueError("miner_options are set, but no miner")
        return self


class LossConfig(LossTerm):
    """The loss: a single one, or a weighted sum of several."""

    terms: list[LossTerm] = []  # in place of a single loss
    # Learning rate of the loss's own parameters, such as proxies, over the network's. Null: 10 with `proxies`, else 1.
    lr_multiplier: AboveZero | None = None

    @model_validator(mode="after")
    def _either_one_or_terms(self) -> Self:
        changed = self._changed(LossTerm)
        if self.terms and changed:
            raise ValueError(f"{', '.join(changed)}: cannot be set next to terms; put the options into a term")
        return self


class BatchConfig(Section):
    """How a training batch is sampled, and how it goes through the network."""

    size: Annotated[int, Field(ge=4)] = 128  # over all processes
    samples_per_class: Annotated[int, Field(ge=2)] = 4
    sampler: Literal["m_per_class", "hierarchical"] = "m_per_class"
    super_classes: Positive = 2  # in a hierarchical batch
    chunk: Positive | None = None  # images that pass the network at a time: batches of any size in fixed memory
    simix: bool = False  # mixtures of the embeddings of a class are further queries and candidates


class CallbackConfig(Section):
    """A callback with options."""

    name: str
    options: dict[str, Any] = {}


class TrainingConfig(Section):
    """The optimiser and the learning-rate schedule, by their names in timm."""

    epochs: Positive | Literal["auto"] = 20  # auto: by the number of training images, see `retrieval.config.fitting`
    max_steps: Positive | None = None  # ends the run earlier; the schedule is still that of the epochs
    optimizer: str = "adamw"  # of timm, or an import path such as my_optimizers:Lion
    optimizer_options: dict[str, Any] = {}
    learning_rate: AboveZero = 1e-3
    weight_decay: NotNegative = 1e-4
    schedule: Literal["cosine", "tanh", "step", "multistep", "constant"] = "cosine"
    decay_epochs: list[Positive] = []  # multistep: the epochs; step: one number, the epochs between two steps
    decay_rate: AboveZero = 0.1  # of step and multistep: factor of the learning rate at each step
    min_learning_rate: NotNegative = 0.0  # of cosine and tanh: the last learning rate
    warmup_epochs: Whole = 0
    amp: Literal["none", "bfloat16", "float16"] = "none"  # precision of the network; the loss is always float32
    clip_norm: AboveZero | None = None
    patience: Positive | None = None  # evaluations without a better validation figure, after which the run stops
    callbacks: list[str | CallbackConfig] = []  # tensorboard, wandb, mlflow, or import paths such as my_hooks:Log

    @property
    def num_epochs(self) -> int:
        """The number of epochs of a configuration that `retrieval.config.fitting.fit` has resolved."""
        assert self.epochs != "auto"
        return self.epochs

    @field_validator("callbacks", mode="before")
    @classmethod
    def _accept_a_single_one(cls, value: Any) -> Any:
        return [value] if isinstance(value, (str, dict)) else value

    @model_validator(mode="after")
    def _leave_epochs_after_the_warmup(self) -> Self:
        if self.epochs != "auto" and self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}, expected fewer than the {self.epochs} epochs")
        return self

    @model_validator(mode="after")
    def _decay_epochs_of_their_schedule(self) -> Self:
        wanted = {"step": "one number", "multistep": "increasing numbers"}.get(self.schedule, "none")
        fits = {"step": len(self.decay_epochs) == 1, "multistep": bool(self.decay_epochs)}
        rising = sorted(set(self.decay_epochs)) == self.decay_epochs
        if not (fits.get(self.schedule, not self.decay_epochs) and rising):
            raise ValueError(f"decay_epochs is {self.decay_epochs}, expected {wanted} for the schedule {self.schedule}")
        return self


class EvaluationConfig(Section):
    """How embeddings are evaluated."""

    every: Positive = 1  # epochs between two evaluations of the validation classes
    test_every: Positive | None = None  # epochs between two evaluations of the test classes, for "best on test"
    ks: Annotated[list[Positive], Field(min_length=1)] = [1, 2, 4, 8]
    batch_size: Positive = 256
    amp: Literal["none", "bfloat16"] = "none"  # precision of the network, here and in `retrieval index`


class Config(Section):
    """Every option of a run."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: str = "auto"  # auto, cpu, cuda, ...
    data: DataConfig = DataConfig()
    image: ImageConfig = ImageConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    batch: BatchConfig = BatchConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _hold_out_what_patience_watches(self) -> Self:
        brings_validation = (
            self.data.name in ("folder", "csv") or ":" in self.data.name
        )  # perhaps; it is known when they are read
        if self.training.patience and not (self.data.folds or self.data.validation_share or brings_validation):
            raise ValueError("training.patience watches validation classes, but data.validation_share holds out none")
        return self

    @model_validator(mode="after")
    def _a_memory_holds_a_batch(self) -> Self:
        batch = self.batch.size
        entering = batch + batch * (self.batch.samples_per_class - 1) // 2 if self.batch.simix else batch
        terms = {"loss": self.loss, **{f"loss.terms.{i}": term for i, term in enumerate(self.loss.terms)}}
        for key, term in terms.items():
            if 0 < term.memory < entering:
                raise ValueError(f"{key}.memory is {term.memory}, but {entering} embeddings enter it with every batch")
        return self
