"""The double as a process of the stack. It is told by its environment what the stack knows."""

import os
import signal
import threading
from pathlib import Path

from local.stripe.server import Double


def main() -> None:
    told = os.environ
    double = Double(Path(told["STRIPE_FILE"]), port=int(told["PORT"]), key=told["STRIPE_SECRET_KEY"])
    double.send_events_to(told["WEBHOOK_URL"], told["STRIPE_WEBHOOK_SECRET"])
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    double.start()
    ended.wait()
    double.stop()


if __name__ == "__main__":
    main()
