"""For operators: the client for status and orders, and TensorBoard summaries."""
