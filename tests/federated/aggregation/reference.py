"""Reference implementations of every rule, in plain NumPy and float64."""

from __future__ import annotations

import dataclasses

import numpy as np

from federated.aggregation import rules

# Each rule at its defaults, and with other values of its parameters.
TEXTS = (
    *rules.RULES,
    "fedavgm:momentum=0.75,learning_rate=0.5",
    "fedadam:beta_1=0.5,beta_2=0.75,tau=0.25,learning_rate=0.5",
    "trimmed_mean:trim=2",
)


def fedavg(memory, model, updates, examples):
    del memory, model
    return np.average(updates, axis=0, weights=examples)


def fedavgm(memory, model, updates, examples, *, momentum, learning_rate):
    gradient = model - np.average(updates, axis=0, weights=examples)
    memory["velocity"] = momentum * memory.get("velocity", 0.0) + gradient
    return model - learning_rate * memory["velocity"]


def fedadam(memory, model, updates, examples, *, beta_1, beta_2, tau, learning_rate):
    gradient = model - np.average(updates, axis=0, weights=examples)
    memory["m"] = beta_1 * memory.get("m", 0.0) + (1 - beta_1) * gradient
    memory["v"] = beta_2 * memory.get("v", tau**2) + (1 - beta_2) * np.square(gradient)
    return model - learning_rate * memory["m"] / (np.sqrt(memory["v"]) + tau)


def median(memory, model, updates, examples):
    del memory, model, examples
    return np.median(updates, axis=0)


def trimmed_mean(memory, model, updates, examples, *, trim):
    del memory, model, examples
    kept = updates.copy()
    for _ in range(trim):
        for furthest in (np.nanargmax, np.nanargmin):
            dropped = np.expand_dims(furthest(kept, axis=0), axis=0)
            np.put_along_axis(kept, dropped, np.nan, axis=0)
    return np.nanmean(kept, axis=0)


REFERENCES = {
    "fedavg": fedavg,
    "fedavgm": fedavgm,
    "fedadam": fedadam,
    "median": median,
    "trimmed_mean": trimmed_mean,
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
