"""What things cost on this machine: the rooms before this one, measured, for `bcnet bench`."""
