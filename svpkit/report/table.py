"""The table that ends a run in the terminal: arms, their scores with intervals, the difference."""

from rich.markup import escape
from rich.table import Table

from svpkit.report.html import METRICS, Story, marked
from svpkit.report.numbers import bounds, plain, signed
from svpkit.report.thresholds import lines
from svpkit.report.unnamed import convention, macro, missed
from svpkit.report.words import fidelity_sentence, verdict

ONE_SEED = "one seed: other seeds may move it as much"
_SHOWN = ("macro_auprc", "macro_precision", "macro_recall")


def summary_table(story: Story) -> Table:
    """Return arms by macro AUPRC, precision and recall with 95 % intervals, own arm first.

    The last column is the recipe's own arm minus that baseline in macro AUPRC, paired. Below stand
    the verdict, and first after it the classes that an arm never names.
    """
    mark = marked(story)
    tag = f" ({mark} particles)" if mark == "SIMULATED" else f" ({mark})" if mark else ""
    name = escape(str(story.recipe.get("name", "run")))
    found = [verdict(story).headline, *missed(story.arms), convention(story.arms)]
    drawn = [fidelity_sentence(name, row) for name, row in story.fidelity.items()]
    own = next(iter(story.arms.values()), {}).get("metrics") or {}
    promised = lines(own.get("thresholds") or {})
    said = [*found, ONE_SEED, *drawn, *promised]
    caption = "\n".join(escape(line) for line in said if line)
    table = Table(title=f"{name}, test set{tag}", caption=caption)
    table.add_column("arm")
    for key in _SHOWN:
        table.add_column(METRICS[key].replace(" (average precision)", "\n(average precision)"))
    table.add_column("own arm minus this,\nmacro AUPRC")
    for i, (arm, each) in enumerate(story.arms.items()):
        metrics = each.get("metrics") or {}
        gap = (story.differences.get(arm) or {}).get("macro_auprc")
        last = f"{signed(gap)} ({bounds(gap)})" if gap else ""
        scores = [macro(metrics, key) for key in _SHOWN]
        table.add_row(escape(plain(arm)), *scores, last, style="bold" if i == 0 else "")
    return table
