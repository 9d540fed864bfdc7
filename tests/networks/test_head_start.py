import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from retrieval.networks import start_head


@pytest.fixture
def features() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    spread = torch.linspace(2, 0.1, 12)
    return functional.normalize(torch.randn(200, 12, generator=generator) * spread + 1, dim=1)


def cosines(vectors: torch.Tensor) -> torch.Tensor:
    unit = functional.normalize(vectors, dim=1)
    return unit @ unit.T


def test_principal_directions_of_full_width_keep_all_angles_of_the_features(features):
    head = nn.Linear(12, 12)
    start_head(head, features, "pca")
    torch.testing.assert_close(cosines(head(features)), cosines(features), atol=1e-5, rtol=0)


def test_the_directions_are_those_of_the_singular_value_decomposition(features):
    head = nn.Linear(12, 5)
    start_head(head, features, "pca")
    reference = torch.linalg.svd(features.double(), full_matrices=False).Vh[:5]
    rows = functional.normalize(head.weight.double(), dim=1)
    torch.testing.assert_close((rows @ reference.T).abs(), torch.eye(5, dtype=torch.float64), atol=1e-4, rtol=0)
    assert (rows.gather(1, rows.abs().argmax(dim=1, keepdim=True)) > 0).all()


def test_whitening_divides_each_direction_by_the_fourth_root_of_its_shrunk_spread(features):
    head = nn.Linear(12, 12)
    start_head(head, features, "whiten")
    spread = head(features).square().mean(dim=0).double()
    squares = torch.linalg.svdvals(features.double()).square() / len(features)
    expected = squares / (squares + 0.3 * squares.mean()) ** 0.25
    torch.testing.assert_close(spread / spread.sum(), expected / expected.sum(), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("kind", ["pca", "whiten"])
def test_the_weights_have_the_variance_of_a_fresh_layer_and_no_bias(features, kind):
    head = nn.Linear(12, 6)
    start_head(head, features, kind)
    assert head.weight.square().mean().sqrt().item() == pytest.approx(1 / math.sqrt(3 * 12), rel=1e-5)
    assert not head.bias.any()


def test_fewer_images_than_directions_and_equal_images_give_a_finite_head(features):
    for few in (features[:3], features[:1].expand(4, -1), torch.zeros(2, 12)):
        head = nn.Linear(12, 10)
        start_head(head, few, "whiten")
        assert head.weight.isfinite().all()
        assert (head.weight.norm(dim=1) > 0).all()


def test_rows_beyond_the_width_of_the_features_hardly_change_the_vectors_and_are_trained(features):
    head = nn.Linear(12, 20)
    start_head(head, features, "pca")
    vectors = functional.normalize(head(features), dim=1)
    torch.testing.assert_close(vectors @ vectors.T, cosines(features), atol=1e-3, rtol=0)
    (vectors @ vectors.T)[0, 1].backward()
    assert (head.weight.grad[12:].abs().sum(dim=1) > 0).all()


def test_random_changes_nothing(features):
    head = nn.Linear(12, 6)
    before = head.weight.clone()
    start_head(head, features, "random")
    assert torch.equal(head.weight, before)


def test_an_unknown_start_is_an_error(features):
    with pytest.raises(ValueError, match="'zca', expected one of random, pca, whiten"):
        start_head(nn.Linear(12, 6), features, "zca")
