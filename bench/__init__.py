"""How fast Strive is, as ratios to references of the same run."""

import platform
from pathlib import Path

import psutil

# Read before the first measurement: other load of the machine.
LOAD_BEFORE = round(psutil.getloadavg()[0], 2)


def machine() -> dict[str, object]:
    """The machine of the figures, and its other load."""
    return {
        "processor": _processor(),
        "cpus": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release().split('-')[0]} on {platform.machine()}",
        "python": platform.python_version(),
        "load": LOAD_BEFORE,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()
