"""Force a neural network to explore the loss landscape: visited minima become hills in the loss."""
