"""The double as a process of the stack, configured by its environment; it runs until it is killed."""

import os
import threading
from pathlib import Path

from local.stripe.server import Double


def main() -> None:
    environment = os.environ
    file = Path(environment["STRIPE_FILE"])
    file.parent.mkdir(exist_ok=True)
    double = Double(file, port=int(environment["PORT"]), key=environment["STRIPE_SECRET_KEY"])
    double.send_events_to(environment["WEBHOOK_URL"], environment["STRIPE_WEBHOOK_SECRET"])
    double.start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
