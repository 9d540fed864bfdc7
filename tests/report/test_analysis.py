from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retrieval import evaluation
from retrieval.report import Images, analyse
from retrieval.report.analysis import draw_scores


def images(vectors, labels) -> Images:
    vectors = np.asarray(vectors, dtype=np.float32)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [f"class {label}" for label in labels]
    return Images(vectors, np.asarray(labels), names, [f"{i}.png" for i in range(len(labels))], Path("gone"))


def on_circle(angles, labels) -> Images:
    return images(np.stack([np.cos(np.radians(angles)), np.sin(np.radians(angles))], axis=1), labels)


def random_images(num_classes: int = 6, of_each: int = 5, seed: int = 0) -> Images:
    generator = np.random.default_rng(seed)
    return images(generator.normal(size=(num_classes * of_each, 8)), np.repeat(np.arange(num_classes), of_each))


# Two classes side by side, one far away; the image at 11 degrees lies among the other class.
TWO_AND_ONE = ([0, 1, 11, 10, 12, 14, 120, 123], [0, 0, 0, 1, 1, 1, 2, 2])


def test_neighbours_are_those_of_a_plain_search_and_never_the_query_itself():
    given = random_images()
    found = analyse(given, ks=(1, 2))
    plain = evaluation.search(given.vectors, given.vectors, 10, query_ids=np.arange(30))
    assert (found.neighbours == plain.ids).all()
    assert (found.neighbours != np.arange(30)[:, None]).all()
    assert (found.right == (given.labels[plain.ids] == given.labels[:, None])).all()
    assert found.own
    assert not found.is_sample


def test_worst_queries_are_those_whose_first_relevant_image_comes_last():
    found = analyse(on_circle(*TWO_AND_ONE), ks=(1,))
    assert found.worst(9).tolist() == [2, 3, 4]  # ranks 4 and, behind the image of the other class, 2 and 2
    assert found.ranking.first_rank.tolist() == [1, 1, 4, 2, 2, 1, 1, 1]


def test_most_confused_queries_are_shown_one_for_each_two_classes():
    found = analyse(on_circle(*TWO_AND_ONE), ks=(1,))
    rows = found.most_confused(9)
    assert rows.tolist() == [2, 3]  # class 0 among class 1, and class 1 next to class 0


def test_mistakes_count_queries_by_the_class_of_their_first_neighbour():
    first, second = analyse(on_circle(*TWO_AND_ONE), ks=(1,)).mistakes(9)
    assert (first.query, first.neighbour, first.count, first.of) == (3, 2, 2, 3)
    assert (second.query, second.count, second.of) == (2, 1, 3)
    assert first.score == pytest.approx(np.cos(np.radians(1)), abs=1e-6)


def test_near_duplicates_of_other_classes_come_by_score_and_no_image_comes_twice():
    pairs = analyse(on_circle([0, 1, 11, 10.5, 13, 14, 120, 123], TWO_AND_ONE[1]), ks=(1,)).near_duplicates(3)
    assert [{pair.query, pair.neighbour} for pair in pairs] == [{2, 3}, {1, 4}, {0, 5}]
    assert [pair.score for pair in pairs] == sorted((pair.score for pair in pairs), reverse=True)


def test_a_copy_under_another_label_is_the_first_near_duplicate():
    given = random_images()
    vectors = given.vectors.copy()
    vectors[17] = vectors[4]
    pair = analyse(images(vectors, given.labels), ks=(1,)).near_duplicates(1)[0]
    assert {pair.query, pair.neighbour} == {4, 17}
    assert pair.score == pytest.approx(1, abs=1e-6)


def test_queries_with_a_gallery_of_their_own_are_searched_in_it():
    queries, gallery = random_images(seed=1), random_images(of_each=3, seed=2)
    found = analyse(queries, gallery, ks=(1, 8))
    plain = evaluation.search(queries.vectors, gallery.vectors, 10)
    assert (found.neighbours == plain.ids).all()
    assert not found.own
    figures = evaluation.evaluate(
        queries.vectors, queries.labels, ks=(1, 8), gallery=gallery.vectors, gallery_labels=gallery.labels
    )
    assert found.ranking.values["recall@1"].mean() == figures["recall@1"]
    assert 0 < len(found.near_duplicates(99)) <= 18


def test_ks_beyond_the_gallery_are_left_out():
    assert list(analyse(random_images(2, 3), ks=(1, 2, 1000)).ranking.values)[:3] == ["recall@1", "recall@2", "map@r"]
    assert "recall@1" in analyse(random_images(2, 3), ks=(1000,)).ranking.values


def test_lone_images_are_left_out_of_the_figures_but_not_of_the_near_duplicates():
    found = analyse(on_circle([0, 3, 40, 41], [0, 0, 1, 2]), ks=(1,))
    assert found.ranking.left_out == 2
    assert {found.near_duplicates(1)[0].query, found.near_duplicates(1)[0].neighbour} == {2, 3}


def test_nothing_to_find_is_refused():
    with pytest.raises(ValueError, match="no label occurs twice"):
        analyse(on_circle([0, 3], [0, 1]), ks=(1,))


@pytest.mark.parametrize("own", [True, False])
def test_of_too_many_pairs_some_queries_are_sampled_at_random_and_ranked_exactly(monkeypatch, own):
    queries, gallery = random_images(20, 6, seed=3), None if own else random_images(20, 6, seed=4)
    whole = analyse(queries, gallery, ks=(1, 4))
    monkeypatch.setattr("retrieval.report.analysis._MOST_PAIRS", 120 * 120 // 3)
    some = analyse(queries, gallery, ks=(1, 4))
    assert some.is_sample
    assert 20 <= len(some.asked) <= 60
    assert len(set(some.asked.tolist())) == len(some.asked)
    assert (some.neighbours == whole.neighbours[some.asked]).all()
    assert (some.ranking.first_rank == whole.ranking.first_rank[some.asked[some.ranking.queries]]).all()
    assert (some.ranking.labels == queries.labels[some.asked[some.ranking.queries]]).all()
    assert some.worst(3).size == 3
    assert len(some.mistakes(5)) == 5


def test_scores_of_pairs_are_those_of_one_class_and_of_two():
    given = on_circle([0, 0, 90, 90, 180], [0, 0, 1, 1, 2])
    positive, negative = draw_scores(given, given, np.random.default_rng(0))
    assert set(positive.round(3)) == {1}
    assert set(np.abs(negative.round(3))) == {0, 1}  # at right angles, or opposite
    assert negative.max() < 0.1
    assert min(len(positive), len(negative)) > 10_000


def test_no_pairs_of_one_class_give_no_scores():
    queries, gallery = on_circle([0, 10], [0, 0]), on_circle([0, 10], [5, 5])
    positive, negative = draw_scores(queries, gallery, np.random.default_rng(0))
    assert len(positive) == 0
    assert len(negative) > 0
