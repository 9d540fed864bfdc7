# %% [markdown]
# # The loss in Lightning
#
# A `LightningModule` with `RecallLoss` as its training loss and recall@1 as its validation figure.

# %%
import numpy as np
import torch
from torch.utils.data import DataLoader

from retrieval import Preprocessing, RecallLoss, evaluate
from retrieval.data import MPerClassSampler, read_dataset
from retrieval.networks import create_embedder

torch.manual_seed(0)
prepare = Preprocessing(resize=32, size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
glyphs = {name: images.with_transform(prepare) for name, images in read_dataset("glyphs").items()}
train, test = (images.select(np.flatnonzero(images.labels < 64)) for images in glyphs.values())
print(len(train), "training images,", len(test), "test images of other classes")

# %%
import lightning


class Retriever(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = create_embedder("test_resnet", embedding_dim=64, image_size=32)
        self.loss = RecallLoss(projection="softmax", temperature=0.35, relevant_temperature=1.0, spreading=0.5)
        self.found = []

    def training_step(self, batch, _):
        images, labels = batch
        return self.loss(self.network(images), labels)

    def validation_step(self, batch, _):
        images, labels = batch
        self.found.append((self.network(images), labels))

    def on_validation_epoch_end(self):  # recall@k needs all images at once, not a mean over batches
        embeddings, labels = (torch.cat(parts) for parts in zip(*self.found))
        self.found.clear()
        self.log("recall@1", evaluate(embeddings, labels, ks=(1,))["recall@1"])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


batches = DataLoader(train, batch_sampler=MPerClassSampler(train.labels, batch_size=128, samples_per_class=4))
trainer = lightning.Trainer(
    max_epochs=8,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    use_distributed_sampler=False,  # the sampler must keep the images of a class together
    num_sanity_val_steps=0,
)
module = Retriever()
trainer.fit(module, batches, DataLoader(test, batch_size=256))
print(f"recall@1 {float(trainer.callback_metrics['recall@1']):.3f}")

# %% [markdown]
# With several processes, gather the embeddings of all of them before the loss, so that every query has all candidates:
#
# ```python
# embeddings = self.all_gather(self.network(images), sync_grads=True).flatten(0, 1)
# labels = self.all_gather(labels).flatten()
# ```
