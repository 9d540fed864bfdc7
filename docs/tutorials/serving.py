# %% [markdown]
# # Serve an index
#
# `retrieval serve INDEX` answers searches over HTTP, and shows a page at `/`. This tutorial makes a small index, starts the service and asks
# it from Python. It needs the extra `serve`.

# %%
import torch

import retrieval
from retrieval.data import read_dataset

glyphs = read_dataset("glyphs")["test"].select(range(20 * 12))
torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.AvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(192, 64))
prepare = retrieval.Preprocessing(resize=32, size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
retrieval.Index.build(retrieval.Model(network, prepare), glyphs, "glyphs-index", thumbnails=True)

# %% [markdown]
# ## Start it
#
# `--json` prints the address, once the service listens. `--port 0` takes a free port.

# %%
import json
import subprocess

service = subprocess.Popen(
    ["retrieval", "serve", "glyphs-index", "--port", "0", "--json"], stdout=subprocess.PIPE, text=True
)
text = ""
while not text.rstrip().endswith("}"):
    text += service.stdout.readline()
facts = json.loads(text)
sorted(facts)

# %% [markdown]
# ## Ask it
#
# An image is the body of the request, or a file of a form. `?id=17` searches by an item of the index.

# %%
import urllib.request


def ask(path, body=None):
    request = urllib.request.Request(facts["address"] + path, data=body, headers={"Content-Type": "image/png"})
    with urllib.request.urlopen(request) as answer:
        return answer.read()


query = (glyphs.root / glyphs.paths[30]).read_bytes()
found = json.loads(ask("/v1/search?k=3", query))
for hit in found["results"][0]["neighbours"]:
    print(hit["rank"], round(hit["score"], 3), hit["class"], hit["path"])

# %%
print(ask("/healthz").decode())
print("\n".join(line for line in ask("/metrics").decode().splitlines() if line.startswith("retrieval_requests_total")))

# %% [markdown]
# ## Stop it
#
# SIGTERM lets the requests under way finish; the exit code is 143.

# %%
service.terminate()
service.wait()
