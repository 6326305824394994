"""Part b of speed.py: networks side by side, a call and a training step."""

import copy
import time

import numpy as np
import torch
import torch.nn.functional as F

from svpkit import devices, draws
from svpkit.hookspecs import ImageSpec
from svpkit.plugins import discover

PLAIN = "reference, plain"
SMALL = {"architecture": "lean", "width": 32, "blocks": 1}


def now():
    """Return seconds on the clock when the device has done all it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def built(name, options, size):
    """Return a generator of one class for one-channel images of this size."""
    use = discover(builtin_only=True).use("generator", name, options, "generator.plugin")
    with draws.seeded(0, "speed"):
        return use(ImageSpec(1, size, ("particle",)))


def ready(model):
    """Return a generator as svpkit samples with it: channels last, weights folded."""
    model = model.to(devices.device()).to(memory_format=torch.channels_last).eval()
    if hasattr(model, "fold"):
        model.fold()
    return model


def contestants(width, size):
    """Return name -> (network to call, network to train), or None where it is not installed."""
    mults, found = (1, 2, 4, 8), {}
    options = {"architecture": "reference", "width": width}
    plain = built("ddpm", options, size).network
    found[PLAIN] = plain.eval(), copy.deepcopy(plain).train()
    ours = {
        "reference, as svpkit runs it": options,
        f"lean, width {width}": {"architecture": "lean", "width": width},
        "lean, width 32, 1 block, mults 1 2 4": SMALL,
        "lean, width 32, 1 block, mults 1 2 5": {**SMALL, "mults": [1, 2, 5]},
    }
    for name, each in ours.items():
        # folded weights are for sampling alone
        call, train = ready(built("ddpm", each, size)), built("ddpm", each, size)
        train = train.to(memory_format=torch.channels_last).train()
        found[name] = call.network, train.network
    try:
        from denoising_diffusion_pytorch import Unet

        with draws.seeded(0, "speed"):
            theirs = Unet(width, dim_mults=mults, channels=1)
        found["denoising-diffusion-pytorch"] = theirs.eval(), copy.deepcopy(theirs).train()
    except ImportError:
        found["denoising-diffusion-pytorch: not installed"] = None
    options = {"channels": [width * m for m in mults], "groups": min(width, 32)}
    theirs = built("diffusers_unet", options, size).network
    found["diffusers UNet2DModel"] = theirs.eval(), copy.deepcopy(theirs).train()
    return found


def blocks(pair, x, calls):
    """Return two functions that time a block: of calls, and of training steps; ms an image."""
    call, train = (net.to(x.device) for net in pair)
    optimizer = torch.optim.Adam(train.parameters(), 1e-4)
    level, noise = torch.full((len(x),), 250.0, device=x.device), torch.randn_like(x)
    labels = torch.zeros(len(x), dtype=torch.int64, device=x.device)

    def see(net):
        if hasattr(net, "condition"):
            return net(x, level, labels)
        found = net(x, level)
        return getattr(found, "sample", found)

    @torch.no_grad()
    def called():
        see(call)

    def step():
        optimizer.zero_grad(set_to_none=True)
        F.l1_loss(see(train), noise).backward()
        torch.nn.utils.clip_grad_norm_(train.parameters(), 1.0)
        optimizer.step()

    def clocked(work):
        def block():
            began = now()
            for _ in range(calls):
                work()
            return (now() - began) / calls / len(x) * 1e3

        work()  # what is set up once
        return block

    return clocked(called), clocked(step)


def rows(asked):
    """Return the rows of network_speed.csv."""
    table = []
    for size in asked.sizes:
        with draws.seeded(0, "batch"):
            x = torch.randn(asked.batch, 1, size, size).to(devices.device())
        found = contestants(asked.width, size)
        there = {name: blocks(pair, x, asked.calls) for name, pair in found.items() if pair}
        times = {name: ([], []) for name in there}
        for k in range(asked.rounds):
            for name in list(there)[:: -1 if k % 2 else 1]:
                for block, each in zip(there[name], times[name], strict=True):
                    each.append(block())
        plain = times[PLAIN]
        for name, pair in found.items():
            row = {"network": name, "size": size, "batch": asked.batch}
            row |= {
                "reference_width": asked.width,
                "threads": torch.get_num_threads(),
                "device": str(devices.device()),
            }
            if pair:
                row["parameters_m"] = round(sum(p.numel() for p in pair[1].parameters()) / 1e6, 2)
                for kind, each, base in zip(("call", "train"), times[name], plain, strict=True):
                    row[f"{kind}_ms_image"] = round(float(np.median(each)), 2)
                    ratio = np.median(np.array(base) / np.array(each))
                    row[f"{kind}_times_faster"] = round(float(ratio), 2)
            table.append(row)
    return table
