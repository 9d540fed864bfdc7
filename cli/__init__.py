"""The console command `retrieval`."""


def main() -> None:
    """Runs the command line."""
