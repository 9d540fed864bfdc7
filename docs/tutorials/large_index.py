# %% [markdown]
# # A large index
#
# An index of more than 8 MiB of vectors stays on disk: it is mapped into memory, opens at once, and grows without being written anew.
# Here are 200,000 vectors of 32 numbers; ten million work alike.

# %%
import numpy as np

import retrieval

generator = np.random.default_rng(0)
centres = generator.normal(size=(20_000, 32))
vectors = np.repeat(centres, 10, axis=0) + 0.5 * generator.normal(size=(200_000, 32))
np.save("vectors.npy", vectors.astype(np.float32))
with open("labels.txt", "w", encoding="utf-8") as file:
    file.writelines(f"class {number}\n" for number in range(20_000) for _ in range(10))

# %% language="bash"
# retrieval index --from-npy vectors.npy --labels labels.txt --out large --quiet
# ls -s --block-size=1M large

# %% [markdown]
# ## Search and measure
#
# A search is exact. `sample` measures a random sample of the queries against all items.

# %%
index = retrieval.Index.open("large")
for hit in index.search(vectors[5], k=3):
    print(hit.rank, hit.id, round(hit.score, 3), hit.class_name)
figures = index.evaluate(ks=(1, 10), sample=1000)
{name: round(value, 3) for name, value in figures.items()}

# %% [markdown]
# ## Remove, verify, compact
#
# Removed items are marked. `verify` checks every byte, and `compact` writes the files anew without them.

# %% language="bash"
# retrieval index remove large --class "class 7" --quiet
# retrieval index verify large --quiet
# retrieval index compact large --quiet

# %% [markdown]
# ## Approximate search
#
# `--type` adds an approximate index, whose recall against the exact search is measured when it is made.

# %% language="bash"
# retrieval index --from-npy vectors.npy --labels labels.txt --type IVF256,Flat --out approximate --quiet
