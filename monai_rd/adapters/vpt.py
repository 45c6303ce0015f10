"""Visual prompt tuning (VPT; Jia et al., ECCV 2022, arXiv 2203.12119): trainable tokens added to the image's tokens.

Shallow: N prompts are added before the first block and pass through all blocks. Deep: every block has N prompts of its
own, which replace those of the block before. Prompts take part in the attention like all tokens; the features are the
image's tokens alone. The grid of SAM's encoder must be one window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from monai_rd.adapters.base import Adapter, Fitted, Recipe
from monai_rd.adapters.vit import new_tokens, open_transformer, with_prompts

if TYPE_CHECKING:
    from monai_rd.networks import FrozenFoundationModel

__all__ = ["VPT_DEEP", "VPT_SHALLOW", "PromptedBlock"]


class _Hand:
    """Passes the prompts from one block to the next."""

    def __init__(self) -> None:
        self._prompts: Tensor | None = None

    def give(self, prompts: Tensor) -> None:
        self._prompts = prompts

    def take(self) -> Tensor:
        assert self._prompts is not None
        prompts, self._prompts = self._prompts, None
        return prompts


class PromptedBlock(nn.Module):
    """A block whose tokens attend to prompts; it returns the tokens only.

    Args:
        block: a block of the transformer.
        prompts: trainable prompts `[N, D]`, or those passed on by the block before.
        following: passes the prompts on to the next block; None if they are not used there.
    """

    def __init__(self, block: Any, prompts: nn.Parameter | _Hand, following: _Hand | None = None) -> None:
        super().__init__()
        self.block, self.prompts, self.following = block, prompts, following

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens `[B, N, D]` or a grid `[B, h, w, D]` to the same shape."""
        given = self.prompts
        prompts = given.take() if isinstance(given, _Hand) else given.expand(len(tokens), -1, -1)
        tokens, prompts = with_prompts(self.block, tokens, prompts)
        if self.following is not None:
            self.following.give(prompts)
        return tokens


def _fit(teacher: FrozenFoundationModel, tokens: int, name: str, deep: bool) -> Fitted:
    backbone, transformer = open_transformer(teacher, name, one_window=True)
    hands = [_Hand() for _ in transformer.blocks[1:]]
    for number, block in enumerate(transformer.blocks):
        prompts = new_tokens((tokens,), transformer) if deep or number == 0 else hands[number - 1]
        following = hands[number] if not deep and number < len(hands) else None
        transformer.blocks[number] = PromptedBlock(block, prompts, following)
    return Fitted(backbone, teacher.channels, teacher.kind)


def fit_shallow(teacher: FrozenFoundationModel, tokens: int = 10) -> Fitted:
    """Add prompts before the first block: N D trained parameters, 7,680 for a ViT-B.

    Args:
        teacher: a teacher with a plain ViT, or with SAM's encoder on a grid of one window.
        tokens: N, the number of prompts.

    Raises:
        ValueError: the teacher has no such network.
    """
    return _fit(teacher, tokens, "vpt_shallow", deep=False)


def fit_deep(teacher: FrozenFoundationModel, tokens: int = 10) -> Fitted:
    """Add prompts to every block: 12 N D trained parameters, 92,160 for a ViT-B.

    Args:
        teacher: a teacher with a plain ViT, or with SAM's encoder on a grid of one window.
        tokens: N, the number of prompts per block.

    Raises:
        ValueError: the teacher has no such network.
    """
    return _fit(teacher, tokens, "vpt_deep", deep=True)


# The authors search the learning rate from 0.05 to 50 and the weight decay from 0 to 0.01 for every task; these are
# values in the middle.
_RECIPE = Recipe("sgd", 5.0, batch=256, weight_decay=1e-3, warm_up=0.1)
VPT_SHALLOW = Adapter("vpt_shallow", fit_shallow, _RECIPE)
VPT_DEEP = Adapter("vpt_deep", fit_deep, _RECIPE)
