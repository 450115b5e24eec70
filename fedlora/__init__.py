"""What both sides of a federation agree on: vocabulary, adapters, wire format, privacy. Never imports Flower."""

__version__ = "0.2.0.dev0"
