"""`perception-node keys`: generates the keys of a node and of its clients."""

import re
from pathlib import Path

import click

from node.cli.say import say
from node.errors import ConfigError
from node.transport.curve import ACCESSES, allow_client, make_client, make_server
from perception_client.paths import absolute

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")


@click.command("keys")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--client", "clients", multiple=True, metavar="NAME",
    help="Generate this client's keys, or give it one more access; may be repeated.",
)  # fmt: skip
@click.option(
    "--allow", "allowed", multiple=True, type=click.Choice(ACCESSES), default=("labels",),
    show_default=True, help="Access of the clients; give it twice for both.",
)  # fmt: skip
def command(folder: Path, clients: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    """Generate the node's keys in FOLDER, and those of clients, each readable by this user only.

    Labels and control have separate allow lists: the files in FOLDER/labels and FOLDER/control. To
    revoke a client's access, remove its file there and restart the node.

    Example: perception-node keys keys/ --client planner --allow labels --allow control
    """
    for name in clients:
        if not _NAME.fullmatch(name) or name == "server":
            raise ConfigError(f"client {name!r}: letters, digits, _ and -, and not server")
    try:
        if make_server(folder):
            say(f"{folder}: the node's keys; leave them there, and write in its configuration")
            say("  [wire]")
            say(f'  keys = "{absolute(folder)}"')
        for name in clients:
            added = allow_client(folder, name, allowed)
            if added:
                access = " and ".join(added)
                say(f"{name}: may have {access} as well, with the keys it has; restart the node")
                continue
            client_folder = make_client(folder, name, allowed)
            access = " and ".join(allowed)
            say(f"{client_folder}: may have {access}; move it to the client, then")
            say(f'  Subscriber("tcp://HOST:PORT", keys="{name}/")')
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror}") from error
