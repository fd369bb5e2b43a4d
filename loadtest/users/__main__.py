"""`python -m loadtest.users`; see `--help`."""

from loadtest.users.cli import main

main(prog_name="python -m loadtest.users")
