"""A `SiteTrainer` under NVFLARE 2.9."""

from federated.engines import versions

versions.require_release("nvflare", (2, 9), (2, 9), extra="nvflare")
