"""The command line, also as `python -m svpkit` and `accelerate launch -m svpkit`."""

import sys

from svpkit.errors import SvpkitError


def main() -> None:
    """Run the command line: exit code 2 for what the user can mend, 130 when interrupted."""
    import click

    from svpkit.cli import cli

    try:
        cli.main(prog_name="svpkit", standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except SvpkitError as error:
        click.echo(f"svpkit: {error}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        click.echo(
            "svpkit: interrupted; the same command goes on from the last checkpoint", err=True
        )
        sys.exit(130)


if __name__ == "__main__":
    main()
