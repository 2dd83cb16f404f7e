"""The public functions, each of which takes what a person has at hand; ``import scalelab`` has them all."""
