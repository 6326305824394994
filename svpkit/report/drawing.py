"""What is said of how particles were drawn: learnt from what first, chosen how, warned of what."""

from typing import TYPE_CHECKING, Any

from svpkit.report.numbers import listed, percent, plain

if TYPE_CHECKING:
    from svpkit.report.html import Story

NEAR_ORACLE = "NEAR ORACLE"


def near_oracle(story: "Story") -> bool:
    """Tell whether the generator learnt from the simulator that also made the particles here."""
    on = _pretrain(story).get("on")
    simulated = _oracle(story) or isinstance(on, str) and on.startswith("simulated:")
    return simulated and bool(story.generators) and "simulated" in story.origins


def drawing_notes(story: "Story") -> list[str]:
    """Return what a reader must know of the drawn particles before the figures, a line each."""
    return [*_learnt(story), *_chosen(story), *_set_aside(story), *_warned(story)]


def _pretrain(story: "Story") -> dict[str, Any]:
    return (story.recipe.get("generator") or {}).get("pretrain") or {}


def _oracle(story: "Story") -> bool:
    return (story.recipe.get("generator") or {}).get("plugin") == "simulated"


def _learnt(story: "Story") -> list[str]:
    on = _pretrain(story).get("on")
    if _oracle(story) and story.generators:
        return ["What is called drawn was simulated afresh: an oracle, no generator does as well."]
    if not on or not story.generators:
        return []
    if near_oracle(story):
        return [
            f"The generator was pre-trained on {plain(on)}: another profile of the simulator that "
            "makes the test particles too. That is close to an oracle: on real particles expect "
            "less."
        ]
    where = (
        "all real training images" if on == "train" else plain(on) if isinstance(on, str) else ""
    )
    return [f"The generator was pre-trained on {where or listed(on)}."]


def _chosen(story: "Story") -> list[str]:
    train = (story.recipe.get("generator") or {}).get("train") or {}
    if not train.get("patience") or not story.generators or not story.split.get("choose_on_val"):
        return []
    return [
        "The generator's weights were chosen by KID to the validation images that fidelity uses "
        "too: its figures are a little too good.",
        *_stopped(story, train.get("images")),
    ]


def _stopped(story: "Story", asked: int | None) -> list[str]:
    said = []
    for name, each in story.generators.items():
        rows = [row for row in each.get("history") or [] if row.get("val", {}).get("kid")]
        if rows and asked:
            best = min(rows, key=lambda row: row["val"]["kid"])["images"]
            end = min(rows[-1]["images"], asked)
            said.append(
                f"Generator of {plain(name)}: trained on {end:,} of {asked:,} images, "
                f"kept as it was after {min(best, asked):,}."
            )
    return said


def _set_aside(story: "Story") -> list[str]:
    return [
        f"Of {row['drawn']:,} {plain(name)} drawn, {percent(row['reject_rate'], 0)} were set aside "
        f"by {row['by']}, in the terms of the network that judges them too: fidelity flatters them."
        for each in story.generators.values()
        for name, row in (each.get("selection") or {}).items()
    ]


def _warned(story: "Story") -> list[str]:
    said = []
    for name, each in story.generators.items():
        looks = [row["val"] for row in each.get("history") or [] if "val" in row]
        for line in (looks[-1].get("warnings") or []) if looks else []:
            said.append(f"Generator of {plain(name)}, at its last look: {line}.")
    return said
