"""The training loop and the parts that methods are made of."""
