"""Cross-batch memory: a batch of queries against the embeddings of the last batches too (Wang et al., CVPR 2020)."""

from __future__ import annotations

from typing import Any

from pytorch_metric_learning import losses
from torch import Tensor

from retrieval.losses.score_matrix import AllButOwn, ScoreMatrixLoss, at_least_float32


class CrossBatchMemory(losses.CrossBatchMemory):
    """The memory of pytorch-metric-learning, for this project's losses too, and exact after a resume.

    Every batch enters the memory without its graph and takes the places of the oldest entries. Then each of its embeddings is a
    query, and the references are the whole memory but the query's own copy.

    Where several processes share a batch, wrap this class, not the loss inside, in `DistributedLossWrapper(efficient=False)`, and
    let the memory hold a multiple of the whole batch: every process enters its own part first, and would drop other entries.

    The state dict holds the entries and the place in the queue. The memory is float32 for embeddings of any lower precision; for
    float64, convert the module with `.double()` before its state is loaded.

    Args:
        loss: what the wrapped class takes, or any `ScoreMatrixLoss`.
        embedding_size: dimension of the embeddings.
        memory_size: entries; at least a batch.
        miner: finds pairs or triplets between batch and memory; all pairs if left out.
        **kwargs: what else the wrapped class takes.
    """

    queue_idx: int
    has_been_filled: bool

    def __init__(
        self, loss: Any, embedding_size: int, memory_size: int = 1024, miner: Any = None, **kwargs: Any
    ) -> None:
        if memory_size < 1:
            raise ValueError(f"memory_size is {memory_size}, expected at least the size of a batch")
        super().__init__(loss, embedding_size, memory_size, miner, **kwargs)

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
        loss: Tensor = super().forward(at_least_float32(embeddings), labels, indices_tuple, enqueue_mask)
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
            anchors = (0, 2) if len(input_indices_tuple) == 4 else (0,)
            input_indices_tuple = tuple(
                items if place in anchors else self.curr_batch_idx[items]
                for place, items in enumerate(input_indices_tuple)
            )
        return super().create_indices_tuple(
            embeddings, labels, E_mem, L_mem, input_indices_tuple, do_remove_self_comparisons
        )

    def get_extra_state(self) -> dict[str, Any]:
        return {"queue_idx": self.queue_idx, "has_been_filled": self.has_been_filled}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.queue_idx, self.has_been_filled = state["queue_idx"], state["has_been_filled"]


def _names(kind: type[ScoreMatrixLoss]) -> list[str]:
    return [kind.__name__, *(name for special in kind.__subclasses__() for name in _names(special))]
