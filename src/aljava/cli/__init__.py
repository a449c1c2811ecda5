"""The `aljava` command: one module a group of commands, each a thin doorway to the library."""

import os
import signal
import sys
from typing import Any

import typer

from aljava.cli import compare, complete, files, jobs, mending, moving, serve, sql, store, streams, tour
from aljava.cli.output import printable
from aljava.errors import AddressError, AljavaError, InvalidOption

app = typer.Typer(
    name="aljava",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Keep Arrow tables, share them between processes and ship them.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _options(version: bool = typer.Option(False, "--version", help="Show the version and exit.")) -> None:
    if version:
        from aljava import __version__

        typer.echo(f"aljava {__version__}")
        raise typer.Exit


app.command("tour")(tour.command)
app.command("compare")(compare.command)
app.command("send")(streams.send)
app.command("receive")(streams.receive)
app.command("cat")(streams.cat)
app.command("serve")(serve.command)
app.command("sql")(sql.command)
for _name in ("info", "head", "tail", "layout", "zones"):
    app.command(_name)(getattr(files, _name))
for _name in ("copy", "append", "concat"):
    app.command(_name)(getattr(moving, _name))
for _name in ("verify", "repair"):
    app.command(_name)(getattr(mending, _name))
for _name in ("convert", "compact", "stats"):
    app.command(_name)(getattr(jobs, _name))
app.add_typer(store.app, name="store")


# DuckDB points at the place of a syntax error on a line of its own.
_NEWLINE = "\n"
# Typer has click in it, under a name that depends on its version. This is click's error for wrong usage.
_UsageError: Any = typer.BadParameter.__bases__[0]


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?")) else f"{text}."


def main() -> None:
    """Runs the command line: exit status 2 for wrong usage, 1 for what failed, and no traceback."""
    # Closed by whoever started us, as with `>&-`: Python has None there.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - for as long as we run
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what it logs, our errors say in one line
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    heard = signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    try:
        if heard:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        with complete.whole_words():
            sys.exit(app(standalone_mode=False))
    except _UsageError as error:
        called = error.ctx.command_path if error.ctx else "aljava"
        print(f"aljava: {printable(_sentence(error.format_message()))} See: {called} --help", file=sys.stderr)
        sys.exit(2)
    except AljavaError as error:
        print(f"aljava: {printable(str(error), keep=_NEWLINE)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InvalidOption | AddressError) else 1)
    except OSError as error:
        # Whoever reads our output has seen enough, or it has no room: keep Python from complaining at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            where = (
                f"{error.filename}: " if error.filename else "standard output cannot be written: " * bool(error.errno)
            )
            print(f"aljava: {printable(where + (error.strerror or str(error)))}", file=sys.stderr)
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    finally:
        if heard:  # while Python ends, too, it ends without a traceback
            signal.signal(signal.SIGINT, signal.SIG_DFL)
