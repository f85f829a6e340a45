"""One module a command; heavy imports sit inside the command bodies."""
