"""10,000 notices while the SMTP server and the sender are killed again and again: `python -m bench.drill.mail`.

No e-mail may be lost or arrive twice; exit status 1 if so. UNCERTAIN ones are listed for people.
`python -m bench.drill.mail requests` measures how requests fare beside such a queue.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from statistics import quantiles

import httpx

from local import ROOT
from local.postgres import Cluster
from local.stack import free_port
from local.temporary import migrated
from tests.support.serving import CRON_KEY, ENTRY, RECORD, environment, serving
from tests.support.world import ACME, Connection, populate

NOTICES = 10_000
SMTP_KILLS, SENDER_KILLS = 12, 4
PAUSE_SECONDS = 1.5
REQUESTS = 1000
# Notes each message before it accepts it; the file outlives the process.
SERVER = """
import asyncio, re, sys
from aiosmtpd.smtp import SMTP
class Note:
    async def handle_DATA(self, server, session, envelope):
        with open(sys.argv[2], 'ab') as file:
            file.write(re.search(rb'Message-ID: <([0-9a-f-]+)@', envelope.content)[1] + b'\\n')
        return '250 OK'
async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Note(), loop=loop), '127.0.0.1', int(sys.argv[1]))
    await server.serve_forever()
asyncio.run(main())
"""


class Mail:
    def __init__(self, noted: Path) -> None:
        self.port, self.noted = free_port(), noted
        self.noted.touch()
        self.start()

    def start(self) -> None:
        words = [sys.executable, "-c", SERVER, str(self.port), str(self.noted)]
        self.process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, migrated(Path(folder) / "postgres", durable=True) as cluster:
        mail = Mail(Path(folder) / "noted")
        run = requests if sys.argv[1:] == ["requests"] else drill
        try:
            result = run(cluster, mail, Path(folder))
        finally:
            mail.kill()
    print(json.dumps(result, indent=2))
    sys.exit(bool(result.get("lost") or result.get("twice")))


def settings_of(cluster: Cluster, mail: Mail) -> dict[str, str]:
    settings = {"SMTP_URL": f"smtp://127.0.0.1:{mail.port}", "MAIL_FROM": "Strive <a@strive.test>"}
    return environment(cluster.url("strive_functions"), **settings)


def queue(connection: Connection) -> None:
    connection.execute(
        "select private.publish_events(array_agg(('crm.lead.assigned', %s::uuid, 'lead', gen_random_uuid(),"
        " 'No. ' || n, 'x', array[m.user_id], null, null, null, null)::private.event))"
        " from generate_series(1, %s) n, (select user_id from public.organization_members"
        " where organization_id = %s and role = 'MEMBER' and blocked_until is null) m",
        [ACME, NOTICES, ACME],
    )


def requests(cluster: Cluster, mail: Mail, folder: Path) -> dict[str, int | float]:
    """Milliseconds of record-activity: without a queue, beside one that waits, and while another process sends it."""
    variables = settings_of(cluster, mail)
    result: dict[str, int | float] = {"requests": REQUESTS}
    with cluster.connect() as connection:
        populate(connection)
        with serving(folder, variables) as functions, functions.client() as client:

            def measure(name: str) -> None:
                took = []
                for _ in range(REQUESTS):
                    began = time.perf_counter()
                    client.post(RECORD, json=ENTRY).raise_for_status()
                    took.append((time.perf_counter() - began) * 1000)
                cuts = quantiles(took, n=100)
                result[f"p50_{name}"], result[f"p99_{name}"] = round(cuts[49], 1), round(cuts[98], 1)

            measure("warm_up")
            measure("none")
            queue(connection)
            measure("waiting")
            is_over = threading.Event()
            sender = threading.Thread(target=send, args=(folder, variables, is_over, 0))
            sender.start()
            while not connection.execute("select from private.emails where status = 'SENT'").rowcount:
                time.sleep(0.1)  # between two looks at whether it sends
            measure("sending")
            left = connection.execute("select count(*) from private.emails where status = 'QUEUED'").fetchone()
            result["queued_at_the_end"] = left[0] if left else 0
            is_over.set()
            sender.join()
    result["ratio_waiting"] = round(result["p99_waiting"] / result["p99_none"], 2)
    result["ratio_sending"] = round(result["p99_sending"] / result["p99_none"], 2)
    return result


def drill(cluster: Cluster, mail: Mail, folder: Path) -> dict[str, int | float]:
    variables = settings_of(cluster, mail)
    with cluster.connect() as connection:
        populate(connection)
        queue(connection)
        started = time.monotonic()
        is_over = threading.Event()
        senders = threading.Thread(target=send, args=(folder, variables, is_over))
        senders.start()
        for _ in range(SMTP_KILLS):
            # How long the mail server lives and is dead: the fault of this drill. The counts do not depend on it.
            time.sleep(PAUSE_SECONDS)
            mail.kill()
            time.sleep(PAUSE_SECONDS / 3)
            mail.start()
        waiting = "select count(*) from private.emails where status in ('QUEUED', 'SENDING')"
        while (connection.execute(waiting).fetchone() or (0,))[0]:
            # As if the pauses had passed; claims of living senders stay.
            connection.execute("update private.emails set next_attempt_at = now() where status = 'QUEUED'")
            connection.execute(
                "update private.emails set next_attempt_at = now() where status = 'SENDING'"
                " and next_attempt_at < now() + interval '4 minutes 40 seconds'"
            )
            time.sleep(1)  # between two looks at the queue
        took = time.monotonic() - started
        is_over.set()
        senders.join()
        states = dict(connection.execute("select id::text, status::text from private.emails").fetchall())
    arrived = Counter(mail.noted.read_text().split())
    counts = Counter(states.values())
    return {
        "notices": len(states),
        "sent": counts["SENT"],
        "uncertain": counts["UNCERTAIN"],
        "of_these_arrived": sum(states[each] == "UNCERTAIN" for each in arrived),
        "smtp_kills": SMTP_KILLS,
        "sender_kills": SENDER_KILLS,
        "lost": sum(status != "UNCERTAIN" and each not in arrived for each, status in states.items()),
        "twice": sum(count > 1 for count in arrived.values()),
        "seconds": round(took, 1),
    }


def send(folder: Path, variables: dict[str, str], is_over: threading.Event, kills: int = SENDER_KILLS) -> None:
    """Runs of the job one after the other; the first processes are killed in the middle of one."""
    for number in range(kills + 1):
        with serving(folder, variables) as functions:
            if number < kills:
                killer = threading.Timer(PAUSE_SECONDS * 2, os.kill, (functions.process.pid, signal.SIGKILL))
                killer.start()
            with suppress(httpx.HTTPError), functions.client(None, apikey=CRON_KEY) as client:
                while not is_over.is_set():
                    client.post("/functions/v1/send-emails", json={}, timeout=120)
                    time.sleep(0.2)  # between two runs of the job, instead of its minute


if __name__ == "__main__":
    main()
