"""How fast the functions are, as ratios to bare functions-framework in the same run: `python -m bench.functions`.

What is compared runs in turns of less than a second, so that both see the same machine. Figures are printed as JSON.
Choose some of them by name (`python -m bench.functions throughput memory`); `peer` installs Deno into .strive/bench.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from bench import machine
from bench.functions import cold, memory, metering, peer, throughput
from bench.functions.world import world

# The longest is last: on a slow machine the runner interrupts it, and the figures of the others stay.
MEASUREMENTS = {"throughput": throughput, "metering": metering, "peer": peer, "memory": memory, "cold": cold}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.functions", description=__doc__)
    parser.add_argument("measurements", nargs="*", help=f"of {', '.join(MEASUREMENTS)}")
    chosen = parser.parse_args().measurements or list(MEASUREMENTS)
    if unknown := set(chosen) - MEASUREMENTS.keys():
        parser.error(f"found {', '.join(unknown)}; expected some of {', '.join(MEASUREMENTS)}")
    found: dict[str, Any] = {"machine": machine(), "figures": {}}
    with tempfile.TemporaryDirectory() as folder, world(Path(folder)) as database:
        try:
            for name in chosen:
                found["figures"][name] = MEASUREMENTS[name].measure(Path(folder), database)
        except KeyboardInterrupt:
            found["cut_short"] = f"there was no time for {', '.join(set(chosen) - found['figures'].keys())}"
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
