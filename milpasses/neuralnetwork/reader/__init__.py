"""Legacy networks read into MIL programs: a handler for each layer type."""
