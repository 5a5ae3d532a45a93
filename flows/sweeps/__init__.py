"""The shipped sweeps, as specifications."""
