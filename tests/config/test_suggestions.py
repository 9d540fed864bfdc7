"""An unknown key is answered with the option that it means, in whichever section that is."""

from __future__ import annotations

import pytest

from retrieval.config import load
from retrieval.config.schema import Config
from retrieval.config.suggestions import ALIASES, nearest, option_names, suggest
from retrieval.errors import ConfigError


@pytest.mark.parametrize(
    ("key", "option"),
    [
        ("lr", "training.learning_rate"),
        ("LR", "training.learning_rate"),
        ("training.lr", "training.learning_rate"),
        ("model.lr", "training.learning_rate"),
        ("train.lr", "training.learning_rate"),
        ("training.learning_rat", "training.learning_rate"),
        ("learning-rate", "training.learning_rate"),
        ("epochs", "training.epochs"),
        ("num_epochs", "training.epochs"),
        ("model.epochs", "training.epochs"),
        ("training.epoch", "training.epochs"),
        ("batch_size", "batch.size or evaluation.batch_size"),
        ("evaluation.batch", "evaluation.batch_size"),
        ("bs", "batch.size"),
        ("size", "image.size or batch.size"),
        ("model.size", "image.size or batch.size"),
        ("k", "evaluation.ks or loss.ks"),
        ("evaluation.k", "evaluation.ks"),
        ("loss.k", "loss.ks"),
        ("optimizer", "training.optimizer"),
        ("model.optimizer", "training.optimizer"),
        ("momentum", "training.optimizer_options"),
        ("warmup", "training.warmup_epochs"),
        ("grad_clip", "training.clip_norm"),
        ("workers", "data.workers"),
        ("num_workers", "data.workers"),
        ("data.path", "data.root"),
        ("test_share", "data.options"),
        ("model.name", "model.backbone"),
        ("model.embeding_dim", "model.embedding_dim"),
        ("dim", "model.embedding_dim"),
        ("loss.weights", "loss.weight"),
        ("projection", "loss.projection"),
        ("los.projection", "loss.projection"),
        ("traning", "training"),
        ("sede", "seed"),
        ("tempreature", "loss.temperature"),
        ("ema_decay", "model.ema"),
        ("gem", "model.pooling"),
        ("train_batch_size", "batch.size"),
        ("model.layer_lr", "model.layer_decay"),
        ("grad_accum_steps", "batch.chunk"),
        ("milestones", "training.decay_epochs"),
        ("eval_every", "evaluation.every"),
    ],
)
def test_the_option_that_is_meant_is_named(key, option):
    with pytest.raises(ConfigError) as caught:
        load("glyphs", [f"{key}=1"])
    (line,) = caught.value.mistakes
    assert line == f"command line: unknown key '{key}'; did you mean {option}?"


NO_COUNTERPART = """
    xyzzy model.dropout dropout drop_rate drop_path_rate head_dropout num_classes num_layers num_heads attention
    activation weight_init label_smoothing mixup cutmix reprob color_jitter aa hflip rotation scale ratio pin_memory
    persistent_workers prefetch_factor drop_last shuffle data.shuffle local_rank world_size num_gpus rank sync_bn resume project
    output log_interval save_every checkpoint verbose lr_noise lr_cycle_mul cooldown_epochs l2_norm normalize alpha loss.scale
    reducer distance monitor min_delta num_samples top_k faiss metric crop_pct deterministic compile jit eta rho
"""


@pytest.mark.parametrize("key", NO_COUNTERPART.split())
def test_a_key_without_a_counterpart_gets_no_guess(key):
    assert suggest(key) == ""


def test_every_alias_leads_to_an_option_and_is_none_itself():
    options = set(option_names(Config))
    assert {option for known in ALIASES.values() for option in known} <= options
    assert not ALIASES.keys() & options


def test_every_option_is_found_without_its_section_and_in_another_one():
    for option in option_names(Config):
        name = option.rpartition(".")[2]
        assert option in nearest(name)
        assert option in nearest(f"nowhere.{name}")


def test_another_data_set_drops_the_options_of_the_configurations_own(caplog):
    caplog.set_level("INFO", logger="retrieval")
    assert load("cub200_small").data.options
    config = load("cub200_small", ["data.name=folder", "data.root=photos"])
    assert config.data.options == {}
    assert caplog.messages == ["data.name=folder: the configuration's own data.options are left out"]
    assert load("cub200_small", ["data.name=folder", "data.options.test_share=0.3"]).data.options == {"test_share": 0.3}
    assert load("cub200_small", ["data.name=cub200"]).data.options == load("cub200_small").data.options
