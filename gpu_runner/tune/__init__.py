"""Tuning: samples into phases, phases into packs, packs into steps, and a model at the end."""
