"""Dry runs: memory, collectives and costs of compiled training steps, without TPU or GPU hardware."""
