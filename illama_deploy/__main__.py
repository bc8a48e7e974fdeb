"""`python -m illama_deploy` and the command `illama-deploy`: signals are heard before anything else is imported."""

from .ending import listen

listen()


def main() -> None:
    """Run the command line of this process."""
    from .cli import main as run

    run()


if __name__ == "__main__":
    main()
