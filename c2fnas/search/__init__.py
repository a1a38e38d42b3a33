"""The search for a network: topologies and operations, evolution, and the supernet of the paths."""
