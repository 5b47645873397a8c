"""Run the command line as `python -m thaw`."""

from .cli import main

main()
