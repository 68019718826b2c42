"""`make bench`: every benchmark, one after the other."""

from benchmarks.harness import start_servers


def main() -> None:
    start_servers()
    from benchmarks import checkout, outbox

    checkout.run()
    outbox.run()


main()
