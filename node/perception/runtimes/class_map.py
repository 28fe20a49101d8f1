"""ClassMap: reads a segmentation's logits on the GPU, so that only the classes come to the CPU."""

import torch
from torch import nn

from node.perception.tasks.segment import NOT_FINITE


class ClassMap(nn.Module):
    """The best class of each pixel, the first of equal ones."""

    def forward(self, outputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The first output, [n, classes, h, w] as [n, h, w] uint8."""
        scores, ids = outputs[0].max(1)  # NaN is the largest
        return (torch.where(torch.isfinite(scores), ids, NOT_FINITE).to(torch.uint8), *outputs[1:])
