"""How updates become a global model: the checks an update must pass, the weighted mean, the choice
of the best model.
"""
