"""Cross-batch memory: a batch of queries against the embeddings of the last batches too (Wang et al., CVPR 2020)."""

from __future__ import annotations

import logging
from typing import Any, cast

import torch
from pytorch_metric_learning import losses
from pytorch_metric_learning.utils.common_functions import concatenate_indices_tuples
from pytorch_metric_learning.utils.loss_and_miner_utils import convert_to_pairs, convert_to_triplets
from torch import Tensor

from retrieval.losses.score_matrix import AllButOwn, ScoreMatrixLoss, at_least_float32, in_one_dtype

log = logging.getLogger("retrieval")


class CrossBatchMemory(losses.CrossBatchMemory):
    """The memory of pytorch-metric-learning, for this project's losses too, and exact after a resume.

    Every batch enters the memory without its graph and takes the places of the oldest entries. Then each of its embeddings is a
    query, and the references are the whole memory but the query's own copy.

    Where several processes share a batch, wrap this class, not the loss inside, in `DistributedLossWrapper(efficient=False)`, and
    let the memory hold a multiple of the whole batch: every process enters its own part first, and would drop other entries.

    The state dict holds the entries and, as a tensor too, the place in the queue. With a state of the wrapped class, which lacks
    the latter, the memory starts empty, as there. The memory is float32 for embeddings of any lower precision; for float64, convert
    the module with `.double()` before its state is loaded.

    Args:
        loss: what the wrapped class takes, or any `ScoreMatrixLoss`.
        embedding_size: dimension of the embeddings.
        memory_size: entries; at least a batch.
        miner: finds pairs or triplets, once within the batch and once between the batch and the earlier entries; all pairs if left
            out. It so never sees a query's own copy, which an easy or a hard positive could not be told from.
        **kwargs: what else the wrapped class takes.
    """

    queue: Tensor
    embedding_memory: Tensor
    label_memory: Tensor

    def __init__(
        self, loss: Any, embedding_size: int, memory_size: int = 1024, miner: Any = None, **kwargs: Any
    ) -> None:
        if memory_size < 1:
            raise ValueError(f"memory_size is {memory_size}, expected at least the size of a batch")
        super().__init__(loss, embedding_size, memory_size, miner, **kwargs)

    def extra_repr(self) -> str:
        return f"embedding_size={self.embedding_size}, memory_size={self.memory_size}"

    def reset_queue(self) -> None:
        self.register_buffer("queue", torch.zeros(2, dtype=torch.long))
        super().reset_queue()

    @property
    def queue_idx(self) -> int:
        """Where the next entry goes."""
        return int(self.queue[0])

    @queue_idx.setter
    def queue_idx(self, place: int) -> None:
        self.queue[0] = place

    @property
    def has_been_filled(self) -> bool:
        """Whether every place has an entry."""
        return bool(self.queue[1])

    @has_been_filled.setter
    def has_been_filled(self, filled: bool) -> None:
        self.queue[1] = filled

    @staticmethod
    def supported_losses() -> list[str]:
        return [*losses.CrossBatchMemory.supported_losses(), *_names(ScoreMatrixLoss)]

    def forward(
        self, embeddings: Tensor, labels: Tensor, indices_tuple: Any = None, enqueue_mask: Tensor | None = None
    ) -> Tensor:
        """The loss of a batch.

        Args:
            embeddings: (batch, embedding_size).
            labels: (batch,).
            indices_tuple: pairs or triplets within the batch that count besides those with the memory.
            enqueue_mask: boolean (batch,): these enter the memory and are no queries, the others are queries and do not enter. If
                left out, all are both.

        Raises:
            ValueError: more embeddings enter than the memory holds.
        """
        entering = len(embeddings) if enqueue_mask is None else int(enqueue_mask.sum())
        if entering > self.memory_size:
            raise ValueError(f"{entering} embeddings enter a memory of {self.memory_size}; raise memory_size")
        embeddings = at_least_float32(embeddings)
        labels, _ = in_one_dtype(labels, labels)
        with torch.inference_mode(False):  # in which moved buffers could not be written again in training
            self.embedding_memory = self.embedding_memory.to(embeddings)
            self.label_memory = self.label_memory.to(embeddings.device, labels.dtype)
        loss: Tensor = super().forward(embeddings, labels, indices_tuple, enqueue_mask)
        return loss

    def add_to_memory(self, embeddings: Tensor, labels: Tensor, batch_size: int) -> None:
        filled = self.has_been_filled
        super().add_to_memory(embeddings, labels, batch_size)
        if batch_size == 0:  # which the wrapped class takes for the end of a round
            self.has_been_filled = filled

    def create_indices_tuple(
        self,
        embeddings: Tensor,
        labels: Tensor,
        E_mem: Tensor,
        L_mem: Tensor,
        input_indices_tuple: Any,
        do_remove_self_comparisons: bool,
    ) -> Any:
        if isinstance(self.loss, ScoreMatrixLoss) and self.miner is None and input_indices_tuple is None:
            # All pairs, without a list of them: for 512 queries and 60,000 references it would take half a gigabyte.
            return AllButOwn(self.curr_batch_idx) if do_remove_self_comparisons else None
        if input_indices_tuple is not None:
            # The wrapped class takes positions in the batch for positions in the memory.
            input_indices_tuple = self._in_memory(input_indices_tuple)
        if self.miner is None or not do_remove_self_comparisons:
            return super().create_indices_tuple(
                embeddings, labels, E_mem, L_mem, input_indices_tuple, do_remove_self_comparisons
            )
        found = self._mine(embeddings, labels, E_mem, L_mem)
        if input_indices_tuple is None:
            return found
        if len(found) == 4:
            input_indices_tuple = convert_to_pairs(input_indices_tuple, labels)
        else:
            input_indices_tuple = convert_to_triplets(input_indices_tuple, labels)
        return concatenate_indices_tuples(found, input_indices_tuple)

    def _mine(self, embeddings: Tensor, labels: Tensor, E_mem: Tensor, L_mem: Tensor) -> tuple[Tensor, ...]:
        """What the miner finds within the batch and in the earlier entries, as positions in the batch and in the memory."""
        found = self._in_memory(self.miner(embeddings, labels))
        earlier = torch.ones_like(L_mem, dtype=torch.bool).index_fill(0, self.curr_batch_idx, False).nonzero()[:, 0]
        if len(earlier) == 0:
            return found
        others = _move(self.miner(embeddings, labels, E_mem[earlier], L_mem[earlier]), earlier)
        return cast(tuple[Tensor, ...], concatenate_indices_tuples(found, others))

    def _in_memory(self, pairs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Pairs or triplets within the batch as ones of the batch and its copies in the memory."""
        return _move(pairs, self.curr_batch_idx)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        old = state_dict.pop(f"{prefix}_extra_state", None)  # of version 0.1
        if old is not None:
            state_dict[f"{prefix}queue"] = torch.tensor([old["queue_idx"], old["has_been_filled"]])
        elif f"{prefix}embedding_memory" in state_dict and f"{prefix}queue" not in state_dict:
            log.warning("CrossBatchMemory: the state has no place in the queue; the memory starts empty")
            state_dict[f"{prefix}queue"] = torch.zeros_like(self.queue)
        super()._load_from_state_dict(state_dict, prefix, *others)


def _move(pairs: tuple[Tensor, ...], places: Tensor) -> tuple[Tensor, ...]:
    """Pairs or triplets with other positions of what is no anchor."""
    anchors = (0, 2) if len(pairs) == 4 else (0,)
    return tuple(items if place in anchors else places[items] for place, items in enumerate(pairs))


def _names(kind: type[ScoreMatrixLoss]) -> list[str]:
    return [kind.__name__, *(name for special in kind.__subclasses__() for name in _names(special))]
