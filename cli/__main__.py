"""`python -m retrieval.cli`."""

from . import main

main()
