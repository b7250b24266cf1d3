"""The command line: the config file, one of the roles, and one sentence for errors of ours."""

import importlib
import sys
from pathlib import Path

import click

import provisioner
from provisioner import memory
from provisioner.config import ConfigFile
from provisioner.core.errors import ProvisionerError
from provisioner.kube.errors import KubeError
from provisioner.observe import logs

_ROLES = {
    "claims": "claims:claims",
    "controller": "csi:controller",
    "node": "node:node",
    "iri-volumes": "iri:iri_volumes",
    "iri-buckets": "iri:iri_buckets",
    "rotate-key": "node:rotate_key",
}
"""Where each command is: in a module of `roles`."""


class _Roles(click.Group):
    """The commands, each imported when it is asked for: a node has no memory for what a controller knows."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Their names."""
        return list(_ROLES)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """One of them; None for a name that there isn't."""
        if name not in _ROLES:
            return None
        module, _, command = _ROLES[name].partition(":")
        found: click.Command = getattr(importlib.import_module(f"provisioner.roles.{module}"), command)
        return found


@click.group(cls=_Roles, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "CEPH_PROVISIONER"})
@click.version_option(provisioner.__version__)
@click.option("--config", required=True, type=click.Path(path_type=Path), help="The config file: which clusters there are.")
@click.option("-v", "--verbose", count=True, help="Tell how, not only what.")
@click.pass_context
def cli(context: click.Context, config: Path, verbose: int) -> None:
    """Block volumes from a Ceph cluster for whoever asks."""
    memory.be_frugal()
    logs.set_up(verbose)
    context.obj = ConfigFile(config)


def main() -> None:
    """Run the command line; errors of ours end it with one sentence and exit code 1."""
    try:
        cli.main(standalone_mode=True)
    except (ProvisionerError, KubeError) as error:
        click.echo(f"ceph-provisioner: {error}", err=True)
        sys.exit(1)
