"""The command line, also as `python -m svpkit` and `accelerate launch -m svpkit`."""

import os
import sys

from svpkit import ranks
from svpkit.errors import SvpkitError
from svpkit.refusals import refused
from svpkit.signals import Ended, end_in_order


def main() -> None:
    """Run the command line: exit code 2 for what the user can mend, 130 or 143 when told to end."""
    import click

    from svpkit.cli import cli

    # Threads that wait for one another should nap: spinning, as is the default, makes training many
    # times slower as soon as anything else wants a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    end_in_order()
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
    except (KeyboardInterrupt, click.Abort, Ended) as told:
        click.echo(f"svpkit: {_ended()}", err=True)
        sys.exit(told.code if isinstance(told, Ended) else 130)
    except Exception as error:
        if ranks.lost(error):
            click.echo(f"svpkit: another process of this launch is gone ({error})", err=True)
            sys.exit(ranks.LOST)
        # a full disk, a read-only folder, a file where a folder should be: the user's to mend
        if (said := refused(error)) is None:
            raise
        click.echo(f"svpkit: {said}", err=True)
        sys.exit(2)


def _ended() -> str:
    resumes = {"run", "bench", "fidelity", "audit"} & set(sys.argv[1:4])
    return "interrupted" + ("; the same command goes on from where it was" if resumes else "")


if __name__ == "__main__":
    main()
