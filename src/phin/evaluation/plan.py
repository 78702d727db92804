"""On how much models are measured."""

from dataclasses import dataclass

from phin.errors import PhinError


@dataclass(frozen=True)
class PromptPlan:
    """On how much a model that is prompted is measured."""

    n: int = 1000
    """Prompts: numbers of random lengths."""
    n_unseen: int = 500
    """Further ones, none of which was ever trained on; 0 leaves them out."""
    seed: int = 0
    """Of the numbers, of the real pictures, and of the sampler's noise."""

    def states(self, steps: int) -> int:
        """How many states of samples there are to see, in so many steps."""
        return (self.n + self.n_unseen) * steps


def enough(plan: object, optional: str, **least: int) -> None:
    """Sees to it that fields of a plan are large enough to measure by.

    Args:
        plan: The plan.
        optional: The field that may also be 0.
        least: The least value of each field; one that is None is left to be chosen.

    Raises:
        PhinError: One is smaller.
    """
    for name, fewest in least.items():
        value = getattr(plan, name)
        if value is not None and value < fewest and (name, value) != (optional, 0):
            raise PhinError(f"{name} = {value} is too few to measure by: give at least {fewest}")
