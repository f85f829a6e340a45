"""The command line of bcnet: typer and rich over `bcnet_core`."""
