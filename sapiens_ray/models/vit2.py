"""The Sapiens2 encoder: a pre-norm vision transformer with rotary positions and grouped queries.

Written from the published description of the checkpoints. Submodules are named like the tensors of the checkpoints, so
that a state dict fits as it is.

The weights of attention and feed-forward layers may be bfloat16. The residual stream, norms and LayerScale stay
float32, and tokens are rounded only where they enter a matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from sapiens_ray.models.rope import RotaryPositions, Tables, rotate
from sapiens_ray.models.vit import PatchEmbed

NORM_EPS = 1e-6
WINDOW = 4  # patches along each side of a window of the tokenizer
WINDOWS_AT_ONCE = 256  # bounds the memory of the tokenizer


class LayerScale(nn.Module):
    """One factor per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens * self.weight


class Attention(nn.Module):
    """Softmax attention between all tokens. Where there are fewer key heads than query heads, each key head serves
    consecutive query heads (Ainslie et al., "GQA", 2023)."""

    def __init__(self, width: int, heads: int, key_heads: int, plain: bool) -> None:
        """plain: without norms of queries and keys, and without LayerScale, as in the tokenizer."""
        super().__init__()
        self.heads, self.key_heads = heads, key_heads
        head_width = width // heads
        self.wq = nn.Linear(width, width)
        self.wk = nn.Linear(width, key_heads * head_width)
        self.wv = nn.Linear(width, key_heads * head_width)
        self.q_norm = nn.Identity() if plain else nn.RMSNorm(head_width, NORM_EPS)
        self.k_norm = nn.Identity() if plain else nn.RMSNorm(head_width, NORM_EPS)
        self.proj = nn.Linear(width, width)
        self.gamma = nn.Identity() if plain else LayerScale(width)

    def forward(self, tokens: torch.Tensor, tables: Tables | None) -> torch.Tensor:
        """B x N x C, in the dtype of the weights, to B x N x C float32. tables: of the rotation of queries and keys."""
        dtype = tokens.dtype
        q = self.q_norm(self.wq(tokens).unflatten(2, (self.heads, -1)).float())  # B x N x heads x D
        k = self.k_norm(self.wk(tokens).unflatten(2, (self.key_heads, -1)).float())
        v = self.wv(tokens).unflatten(2, (self.key_heads, -1))
        if tables is not None:
            q, k = rotate(q, tables), rotate(k, tables)
        q, k, v = (one.to(dtype).transpose(1, 2) for one in (q, k, v))  # B x heads x N x D
        # Query heads that share a key head are one head with more queries. Not `enable_gqa`: in float32 CUDA has no
        # fast kernel for it.
        together = q.unflatten(1, (self.key_heads, -1)).flatten(2, 3)
        mixed = F.scaled_dot_product_attention(together, k, v).unflatten(2, (-1, tokens.shape[1]))
        scaled: torch.Tensor = self.gamma(self.proj(mixed.permute(0, 3, 1, 2, 4).flatten(2)).float())
        return scaled


class FeedForward(nn.Module):
    """SwiGLU (Shazeer, "GLU Variants Improve Transformer", 2020): the first half of a linear layer is the gate of the
    second."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(width, 2 * hidden)  # rows: gate, value
        self.w3 = nn.Linear(hidden, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """B x N x C to B x N x C."""
        gate, value = self.w12(tokens).chunk(2, -1)
        mixed: torch.Tensor = self.w3(F.silu(gate).mul_(value))
        return mixed


class Block(nn.Module):
    """One layer of the transformer."""

    def __init__(self, width: int, heads: int, key_heads: int, hidden: int, plain: bool = False) -> None:
        """plain: see `Attention`."""
        super().__init__()
        self.ln1 = nn.RMSNorm(width, NORM_EPS)
        self.attn = Attention(width, heads, key_heads, plain)
        self.ln2 = nn.RMSNorm(width, NORM_EPS)
        self.ffn = FeedForward(width, hidden)

    def forward(self, tokens: torch.Tensor, tables: Tables | None = None) -> torch.Tensor:
        """B x N x C float32 to the same shape."""
        dtype = self.attn.wq.weight.dtype
        tokens = tokens + self.attn(self.ln1(tokens).to(dtype), tables)
        tokens = tokens + self.ffn(self.ln2(tokens).to(dtype))
        return tokens


class WindowTokenizer(nn.Module):
    """Makes one token of each window of 4 x 4 patches, for inputs of four times the size. Windows do not see each
    other."""

    def __init__(self, width: int, heads: int, hidden: int, layers: int, grid: tuple[int, int]) -> None:
        """grid: rows and columns of windows."""
        super().__init__()
        self.grid = grid
        self.w_cls = nn.Parameter(torch.zeros(1, 1, width))
        self.local_pos_embed = nn.Parameter(torch.zeros(1, 1 + WINDOW * WINDOW, width))
        self.blocks = nn.ModuleList(Block(width, heads, heads, hidden, plain=True) for _ in range(layers))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """B x (rows * 4 * columns * 4) x C patches, row by row, to B x (rows * columns) x C."""
        rows, columns = self.grid
        patches = tokens.unflatten(1, (rows, WINDOW, columns, WINDOW)).transpose(2, 3)
        windows = patches.flatten(3, 4).flatten(0, 2)  # (B * rows * columns) x 16 x C
        pooled = torch.cat([self._pooled(some) for some in windows.split(WINDOWS_AT_ONCE)])
        joined: torch.Tensor = pooled.unflatten(0, (tokens.shape[0], rows * columns))
        return joined

    def _pooled(self, windows: torch.Tensor) -> torch.Tensor:
        """M x 16 x C to M x C: what the class token of each window becomes."""
        tokens = torch.cat([self.w_cls.expand(windows.shape[0], -1, -1), windows], 1) + self.local_pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        pooled: torch.Tensor = tokens[:, 0]
        return pooled


class VisionTransformer2(nn.Module):
    """Images to tokens: the class token, the registers, then the patches row by row."""

    def __init__(
        self,
        width: int,
        heads: int,
        key_heads: Sequence[int],
        hidden: int,
        registers: int,
        grid: tuple[int, int],
        tokenizer_layers: int,
    ) -> None:
        """key_heads: of each layer. registers: tokens that store what belongs to no patch. grid: rows and columns of
        the patches, or, with a tokenizer, of its windows."""
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.storage_tokens = nn.Parameter(torch.zeros(1, registers, width))
        self.patch_embed = PatchEmbed(width, padding=0)
        self.rope_embed = RotaryPositions(width // heads, grid, 1 + registers)
        self.tokenizer = (
            WindowTokenizer(width, heads, hidden, tokenizer_layers, grid) if tokenizer_layers else nn.Identity()
        )
        self.blocks = nn.ModuleList(Block(width, heads, few, hidden) for few in key_heads)
        self.ln1 = nn.RMSNorm(width, NORM_EPS)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """B x 3 x H x W, normalised RGB, to B x (1 + registers + rows * columns) x C, normalised, float32."""
        patches = self.tokenizer(self.patch_embed(images))
        others = torch.cat([self.cls_token, self.storage_tokens], 1).expand(images.shape[0], -1, -1)
        tokens = torch.cat([others, patches], 1)
        for block in self.blocks:
            tokens = block(tokens, self.rope_embed.tables)
        normal: torch.Tensor = self.ln1(tokens)
        return normal
