"""A trainer for several trainings of one network, because building and tracing it takes long."""

from __future__ import annotations

from experiments.models import builders


class BuiltOnce:
    """Replaces `builders.build_trainer`: builds a trainer once, then returns it as it was."""

    def __init__(self):
        self._build, self._trainer = builders.build_trainer, None

    def __call__(self, config, strategy, **arguments):
        if self._trainer is None:
            self._trainer = self._build(config, strategy, **arguments)
            self._start = self._trainer.state()
        self._trainer.restore(self._start)
        return self._trainer


class StoppedAt:
    """Replaces `Trainer.train`: the first call at a step ends like that of a stopped program."""

    def __init__(self, train, step):
        self.train, self.step, self.stopped = train, step, 0

    def __get__(self, trainer, kind):
        def train(datasets, until, **arguments):
            if trainer.step == self.step and not self.stopped:
                self.stopped += 1
                raise KeyboardInterrupt
            return self.train(trainer, datasets, until, **arguments)

        return train
