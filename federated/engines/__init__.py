"""Adapters that run a `SiteTrainer` under NVFLARE or Flower instead of this product's own exchange.

Each needs its extra, `[nvflare]` or `[flower]`. docs/engines.md says what each engine cannot do.
"""

PLAN = "plan"  # key of the plan, as JSON, in a model file's metadata and in the engines' messages
