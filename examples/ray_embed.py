"""Embeds images with Ray Data, on all machines of a Ray cluster: each actor embeds parts, which `retrieval index` then joins.

    python examples/ray_embed.py runs/mine photos --parts 128 --actors 8 --out parts
    retrieval index --from-parts parts --out photos-index

The folders must be visible from all machines. An actor calls the same code as `retrieval embed --part`, so a part that is finished
is not made again: start the script again after a failure. Ray restarts an actor that is lost, and gives its part to another one.
Ray is not a dependency of this package: python -m pip install "ray[data]".
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from retrieval.index import embed_part
from retrieval.model import Model


class Worker:
    """An actor: loads the model once, and embeds parts.

    Args:
        model: The folder of a run, an index or a saved model.
        images: The images; see `retrieval.index.embed_part`.
        out: The folder of the parts.
        count: The number of parts.
    """

    def __init__(self, model: str, images: Sequence[str], out: str, count: int) -> None:
        self.model = Model.load(model)
        self.images, self.out, self.count = images, out, count

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Embeds the parts of these numbers, from 0."""
        done = [embed_part(self.model, self.images, self.out, (int(number) + 1, self.count)) for number in batch["id"]]
        return {"file": [str(file) for file, _ in done], "images": [count for _, count in done]}


def embed(
    model: str, images: Sequence[str], out: str, *, parts: int, actors: int, gpus: float = 0
) -> list[dict[str, Any]]:
    """Embeds all parts.

    Args:
        model: See `Worker`.
        images: See `Worker`.
        out: See `Worker`.
        parts: The number of parts; several for each actor, so that all end at about the same time.
        actors: The number of actors.
        gpus: GPUs of an actor. It also takes a CPU, and Ray Data takes one more.

    Returns:
        For every part, its "file" and the number of its "images".
    """
    places = model, *images, out
    model, *images, out = (str(Path(place).absolute()) for place in places)  # an actor may run in another folder
    numbers = ray.data.range(parts, override_num_blocks=parts)
    made = numbers.map_batches(
        Worker,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors),
        fn_constructor_args=(model, images, out, parts),
        num_cpus=1,
        num_gpus=gpus,
    )
    return list(made.take_all())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run, an index or a saved model")
    parser.add_argument("images", nargs="+", help="a folder, a CSV list, image files, or tar shards")
    parser.add_argument("--out", required=True, help="the folder of the parts")
    parser.add_argument("--parts", type=int, default=128, help="128 if left out")
    parser.add_argument("--actors", type=int, default=2, help="2 if left out")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of an actor; 0 if left out")
    parser.add_argument("--cpus", type=int, help="CPUs that Ray counts on this machine, if it starts a cluster here")
    options = parser.parse_args()
    ray.init(num_cpus=options.cpus)
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if cpus <= options.actors:  # Ray would wait for more without end
        parser.error(
            f"{options.actors} actors need {options.actors + 1} CPUs, and Ray has {cpus}; set --actors or --cpus"
        )
    made = embed(
        options.model, options.images, options.out, parts=options.parts, actors=options.actors, gpus=options.gpus
    )
    print(f"{sum(part['images'] for part in made):,} images in {len(made):,} parts: {options.out}")


if __name__ == "__main__":
    main()
