"""How fast feature flags are evaluated, served and loaded: `python -m bench.flags`.

Choose some of it by name (`python -m bench.flags loading serving`); `evaluation` installs the engines of others into
.strive/bench. Figures are printed as JSON.
"""

import argparse
import json

from bench import machine
from bench.flags import evaluation, loading, serving

MEASUREMENTS = {"evaluation": evaluation, "serving": serving, "loading": loading}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.flags", description=__doc__)
    parser.add_argument("measurements", nargs="*", help=f"of {', '.join(MEASUREMENTS)}")
    chosen = parser.parse_args().measurements or list(MEASUREMENTS)
    if unknown := set(chosen) - MEASUREMENTS.keys():
        parser.error(f"found {', '.join(unknown)}; expected some of {', '.join(MEASUREMENTS)}")
    figures = {name: MEASUREMENTS[name].measure() for name in chosen}
    print(json.dumps({"machine": machine(), "figures": figures}, indent=2))


if __name__ == "__main__":
    main()
