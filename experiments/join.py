"""Takes part in a federation as a site: trains in every round and scores all models at the end.

    python -m experiments.join --flagfile=experiments/flagfiles/demo.flags --kit=federation/C1 \\
        --site_folder=sites/C1

With --num_rounds=0, in an evaluation without training, it only scores the models that the server
gives on the site's test cases, and only rows of numbers leave the site.

Only weights, scores and rows of numbers leave the site. The site's own privacy policy decides how
much of the weights leaves; keep it in a separate flag file, e.g.

    --privacy_filter=gaussian --privacy_clip=1 --privacy_noise=4 --privacy_budget=8 --nolend_local

(docs/privacy-policy.md). A flag that only the site decides is refused if it is given twice, e.g.
in the study's flag file too. Stop it at any time; run the same command again to resume.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from absl import app, flags, logging

from experiments import flags as experiment_flags
from experiments import program, program_help, setting_flags
from experiments.configuration import ExperimentConfig
from federated.errors import (
    CertificateRefused,
    FederationError,
    PolicyRefused,
    VersionDiffers,
    WrongCredential,
)
from federated.privacy import accountants
from federated.privacy.policy import PrivacyPolicy
from federated.security import expiry
from federated.site import grpc_transport
from federated.site import loop as site_loop
from federated.site.answers import AnswerLimits
from federated.site.retries import Persistent
from federated.site.sums.sum_terms import SumTerms
from federated.site.trainer import SiteTrainer
from preprocessing import declared_labels
from preprocessing.case_source import CaseSource

if TYPE_CHECKING:
    from experiments.models.model_evaluator import ModelEvaluator
    from experiments.models.path_evaluator import PathEvaluator
    from experiments.models.site_trainer import SegmentationTrainer

FLAGS = flags.FLAGS
experiment_flags.define_experiment()
experiment_flags.define_runtime()
experiment_flags.define_site()
_OWN = experiment_flags.define_privacy()  # what only the site decides
flags.DEFINE_string(
    "kit", None, "The site's kit, made by experiments.provision or experiments.request."
)
experiment_flags.define_server()
flags.DEFINE_list(
    "lend",
    [],
    "Earlier models to evaluate at all sites, as name:file, "
    "e.g. C1_baseline:sites/C1/baseline/best.safetensors.",
)
with program_help.group("Secure aggregation: what this site demands of sums"):
    _OWN += setting_flags.define(SumTerms)
with program_help.group("What this site answers"):
    _OWN += setting_flags.define(AnswerLimits)


def main(argv: list[str]) -> int:
    del argv
    return take_part()


def take_part(
    *,
    cases_as_read: Callable[[CaseSource], CaseSource] = lambda store: store,
    updates: Callable[[SiteTrainer], SiteTrainer] = lambda trainer: trainer,
) -> int:
    """Takes part in the run that the flags describe; returns the exit code.

    Args:
      cases_as_read: returns the cases that the site works with; an experiment may replace them.
      updates: returns the trainer whose updates are sent; an experiment may replace it.
    """
    config = experiment_flags.experiment_config(without_training=True)
    if config.num_rounds == 0 and FLAGS.lend:
        raise app.UsageError(
            "--lend has no use in an evaluation without training (--num_rounds=0), whose models "
            "are those of the server's --models; omit it"
        )
    _check_given_once()
    policy = _policy(config.num_rounds)
    terms = _sum_terms(config.num_rounds)
    limits = experiment_flags.settings_of(AnswerLimits)

    from experiments.models import (
        devices,
        model_folders,
        prepared_cases,
        strategies,
    )
    from runkit import allocator, atomic, folder_lock, interrupts, overwriting, private

    allocator.keep_buffers()
    strategies.require_single_machine()
    folder = experiment_flags.site_folder()
    kit = experiment_flags.required("kit", "the site's kit, made by experiments.provision")
    lent = experiment_flags.named_files("lend")
    inputs = {"--lend": list(lent.values()), "--site_folder": [folder / "cases"]}
    part, picture = ("federated", "comparison") if config.num_rounds else ("evaluation",) * 2
    if config.supernet:  # separate from the files of ordinary runs
        part = "supernet" if config.num_rounds else "paths"
    written = [folder / part, folder / "figures" / f"{picture}.png"]
    overwriting.require_apart(
        {**inputs, **experiment_flags.genotype_file()}, {}, folders={"--site_folder": written}
    )
    host, port = experiment_flags.server_address()
    store = cases_as_read(prepared_cases.open_store(folder / "cases", config))
    for line in expiry.warnings(kit):
        logging.warning("event=certificate_ends %s", line)
    transport = grpc_transport.connect(kit, host=host, port=port, learned=folder / "federated")
    if transport.site != store.site:
        raise ValueError(
            f"kit {kit} belongs to site {transport.site}, the prepared cases in {folder} to site "
            f"{store.site}; use this site's kit"
        )
    folder_lock.hold(kit)
    folder_lock.hold(folder / "cases", shared=True)
    folder_lock.hold(private.folder(folder / part))
    experiment_flags.start_tensorflow()
    from experiments.models import path_evaluator, site_trainer
    from experiments.reports import case_browser

    _tell_labels(store)
    trainer = _trainer(config, store, folder / part, lent)
    devices.announce(devices.record(tf32=config.tf32, deterministic=config.deterministic))
    try:
        if part == "paths":
            server = Persistent(
                transport, trainer.plan, trainer.num_examples, labels=trainer.labels
            )
            path_evaluator.take_journal(folder / part, server.login().run)
        summary = site_loop.run(
            updates(trainer),
            transport,
            folder / part / "journal",
            authority=transport.authority,
            privacy=policy,
            terms=terms,
            limits=limits.for_rounds(config.num_rounds, config.validation_every),
        )
    except (CertificateRefused, WrongCredential, VersionDiffers) as error:
        raise type(error)(
            f"{error}; for details, run python -m experiments.doctor --kit={kit}"
        ) from error
    if summary.privacy:
        print(f"privacy of this site's patients, all updates of the run so far: {summary.privacy}")
    if summary.answers:
        print(f"answered: {summary.answers}")
    if part == "paths" and (before := path_evaluator.answered_before(folder / part)):
        print(before)
    if not summary.finished:
        print("stopped; run the same command again to resume")
        return interrupts.EXIT_CODE if interrupts.received() else 1
    if (
        isinstance(trainer, site_trainer.SegmentationTrainer)
        and trainer.best_score is not None
        and not config.supernet  # a supernet is not a model by itself
    ):
        model_folders.write_best(
            folder / part / "model",
            f"{store.site}_FL_local",
            trainer,
            config,
            store,
            private_arrays_of=store.site,
        )
    ending = f"finished: {summary.remark}" if summary.remark else "finished"
    examples = folder / part / "examples"
    if not list(examples.glob("case*.npy")):  # the run ended without this site's evaluation
        print(ending)
        return 0
    cases = [store.open(case_id) for case_id in store.case_ids("test")]
    figure = case_browser.first_cases(cases, examples, store.site)
    with atomic.replacing(folder / "figures" / f"{picture}.png") as path:
        figure.savefig(path)
    print(f"{ending}; figure {folder / 'figures' / f'{picture}.png'}")
    return 0


def _check_given_once() -> None:
    """Raises PolicyRefused if a flag that only the site decides is given more than once.

    The study's flag file, which is not the site's, would replace what the site has set.
    """
    for name in _OWN:
        if FLAGS[name].present > 1:
            raise PolicyRefused(
                f"--{name} is given {FLAGS[name].present} times, of which only the last would "
                "count; only this site decides it, so give it once, and remove it from the study's "
                "flag file if it is there"
            )


def _tell_labels(store: CaseSource) -> None:
    """Logs what the site's labels show, as far as its manifest declares it."""
    if store.declared is None:
        logging.warning(
            "event=labels_not_declared site=%s: classes that its labels do not show count as "
            "absent; declare what they show in the manifest's `declared_labels` and run "
            "experiments.prepare again, which keeps the cases that are prepared",
            store.site,
        )
    else:
        logging.info(
            "event=labels_declared site=%s labels=%s",
            store.site,
            declared_labels.text(store.declared),
        )


