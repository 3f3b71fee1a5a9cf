"""The command `farmhand`. Each subcommand is a module that is imported when it is called, so that `--help` is quick."""
