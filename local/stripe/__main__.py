"""The double as a process of the stack. Its environment tells it what the stack knows; it ends by being killed."""

import os
import threading
from pathlib import Path

from local.stripe.server import Double


def main() -> None:
    told = os.environ
    file = Path(told["STRIPE_FILE"])
    file.parent.mkdir(exist_ok=True)
    double = Double(file, port=int(told["PORT"]), key=told["STRIPE_SECRET_KEY"])
    double.send_events_to(told["WEBHOOK_URL"], told["STRIPE_WEBHOOK_SECRET"])
    double.start()
    threading.Event().wait()


if __name__ == "__main__":
    main()
