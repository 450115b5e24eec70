"""FlowerTune's apps as recipes: what each of their settings is here, and what they do without a setting."""
