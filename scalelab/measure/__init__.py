"""Measurements on this device: its achieved rates, and the time and memory of real models. Imports torch."""
