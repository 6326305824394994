"""Watching a plugin at work: global randomness, global settings, the network and pickle."""

import contextlib
import os
import pickle  # noqa: F401 - there to be stopped
import random
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch

# Audit events (PEP 578), which reach C code too; all of them but local sockets are the network.
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
PICKLE = ("pickle.find_class",)


class Seen(PermissionError):
    """What a plugin did that no plugin does; raised where it does it."""


def randomness() -> dict[str, bytes]:
    """Return the states of the global generators of random, numpy and torch."""
    kind, keys, at, gauss, cached = np.random.get_state(legacy=True)  # type: ignore[misc]
    return {
        "random": repr(random.getstate()).encode(),
        "numpy.random": repr((kind, at, gauss, cached)).encode() + np.asarray(keys).tobytes(),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }


@contextlib.contextmanager
def seeded_globally(seed: int) -> Iterator[None]:
    """Give the global generators other states, and afterwards those of before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def settings() -> dict[str, Any]:
    """Return the global settings that a plugin could change for everybody."""
    return {
        "torch.get_default_dtype()": torch.get_default_dtype(),
        "torch.get_default_device()": torch.get_default_device(),
        "torch.is_grad_enabled()": torch.is_grad_enabled(),
        "torch.get_num_threads()": torch.get_num_threads(),
        "torch.get_float32_matmul_precision()": torch.get_float32_matmul_precision(),
        "torch.are_deterministic_algorithms_enabled()": (
            torch.are_deterministic_algorithms_enabled()
        ),
        "torch.is_anomaly_enabled()": torch.is_anomaly_enabled(),
        "torch.backends.cudnn.benchmark": torch.backends.cudnn.benchmark,
        "numpy.geterr()": np.geterr(),
        "os.getcwd()": os.getcwd(),
    }


@contextlib.contextmanager
def settings_kept() -> Iterator[None]:
    """Put the settings of torch and numpy back as they were."""
    before = settings()
    try:
        yield
    finally:
        after = settings()
        for name, value in before.items():
            if after[name] != value:
                _SETTERS[name](value)


@contextlib.contextmanager
def no_network() -> Iterator[list[str]]:
    """Stop every connection and look-up of a name; yields what was tried."""
    with _listening(_network) as seen:
        yield seen


@contextlib.contextmanager
def no_pickle() -> Iterator[list[str]]:
    """Stop pickle, torch.save, torch.load and joblib's files; yields what was tried."""
    with _listening(_unpickling) as seen, contextlib.ExitStack() as stack:
        for module, name in _PICKLING:
            if module in sys.modules:
                stack.enter_context(_stopped(sys.modules[module], name, seen))
        yield seen


_SETTERS: dict[str, Callable[[Any], Any]] = {
    "torch.get_default_dtype()": torch.set_default_dtype,
    "torch.get_default_device()": torch.set_default_device,
    "torch.is_grad_enabled()": torch.set_grad_enabled,
    "torch.get_num_threads()": torch.set_num_threads,
    "torch.get_float32_matmul_precision()": torch.set_float32_matmul_precision,
    "torch.are_deterministic_algorithms_enabled()": torch.use_deterministic_algorithms,
    "torch.is_anomaly_enabled()": lambda on: torch.autograd.set_detect_anomaly(on),
    "torch.backends.cudnn.benchmark": lambda on: setattr(torch.backends.cudnn, "benchmark", on),
    "numpy.geterr()": lambda how: np.seterr(**how),
    "os.getcwd()": os.chdir,
}
_PICKLING = (
    *(("pickle", name) for name in ("load", "loads", "dump", "dumps")),
    *(("torch", name) for name in ("load", "save")),
    *(("joblib", name) for name in ("load", "dump")),
    *(("cloudpickle", name) for name in ("load", "loads", "dump", "dumps")),
)
_Listener = Callable[[str, tuple[Any, ...]], str]


def _network(event: str, args: tuple[Any, ...]) -> str:
    if event not in NETWORK:
        return ""
    # a text is the path of a local socket, which leaves no machine
    to = args[1] if event in ("socket.connect", "socket.sendto") else args[:2]
    return "" if isinstance(to, str | bytes) else f"{event} {to}"


def _unpickling(event: str, args: tuple[Any, ...]) -> str:
    return f"unpickling {args[0]}.{args[1]}" if event in PICKLE else ""


@lru_cache(maxsize=1)
def _listeners() -> list[_Listener]:
    # an audit hook cannot be taken away again: one for good, which does nothing when no one listens
    listeners: list[_Listener] = []

    def heard(event: str, args: tuple[Any, ...]) -> None:
        for listen in listeners:
            listen(event, args)

    sys.addaudithook(heard)
    return listeners


@contextlib.contextmanager
def _listening(about: _Listener) -> Iterator[list[str]]:
    seen: list[str] = []

    def listen(event: str, args: tuple[Any, ...]) -> str:
        if said := about(event, args):
            seen.append(said)
            raise Seen(said)
        return ""

    listeners = _listeners()
    listeners.append(listen)
    try:
        yield seen
    finally:
        listeners.remove(listen)


@contextlib.contextmanager
def _stopped(module: Any, name: str, seen: list[str]) -> Iterator[None]:
    kept = getattr(module, name)

    def stop(*args: Any, **more: Any) -> None:
        seen.append(f"{module.__name__}.{name}")
        raise Seen(seen[-1])

    setattr(module, name, stop)
    try:
        yield
    finally:
        setattr(module, name, kept)
