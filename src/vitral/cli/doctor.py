"""`vitral doctor`: what this machine offers, for a person who wonders and for a bug report."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from vitral.cli import common
from vitral.cli.common import Json

EXAMPLES = ("vitral doctor", "vitral doctor --json")
PACKAGES = (
    "torch",
    "numpy",
    "tokenizers",
    "safetensors",
    "llguidance",
    "fastapi",
    "uvicorn",
    "huggingface_hub",
    "gguf",
)


def verb(json: Json = False) -> None:
    """Print versions, cores, threads, devices, memory and where models are kept."""
    facts = examine()
    if json:
        common.emit(facts)
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {each or 'not installed'}" for key, each in value.items())
        print(f"{name:<12} {value}")


def examine() -> dict[str, Any]:
    """Facts only; nothing is measured and nothing is sent anywhere."""
    import torch

    import vitral
    from vitral.weights import cache

    place = cache.root()
    while not place.exists():
        place = place.parent
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    devices = ["cpu"] + [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return {
        "vitral": vitral.__version__,
        "python": f"{sys.version.split()[0]} on {platform.platform()}",
        "packages": {name: installed(name) for name in PACKAGES},
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "devices": ", ".join(devices + (["mps"] if torch.backends.mps.is_available() else [])),
        "memory": common.human_bytes(memory),
        "cache": f"{cache.root()} ({common.human_bytes(shutil.disk_usage(place).free)} free)",
        "offline": cache.offline() or "no",
    }


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
