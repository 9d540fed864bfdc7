# %% [markdown]
# # Own photographs, end to end
#
# From a folder of images to a searchable index. The "photographs" of this tutorial are drawn, and the network is small and not
# pretrained, so that every cell runs in seconds. With photographs of yours, leave out the options that are marked.

# %% [markdown]
# ## A folder with a folder for each class

# %%
from pathlib import Path

from retrieval.data import read_dataset

photos = Path("my_photos")
glyphs = read_dataset("glyphs")["train"]
for number in range(96 * 12):  # 96 classes of 12 images
    file = photos / glyphs.class_names[glyphs.labels[number]] / f"{number % 12}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    glyphs.load(number).save(file)
print(len(list(photos.glob("*/*.png"))), "images in", len(list(photos.iterdir())), "folders")

# %% [markdown]
# ## Train
#
# `retrieval.train` does what the command `retrieval train my_photos` does. Half of the classes are trained on, and the figures are of
# the other half.

# %%
import retrieval

small = {  # for this tutorial only
    "model": {"backbone": "test_resnet", "pretrained": False, "embedding_dim": 64, "freeze_batchnorm": "none"},
    "image": {"resize": 32, "size": 32, "augmentation": "character"},
    "training": {"epochs": 15, "learning_rate": 2e-3},
    "data.workers": 0,
}
run = retrieval.train("photos", data="my_photos", out="runs/mine", **small)
for name, figures in run.results.items():
    print(f"{name:20} recall@1 {figures['recall@1']:.3f}   MAP@R {figures['map@r']:.3f}")

# %% [markdown]
# The folder of the run has the training curves, the checkpoints and everything that decided the run.

# %%
from IPython.display import Image

Image("runs/mine/curves.png", width=700)

# %% [markdown]
# ## Index and search
#
# `build_index` embeds every image. `search` takes a path, a PIL image, an array or a vector.

# %%
index = run.build_index()
query = glyphs.load(100 * 12)  # of a class that is not in the index
for hit in index.search(query, k=4):
    print(hit.rank, round(hit.score, 3), hit.class_name, hit.path)

# %%
queries = [photos / index.paths[0], photos / index.paths[200]]
index.draw(queries, index.search(queries, k=6), "found.png")
Image("found.png", width=700)

# %% [markdown]
# ## Measure
#
# The index of all images is the one to search in. The index of the test classes is the one to measure.

# %%
tested = run.build_index(split="test")
{name: round(value, 3) for name, value in tested.evaluate(ks=(1, 5)).items()}
