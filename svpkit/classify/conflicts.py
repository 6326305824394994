"""Which strategies cannot be together, said before anything is trained."""

from collections.abc import Sequence
from typing import Any

from svpkit.errors import SvpkitError

# What only one of the strategies may do: two of them would undo or double each other.
_ONCE = {
    "draws": "ask for drawn particles",
    "sampler": "choose how often a particle is seen",
    "loss": "set the loss",
    "mix": "mix images",
    "second_stage": "train the last layer again",
    "adjust": "move the logits",
}


def check(strategies: Sequence[tuple[str, Any]]) -> None:
    """Raise SvpkitError where two of the strategies, by name, get in each other's way."""
    for method, what in _ONCE.items():
        names = _having(strategies, method)
        if len(names) > 1:
            raise SvpkitError(
                f"balance.strategies: '{names[0]}' and '{names[1]}' both {what}; one may"
            )
    second, adjusting = _having(strategies, "second_stage"), _having(strategies, "adjust")
    cosine = [name for name, s in strategies if getattr(s, "cosine", None)]
    if cosine and second:
        raise SvpkitError(
            f"balance.strategies: '{cosine[0]}' brings a last layer of its own, which "
            f"'{second[0]}' cannot change"
        )
    hard = [name for name, s in strategies if not getattr(s, "soft", True)]
    mixing = _having(strategies, "mix")
    if hard and mixing:
        raise SvpkitError(
            f"balance.strategies: '{mixing[0]}' makes soft labels, which the loss of '{hard[0]}' "
            "cannot take"
        )
    lost = [name for name, s in strategies if not getattr(s, "prior_known", True)]
    if lost and adjusting:
        raise SvpkitError(
            f"balance.strategies: '{adjusting[0]}' needs the prior that a model has learnt, which "
            f"'{lost[0]}' moves by an unknown amount"
        )


def _having(strategies: Sequence[tuple[str, Any]], method: str) -> list[str]:
    return [name for name, s in strategies if callable(getattr(s, method, None))]
