"""A worker process that only pushes, so that it begins when it is told: ``python -m bench.pusher``.

It prints ``ready``, and for each line on its standard input it sends what is due until nothing is, and
prints the seconds that took. The line ``quiet`` has it take its connections for ones that were silent for an
hour: the first push goes together with a PING.
"""

from __future__ import annotations

import os
import sys
import time

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mdm_project.settings")
django.setup(set_prefix=False)

from django.utils import timezone  # noqa: E402

from push import client, dispatch, outbox, waking  # noqa: E402

BUDGET = 600.0


def main() -> None:
    # The worker of the server stands still meanwhile: nobody is to be woken.
    waking.ring = lambda: None
    outbox.anything_due(timezone.now())  # the connection to the database is there
    print("ready", flush=True)
    for order in sys.stdin:
        if order.strip() == "quiet":
            client.STALE = -1.0
        began = time.perf_counter()
        dispatch.run(BUDGET)
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
