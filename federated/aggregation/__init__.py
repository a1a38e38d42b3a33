"""How updates become a global model: checks of an update, aggregation rules, model selection."""
