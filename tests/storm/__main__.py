"""`python -m tests.storm`"""

import argparse
import logging
import sys

from tests.storm.run import storm, verdict


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.storm", description="Storm test: many clients and failing endpoints at once."
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2, help="gateway processes")
    options = parser.parse_args()
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    sys.exit(verdict(storm(seconds=options.minutes * 60, clients=options.clients, workers=options.workers)))


if __name__ == "__main__":
    main()
