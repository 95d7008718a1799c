"""Reading what customers send: manifests in every format, their addresses and their words."""
