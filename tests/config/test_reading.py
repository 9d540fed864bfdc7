from __future__ import annotations

from importlib import resources

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from retrieval.config import Config, config_names, load, to_yaml
from retrieval.config.reading import load_of_run
from retrieval.config.yaml_text import parse, write
from retrieval.errors import CheckpointError, ConfigError


def mistakes(tmp_path, text: str, *overrides: str) -> list[str]:
    file = tmp_path / "my.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file, overrides)
    assert str(caught.value).splitlines() == caught.value.mistakes
    return [line.replace(f"{file}: ", "") for line in caught.value.mistakes]


def to_text(name: str) -> str:
    return (resources.files("retrieval.configs") / f"{name}.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", config_names())
def test_every_shipped_configuration_is_valid_and_has_its_command_in_a_comment(name):
    assert load(name).seed == 0
    first, second, *_ = to_text(name).splitlines()
    assert first.startswith(f"# retrieval train {'my_photos' if name == 'photos' else f'--config {name}'}")
    assert second == f"# {config_names()[name]}"


def test_a_configuration_survives_being_written_and_read(tmp_path):
    config = load(
        "glyphs", ["loss.noise=1e-3", "model.embedding_dim=null", "image.mean=[0.1, 0.2, 0.3]", "data.options={a: no}"]
    )
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    assert load(tmp_path / "c.yaml") == config


