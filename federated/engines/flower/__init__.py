"""A `SiteTrainer` under Flower, releases 1.23 to 1.42."""

from federated.engines import versions

versions.require_release("flwr", (1, 23), (1, 42), extra="flower")
