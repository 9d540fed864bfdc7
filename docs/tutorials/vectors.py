# %% [markdown]
# # Evaluate the vectors of any model
#
# `retrieval.evaluate` takes vectors of any model, raw or of unit length, with labels of any hashable type. Here the "model" is the mean
# colour of small tiles.

# %%
import numpy as np

import retrieval
from retrieval.data import read_dataset

images = read_dataset("glyphs")["test"].select(range(60 * 12))
vectors = np.stack([np.asarray(images.load(i).convert("L").resize((8, 8)), float).ravel() for i in range(len(images))])
names = [images.class_names[label] for label in images.labels]
figures = retrieval.evaluate(vectors - vectors.mean(0), names, ks=(1, 5, 10), metrics=("recall", "map@r", "mrr"))
{name: round(value, 3) for name, value in figures.items()}

# %% [markdown]
# An index of the vectors can be searched, and measured with re-ranking and intervals.

# %%
index = retrieval.Index.from_vectors(vectors - vectors.mean(0), names)
for hit in index.search(vectors[0] - vectors.mean(0), k=3):
    print(hit.rank, round(hit.score, 3), hit.class_name)

# %% [markdown]
# The same from the command line, with vectors in a `.npy` file and one label a line:

# %%
np.save("vectors.npy", vectors - vectors.mean(0))
with open("labels.txt", "w", encoding="utf-8") as file:
    file.write("\n".join(names) + "\n")

# %% language="bash"
# retrieval recall vectors.npy --labels labels.txt --k 1,5,10 --intervals --quiet
