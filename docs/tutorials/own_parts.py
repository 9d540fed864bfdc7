# %% [markdown]
# # Own loss, data set, backbone and callback
#
# A run takes each of them as an object from Python, or by its import path in a configuration and on the command line.

# %%
from pathlib import Path

Path("my_parts.py").write_text('''
import numpy as np
import torch
from PIL import Image


class Pull(torch.nn.Module):
    """A loss: the scores of pairs of a class to 1, the others to 0."""

    def forward(self, embeddings, labels):
        unit = torch.nn.functional.normalize(embeddings)
        same = (labels[:, None] == labels).float()
        return ((unit @ unit.T - same) ** 2).mean()


class Patches(torch.utils.data.Dataset):
    """A data set: any object with a length and items (image, label)."""

    def __len__(self):
        return 240

    def __getitem__(self, item):
        color = np.random.default_rng(item // 8).integers(0, 256, 3)
        noise = np.random.default_rng(item).normal(0, 30, 3) + np.random.default_rng(-item % 999).normal(0, 40, (32, 32, 3))
        return Image.fromarray((color + noise).clip(0, 255).astype(np.uint8)), f"patch {item // 8}"


def read(root=None):
    return Patches()


def build(pretrained=False, image_size=32):
    """A backbone: a module from images (batch, 3, size, size) to features (batch, width)."""
    return torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(48, 32), torch.nn.ReLU())


class Log:
    """A callback: any of the methods of retrieval.training.callbacks.Callback."""

    def epoch(self, run, epoch, figures):
        print("epoch", epoch, {name: round(value, 3) for name, value in figures.items() if "recall@1" in name})
''')

# %% [markdown]
# ## As objects

# %%
import my_parts

import retrieval

common = {
    "image": {"resize": 32, "size": 32, "augmentation": "none"},
    "batch": {"size": 32},
    "training": {"epochs": 2, "learning_rate": 1e-3},
    "data.workers": 0,
}
run = retrieval.train(
    "glyphs",
    data=my_parts.Patches(),
    network=my_parts.build(),
    loss=my_parts.Pull(),
    out="runs/objects",
    **common,
)
round(run.results["last"]["recall@1"], 3)

# %% [markdown]
# ## By import path

# %% language="bash"
# cat > mine.yaml <<'END'
# data: {name: "my_parts.py:read", workers: 0}
# image: {resize: 32, size: 32, augmentation: none}
# model: {backbone: "my_parts.py:build", pretrained: false, embedding_dim: 16}
# loss: {name: "my_parts.py:Pull"}
# batch: {size: 32}
# training: {epochs: 2, callbacks: ["my_parts.py:Log"]}
# END
# retrieval config check mine.yaml
# retrieval train --config mine.yaml --out runs/paths --quiet
