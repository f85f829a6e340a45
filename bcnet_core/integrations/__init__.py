"""Integrations of the bilayer head into other frameworks; only `bcnet_core.backends` imports from here."""
