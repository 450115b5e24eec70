"""A trainer that somebody has already, as a client: transformers' Trainer, or one of TRL's, with a PEFT model."""
