"""The search for a network: topologies, operations, evolution, and the supernet of all paths."""
