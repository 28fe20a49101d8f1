"""Data: names of classes and the catalogue of torchvision's models, as files.

`scripts/catalogue.py` writes the files from torchvision, so that no command imports it for a name.
"""

import functools
import json
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent
_UNUSED = ("__background__", "N/A")
"""Entries of COCO's list of 91 that no object has."""


@functools.cache
def class_names(dataset: str) -> tuple[str, ...]:
    """Returns the names of a dataset's classes in the order of a network's outputs.

    dataset: `imagenet` (1,000), `coco` (80), `coco_91` (COCO's own ids, with unused ones), `person`
    (2) or `voc` (21, the background first).
    """
    if dataset == "coco":
        return tuple(name for name in class_names("coco_91") if name not in _UNUSED)
    return tuple((_FOLDER / f"{dataset}.txt").read_text(encoding="utf-8").splitlines())


@functools.cache
def torchvision_catalogue() -> tuple[dict[str, Any], ...]:
    """Returns the entries of torchvision's models with its newest weights: `name`, `task`, `url`,
    `size_mb`, `parameters`, `labels` (a dataset of `class_names`), and for models with a fixed
    preprocessing `resize_short_px`, `interpolation`, `mean`, `std` and `crop_px`."""
    return tuple(json.loads((_FOLDER / "torchvision.json").read_text(encoding="utf-8")))
