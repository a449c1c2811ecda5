"""The `aljava` command, which is also `python -m aljava`."""

import signal


def main() -> None:
    """Runs the command line, and ends without a word at a control-C, also while Python imports what it needs."""
    # Unless whoever started us ignores control-C: then it is not ours to hear.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from aljava.cli import main as run

    run()


if __name__ == "__main__":
    main()