def _trainer(
    config: ExperimentConfig,
    store: CaseSource,
    folder: pathlib.Path,
    lent: Mapping[str, pathlib.Path],
) -> SegmentationTrainer | ModelEvaluator | PathEvaluator:
    """Returns what trains and scores at this site; without rounds it only scores.

    Args:
      folder: folder for its files.
      lent: models of earlier runs to lend, name -> file.
    """
    from experiments.models import (
        builders,
        model_evaluator,
        path_evaluator,
        sharing_words,
        strategies,
        supernet_site,
    )

    if not config.num_rounds:
        evaluator = (
            path_evaluator.PathEvaluator if config.supernet else model_evaluator.ModelEvaluator
        )
        return evaluator(config, store, folder, strategy=strategies.mirrored())
    trainer = supernet_site.trainer_class(config)(
        config,
        store,
        folder,
        label=f"{store.site}_FL_local",
        strategy=strategies.mirrored(),
        extra_models=lent,
        lend_local=FLAGS.lend_local,
        missing=builders.missing_labels(config, store),
        federated=True,
    )
    for line in sharing_words.lines(config.share_rules, trainer.specs, folder / "journal"):
        logging.info("%s", line)
    return trainer


def _policy(num_rounds: int) -> PrivacyPolicy:
    """Returns the site's policy.

    Raises:
      app.UsageError, PolicyRefused: if it contradicts the other flags.
    """
    policy = experiment_flags.privacy_policy()
    if not policy.active:
        return policy
    if num_rounds == 0:
        raise app.UsageError(
            "--privacy_filter has no use in an evaluation without training (--num_rounds=0), in "
            "which no update leaves this site; omit it"
        )
    lends = "--lend_local" if FLAGS.lend_local else "--lend" if FLAGS.lend else ""
    if lends:
        remedy = "add --nolend_local" if FLAGS.lend_local else "omit it"
        raise PolicyRefused(
            f"{lends} would let other sites have a model of this site's patients that passed no "
            f"filter, although --privacy_filter is {policy.filter!r}; {remedy}"
        )
    if policy.filter == "gaussian":
        accountants.require_package()
    return policy


def _sum_terms(num_rounds: int) -> SumTerms:
    """Returns the terms for sums; raises app.UsageError for flags that contradict them."""
    terms = experiment_flags.settings_of(SumTerms)
    if not terms.require_secure_aggregation:
        if terms.min_sum_sites > SumTerms().min_sum_sites:
            raise app.UsageError(
                f"--min_sum_sites={terms.min_sum_sites} without --require_secure_aggregation would "
                "hold only if the server happens to add up masked updates; give both, and "
                "--nolend_local"
            )
        return terms
    if num_rounds == 0:
        raise app.UsageError(
            "--require_secure_aggregation is for a run with training; an evaluation without "
            "training (--num_rounds=0) sends no updates, so omit it"
        )
    lends = [f"--lend={','.join(FLAGS.lend)}"] if FLAGS.lend else []
    lends += ["--lend_local"] if FLAGS.lend_local else []
    if lends:
        raise app.UsageError(
            f"--require_secure_aggregation cannot be combined with {' and '.join(lends)}: a lent "
            "model leaves this site as it is; give --nolend_local, and no --lend"
        )
    return terms


if __name__ == "__main__":
    program.run(
        main,
        required=["kit", "site_folder"],
        resumes=True,
        expected=(FederationError,),
    )
