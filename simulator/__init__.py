"""Simulated Apple devices that enrol and answer over HTTP. Nothing of the server uses them."""
