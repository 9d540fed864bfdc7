"""Promises of `retrieval.data.catalogue`."""

from __future__ import annotations

import re

import pytest

from retrieval.data import DATASETS, cars196, inshop, sop
from retrieval.data.catalogue import CATALOGUE, find_source, read_description, read_options


def test_every_data_set_that_can_be_read_is_described_and_no_other() -> None:
    assert list(CATALOGUE) == sorted(DATASETS)


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_a_data_set_says_what_it_is_what_it_expects_and_where_to_get_it(name: str) -> None:
    source = find_source(name)
    assert source.title
    assert source.origin
    assert source.terms
    assert len(f"{name:9} {source.title}") <= 80
    assert "\n    root/" in read_description(name)
    assert "root" not in read_options(name)
    assert set(source.md5) <= set(source.archives)
    assert all(re.fullmatch("[0-9a-f]{32}", md5) for md5 in source.md5.values())


def test_the_published_counts_add_up_and_are_those_of_the_readers() -> None:
    images = {name: sum(images for _, images in source.published.values()) for name, source in CATALOGUE.items()}
    assert (images["cub200"], images["cars196"], images["sop"]) == (11_788, 16_185, 120_053)
    assert (images["inshop"], images["omniglot"], images["glyphs"]) == (52_712, 32_460, 14_400)
    for name, reader in (("sop", sop), ("inshop", inshop)):
        assert CATALOGUE[name].published == {split: counts[::-1] for split, counts in reader.PUBLISHED.items()}
    cars = {split: images for split, (_, images) in CATALOGUE["cars196"].published.items()}
    assert cars == cars196.PUBLISHED["train", "test"]


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no data set 'cub20'; known are .*; did you mean cub200\?"):
        find_source("cub20")
