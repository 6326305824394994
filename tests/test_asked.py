"""Processes ask one another about signals at the same steps, about once a second."""

import pytest

from svpkit import ranks
from svpkit.asked import MOST, Asked


class Launch:
    """Processes in step with one another, each with its clock, as `ranks` tells of them."""

    def __init__(self, monkeypatch, seconds, told):
        self.clocks, self.rank, self.step = [0.0] * len(seconds), 0, 0
        self.seconds, self.questions, self.heard = seconds, [], []
        monkeypatch.setattr(ranks, "many", lambda: True)
        monkeypatch.setattr(ranks, "main", lambda: self.rank == 0)
        monkeypatch.setattr(ranks, "largest", self.largest)
        self.asked = [Asked(self.told(told, r), 0, self.clock(r)) for r in range(len(seconds))]

    def told(self, told, rank):
        return lambda: told.get((rank, self.step), 0)

    def clock(self, rank):
        return lambda: self.clocks[rank]

    def largest(self, *values):
        # found in two rounds: the first gathers what each says, the second gives all the largest
        self.said[self.rank] = values
        return [max(each) for each in zip(*self.said.values(), strict=True)]

    def go(self, steps):
        """Return the signal that each process learnt of at each step, None where none asked."""
        for self.step in range(steps):
            before, self.said, found = [dict(vars(a)) for a in self.asked], {}, []
            for _ in range(2):
                found = []
                for rank, asked in enumerate(self.asked):
                    self.rank = rank
                    vars(asked).update(before[self.rank])
                    found.append(asked(self.step))
            # all of them ask, or none of them
            assert len(self.said) in (0, len(self.asked)) and len(set(found)) == 1
            self.questions += [self.step] if self.said else []
            self.heard.append(found[0])
            self.clocks = [c + s for c, s in zip(self.clocks, self.seconds, strict=True)]


@pytest.mark.parametrize(
    ("seconds", "between"), [(10.0, 1), (0.25, 4), (0.02, 50), (0.0001, MOST), (0.0, MOST)]
)
def test_all_ask_at_the_same_steps_about_every_second(monkeypatch, seconds, between):
    # the second one's clock goes otherwise, and nobody asks it
    launch = Launch(monkeypatch, [seconds, 3 * seconds + 0.7], {})
    launch.go(1500)
    gaps = [b - a for a, b in zip(launch.questions, launch.questions[1:], strict=False)]
    assert gaps[-1] == pytest.approx(between, rel=0.05)
    # from one on, at most twice as many as before
    assert gaps[0] == 1 and all(b <= 2 * a for a, b in zip(gaps, gaps[1:], strict=False))


def test_a_signal_to_one_reaches_all_with_the_next_question(monkeypatch):
    told = {(1, step): 15 for step in range(70, 200)}
    launch = Launch(monkeypatch, [0.1, 0.1], told)
    launch.go(200)
    first = next(step for step, number in enumerate(launch.heard) if number)
    assert launch.heard[first] == 15 and 70 <= first <= 80


def test_the_last_time_all_are_asked(monkeypatch):
    launch = Launch(monkeypatch, [0.001], {(0, 20): 2})
    launch.go(20)
    assert launch.questions[-1] < 19
    launch.step, launch.said = 20, {}
    assert launch.asked[0](20, last=True) == 2


def test_a_single_process_is_asked_at_every_step():
    numbers = iter([0, 0, 2])
    asked = Asked(lambda: next(numbers))
    assert [asked(step) for step in range(3)] == [0, 0, 2]