# PyYAML itself reads these three as line breaks.
LETTERS = st.text(st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029"))


@given(st.dictionaries(LETTERS, LETTERS | st.integers() | st.booleans() | st.none()))
@example({"file": "1e5", "010": "08", "yes": "no", "1_0": "0x1F", "~": "null", "n": 10})
@settings(deadline=None)
def test_options_survive_being_written_and_read_whatever_they_are(options):
    assert parse(write({"options": options}), "") == ({"options": options}, [])


def test_overrides_win_over_the_file_and_the_file_over_the_defaults(tmp_path):
    (tmp_path / "c.yaml").write_text("training: {epochs: 3, learning_rate: 1e-4}")
    config = load(tmp_path / "c.yaml", ["training.epochs=5"])
    assert config.training.epochs == 5
    assert config.training.learning_rate == 1e-4
    assert config.training.weight_decay == Config().training.weight_decay


def test_numbers_and_strings_are_read_as_in_yaml_1_2(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "loss: {noise: 1e-4}\nmodel: {backbone: no, pretrained: off.safetensors}\ndata: {root: 2024-01-01}"
    )
    config = load(tmp_path / "c.yaml")
    assert config.loss.noise == 1e-4
    assert config.model.backbone == "no"
    assert config.data.root == "2024-01-01"
    assert load("glyphs", ["seed=010"]).seed == 10


def test_all_mistakes_come_at_once(tmp_path):
    found = mistakes(
        tmp_path,
        "sede: 1\ntraining: {epochs: many, learning_rate: -1}\nloss: {projection: sdt}\nimage: 3\n",
        "batch.szie=64",
        "nonsense",
        "seed.x=1",
    )
    text = "\n".join(found)
    assert len(found) == 7 + (len(found) - 7 if "seed: " in text else 0)
    assert "unknown key 'sede'; did you mean seed?" in text
    assert "training.epochs: input should be a valid integer, found 'many'" in text
    assert "training.learning_rate: input should be greater than 0, found -1" in text
    assert "loss.projection: input should be 'none', 'mean', 'norm', 'std', 'local' or 'softmax', found 'sdt'" in text
    assert "image: expected a section of resize, size" in text
    assert "command line: unknown key 'batch.szie'; did you mean batch.size?" in text
    assert "'nonsense': expected key=value" in text


def test_a_repeated_key_is_a_mistake_with_its_line(tmp_path):
    assert mistakes(tmp_path, "seed: 1\ntraining:\n  epochs: 2\n  epochs: 3\n") == ["line 4: key 'epochs' stands twice"]


def test_true_is_not_a_number_and_a_number_is_not_a_boolean(tmp_path):
    found = mistakes(tmp_path, "seed: true\nmodel: {layer_norm: 1}")
    assert "seed: input should be a valid integer, found True" in found
    assert "model.layer_norm: input should be a valid boolean, found 1" in found


def test_a_value_of_two_possible_types_is_one_mistake(tmp_path):
    assert mistakes(tmp_path, "model: {pretrained: 3}") == [
        "model.pretrained: input should be a valid boolean, found 3; or input should be a valid string"
    ]


@pytest.mark.parametrize("text", ["a: [1, 2", "- 1\n- 2", "just words", "\t- :", "a: &x [*x]"])
def test_a_file_that_is_not_a_configuration_is_one_error_with_its_name(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load(tmp_path / "c.yaml")


def test_missing_files_and_unknown_names_have_different_messages(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        load(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="did you mean glyphs"):
        load("glyhps")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(tmp_path / "binary.yaml")


def test_a_byte_order_mark_is_accepted(tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbfseed: 4\n")
    assert load(tmp_path / "c.yaml").seed == 4


def taken_or_refused(source, overrides) -> bool:
    """Whether the result is a configuration or an error that names a mistake; other exceptions are raised."""
    try:
        return isinstance(load(source, overrides), Config)
    except ConfigError as error:
        return len(error.mistakes) > 0


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_override_is_accepted_or_a_mistake(text):
    assert taken_or_refused("glyphs", [text])


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["seed", "data", "loss", "x"]),
        st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists),
    )
)
def test_any_content_is_accepted_or_a_mistake(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("config") / "c.yaml"
    file.write_text(yaml.safe_dump(content))
    assert taken_or_refused(file, [])


def test_the_values_of_the_configuration_are_those_of_the_code():
    from typing import get_args

    from retrieval.config.schema import ImageConfig, LossConfig
    from retrieval.data import AUGMENTATIONS
    from retrieval.losses.recall import PROJECTIONS
    from retrieval.losses.weightings import WEIGHTINGS

    assert set(get_args(LossConfig.model_fields["projection"].annotation)) == set(PROJECTIONS)
    assert set(get_args(LossConfig.model_fields["weighting"].annotation)) == set(WEIGHTINGS)
    assert set(get_args(ImageConfig.model_fields["augmentation"].annotation)) == set(AUGMENTATIONS)


def test_an_override_of_a_string_is_not_parsed(tmp_path):
    for text in ("2024", "my #2", "'q'", "@x", "[x]", "a: b", "true"):
        assert load("glyphs", [f"data.root={text}"]).data.root == text
    assert load("glyphs", ["data.root=null"]).data.root is None
    assert load("glyphs", ["model.pretrained=true"]).model.pretrained is True
    assert load("glyphs", ["model.pretrained=w.safetensors"]).model.pretrained == "w.safetensors"


def test_values_that_do_not_fit_together_are_mistakes(tmp_path):
    assert mistakes(tmp_path, "image: {size: 64, resize: 32}") == [
        "image.size is 64, expected at most resize, which is 32"
    ]
    found = mistakes(tmp_path, "training: {epochs: 2, warmup_epochs: 5}")
    assert found == ["training.warmup_epochs is 5, expected fewer than the 2 epochs"]
    for text, words in (
        ("data: {folds: 4, fold: 4}", "fold is 4, expected a number below folds, which is 4"),
        ("training: {schedule: step}", "expected one number for the schedule step"),
        (
            "training: {schedule: multistep, decay_epochs: [4, 2]}",
            "expected increasing numbers for the schedule multistep",
        ),
        ("training: {decay_epochs: [4]}", "expected none for the schedule cosine"),
        ("training: {patience: 3}\ndata: {validation_share: 0}", "data.validation_share holds out none"),
        ("batch: {size: 64}\nloss: {memory: 32}", "loss.memory is 32, but 64 embeddings enter it with every batch"),
        ("batch: {size: 64, simix: true}\nloss: {terms: [{memory: 64}]}", "but 160 embeddings enter it"),
        ("loss: {miner_options: {epsilon: 1}}", "miner_options are set, but no miner"),
    ):
        (mistake,) = mistakes(tmp_path, text)
        assert words in mistake
        assert ": :" not in mistake


def test_options_of_the_recall_loss_for_another_loss_are_mistakes(tmp_path):
    found = mistakes(tmp_path, "loss: {name: triplet, margin: 0.1, noise: 0.2}")
    assert found == [
        "loss: noise, margin: options of the loss 'recall', not of 'triplet', whose options go under options"
    ]
    found = mistakes(tmp_path, "loss: {projection: norm, terms: [{name: triplet}]}")
    assert found == ["loss: projection: cannot be set next to terms; put the options into a term"]


def test_a_mistake_inside_a_list_is_named_with_its_position_and_the_nearest_key(tmp_path):
    found = mistakes(tmp_path, "loss: {terms: [{name: triplet}, {nmae: recall, weight: 0}]}")
    assert "unknown key 'loss.terms.1.nmae'; did you mean name?" in found
    assert "loss.terms.1.weight: input should be greater than 0, found 0" in found


def test_another_loss_on_the_command_line_drops_the_options_of_the_loss_in_the_file(tmp_path):
    (tmp_path / "c.yaml").write_text("loss: {weighting: linear, memory: 999}")
    loss = load(tmp_path / "c.yaml", ["loss.name=triplet", "loss.options.margin=0.2"]).loss
    assert (loss.name, loss.options, loss.memory) == ("triplet", {"margin": 0.2}, 0)
    assert load(tmp_path / "c.yaml", ["loss.terms=[{name: triplet}]"]).loss.terms[0].name == "triplet"
    assert load(tmp_path / "c.yaml", ["loss.name=recall"]).loss.weighting == "linear"


def test_booleans_of_an_older_version_are_accepted(tmp_path):
    assert load("glyphs", ["model.freeze_batchnorm=true"]).model.freeze_batchnorm == "statistics"
    assert load("glyphs", ["model.freeze_batchnorm=false"]).model.freeze_batchnorm == "none"


def test_a_part_of_a_configuration_of_a_run_is_not_replaced_by_defaults(tmp_path):
    file, config = tmp_path / "config.yaml", load("glyphs")
    text = to_yaml(config)
    file.write_text(text)
    assert load_of_run(file) == config
    for length in (0, text.index("model:"), text.index("evaluation:"), len(text) - 1):
        file.write_text(text[:length])
        with pytest.raises(CheckpointError, match=r"config\.yaml: is not whole \(.*\); restore it, or train again"):
            load_of_run(file)


@pytest.mark.parametrize("text", ["{[1]: 2}", "seed: !!int x", "seed: 99999999999999999999"])
def test_unusual_yaml_is_a_mistake_too(tmp_path, text):
    assert len(mistakes(tmp_path, text)) == 1
