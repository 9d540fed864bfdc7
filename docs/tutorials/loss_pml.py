# %% [markdown]
# # The loss in pytorch-metric-learning
#
# `RecallLoss` follows the contract of pytorch-metric-learning. Its sampler, trainer and tester take it like one of their own losses.

# %%
import numpy as np
import torch
from torch.utils.data import DataLoader

from retrieval import Preprocessing, RecallLoss
from retrieval.data import read_dataset
from retrieval.networks import create_embedder

torch.manual_seed(0)
prepare = Preprocessing(resize=32, size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
glyphs = {name: images.with_transform(prepare) for name, images in read_dataset("glyphs").items()}
train, test = (images.select(np.flatnonzero(images.labels < 64)) for images in glyphs.values())
print(len(train), "training images,", len(test), "test images of other classes")

# %%
from pytorch_metric_learning import samplers, testers, trainers
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

model = create_embedder("test_resnet", embedding_dim=64, image_size=32)
loss = RecallLoss(projection="softmax", temperature=0.35, relevant_temperature=1.0, spreading=0.5)
trainer = trainers.MetricLossOnly(
    models={"trunk": model},
    optimizers={"trunk_optimizer": torch.optim.AdamW(model.parameters(), lr=2e-3)},
    batch_size=128,
    loss_funcs={"metric_loss": loss},
    dataset=train,
    sampler=samplers.MPerClassSampler(train.labels, m=4, batch_size=128, length_before_new_iter=1024),
    dataloader_num_workers=0,
)
calculator = AccuracyCalculator(include=("precision_at_1", "mean_average_precision_at_r"), k="max_bin_count")
tester = testers.GlobalEmbeddingSpaceTester(accuracy_calculator=calculator, dataloader_num_workers=0)


def measure(epoch):
    found = tester.test({"test": test}, epoch, model)["test"]
    return {name: round(float(value), 3) for name, value in found.items() if name != "epoch"}


print("before", measure(0))
trainer.train(num_epochs=6)
print("after", measure(1))

# %% [markdown]
# The loss ranks all candidates, so it needs no miner. A miner can still be used: it then chooses the pairs that are ranked.

# %%
from pytorch_metric_learning.miners import MultiSimilarityMiner

images, labels = next(iter(DataLoader(train, batch_size=64)))
embeddings = model(images)
pairs = MultiSimilarityMiner()(embeddings, labels)
print(loss(embeddings, labels), loss(embeddings, labels, pairs))
