"""The command line: the config file, one of the roles, and one sentence for errors of ours."""

import sys
from pathlib import Path

import click

import provisioner
from provisioner import memory
from provisioner.config import ConfigFile
from provisioner.core.errors import ProvisionerError
from provisioner.kube.errors import KubeError
from provisioner.observe import logs
from provisioner.roles.claims import claims
from provisioner.roles.csi import controller, node, rotate_key
from provisioner.roles.iri import iri_buckets, iri_volumes


@click.group(context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "CEPH_PROVISIONER"})
@click.version_option(provisioner.__version__)
@click.option("--config", required=True, type=click.Path(path_type=Path), help="The config file: which clusters there are.")
@click.option("-v", "--verbose", count=True, help="Tell how, not only what.")
@click.pass_context
def cli(context: click.Context, config: Path, verbose: int) -> None:
    """Block volumes from a Ceph cluster for whoever asks."""
    memory.be_frugal()
    logs.set_up(verbose)
    context.obj = ConfigFile(config)


for _role in (claims, controller, node, iri_volumes, iri_buckets, rotate_key):
    cli.add_command(_role)


def main() -> None:
    """Run the command line; errors of ours end it with one sentence and exit code 1."""
    try:
        cli.main(standalone_mode=True)
    except (ProvisionerError, KubeError) as error:
        click.echo(f"ceph-provisioner: {error}", err=True)
        sys.exit(1)
