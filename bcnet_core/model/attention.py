"""The non-local block inside each layer of the mask head (BCNet section 3.2; Wang et al., 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class NonLocalBlock(nn.Module):
    """Every position of a RoI looks at every other: the graph convolution of a layer.

    Query, key, value and output are 1x1 convolutions without bias; scores are scaled by 1 / sqrt(C). The output passes
    a BatchNorm (eps 1e-4) and is added to the input; no ReLU follows.

    Args:
        channels: C, of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels, 1, bias=False)
        self.key = nn.Conv2d(channels, channels, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1, bias=False)
        self.output = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels, eps=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over the positions of each RoI.

        Args:
            x: (N, C, S, S) float.

        Returns:
            (N, C, S, S) float.
        """
        count, channels, height, width = x.shape
        query, key, value = (
            part(x).reshape(count, 1, channels, height * width).transpose(2, 3)  # no -1, so that N may be 0 in ONNX
            for part in (self.query, self.key, self.value)
        )  # each (N, 1, S*S, C): with one head, as the fused kernels want it
        if query.dtype == torch.float16:  # scores of trained weights pass 65,504, the largest number of half precision
            with torch.autocast(x.device.type, enabled=False):
                attended = functional.scaled_dot_product_attention(query.float(), key.float(), value.float()).half()
        else:
            attended = functional.scaled_dot_product_attention(query, key, value)  # (N, 1, S*S, C)
        attended = attended.transpose(2, 3).reshape_as(x)  # (N, C, S, S)
        residual: Tensor = self.norm(self.output(attended))
        return x + residual
