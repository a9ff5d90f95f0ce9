"""`python -m dormant` and the `dormant` command."""

import sys

EXTRAS = {
    "tyro": "cli",
    "rich": "cli",
    "matplotlib": "cli",
    "orbax": "cli",
    "pgx": "minatar",
}


def main() -> None:
    """Runs the command line; a missing optional package ends it with the line that installs it."""
    try:
        from dormant.cli import run

        sys.exit(run(sys.argv[1:]))
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in EXTRAS:
            raise
        extra = EXTRAS[package]
        print(f"dormant: {package} is not installed; run: pip install 'dormant[{extra}]'", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
