# %% [markdown]
# # The loss in Hugging Face's Trainer
#
# The model returns a dict with a loss and embeddings; `compute_metrics` gets the embeddings of all validation images at once.

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
import transformers


class Retriever(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.network = create_embedder("test_resnet", embedding_dim=64, image_size=32)
        self.loss = RecallLoss(projection="softmax", temperature=0.35, relevant_temperature=1.0, spreading=0.5)

    def forward(self, images, labels):
        embeddings = self.network(images)
        return {"loss": self.loss(embeddings, labels), "embeddings": embeddings}


class Trainer(transformers.Trainer):
    def get_train_dataloader(self):  # batches with several images of a class
        sampler = MPerClassSampler(train.labels, batch_size=128, samples_per_class=4)
        return DataLoader(train, batch_sampler=sampler, collate_fn=collate)


def collate(items):
    images, labels = zip(*items)
    return {"images": torch.stack(images), "labels": torch.as_tensor(labels)}


arguments = transformers.TrainingArguments(
    "trainer",
    num_train_epochs=8,
    learning_rate=2e-3,
    per_device_eval_batch_size=256,
    remove_unused_columns=False,
    label_names=["labels"],
    save_strategy="no",
    logging_strategy="no",
    report_to=[],
    use_cpu=True,
    disable_tqdm=True,
)
trainer = Trainer(
    Retriever(),
    arguments,
    train_dataset=train,
    eval_dataset=test,
    data_collator=collate,
    compute_metrics=lambda found: evaluate(found.predictions, found.label_ids, ks=(1,)),
)
trainer.train()
figures = trainer.evaluate()
print(f"recall@1 {figures['eval_recall@1']:.3f}, MAP@R {figures['eval_map@r']:.3f}")
