from __future__ import annotations

import copy

import pytest
import torch
from pytorch_metric_learning import losses, miners
from pytorch_metric_learning.distances import DotProductSimilarity, LpDistance

from retrieval.losses import CrossBatchMemory, RecallLoss, recall_loss
from retrieval.losses.rambo import RamboLoss
from retrieval.losses.recall import PROJECTIONS
from retrieval.losses.recall_surrogate import RecallSurrogateLoss
from retrieval.losses.smooth_ap import SmoothAPLoss
from retrieval.training.checkpoint import load_checkpoint, save_checkpoint

DIM = 6
OURS = [RecallLoss, SmoothAPLoss, RecallSurrogateLoss, RamboLoss]


def batches(*sizes: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(n, DIM, generator=generator, dtype=dtype), torch.randint(0, 4, (n,), generator=generator))
        for n in sizes
    ]


class PlainMemory:
    """What the memory promises, with lists: the newest entries, in any order, each with the (batch, row) it came from."""

    def __init__(self, size: int) -> None:
        self.size, self.entries, self.batch = size, [], 0

    def add(self, embeddings: torch.Tensor, labels: torch.Tensor) -> None:
        self.batch += 1
        new = [
            ((self.batch, row), e, int(y)) for row, (e, y) in enumerate(zip(embeddings.detach(), labels, strict=True))
        ]
        self.entries = (self.entries + new)[-self.size :]

    def masks(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Relevant and irrelevant pairs of the newest batch and the entries."""
        relevant = [
            [y == int(label) and place != (self.batch, i) for place, _, y in self.entries]
            for i, label in enumerate(labels)
        ]
        irrelevant = [[y != int(label) for _, _, y in self.entries] for label in labels]
        return torch.tensor(relevant), torch.tensor(irrelevant)

    def references(self) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.stack([e for _, e, _ in self.entries]), dim=1)


@pytest.mark.parametrize("projection", PROJECTIONS)
@pytest.mark.parametrize(
    ("sizes", "memory_size"),
    [((8, 8, 8, 8), 20), ((5, 7, 3, 8, 2), 11), ((6, 6, 6), 6), ((1, 4, 1, 1, 1), 4), ((4, 3), 100)],
    ids=["wraps around", "unequal batches", "no more than the batch", "batches of one", "not yet full"],
)
def test_value_and_gradient_are_the_recall_loss_against_the_last_entries_but_the_own(sizes, memory_size, projection):
    memory = CrossBatchMemory(RecallLoss(projection, weighting="log", noise=0), DIM, memory_size)
    plain = PlainMemory(memory_size)
    for embeddings, labels in batches(*sizes):
        embeddings.requires_grad_()
        value = memory(embeddings, labels)
        plain.add(embeddings, labels)
        scores = torch.nn.functional.normalize(embeddings, dim=1) @ plain.references().T
        expected = recall_loss(scores, *plain.masks(labels), projection=projection, weighting="log", noise=0)
        torch.testing.assert_close(value, expected)
        gradient, right = (torch.autograd.grad(loss, embeddings)[0] for loss in (value, expected))
        torch.testing.assert_close(gradient, right, rtol=1e-7, atol=1e-9)


def test_without_a_miner_the_recall_loss_never_makes_the_matrix_of_scores(monkeypatch):
    monkeypatch.setattr(RecallLoss, "losses_of_queries", None)
    memory = CrossBatchMemory(RecallLoss(noise=0), DIM, 20)
    for embeddings, labels in batches(8, 8, 8):
        memory(embeddings, labels)
        memory(embeddings, labels, enqueue_mask=torch.arange(8) < 3)


@pytest.mark.parametrize("loss", OURS)
def test_every_loss_of_the_project_takes_the_memory(loss):
    memory, plain = CrossBatchMemory(loss().eval(), DIM, 20), PlainMemory(20)
    for embeddings, labels in batches(8, 8, 8):
        value = memory(embeddings, labels)
        plain.add(embeddings, labels)
        scores = torch.nn.functional.normalize(embeddings, dim=1) @ plain.references().T
        relevant, irrelevant = plain.masks(labels)
        expected = loss().eval().losses_of_queries(scores, relevant, irrelevant)[relevant.any(dim=1)].mean()
        torch.testing.assert_close(value, expected)


def test_losses_of_the_host_and_of_users_are_taken_and_strangers_refused():
    class Special(RecallLoss):
        pass

    batch, wider = batches(8, 8)
    for loss in (losses.ContrastiveLoss(), losses.TripletMarginLoss()):
        ours, theirs = CrossBatchMemory(loss, DIM, 20).double(), losses.CrossBatchMemory(loss, DIM, 20)
        for embeddings, labels in (batch, wider):
            assert torch.equal(ours(embeddings, labels), theirs(embeddings, labels))
    assert CrossBatchMemory(Special(), DIM)(*batch).isfinite()
    with pytest.raises(Exception, match="not supported for ArcFaceLoss"):
        CrossBatchMemory(losses.ArcFaceLoss(4, DIM), DIM)


def test_with_a_mask_some_enter_and_the_others_ask():
    memory = CrossBatchMemory(RecallLoss(noise=0), DIM, 20)
    (first, first_labels), (second, second_labels) = batches(8, 10)
    memory(first, first_labels)
    enters = torch.arange(10) < 6
    value = memory(second, second_labels, enqueue_mask=enters)
    references = torch.cat([first, second[enters]])
    labels = torch.cat([first_labels, second_labels[enters]])
    expected = RecallLoss(noise=0)(second[~enters], second_labels[~enters], ref_emb=references, ref_labels=labels)
    torch.testing.assert_close(value, expected)


def test_a_mask_under_which_nothing_enters_leaves_the_memory_as_it_is():
    memory = CrossBatchMemory(RecallLoss(noise=0), DIM, 20)
    (first, first_labels), (second, second_labels) = batches(8, 10)
    memory(first, first_labels)
    value = memory(second, second_labels, enqueue_mask=torch.zeros(10, dtype=torch.bool))
    torch.testing.assert_close(
        value, RecallLoss(noise=0)(second, second_labels, ref_emb=first, ref_labels=first_labels)
    )
    assert (memory.queue_idx, memory.has_been_filled) == (8, False)


@pytest.mark.parametrize("enters", [True, False])
def test_no_query_or_no_reference_gives_a_zero_that_can_be_differentiated(enters):
    embeddings, labels = batches(8)[0]
    embeddings.requires_grad_()
    memory = CrossBatchMemory(RecallLoss(noise=0), DIM, 20)
    value = memory(embeddings, labels, enqueue_mask=torch.full((8,), enters))
    value.backward()
    assert value == 0
    assert embeddings.grad.eq(0).all()


def test_mined_pairs_of_the_batch_count_besides_those_with_the_memory():
    class Nothing(miners.BaseMiner):
        def mine(self, *_):
            return (torch.empty(0, dtype=torch.long),) * 4

    embeddings, labels = batches(6)[0]
    memory = CrossBatchMemory(RecallLoss(noise=0), DIM, 20, miner=Nothing())
    memory(*batches(7, seed=1)[0])  # so that places in the memory are not those in the batch
    pairs = torch.tensor([0]), torch.tensor([1]), torch.tensor([0, 0]), torch.tensor([2, 3])
    expected = RecallLoss(noise=0)(embeddings, None, pairs)
    torch.testing.assert_close(memory(embeddings, labels, pairs), expected)
    triplets = torch.tensor([0, 0]), torch.tensor([1, 1]), torch.tensor([2, 3])
    memory.miner = miners.TripletMarginMiner(margin=-5)  # finds nothing either
    torch.testing.assert_close(memory(embeddings, labels, triplets), expected)


@pytest.mark.parametrize(
    "loss", [RecallLoss(distance=LpDistance(p=1), noise=0), RecallLoss(distance=DotProductSimilarity(), noise=0)]
)
@pytest.mark.parametrize("miner", [miners.MultiSimilarityMiner(), miners.TripletMarginMiner(margin=0.3)], ids=repr)
def test_a_miner_chooses_the_candidates_in_the_batch_and_in_the_earlier_entries(loss, miner):
    memory, plain = CrossBatchMemory(loss, DIM, 20, miner=miner), PlainMemory(20)
    for embeddings, labels in batches(8, 8, 8):
        value = memory(embeddings, labels)
        plain.add(embeddings, labels)
    # Old and new entries lie in another order here; the mined pairs follow their entries.
    references, ref_labels = torch.stack([e for _, e, _ in plain.entries]), torch.tensor([y for *_, y in plain.entries])
    within, across = miner(embeddings, labels), miner(embeddings, labels, references[:12], ref_labels[:12])
    moved = [items if place in (0, len(within) - 2) else items + 12 for place, items in enumerate(within)]
    if len(within) == 3:
        moved = [within[0], within[1] + 12, within[2] + 12]
    pairs = tuple(torch.cat(both) for both in zip(moved, across, strict=True))
    torch.testing.assert_close(value, loss(embeddings, labels, pairs, references, ref_labels))
    assert value > 0


@pytest.mark.parametrize("negatives", ["hard", "all"])
def test_a_miner_never_finds_the_own_copy(negatives):
    seen = []

    class Miner(miners.BatchEasyHardMiner):
        def mine(self, embeddings, labels, ref_emb, ref_labels):
            found = super().mine(embeddings, labels, ref_emb, ref_labels)
            own = (embeddings[found[0]] == ref_emb[found[1]]).all(dim=1)
            seen.append((len(found[0]), int(own.sum())))
            return found

    memory = CrossBatchMemory(RecallLoss(noise=0), DIM, 20, miner=Miner("easy", negatives))
    assert [bool(memory(*batch) > 0) for batch in batches(8, 8, 8, 8)] == [True] * 4
    assert all(found > 0 and own == 0 for found, own in seen)
    assert len(seen) == 7  # within each batch, and with the entries before it from the second on


@pytest.mark.parametrize("stop", [1, 3], ids=["not yet full", "full"])
def test_a_run_saved_and_resumed_goes_on_as_one_without_a_break(tmp_path, stop):
    inputs = batches(8, 8, 8, 8, 8, dtype=torch.float32)
    whole = CrossBatchMemory(RecallLoss(noise=0), DIM, 20)
    expected = [whole(*batch).item() for batch in inputs]

    stopped = CrossBatchMemory(RecallLoss(noise=0), DIM, 20)
    for batch in inputs[:stop]:
        stopped(*batch)
    save_checkpoint(tmp_path / "last.safetensors", {"loss": stopped.state_dict()})
    resumed = CrossBatchMemory(RecallLoss(noise=0), DIM, 20)
    resumed.load_state_dict(load_checkpoint(tmp_path / "last.safetensors")["loss"])
    assert [resumed(*batch).item() for batch in inputs[stop:]] == expected[stop:]
    assert (resumed.queue_idx, resumed.has_been_filled) == (whole.queue_idx, whole.has_been_filled)


def test_the_state_is_tensors_and_goes_through_safetensors(tmp_path):
    from safetensors.torch import load_file, save_model

    inputs = batches(8, 8, 8, dtype=torch.float32)
    whole, resumed = (torch.nn.ModuleDict({"loss": CrossBatchMemory(RecallLoss(noise=0), DIM, 20)}) for _ in range(2))
    for batch in inputs[:2]:
        whole["loss"](*batch)
    save_model(whole, tmp_path / "model.safetensors")
    resumed.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert resumed["loss"](*inputs[2]) == whole["loss"](*inputs[2])
    copied = copy.deepcopy(whole)
    assert copied["loss"](*inputs[0]) == whole["loss"](*inputs[0])


def test_states_of_before_and_of_the_wrapped_class_load(caplog):
    inputs = batches(8, 8, 8, dtype=torch.float32)
    memory, resumed = (torch.nn.ModuleDict({"loss": CrossBatchMemory(RecallLoss(noise=0), DIM, 20)}) for _ in range(2))
    for batch in inputs[:2]:
        memory["loss"](*batch)
    state = memory.state_dict()
    del state["loss.queue"]
    old = state | {"loss._extra_state": {"queue_idx": 16, "has_been_filled": False}}
    resumed.load_state_dict(old)
    assert old["loss._extra_state"]["queue_idx"] == 16  # the caller's dict stays
    assert not caplog.records
    assert resumed["loss"](*inputs[2]) == memory["loss"](*inputs[2])

    resumed.load_state_dict(state)
    assert (resumed["loss"].queue_idx, resumed["loss"].has_been_filled) == (0, False)
    assert "the state has no place in the queue; the memory starts empty" in caplog.text
    with pytest.raises(RuntimeError, match="embedding_memory"):
        resumed.load_state_dict({})


def test_a_validation_in_inference_mode_before_training_leaves_the_memory_trainable():
    memory = CrossBatchMemory(RecallLoss(noise=0), DIM, 20)
    first, second = batches(8, 8)  # float64, to which the memory is converted
    with torch.inference_mode():
        memory(*first)
    embeddings = second[0].requires_grad_()
    memory(embeddings, second[1]).backward()
    assert embeddings.grad.any()


def test_labels_of_every_dtype_enter():
    embeddings, labels = batches(8)[0]
    expected = CrossBatchMemory(RecallLoss(noise=0), DIM, 20)(embeddings, labels % 2)
    for dtype in (torch.bool, torch.uint8, torch.uint16, torch.uint64, torch.int8, torch.float16):
        memory = CrossBatchMemory(RecallLoss(noise=0), DIM, 20)
        assert memory(embeddings, (labels % 2).to(dtype)) == expected


def test_its_text_shows_its_sizes():
    assert "embedding_size=6, memory_size=20" in repr(CrossBatchMemory(RecallLoss(noise=0), DIM, 20))


def test_the_memory_keeps_float32_and_whole_labels_whatever_comes():
    memory = CrossBatchMemory(RecallLoss(noise=0), DIM, 20)
    embeddings, labels = batches(8, dtype=torch.float32)[0]
    half = embeddings.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = memory(half, labels + 2**40)
    value.backward()
    assert half.grad.dtype == torch.bfloat16
    assert (memory.embedding_memory.dtype, memory.embedding_memory.shape) == (torch.float32, (20, DIM))
    assert (memory.label_memory.dtype, memory.label_memory.shape) == (torch.int64, (20,))
    assert torch.equal(memory.embedding_memory[:8], half.detach().float())
    assert memory.label_memory[:8].tolist() == (labels + 2**40).tolist()
    torch.testing.assert_close(value, RecallLoss(noise=0)(half.detach(), labels), rtol=0, atol=0)


def test_too_large_a_batch_is_refused_before_anything_enters():
    memory = CrossBatchMemory(RecallLoss(noise=0), DIM, 4)
    embeddings, labels = batches(5)[0]
    with pytest.raises(ValueError, match="5 embeddings enter a memory of 4; raise memory_size"):
        memory(embeddings, labels)
    with pytest.raises(ValueError, match="5 embeddings enter a memory of 4"):
        memory(embeddings.repeat(2, 1), labels.repeat(2), enqueue_mask=torch.arange(10) < 5)
    assert memory.queue_idx == 0
    with pytest.raises(ValueError, match="memory_size is 0"):
        CrossBatchMemory(RecallLoss(noise=0), DIM, 0)


def test_a_loss_computed_before_the_next_batch_enters_keeps_its_gradient():
    memory, again = (CrossBatchMemory(RecallLoss("local", noise=0), DIM, 10) for _ in range(2))
    (first, labels), (second, others) = batches(8, 8)
    gradients = []
    for later, bank in ((True, memory), (False, again)):
        queries = first.clone().requires_grad_()
        loss = bank(queries, labels)
        if later:
            bank(second, others)
        loss.backward()
        gradients.append(queries.grad)
    assert torch.equal(*gradients)
