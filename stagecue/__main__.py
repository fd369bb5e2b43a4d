"""`python -m stagecue` is `stagecue`."""

from stagecue.cli import main

if __name__ == "__main__":
    main()
