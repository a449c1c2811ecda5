"""`python -m aljava` is `aljava`."""

from aljava.cli import main

main()
