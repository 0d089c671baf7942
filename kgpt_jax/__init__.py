"""A small character-level GPT that learns facts about people and is asked for them, in JAX."""

__version__ = "0.1.0"
