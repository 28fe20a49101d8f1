#!/usr/bin/env python3
"""Writes node/data from the installed torchvision: the names of classes, and its models with their
newest weights and preprocessing. To be run when a new torchvision has more of them."""

import json
from pathlib import Path
from typing import Any

from torchvision import models

DATA = Path(__file__).parents[1] / "node" / "data"
DATASETS = {1000: "imagenet", 91: "coco_91", 2: "person", 21: "voc"}
"""Files by their number of classes."""


def main() -> None:
    """Writes all files."""
    rows = []
    for module, task in (
        (models, "classify"), (models.detection, "detect"), (models.segmentation, "segment"),
    ):  # fmt: skip
        rows += [row(name, task) for name in sorted(models.list_models(module=module))]
    lines = ",\n".join(f" {json.dumps(entry)}" for entry in rows)
    (DATA / "torchvision.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def row(name: str, task: str) -> dict[str, Any]:
    """Describes a model, and writes the names of its classes."""
    weights = models.get_model_weights(name).DEFAULT
    names = weights.meta["categories"]
    dataset = DATASETS[len(names)]
    (DATA / f"{dataset}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    entry = {
        "name": name,
        "task": task,
        "url": weights.url,
        "size_mb": weights.meta["_file_size"],
        "parameters": weights.meta["num_params"],
        "labels": dataset,
    }
    if task == "detect":  # resizes by itself
        return entry
    preset = weights.transforms()
    entry |= {
        "resize_short_px": preset.resize_size[0],
        "interpolation": preset.interpolation.value,
        "mean": list(preset.mean),
        "std": list(preset.std),
    }
    return entry | ({"crop_px": preset.crop_size[0]} if task == "classify" else {})


if __name__ == "__main__":
    main()
