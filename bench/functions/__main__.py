"""How fast the functions are, as ratios to bare functions-framework in the same run: `python -m bench.functions`.

What is compared runs in turns of less than a second, so that both see the same machine. Figures are printed as JSON.
Choose some of them by name (`python -m bench.functions throughput memory`); `peer` installs Deno into .strive/bench.
"""

import argparse
import json
import tempfile
from pathlib import Path

from bench import machine
from bench.functions import cold, memory, metering, peer, throughput
from bench.functions.world import world

# The last one is cut short on a slow machine.
MEASUREMENTS = {"throughput": throughput, "metering": metering, "cold": cold, "peer": peer, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.functions", description=__doc__)
    parser.add_argument("measurements", nargs="*", help=f"of {', '.join(MEASUREMENTS)}")
    chosen = parser.parse_args().measurements or list(MEASUREMENTS)
    if unknown := set(chosen) - MEASUREMENTS.keys():
        parser.error(f"found {', '.join(unknown)}; expected some of {', '.join(MEASUREMENTS)}")
    with tempfile.TemporaryDirectory() as folder, world(Path(folder)) as database:
        figures = {name: MEASUREMENTS[name].measure(Path(folder), database) for name in chosen}
    print(json.dumps({"machine": machine(), "figures": figures}, indent=2))


if __name__ == "__main__":
    main()
