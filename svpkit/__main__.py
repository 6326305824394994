"""The command line, also as `python -m svpkit` and `accelerate launch -m svpkit`."""

import os
import sys

from svpkit.errors import SvpkitError


def main() -> None:
    """Run the command line: exit code 2 for what the user can mend, 130 when interrupted."""
    import click

    from svpkit.cli import cli

    # Threads that wait for one another should nap: spinning, as is the default, makes training many
    # times slower as soon as anything else wants a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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
    except OSError as error:
        # a full disk, a read-only folder, a file where a folder should be: the user's to mend
        said = error.strerror or str(error)
        if isinstance(error, (FileExistsError, NotADirectoryError)):
            said = "this is a file, a folder is wanted"
        click.echo(f"svpkit: {error.filename or ''}: {said}", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        click.echo(
            "svpkit: interrupted; the same command goes on from the last checkpoint", err=True
        )
        sys.exit(130)


if __name__ == "__main__":
    main()
