"""What makes the gateway misbehave: control port, armed faults, IBC commands."""
