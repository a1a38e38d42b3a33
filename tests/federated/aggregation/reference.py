"""The reference implementations of all rules, in plain NumPy and float64."""

from __future__ import annotations

import dataclasses
import importlib

import numpy as np

from federated.aggregation import rules

# Each rule at its defaults, and with other values of its parameters.
TEXTS = (
    *rules.RULES,
    "fedavgm:momentum=0.75,learning_rate=0.5",
    "fedadam:beta_1=0.5,beta_2=0.75,tau=0.25,learning_rate=0.5",
    "trimmed_mean:trim=2",
)


# Each rule's own test file has its reference: `reference(memory, model, updates, examples)` and the
# rule's parameters returns the next model of one array in float64; `memory` is kept between rounds.
REFERENCES = {
    name: importlib.import_module(f"tests.federated.aggregation.test_{name}").reference
    for name in rules.RULES
}


def run(text, model, rounds, examples):
    """Returns the global models after each of several rounds.

    Args:
      text: the rule, as --aggregation takes it.
      model: global model 0; as in a run, each model is rounded to its dtypes between two rounds.
      rounds: for each round, the models that the sites send.
      examples: number of training cases of each site.
    """
    rule = rules.parse(text)
    step, parameters = REFERENCES[rule.name], dataclasses.asdict(rule)
    memories, models = {name: {} for name in model}, []
    for updates in rounds:
        model = {
            name: np.asarray(
                step(
                    memories[name],
                    array.astype("f8"),
                    np.stack([update[name].astype("f8") for update in updates]),
                    examples,
                    **parameters,
                )
            ).astype(array.dtype)
            for name, array in model.items()
        }
        models.append(model)
    return models
