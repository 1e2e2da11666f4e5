"""The services of the guides."""
