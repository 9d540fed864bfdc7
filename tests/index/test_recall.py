from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from retrieval.index import Index
from retrieval.index.bundle import read_bundle
from retrieval.index.recall import Ranking


def by_sorting_everything(scores, labels, gallery_labels, own, k):
    """recall@k, MAP@R and R-precision by one plain loop."""
    values = []
    for i, row in enumerate(scores):
        order = [j for j in np.argsort(-row, kind="stable") if own is None or j != own[i]]
        relevant = gallery_labels[order] == labels[i]
        if total := relevant.sum():
            precision = np.cumsum(relevant) / np.arange(1, len(order) + 1)
            values.append([relevant[:k].any(), (precision * relevant)[:total].sum() / total, relevant[:total].mean()])
    return dict(zip((f"recall@{k}", "map@r", "r_precision"), np.mean(values, axis=0), strict=True))


@pytest.mark.parametrize("ranking", [Ranking(qe=3), Ranking(dba=2, qe=1), Ranking(rerank=6)])
@pytest.mark.parametrize("with_queries", [False, True])
def test_better_rankings_are_measured_as_by_sorting_everything(tmp_path, ranking, with_queries):
    generator = np.random.default_rng(3)
    labels = np.array([*[0] * 9, *[1] * 5, *[2] * 2, 3, 4, 4, 4])
    vectors = {name: generator.standard_normal((20, 4)) + 0.7 * np.eye(5, 4)[labels] for name in ("index", "queries")}
    vectors["index"][3] = vectors["index"][12]  # a copy, which ties
    for name, values in vectors.items():
        np.save(tmp_path / f"{name}.npy", values)
        ids = generator.permutation(20)
        (tmp_path / f"{name}.csv").write_text(
            "label,id\n" + "".join(f"class {label},{id_}\n" for label, id_ in zip(labels, ids, strict=True))
        )
        Index.from_files(tmp_path / f"{name}.npy", tmp_path / f"{name}.csv", tmp_path / name)
    gallery, asked = read_bundle(tmp_path / "index"), read_bundle(tmp_path / "queries")
    order = np.argsort(gallery.ids)
    items, names = gallery.vectors[order], np.array(gallery.class_names)[order]
    queries, wanted = (asked.vectors, np.array(asked.class_names)) if with_queries else (items, names)
    own = None if with_queries else np.arange(20)
    place = tmp_path / "queries" if with_queries else None
    for k in (1, 4, 19):
        found = Index.open(tmp_path / "index").evaluate_rankings((k,), queries=place, **asdict(ranking))
        for name, step in ranking.steps().items():
            positions, values = (np.concatenate(p) for p in zip(*step.nearest(queries, items, own, 20), strict=True))
            scores = np.full((20, 21), -np.inf)
            np.put_along_axis(scores, positions, values, axis=1)
            scores = scores[:, :20]
            expected = by_sorting_everything(scores, wanted, names, own, k)
            assert {key: found[name][key] for key in expected} == pytest.approx(expected, rel=1e-12)
            assert found[name]["queries"] == found["plain"]["queries"] == (20 if with_queries else 19)
