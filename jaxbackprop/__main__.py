"""`jaxbackprop audit FILE`, also `python -m jaxbackprop audit FILE`."""

import sys

USAGE = """usage: jaxbackprop audit FILE [NAME]

Says whether the gradient in a file is right, and if not, which mistake it is; `jaxbackprop audit --help` has the rest.
"""


def main() -> int:
    """Run the command line's first word; its exit status."""
    if sys.argv[1:2] != ["audit"]:
        asked = sys.argv[1:2] in (["-h"], ["--help"])
        print(USAGE, end="", file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    import tyro

    from jaxbackprop.auditing.command import main as audit

    return tyro.cli(audit, prog="jaxbackprop audit", args=sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
