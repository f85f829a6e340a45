"""Other people's frameworks with the bilayer head in them; `bcnet_core.backends` alone imports from here."""
