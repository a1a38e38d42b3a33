"""NVFLARE's server side: named arrays on disk, and the mean with this product's bits."""

from __future__ import annotations

import pathlib

from nvflare.apis.fl_constant import FLMetaKey
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.abstract.model import (
    ModelLearnable,
    ModelLearnableKey,
    make_model_learnable,
)
from nvflare.app_common.abstract.model_persistor import ModelPersistor
from nvflare.app_common.aggregators.model_aggregator import ModelAggregator
from nvflare.app_common.app_constant import AppConstants

from federated.engines import PLAN
from federated.engines.averaging import averaged, mean_metrics
from federated.engines.plan_check import read_initial
from federated.rounds.tasks import global_name
from federated.tensors import tensor_files
from federated.tensors.weights import NamedArrays


class NamedArraysPersistor(ModelPersistor):
    """Keeps global models as `<job's run folder>/global/round_<number>.safetensors`.

    This product's own server does the same. NVFLARE's persistor for NumPy holds only one array.

    Args:
      initial: file of global model 0, in the job's custom folder, or an absolute path.
    """

    def __init__(self, initial: str):
        super().__init__()
        self.initial = initial
        self._metadata: dict[str, str] = {}

    def load_model(self, fl_ctx: FLContext) -> ModelLearnable:
        folder = fl_ctx.get_workspace().get_app_custom_dir(fl_ctx.get_job_id())
        arrays, self._metadata = read_initial(pathlib.Path(folder) / self.initial)
        return make_model_learnable(arrays, {PLAN: self._metadata[PLAN]})

    def save_model(self, model: ModelLearnable, fl_ctx: FLContext) -> None:
        run = pathlib.Path(fl_ctx.get_workspace().get_run_dir(fl_ctx.get_job_id()))
        number = fl_ctx.get_prop(AppConstants.CURRENT_ROUND) + 1  # NVFLARE counts from 0
        path = run / "global" / f"{global_name(number)}.safetensors"
        path.parent.mkdir(exist_ok=True)
        tensor_files.save(path, model[ModelLearnableKey.WEIGHTS], self._metadata)


class WeightedMean(ModelAggregator):
    """Averages the updates of a round; see `averaging.averaged`. Holds all of them in memory."""

    def __init__(self) -> None:
        super().__init__()
        self._updates: dict[str, tuple[NamedArrays, int]] = {}
        self._metrics: dict[str, dict[str, float]] = {}

    def accept_model(self, model: FLModel) -> None:
        site = model.meta["client_name"]
        self._updates[site] = model.params, int(model.meta[FLMetaKey.NUM_STEPS_CURRENT_ROUND])
        self._metrics[site] = model.metrics or {}

    def aggregate_model(self) -> FLModel:
        examples = {site: count for site, (_, count) in self._updates.items()}
        return FLModel(
            params=averaged(self._updates),
            params_type=ParamsType.FULL,
            metrics=mean_metrics(self._metrics, examples),
        )

    def reset_stats(self) -> None:
        self._updates, self._metrics = {}, {}
