"""Run the command line as `python -m thaw`."""

from .cli import main

if __name__ == "__main__":
    main()
