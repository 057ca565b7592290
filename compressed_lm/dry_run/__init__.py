"""Compiled training steps, read instead of run: memory, collectives, costs, on devices that need not be there."""
