"""`python -m vitral` is the `vitral` command."""

from vitral.cli import main

main()
