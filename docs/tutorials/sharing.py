# %% [markdown]
# # Share a model
#
# A model on the [Hugging Face Hub](https://huggingface.co) is loaded by its name, with this package or with timm alone. This tutorial
# trains a small model, writes it into a private repository, looks at it there, and loads it again. It needs an account, and a token
# that may write:
#
# ```bash
# export HF_TOKEN=hf_...        # of https://huggingface.co/settings/tokens
# ```
#
# Set `place` to a name of yours. (The output below is from a test hub on the same machine.)

# %%
import retrieval

place = "user/glyphs"

# %% [markdown]
# ## Train
#
# One epoch is enough here. Any run, and any `retrieval.Model`, is shared in the same way.

# %%
run = retrieval.train("glyphs", out="runs/glyphs", training={"epochs": 1})
round(run.results["last"]["recall@1"], 3)

# %% [markdown]
# ## Push
#
# A push is one commit. It writes the weights, a description of the network and its preprocessing, a card, and a picture of some
# queries and their neighbours. These are images of the data set; `gallery=False` leaves the picture out. `page` is the address of the
# repository.

# %%
page = run.push_to_hub(place, private=True)

# %% [markdown]
# The card has the figures of the run. Its licence and its data set are to be filled in on the page; another push keeps them.

# %%
from huggingface_hub import HfApi, ModelCard

info = HfApi().model_info(place)
print("private" if info.private else "public")
print(*sorted(file.rfilename for file in info.siblings))
for result in ModelCard.load(place).data.eval_results:
    print(result.metric_name, round(result.metric_value, 3), "of the", result.dataset_split)

# %% [markdown]
# ## Load
#
# `hf-hub:` and the name stand for the model. Every file is checked against the sha256 in the manifest. No pickle is opened, and
# no code is loaded.

# %%
import numpy as np

from retrieval.data import read_dataset

glyphs = read_dataset("glyphs")["test"]
images = [glyphs.load(number) for number in range(8)]

model = retrieval.Model.load(f"hf-hub:{place}")
vectors = model.encode(images)
vectors.shape

# %% [markdown]
# A branch, a tag or a commit after `@` names one version. A commit cannot be changed later.

# %%
same = retrieval.Model.load(f"hf-hub:{place}@{info.sha}")
assert np.array_equal(same.encode(images), vectors)

# %% [markdown]
# ## Load with timm alone
#
# Whoever loads the model needs timm only. The head is timm's classifier. The vectors differ by rounding only.

# %%
import timm
import torch

network = timm.create_model(f"hf-hub:{place}", pretrained=True).eval()
prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
batch = torch.stack([prepare(image) for image in images])
with torch.inference_mode():
    others = torch.nn.functional.normalize(network(batch), dim=1)
np.testing.assert_allclose(others.numpy(), vectors, atol=1e-5)

# %% [markdown]
# ## Share an index
#
# An index is a data set on the hub. It makes public the vectors, and the class and the path of every image.

# %%
from retrieval.runs import pull

run.build_index(split="test").push_to_hub(f"datasets/{place}", private=True)

index = pull(f"datasets/{place}", "glyphs-index")
for hit in index.search(images[0], k=3):
    print(hit.rank, round(hit.score, 3), hit.class_name)

# %% [markdown]
# ## From the command line
#
# ```bash
# retrieval hub push runs/glyphs user/glyphs --private
# retrieval hub pull user/glyphs --out model
# retrieval index hf-hub:user/glyphs --images photos --out photos-index
# retrieval hub push photos-index datasets/user/photos --private
# ```
#
# Both repositories are deleted on their pages, under Settings. [Sharing on the hub](../hub.md) has the details.
