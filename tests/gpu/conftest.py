"""Tests that need a GPU. They import nothing of the other tests: `scripts/gpu/check` runs them on a
machine that has little more than torch."""

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the tests of this folder without a GPU."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="torch finds no GPU"))
