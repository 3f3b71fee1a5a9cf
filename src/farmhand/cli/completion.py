"""`farmhand completion`: a script for the shell."""

from __future__ import annotations

import click

from farmhand.cli.main import PROGRAM, cli


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print what makes SHELL complete this command.

    \b
    bash: echo 'eval "$(farmhand completion bash)"' >> ~/.bashrc
    zsh:  echo 'eval "$(farmhand completion zsh)"' >> ~/.zshrc
    fish: farmhand completion fish > ~/.config/fish/completions/farmhand.fish
    """  # noqa: D301 (click keeps the lines behind this sign as they are)
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE").source())
