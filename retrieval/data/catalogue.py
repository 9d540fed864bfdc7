"""Facts about each data set besides its reader: its source, its terms of use, and the published numbers.

Nothing is downloaded. The sources are described instead of linked, because such links die, and users must read the terms there.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from retrieval.data import cars196
from retrieval.data.docstrings import docstring
from retrieval.data.registry import DATASETS, DIVISION, is_published
from retrieval.errors import did_you_mean

_OWNERS = "for research; the photographs belong to their owners, and the authors' page has the terms"


@dataclass(frozen=True)
class Source:
    """The source of a data set.

    Args:
        title: A short description.
        origin: Where users get it.
        terms: The terms of use.
        archives: The published names of the files that `retrieval data prepare` unpacks or copies.
        md5: The published md5 sums of some of these files.
        published: The numbers of (classes, images) of every split; empty if they depend on the user's images.
    """

    title: str
    origin: str
    terms: str
    archives: tuple[str, ...] = ()
    md5: Mapping[str, str] = field(default_factory=dict)
    published: Mapping[str, tuple[int, int]] = field(default_factory=dict)


CATALOGUE: dict[str, Source] = {
    "cars196": Source(
        title="16,185 photographs of 196 models of cars, in any of three layouts",
        origin="the authors' download links (Stanford) are dead; get a copy in one of the layouts above, e.g. from Kaggle",
        terms="for research; the photographs belong to their owners",
        archives=("car_ims.tgz", "cars_annos.mat"),
        md5={"car_ims.tgz": "d5c8f0aa497503f355e17dc7886c3f14", "cars_annos.mat": cars196.MD5["cars_annos.mat"]},
        published={"train": (98, 8_054), "test": (98, 8_131)},
    ),
    "csv": Source(
        title="any images, listed in a CSV file",
        origin="your own",
        terms="your own",
        archives=("images.zip", "images.csv"),
    ),
    "cub200": Source(
        title="11,788 photographs of 200 species of birds",
        origin="the authors' page, Caltech-UCSD Birds-200-2011: one archive",
        terms=_OWNERS,
        archives=("CUB_200_2011.tgz",),
        md5={"CUB_200_2011.tgz": "97eceeb196236b17998738112f37df78"},
        published={"train": (100, 5_864), "test": (100, 5_924)},
    ),
    "folder": Source(
        title="any images, one folder per class", origin="your own", terms="your own", archives=("images.zip",)
    ),
    "glyphs": Source(
        title="1,200 characters in 12 views each, generated locally",
        origin="generated in the cache folder the first time it is read without a root; nothing to download",
        terms="those of the fonts in matplotlib",
        published={"train": (720, 8_640), "test": (480, 5_760)},
    ),
    "inshop": Source(
        title="52,712 photographs of 7,982 articles of clothing",
        origin="the page of DeepFashion (CUHK), In-shop Clothes Retrieval Benchmark: Img/img.zip and Eval/list_eval_partition.txt",
        terms="non-commercial research and education; the authors do not own the photographs, and their page has the terms",
        archives=("img.zip", "list_eval_partition.txt"),
        published={"train": (3_997, 25_882), "query": (3_985, 14_218), "gallery": (3_985, 12_612)},
    ),
    "omniglot": Source(
        title="32,460 drawings of 1,623 handwritten characters of 50 alphabets",
        origin="the authors' repository, brendenlake/omniglot on GitHub: two archives in its folder python/",
        terms="the MIT licence of that repository",
        archives=("images_background.zip", "images_evaluation.zip"),
        published={"train": (964, 19_280), "test": (659, 13_180)},
    ),
    "sop": Source(
        title="Stanford Online Products: 120,053 photographs of 22,634 goods",
        origin="the authors' page of Deep Metric Learning via Lifted Structured Feature Embedding (CVPR 2016): one archive",
        terms=_OWNERS,
        archives=("Stanford_Online_Products.zip",),
        md5={"Stanford_Online_Products.zip": "7f73d41a2f44250d4779881525aea32e"},
        published={"train": (11_318, 59_551), "test": (11_316, 60_502)},
    ),
}


def find_source(name: str) -> Source:
    """The catalogue entry of a data set.

    Raises:
        ValueError: There is no such data set.
    """
    if name not in CATALOGUE:
        raise ValueError(
            f"there is no data set {name!r}; known are {', '.join(CATALOGUE)}{did_you_mean(name, CATALOGUE)}"
        )
    return CATALOGUE[name]


def read_description(name: str) -> str:
    """The docstring of the reader's module: the data set, the files that it expects, and how it is divided."""
    find_source(name)
    return docstring(sys.modules[DATASETS[name].__module__])


def read_options(name: str) -> dict[str, Any]:
    """The options of the reader of a data set, with their defaults."""
    find_source(name)
    parameters = inspect.signature(DATASETS[name]).parameters
    options = {option: parameter.default for option, parameter in parameters.items()}
    options |= {} if is_published(name) else DIVISION
    return {option: default for option, default in options.items() if option not in ("root", "split")}
