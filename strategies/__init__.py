"""What is compared: one file per class-incremental method, each a recipe of Avalanche plugins."""
