"""Runs of one configuration and several seeds: their means and intervals."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from scipy.special import stdtrit

from retrieval.runs.record import Figures, result_name
from retrieval.runs.run_list import RunSummary

log = logging.getLogger("retrieval")

NAMES = ("recall@1", "map@r")


@dataclass(frozen=True)
class RunGroup:
    """The finished runs of one configuration, which differ in the seed only.

    Args:
        runs: The runs, at least one.
        options: The options that tell this configuration from others of the same data set, backbone, loss and pixels, by dotted
            key.
    """

    runs: tuple[RunSummary, ...]
    options: dict[str, Any]

    @property
    def seeds(self) -> list[int | None]:
        """The seeds, in the order of the runs, each once."""
        return list(dict.fromkeys(run.seed for run in self.runs))

    @property
    def split(self) -> str:
        """The split of the figures: "test", or "validation" where nothing was tested."""
        return self.runs[0].split

    @property
    def figures(self) -> Figures:
        """recall@1 and MAP@R of the runs' headlines: their means over the seeds.

        With two seeds or more, "<name> low" and "<name> high" are the bounds of the 95 % interval of the mean, by Student's t. Runs
        of the same seed count once, with their mean.
        """
        figures: Figures = {}
        for name in NAMES:
            values = [fmean(run.headline[name] for run in self.runs if run.seed == seed) for seed in self.seeds]
            figures[name] = mean = fmean(values)
            if len(values) > 1:
                half = half_width(values)
                figures |= {f"{name} low": mean - half, f"{name} high": mean + half}
        return figures

    @property
    def frozen(self) -> Figures:
        """recall@1 and MAP@R of the frozen features on the same split: their means over the runs. Empty if a run has none."""
        found = [run.results.get(result_name("frozen features", self.split), {}) for run in self.runs]
        return {name: fmean(one[name] for one in found) for name in NAMES} if all(found) else {}

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON can hold them."""
        return {
            **self.runs[0].description,
            "options": self.options,
            "seeds": self.seeds,
            "runs": [str(run.path) for run in self.runs],
            "split": self.split,
            "figures": self.figures,
            "frozen features": self.frozen,
        }


def half_width(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean of two or more values, by Student's t."""
    return float(stdtrit(len(values) - 1, 0.975)) * stdev(values) / math.sqrt(len(values))


def group_runs(runs: Iterable[RunSummary]) -> list[RunGroup]:
    """The finished runs by configuration: those of a group differ in the seed and the folder only.

    The groups are sorted by data set, backbone, loss and pixels. A warning says how many runs are left out.

    Args:
        runs: Runs of `list_runs`.

    Examples:
        >>> import tempfile, retrieval
        >>> retrieval.group_runs(retrieval.list_runs(tempfile.mkdtemp()))
        []
    """
    runs = list(runs)
    groups: dict[str, list[RunSummary]] = {}
    for run in runs:
        if run.state == "finished" and set(NAMES) <= run.headline.keys():
            config = {name: value for name, value in run.config.items() if name != "seed"}
            groups.setdefault(json.dumps([config, run.split], sort_keys=True), []).append(run)
    if others := len(runs) - sum(map(len, groups.values())):
        log.warning("%d of %d runs left out: not finished, or without figures", others, len(runs))
    alike: dict[tuple[str, ...], list[list[RunSummary]]] = {}
    for group in groups.values():
        alike.setdefault(tuple(map(str, group[0].description.values())), []).append(group)
    return [
        RunGroup(tuple(group), options)
        for _, described in sorted(alike.items())
        for group, options in zip(described, _differences([group[0].config for group in described]), strict=True)
    ]


def _differences(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each configuration, the options that are not the same in all, apart from the seed."""
    flat = [dict(_options(config)) for config in configs]
    keys = dict.fromkeys(key for options in flat for key in options if key != "seed")
    differing = [key for key in keys if any(options.get(key) != flat[0].get(key) for options in flat)]
    return [{key: options.get(key) for key in differing} for options in flat]


def _options(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The options of a configuration by dotted key."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _options(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
