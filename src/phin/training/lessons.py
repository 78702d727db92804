"""Lessons in reading beside the training of a model that is prompted in words."""

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from phin.data.numbers import LONGEST
from phin.data.words import BLANK, Words
from phin.errors import PhinError
from phin.nets.unet import UNet
from phin.training.denoising import Denoising
from phin.training.loop import Losses, Task

EXAMINED = 1000  # prompts of a validation


class Lessons(Task):
    """Denoising, and beside it a loss that asks what a prompt says of each cell.

    Under weak noise a prompt tells nothing that cannot be seen, and under strong noise a picture is a weak
    teacher of what it says; so denoising alone teaches to read slowly. Here a linear layer looks at what the
    columns in the middle of each cell read in further prompts, and its cross-entropy is added:

        loss = denoising loss + mean over prompts and cells of -log p(digit or blank | prompt, cell).

    The layer is dropped after the training: what is kept is the model, in which nothing is named a digit.

    Args:
        denoising: The task beside which lessons are given.
        words: The data set that prompts are taken from.
        prompts: How many, for each picture.
    """

    model: nn.ModuleDict

    def __init__(self, denoising: Denoising, words: Words, prompts: int) -> None:
        super().__init__()
        net = denoising.model.net
        if not isinstance(net, UNet) or net.prompt is None:
            raise PhinError("lessons are for a U-Net that reads prompts: give lessons 0")
        self.denoising, self.words, self.prompts = denoising, words, prompts
        head = nn.Linear(net.prompt.out.out_features, BLANK + 1)
        self.model = nn.ModuleDict({"denoiser": denoising.model, "head": head})

    @property
    def product(self) -> nn.Module:
        """The denoiser: the head is of no use afterwards."""
        return self.denoising.model

    def networks(self) -> tuple[nn.Module, ...]:
        """The denoiser's."""
        return self.denoising.networks()

    def forward(self, step: int, rows: slice) -> Losses:
        """The loss of each picture, and the mean of its lessons."""
        losses = self.denoising(step, rows)
        size = self.denoising.batch
        places = [
            place * self.prompts + k for place in range(*rows.indices(size)) for k in range(self.prompts)
        ]
        prompts, shown = self.words.lessons(self.denoising.seed, step, size * self.prompts, places)
        logits = self._spelled(prompts)
        loss = F.cross_entropy(logits.movedim(-1, 1).float(), shown.to(self.device), reduction="none")
        return losses._replace(loss=losses.loss + loss.mean(1).view(-1, self.prompts).mean(1))

    def _spelled(self, prompts: Tensor) -> Tensor:
        """Logits of what stands in each cell (B, cells, digits and blank)."""
        net = self.denoising.model.net
        assert isinstance(net, UNet)
        assert net.prompt is not None
        return self.model["head"](F.silu(net.prompt(net.prompt.encode(prompts.to(self.device)), LONGEST)))

    def learn(self, step: int, loss: Tensor) -> None:
        self.denoising.learn(step, loss)

    def memory(self) -> dict[str, Tensor]:
        return self.denoising.memory()

    def fewest(self, batch: int) -> int:
        return self.denoising.fewest(batch)

    def validate(self, model: nn.Module) -> dict[str, float]:
        """As of denoising; and the share of cells of held-out numbers that are spelled right.

        Spelling is examined with the weights in training: the head, which is dropped, has no average.
        """
        prompts, shown = self.words.examination(EXAMINED)
        right = self._spelled(prompts).argmax(-1).cpu() == shown
        return {**self.denoising.validate(model), "spelled": right.float().mean().item()}

    def picture(self, model: nn.Module) -> np.ndarray | None:
        return self.denoising.picture(model)
