"""`python -m trioresil` is the command line, as `trioresil` is."""

from .cli import main

if __name__ == "__main__":
    main()
