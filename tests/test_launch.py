"""Several processes by one command: what reaches them, what they leave, and how they end."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import mate
import numpy as np
import pytest
from accelerate.commands.config.config_args import load_config_from_file

from svpkit import launch, ranks
from svpkit.cli import cli
from svpkit.errors import SvpkitError
from svpkit.signals import SAME

REPO = Path(__file__).resolve().parents[1]
MATE = Path(__file__).with_name("mate.py")
SLURM = REPO / "recipes" / "slurm"
LAUNCH = """
import sys
from svpkit.launch import launch
sys.exit(launch(2, [sys.executable, *sys.argv[1:]]))
"""


def begin(job, folder, pids=True):
    """Start two processes on a job; returns their launcher once both are there."""
    env = {k: v for k, v in os.environ.items() if k != "WORLD_SIZE"}
    command = [sys.executable, "-c", LAUNCH, str(MATE), job, str(folder)]
    pipe = subprocess.PIPE
    launcher = subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True)
    while pids and not all(pid(folder, rank) for rank in (0, 1)):
        assert launcher.poll() is None, launcher.stderr.read()
        time.sleep(0.1)
    return launcher


def pid(folder, rank):
    path = folder / f"{rank}.pid"
    return int(path.read_text() or 0) if path.exists() else 0


def ended(launcher, folder, within=60):
    """Return code, stdout and stderr of a launcher that must end, and its processes with it."""
    out, err = launcher.communicate(timeout=within)
    for rank in (0, 1):
        with pytest.raises(ProcessLookupError):
            os.kill(pid(folder, rank), 0)
    return launcher.returncode, out, err


def test_the_exact_arguments_reach_the_processes_and_the_first_alone_speaks(tmp_path):
    launcher = begin("none", tmp_path)
    code, out, err = ended(launcher, tmp_path)
    assert code == 0 and out == f"done 0 {['none', str(tmp_path)]}\n"
    assert "noise of 0" in err and "noise of 1" not in err


@pytest.mark.slow
@pytest.mark.parametrize("job", ["train", "wait", "alone"])
@pytest.mark.parametrize("dies", [0, 1])
def test_a_process_that_is_killed_ends_the_others_within_a_minute(job, dies, tmp_path):
    # in training, in a wait for the other, and while the other works alone
    job = {"wait": ("alone", "others")[dies], "alone": ("others", "alone")[dies]}.get(job, job)
    launcher = begin(job, tmp_path)
    while job == "train" and not (tmp_path / "begun").exists():
        time.sleep(0.1)
    time.sleep(1)
    os.kill(pid(tmp_path, dies), signal.SIGKILL)
    code, _, err = ended(launcher, tmp_path)
    assert code == 128 + signal.SIGKILL and "Traceback" not in err
    assert f"svpkit: process {dies} of 2 was killed by SIGKILL; the others were ended" in err


@pytest.mark.slow
def test_the_last_words_of_the_one_that_fails_are_told(tmp_path):
    code, _, err = ended(begin("raise", tmp_path), tmp_path)
    assert code == 2 and "Traceback" not in err
    said = "process 1 of 2 ended with 2: svpkit: data.path: nothing here; the others were ended"
    assert err.splitlines()[-1] == f"svpkit: {said}"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_launcher_reaches_all_and_leaves_a_checkpoint(number, tmp_path):
    launcher = begin("train", tmp_path)
    while not (tmp_path / "begun").exists():
        time.sleep(0.1)
    launcher.send_signal(number)
    code, _, err = ended(launcher, tmp_path)
    assert code == 128 + number and "interrupted" in err and "Traceback" not in err
    assert list((tmp_path / "out").glob("checkpoint-*/state.json"))


@pytest.mark.slow
def test_told_again_a_process_that_hangs_is_killed(tmp_path):
    launcher = begin("train", tmp_path)
    os.kill(pid(tmp_path, 1), signal.SIGSTOP)
    launcher.send_signal(signal.SIGTERM)
    time.sleep(2 * SAME)
    assert launcher.poll() is None  # told once, it waits for them
    launcher.send_signal(signal.SIGTERM)
    assert ended(launcher, tmp_path, launch.GRACE + 30)[0] == 143


@pytest.mark.slow
def test_a_signal_that_everyone_is_sent_at_once_is_one(tmp_path):
    launcher = begin("train", tmp_path)
    while not (tmp_path / "begun").exists():
        time.sleep(0.1)
    for number in (pid(tmp_path, 0), pid(tmp_path, 1), launcher.pid):
        os.kill(number, signal.SIGTERM)
    assert ended(launcher, tmp_path)[0] == 143
    assert list((tmp_path / "out").glob("checkpoint-*/state.json"))


@pytest.mark.slow
def test_what_is_shared_out_is_that_of_one_process_to_the_bit(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    mate.shared(one)
    assert ended(begin("shared", two), two, within=300)[0] == 0
    names = sorted(path.name for path in one.iterdir())
    assert len(names) == 5
    for name in names:
        a, b = (np.load(folder / name, allow_pickle=False) for folder in (one, two))
        assert a.dtype == b.dtype and np.array_equal(a, b), name


@pytest.mark.slow
def test_the_launcher_of_torch_does_as_well(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(MATE), "none", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sorted(re.findall(r"done (\d)", done.stdout)) == ["0", "1"]


@pytest.mark.slow
def test_processes_end_with_a_launcher_that_is_killed(tmp_path):
    launcher = begin("alone", tmp_path)
    launcher.kill()
    launcher.communicate()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.kill(pid(tmp_path, 0), 0)
            time.sleep(0.2)
        except ProcessLookupError:
            return
    raise AssertionError("it works on without a launcher")


def test_a_launch_in_a_launch_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SvpkitError, match="--processes 4: this is a process of a launch of 2"):
        launch.check(4)


@pytest.mark.slow
@pytest.mark.parametrize("said, names", [("abc", "WORLD_SIZE: given 'abc'"), ("2", "without RANK")])
def test_a_launch_told_in_part_is_one_line(said, names):
    unset = ("RANK", "MASTER_ADDR", "MASTER_PORT")
    env = {k: v for k, v in os.environ.items() if k not in unset} | {"WORLD_SIZE": said}
    recipe = str(REPO / "recipes" / "quickstart.toml")
    command = [sys.executable, "-m", "svpkit", "run", recipe, "--plan"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and names in done.stderr and len(done.stderr.splitlines()) == 1


def test_an_empty_world_is_one_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "")
    assert not ranks.many() and ranks.size() == 1


def test_more_processes_than_gpus_are_refused(monkeypatch):
    import torch

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    launch.check(2)
    with pytest.raises(SvpkitError, match="--processes 3: here are 2 GPUs, at most one process"):
        launch.check(3)


@pytest.mark.parametrize("n, block", [(0, 4), (3, 4), (4, 4), (17, 4), (1000, 7)])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares_are_whole_blocks_and_together_all_rows(monkeypatch, n, block, size):
    monkeypatch.setattr(ranks, "size", lambda: size)
    shares = []
    for k in range(size):
        monkeypatch.setattr(ranks, "rank", lambda k=k: k)
        shares.append(ranks.share(n, block))
    assert [i for rows in shares for i in range(n)[rows]] == list(range(n))
    assert all(rows.start % block == 0 or rows.start == rows.stop for rows in shares)
    whole = [-(-(rows.stop - rows.start) // block) for rows in shares]
    assert max(whole) - min(whole) <= 1


def test_what_is_raised_for_want_of_another_process_is_known(monkeypatch):
    gone = RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]")
    assert not ranks.lost(gone)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ranks.lost(gone) and not ranks.lost(RuntimeError("shapes differ"))
    assert not ranks.lost(ValueError("Connection closed by peer"))


def test_a_file_that_comes_late_is_waited_for(monkeypatch, tmp_path):
    from threading import Timer

    monkeypatch.setenv("WORLD_SIZE", "2")
    folder = tmp_path / "made"
    late = Timer(0.5, lambda: (folder.mkdir(), (folder / "artifact.json").touch()))
    late.start()
    ranks.see(folder / "artifact.json")
    assert (folder / "artifact.json").exists()
    late.join()


def commands():
    """Every command of the page and of the examples, by line, as words."""
    texts = [p.read_text() for p in SLURM.glob("*.sbatch")]
    texts += re.findall(r"```bash\n(.*?)```", (REPO / "recipes" / "SCALE.md").read_text(), re.S)
    for text in texts:
        for line in text.replace("\\\n", " ").splitlines():
            if found := re.search(r"(?:^|-m |srun |\s)svpkit ((?:run|bench)\b.*)", line):
                yield shlex.split(found[1].rstrip("'"), comments=True)


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_every_command_of_the_page_has_its_options(words):
    command = cli.commands[words[0]]
    known = {name for p in command.params for name in p.opts if isinstance(p, click.Option)}
    assert {w for w in words if re.match(r"--?[a-z]", w)} <= known


def test_the_page_and_the_examples_are_shell_that_parses(tmp_path):
    page = (REPO / "recipes" / "SCALE.md").read_text()
    scripts = [p.read_text() for p in SLURM.glob("*.sbatch")]
    scripts += re.findall(r"```bash\n(.*?)```", page, re.S)
    for text in scripts:
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    for path in SLURM.glob("*.yaml"):
        load_config_from_file(str(path))
    named = set(re.findall(r"`slurm/([\w.]+)`", page))
    assert named == {p.name for p in SLURM.iterdir()}
