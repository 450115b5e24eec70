"""`python -m fedlora.deployment.probe PORT`: exit status 0 when /healthz at that port of this machine says ready."""

from __future__ import annotations

import sys
import urllib.request

TIMEOUT_S = 4.0


def main() -> None:
    url = f"http://127.0.0.1:{int(sys.argv[1])}/healthz"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            print(answer.read().decode())
    except OSError as error:  # not there, or 503: what is not ready is in the coordinator's or agent's log
        sys.exit(f"not ready: {error}")


if __name__ == "__main__":
    main()
