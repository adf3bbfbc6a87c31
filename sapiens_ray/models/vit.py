"""The Sapiens encoder: a plain pre-norm vision transformer.

Written from the published description of the checkpoints: names, shapes and the order of operations. Submodules are
named like the tensors of the checkpoints, so that a state dict fits as it is.

The weights of attention and feed-forward layers may be bfloat16. The residual stream and the norms stay float32, and
tokens are rounded only where they enter a matrix product.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

PATCH = 16  # pixels
NORM_EPS = 1e-6


class Attention(nn.Module):
    """Softmax attention between all tokens, scaled by 1 / sqrt(width of a head)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)  # rows: q, k, v; within each: head by head
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """B x N x C to B x N x C."""
        batch, count, width = tokens.shape
        parts = self.qkv(tokens).view(batch, count, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)  # each B x heads x N x C / heads
        mixed = F.scaled_dot_product_attention(q, k, v)
        projected: torch.Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, count, width))
        return projected


class FeedForward(nn.Module):
    """Two linear layers with an exact (erf) GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(width, hidden), nn.GELU()), nn.Linear(hidden, width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """B x N x C to B x N x C."""
        mixed: torch.Tensor = self.layers(tokens)
        return mixed


class Block(nn.Module):
    """One layer of the transformer."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(width, NORM_EPS)
        self.attn = Attention(width, heads)
        self.ln2 = nn.LayerNorm(width, NORM_EPS)
        self.ffn = FeedForward(width, hidden)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """B x N x C float32 to the same shape."""
        dtype = self.attn.qkv.weight.dtype
        tokens = tokens + self.attn(self.ln1(tokens).to(dtype))
        tokens = tokens + self.ffn(self.ln2(tokens).to(dtype))
        return tokens


class PatchEmbed(nn.Module):
    """Patches of 16 x 16 pixels to tokens, row by row.

    padding: zeros around the image, in pixels. It shifts the patches, and a wrong value raises no error.
    """

    def __init__(self, width: int, padding: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, width, PATCH, stride=PATCH, padding=padding)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """B x 3 x H x W to B x (H / 16 * W / 16) x C."""
        tokens: torch.Tensor = self.projection(images).flatten(2).transpose(1, 2)
        return tokens


class VisionTransformer(nn.Module):
    """Images to a map of features, normalised over the channels."""

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        padding: int,
        grid: tuple[int, int],
        class_token: bool,
    ) -> None:
        """grid: rows and columns of patches. class_token: one extra token in front of the patches."""
        super().__init__()
        self.grid = grid
        self.patch_embed = PatchEmbed(width, padding)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if class_token else None
        self.pos_embed = nn.Parameter(torch.zeros(1, grid[0] * grid[1] + class_token, width))
        self.layers = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))
        self.ln1 = nn.LayerNorm(width, NORM_EPS)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """B x 3 x H x W, normalised RGB, to B x C x H / 16 x W / 16, float32. H and W are those of the grid."""
        tokens = self.patch_embed(images)
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], 1)
        tokens = tokens + self.pos_embed
        for layer in self.layers:
            tokens = layer(tokens)
        tokens = self.ln1(tokens)
        if self.cls_token is not None:
            tokens = tokens[:, 1:]
        grid: torch.Tensor = tokens.transpose(1, 2).unflatten(2, self.grid)
        return grid


def interpolate_pos_embed(embedding: torch.Tensor, grid: tuple[int, int], class_token: bool) -> torch.Tensor:
    """Position embeddings of a square grid, resized to another grid: bicubic, without anti-aliasing, in float32.

    embedding: 1 x N x C, of N = n * n patches, or n * n + 1 with a class token in front. class_token: keep its row.
    Returns 1 x (rows * columns [+ 1]) x C float32; unchanged values for the same grid. The original loader does the
    same with a pretrained encoder. Raises ValueError if N is not of that form.
    """
    embedding = embedding.float()
    count = embedding.shape[1]
    has_token = count == grid[0] * grid[1] + 1 or (count % 2 == 1 and count != grid[0] * grid[1])
    token, patches = embedding[:, :has_token], embedding[:, has_token:]
    if class_token and not has_token:
        raise ValueError("the position embeddings have no row for the class token")
    if patches.shape[1] != grid[0] * grid[1]:
        side = round(patches.shape[1] ** 0.5)
        if side * side != patches.shape[1]:
            raise ValueError(f"{patches.shape[1]} position embeddings are neither {grid[0]} x {grid[1]} nor a square")
        square = patches.transpose(1, 2).unflatten(2, (side, side))
        patches = F.interpolate(square, grid, mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    return torch.cat([token, patches], 1) if class_token else patches
