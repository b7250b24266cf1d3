"""What the program's commands take."""

import click

from provisioner.main import cli


def options_of(role: str) -> set[str]:
    """The options of a command, as they are written on a command line."""
    return {option for parameter in _command(role).params for option in parameter.opts}


def required_of(role: str) -> set[str]:
    """Those of them that have to be given."""
    return {parameter.opts[0] for parameter in _command(role).params if parameter.required}


def _command(role: str) -> click.Command:
    command = cli.get_command(click.Context(cli), role)
    assert command is not None
    return command
