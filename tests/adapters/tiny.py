"""Two small transformers, plain and SAM's, and both written down a second time with everything adapters add."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_rd.adapters import build_adapter
from monai_rd.networks import FrozenFoundationModel, Preprocessing
from monai_rd.networks.teacher.zoo.networks import TeacherBackbone

WIDTH, HEADS, DEPTH, SIDE = 32, 4, 3, 4
PLAIN = Preprocessing(32, (0.5,) * 3, (0.5,) * 3)
KINDS = ("plain", "sam")
FEW: dict[str, dict[str, Any]] = {"lpt": {"tokens": 2, "groups": 4, "grouped_blocks": 2}}
PROMPTED = ("vpt_shallow", "vpt_deep", "vqt", "lpt")


def network(kind: str, **changed: Any) -> Any:
    """A ViT with a class token, or SAM's encoder made for an 8 x 8 grid, with windows of 4 x 4 but for block 1."""
    sizes = {"patch_size": 8, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "num_classes": 0}
    if kind == "plain":
        made: Any = timm.create_model(
            "vit_base_patch16_224", **{"img_size": 32, "init_values": 0.5, **sizes, **changed}
        )
    else:
        sam = {"img_size": 64, "window_size": SIDE, "global_attn_indexes": (1,), "use_abs_pos": False}
        made = timm.create_model("samvit_base_patch16", **{**sam, **sizes, **changed})
        made.neck = nn.Identity()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else noise / 5)
        for module in made.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.add_(1)
    return made.eval()


def teacher(kind: str, preprocessing: Preprocessing = PLAIN, **changed: Any) -> FrozenFoundationModel:
    builder = "timm:vit_base_patch16_224" if kind == "plain" else "timm:samvit_base_patch16"
    backbone = TeacherBackbone(network(kind, **changed), builder, "map")
    return FrozenFoundationModel(backbone, channels=WIDTH, kind="map", preprocessing=preprocessing, name=kind)


def inputs(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(2))


class Literal:
    """The blocks of either network, one token at a time where it matters.

    Tokens are a matrix `[B, N, D]`; `places` says for each its row and column in the grid, None where it has none.
    """

    def __init__(self, kind: str, w: Mapping[str, Tensor]) -> None:
        self.kind, self.w = kind, w
        self.grid = [(row, column) for row in range(SIDE) for column in range(SIDE)]

    def embed(self, image: Tensor) -> Tensor:
        """Tokens of prepared images: the class token first, where there is one."""
        x = F.conv2d((image - 0.5) / 0.5, self.w["patch_embed.proj.weight"], self.w["patch_embed.proj.bias"], stride=8)
        x = x.flatten(2).transpose(1, 2)
        if self.kind == "plain":
            x = torch.cat([self.w["cls_token"].expand(len(x), -1, -1), x], dim=1) + self.w["pos_embed"]
        return x

    def norm(self, x: Tensor, name: str) -> Tensor:
        eps = 1e-6 if self.kind == "plain" else 1e-5
        return F.layer_norm(x, (WIDTH,), self.w[f"{name}.weight"], self.w[f"{name}.bias"], eps)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def places(self, tokens: int) -> list[tuple[int, int] | None]:
        """Of a whole sequence: class token, grid, prompts."""
        first: list[tuple[int, int] | None] = [None] if self.kind == "plain" else []
        return [*first, *self.grid, *([None] * (tokens - len(first) - len(self.grid)))]

    def bias(self, q: Tensor, at: str, asking: list[Any], seen: list[Any]) -> Tensor:
        """SAM's relative positions: the query with a row of the tables for each difference of rows and of columns."""
        bias = torch.zeros(q.shape[0], q.shape[1], len(seen))
        if self.kind == "plain":
            return bias
        rows, columns = (
            F.interpolate(self.w[f"{at}attn.rel_pos_{axis}"].T[None], size=2 * SIDE - 1, mode="linear")[0].T
            for axis in "hw"
        )
        for i, of in enumerate(asking):
            for j, to in enumerate(seen):
                if of is not None and to is not None:
                    table = rows[of[0] - to[0] + SIDE - 1] + columns[of[1] - to[1] + SIDE - 1]
                    bias[:, i, j] = q[:, i] @ table
        return bias

    def attention(self, x: Tensor, context: Tensor, number: int, asking: list[Any], seen: list[Any]) -> Tensor:
        at = f"blocks.{number}."
        q = self.linear(x, f"{at}attn.qkv")[..., :WIDTH]
        k, v = self.linear(context, f"{at}attn.qkv")[..., WIDTH:].chunk(2, dim=-1)
        heads = []
        for head in range(HEADS):
            own = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            scores = q[..., own] @ k[..., own].transpose(1, 2) / (WIDTH // HEADS) ** 0.5
            heads.append((scores + self.bias(q[..., own], at, asking, seen)).softmax(dim=-1) @ v[..., own])
        attended = self.linear(torch.cat(heads, dim=-1), f"{at}attn.proj")
        return attended * self.w[f"{at}ls1.gamma"] if self.kind == "plain" else attended

    def mlp(self, x: Tensor, number: int) -> Tensor:
        at = f"blocks.{number}."
        hidden = self.linear(F.gelu(self.linear(self.norm(x, f"{at}norm2"), f"{at}mlp.fc1")), f"{at}mlp.fc2")
        return hidden * self.w[f"{at}ls2.gamma"] if self.kind == "plain" else hidden

    def attended(self, x: Tensor, number: int) -> Tensor:
        """x' of a block: after its attention and residual."""
        normed, places = self.norm(x, f"blocks.{number}.norm1"), self.places(x.shape[1])
        return x + self.attention(normed, normed, number, places, places)

    def block(self, x: Tensor, number: int) -> Tensor:
        x = self.attended(x, number)
        return x + self.mlp(x, number)

    def queries(self, queries: Tensor, x: Tensor, number: int) -> Tensor:
        """What queries read in a block: keys and values of its input alone."""
        at = f"blocks.{number}.norm1"
        asking = [None] * queries.shape[1]
        seen = self.places(x.shape[1])
        queries = queries + self.attention(self.norm(queries, at), self.norm(x, at), number, asking, seen)
        return queries + self.mlp(queries, number)

    def summary(self, x: Tensor) -> Tensor:
        return self.norm(x, "norm")[:, 0] if self.kind == "plain" else x[:, : SIDE * SIDE].mean(dim=1)

    def map(self, x: Tensor) -> Tensor:
        """The last feature map of a sequence that may have prompts at its end."""
        x = self.norm(x, "norm")[:, 1 : 1 + SIDE * SIDE] if self.kind == "plain" else x[:, : SIDE * SIDE]
        return x.transpose(1, 2).unflatten(2, (SIDE, SIDE))


def adapt(name: str, base: FrozenFoundationModel, **options: Any) -> Any:
    torch.manual_seed(0)
    return build_adapter(name, base, 3, **{**FEW.get(name, {}), **options})


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
