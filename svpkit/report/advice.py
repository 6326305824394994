"""What to be careful about in a run's figures, how sure they are, and what to do next."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from svpkit.report.drawing import drawing_notes
from svpkit.report.numbers import listed, number, percent, plain, the_arm, value
from svpkit.report.unnamed import missed, never, thin
from svpkit.report.words import Values, blind, rare, strongest, verdict

if TYPE_CHECKING:
    from svpkit.report.html import Story

FEW = 30
"""Below this many images or false positives, a figure rests on too little."""

MANY_COPIES = 0.01
"""Share of drawn particles above that of real ones that may pass for copies, as in fidelity."""

SIMULATED = (
    "SIMULATED: these particles were computed by the optics simulator, none was photographed. "
    "The figures show how the method behaves; they are no evidence for a real product."
)


def is_simulated(recipe: Values, origins: tuple[str, ...] = ()) -> bool:
    """Tell whether the scores stand on simulated particles (by origin, or by the reader's name)."""
    data = recipe.get("data") or {}
    test = data.get("test")
    readers = {data.get("reader"), test.get("reader") if isinstance(test, Mapping) else None}
    return "simulated" in origins or "simulated" in readers


def own_arm(arms: Mapping[str, Values]) -> Values:
    """Return the first arm, the recipe's own; empty where there is none."""
    return next(iter(arms.values()), {})


def warnings(story: "Story") -> list[str]:
    """Return what a reader must know before trusting the figures, the gravest first."""
    found = [
        *missed(story.arms),
        *drawing_notes(story),
        *(
            f"T{the_arm(n)[1:]}: {said[:1].lower()}{said[1:]}"
            for n, said in _blind_arms(story.arms).items()
        ),
        *_few_validation(story.sets.get("val") or {}, story.split),
        *_few_false_positives(own_arm(story.arms).get("metrics") or {}),
        *_one_group(story.split),
        *_copies(story.fidelity),
        *_near(story.split),
        *_quarantined(story.quarantined),
        *(story.split.get("notes") or []),
    ]
    return list(dict.fromkeys(found))


def _blind_arms(arms: Mapping[str, Values]) -> dict[str, str]:
    said = {name: blind(arm.get("metrics") or {}) for name, arm in arms.items()}
    return {name: text for name, text in said.items() if text}


def _few_validation(counts: Mapping[str, int], split: Values) -> list[str]:
    few = [f"{n} of {plain(name)}" for name, n in counts.items() if n < FEW]
    if not few:
        return []
    chosen = "" if split.get("choose_on_val") else ": nothing was chosen on them"
    return [f"Few validation images ({listed(few)}; at least {FEW} a class are wanted){chosen}."]


def _few_false_positives(metrics: Values) -> list[str]:
    few = thin(metrics)
    if not few:
        return []
    each = metrics["per_class"]
    counts = listed(f"{number(each[n].get('false_positives'), 0)} for {plain(n)}" for n in few)
    return [f"Precision rests on fewer than {FEW} false positives: {counts}."]


def groups_in(split: Values, name: str) -> int | None:
    """Return the number of groups (runs, samples) in a set, as split.json says; None if unknown."""
    return ((split.get("sets") or {}).get(name) or {}).get("n_groups")


def one_group(split: Values) -> bool:
    """Tell whether all test particles come from one group (one run, one sample)."""
    return groups_in(split, "test") == 1


def _one_group(split: Values) -> list[str]:
    said = "The test set is one group: every interval holds within this run only."
    return [said] if one_group(split) else []


def _copies(fidelity: Mapping[str, Values]) -> list[str]:
    return [_copied(name, row) for name, row in fidelity.items() if copied(row)]


def copied(row: Values) -> bool:
    """Tell whether more drawn particles pass for copies than held-out real ones do."""
    alike = value(row.get("copy_rate_floor")) or 0.0
    return (value(row.get("copy_rate")) or 0.0) > MANY_COPIES + alike


def _copied(name: str, row: Values) -> str:
    caught, floor = value(row.get("copy_recall")), value(row.get("copy_rate_floor"))
    least = "At least " if caught is not None else ""
    alike = "" if floor is None else f" (real ones: {percent(floor)})"
    test = f"; the test catches {percent(caught, 0)} of planted copies" if least else ""
    rate = percent(row["copy_rate"])
    return (
        f"{least}{rate} of the drawn {plain(name)} pass for copies of training images{alike}{test}."
    )


def _near(split: Values) -> list[str]:
    n = (split.get("near_duplicates") or {}).get("n", 0)
    return [f"{n:,} near-identical pairs of images lie across the sets."] if n else []


def _quarantined(n: int) -> list[str]:
    return [f"{n:,} unreadable images were set aside."] if n else []


def sureness(story: "Story") -> str:
    """Say what the intervals cover, and what they do not."""
    counts = story.sets.get("test") or {}
    tested = listed(f"{n:,} {plain(name)}" for name, n in counts.items())
    where = "within this run only" if one_group(story.split) else "on particles like these"
    total = sum(counts.values())
    return (
        f"Intervals are 95\u00a0%, over the draw of {total:,} test particles ({tested}), "
        f"and hold {where}. They do not cover the luck of one training run: "
        "other seeds may move the figures as much."
    )


def next_steps(story: "Story") -> list[str]:
    """Return what to do next, the most useful first; at most four."""
    steps = [*_about_arms(story), *_about_drawn(story.fidelity), *_about_data(story)]
    return (steps or ["Repeat with other seeds before relying on the figures."])[:4]


def _about_arms(story: "Story") -> list[str]:
    found, blinded = verdict(story), _blind_arms(story.arms)
    said = _about_missing(story.arms, found.missing)
    said += [f"Do not use {the_arm(n)} for counting as it stands." for n in blinded]
    if found.kind == "better":
        said.append("Repeat with other seeds, and on another run, before relying on the gain.")
    elif found.kind == "worse":
        said.append(_about_base(story.arms, str(strongest(story.arms))))
    elif found.kind == "unclear":
        few = rare(story.sets.get("test") or {}) or list(story.sets.get("test") or {})
        said.append(
            f"Test with more {listed(few)}: four times as many halve the interval. "
            "And repeat with other seeds."
        )
    return said


def _about_missing(arms: Mapping[str, Values], missing: Sequence[str]) -> list[str]:
    if not missing:
        return []
    return [
        f"Do not count {listed(missing, 'or')} by {the_arm(next(iter(arms)))}, which names none. "
        "More labelled images, longer training or another strategy against the imbalance may help."
    ]


def _about_base(arms: Mapping[str, Values], base: str) -> str:
    lacking = never(arms[base].get("metrics") or {})
    if lacking:
        which = f"which itself names no {listed(lacking, 'or')}"
        return f"Find out why the recipe falls behind {the_arm(base)}, {which}."
    return f"Use {the_arm(base)} on this data, until it is known why the recipe falls behind."


def _about_drawn(fidelity: Mapping[str, Values]) -> list[str]:
    judged = {name: row.get("verdict") for name, row in fidelity.items()}
    far = [name for name, said in judged.items() if said == "far"]
    unknown = [name for name, said in judged.items() if said == "cannot tell"]
    longer = f"Train the generator longer: drawn {listed(far)} are still far from real ones."
    more = f"Hold out more real {listed(unknown)}: how close the drawn ones are cannot be told."
    return [*([longer] if far else []), *([more] if unknown else [])]


def _about_data(story: "Story") -> list[str]:
    steps = []
    few = [name for name, n in (story.sets.get("val") or {}).items() if n < FEW]
    if few:
        steps.append(f"Label at least {FEW} images of {listed(few)} for validation.")
    if one_group(story.split):
        steps.append("Hold out a second run as the test set.")
    if story.errors:
        steps.append("Look through the worst errors: some may be wrong labels.")
    return steps


def warned(story: "Story") -> dict[str, Any]:
    """Return what the first screen and the model card both say: simulated, warnings, next."""
    return {
        "simulated": SIMULATED if is_simulated(story.recipe, story.origins) else "",
        "warnings": warnings(story),
        "sure": sureness(story),
        "next": next_steps(story),
    }
