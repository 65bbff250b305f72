"""How fast Strive is, as ratios to references of the same run."""

import platform

import psutil


def machine() -> dict[str, object]:
    """Where the figures are from, and what else it had to do."""
    return {
        "cpus": psutil.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": psutil.getloadavg()[0],
    }
