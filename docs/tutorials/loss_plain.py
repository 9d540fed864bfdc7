# %% [markdown]
# # The loss in a plain loop
#
# The parts of a training loop: images with labels, a sampler that puts several images of a class into a batch, a network, the loss.

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
network = create_embedder("test_resnet", embedding_dim=64, image_size=32)
loss_function = RecallLoss(projection="softmax", temperature=0.35, relevant_temperature=1.0, spreading=0.5)
optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
sampler = MPerClassSampler(train.labels, batch_size=128, samples_per_class=4)


def embed(images):
    network.eval()
    with torch.inference_mode():
        return torch.cat([network(batch) for batch, _ in DataLoader(images, batch_size=256)])


def measure():
    return evaluate(embed(test), test.labels, ks=(1,))["recall@1"]


print(f"before: recall@1 {measure():.3f}")
for epoch in range(8):
    network.train()
    for images, labels in DataLoader(train, batch_sampler=sampler):
        loss = loss_function(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch + 1}: loss {loss.item():.3f}, recall@1 {measure():.3f}")

# %% [markdown]
# `retrieval.losses.measure_batch` shows how a batch ranks itself: the spread of its scores, the intruders above a relevant item, and
# the share of queries that are perfect. It works for any loss.

# %%
from retrieval.losses import measure_batch

measure_batch(network(images), labels)
