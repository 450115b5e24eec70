"""PEFT models in a ServerApp and a ClientApp of one's own: PEFT's names, what travels, a live model. No Flower here."""
